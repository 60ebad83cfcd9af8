"""Well names and plate formats: ``A1``, ``A01`` and ``r01c01`` all mean A01. Used by every stage."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

PLATE_FORMATS: dict[int, tuple[int, int]] = {96: (8, 12), 384: (16, 24), 1536: (32, 48)}
"""Number of wells on a plate -> (rows, columns)."""

_LETTERS = re.compile(r"([A-Za-z]{1,2})0*([1-9][0-9]?)")
_ROW_COLUMN = re.compile(r"[rR]0*([1-9][0-9]?)[cC]0*([1-9][0-9]?)")


def row_name(row: int) -> str:
    """Letters of a zero-based row: 0 -> A, 25 -> Z, 26 -> AA."""
    return chr(65 + row) if row < 26 else "A" + chr(65 + row - 26)


def parse_well(well: str) -> tuple[int, int]:
    """Parse a well name into its zero-based (row, column).

    Raises:
        ValueError: The name is not a well of any plate format up to 1,536 wells.
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
        raise ValueError(f"well name {well!r} is not a well: expected A01 to AF48, also written A1 or r01c01")
    return row, column


def places(wells: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Zero-based rows and columns of W well names, two (W,) int arrays."""
    positions = np.array([parse_well(well) for well in wells])
    return positions[:, 0], positions[:, 1]


def normalize_well(well: str) -> str:
    """The canonical name of a well, row letters and a two-digit column: ``B3`` -> ``B03``."""
    row, column = parse_well(well)
    return f"{row_name(row)}{column + 1:02d}"


def well_or_none(well: str) -> str | None:
    """The canonical name of a well, or None if the text is not a well name."""
    try:
        return normalize_well(well)
    except ValueError:
        return None


def all_wells(plate_format: int) -> list[str]:
    """Names of all wells of a plate format, row by row."""
    rows, columns = PLATE_FORMATS[plate_format]
    return [f"{row_name(row)}{column + 1:02d}" for row in range(rows) for column in range(columns)]


def plate_format_of(wells: list[str]) -> int:
    """The smallest plate format (96, 384 or 1,536 wells) that contains all the given wells."""
    positions = [parse_well(well) for well in wells]
    for size in PLATE_FORMATS:
        rows, columns = PLATE_FORMATS[size]
        if all(row < rows and column < columns for row, column in positions):
            return size
    raise ValueError("no plate format contains these wells")  # unreachable: parse_well rejects larger positions
