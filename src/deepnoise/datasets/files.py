"""Helpers of the datasets: folders behind any fsspec URL, csv files with clear errors, images of sites."""

from __future__ import annotations

import hashlib
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

IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".npy")


class Folder:
    """A folder on a local disk or behind another fsspec URL, such as ``s3://`` or ``memory://``.

    Names of files and folders are relative to it.

    Args:
        url: Path or URL.
    """

    def __init__(self, url: str | Path) -> None:
        self.url = str(url).rstrip("/")
        self.fs, self.path = fsspec.core.url_to_fs(self.url)
        self.local = isinstance(self.fs, LocalFileSystem)
        self._listed: dict[str, dict[str, dict[str, Any]]] = {}

    def join(self, name: str) -> str:
        """The path of a file for the file system. An absolute local name is returned unchanged."""
        return name if os.path.isabs(name) and self.local else f"{self.path}/{name}"

    def sub(self, name: str) -> Folder:
        """A subfolder."""
        return Folder(f"{self.url}/{name}")

    def listing(self, name: str) -> dict[str, dict[str, Any]]:
        """Name -> fsspec info of each file and folder in a subfolder. The listing is cached."""
        path = self.join(name).rstrip("/")
        if path not in self._listed:
            try:
                entries = self.fs.ls(path, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                entries = []
            self._listed[path] = {entry["name"].rstrip("/").rsplit("/", 1)[-1]: entry for entry in entries}
        return self._listed[path]

    def info(self, name: str) -> dict[str, Any] | None:
        """The fsspec info of a file; None if it does not exist."""
        folder, _, last = name.rpartition("/")
        return self.listing(folder).get(last)

    def folders(self, name: str = "") -> list[str]:
        """Sorted names of the folders in a subfolder."""
        return sorted(n for n, info in self.listing(name).items() if self.is_folder(info))

    def is_folder(self, info: dict[str, Any]) -> bool:
        """Whether a listed entry is a folder, or a link to one."""
        return info["type"] == "directory" or bool(info.get("islink") and self.fs.isdir(info["name"]))

    def read(self, name: str) -> bytes:
        """All bytes of a file."""
        return bytes(self.fs.cat_file(self.join(name)))


def modification_stamp(info: dict[str, Any]) -> str:
    """The time of a file's last change, or the ETag where the file system has no such time."""
    if info.get("islink"):  # the listing has the time of the link, not of the file it points to
        return str(os.stat(info["name"]).st_mtime)
    return str(next((info[k] for k in ("mtime", "ETag", "LastModified", "updated", "created") if k in info), None))


def read_csv(path: str | Path, needed: Sequence[str]) -> pd.DataFrame:
    """Read a csv as text, with at least the needed columns.

    Only an empty field counts as missing; "NA" and "null" are ordinary names. A byte-order mark is ignored.
    The file may be compressed (.csv.gz).

    Raises:
        InputError: The file does not exist, is empty or not a csv, or lacks a column.
    """
    fs, name = fsspec.core.url_to_fs(str(path))
    if fs.isdir(name):
        raise InputError(f"{path} is a folder, expected a csv with columns {', '.join(needed)}. Check raw_root")
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
                f"{path}: its lines have more fields than its header ({first_few(table.columns, 12)}); "
                "is there an extra comma?"
            )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as csv: {error}") from error
    missing = [c for c in needed if c not in table.columns]
    if missing:
        hint = " Is it separated by commas?" if len(table.columns) == 1 else closest(missing[0], table.columns)
        raise InputError(
            f"{path}: column {missing[0]!r} is missing; needed: {', '.join(needed)}; "
            f"received: {first_few(table.columns, 12)}.{hint}"
        )
    return table


def read_image(folder: Folder, name: str) -> np.ndarray:
    """Read one image file (.png, .tif, .npy) without rescaling its values.

    Returns:
        (H, W), or (C, H, W) where the file has several channels. A .npy or colour .png is stored as (H, W,
        C); a .tif declares its own axes.

    Raises:
        ImageError: The file does not exist, is damaged, or is neither uint8 nor uint16.
    """
    path = folder.join(name)
    try:
        with folder.fs.open(path, "rb") as file:
            image = _decode(file, path)
    except FileNotFoundError as error:
        raise ImageError("missing_image", path, "no such file") from error
    except IsADirectoryError as error:
        raise ImageError("unreadable_image", path, "is a folder, expected an image") from error
    except Exception as error:  # decoders raise zlib, struct, index and memory errors, among others
        reason = str(error).replace(str(path), "").strip() or type(error).__name__
        raise ImageError("unreadable_image", path, f"cannot be read as an image ({reason})") from error
    image = raw_counts(image, path)
    if image.ndim not in (2, 3):
        raise ImageError("wrong_shape", path, f"shape {image.shape}, expected (H, W), or (H, W) with channels")
    return image


def raw_counts(image: np.ndarray, name: str) -> np.ndarray:
    """The same values in the machine's byte order.

    Args:
        image: An image of any shape.
        name: The name of its file, for the error.

    Raises:
        ImageError: The dtype is neither uint8 nor uint16.
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
            channel_axis = next(a for a in long if a not in "YX")
            image = np.moveaxis(image, long.index(channel_axis), 0)
        return image
    with Image.open(file) as image:
        image = np.asarray(image)
    return image.transpose(2, 0, 1) if image.ndim == 3 else image


class SiteFiles:
    """The image files of a screen: their list, and a reader of one site at a time.

    Args:
        folder: The folder that file names are relative to.
        channels: Names of the C channels.
        found: One row per site: experiment, plate, well, site, ``files`` (tuple of file names: one per
            channel, or a single one with all channels) and ``missing`` (those of them that do not exist).
        strays: Names of image files that belong to no known site.
        dtype: uint8 or uint16 if all images must have it.
        numbered_sites: Whether the file layout numbers sites, so that a missing site can be detected.
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
        """Name, size and modification time of each file.

        With ``checksum`` a hash of the content takes the place of the time.
        """
        stamps = []
        for name in files:
            info = self.folder.info(name) or {}
            stamp = modification_stamp(info)
            if checksum:
                stamp = hashlib.blake2b(self.folder.read(name), digest_size=16).hexdigest()
            stamps.append([name, info.get("size"), stamp])
        return stamps

    def read(self, files: tuple[str, ...]) -> np.ndarray:
        """The (C, H, W) image of one site.

        Raises:
            ImageError: A file cannot be read, differs in shape or dtype from the others, or the number of
                channels is not that of the screen.
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
        """The (C, H, W) image unchanged, after a check that it has as many channels as the screen."""
        if len(image) != len(self.channels):
            raise ImageError(
                "unequal_channels",
                name,
                f"{len(image)} channels, expected {len(self.channels)} ({', '.join(self.channels)})",
            )
        return image
