"""Averaging the scores of several models."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import logsumexp

from deepnoise.errors import InputError, first_few
from deepnoise.parameters import InferenceParameters
from deepnoise.plate_balancing.scores import log_softmax
from deepnoise.tables import SCORE

logger = logging.getLogger(__name__)


def average_members(
    members: list[pd.DataFrame], names: list[str], labels: pd.Series, parameters: InferenceParameters
) -> pd.DataFrame:
    """Scores of an ensemble: the weighted mean of its members' logits, or of their probabilities, then as logarithms.

    Args:
        members: ``site_logits`` of each member. The first decides which sites are predicted. A member without a prediction for a
            site (a specialist of other cells) is left out there.
        names: What to call them in errors and the log; "" is the teacher.
        labels: id_code -> perturbation of validation wells.
        parameters: The block ``inference``; pooling and ensemble_weights are used.

    Raises:
        InputError: Members of different tiers or classes; or no validation well to fit weights on.
    """
    first = members[0]
    columns = [c for c in first.columns if c.startswith(SCORE)]
    scores = _stack_scores(members, names, columns)  # (M, S, K)
    if parameters.pooling == "probabilities":
        scores = np.exp(log_softmax(scores.reshape(-1, scores.shape[2])).reshape(scores.shape))
    weights = np.full(len(members), 1 / len(members))
    if parameters.ensemble_weights == "validation":
        weights = _weights_on_validation(scores, first, columns, labels, parameters.pooling)
    logger.info("ensemble: %s", ", ".join(f"{n or 'teacher'} {w:.2f}" for n, w in zip(names, weights, strict=True)))
    weight_of_site = np.isfinite(scores).all(axis=2)[..., None] * weights[:, None, None]
    mean = (np.nan_to_num(scores) * weight_of_site).sum(axis=0) / weight_of_site.sum(axis=0)
    if parameters.pooling == "probabilities":
        mean = np.log(np.maximum(mean, 1e-30))
    return pd.concat([first.drop(columns=columns), pd.DataFrame(mean.astype(np.float32), first.index, columns)], axis=1)


def _stack_scores(members: list[pd.DataFrame], names: list[str], columns: list[str]) -> np.ndarray:
    """(M, S, K) scores of all members on the sites of the first; NaN where a member has none."""
    key = ["fold", "id_code", "site"]
    first = members[0]
    sites = pd.MultiIndex.from_frame(first[key])
    stack = []
    for name, member in zip(names, members, strict=True):
        if set(member["tier"]) != set(first["tier"]):
            raise InputError(
                f"ensemble: {name} is of tier {first_few(sorted(set(member['tier'])))}, the teacher of {first_few(sorted(set(first['tier'])))}; average within one tier"
            )
        different = set(columns) ^ {c for c in member.columns if c.startswith(SCORE)}
        if different:
            raise InputError(
                f"ensemble: {name} does not predict the same perturbations; different: {first_few(sorted(c.removeprefix(SCORE) for c in different))}"
            )
        stack.append(member.set_index(key)[columns].reindex(sites).to_numpy(np.float64))
    return np.stack(stack)


def _weights_on_validation(
    scores: np.ndarray, first: pd.DataFrame, columns: list[str], labels: pd.Series, pooling: str
) -> np.ndarray:
    """(M,) weights fitted on the sites of validation wells that all members predict."""
    class_number = {column.removeprefix(SCORE): i for i, column in enumerate(columns)}
    label = first["id_code"].map(labels)
    label = label.where(first["role"] == "validation").map(class_number)
    usable = label.notna().to_numpy() & np.isfinite(scores).all(axis=(0, 2))
    if not usable.any():
        raise InputError(
            "inference.ensemble_weights is 'validation', but no validation well is predicted by all members; use equal"
        )
    return fit_weights(scores[:, usable], label[usable].to_numpy(int), pooling)


def fit_weights(scores: np.ndarray, label: np.ndarray, pooling: str) -> np.ndarray:
    """Weights of ensemble members with the least log loss.

    Args:
        scores: (M, W, K) logits, or probabilities.
        label: (W,) int.
        pooling: ``logits``: the fitted weights may sum to any scale; ``probabilities``: to 1.

    Returns:
        (M,) weights that sum to 1.
    """

    def to_weights(free: np.ndarray) -> np.ndarray:
        return np.exp(free) if pooling == "logits" else np.exp(free - logsumexp(free))

    def loss(free: np.ndarray) -> float:
        mean = np.tensordot(to_weights(free), scores, axes=1)
        log_p = log_softmax(mean) if pooling == "logits" else np.log(np.maximum(mean, 1e-30))
        return -float(log_p[np.arange(len(label)), label].mean())

    fit = minimize(loss, np.full(len(scores), -np.log(len(scores))), method="L-BFGS-B", bounds=[(-10, 5)] * len(scores))
    weights = to_weights(fit.x)
    return weights / weights.sum()
