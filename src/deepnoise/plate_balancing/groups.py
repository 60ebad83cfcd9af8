"""Which plate group is on which plate: an assignment, with a margin and an "undecided"."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import norm

FLOOR = 1e-4  # least probability of a group: one wild well cannot decide a plate


@dataclass(frozen=True)
class GroupInference:
    """The groups found for the plates of one experiment."""

    groups: list[int]  # P, -1 where a plate got none
    posterior: float  # in [0.5, 1]; see infer_groups
    margin: float  # nats a well between the best and the second best assignment
    decided: bool


def infer_groups(log_p: np.ndarray, plate: np.ndarray, group_of_class: np.ndarray, threshold: float) -> GroupInference:
    """Assign plate groups to the plates of one experiment (method: section 6a).

    The score of group g on plate p is the sum over its wells of log(sum of p_c over classes c of g), floored. The
    best assignment solves a linear sum assignment; the second best is the best of those that lack one of its
    edges. Summed log-likelihoods look falsely certain, since the wells of a plate share their errors and the model
    is overconfident; the posterior is therefore taken from the scatter of the per-well differences between the two
    assignments: Phi(sum d / (sqrt(n) sd(d))).

    Args:
        log_p: (W, K) log probabilities of all wells of one experiment.
        plate: (W,) int, 0..P-1.
        group_of_class: (K,) int, 0..G-1; -1 for a class without a group.
        threshold: Posterior from which on the answer counts as decided.

    Returns:
        The groups, posterior, margin and whether it is decided. Undecided leaves the filter off.
    """
    plates = int(plate.max()) + 1
    count = int(group_of_class.max()) + 1
    p = np.exp(log_p)
    by_group = np.stack([p[:, group_of_class == g].sum(axis=1) for g in range(count)], axis=1)  # (W, G)
    per_well = np.log(np.clip(by_group, FLOOR, None))
    score = np.stack([per_well[plate == i].sum(axis=0) for i in range(plates)])  # (P, G)
    rows, columns = linear_sum_assignment(-score)
    groups = np.full(plates, -1)
    groups[rows] = columns
    best = score[rows, columns].sum()
    second_score, second = -np.inf, None
    for row, column in zip(rows, columns, strict=True):
        without = score.copy()
        without[row, column] = -1e12
        other_rows, other_columns = linear_sum_assignment(-without)
        total = without[other_rows, other_columns].sum()
        if total > second_score:
            second_score, second = total, (other_rows, other_columns)
    if count < 2 or second is None or second_score < -1e11:
        return GroupInference(groups.tolist(), 1.0, 0.0, count > 1)
    rival = np.full(plates, -1)
    rival[second[0]] = second[1]
    # plates on which the two differ; an unassigned plate counts nothing
    wells = np.flatnonzero((groups[plate] != rival[plate]) & (groups[plate] >= 0) & (rival[plate] >= 0))
    difference = per_well[wells, groups[plate[wells]]] - per_well[wells, rival[plate[wells]]]
    posterior = 0.5
    if len(wells) > 1:
        spread = np.sqrt(len(wells)) * difference.std(ddof=1)
        posterior = float(norm.cdf(difference.sum() / spread)) if spread > 0 else 0.5 + 0.5 * (difference.sum() > 0)
    return GroupInference(groups.tolist(), posterior, float((best - second_score) / len(log_p)), posterior >= threshold)
