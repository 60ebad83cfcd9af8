"""Which plate group is on which plate: an assignment, with a margin and an "undecided"."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import perm

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import norm, rankdata

from deepnoise.plate_balancing.methods import match_marginals
from deepnoise.plate_balancing.scores import log_softmax

FLOOR = 1e-4  # least probability of a group: one wild well cannot decide a plate
EVIDENCE_ROUNDS = 16  # of the matching that compares two answers


def _centred(log_p: np.ndarray) -> np.ndarray:
    """Scores of one plate less the mean of each class over its wells: a class that the whole plate favours gains nothing by it."""
    return log_p - log_p.mean(axis=0)


def _ranked(log_p: np.ndarray) -> np.ndarray:
    """-log of a class's rank in its well, 1 for the best, after the plate's bias is gone; wild scores and unequal wells count alike."""
    rank = rankdata(-(log_p - np.median(log_p, axis=0)), axis=1)
    return _centred(-np.log(rank))


STATISTICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "raw": lambda log_p: log_p,
    "centred": _centred,
    "rank": _ranked,
}
"""Name -> what group inference takes for the (W, K) log scores of one plate."""
FROM_SCORES = 0.75
"""Least posterior by the scores alone: a layout in use makes an answer likelier, never by itself."""


@dataclass(frozen=True)
class GroupInference:
    """The groups found for the plates of one experiment."""

    groups: list[int]  # P, -1 where a plate got none
    posterior: float  # in [0, 1]; see infer_groups
    margin: float  # nats a well between the best and the second best assignment
    decided: bool
    statistic: str


def infer_groups(
    log_p: np.ndarray,
    plate: np.ndarray,
    group_of_class: np.ndarray,
    threshold: float,
    statistic: str = "auto",
    layouts: Mapping[tuple[int, ...], int] | None = None,
) -> GroupInference:
    """Assign plate groups to the plates of one experiment (method: section 6a).

    The score of group g on plate p is the sum over its wells of log(sum of p_c over classes c of g), floored. The
    best assignment solves a linear sum assignment; its rivals are the best of those that lack one of its edges, and the layouts in use.
    Summed log-likelihoods look falsely certain, since the wells of a plate share their errors and the model
    is overconfident; the posterior is therefore taken from the scatter of the per-well differences d between two
    assignments, Phi(sum d / (sqrt(n) sd(d))), to whose log odds those of the layouts are added; the closest rival counts. Other
    experiments vote for the layout that they use, and one imagined experiment for all that none uses, which are never ruled out.

    ``auto`` takes the centred statistic, and where that is undecided the ranks, if under their answer the plates fit
    their groups better: greater evidence that the wells, each called within its plate's group, make a possible plate
    (:func:`~deepnoise.plate_balancing.methods.match_marginals`), which needs no labels. The raw statistic takes the bias of a plate for its
    group and is there to be compared.

    Args:
        log_p: (W, K) log probabilities of all wells of one experiment.
        plate: (W,) int, 0..P-1.
        group_of_class: (K,) int, 0..G-1; -1 for a class without a group.
        threshold: Posterior from which on the answer counts as decided.
        statistic: ``auto`` or a key of STATISTICS.
        layouts: (P,) groups of the plates -> number of other experiments that use this layout.

    Returns:
        The groups, posterior, margin and whether it is decided. Undecided leaves the filter off.
    """
    if statistic != "auto":
        return _infer(log_p, plate, group_of_class, threshold, statistic, layouts or {})
    answer = _infer(log_p, plate, group_of_class, threshold, "centred", layouts or {})
    if answer.decided:
        return answer
    other = _infer(log_p, plate, group_of_class, threshold, "rank", layouts or {})
    if other.groups == answer.groups:
        return answer
    return max(answer, other, key=lambda one: _fit(log_p, plate, group_of_class, one.groups))


def _fit(log_p: np.ndarray, plate: np.ndarray, group_of_class: np.ndarray, groups: list[int]) -> float:
    """Evidence (nats) that the wells make possible plates, each called within the group of its plate."""
    total = 0.0
    for i, group in enumerate(groups):
        own = _centred(log_p[plate == i])
        if group >= 0:
            own = own[:, group_of_class == group]
        once = np.ones(own.shape[1], int)
        total += match_marginals(log_softmax(own), once, iterations=EVIDENCE_ROUNDS)[1]
    return total


def _infer(
    log_p: np.ndarray,
    plate: np.ndarray,
    group_of_class: np.ndarray,
    threshold: float,
    statistic: str,
    layouts: Mapping[tuple[int, ...], int],
) -> GroupInference:
    plates, count = int(plate.max()) + 1, int(group_of_class.max()) + 1
    member = (group_of_class[:, None] == np.arange(count)).astype(np.float32)  # (K, G)
    per_well = np.empty((len(log_p), count))
    for i in range(plates):
        taken = STATISTICS[statistic](log_p[plate == i])
        weight = np.exp(taken - taken.max(axis=1, keepdims=True), dtype=np.float32, casting="same_kind")
        per_well[plate == i] = np.log(np.clip(weight @ member / weight.sum(axis=1, keepdims=True), FLOOR, None))
    score = np.stack([per_well[plate == i].sum(axis=0) for i in range(plates)])  # (P, G)
    best = _assignment(score)
    rivals = {tuple(layout) for layout in layouts if len(layout) == plates and max(layout) < count}
    second = -np.inf
    for i in np.flatnonzero(best >= 0).tolist():
        without = score.copy()
        without[i, best[i]] = -1e12
        rival = _assignment(without)
        total = without[rival >= 0, rival[rival >= 0]].sum()
        if total > -1e11:
            rivals.add(tuple(rival.tolist()))
            second = max(second, total)
    rivals.discard(tuple(best.tolist()))
    if count < 2 or not rivals:
        return GroupInference(best.tolist(), 1.0, 0.0, count > 1, statistic)
    unused = perm(max(plates, count), min(plates, count)) - len(layouts)  # layouts that no experiment uses
    votes = [layouts.get(one, 1 / max(unused, 1)) for one in (tuple(best.tolist()), *rivals)]
    from_scores = [_log_odds(per_well, plate, best, np.array(rival)) for rival in rivals]
    whole = [odds + np.log(votes[0] / other) for odds, other in zip(from_scores, votes[1:], strict=True)]
    posterior, alone = (float(1 / (1 + np.exp(-np.clip(min(odds), -700, 700)))) for odds in (whole, from_scores))
    margin = float((score[best >= 0, best[best >= 0]].sum() - second) / len(log_p)) if np.isfinite(second) else 0.0
    decided = posterior >= threshold and alone >= FROM_SCORES
    return GroupInference(best.tolist(), posterior, margin, decided, statistic)


def _assignment(score: np.ndarray) -> np.ndarray:
    """(P,) the group of each plate, -1 where there are fewer groups than plates."""
    rows, columns = linear_sum_assignment(score, maximize=True)
    groups = np.full(len(score), -1)
    groups[rows] = columns
    return groups


def _log_odds(per_well: np.ndarray, plate: np.ndarray, groups: np.ndarray, rival: np.ndarray) -> float:
    """Of one assignment against another, from the wells of the plates on which the two differ; an unassigned plate counts nothing."""
    wells = np.flatnonzero((groups[plate] != rival[plate]) & (groups[plate] >= 0) & (rival[plate] >= 0))
    difference = per_well[wells, groups[plate[wells]]] - per_well[wells, rival[plate[wells]]]
    if len(wells) < 2:
        return 0.0
    spread = np.sqrt(len(wells)) * difference.std(ddof=1)
    if spread <= 1e-12:
        return 700.0 * float(np.sign(difference.sum())) if abs(difference.sum()) > 1e-9 else 0.0
    z = difference.sum() / spread
    return float(norm.logcdf(z) - norm.logcdf(-z))
