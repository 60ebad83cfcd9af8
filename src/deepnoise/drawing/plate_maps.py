"""Heat maps in the geometry of the plate, one layer at a time, in colours that colour-blind people can read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from deepnoise.wells import PLATE_FORMATS, places, plate_format_of, row_name

PLATES_PER_ROW = 3
"""Most plates side by side."""
MAX_PLATES = 12
"""Most plates in a figure."""


def spread(plates: Sequence[tuple[str, str]], number: int = MAX_PLATES) -> list[tuple[str, str]]:
    """At most ``number`` of the plates, evenly spaced from first to last."""
    return [plates[i] for i in np.unique(np.linspace(0, len(plates) - 1, number).round().astype(int))] if plates else []


def draw_plate_maps(
    layers: Mapping[str, pd.Series], plates: Sequence[tuple[str, str]], limits: tuple[float, float] | None = None
) -> go.Figure:
    """Plates side by side; a menu selects the layer.

    Args:
        layers: Name -> values by (experiment, plate, well).
        plates: (experiment, plate) of the plates to draw.
        limits: Values of the darkest and the brightest colour; None: the 2 % and the 98 % quantile of each
            plate and layer.
    """
    rows, columns = PLATE_FORMATS[
        plate_format_of(sorted({well for values in layers.values() for well in values.index.levels[2]}))
    ]
    grid_columns = min(PLATES_PER_ROW, len(plates))
    grid_rows = -(-len(plates) // grid_columns)
    height = 90 + grid_rows * 210
    figure = make_subplots(
        rows=grid_rows,
        cols=grid_columns,
        subplot_titles=[f"{experiment} / {plate}" for experiment, plate in plates],
        vertical_spacing=min(0.9 / grid_rows, 50 / height),
        horizontal_spacing=0.04,
    )
    layer_of_trace: list[str] = []
    for layer, values in layers.items():
        for position, (experiment, plate) in enumerate(plates):
            grid = np.full((rows, columns), np.nan)
            colour = grid.copy()
            if (experiment, plate) in values.index:
                plate_values = values.loc[experiment, plate]
                low, high = limits or np.quantile(plate_values, [0.02, 0.98])
                wells = places(plate_values.index)
                grid[wells] = plate_values.to_numpy(float)
                colour[wells] = np.clip((plate_values.to_numpy(float) - low) / max(high - low, 1e-9), 0, 1)
            figure.add_heatmap(
                z=_rounded_lists(colour, 3),
                customdata=_rounded_lists(grid, 3 if limits else 1),
                x=[f"{c + 1:02d}" for c in range(columns)],
                y=[row_name(r) for r in range(rows)],
                colorscale="Viridis",
                zmin=0,
                zmax=1,
                showscale=position == 0,
                colorbar={"thickness": 10, "tickvals": [0, 1], "ticktext": ["low", "high"]},
                hovertemplate=f"{experiment}/{plate} %{{y}}%{{x}}: %{{customdata}}<extra>{layer}</extra>",
                hoverongaps=False,
                xgap=1,
                ygap=1,
                visible=not layer_of_trace or layer_of_trace[0] == layer,
                row=position // grid_columns + 1,
                col=position % grid_columns + 1,
            )
            layer_of_trace.append(layer)
    buttons = [
        {"label": layer, "method": "restyle", "args": ["visible", [drawn == layer for drawn in layer_of_trace]]}
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


def _rounded_lists(values: np.ndarray, digits: int) -> list[list[float | None]]:
    """Rounded values as lists; None where there is no well."""
    return [[None if np.isnan(v) else round(float(v), digits) for v in row] for row in values]
