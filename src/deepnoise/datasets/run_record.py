"""The record of runs: when each node last ran, how long it took and with which version of the package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from kedro.io import AbstractDataset

from deepnoise.datasets.json_files import read_json, write_json
from deepnoise.datasets.read_only import ReadOnlyDataset


class RunRecordDataset(AbstractDataset[dict[str, Any], dict[str, Any]]):
    """A JSON file: name of the node -> its last run. Without a file it loads as an empty dict.

    Not versioned, because partial runs update their own nodes and keep the rest.

    Catalog::

        run_record:
          type: deepnoise.datasets.run_record.RunRecordDataset
          filepath: data/08_reporting/demo/run_record.json

    Args:
        filepath: The file: a path or an fsspec URL.
        metadata: For kedro-viz.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._filepath = filepath
        self.metadata = metadata

    def load(self) -> dict[str, Any]:
        return read_json(self._filepath) if self._exists() else {}

    def save(self, data: dict[str, Any]) -> None:
        fs, path = fsspec.core.url_to_fs(self._filepath)
        fs.makedirs(fs._parent(path), exist_ok=True)
        write_json(self._filepath, data)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other processes from changing the record within a block; waits for them. Not behind a URL."""
        fs, path = fsspec.core.url_to_fs(self._filepath)
        if not isinstance(fs, LocalFileSystem):
            yield
            return
        from filelock import FileLock

        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            yield

    def _exists(self) -> bool:
        fs, path = fsspec.core.url_to_fs(self._filepath)
        return bool(fs.exists(path))

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath}


class AbsentDataset(ReadOnlyDataset[None]):
    """Takes the place of an entry that does not exist yet, and loads None.

    With it the report can be written from the chapters that do exist, and says which are missing.

    Catalog::

        training_chapter:
          type: deepnoise.datasets.run_record.AbsentDataset
    """

    read_only = "an absent entry cannot be written"

    def load(self) -> None:
        return None

    def _exists(self) -> bool:
        return False

    def _describe(self) -> dict[str, Any]:
        return {}
