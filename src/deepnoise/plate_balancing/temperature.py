"""Calibration of probabilities: temperatures from validation labels or from the plate design alone, and abstention thresholds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import minimize_scalar

from deepnoise.plate_balancing.methods import match_marginals
from deepnoise.plate_balancing.scores import log_probabilities

TEMPERATURE_WELLS = 30
"""Labelled wells needed to fit a temperature."""
LEAST_WELLS = 50
"""Labelled wells needed to choose a method or an abstention threshold."""
EVIDENCE_ROUNDS = 24
"""Rounds of the matching that measures how well plates fit the design."""
MIN_EVIDENCE = 2.0
"""Nats (a likelihood ratio at 95 %) by which scores must explain the plates better than uninformative scores."""


def fit_to_labels(scores: np.ndarray, label: np.ndarray, unlisted: float) -> float:
    """The temperature with the least log loss on labelled wells (Guo et al. 2017, arXiv 1706.04599).

    Args:
        scores: (W, K) scores, NaN where not listed.
        label: (W,) int, the true class.
        unlisted: See :func:`~deepnoise.plate_balancing.scores.log_probabilities`.

    Returns:
        Temperature, in the unit of the scores.
    """

    def loss(temperature: float) -> float:
        return -float(log_probabilities(scores, temperature, unlisted)[np.arange(len(label)), label].mean())

    return _minimize(loss, [scores])


def fit_to_design(
    scores: Sequence[np.ndarray], capacities: Sequence[np.ndarray], unlisted: float, min_evidence: float = MIN_EVIDENCE
) -> float:
    """The temperature at which independent draws from the wells' probabilities are most likely to make feasible plates.

    If probabilities are too sharp, wells that claim the same class contradict the design. If they are too flat, a feasible plate is a
    matter of luck. No label is read. Scores that explain the plates no better than flat ones, such as random scores, get a temperature
    of three times their spread. Source: ours; the likelihood is the Bethe partition function of
    :func:`~deepnoise.plate_balancing.methods.match_marginals`.

    Args:
        scores: (W, K) scores of each plate, NaN where not listed.
        capacities: (K,) int of each plate.
        unlisted: See :func:`~deepnoise.plate_balancing.scores.log_probabilities`.
        min_evidence: Nats by which scores must explain the plates better than flat ones.

    Returns:
        Temperature, in the unit of the scores.
    """
    plates = [
        (plate_scores[:, capacity > 0], capacity[capacity > 0])
        for plate_scores, capacity in zip(scores, capacities, strict=True)
    ]

    def loss(temperature: float) -> float:
        return -sum(
            match_marginals(log_probabilities(on_plate, temperature, unlisted), capacity, iterations=EVIDENCE_ROUNDS)[1]
            for on_plate, capacity in plates
        )

    return _minimize(loss, [on_plate for on_plate, _ in plates], min_evidence)


def _minimize(loss: Callable[[float], float], scores: Sequence[np.ndarray], min_evidence: float = 0.0) -> float:
    """The best temperature between 1/100 and 3 times the usual lead of a well's best class over the mean of all classes.

    The upper end, where scores say nothing, is chosen if its loss is within ``min_evidence`` of the best one.
    """
    listed = [np.nan_to_num(plate_scores, nan=0.0) for plate_scores in scores]
    lead = np.concatenate([plate_scores.max(axis=1) - plate_scores.mean(axis=1) for plate_scores in listed])
    scale = max(float(np.median(lead)), float(lead.mean()), 1e-9)
    fit = minimize_scalar(
        lambda log_t: loss(float(np.exp(log_t))), bounds=(np.log(scale / 100), np.log(scale * 3)), method="bounded", options={"xatol": 0.05}
    )  # fmt: skip
    return 3 * scale if min_evidence and loss(3 * scale) <= fit.fun + min_evidence else float(np.exp(fit.x))


def abstention_threshold(confidence: np.ndarray, labelled: np.ndarray, correct: np.ndarray, precision: float) -> float:
    """The lowest confidence above which calls reach a target precision.

    With at least LEAST_WELLS labelled validation wells, the share of correct calls among them is counted. Otherwise calibrated
    confidences are taken as the expected precision.

    Args:
        confidence: (W,) of all calls.
        labelled: (W,) bool, the validation wells.
        correct: (labelled wells,) bool.
        precision: Target, in [0, 1].

    Returns:
        The threshold; infinity if no confidence is high enough.
    """
    enough = labelled.sum() >= LEAST_WELLS
    values, precisions = (confidence[labelled], correct.astype(float)) if enough else (confidence, confidence)
    order = np.argsort(-values, kind="stable")
    values = values[order]
    reached = np.cumsum(precisions[order]) / np.arange(1, len(order) + 1) >= precision
    is_candidate = np.append(values[:-1] != values[1:], True) & reached  # equal confidences stay together
    return float(values[np.flatnonzero(is_candidate)[-1]]) if is_candidate.any() else float("inf")
