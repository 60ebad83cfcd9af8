"""A validator for Kedro's catalog: checks a table against its declaration in :mod:`deepnoise.tables`."""

from __future__ import annotations

import pandas as pd
from kedro.validation.exceptions import DataValidationError

from deepnoise.errors import InputError, closest
from deepnoise.tables import SCHEMAS, validate_table


class InvalidTableError(DataValidationError, InputError):
    """A table that does not match its declaration. Kedro fills in the name of the catalog entry."""

    def __str__(self) -> str:
        return f"{self.dataset_name or 'table'}: {self.message}"


class TableValidator:
    """Checks a table on every load and save, and casts its columns to the declared dtypes.

    Works with any dataset that loads a pandas table.

    Catalog::

        wells:
          type: pandas.ParquetDataset
          filepath: data/02_intermediate/demo/wells.parquet
          validator:
            class: deepnoise.datasets.validators.TableValidator
            options: {table: wells}

    Args:
        table: Name of the table in ``deepnoise.tables.SCHEMAS``.
    """

    def __init__(self, table: str) -> None:
        self.table = known_table(table)

    def validate(self, data: pd.DataFrame) -> pd.DataFrame:
        """The table with its declared columns first and cast to their dtypes.

        Raises:
            InvalidTableError: The table does not match its declaration.
        """
        try:
            return validate_table(data, self.table, "")
        except InputError as error:
            raise InvalidTableError(str(error).removeprefix(": ")) from error


def known_table(name: str) -> str:
    """The name of a declared table.

    Raises:
        InputError: No table has this name.
    """
    if name not in SCHEMAS:
        raise InputError(f"catalog: unknown table {name!r}; allowed: {', '.join(SCHEMAS)}.{closest(name, SCHEMAS)}")
    return name
