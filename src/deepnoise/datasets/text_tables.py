"""One reader for all tables of text: csv, tab-separated and parquet, with clear errors.

Text stays text: only an empty field is missing, and "NA", "None" and "nan" are ordinary names.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd

from deepnoise.errors import InputError, closest, first_few
from deepnoise.tables import as_text

logger = logging.getLogger(__name__)
TAB_SUFFIXES = (".tsv", ".txt")
MISSING_NUMBERS = ["", "NA", "N/A", "NaN", "nan", "-nan", "NULL", "null", "None", "#N/A", "<NA>", "n/a"]
"""Texts that stand for a missing number; in a column of text they are names."""


def read_csv(path: str | Path, needed: Sequence[str], numbers: bool = False, only_needed: bool = False) -> pd.DataFrame:
    """Read a csv (.csv, .csv.gz) or a tab-separated table (.tsv, .txt), with at least the needed columns.

    White space around a value is removed, and lines without any value are skipped. The index is the number of the
    line below the header, from 0, so that index + 2 is its line in the file.

    Args:
        path: A path or an fsspec URL. A byte-order mark is ignored.
        needed: Columns that must be there; they are read as text.
        numbers: Read the other columns as numbers where all their values are; otherwise all columns are text.
        only_needed: Leave the other columns out.

    Raises:
        InputError: The file does not exist, is empty or not a csv, lacks a column, has two columns of one name, or
            repeats its header further down.
    """
    fs, name = fsspec.core.url_to_fs(str(path))
    if fs.isdir(name):
        raise InputError(f"{path} is a folder, expected a csv with columns {', '.join(needed)}. Check raw_root")
    if not fs.exists(name):
        raise InputError(f"{path}: no such file; expected a csv with columns {', '.join(needed)}. Check raw_root")
    form = _form(name)
    try:
        names = _header(fs, name, form)
        twice = [column for i, column in enumerate(names) if column in names[:i] and column]
        if twice:
            raise InputError(f"{path}: has two columns {twice[0]!r}; give each column a name of its own")
        missing = [column for column in needed if column not in names]
        if missing:
            raise InputError(
                f"{path}: column {missing[0]!r} is missing; needed: {', '.join(needed)}; "
                f"received: {first_few(names, 12)}.{missing_column_hint(missing[0], names)}"
            )
        if numbers:
            form["na_values"] = {i: [""] if column in needed else MISSING_NUMBERS for i, column in enumerate(names)}
            form["dtype"] = {i: "str" for i, column in enumerate(names) if column in needed}
        else:
            form |= {"na_values": [""], "dtype": "str"}
        if only_needed:
            form["usecols"] = [i for i, column in enumerate(names) if column in needed]
        with fs.open(name, "rb") as file:
            table = pd.read_csv(file, header=None, skiprows=1, names=range(len(names)), low_memory=False, **form)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError, EOFError) as error:
        if "names passed" in str(error) or "Expected" in str(error):
            raise InputError(_too_long(path, names)) from error
        raise InputError(f"{path}: cannot be read as csv: {_reason(error)}") from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes the first columns of lines that are too long as index
        raise InputError(_too_long(path, names))
    table.columns = pd.Index([names[i] for i in table.columns])
    for column in table:
        if isinstance(table[column].dtype, pd.StringDtype):
            text = table[column].str.strip()
            table[column] = text.where(text != "")
    empty = table.isna().all(axis=1)
    if empty.any():
        logger.info("%s: %s empty lines are skipped", path, int(empty.sum()))
        table = table[~empty]
    repeated = table.index[(table.astype("str") == list(table.columns)).all(axis=1)]
    if len(repeated):
        raise InputError(
            f"{path}: line {repeated[0] + 2} repeats the header; if two files were joined, remove that line"
        )
    return table


def missing_column_hint(column: str, names: Sequence[str]) -> str:
    """What may be wrong if a table with these columns lacks one: its separator, or a misspelling."""
    return " Is it separated by commas?" if len(names) == 1 else closest(column, names)


def _too_long(path: str | Path, names: list[str]) -> str:
    return f"{path}: its lines have more fields than its header ({first_few(names, 12)}); is there an extra comma?"


def read_table(path: Path, text: Sequence[str], hint: str, only_text: bool = False) -> pd.DataFrame:
    """Read a csv or parquet whose named columns are text and whose other columns are numbers where they can be.

    Args:
        path: A csv, csv.gz, tsv, txt or parquet.
        text: Columns that are text; those that the table lacks are ignored.
        hint: What to do if there is no such file.
        only_text: Leave the other columns out.

    Returns:
        The table; an index of the parquet that has a name is a column. Whole numbers in text columns have no decimal point; empty fields are missing.

    Raises:
        InputError: There is no such file, or it cannot be read.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; {hint}")
    names = column_names(path)
    named = [column for column in text if column in names]
    if path.suffix != ".parquet":
        return read_csv(path, named, numbers=True, only_needed=only_text)
    table = _parquet(path, lambda: pd.read_parquet(path, columns=named if only_text else None))
    table = table.reset_index(drop=table.index.names == [None])
    for column in named:
        values = as_text(table[column]).str.strip()
        table[column] = values.where(values != "")
    return table


def column_names(path: str | Path) -> list[str]:
    """Names of the columns of a csv or parquet, without its rows.

    Raises:
        InputError: It cannot be read.
    """
    if str(path).endswith(".parquet"):
        import pyarrow.parquet as pq  # here, because the hooks import this module in every run

        return list(_parquet(path, lambda: pq.read_schema(path).names))
    fs, name = fsspec.core.url_to_fs(str(path))
    try:
        return _header(fs, name, _form(name))
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as csv: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Why a file is no csv, with advice where its text has another encoding."""
    return f"{error}; save it as UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)


def _form(name: str) -> dict[str, Any]:
    """How pandas reads a file of this name."""
    return {
        "sep": "\t" if name.removesuffix(".gz").endswith(TAB_SUFFIXES) else ",",
        "encoding": "utf-8-sig",
        "compression": "gzip" if name.endswith(".gz") else None,
        "keep_default_na": False,
        "skip_blank_lines": False,
    }


def _header(fs: Any, name: str, form: dict[str, Any]) -> list[str]:
    with fs.open(name, "rb") as file:
        header = pd.read_csv(file, header=None, nrows=1, dtype="str", **form).iloc[0]
    return [str(column).strip() for column in header]


def _parquet(path: str | Path, read: Any) -> Any:
    from pyarrow import ArrowException

    try:
        return read()
    except (ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as parquet: {error}") from error
