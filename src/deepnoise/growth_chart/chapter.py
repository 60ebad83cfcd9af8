"""The growth chart's chapter of the report."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from deepnoise.report.chapter import SHARES, Chapter, Section, figure, table

COLUMNS = [
    "arm",
    "kind",
    "tier",
    "scored",
    "seeds",
    "top1",
    "redealt_top1",
    "same_plate",
    "chance",
    "reference",
    "gain",
    "control",
    "control_gain",
    "map",
    "leak_plate",
    "leak_experiment",
]


def write_chapter(chart: pd.DataFrame, ladder: go.Figure, scatter: go.Figure) -> Chapter:
    """The chapter of the growth chart.

    Args:
        chart: The table ``growth_chart``.
        ladder: The entry ``growth_ladder_plot``.
        scatter: The entry ``growth_scatter_plot``.
    """
    exhibits = [
        figure("What each step adds", ladder, "growth_ladder_plot",
               "One step after another is switched on. Hatched bars: controls of equal compute, and arms that leave one step out."),
        figure("Signal against leak of each step", scatter, "growth_scatter_plot",
               "Up: more perturbations identified. Left: the experiment is harder to predict from the embedding."),
        table("Arms", chart[COLUMNS], "growth_chart", "Gains compare the same wells and seeds.", {*SHARES, "gain", "control_gain"}),
    ]  # fmt: skip
    return Chapter([Section("Growth chart", "What each step of the method adds, trained from scratch.", exhibits)])
