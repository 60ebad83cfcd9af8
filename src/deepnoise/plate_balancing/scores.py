"""One wide score matrix from any table of well scores."""

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
    """Pool scores to one row a target well.

    Args:
        scores: Wide (``id_code``, ``tier``, ``score_<perturbation>`` columns; rows of one well, as from several
            folds, sites or models, are averaged; where a ``role`` says that a well is held out in one fold and validates
            another, the held-out rows alone count, and rows of wells that trained the model are left out) or long, as top-k lists
            (``id_code``, ``perturbation``, ``score``, ``tier``; rows of one well and perturbation are summed).
        wells: The table ``wells``.
        pooling: Of wide rows: ``logits``, the mean score, or ``probabilities``, the log of the mean softmax (at temperature 1).

    Returns:
        id_code, experiment, plate, well, role, tier and float64 score columns in natural order, sorted by plate; NaN where the list of
        a well does not name a perturbation.

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
        pooled = scores.pivot_table(index="id_code", columns="perturbation", values="score", aggfunc="sum")
        pooled = pooled[natural_order(pooled.columns)]
        values, names, codes = pooled.to_numpy(), list(pooled.columns), pooled.index
        role = pd.Series("heldout", index=codes)
    else:
        names = natural_order(class_names(scores))
        twice = pd.Series(class_names(scores)).duplicated()
        if twice.any():
            raise InputError(
                f"well_scores has two columns for {class_names(scores)[int(twice.argmax())]!r}; expected one a perturbation"
            )
        if "role" in scores.columns:
            scores = scores[scores["role"] != "train"]
            held_out = scores["role"] == "heldout"
            scores = scores[held_out | ~scores["id_code"].isin(scores.loc[held_out, "id_code"])]
        columns = [SCORE + name for name in names]
        grouped = scores.groupby("id_code")
        if pooling == "probabilities" and scores["id_code"].duplicated().any():
            log_p = scores[["id_code"]].join(
                pd.DataFrame(log_softmax(scores[columns].to_numpy(np.float64)), scores.index, columns)
            )
            pooled = log_p.groupby("id_code")[columns].agg(
                logsumexp
            )  # of the sum: a constant a well more than of the mean
        else:
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


def filled(table: pd.DataFrame) -> pd.DataFrame:
    """Pooled scores in which a perturbation that a list does not name ranks behind all that it names."""
    scores = matrix(table, SCORE)
    if not np.isnan(scores).any():
        return table
    least = np.minimum(np.nanmin(scores, axis=1, keepdims=True), 0.0) - 1.0
    wide = prefixed(np.where(np.isnan(scores), least, scores), class_names(table), SCORE, table.index)
    return pd.concat([table[META], wide], axis=1)


def log_probabilities(scores: np.ndarray, temperature: np.ndarray | float, unlisted: float) -> np.ndarray:
    """Log softmax of scores at a temperature.

    Args:
        scores: (W, K); NaN where the list of a well does not name the class.
        temperature: Scalar or (W,), in the unit of the scores.
        unlisted: Nats by which a class that is not named is less likely than one that is named with score 0 (or, where scores are
            negative, with the least of the well).

    Returns:
        (W, K) float32, rows normalized.
    """
    values = np.asarray(scores, np.float64)
    degrees = np.broadcast_to(np.asarray(temperature, np.float64), len(values))[:, None]
    missing = np.isnan(values)
    if missing.any():
        least = np.where(missing, 0.0, values).min(axis=1, keepdims=True)
        values = np.where(missing, least - unlisted * degrees, values)
    shifted = np.empty(values.shape, np.float32)  # the best class of a well is 0, so that float32 is enough
    np.subtract(values, values.max(axis=1, keepdims=True), out=shifted, casting="same_kind")
    shifted /= degrees.astype(np.float32)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def entropies(scores: np.ndarray) -> np.ndarray:
    """(W,) entropy of the softmax of each row, in nats."""
    return entr(np.exp(log_softmax(np.asarray(scores, np.float64)))).sum(axis=1)


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Log of the softmax of each row of (W, K) scores, right to 1e-6; several times as fast as scipy's, which allows for more."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted.astype(np.float32)).sum(axis=1, keepdims=True, dtype=np.float64))
    return shifted
