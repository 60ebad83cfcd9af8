"""The published greedy balancing coefficients (method: section 6c)."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

import numpy as np
from scipy.special import logsumexp

GREEDY_STEPS = 3000
"""Largest number of steps in a round."""
GREEDY_RATES = (0.01, 0.0001)
"""First and last step size of a multiplier."""


def greedy_coefficients(p: np.ndarray) -> np.ndarray:
    """The published balancing: class multipliers, lowered step by step where a class has the most calls (method: section 6c).

    The score of multipliers is the sum over classes of min(share of calls, 1 / K). A round subtracts the rate from the multiplier of
    the class with the most calls, up to GREEDY_STEPS times, and keeps the best multipliers met. The next round starts from those. A
    round without gain halves the rate. Calls change only when a multiplier falls below the point where one of its wells turns to
    another class, so a well is looked at again only then. The result equals recounting all wells after every step.

    Args:
        p: (W, K) positive weights.

    Returns:
        (K,) multipliers.
    """
    wells, classes = p.shape
    share, remainder = divmod(wells, classes)
    # scores in units of 1 / (W K), so that they can be compared exactly
    perfect = remainder * min((share + 1) * classes, wells) + (classes - remainder) * min(share * classes, wells)
    best = np.ones(classes)
    best_score = int(np.minimum(np.bincount(p.argmax(axis=1), minlength=classes) * classes, wells).sum())
    rate, last = GREEDY_RATES
    while rate >= last and best_score < perfect:
        start_score = best_score
        best, best_score = _greedy_round(p, best, best_score, rate, perfect)
        if best_score == start_score:
            rate /= 2
    return best


def _greedy_round(
    p: np.ndarray, start: np.ndarray, best_score: int, rate: float, perfect: int
) -> tuple[np.ndarray, int]:
    """One round of :func:`greedy_coefficients`: the best multipliers met, and their score."""
    wells, classes = p.shape
    best, factors = start, start.copy()
    weighted = p * factors
    calls = weighted.argmax(axis=1)
    counts = np.bincount(calls, minlength=classes)
    score = int(np.minimum(counts * classes, wells).sum())
    weighted[np.arange(wells), calls] = -1.0
    turns = weighted.max(axis=1) / p[np.arange(wells), calls]
    # wells of each class by the multiplier below which they turn away; rivals only sink, so no well turns earlier
    leaving: list[list[tuple[float, int]]] = [[] for _ in range(classes)]
    for well in range(wells):
        leaving[calls[well]].append((-turns[well], well))
    for heap in leaving:
        heapify(heap)
    steps = 0
    while steps < GREEDY_STEPS:
        c = int(counts.argmax())
        heap = leaving[c]
        factor, turn = float(factors[c]), -heap[0][0] * (1 + 1e-12)
        factor -= rate
        steps += 1
        while factor > turn and steps < GREEDY_STEPS:
            factor -= rate
            steps += 1
        factors[c] = factor
        stays = []
        turned = False
        while heap and -heap[0][0] * (1 + 1e-12) >= factor:
            well = heappop(heap)[1]
            row = p[well] * factors
            call = int(row.argmax())
            row[call] = -1.0
            item = (-row[row.argmax()] / p[well, call], well)
            if call == c:
                stays.append(item)
                continue
            heappush(leaving[call], item)
            score += min((int(counts[call]) + 1) * classes, wells) - min(int(counts[call]) * classes, wells)
            score += min((int(counts[c]) - 1) * classes, wells) - min(int(counts[c]) * classes, wells)
            counts[call] += 1
            counts[c] -= 1
            turned = True
        for item in stays:
            heappush(heap, item)
        if turned and score > best_score:
            best_score, best = score, factors.copy()
            if best_score == perfect:
                break
    return best, best_score


def greedy_probabilities(log_p: np.ndarray) -> np.ndarray:
    """Probabilities after the published greedy coefficients.

    As published, its input is the softmax of each class over the wells of the plate; every class counts as present once.

    Args:
        log_p: (W, K) log probabilities.

    Returns:
        (W, K) log probabilities, rows sum to 1.
    """
    over_wells = np.exp(log_p - logsumexp(log_p, axis=0, keepdims=True))
    weighted = np.log(np.maximum(over_wells * greedy_coefficients(over_wells), 1e-300))
    return weighted - logsumexp(weighted, axis=1, keepdims=True)
