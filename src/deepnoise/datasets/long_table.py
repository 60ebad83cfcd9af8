"""A generic layout: one csv with a row for each picture file, its columns mapped in the catalog."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from kedro.io import AbstractDataset

from deepnoise.datasets.files import read_csv
from deepnoise.datasets.rxrx1 import SiteFiles
from deepnoise.errors import InputError, closest
from deepnoise.ingestion.validation import RAW_COLUMNS
from deepnoise.wells import normalise_well


class _LongTable(AbstractDataset[Any, Any]):
    """Reads the csv and maps its columns.

    Args:
        filepath: The csv; one row a picture file, which holds all channels of one site (or cell).
        columns: For each of experiment, plate, well, cell_type, perturbation: a template over the csv's
            columns, as ``"{plate}"``, ``"{compound}@{concentration}"`` or a constant. ``file`` is the picture's path
            relative to the csv.
        negative_controls: Perturbations that are negative controls.
        exclude: csv column -> values whose rows are left out.
        channels: Channel names, in the order of the file.
        metadata: For kedro-viz.
    """

    def __init__(
        self,
        *,
        filepath: str,
        columns: dict[str, str],
        channels: list[str] | None = None,
        negative_controls: list[str] | None = None,
        exclude: dict[str, list[str]] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._path = Path(filepath)
        self._columns = columns
        self._channels = channels or []
        self._negative = negative_controls or []
        self._exclude = {column: [str(v) for v in values] for column, values in (exclude or {}).items()}
        self.metadata = metadata

    def _rows(self) -> pd.DataFrame:
        needed = ["experiment", "plate", "well", "cell_type", "perturbation", "file"]
        absent = [name for name in needed if name not in self._columns]
        if absent:
            raise InputError(f"catalog: columns of {self._path.name} lack {absent[0]!r}; needed: {', '.join(needed)}")
        used = [c for t in self._columns.values() for c in _fields(t)]
        table = read_csv(self._path, list(dict.fromkeys([*used, *self._exclude])))
        keep = pd.Series(True, index=table.index)
        for column, values in self._exclude.items():
            keep &= ~table[column].isin(values)
        table = table[keep]
        for column in dict.fromkeys(used):
            holes = table.index[table[column].isna()]
            if len(holes):
                raise InputError(
                    f"{self._path}: column {column!r} is empty in line {holes[0] + 2} ({len(holes)} such); give a value, or "
                    "leave the row out by exclude"
                )
        mapped = {n: [t.format(**row) for row in table.to_dict("records")] for n, t in self._columns.items()}
        rows = pd.DataFrame(mapped, index=table.index)
        rows["source"] = self._path.name + " line " + (table.index + 2).astype(str)
        return rows

    def save(self, data: Any) -> None:
        raise InputError("raw data is an input and is never written")

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path), "columns": self._columns}


def _fields(template: str) -> list[str]:
    from string import Formatter

    return [name for _, name, _, _ in Formatter().parse(template) if name]


class LongTableDataset(_LongTable):
    """The wells of the csv as a raw table; every well is labelled."""

    def load(self) -> pd.DataFrame:
        rows = self._rows()
        place = ["experiment", "plate", "well"]
        several = rows.groupby(place)["perturbation"].nunique()
        if (several > 1).any():
            raise InputError(
                f"{self._path}: well {'/'.join(several.index[several > 1][0])} has several perturbations, expected one"
            )
        there = set(rows["perturbation"])
        for name in self._negative:
            if name not in there:
                raise InputError(f"{self._path}: negative control {name!r} occurs in no row.{closest(name, there)}")
        wells = rows.drop_duplicates(place).copy()
        wells["well_type"] = ["negative_control" if p in self._negative else "treatment" for p in wells["perturbation"]]
        wells["split"] = "labelled"
        return wells[list(RAW_COLUMNS)].reset_index(drop=True)


class LongTableLabelsDataset(_LongTable):
    """The perturbation of every well of the csv as ``heldout_labels``: the truth of a cross-validated screen."""

    def load(self) -> pd.DataFrame:
        rows = self._rows().drop_duplicates(["experiment", "plate", "well"])
        rows["well"] = rows["well"].map(normalise_well)
        code = rows["experiment"] + "_" + rows["plate"] + "_" + rows["well"]
        return pd.DataFrame({"id_code": code, "perturbation": rows["perturbation"]}).reset_index(drop=True)


class LongTableImagesDataset(_LongTable):
    """The pictures of the csv; the sites of a well are numbered in the order of its rows."""

    def load(self) -> SiteFiles:
        rows = self._rows()
        found = rows[["experiment", "plate", "well"]].copy()
        found["site"] = found.groupby(["experiment", "plate", "well"]).cumcount() + 1
        there = [(self._path.parent / name).is_file() for name in rows["file"]]
        found["files"] = [(name,) for name in rows["file"]]
        found["missing"] = [() if ok else (f"file {name}",) for ok, name in zip(there, rows["file"], strict=True)]
        return SiteFiles(self._path.parent, self._channels, found.reset_index(drop=True))
