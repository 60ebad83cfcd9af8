"""Averaging the scores of several models."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import logsumexp

from deepnoise.errors import InputError, first_few
from deepnoise.plate_balancing.scores import log_softmax
from deepnoise.tables import SCORE

logger = logging.getLogger(__name__)


def average_members(
    members: list[pd.DataFrame], names: list[str], wells: pd.DataFrame, weights: str, pooling: str
) -> pd.DataFrame:
    """Scores of an ensemble: the weighted mean over its members of logits, or of probabilities, whose log is given.

    Args:
        members: ``site_logits`` of each, the first one decides which sites are asked; a member that does not predict a site
            (a specialist of other cells) is left out there.
        names: What to call them, in errors and the log.
        wells: The table ``wells``, for the labels of validation wells.
        weights: ``equal`` or ``validation``: those with the least log loss on validation wells.
        pooling: ``logits`` or ``probabilities``.

    Raises:
        InputError: Members of different tiers or classes; no validation well to fit on.
    """
    key = ["fold", "id_code", "site"]
    first = members[0]
    columns = [c for c in first.columns if c.startswith(SCORE)]
    stack = []
    for name, member in zip(names, members, strict=True):
        if set(member["tier"]) != set(first["tier"]):
            raise InputError(
                f"ensemble: {name} is of tier {first_few(sorted(set(member['tier'])))}, the teacher of {first_few(sorted(set(first['tier'])))}; average within one tier"
            )
        strange = set(columns) ^ {c for c in member.columns if c.startswith(SCORE)}
        if strange:
            raise InputError(
                f"ensemble: {name} does not call the same perturbations; different: {first_few(sorted(c.removeprefix(SCORE) for c in strange))}"
            )
        stack.append(member.set_index(key)[columns].reindex(pd.MultiIndex.from_frame(first[key])).to_numpy(np.float64))
    scores = np.stack(stack)  # (M, S, K)
    if pooling == "probabilities":
        scores = np.exp(log_softmax(scores.reshape(-1, scores.shape[2])).reshape(scores.shape))
    share = np.full(len(members), 1 / len(members))
    if weights == "validation":
        label = first["id_code"].map(wells.set_index("id_code")["perturbation"])
        label = label.where(first["role"] == "validation").map(
            {c.removeprefix(SCORE): i for i, c in enumerate(columns)}
        )
        asked = label.notna().to_numpy() & np.isfinite(scores).all(axis=(0, 2))
        if not asked.any():
            raise InputError(
                "inference.ensemble_weights is 'validation', but no validation well is predicted by all members; use equal"
            )
        share = fit_weights(scores[:, asked], label[asked].to_numpy(int), pooling)
    logger.info("ensemble: %s", ", ".join(f"{n or 'teacher'} {w:.2f}" for n, w in zip(names, share, strict=True)))
    there = np.isfinite(scores).all(axis=2)[..., None] * share[:, None, None]
    mean = (np.nan_to_num(scores) * there).sum(axis=0) / there.sum(axis=0)
    if pooling == "probabilities":
        mean = np.log(np.maximum(mean, 1e-30))
    return pd.concat([first.drop(columns=columns), pd.DataFrame(mean.astype(np.float32), first.index, columns)], axis=1)


def fit_weights(scores: np.ndarray, label: np.ndarray, pooling: str) -> np.ndarray:
    """Weights of ensemble members with the least log loss.

    Args:
        scores: (M, W, K) logits, or probabilities.
        label: (W,) int.
        pooling: ``logits``: their weights may add up to any scale; ``probabilities``: to 1.

    Returns:
        (M,) weights that add up to 1.
    """

    def mixed(free: np.ndarray) -> np.ndarray:
        return np.exp(free) if pooling == "logits" else np.exp(free - logsumexp(free))

    def loss(free: np.ndarray) -> float:
        mean = np.tensordot(mixed(free), scores, axes=1)
        log_p = log_softmax(mean) if pooling == "logits" else np.log(np.maximum(mean, 1e-30))
        return -float(log_p[np.arange(len(label)), label].mean())

    found = minimize(
        loss, np.full(len(scores), -np.log(len(scores))), method="L-BFGS-B", bounds=[(-10, 5)] * len(scores)
    )
    share = mixed(found.x)
    return share / share.sum()
