"""Return types of ``preview()``. kedro-viz decides by the name of the type how to draw a preview."""

from __future__ import annotations

from typing import NewType

ImagePreview = NewType("ImagePreview", str)
"""A PNG in base64."""
PlotlyPreview = NewType("PlotlyPreview", dict)
"""A plotly figure as JSON."""
TablePreview = NewType("TablePreview", dict)
"""A table as pandas writes it to JSON with ``orient="split"``: columns, index and data."""
