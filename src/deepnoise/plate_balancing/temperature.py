"""What makes probabilities mean something: temperatures by validation labels or by the plate design alone, and when to abstain."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import minimize_scalar

from deepnoise.plate_balancing.methods import match_marginals
from deepnoise.plate_balancing.scores import log_probabilities

TEMPERATURE_WELLS = 30  # labelled wells that a temperature is fitted on
LEAST_WELLS = 50  # labelled wells that a method or a threshold of abstention is chosen on
ROUNDS = 24  # of the matching that tells how well plates fit the design
DOUBT = (
    2.0  # nats (a likelihood ratio at 95 %) by which scores must explain the plates better than scores that say nothing
)


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

    return _least(loss, [scores])


def fit_to_design(
    scores: Sequence[np.ndarray], capacities: Sequence[np.ndarray], unlisted: float, doubt: float = DOUBT
) -> float:
    """The temperature at which independent draws from the wells' probabilities are most likely to make possible plates.

    Too sharp, and wells that claim the same class contradict the design; too flat, and a possible plate is a matter of luck. No label is
    read. Scores that explain the plates no better than flat ones, such as random ones, come out flat, three times as wide as their spread. Source: ours; the likelihood is the Bethe partition function of
    :func:`~deepnoise.plate_balancing.methods.match_marginals`.

    Args:
        scores: (W, K) scores of each plate, NaN where not listed.
        capacities: (K,) int of each plate.
        unlisted: See :func:`~deepnoise.plate_balancing.scores.log_probabilities`.
        doubt: Nats by which scores must explain the plates better than flat ones.

    Returns:
        Temperature, in the unit of the scores.
    """
    blocks = [(own[:, room > 0], room[room > 0]) for own, room in zip(scores, capacities, strict=True)]

    def loss(temperature: float) -> float:
        return -sum(
            match_marginals(log_probabilities(own, temperature, unlisted), room, iterations=ROUNDS)[1]
            for own, room in blocks
        )

    return _least(loss, [own for own, _ in blocks], doubt)


def _least(loss: Callable[[float], float], scores: Sequence[np.ndarray], doubt: float = 0.0) -> float:
    """The best temperature between a hundredth and three times of how far the best class of a well stands above the mean of all.

    The upper end, where scores say nothing, is taken where its loss is within ``doubt`` of the best one.
    """
    filled = [np.nan_to_num(own, nan=0.0) for own in scores]
    spread = np.concatenate([own.max(axis=1) - own.mean(axis=1) for own in filled])
    scale = max(float(np.median(spread)), float(spread.mean()), 1e-9)
    found = minimize_scalar(
        lambda log_t: loss(float(np.exp(log_t))), bounds=(np.log(scale / 100), np.log(scale * 3)), method="bounded", options={"xatol": 0.05}
    )  # fmt: skip
    return 3 * scale if doubt and loss(3 * scale) <= found.fun + doubt else float(np.exp(found.x))


def abstention_threshold(confidence: np.ndarray, labelled: np.ndarray, right: np.ndarray, precision: float) -> float:
    """The least confidence above which calls reach a wanted precision.

    On labelled validation wells, where there are at least LEAST_WELLS, the share of right calls is counted; without them the calibrated
    confidences are taken at their word.

    Args:
        confidence: (W,) of all calls.
        labelled: (W,) bool, the validation wells.
        right: (labelled wells,) bool.
        precision: In [0, 1].

    Returns:
        The threshold; infinity where no confidence is high enough.
    """
    enough = labelled.sum() >= LEAST_WELLS
    asked, good = (confidence[labelled], right.astype(float)) if enough else (confidence, confidence)
    order = np.argsort(-asked, kind="stable")
    reached = np.cumsum(good[order]) / np.arange(1, len(order) + 1) >= precision
    last = np.append(asked[order][:-1] != asked[order][1:], True) & reached  # equal confidences stand or fall together
    return float(asked[order][np.flatnonzero(last)[-1]]) if last.any() else float("inf")
