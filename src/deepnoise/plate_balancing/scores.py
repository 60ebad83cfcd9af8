"""One wide score matrix from any table of well scores; log probabilities and entropies of scores."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from scipy.special import entr, logsumexp

from deepnoise.errors import InputError, first_few
from deepnoise.tables import SCORE, class_names, matrix, natural_order, prefixed

logger = logging.getLogger(__name__)
META = ["id_code", "experiment", "plate", "well", "role", "tier"]


def pool_scores(scores: pd.DataFrame, wells: pd.DataFrame, pooling: str = "logits") -> pd.DataFrame:
    """Pool scores to one row per target well.

    Args:
        scores: Wide or long scores of wells.

            Wide: ``id_code``, ``tier`` and ``score_<perturbation>`` columns. Rows of one well (folds, sites, models) are averaged. With
            a column ``role``, rows of wells that trained the model are left out; of a well that is held out in one fold and
            validates another, only the held-out rows count.

            Long, such as top-k lists: ``id_code``, ``perturbation``, ``score``, ``tier``. Rows of one well and perturbation are summed.
        wells: The table ``wells``.
        pooling: Of wide rows: ``logits``, the mean score, or ``probabilities``, the log of the mean softmax (at temperature 1).

    Returns:
        id_code, experiment, plate, well, role, tier and float64 score columns in natural order, sorted by plate; NaN where the list of
        a well does not name a perturbation.

    Raises:
        InputError: A well that ``wells`` does not have, a score that is not a number, or several tiers at once.
    """
    _check_wells_and_tier(scores, wells)
    is_long = "perturbation" in scores.columns
    pooled, role = _pool_long(scores) if is_long else _pool_wide(scores, pooling)
    table = pd.concat(
        [role.rename("role"), prefixed(pooled.to_numpy(np.float64), list(pooled.columns), SCORE, pooled.index)], axis=1
    ).reset_index(names="id_code")
    labelled = set(wells.loc[wells["target"], "perturbation"].dropna())
    unlabelled = [name for name in pooled.columns if name not in labelled]
    if labelled and unlabelled:
        logger.warning(
            "well_scores has scores of %s perturbations that no labelled well of the screen has (%s); they can be called all the same",
            len(unlabelled), first_few(unlabelled),
        )  # fmt: skip
    targets = wells.loc[wells["target"], ["id_code", "experiment", "plate", "well"]]
    table = targets.merge(table, on="id_code", how="inner")
    table["tier"] = str(scores["tier"].iloc[0]) if len(scores) else "unknown"
    if table.empty:
        raise InputError("well_scores has no row for a target well of the screen")
    table = table.sort_values(["experiment", "plate", "well"], ignore_index=True)
    return table[META + [c for c in table.columns if c.startswith(SCORE)]]


def _check_wells_and_tier(scores: pd.DataFrame, wells: pd.DataFrame) -> None:
    unknown = sorted(set(scores["id_code"]) - set(wells["id_code"]))
    if unknown:
        raise InputError(
            f"well_scores names {len(unknown)} wells that the screen does not have: {first_few(unknown)}; expected "
            f"id_codes such as {wells['id_code'].iloc[0]!r}"
        )
    tiers = scores["tier"].unique()
    if len(tiers) > 1:
        raise InputError(f"well_scores mixes tiers {first_few(sorted(tiers))}; balance them one at a time")


def _pool_long(scores: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """(wells, K) summed scores by id_code and perturbation, and the role of each well."""
    not_finite = ~np.isfinite(scores["score"])
    if not_finite.any():
        first = scores[not_finite].iloc[0]
        raise InputError(
            f"well_scores: score {first['score']} of well {first['id_code']} ({int(not_finite.sum())} such); expected finite numbers"
        )
    pooled = scores.pivot_table(index="id_code", columns="perturbation", values="score", aggfunc="sum")
    return pooled[natural_order(pooled.columns)], pd.Series("heldout", index=pooled.index)


def _pool_wide(scores: pd.DataFrame, pooling: str) -> tuple[pd.DataFrame, pd.Series]:
    """(wells, K) averaged scores by id_code and perturbation, and the role of each well."""
    names = natural_order(class_names(scores))
    repeated = pd.Series(class_names(scores)).duplicated()
    if repeated.any():
        raise InputError(
            f"well_scores has two columns for {class_names(scores)[int(repeated.argmax())]!r}; expected one per perturbation"
        )
    if "role" in scores.columns:
        scores = scores[scores["role"] != "train"]
        is_heldout = scores["role"] == "heldout"
        scores = scores[is_heldout | ~scores["id_code"].isin(scores.loc[is_heldout, "id_code"])]
    columns = [SCORE + name for name in names]
    by_well = scores.groupby("id_code")
    if pooling == "probabilities" and scores["id_code"].duplicated().any():
        log_p = scores[["id_code"]].join(
            pd.DataFrame(log_softmax(scores[columns].to_numpy(np.float64)), scores.index, columns)
        )
        # the log of the sum, which differs from that of the mean by a constant per well
        pooled = log_p.groupby("id_code")[columns].agg(logsumexp)
    else:
        pooled = by_well[columns].mean()
    not_finite = ~np.isfinite(pooled.to_numpy(np.float64)).all(axis=1)
    if not_finite.any():
        raise InputError(
            f"well_scores: well {pooled.index[not_finite][0]} has a score that is not a finite number ({int(not_finite.sum())} such wells)"
        )
    role = by_well["role"].first() if "role" in scores.columns else pd.Series("heldout", index=pooled.index)
    return pooled.set_axis(names, axis=1), role


def fill_unlisted(table: pd.DataFrame) -> pd.DataFrame:
    """Pooled scores in which a perturbation missing from a well's list ranks behind all that are on it."""
    scores = matrix(table, SCORE)
    if not np.isnan(scores).any():
        return table
    lowest = np.minimum(np.nanmin(scores, axis=1, keepdims=True), 0.0) - 1.0
    wide = prefixed(np.where(np.isnan(scores), lowest, scores), class_names(table), SCORE, table.index)
    return pd.concat([table[META], wide], axis=1)


def log_probabilities(scores: np.ndarray, temperature: np.ndarray | float, unlisted: float) -> np.ndarray:
    """Log softmax of scores divided by a temperature.

    Args:
        scores: (W, K); NaN where the list of a well does not name the class.
        temperature: Scalar or (W,), in the unit of the scores.
        unlisted: Nats by which an unlisted class is less likely than one listed with score 0 (or, where scores are negative, with the
            lowest score of the well).

    Returns:
        (W, K) float32, rows normalized.
    """
    values = np.asarray(scores, np.float64)
    temperatures = np.broadcast_to(np.asarray(temperature, np.float64), len(values))[:, None]
    is_unlisted = np.isnan(values)
    if is_unlisted.any():
        lowest = np.where(is_unlisted, 0.0, values).min(axis=1, keepdims=True)
        values = np.where(is_unlisted, lowest - unlisted * temperatures, values)
    log_p = np.empty(values.shape, np.float32)  # the best class of a well is 0, so float32 is precise enough
    np.subtract(values, values.max(axis=1, keepdims=True), out=log_p, casting="same_kind")
    log_p /= temperatures.astype(np.float32)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    return log_p


def entropies(scores: np.ndarray) -> np.ndarray:
    """(W,) entropy of the softmax of each row, in nats."""
    return entr(np.exp(log_softmax(np.asarray(scores, np.float64)))).sum(axis=1)


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Log of the softmax of each row of (W, K) scores, accurate to 1e-6; several times as fast as scipy's, which is more general."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted.astype(np.float32)).sum(axis=1, keepdims=True, dtype=np.float64))
    return shifted
