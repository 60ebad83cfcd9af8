"""The list of plates, wells and sites to exclude from a screen: a csv that is edited by hand."""

from __future__ import annotations

from typing import Any

import fsspec
import pandas as pd

from deepnoise.datasets.read_only import ReadOnlyDataset
from deepnoise.datasets.text_tables import read_csv
from deepnoise.errors import InputError
from deepnoise.ingestion.validation import EXCLUDED_COLUMNS


class ExcludeListDataset(ReadOnlyDataset[pd.DataFrame]):
    """A csv with the columns experiment, plate, well, site and reason. Without a file nothing is excluded.

    A row without a well excludes the whole plate; a row without a site excludes the whole well.

    Catalog::

        excluded_wells:
          type: deepnoise.datasets.exclude_list.ExcludeListDataset
          filepath: data/01_raw/excluded_wells/demo.csv

    Args:
        filepath: The csv: a path or an fsspec URL.
        metadata: For kedro-viz.
    """

    read_only = "the list of excluded wells is edited by hand and never written"

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
                    f"{self._path}: column {column!r} is empty ({table.loc[table[column].isna(), 'source'].iloc[0]}); "
                    "every row needs an experiment and a plate"
                )
        return table

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._path}
