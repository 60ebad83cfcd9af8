"""Heat maps in the plate's own geometry, one thing at a time. Colours (viridis) are readable by the colour-blind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from deepnoise.wells import PLATE_FORMATS, places, plate_format_of, row_name

ACROSS = 3
"""Plates beside one another."""
SHOWN = 12
"""Plates in a figure, at most."""


def spread(plates: Sequence[tuple[str, str]], number: int = SHOWN) -> list[tuple[str, str]]:
    """At most so many of the plates, evenly from first to last."""
    return [plates[i] for i in np.unique(np.linspace(0, len(plates) - 1, number).round().astype(int))] if plates else []


def draw_plate_maps(
    layers: Mapping[str, pd.Series], shown: Sequence[tuple[str, str]], limits: tuple[float, float] | None = None
) -> go.Figure:
    """Plates beside one another; a menu chooses the layer.

    Args:
        layers: Name -> values by (experiment, plate, well).
        shown: (experiment, plate) of the plates.
        limits: Values of the darkest and the brightest colour; None: the 2 % and the 98 % quantile of each plate and layer.
    """
    rows, columns = PLATE_FORMATS[
        plate_format_of(sorted({well for v in layers.values() for well in v.index.levels[2]}))
    ]
    across = min(ACROSS, len(shown))
    down = -(-len(shown) // across)
    height = 90 + down * 210
    figure = make_subplots(
        rows=down,
        cols=across,
        subplot_titles=[f"{experiment} / {plate}" for experiment, plate in shown],
        vertical_spacing=min(0.9 / down, 50 / height),
        horizontal_spacing=0.04,
    )
    owners: list[str] = []
    for layer, values in layers.items():
        for place, (experiment, plate) in enumerate(shown):
            grid = np.full((rows, columns), np.nan)
            colour = grid.copy()
            if (experiment, plate) in values.index:
                own = values.loc[experiment, plate]
                low, high = limits or np.quantile(own, [0.02, 0.98])
                where = places(own.index)
                grid[where] = own.to_numpy(float)
                colour[where] = np.clip((own.to_numpy(float) - low) / max(high - low, 1e-9), 0, 1)
            figure.add_heatmap(
                z=_listed(colour, 3),
                customdata=_listed(grid, 3 if limits else 1),
                x=[f"{c + 1:02d}" for c in range(columns)],
                y=[row_name(r) for r in range(rows)],
                colorscale="Viridis",
                zmin=0,
                zmax=1,
                showscale=place == 0,
                colorbar={"thickness": 10, "tickvals": [0, 1], "ticktext": ["low", "high"]},
                hovertemplate=f"{experiment}/{plate} %{{y}}%{{x}}: %{{customdata}}<extra>{layer}</extra>",
                hoverongaps=False,
                xgap=1,
                ygap=1,
                visible=not owners or owners[0] == layer,
                row=place // across + 1,
                col=place % across + 1,
            )
            owners.append(layer)
    buttons = [
        {"label": layer, "method": "restyle", "args": ["visible", [owner == layer for owner in owners]]}
        for layer in layers
    ]
    figure.update_xaxes(type="category", tickfont_size=8, tickangle=0, dtick=max(1, columns // 6), showgrid=False)
    figure.update_yaxes(type="category", tickfont_size=8, autorange="reversed", dtick=max(1, rows // 8), showgrid=False)
    figure.update_annotations(font_size=11)
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 10, "r": 10, "t": 80, "b": 10},
        font={"size": 12},
        plot_bgcolor="#E5E5E5",
        updatemenus=[{"buttons": buttons, "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "pad": {"b": 30}}],
    )
    return figure


def _listed(values: np.ndarray, digits: int) -> list[list[float | None]]:
    """Rounded, as lists: a place without a well is None."""
    return [[None if np.isnan(v) else round(float(v), digits) for v in row] for row in values]
