"""Folders on a local disk or behind any fsspec URL."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem


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
