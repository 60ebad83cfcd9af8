"""Small helpers of the datasets: folders behind any fsspec URL, csv files with clear errors, images, atomic writes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import numpy as np
import pandas as pd
import tifffile
from fsspec.implementations.local import LocalFileSystem
from PIL import Image

from deepnoise.errors import ImageError, InputError, closest, first_few

PICTURES = (".png", ".tif", ".tiff", ".npy")


class Folder:
    """A folder on a local disk or behind any other fsspec URL, such as ``s3://`` or ``memory://``.

    Args:
        url: Path or URL.
    """

    def __init__(self, url: str | Path) -> None:
        self.url = str(url).rstrip("/")
        self.fs, self.path = fsspec.core.url_to_fs(self.url)
        self.local = isinstance(self.fs, LocalFileSystem)
        self._listed: dict[str, dict[str, dict[str, Any]]] = {}

    def join(self, name: str) -> str:
        """The path of a file in here, as the file system knows it. An absolute name stays as it is."""
        return name if os.path.isabs(name) and self.local else f"{self.path}/{name}"

    def sub(self, name: str) -> Folder:
        """A folder in here."""
        return Folder(f"{self.url}/{name}")

    def listing(self, name: str) -> dict[str, dict[str, Any]]:
        """Name -> facts of what lies in a folder in here; each folder is listed once."""
        path = self.join(name).rstrip("/")
        if path not in self._listed:
            try:
                entries = self.fs.ls(path, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                entries = []
            self._listed[path] = {entry["name"].rstrip("/").rsplit("/", 1)[-1]: entry for entry in entries}
        return self._listed[path]

    def facts(self, name: str) -> dict[str, Any] | None:
        """What the listing says of a file; None if it is not there."""
        folder, _, last = name.rpartition("/")
        return self.listing(folder).get(last)

    def folders(self, name: str = "") -> list[str]:
        """Names of the folders in a folder in here, sorted."""
        return sorted(n for n, facts in self.listing(name).items() if self.is_folder(facts))

    def is_folder(self, facts: dict[str, Any]) -> bool:
        """Whether a listed entry is a folder, or a link to one."""
        return facts["type"] == "directory" or bool(facts.get("islink") and self.fs.isdir(facts["name"]))

    def read(self, name: str) -> bytes:
        """All bytes of a file."""
        return bytes(self.fs.cat_file(self.join(name)))


def time_of(facts: dict[str, Any]) -> str:
    """When a listed file was last changed, or what else its file system tells of a change."""
    if facts.get("islink"):  # the listing tells the time of the link, not of what it points to
        return str(os.stat(facts["name"]).st_mtime)
    return str(next((facts[k] for k in ("mtime", "ETag", "LastModified", "updated", "created") if k in facts), None))


def read_csv(path: str | Path, needed: Sequence[str]) -> pd.DataFrame:
    """A csv (a byte-order mark is ignored) with at least the needed columns, everything as text.

    Only an empty field is missing; "NA" or "null" is a name like any other. May be compressed (.csv.gz).

    Raises:
        InputError: The file is absent, empty, not a csv, or lacks a column.
    """
    fs, name = fsspec.core.url_to_fs(str(path))
    if fs.isdir(name):
        raise InputError(f"{path}: a folder, expected a csv with columns {', '.join(needed)}. Check raw_root")
    if not fs.exists(name):
        raise InputError(f"{path}: no such file; expected a csv with columns {', '.join(needed)}. Check raw_root")
    try:
        with fs.open(name, "rb") as file:
            table = pd.read_csv(
                file,
                dtype="str",
                encoding="utf-8-sig",
                keep_default_na=False,
                na_values=[""],
                compression="gzip" if name.endswith(".gz") else None,
            )
        if not isinstance(table.index, pd.RangeIndex):
            raise InputError(
                f"{path}: its lines have more fields than its header ({first_few(table.columns, 12)}); is there a comma too many?"
            )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as csv: {error}") from error
    missing = [c for c in needed if c not in table.columns]
    if missing:
        hint = " Is it separated by commas?" if len(table.columns) == 1 else closest(missing[0], table.columns)
        raise InputError(
            f"{path}: column {missing[0]!r} is missing; needed: {', '.join(needed)}; found: {first_few(table.columns, 12)}.{hint}"
        )
    return table


def read_image(folder: Folder, name: str) -> np.ndarray:
    """One image file (.png, .tif, .npy) as it is stored.

    Returns:
        (H, W), or (C, H, W) of a file with several channels: .npy and colour .png hold (H, W, C), .tif says itself.

    Raises:
        ImageError: It is absent, damaged, or neither uint8 nor uint16.
    """
    path = folder.join(name)
    try:
        with folder.fs.open(path, "rb") as file:
            image = _decode(file, path)
    except FileNotFoundError as error:
        raise ImageError("missing_image", path, "no such file") from error
    except IsADirectoryError as error:
        raise ImageError("unreadable_image", path, "is a folder, expected an image") from error
    except Exception as error:  # whatever a decoder trips over: zlib, struct, index, memory
        reason = str(error).replace(str(path), "").strip() or type(error).__name__
        raise ImageError("unreadable_image", path, f"cannot be read as an image ({reason})") from error
    image = raw_counts(image, path)
    if image.ndim not in (2, 3):
        raise ImageError("wrong_shape", path, f"shape {image.shape}, expected one image or one of several channels")
    return image


def raw_counts(image: np.ndarray, name: str) -> np.ndarray:
    """The same values in the machine's own byte order.

    Raises:
        ImageError: They are neither uint8 nor uint16; ``name`` says whose.
    """
    image = image.astype(image.dtype.newbyteorder("="), copy=False)
    if image.dtype not in (np.uint8, np.uint16):
        raise ImageError("wrong_dtype", name, f"{image.dtype}, expected uint8 or uint16")
    return image


def _decode(file: BinaryIO, path: str) -> np.ndarray:
    if path.endswith(".npy"):
        image = np.load(file, allow_pickle=False)
        return image.transpose(2, 0, 1) if image.ndim == 3 else image
    if path.lower().endswith((".tif", ".tiff")):
        with tifffile.TiffFile(file) as tiff:
            series = tiff.series[0]
            image, axes = series.asarray(), series.axes
        long = [a for a, n in zip(axes, image.shape, strict=True) if n > 1 or a in "YX"]
        image = image.reshape([n for a, n in zip(axes, image.shape, strict=True) if a in long])
        if len(long) == 3:  # channels, or unnamed pages of a stack; samples (S) may come last
            extra = next(a for a in long if a not in "YX")
            image = np.moveaxis(image, long.index(extra), 0)
        return image
    with Image.open(file) as image:
        image = np.asarray(image)
    return image.transpose(2, 0, 1) if image.ndim == 3 else image


class SiteFiles:
    """Images that lie in files: what is there, and one site read at a time.

    Args:
        folder: What file names are relative to.
        channels: Names of the C channels.
        found: One row a site: experiment, plate, well, site, ``files`` (tuple of names: one a channel, or one of all
            channels) and ``missing`` (those of them that are not there).
        strays: Names of images whose place is unknown.
        dtype: uint8 or uint16 where the layout promises it.
        numbered_sites: Whether the layout numbers sites, so that a lacking one can be told.
    """

    def __init__(
        self,
        folder: Folder,
        channels: list[str],
        found: pd.DataFrame,
        strays: Sequence[str] = (),
        dtype: str | None = None,
        numbered_sites: bool = True,
    ) -> None:
        self.folder, self.channels, self.found = folder, channels, found
        self.strays, self.dtype, self.numbered_sites = list(strays), dtype, numbered_sites

    def stamp(self, files: tuple[str, ...], checksum: bool = False) -> list:
        """What a change of the files changes: name, size and time; with ``checksum`` a hash of the content instead of the time."""
        stamps = []
        for name in files:
            facts = self.folder.facts(name) or {}
            mark = time_of(facts)
            if checksum:
                mark = hashlib.blake2b(self.folder.read(name), digest_size=16).hexdigest()
            stamps.append([name, facts.get("size"), mark])
        return stamps

    def read(self, files: tuple[str, ...]) -> np.ndarray:
        """(C, H, W) of one site.

        Raises:
            ImageError: A file cannot be read, or does not fit the others or the number of channels.
        """
        images = [read_image(self.folder, name) for name in files]
        first = images[0]
        if len(files) == 1:
            stack = first if first.ndim == 3 else first[None]
        else:
            for name, image in zip(files, images, strict=True):
                finding = (
                    "unequal_channels" if image.ndim == 3
                    else "wrong_dtype" if image.dtype != first.dtype
                    else "wrong_shape" if image.shape != first.shape
                    else None
                )  # fmt: skip
                if finding:
                    raise ImageError(
                        finding,
                        self.folder.join(name),
                        f"{image.dtype} of shape {image.shape}, expected one channel of {first.dtype} and shape "
                        f"{first.shape[-2:]} as in {files[0]}",
                    )
            stack = np.stack(images)
        return np.ascontiguousarray(self._all_channels(stack, self.folder.join(files[0])))

    def _all_channels(self, image: np.ndarray, name: str) -> np.ndarray:
        """The (C, H, W) image itself; refused by name if it has more or fewer channels than the screen."""
        if len(image) != len(self.channels):
            raise ImageError(
                "unequal_channels",
                name,
                f"{len(image)} channels, expected {len(self.channels)} ({', '.join(self.channels)})",
            )
        return image


def write_json(path: str | Path, content: Any, indent: int | None = 1) -> None:
    """Write JSON whole or not at all."""
    fs, name = fsspec.core.url_to_fs(str(path))
    with fs.open(f"{name}.part", "w", encoding="utf-8") as file:
        json.dump(content, file, indent=indent, default=_plain)
    if isinstance(fs, LocalFileSystem):
        os.replace(f"{name}.part", name)  # atomic, also over an old one
    else:
        fs.mv(f"{name}.part", name)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} ({type(value).__name__}) cannot be kept as JSON")


def read_json(path: str | Path) -> Any:
    """Read JSON, with the file's name in the error."""
    fs, name = fsspec.core.url_to_fs(str(path))
    try:
        return json.loads(fs.cat_file(name).decode("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: damaged ({error}); delete it to start afresh") from error
