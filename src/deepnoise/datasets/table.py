"""Tables as parquet, validated against ``deepnoise.tables`` whenever they are saved or loaded."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
from kedro.io import AbstractDataset, DatasetError
from kedro.io.core import get_filepath_str
from kedro_datasets._typing import TablePreview
from kedro_datasets.pandas import ParquetDataset
from pyarrow import parquet

from deepnoise.tables import SCHEMAS, validate_table

PREVIEW = (8, 14)
"""Rows and columns that kedro viz shows, at most."""


class TableDataset(ParquetDataset):
    """A parquet table with a declared schema; versioned like any Kedro dataset.

    Catalog::

        wells:
          type: deepnoise.datasets.table.TableDataset
          filepath: data/03_primary/demo/wells.parquet
          schema: wells
          versioned: true
    """

    def __init__(self, *, schema: str, **kwargs: Any) -> None:
        if schema not in SCHEMAS:
            raise DatasetError(f"unknown table schema {schema!r}; allowed: {', '.join(SCHEMAS)}")
        super().__init__(**kwargs)
        self._schema = schema

    def load(self) -> pd.DataFrame:
        return validate_table(super().load(), self._schema, str(self._filepath))

    def save(self, data: pd.DataFrame) -> None:
        table = validate_table(data, self._schema, str(self._filepath))
        path = get_filepath_str(self._get_save_path(), self._protocol)
        staged = f"{path}.part"  # whole or not at all: a kill while writing leaves no version behind
        with self._fs.open(staged, **self._fs_open_args_save) as file:
            table.to_parquet(file, **self._save_args)
        self._fs.mv(staged, path)
        self._invalidate_cache()

    def preview(self) -> TablePreview:
        """The first rows and columns, for kedro viz; no more of the file is read than its first rows."""
        rows, columns = PREVIEW
        with self._fs.open(get_filepath_str(self._get_load_path(), self._protocol), "rb") as file:
            table = parquet.ParquetFile(file)
            names = table.schema_arrow.names[:columns]
            first = next(table.iter_batches(rows, columns=names), None)
        shown = pd.DataFrame(columns=names) if first is None else first.to_pandas()
        return TablePreview(json.loads(shown.to_json(orient="split")))

    def _describe(self) -> dict[str, Any]:
        return {**super()._describe(), "schema": self._schema}


class EmptyTableDataset(AbstractDataset[pd.DataFrame, pd.DataFrame]):
    """A table that this environment does not have: loads without rows, and cannot be saved.

    Used where a screen comes without images, so that evaluation sees "none" instead of a missing file.
    """

    def __init__(self, *, schema: str, metadata: dict[str, Any] | None = None) -> None:
        self._schema = schema
        self.metadata = metadata

    def load(self) -> pd.DataFrame:
        return SCHEMAS[self._schema].empty()

    def save(self, data: pd.DataFrame) -> None:
        raise DatasetError(f"this environment has no {self._schema}; the entry cannot be written")

    def _describe(self) -> dict[str, Any]:
        return {"schema": self._schema}
