"""The layout of RxRx1: four csv tables and ``<split>/<experiment>/Plate<p>/<well>_s<site>_w<channel>.png``."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from kedro.io import AbstractDataset

from deepnoise.datasets.files import read_csv, read_site
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
        self._root = Path(root)
        self.metadata = metadata

    def load(self) -> pd.DataFrame:
        place = ["experiment", "plate", "well"]
        parts = []
        for split, meaning in SPLITS.items():
            for kind in ("", "_controls"):
                path = self._root / f"{split}{kind}.csv"
                columns = place + (["sirna"] if split == "train" or kind else []) + (["well_type"] if kind else [])
                table = read_csv(path, columns)
                # A column of labels in test.csv is not read: held-out truth has a file of its own.
                part = table[columns].copy()
                part["source"] = path.name + " line " + (table.index + 2).astype(str)
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
        return {"root": str(self._root)}


class RxRx1LabelsDataset(AbstractDataset[pd.DataFrame, pd.DataFrame]):
    """A csv (id_code, sirna) as the table ``heldout_labels``.

    Args:
        filepath: The csv.
        optional: Load no rows where the file is absent (labels withheld from everybody).
        metadata: For kedro-viz.
    """

    def __init__(self, *, filepath: str, optional: bool = False, metadata: dict[str, Any] | None = None) -> None:
        self._path = Path(filepath)
        self._optional = optional
        self.metadata = metadata

    def load(self) -> pd.DataFrame:
        if self._optional and not self._path.exists():
            return pd.DataFrame({"id_code": pd.Series(dtype="str"), "perturbation": pd.Series(dtype="str")})
        table = read_csv(self._path, ["id_code", "sirna"])
        return table[["id_code", "sirna"]].rename(columns={"sirna": "perturbation"})

    def save(self, data: pd.DataFrame) -> None:
        raise InputError("held-out labels are an input and are never written")

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path)}


class SiteFiles:
    """Pictures that lie in files: what is there, and one site read at a time."""

    def __init__(self, root: Path, channels: list[str], found: pd.DataFrame) -> None:
        self.root = root
        self.channels = channels
        self.found = found

    def stamp(self, files: tuple[str, ...]) -> list:
        """Size and time of the files, which a change of the sources changes."""
        try:
            facts = [os.stat(self.root / name) for name in files]
        except OSError as error:
            raise InputError(f"{error.filename}: {error.strerror}") from error
        return [[name, fact.st_size, fact.st_mtime_ns] for name, fact in zip(files, facts, strict=True)]

    def read(self, files: tuple[str, ...]) -> np.ndarray:
        """(C, H, W) of one site."""
        picture = read_site([self.root / name for name in files])
        if len(picture) != len(self.channels):
            raise InputError(
                f"{self.root / files[0]}: {len(picture)} channels, expected {len(self.channels)} ({', '.join(self.channels)}); "
                "a file of all channels is (H, W, C)"
            )
        return picture


class RxRx1ImagesDataset(AbstractDataset[SiteFiles, SiteFiles]):
    """The pictures of an RxRx1 folder; loading lists them, none is opened.

    Args:
        root: Folder that holds ``train/`` and ``test/``.
        channels: Channel names in the order w1, w2, ...
        metadata: For kedro-viz.
    """

    def __init__(self, *, root: str, channels: list[str], metadata: dict[str, Any] | None = None) -> None:
        self._root = Path(root)
        self._channels = channels
        self.metadata = metadata

    def load(self) -> SiteFiles:
        if not self._root.is_dir():
            raise InputError(f"{self._root}: no such folder; give the folder of train/ and test/ as raw_root")
        sites: dict[tuple[str, str, str, int], dict[int, str]] = {}
        for split in SPLITS:
            for folder in sorted(self._root.glob(f"{split}/*/Plate*")):
                for entry in os.scandir(folder):
                    match = _FILE.fullmatch(entry.name)
                    if match and 1 <= int(match["channel"]) <= len(self._channels):
                        key = (folder.parent.name, folder.name.removeprefix("Plate"), match["well"], int(match["site"]))
                        sites.setdefault(key, {})[int(match["channel"])] = (
                            f"{split}/{key[0]}/{folder.name}/{entry.name}"
                        )
        numbers = range(1, len(self._channels) + 1)
        rows = [
            (
                *key,
                tuple(files[c] for c in numbers if c in files),
                tuple(f"{self._channels[c - 1]} (w{c})" for c in numbers if c not in files),
            )
            for key, files in sorted(sites.items())
        ]
        found = pd.DataFrame(rows, columns=["experiment", "plate", "well", "site", "files", "missing"])
        if found.empty:
            raise InputError(
                f"{self._root}: no picture <split>/<experiment>/Plate<p>/<well>_s<site>_w<channel>.png found"
            )
        return SiteFiles(self._root, self._channels, found)

    def save(self, data: SiteFiles) -> None:
        raise InputError("raw pictures are an input and are never written")

    def _describe(self) -> dict[str, Any]:
        return {"root": str(self._root), "channels": self._channels}


class RxRx1WellsDataset(RxRx1TablesDataset):
    """The table ``wells`` straight from the four csv tables, for screens without pictures."""

    def load(self) -> pd.DataFrame:
        return validate_wells(super().load(), ["treatment"])[0]
