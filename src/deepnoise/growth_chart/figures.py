"""Figures of the growth chart: the ladder of its arms, and signal against leak."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from deepnoise.drawing.figures import new_figure, say, tier_colour

MARKERS = {
    "step": "circle",
    "control": "x",
    "transductive": "triangle-up",
    "design": "square",
    "leave_one_out": "diamond",
}


def draw_ladder(table: pd.DataFrame) -> go.Figure:
    """Top-1 of every arm with the range of its seeds; tiers by colour, controls hatched.

    Args:
        table: The table ``growth_chart``.
    """
    figure = new_figure(26 * len(table) + 140)
    for tier, own in table.groupby("tier", sort=False):
        hatched = own["kind"].isin(["control", "leave_one_out"])
        figure.add_bar(
            y=own["arm"].tolist(),
            x=own["top1"].tolist(),
            orientation="h",
            name=f"tier {tier}",
            marker={"color": tier_colour(str(tier)), "pattern": {"shape": ["/" if h else "" for h in hatched]}},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": (own["top1_high"] - own["top1"]).tolist(),
                "arrayminus": (own["top1"] - own["top1_low"]).tolist(),
                "color": "#333333",
            },
            text=[f"{v:.1%}" for v in own["top1"]],
            textposition="inside",
            insidetextanchor="middle",
        )
    figure.add_scatter(
        y=table["arm"].tolist(),
        x=table["chance"].tolist(),
        mode="markers",
        name="chance",
        marker={"symbol": "line-ns", "size": 14, "line": {"width": 2, "color": "black"}},
    )
    figure.update_xaxes(title_text="top-1 by well (line: range of the seeds)", tickformat=".0%", rangemode="tozero")
    figure.update_yaxes(categoryorder="array", categoryarray=table["arm"].tolist()[::-1])
    return figure


def draw_scatter(table: pd.DataFrame) -> go.Figure:
    """Signal against leak: top-1 over the experiment probe of the same embeddings.

    Args:
        table: The table ``growth_chart``; arms without a leak probe are left out.
    """
    drawn = table.dropna(subset=["leak_experiment"])
    if drawn.empty:
        return say("no arm has a leak probe of the experiment")
    figure = new_figure(480)
    for (tier, kind), own in drawn.groupby(["tier", "kind"], sort=False):
        figure.add_scatter(
            x=own["leak_experiment"].tolist(),
            y=own["top1"].tolist(),
            mode="markers+text",
            name=f"{kind}, {tier}".replace("_", " "),
            text=own["arm"].tolist(),
            textposition="top center",
            textfont_size=9,
            marker={"color": tier_colour(str(tier)), "symbol": MARKERS[str(kind)], "size": 10},
            cliponaxis=False,
        )
    figure.add_vline(
        x=float(drawn["leak_experiment_chance"].iloc[0]),
        line={"dash": "dot", "color": "black"},
        annotation_text="chance",
    )
    figure.update_xaxes(title_text="leak: experiment named from the embedding", tickformat=".0%")
    figure.update_yaxes(title_text="signal: top-1 by well", tickformat=".0%")
    return figure
