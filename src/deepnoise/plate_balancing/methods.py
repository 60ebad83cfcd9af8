"""Balancing one plate whose contents are known: matching marginals, Sinkhorn, linear assignment, greedy coefficients.

Each function takes log probabilities (W, K) of the classes that can be on the plate, and their capacities (K,): in how many wells each
may be at most, 1 where it is there once. METHODS is the table of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp

from deepnoise.plate_balancing.greedy import greedy

SURE = np.float32(1e-6)  # a marginal is held this far from 1: float32 tells no closer
LEAST = -60.0  # log of the least weight beside the best of a well, so that float32 does not round it to nothing
EXACT_PLACES = 12  # up to so many places of a plate marginals are summed exactly: 2^places terms a well
ITERATIONS = 200  # most rounds of the matching; it takes 15 to 60
SETTLED = 4e-3  # the matching stops when no marginal moves by more in four rounds
SINKHORN_ITERATIONS = 500
SINKHORN_TOLERANCE = 1e-3  # wells a class
ROUNDS = 25  # rounds of Sinkhorn between two that are taken in logs


def match_marginals(
    log_p: np.ndarray, capacity: np.ndarray, iterations: int = ITERATIONS, settled: float = SETTLED
) -> tuple[np.ndarray, float]:
    """Probability of each class in each well, given that no class stands in more wells than its capacity.

    The wells' labels are independent draws from ``log_p``, looked at only where they make a possible plate. The marginals of that
    distribution (a ratio of permanents) are those of belief propagation on the bipartite graph of wells and classes, which converges to
    the minimum of the Bethe free energy (Vontobel 2013, arXiv 1107.4196; Huang and Jebara 2009, arXiv 0908.1769). Sinkhorn is its
    mean-field neighbour, the linear assignment its limit at temperature 0. On plates of few places, where that approximation is too sure of itself, they
    are summed exactly. Copies stand for a class of capacity above 1, so that missing
    wells leave each place of the layout as likely empty. Wells beyond all capacity may be anything, at 1 / K.

    Args:
        log_p: (W, K) log probabilities, rows normalized.
        capacity: (K,) int; a class with room for all wells is not constrained.
        iterations: Most rounds.
        settled: See SETTLED.

    Returns:
        (W, K) log marginals, rows sum to 1, and the log Bethe partition function: how likely independent draws from ``log_p`` are to make a
        possible plate (nats, up to a constant of the design).
    """
    wells, classes = log_p.shape
    room = np.minimum(capacity, wells)
    free = room >= wells
    copies = np.where(free, 1, room)
    top = log_p.max(axis=1, keepdims=True)
    p = np.exp(np.maximum(log_p - top, LEAST)).astype(np.float32)
    places = int(copies.sum())
    if places > classes:
        p, free = np.repeat(p, copies, axis=1), np.repeat(free, copies)
    if not free.any() and places < wells:  # wells too many: one more place, for any number of them
        extra = np.exp(-top - np.log(classes)).astype(np.float32)
        p, free = np.hstack([p, extra]), np.append(free, True)
    if not free.any() and places <= EXACT_PLACES:
        marginal, evidence = _exact_marginals(p.astype(np.float64))
        return _by_class(marginal, copies), evidence + float(top.sum())
    absent = np.float32(free.any() or places > wells)  # weight of a place that stays empty
    constrained = ~free if free.any() else slice(None)
    message = np.ones_like(p)  # from class to well: odds that the place is left to it
    odds, rest = np.empty_like(p), np.empty_like(p)
    before: np.ndarray | None = None
    for round_ in range(iterations):
        np.multiply(p, message, out=rest)
        total = rest.sum(axis=1, keepdims=True)
        np.subtract((1 + SURE) * total, rest, out=rest)
        np.divide(p, rest, out=odds)
        claimed = odds.sum(axis=0, keepdims=True) + absent
        np.subtract((1 + SURE) * claimed, odds, out=rest)
        if free.any():
            message[:, constrained] = 1 / rest[:, constrained]
        else:
            np.divide(1, rest, out=message)
        if round_ % 4 == 3:
            np.multiply(odds, message, out=rest)
            marginal = rest / (1 + rest)
            if before is not None and np.abs(marginal - before).max() < settled:
                break
            before = marginal
    joint = (odds * message).astype(np.float64)
    evidence = (
        float(np.log((p * message).sum(axis=1, dtype=np.float64)).sum() + top.sum())
        + float(np.log(absent + odds.sum(axis=0, dtype=np.float64))[constrained].sum())
        - float(np.log1p(joint)[:, constrained].sum())
    )
    marginal = joint / (1 + joint)
    if p.shape[1] > places:  # a well too many is of its own class
        own = np.repeat(np.exp(log_p) / copies, copies, axis=1)
        marginal = marginal[:, :places] + marginal[:, -1:] * own
    return _by_class(marginal[:, :places], copies), evidence


def _by_class(marginal: np.ndarray, copies: np.ndarray) -> np.ndarray:
    """(W, K) log marginals from those of the places, (W, sum of copies); rows sum to 1."""
    by_class = np.add.reduceat(marginal, np.cumsum(copies) - copies, axis=1) if copies.max() > 1 else marginal
    by_class = np.maximum(by_class, 1e-30)
    return np.log(by_class / by_class.sum(axis=1, keepdims=True))


def _exact_marginals(p: np.ndarray) -> tuple[np.ndarray, float]:
    """Marginals of one-to-one matchings by summing over the sets of places that the wells before and after a well can fill.

    Args:
        p: (W, C) weights of wells on places, W at most C.

    Returns:
        (W, C) marginals and the log of the sum over all matchings.
    """
    wells, places = p.shape
    sets = np.arange(1 << places)
    without = [sets[(sets >> c) & 1 == 0] for c in range(places)]  # sets in which a place is still open
    before, after = np.zeros((wells + 1, len(sets))), np.zeros((wells + 1, len(sets)))
    before[0, 0], after[wells] = 1.0, 1.0
    for i in range(wells):
        for c, open_ in enumerate(without):
            before[i + 1, open_ + (1 << c)] += before[i, open_] * p[i, c]
            j = wells - 1 - i
            after[j, open_] += p[j, c] * after[j + 1, open_ + (1 << c)]
    marginal = np.stack(
        [[before[i, o] @ after[i + 1, o + (1 << c)] for c, o in enumerate(without)] for i in range(wells)]
    )
    return marginal * p / after[0, 0], float(np.log(after[0, 0]))


def sinkhorn(
    log_p: np.ndarray,
    capacity: np.ndarray,
    iterations: int = SINKHORN_ITERATIONS,
    tolerance: float = SINKHORN_TOLERANCE,
) -> np.ndarray:
    """Scale probabilities until every class is used as often as it stands on the plate (Sinkhorn-Knopp, in logs).

    Missing wells take up the slack: with fewer wells than places one further, flat row holds the difference; with more wells than places
    each class is used in proportion. Source of the scaling: Cuturi 2013, arXiv 1306.0895.

    Args:
        log_p: (W, K) log probabilities, rows normalized.
        capacity: (K,) int.
        iterations: Most rounds, taken in steps of ROUNDS.
        tolerance: Stop when no class is used more than this away from its share.

    Returns:
        (W, K) log probabilities; rows sum to 1.
    """
    inner = log_p
    wells, classes = inner.shape
    room = np.minimum(capacity, wells).astype(np.float64)
    places = room.sum()
    rows = np.zeros(wells)  # log marginals
    column_mass = room * max(wells / places, 1.0)
    if wells < places:
        inner = np.vstack([inner, np.zeros((1, classes))])
        rows = np.append(rows, np.log(places - wells))
    column, row_mass = np.log(column_mass), np.exp(rows)
    u, v = np.zeros(len(inner)), np.zeros(classes)
    for _ in range(-(-iterations // ROUNDS)):
        # one round in logs, safe at any spread of the scores; the others on plain numbers, much faster
        v = column - logsumexp(inner + u[:, None], axis=0)
        u = rows - logsumexp(inner + v[None], axis=1)
        kernel = np.exp(inner + u[:, None] + v[None])
        a = np.ones(len(inner))
        for _ in range(ROUNDS - 1):
            b = column_mass / (a @ kernel)
            a = row_mass / (kernel @ b)
        u, v = u + np.log(a), v + np.log(b)
        if np.abs((a @ kernel) * b - column_mass).max() < tolerance:
            break
    balanced = (inner + u[:, None] + v[None])[:wells]
    return balanced - logsumexp(balanced, axis=1, keepdims=True)


def assign(log_p: np.ndarray, capacity: np.ndarray) -> np.ndarray:
    """The possible plate with the greatest sum of log probabilities (linear sum assignment).

    Args:
        log_p: (W, K) log probabilities.
        capacity: (K,) int.

    Returns:
        (W,) int class of each well; a well that is left over keeps its most probable one.
    """
    calls = log_p.argmax(axis=1)
    column = np.repeat(np.arange(len(capacity)), np.minimum(capacity, len(log_p)))
    rows, places = linear_sum_assignment(log_p[:, column], maximize=True)
    calls[rows] = column[places]
    return calls


def _none(log_p: np.ndarray, capacity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return log_p, log_p.argmax(axis=1)


def _matching(log_p: np.ndarray, capacity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    balanced, _ = match_marginals(log_p, capacity)
    return balanced, balanced.argmax(axis=1)


def _sinkhorn(log_p: np.ndarray, capacity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    balanced = sinkhorn(log_p, capacity)
    return balanced, balanced.argmax(axis=1)


def _assignment(log_p: np.ndarray, capacity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return log_p, assign(log_p, capacity)


def _greedy(log_p: np.ndarray, capacity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    balanced = greedy(log_p, capacity)
    return balanced, balanced.argmax(axis=1)


METHODS: dict[str, Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "none": _none,
    "matching": _matching,
    "sinkhorn": _sinkhorn,
    "assignment": _assignment,
    "greedy": _greedy,
}
"""Name -> function of (log_p, capacity) that gives (log probabilities, calls) of one plate."""
