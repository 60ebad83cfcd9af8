"""Nodes of ``plate_balancing``: adapters of ``deepnoise.plate_balancing``."""

from __future__ import annotations

import logging
from typing import Any

import pandas as pd
from plotly.graph_objects import Figure

from deepnoise.ingestion import layouts
from deepnoise.parameters import PlateBalancingParameters
from deepnoise.plate_balancing import balancing, chapter, figures, scores

logger = logging.getLogger(__name__)


def discover_layout(wells: pd.DataFrame, folds: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Plate groups and the layouts in use, from the labels of plates that no fold holds out."""
    known = layouts.visible_labels(wells, folds, "design")
    layout = layouts.discover_groups(known)
    return layout, layouts.layouts_in_use(known, layout)


def pool_scores(well_scores: pd.DataFrame, wells: pd.DataFrame, parameters: PlateBalancingParameters) -> pd.DataFrame:
    """One wide row a target well, from any table of scores."""
    pooled = scores.pool_scores(well_scores, wells, parameters.pooling)
    tied = balancing.tied_calls(pooled).mean()
    if tied > 0.1:
        logger.warning(
            "%.0f %% of the wells claim a perturbation that another well of their plate claims with the very same score; between such "
            "wells no balancing can choose. Give graded scores, or several models, rather than single hard calls",
            100 * tied,
        )
    return pooled


def balance_plates(
    pooled_scores: pd.DataFrame,
    wells: pd.DataFrame,
    plate_layout: pd.DataFrame,
    layouts_in_use: pd.DataFrame,
    plate_contents: pd.DataFrame,
    parameters: PlateBalancingParameters,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Temperature, plate groups, filter and balancing, each as its own step; the calls that come of it."""
    known = balancing.DesignKnowledge(
        plate_layout, layouts_in_use, plate_contents,
        cell_type=wells.set_index("id_code")["cell_type"], validation=wells.set_index("id_code")["perturbation"].dropna(),
    )  # fmt: skip
    found = balancing.balance(pooled_scores, known, parameters)
    calls = balancing.make_calls(found.steps, pooled_scores, known, parameters.precision)
    for row in found.calibration.itertuples():
        logger.info("temperature of %s: %.3g, by %s", row.cell_type, row.temperature, row.source)
    if len(found.groups):
        decided = int(found.groups["decided"].sum())
        logger.info("plate groups decided on %s of %s plates", decided, len(found.groups))
        if not decided:
            logger.warning(
                "the scores do not tell which plate group is on any plate; they may be no better than chance"
            )
    logger.info(
        "calls by %s: %s of %s wells changed; sure enough for a precision of %.0f %%: %s before, %s after",
        found.steps["step"].iloc[-1], int(calls["changed"].sum()), len(calls), 100 * parameters.precision,
        int(calls["plain_confident"].sum()), int(calls["design_confident"].sum()),
    )  # fmt: skip
    probabilities = balancing.probability_table(found, pooled_scores)
    return probabilities, found.steps, found.groups, found.calibration, calls


def draw_calls(calls: pd.DataFrame) -> Figure:
    """Maps of the calls on their plates."""
    return figures.draw_calls(calls)


def write_chapter(
    call_maps: Figure, calls: pd.DataFrame, plate_groups: pd.DataFrame, calibration: pd.DataFrame
) -> dict[str, Any]:
    """What the report shows of plate balancing."""
    return chapter.write_chapter(call_maps, calls, plate_groups, calibration).as_json()
