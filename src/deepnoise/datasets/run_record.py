"""When each node last ran, how long it took and under which version its entries were saved."""

from __future__ import annotations

from typing import Any

import fsspec
from kedro.io import AbstractDataset

from deepnoise.datasets.files import read_json, write_json


class RunRecordDataset(AbstractDataset[dict[str, Any], dict[str, Any]]):
    """JSON, node -> facts; not versioned: partial runs add to it. Loads empty where nothing ran yet.

    Catalog::

        run_record:
          type: deepnoise.datasets.run_record.RunRecordDataset
          filepath: data/08_reporting/demo/run_record.json
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

    def _exists(self) -> bool:
        fs, path = fsspec.core.url_to_fs(self._filepath)
        return bool(fs.exists(path))

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath}


class AbsentDataset(AbstractDataset[None, None]):
    """Stands for an entry that was not made: loads None. The report is written all the same and says what it lacks."""

    def load(self) -> None:
        return None

    def save(self, data: None) -> None:
        raise NotImplementedError("an absent entry cannot be written")

    def _exists(self) -> bool:
        return False

    def _describe(self) -> dict[str, Any]:
        return {}
