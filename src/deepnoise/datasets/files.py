"""Small helpers of the datasets: csv files with clear errors, pictures of one site, atomic writes."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError

from deepnoise.errors import InputError, closest, first_few


def read_csv(path: Path, needed: Sequence[str]) -> pd.DataFrame:
    """A csv (a byte-order mark is ignored) with at least the needed columns, everything as text.

    Only an empty field is missing; "NA" or "null" is a name like any other.

    Raises:
        InputError: The file is absent, empty, not a csv, or lacks a column.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a csv with columns {', '.join(needed)}. Check raw_root")
    try:
        table = pd.read_csv(path, dtype="str", encoding="utf-8-sig", keep_default_na=False, na_values=[""])
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as csv: {error}") from error
    missing = [c for c in needed if c not in table.columns]
    if missing:
        hint = " Is it separated by commas?" if len(table.columns) == 1 else closest(missing[0], table.columns)
        raise InputError(
            f"{path}: column {missing[0]!r} is missing; needed: {', '.join(needed)}; found: {first_few(table.columns, 12)}.{hint}"
        )
    return table


def read_picture(path: Path) -> np.ndarray:
    """One picture file (.png, .tif, .npy) as it is stored.

    Returns:
        (H, W) or (H, W, C) uint8 or uint16.

    Raises:
        InputError: It is absent, damaged, or of another dtype.
    """
    try:
        if path.suffix == ".npy":
            picture = np.load(path, allow_pickle=False)
        else:
            with Image.open(path) as image:
                picture = np.asarray(image)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, EOFError, ValueError, SyntaxError, UnidentifiedImageError) as error:
        raise InputError(f"{path}: cannot be read as a picture ({error})") from error
    if picture.dtype not in (np.uint8, np.uint16) or picture.ndim not in (2, 3):
        raise InputError(
            f"{path}: {picture.dtype} of shape {picture.shape}; expected uint8 or uint16, one picture or (H, W, C)"
        )
    return picture


def read_site(paths: Sequence[Path]) -> np.ndarray:
    """The files of one site as (C, H, W): one a channel, or one multi-channel file (H, W, C)."""
    pictures = [read_picture(path) for path in paths]
    if len(pictures) == 1 and pictures[0].ndim == 3:
        return np.ascontiguousarray(pictures[0].transpose(2, 0, 1))
    for path, picture in zip(paths, pictures, strict=True):
        if picture.shape != pictures[0].shape or picture.ndim != 2 or picture.dtype != pictures[0].dtype:
            raise InputError(
                f"{path}: {picture.dtype} of shape {picture.shape}, expected {pictures[0].dtype} of shape "
                f"{pictures[0].shape} as in {paths[0].name}"
            )
    return np.stack(pictures)


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all."""
    staged = path.with_name(path.name + ".part")
    staged.write_text(json.dumps(content, indent=1, default=_plain), encoding="utf-8")
    os.replace(staged, path)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} ({type(value).__name__}) cannot be kept as JSON")


def read_json(path: Path) -> Any:
    """Read JSON, with the file's name in the error."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: damaged ({error}); delete it to start afresh") from error
