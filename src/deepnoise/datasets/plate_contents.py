"""The known contents of plates: a csv with the perturbations on each plate."""

from __future__ import annotations

from typing import Any

import fsspec
import pandas as pd

from deepnoise.datasets.read_only import ReadOnlyDataset
from deepnoise.datasets.text_tables import read_csv
from deepnoise.errors import InputError
from deepnoise.tables import SCHEMAS, validate_table

NEEDED_COLUMNS = ("experiment", "plate", "perturbation")


class PlateContentsDataset(ReadOnlyDataset[pd.DataFrame]):
    """A csv with the columns experiment, plate and perturbation.

    An optional column ``wells`` has the number of wells of the perturbation on the plate; without it one is
    assumed. A plate in this list has the listed perturbations and no others. Without a file nothing is known
    of any plate.

    Catalog::

        plate_contents:
          type: deepnoise.datasets.plate_contents.PlateContentsDataset
          filepath: data/01_raw/plate_contents/demo.csv

    Args:
        filepath: The csv: a path or an fsspec URL.
        metadata: For kedro-viz.
    """

    read_only = "plate contents are written by hand and never by a run"

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._path = filepath
        self.metadata = metadata

    def load(self) -> pd.DataFrame:
        fs, name = fsspec.core.url_to_fs(self._path)
        if not fs.exists(name):
            return SCHEMAS["plate_contents"].empty()
        table = read_csv(self._path, NEEDED_COLUMNS)
        wells = pd.to_numeric(table["wells"], errors="coerce") if "wells" in table else pd.Series(1, table.index)
        invalid = ~(wells >= 1)
        if invalid.any():
            raise InputError(
                f"{self._path}: wells is {table.loc[invalid, 'wells'].iloc[0]!r} in line {table.index[invalid][0] + 2}; "
                "expected a number of at least 1"
            )
        table = table[list(NEEDED_COLUMNS)].assign(wells=wells.astype("int64"))
        return validate_table(table.reset_index(drop=True), "plate_contents", self._path)

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._path}
