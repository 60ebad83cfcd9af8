"""Figures of the growth chart: the accuracy of every arm, and signal against leak."""

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
    """Draw the top-1 of every arm with the range over its seeds; tiers by colour, controls hatched.

    Args:
        table: The table ``growth_chart``; arms without calls are left out.
    """
    table = table.dropna(subset=["top1"])
    figure = new_figure(26 * len(table) + 140)
    for tier, arms in table.groupby("tier", sort=False):
        hatched = arms["kind"].isin(["control", "leave_one_out"])
        figure.add_bar(
            y=arms["arm"].tolist(),
            x=arms["top1"].tolist(),
            orientation="h",
            name=f"tier {tier}",
            marker={
                "color": tier_colour(str(tier)),
                "pattern": {"shape": ["/" if arm_hatched else "" for arm_hatched in hatched]},
            },
            error_x={
                "type": "data",
                "symmetric": False,
                "array": (arms["top1_high"] - arms["top1"]).tolist(),
                "arrayminus": (arms["top1"] - arms["top1_low"]).tolist(),
                "color": "#333333",
            },
            text=[f"{top1:.1%}" for top1 in arms["top1"]],
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
    figure.update_xaxes(title_text="top-1 by well (line: range over seeds)", tickformat=".0%", rangemode="tozero")
    figure.update_yaxes(categoryorder="array", categoryarray=table["arm"].tolist()[::-1])
    return figure


def draw_scatter(table: pd.DataFrame) -> go.Figure:
    """Draw signal against leak: top-1 against the accuracy of the experiment probe on the same embeddings.

    Args:
        table: The table ``growth_chart``; arms without a leak probe or without calls are left out.
    """
    probed = table.dropna(subset=["leak_experiment", "top1"])
    if probed.empty:
        return say("no arm has a leak probe of the experiment")
    figure = new_figure(480)
    for (tier, arm_type), arms in probed.groupby(["tier", "kind"], sort=False):
        figure.add_scatter(
            x=arms["leak_experiment"].tolist(),
            y=arms["top1"].tolist(),
            mode="markers+text",
            name=f"{arm_type}, {tier}".replace("_", " "),
            text=arms["arm"].tolist(),
            textposition="top center",
            textfont_size=9,
            marker={"color": tier_colour(str(tier)), "symbol": MARKERS[str(arm_type)], "size": 10},
            cliponaxis=False,
        )
    figure.add_vline(
        x=float(probed["leak_experiment_chance"].iloc[0]),
        line={"dash": "dot", "color": "black"},
        annotation_text="chance",
    )
    figure.update_xaxes(
        title_text="leak: experiment predicted from the embedding (balanced accuracy)", tickformat=".0%"
    )
    figure.update_yaxes(title_text="signal: top-1 by well", tickformat=".0%")
    return figure
