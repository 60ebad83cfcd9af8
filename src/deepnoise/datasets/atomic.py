"""JSON, text and plotly datasets that write a file completely or not at all.

A kill while writing leaves no version behind.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from kedro.io.core import get_filepath_str
from kedro_datasets.json import JSONDataset
from kedro_datasets.text import TextDataset

from deepnoise.datasets.json_files import write_atomically
from deepnoise.datasets.previews import PlotlyPreview

if TYPE_CHECKING:
    import plotly.graph_objects as go


def save_bytes(dataset: Any, content: bytes) -> None:
    """Write a file atomically to the path and version that a dataset saves to.

    Args:
        dataset: A Kedro dataset with a file system (``_fs``) and versions.
        content: The whole file.
    """
    path = get_filepath_str(dataset._get_save_path(), dataset._protocol)
    with write_atomically(path, dataset._fs) as staged, dataset._fs.open(staged, "wb") as file:
        file.write(content)
    dataset._invalidate_cache()


class AtomicJSONDataset(JSONDataset):
    """JSON. Takes the arguments of ``json.JSONDataset``.

    Catalog::

        scores:
          type: deepnoise.datasets.atomic.AtomicJSONDataset
          filepath: data/08_reporting/demo/scores.json
          versioned: true
    """

    def save(self, data: Any) -> None:
        save_bytes(self, json.dumps(data, **self._save_args).encode())


class AtomicTextDataset(TextDataset):
    """Text. Takes the arguments of ``text.TextDataset``.

    Catalog::

        report:
          type: deepnoise.datasets.atomic.AtomicTextDataset
          filepath: data/08_reporting/demo/report.html
          versioned: true
    """

    def save(self, data: str) -> None:
        save_bytes(self, data.encode())


class FigureDataset(JSONDataset):
    """A plotly figure as JSON. Takes the arguments of ``json.JSONDataset``.

    Not a subclass of ``plotly.JSONDataset``, which imports plotly at the start of every run.

    Catalog::

        score_plot:
          type: deepnoise.datasets.atomic.FigureDataset
          filepath: data/08_reporting/demo/score_plot.json
          versioned: true
    """

    def save(self, data: go.Figure) -> None:
        save_bytes(self, str(data.to_json()).encode())

    def load(self) -> go.Figure:
        import plotly.io

        return plotly.io.from_json(self._read())

    def preview(self) -> PlotlyPreview:  # type: ignore[override]
        """The figure as JSON, for kedro viz."""
        return PlotlyPreview(json.loads(self._read()))

    def _read(self) -> str:
        path = get_filepath_str(self._get_load_path(), self._protocol)
        return str(self._fs.cat_file(path).decode())
