"""Calibration of probabilities: temperatures from validation labels or from the plate design alone, and abstention thresholds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.stats import beta

from deepnoise.plate_balancing.methods import match_marginals
from deepnoise.plate_balancing.scores import log_probabilities

TEMPERATURE_WELLS = 30
"""Labelled wells needed to fit a temperature."""
LEAST_WELLS = 50
"""Labelled wells needed to choose a method or an abstention threshold."""
GRID = 20
"""Temperatures tried before the best one is refined."""
RISK = 0.1
"""Share of samples of validation wells in which confident calls may miss their target precision."""
EVIDENCE_ROUNDS = 24
"""Rounds of the matching that measures how well plates fit the design."""
LIST_SHARPNESS = 1.4
"""The temperature of lists and votes is divided by this for calls, not for confidences: see :func:`fit_to_design`."""
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
    of three times their spread. In lists and votes, wells share their wrong entries, since the models or neighbours behind them do; that
    looks like flat scores, so there an optimum between the ends is preferred to the flat end (and balancing makes its calls at a temperature
    LIST_SHARPNESS times lower). Source: ours; the likelihood is the Bethe partition function of
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

    on_plates = [on_plate for on_plate, _ in plates]
    return _minimize(loss, on_plates, min_evidence, local=bool(min_evidence) and are_lists(on_plates))


def are_lists(scores: Sequence[np.ndarray]) -> bool:
    """Whether scores of plates, (W, K) each, list some of the classes for a well (NaN: not listed), and more than one on average."""
    listed = np.concatenate([np.count_nonzero(~np.isnan(plate_scores), axis=1) for plate_scores in scores])
    return bool(listed.mean() > 1 and any(np.isnan(plate_scores).any() for plate_scores in scores))


def _minimize(
    loss: Callable[[float], float], scores: Sequence[np.ndarray], min_evidence: float = 0.0, local: bool = False
) -> float:
    """The best temperature between 1/100 and 3 times the usual lead of a well's best class over the mean of all classes.

    Args:
        loss: Of a temperature.
        scores: (W, K) of each plate.
        min_evidence: The upper end, where scores say nothing, is chosen if its loss is within this of the best one.
        local: Prefer the best optimum between the ends, if there is one deeper than that.
    """
    listed = [np.nan_to_num(plate_scores, nan=0.0) for plate_scores in scores]
    lead = np.concatenate([plate_scores.max(axis=1) - plate_scores.mean(axis=1) for plate_scores in listed])
    scale = max(float(np.median(lead)), float(lead.mean()), 1e-9)
    grid = np.log(scale) + np.linspace(np.log(1 / 100), np.log(3), GRID)
    values = np.array([loss(float(np.exp(log_t))) for log_t in grid])
    best = int(values.argmin())
    # the valleys between the ends, each deeper than the ridge on either side by the evidence asked for
    valleys = [
        i for i in range(1, GRID - 1)
        if values[i] < min(values[i - 1], values[i + 1]) and values[i] + min_evidence < min(values[:i].max(), values[i + 1 :].max())
    ]  # fmt: skip
    if local and valleys:
        best = min(valleys, key=lambda i: values[i])
    elif min_evidence and values[-1] <= values[best] + min_evidence:
        return 3 * scale
    around = grid[max(best - 1, 0)], grid[min(best + 1, GRID - 1)]
    fit = minimize_scalar(
        lambda log_t: loss(float(np.exp(log_t))), bounds=around, method="bounded", options={"xatol": 0.05}
    )
    return float(np.exp(fit.x if fit.fun < values[best] else grid[best]))


def abstention_threshold(
    confidence: np.ndarray,
    labelled: np.ndarray,
    correct: np.ndarray,
    precision: float,
    experiment: np.ndarray | None = None,
) -> float:
    """The lowest confidence above which calls may be trusted to reach a target precision.

    The mean confidence of the calls above it must reach the target. With at least LEAST_WELLS labelled validation wells, so must the
    lower bound, at RISK, of the share of correct calls among these (Clopper and Pearson 1934). Wells of one experiment share their
    errors, so they count for fewer by the design effect (Kish 1965, 8.2), which needs two experiments. The share itself would do in
    half of all samples only.

    Args:
        confidence: (W,) of all calls.
        labelled: (W,) bool, the validation wells.
        correct: (labelled wells,) bool.
        precision: Target, in [0, 1].
        experiment: (labelled wells,) names; None takes all wells as independent.

    Returns:
        The threshold; infinity if no confidence is high enough.
    """
    by_confidence = np.sort(confidence)[::-1]
    expected = _lowest(by_confidence, np.cumsum(by_confidence) / np.arange(1, len(confidence) + 1) >= precision)
    if labelled.sum() < LEAST_WELLS:
        return expected
    order = np.argsort(-confidence[labelled], kind="stable")
    values, wrong = confidence[labelled][order], 1.0 - correct[order]
    effect = _design_effect(1.0 - correct, experiment) if experiment is not None else 1.0
    wells, errors = np.arange(1, len(order) + 1) / effect, np.cumsum(wrong) / effect
    most_errors = beta.ppf(1 - RISK, errors + 1, np.maximum(wells - errors, 1e-9))
    return max(expected, _lowest(values, most_errors <= 1 - precision))


def _lowest(values: np.ndarray, is_reached: np.ndarray) -> float:
    """The last of the descending values at which a target is reached, infinity if it never is; equal values stay together."""
    is_candidate = np.append(values[:-1] != values[1:], True) & is_reached
    return float(values[np.flatnonzero(is_candidate)[-1]]) if is_candidate.any() else float("inf")


def _design_effect(wrong: np.ndarray, experiment: np.ndarray) -> float:
    """By how much the variance of a share exceeds that of independent wells, at least 1.

    1 + (m - 1) rho, with m wells per experiment and rho the intraclass correlation by analysis of variance (Kish 1965, 5.4).
    """
    _, code, count = np.unique(experiment, return_inverse=True, return_counts=True)
    if len(count) < 2 or len(wrong) == len(count):
        return 1.0
    means = np.bincount(code, weights=wrong) / count
    between = (count * (means - wrong.mean()) ** 2).sum() / (len(count) - 1)
    within = ((wrong - means[code]) ** 2).sum() / (len(wrong) - len(count))
    size = (len(wrong) - (count**2).sum() / len(wrong)) / (len(count) - 1)
    total = between + (size - 1) * within
    correlation = max((between - within) / total, 0.0) if total > 0 else 0.0
    return float(1 + (size - 1) * correlation)
