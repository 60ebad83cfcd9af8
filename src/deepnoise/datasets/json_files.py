"""Files written completely or not at all, and JSON. Imports neither numpy nor pandas, so that Kedro starts fast."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from deepnoise.errors import InputError


@contextmanager
def write_atomically(path: str | Path, fs: AbstractFileSystem | None = None) -> Iterator[str]:
    """Write a file completely or not at all.

    The block writes to the path that it is given, ``<path>.part``. When it ends without an error, that file
    is moved to ``path``. A kill in between leaves the old file as it was.

    Args:
        path: Where the file will be, as ``fs`` names it.
        fs: File system of the path; the local one if not given.
    """
    staged = f"{path}.part"
    yield staged
    if fs is None or isinstance(fs, LocalFileSystem):
        os.replace(staged, path)  # atomic, also where the file exists
    else:
        fs.mv(staged, str(path))


def write_json(path: str | Path, content: Any, indent: int | None = 1) -> None:
    """Write JSON completely or not at all."""
    fs, name = fsspec.core.url_to_fs(str(path))
    with write_atomically(name, fs) as staged, fs.open(staged, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=indent, default=_plain)


def _plain(value: Any) -> Any:
    if type(value).__module__ == "numpy" and hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        return value.item()
    raise TypeError(f"{value!r} ({type(value).__name__}) cannot be written as JSON")


def read_json(path: str | Path) -> Any:
    """Read JSON; an error names the file."""
    fs, name = fsspec.core.url_to_fs(str(path))
    try:
        return json.loads(fs.cat_file(name).decode("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: damaged ({error}); delete it to start over") from error
