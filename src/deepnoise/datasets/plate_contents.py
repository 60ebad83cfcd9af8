"""What is known beforehand of the perturbations on a plate: a csv."""

from __future__ import annotations

from typing import Any

import fsspec
import pandas as pd
from kedro.io import AbstractDataset

from deepnoise.datasets.files import read_csv
from deepnoise.errors import InputError
from deepnoise.tables import SCHEMAS, validate_table

NEEDED = ("experiment", "plate", "perturbation")


class PlateContentsDataset(AbstractDataset[pd.DataFrame, pd.DataFrame]):
    """A csv with the columns experiment, plate and perturbation, and in how many wells it stands (``wells``; without it, one).

    A plate that is named is taken to hold these perturbations and no other. No file means that nothing is known.

    Args:
        filepath: The csv: a path or an fsspec URL.
        metadata: For kedro-viz.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._path = filepath
        self.metadata = metadata

    def load(self) -> pd.DataFrame:
        fs, name = fsspec.core.url_to_fs(self._path)
        if not fs.exists(name):
            return SCHEMAS["plate_contents"].empty()
        table = read_csv(self._path, NEEDED)
        wells = pd.to_numeric(table["wells"], errors="coerce") if "wells" in table else pd.Series(1, table.index)
        wrong = ~(wells >= 1)
        if wrong.any():
            raise InputError(
                f"{self._path}: wells is {table.loc[wrong, 'wells'].iloc[0]!r} in line {int(wrong.argmax()) + 2}; expected a number from 1 on"
            )
        table = table[list(NEEDED)].assign(wells=wells.astype("int64"))
        return validate_table(table, "plate_contents", self._path)

    def save(self, data: pd.DataFrame) -> None:
        raise InputError("plate contents are written by hand and never by a run")

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._path}
