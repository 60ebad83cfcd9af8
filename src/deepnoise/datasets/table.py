"""Tables as parquet files. The catalog's ``validator:`` checks their columns (see ``validators.py``)."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
from kedro.io.core import get_filepath_str
from kedro_datasets.pandas import ParquetDataset
from pyarrow import parquet

from deepnoise.datasets.json_files import write_atomically
from deepnoise.datasets.previews import TablePreview
from deepnoise.datasets.read_only import ReadOnlyDataset
from deepnoise.datasets.validators import known_table
from deepnoise.errors import InputError
from deepnoise.tables import SCHEMAS

PREVIEW = (8, 14)
"""Rows and columns that kedro viz shows, at most."""


class TableDataset(ParquetDataset):
    """A parquet table that is written completely or not at all.

    Its preview reads only the first rows. Takes the arguments of ``pandas.ParquetDataset``.

    Catalog::

        wells:
          type: deepnoise.datasets.table.TableDataset
          filepath: data/02_intermediate/demo/wells.parquet
          versioned: true
          validator:
            class: deepnoise.datasets.validators.TableValidator
            options: {table: wells}
    """

    def __init__(self, **kwargs: Any) -> None:
        if "schema" in kwargs:
            raise InputError(
                f"catalog: {kwargs.get('filepath')} has the key 'schema: {kwargs['schema']}', which is no longer read; "
                "replace it by\n  validator:\n    class: deepnoise.datasets.validators.TableValidator\n"
                f"    options: {{table: {kwargs['schema']}}}"
            )
        super().__init__(**kwargs)

    def save(self, data: pd.DataFrame) -> None:
        path = get_filepath_str(self._get_save_path(), self._protocol)
        with write_atomically(path, self._fs) as staged, self._fs.open(staged, **self._fs_open_args_save) as file:
            data.to_parquet(file, **self._save_args)
        self._invalidate_cache()

    def preview(self) -> TablePreview:
        """The first rows and columns, for kedro viz. Nothing beyond the first rows is read."""
        rows, columns = PREVIEW
        with self._fs.open(get_filepath_str(self._get_load_path(), self._protocol), "rb") as file:
            table = parquet.ParquetFile(file)
            names = table.schema_arrow.names[:columns]
            batch = next(table.iter_batches(rows, columns=names), None)
        first_rows = pd.DataFrame(columns=names) if batch is None else batch.to_pandas()
        return TablePreview(json.loads(first_rows.to_json(orient="split")))


class EmptyTableDataset(ReadOnlyDataset[pd.DataFrame]):
    """A table that this environment does not have: loads without rows, and cannot be saved.

    It stands in for the outputs of stages that are not run, for example on a screen without images.
    Evaluation then sees an empty table instead of a missing file.

    Catalog::

        site_logits:
          type: deepnoise.datasets.table.EmptyTableDataset
          table: site_logits

    Args:
        table: Name of the table in ``deepnoise.tables.SCHEMAS``.
        metadata: For kedro-viz.
    """

    def __init__(self, *, table: str, metadata: dict[str, Any] | None = None) -> None:
        self._table = known_table(table)
        self.read_only = f"this environment has no {table}; the entry cannot be written"
        self.metadata = metadata

    def load(self) -> pd.DataFrame:
        return SCHEMAS[self._table].empty()

    def _describe(self) -> dict[str, Any]:
        return {"table": self._table}
