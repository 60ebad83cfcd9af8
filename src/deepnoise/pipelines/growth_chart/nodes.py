"""Nodes of ``growth_chart``: adapters of ``deepnoise.growth_chart``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from deepnoise.parameters import (
    GrowthChartParameters,
    InferenceParameters,
    NormalizationParameters,
    PlateBalancingParameters,
    TrainingParameters,
)
from deepnoise.pipelines.types import DataFrame, Figure, ImageStore, RedealtImages


def run_arms(
    image_store: ImageStore,
    illumination_fields: DataFrame,
    sites: DataFrame,
    wells: DataFrame,
    folds: DataFrame,
    plate_histograms: DataFrame,
    heldout_labels: DataFrame,
    redealt_images: RedealtImages,
    redealt_fields: DataFrame,
    redealt_sites: DataFrame,
    redealt_histograms: DataFrame,
    redealt_labels: DataFrame,
    kept_growth_arms: dict[str, dict[str, Any]],
    parameters: GrowthChartParameters,
    normalization: NormalizationParameters,
    training: TrainingParameters,
    inference: InferenceParameters,
    balancing: PlateBalancingParameters,
) -> Iterator[tuple[dict[str, dict[str, Any]], dict[str, Any]]]:
    """Train and score every arm without a current record; after each, list what is done."""
    from deepnoise.growth_chart.arms import Settings, plan_arms
    from deepnoise.growth_chart.run import ChartScreen, Redealt, Truth, run_arms
    from deepnoise.ingestion.layouts import discover_groups, visible_labels
    from deepnoise.screen import Screen
    from deepnoise.tables import SCHEMAS

    no_statistics = SCHEMAS["plate_statistics"].empty()  # each arm has its own
    screen = Screen.from_store(image_store, illumination_fields, sites, wells, folds, no_statistics)
    layout = discover_groups(visible_labels(wells, folds, "design"))
    redealt = None
    if len(redealt_sites):
        dealt = Screen.from_store(redealt_images, redealt_fields, redealt_sites, wells, folds, no_statistics)
        redealt = Redealt(dealt, redealt_histograms, redealt_labels.set_index("id_code")["perturbation"])
    chart_screen = ChartScreen(screen, plate_histograms, layout, normalization.illumination, redealt)
    arms = plan_arms(parameters, Settings(normalization, training, adabn=inference.adabn))
    truth = Truth(wells, heldout_labels, folds)
    yield from run_arms(arms, parameters.seeds, chart_screen, truth, kept_growth_arms, inference, balancing)


def summarize_arms(
    growth_arms: dict[str, dict[str, Any]],
    growth_chart_complete: dict[str, Any],
    parameters: GrowthChartParameters,
    normalization: NormalizationParameters,
    training: TrainingParameters,
) -> DataFrame:
    """All arms side by side."""
    from deepnoise.growth_chart import summary
    from deepnoise.growth_chart.arms import Settings, plan_arms

    arms = plan_arms(parameters, Settings(normalization, training))
    return summary.summarize_arms(arms, parameters.seeds, growth_arms, growth_chart_complete)


def draw_chart(growth_chart: DataFrame) -> tuple[Figure, Figure, str]:
    """The ladder, signal against leak, and the table as text."""
    from deepnoise.growth_chart import figures, summary

    return figures.draw_ladder(growth_chart), figures.draw_scatter(growth_chart), summary.format_chart(growth_chart)


def write_chapter(growth_chart: DataFrame, growth_ladder_plot: Figure, growth_scatter_plot: Figure) -> dict[str, Any]:
    """What the report shows of the growth chart."""
    from deepnoise.growth_chart import chapter

    return chapter.write_chapter(growth_chart, growth_ladder_plot, growth_scatter_plot).as_json()
