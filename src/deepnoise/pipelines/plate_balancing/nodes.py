"""Nodes of ``plate_balancing``: adapters of ``deepnoise.plate_balancing``."""

from __future__ import annotations

import logging

import pandas as pd

from deepnoise.ingestion.design import discover_groups, unequal_plate, without_heldout_labels
from deepnoise.parameters import PlateBalancingParameters
from deepnoise.plate_balancing import balancing, scores

logger = logging.getLogger(__name__)


def discover_layout(wells: pd.DataFrame, folds: pd.DataFrame) -> pd.DataFrame:
    """Plate groups, from the labels of plates that no fold holds out."""
    known = without_heldout_labels(wells, folds)
    if example := unequal_plate(known):
        logger.warning(
            "%s: plate balancing assumes equal numbers, so its calls may be worse than the plain ones; compare the steps, "
            "or set plate_balancing.method to none",
            example,
        )
    return discover_groups(known)


def pool_scores(well_scores: pd.DataFrame, wells: pd.DataFrame) -> pd.DataFrame:
    """One wide row a target well, from any table of scores."""
    return scores.pool_scores(well_scores, wells)


def balance_plates(
    pooled_scores: pd.DataFrame, plate_layout: pd.DataFrame, parameters: PlateBalancingParameters
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Group inference, filter and balancing, each as its own step."""
    probabilities, steps, groups = balancing.balance(
        pooled_scores,
        plate_layout,
        group_inference=parameters.group_inference,
        group_posterior=parameters.group_posterior,
        method=parameters.method,
        temperature=parameters.temperature,
        iterations=parameters.sinkhorn_iterations,
        tolerance=parameters.sinkhorn_tolerance,
    )
    if len(groups):
        logger.info("plate groups decided on %s of %s plates", int(groups["decided"].sum()), len(groups))
    return probabilities, steps, groups


def make_calls(balancing_steps: pd.DataFrame, parameters: PlateBalancingParameters) -> pd.DataFrame:
    """The plain call beside the design-aware one."""
    return balancing.make_calls(balancing_steps, parameters.method)
