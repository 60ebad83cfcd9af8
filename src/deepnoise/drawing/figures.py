"""Colours that colour-blind readers can distinguish, and the style shared by all interactive figures.

These are plotly figures. The page draws them at its own width with text of readable size, so panels are
stacked vertically, never side by side.
"""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

TIER_COLOURS = {
    "T0": "#999999",
    "T1": "#0072B2",
    "T1c": "#56B4E9",
    "T2": "#E69F00",
    "T3": "#CC79A7",
    "T2+T3": "#D55E00",
}
"""Tier -> colour; a tier that is not listed is black."""

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
"""Eight colours that colour-blind readers can distinguish (Okabe and Ito 2008)."""

REST = "#D0D0D0"
"""Grey, for items without a colour of their own."""


def tier_colour(tier: str) -> str:
    """The colour of a tier."""
    return TIER_COLOURS.get(tier, "#000000")


def new_figure(height: int, titles: Sequence[str] = ("",), heights: Sequence[float] | None = None) -> go.Figure:
    """An empty figure with vertically stacked panels.

    Args:
        height: Pixels.
        titles: One per panel.
        heights: Relative height of each panel; None: all equal.
    """
    figure = make_subplots(
        rows=len(titles),
        cols=1,
        subplot_titles=list(titles) if any(titles) else None,
        row_heights=list(heights) if heights else None,
        vertical_spacing=min(0.5 / len(titles), 90 / height),
    )
    figure.update_annotations(font_size=13, x=0, xanchor="left")
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 10, "r": 30, "t": 30, "b": 10},
        font={"size": 12},
        legend={"orientation": "h", "y": -0.12, "x": 0, "yanchor": "top"},
        hoverlabel={"namelength": -1},
        barmode="overlay",
    )
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    return figure


def say(text: str) -> go.Figure:
    """A figure with only a sentence, for when there is nothing to draw."""
    figure = new_figure(120)
    figure.add_annotation(text=text, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure


def words(name: str) -> str:
    """A name in plain words: ``group_filter`` -> "group filter"."""
    return name.replace("_", " ")
