"""Inference of plate groups: which group is on which plate, with a posterior, a margin and "undecided"."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import perm

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import norm, rankdata

from deepnoise.plate_balancing.methods import match_marginals
from deepnoise.plate_balancing.scores import log_softmax

PROBABILITY_FLOOR = 1e-4
"""Lowest probability of a group in a well, so that one outlier well cannot decide a plate."""
EVIDENCE_ROUNDS = 16
"""Rounds of the matching that compares two assignments."""


def _centred(log_p: np.ndarray) -> np.ndarray:
    """Scores of one plate minus the mean of each class over its wells, which removes a bias of the whole plate for a class."""
    return log_p - log_p.mean(axis=0)


def _ranked(log_p: np.ndarray) -> np.ndarray:
    """-log of a class's rank in its well (1: best) without the plate's bias; outlier scores and wells count no more than others."""
    rank = rankdata(-(log_p - np.median(log_p, axis=0)), axis=1)
    return _centred(-np.log(rank))


STATISTICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "raw": lambda log_p: log_p,
    "centred": _centred,
    "rank": _ranked,
}
"""Name -> transformation of the (W, K) log scores of one plate before group inference."""
LEAST_MEMBERS = 0.3
"""Share of the wells that must belong to the groups assigned to their plates; a random deal reaches 0.25 where the scores are any good."""
MIN_SCORE_POSTERIOR = 0.75
"""Lowest posterior from the scores alone of a decided assignment: a layout in use never decides by itself."""


@dataclass(frozen=True)
class GroupInference:
    """The inferred groups of the plates of one experiment."""

    groups: list[int]  # P, -1 for a plate without one
    posterior: float  # in [0, 1]; see infer_groups
    margin: float  # nats per well between the best and the second best assignment
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

    The score of group g on plate p is the sum over its wells of log(sum of p_c over classes c of g), floored. The best assignment
    solves a linear sum assignment. Its rivals are the best assignments that lack one of its edges, and the layouts in use.

    Summed log-likelihoods look falsely certain, since the wells of a plate share their errors and the model is overconfident. The
    posterior is therefore taken from the scatter of the per-well differences d between two assignments,
    Phi(sum d / (sqrt(n) sd(d))). The log odds of the layouts are added, and the closest rival counts. Other experiments vote for the
    layout they use; one imagined experiment votes for all layouts that none uses, so these are never ruled out.

    ``auto`` uses the centred statistic. If that is undecided, it uses the ranks if plates fit their groups better under their
    assignment: greater evidence that the wells, each called within its plate's group, make a feasible plate
    (:func:`~deepnoise.plate_balancing.methods.match_marginals`), which needs no labels. The raw statistic mistakes the bias of a plate
    for its group; it exists for comparison.

    Args:
        log_p: (W, K) log probabilities of all wells of one experiment.
        plate: (W,) int, 0..P-1.
        group_of_class: (K,) int, 0..G-1; -1 for a class without a group.
        threshold: Posterior from which an assignment counts as decided.
        statistic: ``auto`` or a key of STATISTICS.
        layouts: (P,) groups of the plates -> number of other experiments that use this layout.

    Returns:
        Groups, posterior, margin and whether they are decided. Undecided leaves the filter off; so does an experiment whose plates hold
        none of the groups, such as one dealt anew: the best assignment then fits few more wells than chance.
    """
    if statistic != "auto":
        return _infer(log_p, plate, group_of_class, threshold, statistic, layouts or {})
    centred = _infer(log_p, plate, group_of_class, threshold, "centred", layouts or {})
    if centred.decided:
        return centred
    ranked = _infer(log_p, plate, group_of_class, threshold, "rank", layouts or {})
    if ranked.groups == centred.groups:
        return centred
    return max(centred, ranked, key=lambda inference: _evidence(log_p, plate, group_of_class, inference.groups))


def _evidence(log_p: np.ndarray, plate: np.ndarray, group_of_class: np.ndarray, groups: list[int]) -> float:
    """Evidence (nats) that the wells make feasible plates, each called within the group of its plate."""
    total = 0.0
    for i, group in enumerate(groups):
        scores = _centred(log_p[plate == i])
        if group >= 0:
            scores = scores[:, group_of_class == group]
        once = np.ones(scores.shape[1], int)
        total += match_marginals(log_softmax(scores), once, iterations=EVIDENCE_ROUNDS)[1]
    return total


def _infer(
    log_p: np.ndarray,
    plate: np.ndarray,
    group_of_class: np.ndarray,
    threshold: float,
    statistic: str,
    layouts: Mapping[tuple[int, ...], int],
) -> GroupInference:
    """Groups of the plates by one statistic."""
    plates, count = int(plate.max()) + 1, int(group_of_class.max()) + 1
    per_well = _group_log_p(log_p, plate, group_of_class, STATISTICS[statistic])
    score = np.stack([per_well[plate == i].sum(axis=0) for i in range(plates)])  # (P, G)
    best = _assignment(score)
    used = {tuple(layout) for layout in layouts if len(layout) == plates and max(layout) < count}
    rivals, second_score = _rivals(score, best, used)
    if count < 2 or not rivals:
        return GroupInference(best.tolist(), 1.0, 0.0, count > 1, statistic)
    unused = perm(max(plates, count), min(plates, count)) - len(layouts)  # layouts that no experiment uses
    votes = [layouts.get(layout, 1 / max(unused, 1)) for layout in (tuple(best.tolist()), *rivals)]
    score_odds = [_log_odds(per_well, plate, best, np.array(rival)) for rival in rivals]
    total_odds = [odds + np.log(votes[0] / vote) for odds, vote in zip(score_odds, votes[1:], strict=True)]
    posterior, score_posterior = (
        float(1 / (1 + np.exp(-np.clip(min(odds), -700, 700)))) for odds in (total_odds, score_odds)
    )
    has_second = np.isfinite(second_score)
    margin = (
        float((score[best >= 0, best[best >= 0]].sum() - second_score) / len(log_p)) if has_second else 0.0
    )  # fmt: skip
    decided = (
        posterior >= threshold
        and score_posterior >= MIN_SCORE_POSTERIOR
        and _members(per_well, plate, best) >= LEAST_MEMBERS
    )
    return GroupInference(best.tolist(), posterior, margin, decided, statistic)


def _members(per_well: np.ndarray, plate: np.ndarray, groups: np.ndarray) -> float:
    """Share of the wells that belong to the group of their plate, where all others are of any group: none of these groups, if it is near 0.

    The most likely weight r of the mixture r p(group) + (1 - r) / G over wells, by expectation maximization (Dempster et al. 1977).
    """
    wells = np.flatnonzero(groups[plate] >= 0)
    share = np.exp(per_well[wells])
    assigned = share[np.arange(len(wells)), groups[plate[wells]]] / share.sum(axis=1)
    members = 0.5
    for _ in range(100):
        weight = members * assigned
        members = float((weight / (weight + (1 - members) / share.shape[1])).mean())
    return members


def _group_log_p(
    log_p: np.ndarray,
    plate: np.ndarray,
    group_of_class: np.ndarray,
    transform: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """(W, G) log probability of each group in each well, floored."""
    count = int(group_of_class.max()) + 1
    member = (group_of_class[:, None] == np.arange(count)).astype(np.float32)  # (K, G)
    per_well = np.empty((len(log_p), count))
    for i in range(int(plate.max()) + 1):
        scores = transform(log_p[plate == i])
        weight = np.exp(scores - scores.max(axis=1, keepdims=True), dtype=np.float32, casting="same_kind")
        share = weight @ member / weight.sum(axis=1, keepdims=True)
        per_well[plate == i] = np.log(np.clip(share, PROBABILITY_FLOOR, None))
    return per_well


def _rivals(score: np.ndarray, best: np.ndarray, used: set[tuple[int, ...]]) -> tuple[set[tuple[int, ...]], float]:
    """Assignments to compare the best one with: those lacking one of its edges, and the layouts in use; and the second best score."""
    rivals, second_score = set(used), -np.inf
    for i in np.flatnonzero(best >= 0).tolist():
        without_edge = score.copy()
        without_edge[i, best[i]] = -1e12
        rival = _assignment(without_edge)
        total = without_edge[rival >= 0, rival[rival >= 0]].sum()
        if total > -1e11:
            rivals.add(tuple(rival.tolist()))
            second_score = max(second_score, total)
    rivals.discard(tuple(best.tolist()))
    return rivals, float(second_score)


def _assignment(score: np.ndarray) -> np.ndarray:
    """(P,) group of each plate; -1 where there are fewer groups than plates."""
    rows, columns = linear_sum_assignment(score, maximize=True)
    groups = np.full(len(score), -1)
    groups[rows] = columns
    return groups


def _log_odds(per_well: np.ndarray, plate: np.ndarray, groups: np.ndarray, rival: np.ndarray) -> float:
    """Log odds of one assignment against another, from the wells of plates on which they differ; unassigned plates do not count."""
    wells = np.flatnonzero((groups[plate] != rival[plate]) & (groups[plate] >= 0) & (rival[plate] >= 0))
    difference = per_well[wells, groups[plate[wells]]] - per_well[wells, rival[plate[wells]]]
    if len(wells) < 2:
        return 0.0
    spread = np.sqrt(len(wells)) * difference.std(ddof=1)
    if spread <= 1e-12:
        return 700.0 * float(np.sign(difference.sum())) if abs(difference.sum()) > 1e-9 else 0.0
    z = difference.sum() / spread
    return float(norm.logcdf(z) - norm.logcdf(-z))
