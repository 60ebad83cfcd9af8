"""The layout of RxRx1: four csv tables and ``<split>/<experiment>/Plate<p>/<well>_s<site>_w<channel>.png``."""

from __future__ import annotations

import re
from typing import Any

import fsspec
import pandas as pd
from kedro.io import AbstractDataset

from deepnoise.datasets.files import PICTURES, Folder, SiteFiles, read_csv
from deepnoise.errors import InputError
from deepnoise.ingestion.validation import RAW_COLUMNS, validate_wells

SPLITS = {"train": "labelled", "test": "heldout"}
_FILE = re.compile(r"(?P<well>[^_]+)_s(?P<site>\d+)_w(?P<channel>\d+)\.png")


class RxRx1TablesDataset(AbstractDataset[pd.DataFrame, pd.DataFrame]):
    """train.csv, test.csv, train_controls.csv and test_controls.csv as one raw table, one row a well.

    The cell type is the part of an experiment's name before the first dash.

    Args:
        root: Folder of the four tables.
        metadata: For kedro-viz.
    """

    def __init__(self, *, root: str, metadata: dict[str, Any] | None = None) -> None:
        self._root = root.rstrip("/")
        self.metadata = metadata

    def load(self) -> pd.DataFrame:
        place = ["experiment", "plate", "well"]
        parts = []
        for split, meaning in SPLITS.items():
            for kind in ("", "_controls"):
                path = f"{self._root}/{split}{kind}.csv"
                columns = place + (["sirna"] if split == "train" or kind else []) + (["well_type"] if kind else [])
                table = read_csv(path, columns)
                # A column of labels in test.csv is not read: held-out truth has a file of its own.
                part = table[columns].copy()
                part["source"] = path.rsplit("/", 1)[-1] + " line " + (table.index + 2).astype(str)
                holes = part[columns].isna().any(axis=1)
                if holes.any():
                    raise InputError(
                        f"{path}: empty field in line {part.index[holes][0] + 2}; expected {', '.join(columns)}"
                    )
                if "sirna" in columns:
                    bad = ~part["sirna"].str.fullmatch(r"\d+")
                    if bad.any():
                        row = part[bad].iloc[0]
                        raise InputError(
                            f"{path}: unknown siRNA {row['sirna']!r} ({row['source']}); expected a number from 0"
                        )
                part["perturbation"] = part["sirna"] if "sirna" in columns else None
                part["well_type"] = part["well_type"] if kind else "treatment"
                part["split"] = meaning
                parts.append(part)
        raw = pd.concat(parts, ignore_index=True)
        raw["cell_type"] = raw["experiment"].str.split("-").str[0]
        return raw[list(RAW_COLUMNS)]

    def save(self, data: pd.DataFrame) -> None:
        raise InputError("raw tables are an input and are never written")

    def _describe(self) -> dict[str, Any]:
        return {"root": self._root}


class RxRx1LabelsDataset(AbstractDataset[pd.DataFrame, pd.DataFrame]):
    """A csv (id_code, sirna) as the table ``heldout_labels``.

    Args:
        filepath: The csv.
        optional: Load no rows where the file is absent (labels withheld from everybody).
        metadata: For kedro-viz.
    """

    def __init__(self, *, filepath: str, optional: bool = False, metadata: dict[str, Any] | None = None) -> None:
        self._path = filepath
        self._optional = optional
        self.metadata = metadata

    def load(self) -> pd.DataFrame:
        fs, name = fsspec.core.url_to_fs(self._path)
        if self._optional and not fs.exists(name):
            return pd.DataFrame({"id_code": pd.Series(dtype="str"), "perturbation": pd.Series(dtype="str")})
        table = read_csv(self._path, ["id_code", "sirna"])
        return table[["id_code", "sirna"]].rename(columns={"sirna": "perturbation"})

    def save(self, data: pd.DataFrame) -> None:
        raise InputError("held-out labels are an input and are never written")

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._path}


class RxRx1ImagesDataset(AbstractDataset[SiteFiles, SiteFiles]):
    """The images of an RxRx1 folder; loading lists them, none is opened.

    Args:
        root: Folder that holds ``train/`` and ``test/``: a path or an fsspec URL.
        channels: Channel names in the order w1, w2, ...
        dtype: uint8 or uint16 where all images must be of it; else the commonest counts.
        metadata: For kedro-viz.
    """

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
            raise InputError(f"{self._root}: no such folder; give the folder of train/ and test/ as raw_root")
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
                        elif name.lower().endswith(PICTURES):
                            strays.append(f"{split}/{experiment}/{folder}/{name}")
        rows = []
        for (split, experiment, folder, well, site), there in sorted(sites.items()):
            here, numbers = f"{split}/{experiment}/{folder}", range(1, len(self._channels) + 1)
            names = [f"{here}/{there.get(c, f'{well}_s{site}_w{c}.png')}" for c in numbers]
            missing = tuple(name for c, name in zip(numbers, names, strict=True) if c not in there)
            rows.append((experiment, folder.removeprefix("Plate"), well, site, tuple(names), missing))
        found = pd.DataFrame(rows, columns=["experiment", "plate", "well", "site", "files", "missing"])
        if found.empty:
            raise InputError(
                f"{self._root}: no image <split>/<experiment>/Plate<p>/<well>_s<site>_w<channel>.png found"
            )
        return SiteFiles(root, self._channels, found, strays, self._dtype)

    def save(self, data: SiteFiles) -> None:
        raise InputError("raw images are an input and are never written")

    def _describe(self) -> dict[str, Any]:
        return {"root": self._root, "channels": self._channels}


class RxRx1WellsDataset(RxRx1TablesDataset):
    """The table ``wells`` straight from the four csv tables, for screens without images."""

    def load(self) -> pd.DataFrame:
        return validate_wells(super().load(), ["treatment"])[0]
