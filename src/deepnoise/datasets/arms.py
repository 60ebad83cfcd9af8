"""Results of the arms of a growth chart: one JSON file per arm and seed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset

from deepnoise.datasets.json_files import read_json, write_json
from deepnoise.errors import InputError

logger = logging.getLogger(__name__)


class ArmsDataset(AbstractDataset[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]):
    """A folder of records by name.

    Saving adds records to the folder; each file is written completely or not at all. An empty or absent
    folder loads as an empty dict. A damaged record is left out and logged.

    Catalog::

        growth_arms:
          type: deepnoise.datasets.arms.ArmsDataset
          root: data/08_reporting/demo/growth_arms

    Args:
        root: The folder.
        metadata: For kedro-viz.
    """

    def __init__(self, *, root: str, metadata: dict[str, Any] | None = None) -> None:
        self._root = Path(root)
        self.metadata = metadata

    def save(self, data: dict[str, dict[str, Any]]) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        for name, record in data.items():
            write_json(self._root / f"{name}.json", record)

    def load(self) -> dict[str, dict[str, Any]]:
        records = {}
        for path in sorted(self._root.glob("*.json")):
            try:
                records[path.stem] = read_json(path)
            except InputError as error:
                logger.warning("%s; this arm will be run again", error)
        return records

    def _exists(self) -> bool:
        return True  # an empty folder is a valid state

    def _describe(self) -> dict[str, Any]:
        return {"root": str(self._root)}
