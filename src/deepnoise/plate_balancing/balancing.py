"""Filter, Sinkhorn and assignment on one plate, and the steps over a whole table.

On a plate each perturbation stands at most once. METHODS is the table of balancing methods.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp

from deepnoise.errors import InputError
from deepnoise.plate_balancing.groups import infer_groups
from deepnoise.plate_balancing.scores import META, log_probabilities
from deepnoise.tables import SCORE, class_names, prefixed

logger = logging.getLogger(__name__)
FORBIDDEN = -1e9  # log probability of a class the filter shuts out
ROUNDS = 25  # rounds of Sinkhorn between two that are taken in logs


def sinkhorn(log_p: np.ndarray, iterations: int, tolerance: float) -> np.ndarray:
    """Scale probabilities until every class of the plate is used once (Sinkhorn-Knopp, in logs).

    Missing wells take up the slack: with W < K wells one further, flat row of mass K - W is added; with W > K
    every class is used W / K times. Source of the scaling: Cuturi 2013, arXiv 1306.0895.

    Args:
        log_p: (W, K) log probabilities, rows normalized; FORBIDDEN marks classes that cannot be there.
        iterations: Most rounds, taken in steps of ROUNDS.
        tolerance: Stop when no class is used more than this away from its share.

    Returns:
        (W, K) log probabilities; rows sum to 1.
    """
    allowed = (log_p > FORBIDDEN / 2).any(axis=0)
    inner = log_p[:, allowed]
    wells, classes = inner.shape
    rows = np.zeros(wells)  # log marginals
    column = np.log(max(wells / classes, 1.0))
    if wells < classes:
        inner = np.vstack([inner, np.zeros((1, classes))])
        rows = np.append(rows, np.log(classes - wells))
    row_mass, column_mass = np.exp(rows), np.exp(column)
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
    balanced = np.full(log_p.shape, FORBIDDEN)
    balanced[:, allowed] = (inner + u[:, None] + v[None])[:wells]
    return balanced - logsumexp(balanced, axis=1, keepdims=True)


def assign(log_p: np.ndarray) -> np.ndarray:
    """One well a perturbation, with the greatest sum of log probabilities.

    Args:
        log_p: (W, K) log probabilities.

    Returns:
        (W,) int class of each well; a well that is left over, or could only take a forbidden class, keeps its
        most probable one.
    """
    calls = log_p.argmax(axis=1)
    rows, columns = linear_sum_assignment(log_p, maximize=True)
    fits = log_p[rows, columns] > FORBIDDEN / 2
    calls[rows[fits]] = columns[fits]
    return calls


def _balance_none(log_p: np.ndarray, iterations: int, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    return log_p, log_p.argmax(axis=1)


def _balance_sinkhorn(log_p: np.ndarray, iterations: int, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    balanced = sinkhorn(log_p, iterations, tolerance)
    return balanced, balanced.argmax(axis=1)


def _balance_assignment(log_p: np.ndarray, iterations: int, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    return log_p, assign(log_p)


METHODS: dict[str, Callable[[np.ndarray, int, float], tuple[np.ndarray, np.ndarray]]] = {
    "none": _balance_none,
    "sinkhorn": _balance_sinkhorn,
    "assignment": _balance_assignment,
}
"""Name -> function of (log_p, iterations, tolerance) that gives (log probabilities, calls) of one plate."""


def design_tier(tier: str) -> str:
    """Tier of a call that also knows the plate design."""
    if "T2" in tier:
        return tier
    return {"T3": "T2+T3", "unknown": "T2+unknown"}.get(tier, "T2")


def filter_groups(
    table: pd.DataFrame, log_p: np.ndarray, layout: pd.DataFrame, threshold: float
) -> tuple[np.ndarray, pd.DataFrame]:
    """Shut out the classes of other plate groups where the groups of an experiment are decided.

    Args:
        table: Pooled scores (for experiment and plate).
        log_p: (W, K) log probabilities.
        layout: The table ``plate_layout``.
        threshold: See :func:`deepnoise.plate_balancing.groups.infer_groups`.

    Returns:
        (W, K) log probabilities, renormalized, and one row a plate: experiment, plate, group, posterior,
        margin, decided.
    """
    group_of = layout.set_index("perturbation")["group"]
    group_of_class = np.array([group_of.get(name, -1) for name in class_names(table)])
    filtered = log_p.copy()
    found = []
    for experiment, rows in table.groupby("experiment", sort=True).indices.items():
        plates, plate = np.unique(table["plate"].to_numpy()[rows], return_inverse=True)
        inference = infer_groups(log_p[rows], plate, group_of_class, threshold)
        for name, group in zip(plates, inference.groups, strict=True):
            found.append((experiment, name, group, inference.posterior, inference.margin, inference.decided))
        if inference.decided:
            group_of_well = np.array(inference.groups)[plate][:, None]
            shut = (group_of_class[None] != group_of_well) & (group_of_well >= 0)
            filtered[rows] = np.where(shut, FORBIDDEN, filtered[rows])
    filtered -= logsumexp(filtered, axis=1, keepdims=True)
    return filtered, pd.DataFrame(found, columns=["experiment", "plate", "group", "posterior", "margin", "decided"])


def balance(
    table: pd.DataFrame,
    layout: pd.DataFrame,
    *,
    group_inference: str,
    group_posterior: float,
    method: str,
    temperature: float,
    iterations: int,
    tolerance: float,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Take a table of well scores through every step of plate balancing.

    Args:
        table: Pooled scores of :func:`deepnoise.plate_balancing.scores.pool_scores`.
        layout: The table ``plate_layout``; one group means that plates carry no groups.
        group_inference: ``infer`` or ``none``.
        group_posterior: Posterior from which on a group is believed.
        method: Key of METHODS; its result is the design-aware call. With ``none`` only the filter remains.
        temperature: Divides the scores before the softmax.
        iterations: For Sinkhorn.
        tolerance: For Sinkhorn.

    Returns:
        ``design_probabilities``, ``balancing_steps`` and the groups found (a row a plate).

    Raises:
        InputError: Unknown method.
    """
    if method not in METHODS:
        raise InputError(f"plate_balancing.method is {method!r}; allowed: {', '.join(METHODS)}")
    names = np.array(class_names(table), dtype=object)
    base = table[META[:-1]]
    log_p = log_probabilities(table, temperature)
    tier = str(table["tier"].iloc[0])
    steps: list[pd.DataFrame] = []

    def record(step: str, calls: np.ndarray, log_q: np.ndarray, step_tier: str) -> None:
        confidence = np.exp(log_q[np.arange(len(calls)), calls])
        candidates = (log_q > FORBIDDEN / 2).sum(axis=1)  # classes that the step still allows
        steps.append(
            base.assign(step=step, call=names[calls], confidence=confidence, candidates=candidates, tier=step_tier)
        )

    record("plain", log_p.argmax(axis=1), log_p, tier)
    found = pd.DataFrame(columns=["experiment", "plate", "group", "posterior", "margin", "decided"])
    final, final_tier = log_p, tier
    if group_inference == "infer" and layout["group"].nunique() > 1:
        final, found = filter_groups(table, log_p, layout, group_posterior)
        final_tier = design_tier(tier) if found["decided"].any() else tier
        record("group_filter", final.argmax(axis=1), final, design_tier(tier))
    chosen = final
    if method != "none":
        final_tier = design_tier(tier)
        for name, function in METHODS.items():
            if name == "none":
                continue
            balanced, calls = final.copy(), np.empty(len(table), int)
            for rows in table.groupby(["experiment", "plate"], sort=True).indices.values():
                balanced[rows], calls[rows] = function(final[rows], iterations, tolerance)
            record(name, calls, balanced, final_tier)
            if name == method:
                chosen = balanced
    probabilities = base.drop(columns="role").assign(tier=final_tier)
    wide = prefixed(np.exp(chosen), list(names), SCORE, table.index)
    return pd.concat([probabilities, wide], axis=1), pd.concat(steps, ignore_index=True), found


def make_calls(steps: pd.DataFrame, method: str) -> pd.DataFrame:
    """The table ``calls``: the plain call beside the design-aware one.

    Args:
        steps: ``balancing_steps``.
        method: The method whose call counts; ``none``: the last step there is.
    """
    available = list(dict.fromkeys(steps["step"]))
    last = method if method in available else available[-1]
    key = ["id_code", "experiment", "plate", "well"]
    plain = steps[steps["step"] == "plain"].rename(columns={"call": "t1_call", "confidence": "t1_confidence"})
    design = steps[steps["step"] == last].rename(columns={"call": "t2_call", "confidence": "t2_confidence"})
    return plain[[*key, "t1_call", "t1_confidence"]].merge(
        design[["id_code", "t2_call", "t2_confidence", "tier"]], on="id_code"
    )
