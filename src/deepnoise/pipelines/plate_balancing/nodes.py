"""Nodes of ``plate_balancing``: adapters of ``deepnoise.plate_balancing``."""

from __future__ import annotations

import logging
from typing import Any

from deepnoise.parameters import PlateBalancingParameters
from deepnoise.pipelines.types import DataFrame, Figure

logger = logging.getLogger(__name__)


def discover_layout(wells: DataFrame, folds: DataFrame) -> tuple[DataFrame, DataFrame]:
    """Plate groups and the layouts in use, from the labels of plates that no fold holds out."""
    from deepnoise.ingestion import layouts

    visible = layouts.visible_labels(wells, folds, "design")
    layout = layouts.discover_groups(visible)
    return layout, layouts.layouts_in_use(visible, layout)


def pool_scores(well_scores: DataFrame, wells: DataFrame, parameters: PlateBalancingParameters) -> DataFrame:
    """One wide row per target well, from any table of scores."""
    from deepnoise.plate_balancing import balancing, scores

    pooled = scores.pool_scores(well_scores, wells, parameters.pooling)
    tied = balancing.tied_calls(pooled).mean()
    if tied > 0.1:
        logger.warning(
            "%.0f %% of the wells have the same best perturbation with the same score as another well of their plate, and these scores do "
            "not say which of them is right. Give graded scores or several models instead of single hard calls",
            100 * tied,
        )
    return pooled


def balance_plates(
    pooled_scores: DataFrame,
    wells: DataFrame,
    folds: DataFrame,
    plate_layout: DataFrame,
    layouts_in_use: DataFrame,
    plate_contents: DataFrame,
    parameters: PlateBalancingParameters,
) -> tuple[DataFrame, DataFrame, DataFrame, DataFrame, DataFrame]:
    """Temperature, plate groups, filter and balancing, each as its own step; and the resulting calls."""
    from deepnoise.ingestion import layouts
    from deepnoise.plate_balancing import balancing

    balancing.check_contents(plate_contents, wells)
    cell_type = wells.set_index("id_code")["cell_type"]
    validation = layouts.validation_labels(wells, folds)
    knowledge = balancing.DesignKnowledge(plate_layout, layouts_in_use, plate_contents, cell_type, validation)
    balanced = balancing.balance(pooled_scores, knowledge, parameters)
    calls = balancing.make_calls(balanced.steps, pooled_scores, knowledge, parameters.precision)
    for row in balanced.calibration.itertuples():
        logger.info("temperature of %s: %.3g, by %s", row.cell_type, row.temperature, row.source)
    if len(balanced.groups):
        decided = int(balanced.groups["decided"].sum())
        logger.info("plate groups decided on %s of %s plates", decided, len(balanced.groups))
        if not decided:
            logger.warning("no plate group could be decided from the scores; they may be no better than chance")
    logger.info(
        "calls by %s: %s of %s wells changed; confident at a target precision of %.0f %%: %s before balancing, %s after",
        balanced.steps["step"].iloc[-1], int(calls["changed"].sum()), len(calls), 100 * parameters.precision,
        int(calls["plain_confident"].sum()), int(calls["design_confident"].sum()),
    )  # fmt: skip
    probabilities = balancing.probability_table(balanced, pooled_scores)
    return probabilities, balanced.steps, balanced.groups, balanced.calibration, calls


def draw_calls(calls: DataFrame) -> Figure:
    """Maps of the calls on their plates."""
    from deepnoise.plate_balancing import figures

    return figures.draw_calls(calls)


def write_chapter(
    call_maps: Figure, calls: DataFrame, plate_groups: DataFrame, calibration: DataFrame
) -> dict[str, Any]:
    """What the report shows of plate balancing."""
    from deepnoise.plate_balancing import chapter

    return chapter.write_chapter(call_maps, calls, plate_groups, calibration).as_json()
