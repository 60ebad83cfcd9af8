"""Well names and plate formats: ``A1``, ``A01`` and ``r01c01`` all mean A01. Used by every stage."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

PLATE_FORMATS: dict[int, tuple[int, int]] = {96: (8, 12), 384: (16, 24), 1536: (32, 48)}
"""Wells of a plate -> (rows, columns)."""

_LETTERS = re.compile(r"([A-Za-z]{1,2})0*([1-9][0-9]?)")
_ROW_COLUMN = re.compile(r"[rR]0*([1-9][0-9]?)[cC]0*([1-9][0-9]?)")


def row_name(row: int) -> str:
    """Name of a zero-based row: 0 -> A, 25 -> Z, 26 -> AA."""
    return chr(65 + row) if row < 26 else "A" + chr(65 + row - 26)


def parse_well(well: str) -> tuple[int, int]:
    """Zero-based (row, column) of a well name.

    Raises:
        ValueError: If it is no well of a plate of at most 1,536 wells.
    """
    rows, columns = PLATE_FORMATS[1536]
    if match := _ROW_COLUMN.fullmatch(well.strip()):
        row, column = int(match[1]) - 1, int(match[2]) - 1
    elif match := _LETTERS.fullmatch(well.strip()):
        letters = match[1].upper()
        row = ord(letters[-1]) - 65 + (26 if len(letters) == 2 else 0)
        column = int(match[2]) - 1
        if len(letters) == 2 and letters[0] != "A":
            row = rows
    else:
        row = rows
        column = 0
    if row >= rows or column >= columns:
        raise ValueError(f"well name {well!r} is not a well: expected A01 to AF48, A1 or r01c01")
    return row, column


def places(wells: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Zero-based rows and columns of well names, each (W,) int."""
    found = np.array([parse_well(well) for well in wells])
    return found[:, 0], found[:, 1]


def normalize_well(well: str) -> str:
    """The canonical name: row letters and a column of two digits, ``B3`` -> ``B03``."""
    row, column = parse_well(well)
    return f"{row_name(row)}{column + 1:02d}"


def well_or_none(well: str) -> str | None:
    """The canonical name, or None where it is no well."""
    try:
        return normalize_well(well)
    except ValueError:
        return None


def all_wells(plate_format: int) -> list[str]:
    """Every well name of a plate format, row by row."""
    rows, columns = PLATE_FORMATS[plate_format]
    return [f"{row_name(row)}{column + 1:02d}" for row in range(rows) for column in range(columns)]


def plate_format_of(wells: list[str]) -> int:
    """The smallest of the 96, 384 and 1,536 well formats that holds all the given wells."""
    places = [parse_well(well) for well in wells]
    for size in PLATE_FORMATS:
        rows, columns = PLATE_FORMATS[size]
        if all(row < rows and column < columns for row, column in places):
            return size
    raise ValueError("no plate format holds these wells")  # parse_well bounds them: not reached
