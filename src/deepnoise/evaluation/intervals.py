"""Uncertainty of scores.

Wells of one experiment are not independent, so intervals and p-values are over experiments.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
from scipy.stats import norm, t

LEAST_EXPERIMENTS = 6
"""With fewer experiments a bootstrap says nothing; the exact sign-flip p is given instead."""
DRAWS = 2000
LEVEL = 0.95


def sign_flip_p(differences: np.ndarray) -> float:
    """Exact one-sided p of a mean above 0; under the null each difference is equally likely with either sign.

    Args:
        differences: (E,) one per experiment, E at most 20.

    Returns:
        Share of the 2^E sign patterns whose mean is at least the observed one; never below 1 / 2^E.
    """
    if len(differences) > 20:
        raise ValueError(
            f"{len(differences)} differences give too many sign patterns; expected at most 20, use the bootstrap interval"
        )
    patterns = np.array(list(product((1.0, -1.0), repeat=len(differences))))
    sums = patterns @ differences
    return float((sums >= differences.sum() - 1e-12).mean())


def bootstrap_interval(totals: np.ndarray, counts: np.ndarray, seed: int = 0) -> list[float]:
    """Cluster-bootstrap interval of a ratio of sums (Davison and Hinkley 1997, 3.8).

    Whole experiments are resampled. With few experiments a percentile interval is too narrow: with six it
    contains the truth in 83 % of cases. Both of its sides are therefore stretched by sqrt(E / (E - 1)) and by
    Student's t over the normal quantile.

    Args:
        totals: (E,) sum of the score over the rows of each experiment.
        counts: (E,) number of rows of each experiment.
        seed: Seed of the resampling.

    Returns:
        [low, high] of the 95 % interval.
    """
    drawn = np.random.default_rng(seed).integers(0, len(totals), (DRAWS, len(totals)))
    means = totals[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    centre, count = totals.sum() / counts.sum(), len(totals)
    stretch = np.sqrt(count / (count - 1)) * t.ppf(1 - tail, count - 1) / norm.ppf(1 - tail)
    return [float(centre - stretch * (centre - low)), float(centre + stretch * (high - centre))]


def summarize(values: np.ndarray, experiment: np.ndarray, null: float = 0.0) -> dict[str, Any]:
    """Mean of a score over rows, with its uncertainty over experiments.

    Args:
        values: (W,) score of each row, such as 1 where a call is correct.
        experiment: (W,) names.
        null: Value expected by chance.

    Returns:
        See :func:`summarize_sums`; ``n`` is the number of rows.
    """
    _, code = np.unique(experiment, return_inverse=True)
    return summarize_sums(np.bincount(code, weights=np.asarray(values, float)), np.bincount(code).astype(float), null)


def summarize_sums(totals: np.ndarray, counts: np.ndarray, null: float = 0.0) -> dict[str, Any]:
    """Mean of a score and its uncertainty, from the sums of each experiment.

    Args:
        totals: (E,) sum of the score over the rows of each experiment.
        counts: (E,) number of rows of each experiment.
        null: Value expected by chance.

    Returns:
        ``mean``, ``n`` (rows), ``experiments``; ``interval`` ([low, high], or None with fewer than six
        experiments) and ``sign_flip_p`` (exact p that the mean over experiments exceeds ``null`` by chance;
        None from six on).
    """
    enough = len(counts) >= LEAST_EXPERIMENTS
    return {
        "mean": float(totals.sum() / counts.sum()),
        "n": int(counts.sum()),
        "experiments": int(len(counts)),
        "interval": bootstrap_interval(totals, counts) if enough else None,
        "sign_flip_p": None if enough else sign_flip_p(totals / counts - null),
    }


def uncertainty(summary: Mapping[str, Any]) -> str:
    """The interval of a summarized score as text, or its exact p."""
    if summary.get("interval"):
        return f"{summary['interval'][0]:.3f} to {summary['interval'][1]:.3f}"
    if summary.get("sign_flip_p") is not None:
        return f"p {summary['sign_flip_p']:.3f} (smallest {0.5 ** summary['experiments']:.3f})"
    return "-"
