"""The file layout of RxRx1: four csv tables, and images in folders.

Images are ``<split>/<experiment>/Plate<p>/<well>_s<site>_w<channel>.png``.
"""

from __future__ import annotations

import re
from typing import Any

import fsspec
import pandas as pd

from deepnoise.datasets.files import IMAGE_SUFFIXES, SiteFiles
from deepnoise.datasets.folder import Folder
from deepnoise.datasets.read_only import ReadOnlyDataset
from deepnoise.datasets.text_tables import read_csv
from deepnoise.errors import InputError, first_few
from deepnoise.ingestion.validation import RAW_COLUMNS, wells_of
from deepnoise.names import plain_numbers

SPLITS = {"train": "labelled", "test": "heldout"}
"""Name of a split in the file layout -> its name in the table ``wells``."""
_FILE = re.compile(r"(?P<well>[^_]+)_s(?P<site>\d+)_w(?P<channel>\d+)\.png")


class RxRx1TablesDataset(ReadOnlyDataset[pd.DataFrame]):
    """train.csv, test.csv, train_controls.csv and test_controls.csv as one raw table with one row per well.

    The cell type is the part of the experiment's name before the first dash.

    Catalog::

        raw_wells:
          type: deepnoise.datasets.rxrx1.RxRx1TablesDataset
          root: data/01_raw/rxrx1

    Args:
        root: Folder of the four tables.
        metadata: For kedro-viz.
    """

    read_only = "raw tables are an input and are never written"

    def __init__(self, *, root: str, metadata: dict[str, Any] | None = None) -> None:
        self._root = root.rstrip("/")
        self.metadata = metadata

    def load(self) -> pd.DataFrame:
        well_key = ["experiment", "plate", "well"]
        parts = []
        for split, split_in_wells in SPLITS.items():
            for suffix in ("", "_controls"):
                path = f"{self._root}/{split}{suffix}.csv"
                columns = (
                    well_key + (["sirna"] if split == "train" or suffix else []) + (["well_type"] if suffix else [])
                )
                table = read_csv(path, columns)
                # A label column in test.csv is not read: held-out labels have a file of their own.
                rows = table[columns].copy()
                rows["source"] = path.rsplit("/", 1)[-1] + " line " + (table.index + 2).astype(str)
                incomplete = rows[columns].isna().any(axis=1)
                if incomplete.any():
                    raise InputError(
                        f"{path}: empty field in line {rows.index[incomplete][0] + 2}; expected {', '.join(columns)}"
                    )
                if "sirna" in columns:
                    invalid = ~rows["sirna"].str.fullmatch(r"\d+")
                    if invalid.any():
                        row = rows[invalid].iloc[0]
                        raise InputError(
                            f"{path}: unknown siRNA {row['sirna']!r} ({row['source']}); expected a whole number"
                        )
                rows["perturbation"] = rows["sirna"] if "sirna" in columns else None
                rows["well_type"] = rows["well_type"] if suffix else "treatment"
                rows["split"] = split_in_wells
                parts.append(rows)
        raw = pd.concat(parts, ignore_index=True)
        raw["cell_type"] = raw["experiment"].str.split("-").str[0]
        return raw[list(RAW_COLUMNS)]

    def _describe(self) -> dict[str, Any]:
        return {"root": self._root}


def with_perturbation(table: pd.DataFrame, path: str) -> pd.DataFrame:
    """The table with its labels in the column ``perturbation``, which RxRx1 calls ``sirna``.

    Raises:
        InputError: It has neither column, or both.
    """
    names = [name for name in ("perturbation", "sirna") if name in table]
    if len(names) != 1:
        problem = "both columns perturbation and sirna" if names else "no column perturbation (or sirna)"
        raise InputError(f"{path}: has {problem}; expected one of them. Its columns: {first_few(table.columns, 8)}")
    return table.assign(perturbation=plain_numbers(table[names[0]]))


class RxRx1LabelsDataset(ReadOnlyDataset[pd.DataFrame]):
    """The table ``heldout_labels`` from a csv with the columns id_code and perturbation (or sirna, as in RxRx1).

    Catalog::

        heldout_labels:
          type: deepnoise.datasets.rxrx1.RxRx1LabelsDataset
          filepath: data/01_raw/rxrx1/test_labels.csv
          optional: true

    Args:
        filepath: The csv.
        optional: Load an empty table if the file does not exist, as where the labels are withheld from
            everybody.
        metadata: For kedro-viz.
    """

    read_only = "held-out labels are an input and are never written"

    def __init__(self, *, filepath: str, optional: bool = False, metadata: dict[str, Any] | None = None) -> None:
        self._path = filepath
        self._optional = optional
        self.metadata = metadata

    def load(self) -> pd.DataFrame:
        fs, name = fsspec.core.url_to_fs(self._path)
        if self._optional and not fs.exists(name):
            return pd.DataFrame({"id_code": pd.Series(dtype="str"), "perturbation": pd.Series(dtype="str")})
        table = with_perturbation(read_csv(self._path, ["id_code"]), self._path)
        return table[["id_code", "perturbation"]].reset_index(drop=True)

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._path}


class RxRx1ImagesDataset(ReadOnlyDataset[SiteFiles]):
    """The images of an RxRx1 folder. Loading lists the files and opens none.

    Catalog::

        raw_images:
          type: deepnoise.datasets.rxrx1.RxRx1ImagesDataset
          root: data/01_raw/rxrx1
          channels: [nucleus, er, actin, rna, mito, golgi]
          dtype: uint8

    Args:
        root: Folder with ``train/`` and ``test/``: a path or an fsspec URL.
        channels: Channel names in the order w1, w2, ...
        dtype: uint8 or uint16 if all images must have it; otherwise the most common dtype is used.
        metadata: For kedro-viz.
    """

    read_only = "raw images are an input and are never written"

    def __init__(
        self, *, root: str, channels: list[str], dtype: str | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        self._root = root
        self._channels = channels
        self._dtype = dtype
        self.metadata = metadata

    def load(self) -> SiteFiles:
        root = Folder(self._root)
        if not root.fs.isdir(root.path):
            raise InputError(f"{self._root}: no such folder; set raw_root to the folder with train/ and test/")
        sites: dict[tuple[str, str, str, str, int], dict[int, str]] = {}
        strays = []
        for split in SPLITS:
            for experiment in root.folders(split):
                for folder in root.folders(f"{split}/{experiment}"):
                    for name in root.listing(f"{split}/{experiment}/{folder}"):
                        match = _FILE.fullmatch(name)
                        if folder.startswith("Plate") and match and 1 <= int(match["channel"]) <= len(self._channels):
                            key = (split, experiment, folder, match["well"], int(match["site"]))
                            sites.setdefault(key, {})[int(match["channel"])] = name
                        elif name.lower().endswith(IMAGE_SUFFIXES):
                            strays.append(f"{split}/{experiment}/{folder}/{name}")
        rows = []
        for (split, experiment, folder, well, site), files in sorted(sites.items()):  # files: number of channel -> name
            numbers = range(1, len(self._channels) + 1)
            names = [f"{split}/{experiment}/{folder}/{files.get(c, f'{well}_s{site}_w{c}.png')}" for c in numbers]
            missing = tuple(name for c, name in zip(numbers, names, strict=True) if c not in files)
            rows.append((experiment, folder.removeprefix("Plate"), well, site, tuple(names), missing))
        table = pd.DataFrame(rows, columns=["experiment", "plate", "well", "site", "files", "missing"])
        if table.empty:
            raise InputError(
                f"{self._root}: no image <split>/<experiment>/Plate<p>/<well>_s<site>_w<channel>.png. Check raw_root"
            )
        return SiteFiles(root, self._channels, table, strays, self._dtype)

    def _describe(self) -> dict[str, Any]:
        return {"root": self._root, "channels": self._channels}


class RxRx1WellsDataset(RxRx1TablesDataset):
    """The table ``wells`` directly from the four csv tables, for screens without images.

    Catalog::

        wells:
          type: deepnoise.datasets.rxrx1.RxRx1WellsDataset
          root: data/01_raw/rxrx1
    """

    def load(self) -> pd.DataFrame:
        return wells_of(super().load())
