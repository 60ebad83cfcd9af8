"""One wide score matrix from any table of well scores."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd

from deepnoise.errors import InputError, first_few
from deepnoise.tables import SCORE, class_names, matrix, natural_order, prefixed

logger = logging.getLogger(__name__)
META = ["id_code", "experiment", "plate", "well", "role", "tier"]


def pool_scores(scores: pd.DataFrame, wells: pd.DataFrame) -> pd.DataFrame:
    """Pool scores to one row a target well.

    Args:
        scores: Wide (``id_code``, ``tier``, ``score_<perturbation>`` columns; rows of one well, as from several
            folds or sites, are averaged; where a ``role`` says that a well is held out in one fold and validates
            another, the held-out rows alone count, and rows of wells that trained the model are left out) or long (``id_code``, ``perturbation``, ``score``, ``tier``; rows of one well
            and perturbation are summed, a perturbation that a well does not list scores 0).
        wells: The table ``wells``.

    Returns:
        id_code, experiment, plate, well, role, tier and float64 score columns in natural order, sorted by plate.

    Raises:
        InputError: A well that ``wells`` does not know, a score that is not a number, or several tiers at once.
    """
    unknown = sorted(set(scores["id_code"]) - set(wells["id_code"]))
    if unknown:
        raise InputError(
            f"well_scores names {len(unknown)} wells that the screen does not have: {first_few(unknown)}; expected "
            f"id_codes such as {wells['id_code'].iloc[0]!r}"
        )
    tiers = scores["tier"].unique()
    if len(tiers) > 1:
        raise InputError(f"well_scores mixes tiers {first_few(sorted(tiers))}; balance them one by one")
    if "perturbation" in scores.columns:
        wrong = ~np.isfinite(scores["score"])
        if wrong.any():
            raise InputError(
                f"well_scores: score {scores.loc[wrong, 'score'].iloc[0]} of well {scores.loc[wrong, 'id_code'].iloc[0]} "
                f"({int(wrong.sum())} such); expected finite numbers"
            )
        pooled = scores.pivot_table(
            index="id_code", columns="perturbation", values="score", aggfunc="sum", fill_value=0.0
        )
        pooled = pooled[natural_order(pooled.columns)]
        values, names, codes = pooled.to_numpy(), list(pooled.columns), pooled.index
        role = pd.Series("heldout", index=codes)
    else:
        names = natural_order(class_names(scores))
        if "role" in scores.columns:
            scores = scores[scores["role"] != "train"]
            held_out = scores["role"] == "heldout"
            scores = scores[held_out | ~scores["id_code"].isin(scores.loc[held_out, "id_code"])]
        columns = [SCORE + name for name in names]
        grouped = scores.groupby("id_code")
        pooled = grouped[columns].mean()
        values, codes = pooled.to_numpy(np.float64), pooled.index
        bad = ~np.isfinite(values).all(axis=1)
        if bad.any():
            raise InputError(
                f"well_scores: well {codes[bad][0]} has a score that is no finite number ({int(bad.sum())} such wells)"
            )
        role = grouped["role"].first() if "role" in scores.columns else pd.Series("heldout", index=codes)
    table = pd.concat([role.rename("role"), prefixed(values, names, SCORE, codes)], axis=1).reset_index(names="id_code")
    known = set(wells.loc[wells["target"], "perturbation"].dropna())
    strange = [name for name in names if name not in known]
    if known and strange:
        logger.warning(
            "well_scores scores %s perturbations that no labelled well of the screen carries (%s); they can be called all the same",
            len(strange), first_few(strange),
        )  # fmt: skip
    targets = wells.loc[wells["target"], ["id_code", "experiment", "plate", "well"]]
    table = targets.merge(table, on="id_code", how="inner")
    table["tier"] = str(tiers[0]) if len(tiers) else "unknown"
    if table.empty:
        raise InputError("well_scores has no row for a target well of the screen")
    table = table.sort_values(["experiment", "plate", "well"], ignore_index=True)
    return table[META + [c for c in table.columns if c.startswith(SCORE)]]


def log_probabilities(table: pd.DataFrame, temperature: float) -> np.ndarray:
    """(W, K) log softmax of the scores at a temperature."""
    return log_softmax(matrix(table, SCORE) / temperature)


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Log of the softmax along the last axis."""
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
