"""The list of plates, wells and sites that a person has excluded: a csv to be edited by hand."""

from __future__ import annotations

from typing import Any

import fsspec
import pandas as pd
from kedro.io import AbstractDataset

from deepnoise.datasets.files import read_csv
from deepnoise.errors import InputError
from deepnoise.ingestion.validation import EXCLUDED_COLUMNS


class ExcludeListDataset(AbstractDataset[pd.DataFrame, pd.DataFrame]):
    """A csv with the columns experiment, plate, well, site and reason; no file means that nothing is excluded.

    An empty well excludes the plate, an empty site the well.

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
            return pd.DataFrame(columns=[*EXCLUDED_COLUMNS, "source"], dtype="str")
        table = read_csv(self._path, EXCLUDED_COLUMNS)[list(EXCLUDED_COLUMNS)]
        table["source"] = name.rsplit("/", 1)[-1] + " line " + (table.index + 2).astype(str)
        for column in ("experiment", "plate"):
            if table[column].isna().any():
                raise InputError(
                    f"{self._path}: column {column!r} is empty ({table.loc[table[column].isna(), 'source'].iloc[0]})"
                )
        return table

    def save(self, data: pd.DataFrame) -> None:
        raise InputError("the list of excluded wells is edited by hand and never written")

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._path}
