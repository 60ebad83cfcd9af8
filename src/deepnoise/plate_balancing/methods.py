"""Balancing one plate whose contents are known: matching marginals, Sinkhorn, linear assignment, greedy coefficients.

Each method takes the log probabilities (W, K) of the classes that can be on the plate and their capacities (K,): the largest number of
wells each can be in, 1 for a class that is there once. METHODS is the table of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp

from deepnoise.plate_balancing.greedy import greedy_probabilities

logger = logging.getLogger(__name__)

EPSILON = np.float32(1e-6)
"""Marginals stay this far from 1, the resolution of float32."""
LOG_WEIGHT_FLOOR = -60.0
"""Log of the smallest weight relative to the best class of a well, so that float32 does not round it to 0."""
EXACT_SLOTS = 12
"""Up to this many slots on a plate, marginals are summed exactly: 2^slots terms per well."""
ITERATIONS = 200
"""Largest number of rounds of the matching; it needs 15 to 60."""
TOLERANCE = 4e-3
"""The matching stops when no marginal has moved by more in four rounds."""
SINKHORN_ITERATIONS = 500
SINKHORN_TOLERANCE = 1e-3
"""In wells per class."""
FAR_OFF = 0.05
"""Matching or Sinkhorn warns where, after the last round, a marginal still moves by more (matching), or a class is used more wells off
its share (Sinkhorn)."""
SINKHORN_ROUNDS = 25
"""Rounds of Sinkhorn between two that are computed in logs."""


def match_marginals(
    log_p: np.ndarray,
    capacity: np.ndarray,
    iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
    stray: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
    """Probability of each class in each well, given that no class is in more wells than its capacity.

    Labels are drawn independently per well from ``log_p`` and conditioned on the plate being feasible. The marginals of that
    distribution are a ratio of permanents. Belief propagation on the bipartite graph of wells and classes approximates them; it
    converges to the minimum of the Bethe free energy (Vontobel 2013, arXiv 1107.4196; Huang and Jebara 2009, arXiv 0908.1769).
    Sinkhorn is its mean-field relative, linear assignment its limit at temperature 0. On plates with few slots the approximation is
    overconfident, so there the sum is exact. A class of capacity above 1 is copied, so that missing wells leave each slot of the
    layout equally likely to be empty. Wells beyond the total capacity may hold any class, at 1 / K.

    Elimination alone makes a well certain: the place that no other well wants is its own, whatever it looks like. A *stray* well, whose
    perturbation is not the one that the plate has left for it, breaks that: it takes no place, and leaves one empty.

    Args:
        log_p: (W, K) log probabilities, rows normalized.
        capacity: (K,) int; a class with room for all wells is not constrained.
        iterations: Largest number of rounds.
        tolerance: See TOLERANCE.
        stray: (W,) log weight of each well being a stray, where a place has the weight ``log_p``; None: there are none.

    Returns:
        (W, K) log marginals. Their rows sum to 1, or with strays to the probability that the well is none. And the log Bethe partition function, which says how likely independent draws from
        ``log_p`` are to make a feasible plate (nats, up to a constant of the design).
    """
    wells, classes = log_p.shape
    room = np.minimum(capacity, wells)
    free = room >= wells
    copies = np.where(free, 1, room)
    top = log_p.max(axis=1, keepdims=True)
    p = np.exp(np.maximum(log_p - top, LOG_WEIGHT_FLOOR)).astype(np.float32)
    slots = int(copies.sum())
    if slots > classes:
        p, free = np.repeat(p, copies, axis=1), np.repeat(free, copies)
    surplus = not free.any() and slots < wells
    outside = np.zeros((wells, 0))  # weight of the slots that any number of wells can be in: surplus wells, then strays
    if surplus:
        outside = np.exp(-top - np.log(classes))
    if stray is not None:
        outside = np.hstack([outside, np.exp(np.clip(stray[:, None] - top, LOG_WEIGHT_FLOOR, -LOG_WEIGHT_FLOOR))])
    if not free.any() and not surplus and slots <= EXACT_SLOTS:
        marginal, evidence = _exact_marginals(p.astype(np.float64), outside.sum(axis=1))
        return _by_class(marginal, copies, stray is None), evidence + float(top.sum())
    p, free = np.hstack([p, outside.astype(np.float32)]), np.append(free, np.ones(outside.shape[1], bool))
    empty_weight = np.float32(free.any() or slots > wells)  # of a slot that stays empty
    constrained = ~free if free.any() else slice(None)
    message = np.ones_like(p)  # from slot to well: odds that no other well takes the slot
    odds, rest = np.empty_like(p), np.empty_like(p)  # rest: buffer
    previous: np.ndarray | None = None
    moved = np.inf
    for round_ in range(iterations):
        np.multiply(p, message, out=rest)
        total = rest.sum(axis=1, keepdims=True)
        np.subtract((1 + EPSILON) * total, rest, out=rest)
        np.divide(p, rest, out=odds)
        claimed = odds.sum(axis=0, keepdims=True) + empty_weight
        np.subtract((1 + EPSILON) * claimed, odds, out=rest)
        if free.any():
            message[:, constrained] = 1 / rest[:, constrained]
        else:
            np.divide(1, rest, out=message)
        if round_ % 4 == 3:
            np.multiply(odds, message, out=rest)
            marginal = rest / (1 + rest)
            if previous is not None:
                moved = float(np.abs(marginal - previous).max())
                if moved < tolerance:
                    break
            previous = marginal
    if moved > FAR_OFF and iterations >= ITERATIONS:
        logger.warning(
            "matching: marginals of %s wells still moved by %.2g after %s rounds, expected under %.2g",
            wells, moved, iterations, tolerance,
        )  # fmt: skip
    joint = (odds * message).astype(np.float64)
    evidence = (
        float(np.log((p * message).sum(axis=1, dtype=np.float64)).sum() + top.sum())
        + float(np.log(empty_weight + odds.sum(axis=0, dtype=np.float64))[constrained].sum())
        - float(np.log1p(joint)[:, constrained].sum())
    )
    marginal = joint / (1 + joint)
    marginal /= marginal.sum(axis=1, keepdims=True)
    in_slot = marginal[:, :slots]
    if surplus:  # a surplus well keeps its own probabilities
        in_slot = in_slot + marginal[:, slots : slots + 1] * np.repeat(np.exp(log_p) / copies, copies, axis=1)
    return _by_class(in_slot, copies, stray is None), evidence


def _by_class(marginal: np.ndarray, copies: np.ndarray, normalize: bool) -> np.ndarray:
    """(W, K) log marginals of classes from (W, sum of copies) marginals of slots; rows sum to 1 if normalized."""
    by_class = np.add.reduceat(marginal, np.cumsum(copies) - copies, axis=1) if copies.max() > 1 else marginal
    by_class = np.maximum(by_class, 1e-30)
    return np.log(by_class / by_class.sum(axis=1, keepdims=True) if normalize else by_class)


def _exact_marginals(p: np.ndarray, outside: np.ndarray) -> tuple[np.ndarray, float]:
    """Marginals of one-to-one matchings, summed over the sets of slots that the wells before and after a well can fill.

    Args:
        p: (W, C) weights of wells for slots; W is at most C.
        outside: (W,) weight of each well being in no slot.

    Returns:
        (W, C) marginals and the log of the sum over all matchings.
    """
    wells, slots = p.shape
    sets = np.arange(1 << slots)
    without = [sets[(sets >> c) & 1 == 0] for c in range(slots)]  # sets that leave a slot open
    before, after = np.zeros((wells + 1, len(sets))), np.zeros((wells + 1, len(sets)))
    before[0, 0], after[wells] = 1.0, 1.0
    for i in range(wells):
        j = wells - 1 - i
        before[i + 1] += before[i] * outside[i]
        after[j] += outside[j] * after[j + 1]
        for c, open_ in enumerate(without):
            before[i + 1, open_ + (1 << c)] += before[i, open_] * p[i, c]
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
    """Scale probabilities until each class is used as often as it is on the plate (Sinkhorn-Knopp, in logs).

    With fewer wells than slots, one extra flat row takes up the slack of the missing wells. With more wells than slots, each class is
    used in proportion. Source of the scaling: Cuturi 2013, arXiv 1306.0895.

    Args:
        log_p: (W, K) log probabilities, rows normalized.
        capacity: (K,) int.
        iterations: Largest number of rounds, in steps of SINKHORN_ROUNDS.
        tolerance: Stop when the use of no class differs from its share by more.

    Returns:
        (W, K) log probabilities; rows sum to 1.
    """
    inner = log_p
    wells, classes = inner.shape
    room = np.minimum(capacity, wells).astype(np.float64)
    slots = room.sum()
    rows = np.zeros(wells)  # log marginals
    column_mass = room * max(wells / slots, 1.0)
    if wells < slots:
        inner = np.vstack([inner, np.zeros((1, classes))])
        rows = np.append(rows, np.log(slots - wells))
    column, row_mass = np.log(column_mass), np.exp(rows)
    u, v = np.zeros(len(inner)), np.zeros(classes)
    for _ in range(-(-iterations // SINKHORN_ROUNDS)):
        # one round in logs, safe at any spread of the scores; the others on plain numbers, which is much faster
        v = column - logsumexp(inner + u[:, None], axis=0)
        u = rows - logsumexp(inner + v[None], axis=1)
        kernel = np.exp(inner + u[:, None] + v[None])
        a = np.ones(len(inner))
        for _ in range(SINKHORN_ROUNDS - 1):
            b = column_mass / (a @ kernel)
            a = row_mass / (kernel @ b)
        u, v = u + np.log(a), v + np.log(b)
        distance = float(np.abs((a @ kernel) * b - column_mass).max())
        if distance < tolerance:
            break
    if distance > FAR_OFF:
        logger.warning(
            "Sinkhorn: after %s rounds a class is used %.2g wells off its share, expected under %.2g",
            iterations, distance, tolerance,
        )  # fmt: skip
    return (inner + u[:, None] + v[None])[:wells]  # rows were normalized last


def assign(log_p: np.ndarray, capacity: np.ndarray) -> np.ndarray:
    """The feasible plate with the greatest sum of log probabilities (linear sum assignment).

    Args:
        log_p: (W, K) log probabilities.
        capacity: (K,) int.

    Returns:
        (W,) int class of each well. A well without a slot keeps its most probable class.
    """
    calls = log_p.argmax(axis=1)
    column = np.repeat(np.arange(len(capacity)), np.minimum(capacity, len(log_p)))
    rows, slots = linear_sum_assignment(log_p[:, column], maximize=True)
    calls[rows] = column[slots]
    return calls


def _group_filter(log_p: np.ndarray, capacity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Among the classes that can be on the plate, the most probable one of each well."""
    return log_p, log_p.argmax(axis=1)


def _matching(log_p: np.ndarray, capacity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    marginals, _ = match_marginals(log_p, capacity)
    return marginals, marginals.argmax(axis=1)


def _sinkhorn(log_p: np.ndarray, capacity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    balanced = sinkhorn(log_p, capacity)
    return balanced, balanced.argmax(axis=1)


def _assignment(log_p: np.ndarray, capacity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return log_p, assign(log_p, capacity)


def _greedy(log_p: np.ndarray, capacity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    balanced = greedy_probabilities(log_p)
    return balanced, balanced.argmax(axis=1)


METHODS: dict[str, Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "group_filter": _group_filter,
    "none": _group_filter,
    "matching": _matching,
    "sinkhorn": _sinkhorn,
    "assignment": _assignment,
    "greedy": _greedy,
}
"""Name -> function of (log_p, capacity) that gives (log probabilities, calls) of one plate; ``none`` stops at the filter."""
