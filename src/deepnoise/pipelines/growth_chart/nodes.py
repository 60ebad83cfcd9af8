"""Nodes of ``growth_chart``: adapters of ``deepnoise.growth_chart``. torch is imported when a node runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from plotly.graph_objects import Figure

from deepnoise.growth_chart.arms import Settings, plan_arms
from deepnoise.ingestion.layouts import discover_groups, visible_labels
from deepnoise.normalization.illumination import corrected_store
from deepnoise.parameters import (
    GrowthChartParameters,
    InferenceParameters,
    NormalizationParameters,
    PlateBalancingParameters,
    TrainingParameters,
)


def run_arms(
    image_store: Any,
    illumination_fields: pd.DataFrame,
    sites: pd.DataFrame,
    wells: pd.DataFrame,
    folds: pd.DataFrame,
    plate_histograms: pd.DataFrame,
    heldout_labels: pd.DataFrame,
    kept_growth_arms: dict[str, dict[str, Any]],
    parameters: GrowthChartParameters,
    normalization: NormalizationParameters,
    training: TrainingParameters,
    inference: InferenceParameters,
    balancing: PlateBalancingParameters,
) -> Iterator[tuple[dict[str, dict[str, Any]], dict[str, Any]]]:
    """Train and score every arm that is not known yet, and say after each what is done."""
    from deepnoise.growth_chart.run import Screen, Truth, run_arms

    store = corrected_store(image_store, illumination_fields)
    layout = discover_groups(visible_labels(wells, folds, "design"))
    screen = Screen(store, sites, wells, folds, plate_histograms, layout, normalization.illumination)
    arms = plan_arms(parameters, Settings(normalization, training, adabn=inference.adabn))
    yield from run_arms(
        arms, parameters.seeds, screen, Truth(wells, heldout_labels, folds), kept_growth_arms, inference, balancing
    )


def summarize_arms(
    growth_arms: dict[str, dict[str, Any]],
    growth_chart_complete: dict[str, Any],
    parameters: GrowthChartParameters,
    normalization: NormalizationParameters,
    training: TrainingParameters,
) -> pd.DataFrame:
    """All arms side by side."""
    from deepnoise.growth_chart import summary

    arms = plan_arms(parameters, Settings(normalization, training))
    return summary.summarize_arms(arms, parameters.seeds, growth_arms, growth_chart_complete)


def draw_chart(growth_chart: pd.DataFrame) -> tuple[Figure, Figure, str]:
    """The ladder, signal against leak, and the table as text."""
    from deepnoise.growth_chart import figures, summary

    return figures.draw_ladder(growth_chart), figures.draw_scatter(growth_chart), summary.format_chart(growth_chart)


def write_chapter(
    growth_chart: pd.DataFrame, growth_ladder_plot: Figure, growth_scatter_plot: Figure
) -> dict[str, Any]:
    """What the report shows of the growth chart."""
    from deepnoise.growth_chart import chapter

    return chapter.write_chapter(growth_chart, growth_ladder_plot, growth_scatter_plot).as_json()
