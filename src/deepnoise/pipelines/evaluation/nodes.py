"""Nodes of ``evaluation``: adapters of ``deepnoise.evaluation``. The only readers of ``heldout_labels``."""

from __future__ import annotations

import logging
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from deepnoise.evaluation import figures, metrics
from deepnoise.parameters import EvaluationParameters
from deepnoise.plate_balancing.scores import pool_scores

logger = logging.getLogger(__name__)


def score_calls(
    screen: str,
    well_scores: pd.DataFrame,
    site_logits: pd.DataFrame,
    baseline_logits: pd.DataFrame,
    balancing_steps: pd.DataFrame,
    plate_groups: pd.DataFrame,
    plate_layout: pd.DataFrame,
    wells: pd.DataFrame,
    heldout_labels: pd.DataFrame,
    parameters: EvaluationParameters,
) -> dict[str, Any]:
    """Every score with its tier, and the two lines of the story."""
    scores = metrics.evaluate(
        screen=screen,
        well_scores=pool_scores(well_scores, wells),
        site_logits=site_logits,
        baseline_logits=baseline_logits,
        steps=balancing_steps,
        groups_found=plate_groups,
        layout=plate_layout,
        wells=wells,
        heldout_labels=heldout_labels,
        unit=parameters.unit,
        pairs=parameters.pairs,
    )
    if scores["t1"]:
        logger.info(
            "%s: perturbation named %.1f %% (chance %.1f %%)",
            scores["t1"]["tier"],
            100 * scores["t1"]["top1"],
            100 * scores["t1"]["chance"],
        )
    if len(scores["steps"]) > 1:
        for step in scores["steps"][1:]:
            logger.info(
                "with plate design, %s: %.1f %% (chance %.1f %%)",
                step["step"],
                100 * step["top1"],
                100 * step["chance"],
            )
    return scores


def format_scores(scores: dict[str, Any]) -> str:
    """The score table as text."""
    return metrics.format_scores(scores)


def draw_scores(scores: dict[str, Any]) -> Figure:
    """The scores as a figure."""
    return figures.draw_scores(scores)
