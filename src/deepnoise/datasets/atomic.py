"""Kedro's JSON, text and plotly datasets, written whole or not at all: a kill while writing leaves no version behind."""

from __future__ import annotations

import json
from typing import Any

import plotly.graph_objects as go
from kedro.io.core import get_filepath_str
from kedro_datasets.json import JSONDataset
from kedro_datasets.plotly import JSONDataset as PlotlyDataset
from kedro_datasets.text import TextDataset


def write_atomically(dataset: Any, content: bytes) -> None:
    """Save the bytes of a dataset beside their place, then move them there.

    Args:
        dataset: A Kedro dataset with a file system of its own.
        content: What its file shall hold.
    """
    path = get_filepath_str(dataset._get_save_path(), dataset._protocol)
    staged = f"{path}.part"
    with dataset._fs.open(staged, "wb") as file:
        file.write(content)
    dataset._fs.mv(staged, path)
    dataset._invalidate_cache()


class AtomicJSONDataset(JSONDataset):
    """JSON; parameters as those of ``json.JSONDataset``."""

    def save(self, data: Any) -> None:
        write_atomically(self, json.dumps(data, **self._save_args).encode())


class AtomicTextDataset(TextDataset):
    """Text; parameters as those of ``text.TextDataset``."""

    def save(self, data: str) -> None:
        write_atomically(self, data.encode())


class FigureDataset(PlotlyDataset):
    """A plotly figure; parameters as those of ``plotly.JSONDataset``."""

    def save(self, data: go.Figure) -> None:
        write_atomically(self, str(data.to_json()).encode())
