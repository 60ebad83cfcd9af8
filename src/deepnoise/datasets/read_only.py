"""Base class of the datasets that a run reads and never writes."""

from __future__ import annotations

from typing import Any, TypeVar

from kedro.io import AbstractDataset

from deepnoise.errors import InputError

Loaded = TypeVar("Loaded")


class ReadOnlyDataset(AbstractDataset[Any, Loaded]):
    """A dataset that refuses to be saved; a subclass says in ``read_only`` why."""

    read_only: str

    def save(self, data: Any) -> None:
        raise InputError(self.read_only)
