"""One linear probe: its algebra, its permutation null and the planted shifts that it must find (method: section 8).

A probe is a linear discriminant: a profile is assigned to the nearest class mean in the metric of the shrunken total covariance of
its training wells. The covariance reads no label, so a permutation costs two matrix products instead of a new fit.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.linalg import cho_factor, cho_solve
from sklearn.covariance import ledoit_wolf_shrinkage
from threadpoolctl import threadpool_limits

SPLITS = 5
SHIFTS = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
"""Sizes of planted shifts, in standard deviations of the wells along the shift's direction."""
PLANTS = 10  # random directions a size
POWER = 0.8  # share of them that must be found


class Probe:
    """One linear probe, cross-validated over blocks of wells that stay together."""

    def __init__(self, values: np.ndarray, blocks: np.ndarray, seed: int) -> None:
        """``values``: (W, D) residuals; ``blocks``: (W,) codes, whole ones are left out."""
        spread = values.std(axis=0)
        scaled = (values - values.mean(axis=0)) / np.where(spread > 1e-12, spread, 1.0)
        self._values = scaled.astype(np.float32)
        self._splits = []
        part = split_blocks(blocks, seed)
        for split in range(SPLITS):
            test, train = np.flatnonzero(part == split), np.flatnonzero(part != split)
            if not len(test) or not len(train):
                continue
            centre = self._values[train].mean(axis=0)
            known, asked = self._values[train] - centre, self._values[test] - centre
            covariance = (known.T @ known).astype(np.float64) / len(train)
            ridge = max(float(ledoit_wolf_shrinkage(known, assume_centered=True)), 1e-4)
            self._splits.append((train, test, known, asked, ridge, _factor(covariance, ridge)))

    def directions(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """(count, D) random directions drawn as profiles scatter, scaled so that the wells' standard deviation along each is 1."""
        mixed = rng.normal(size=(count, len(self._values))) @ self._values
        unit = mixed / np.maximum(np.linalg.norm(mixed, axis=1, keepdims=True), 1e-12)
        return unit * (self._values @ unit.T).std(axis=0)[:, None]

    def balanced_accuracy(self, labels: np.ndarray, shift: np.ndarray | None = None) -> float:
        """Cross-validated balanced accuracy.

        Args:
            labels: (W,) codes 0..K-1.
            shift: (K, D) added to the profiles of each class first.
        """
        classes = int(labels.max()) + 1
        called = np.empty(len(labels), int)
        for train, test, known, asked, ridge, factor in self._splits:
            member = np.eye(classes, dtype=np.float32)[labels[train]]  # (W train, K)
            count = member.sum(axis=0).astype(np.float64)
            means = (member.T @ known) / np.maximum(count, 1)[:, None]  # (K, D)
            # what the shift adds to each class, once the mean is taken out again
            moved = np.zeros((classes, known.shape[1]))
            solved = cho_solve(factor, means.T, check_finite=False)  # (D, K)
            weight = solved
            if shift is not None:
                # the shifted covariance is the old one + U C U', of rank 2K: solved by Woodbury's identity
                share = count / len(train)
                moved = shift - share @ shift
                both = np.vstack([means, moved]).T  # U (D, 2K)
                core = (1 - ridge) * np.kron([[0, 1], [1, 1]], np.diag(share))  # C
                solved = np.hstack([solved, cho_solve(factor, moved.T, check_finite=False)])
                inner = np.linalg.solve(np.eye(2 * classes) + core @ (both.T @ solved), core)
                means = means + moved
                weight = solved[:, :classes] + solved[:, classes:]
                weight = weight - solved @ (inner @ (both.T @ weight))
            score = (
                asked @ weight.astype(np.float32)
                + (moved @ weight)[labels[test]]
                - 0.5 * (means.T * weight).sum(axis=0)
            )
            called[test] = np.where(count > 0, score, -np.inf).argmax(axis=1)
        right = np.bincount(labels, weights=called == labels, minlength=classes)
        return float((right / np.bincount(labels, minlength=classes)).mean())


def _factor(covariance: np.ndarray, ridge: float) -> Any:
    size = len(covariance)
    shrunk = (1 - ridge) * covariance
    shrunk[np.diag_indices(size)] += ridge * np.trace(covariance) / size + 1e-9
    return cho_factor(shrunk, overwrite_a=True, check_finite=False)


def split_blocks(blocks: np.ndarray, seed: int) -> np.ndarray:
    """(W,) codes -> (W,) part 0..SPLITS-1; blocks stay whole, each goes to the part with the fewest wells so far."""
    names, sizes = np.unique(blocks, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-sizes[order], kind="stable")]
    load, part = np.zeros(SPLITS), np.zeros(len(names), int)
    for block in order:
        part[block] = load.argmin()
        load[part[block]] += sizes[block]
    return part[np.searchsorted(names, blocks)]


@dataclass(frozen=True)
class Question:
    """One probe of an axis: which wells, what is asked of them, and between which wells a label may move under the null."""

    name: str  # experiment or cell type: fold models are asked about the same wells, so their labels move together
    values: np.ndarray  # (W, D)
    labels: np.ndarray  # (W,) codes 0..K-1
    blocks: np.ndarray  # (W,) codes
    units: np.ndarray  # (W,) codes 0..U-1; wells of a unit carry one label and keep it together
    strata: np.ndarray  # (U,) codes; labels are shuffled among the units of each

    @property
    def chance(self) -> float:
        """1 / K."""
        return 1 / (int(self.labels.max()) + 1)


@threadpool_limits.wrap(
    limits=1, user_api="blas"
)  # many small products: threads that wait for one another cost ten times as much
def ask(questions: list[Question], permutations: int, smallest: float, seed: int = 0) -> dict[str, Any]:
    """Answer an axis: the mean over its probes, a permutation interval, and the smallest planted shift that would have been found.

    A shift is planted into shuffled labels, one random direction a class, so nothing but the shift is there to be found.

    Args:
        questions: At least one.
        permutations: Shuffles of the labels of units within strata.
        smallest: Standard deviations; a planted shift of this size must be found for a silent probe to mean something.
        seed: Of splits, shuffles and shifts.

    Returns:
        ``balanced_accuracy``, ``chance``, ``null_low`` and ``null_high`` (95 % of the shuffles), ``p``, ``smallest_p``, ``probes``,
        ``wells``, ``detectable`` (smallest size of SHIFTS that is found in POWER of the plants, None if none is), ``planted_found``.
    """
    rng = np.random.default_rng(seed)
    shared: dict[int, Probe] = {}  # questions on the same wells, as those of the channels, share their probe
    for q in questions:
        if id(q.values) not in shared:
            shared[id(q.values)] = Probe(q.values, q.blocks, seed)
    probes = [shared[id(q.values)] for q in questions]

    def shuffle(question: Question, draw: int) -> np.ndarray:
        own = np.random.default_rng([seed, draw, zlib.crc32(question.name.encode())])
        order = np.argsort(question.strata, kind="stable")
        # sorting random numbers within strata shuffles all of them at once
        moved = np.lexsort((own.random(len(order)), question.strata))
        of_unit = np.empty(len(order), int)
        of_unit[question.units] = question.labels
        shuffled = np.empty_like(of_unit)
        shuffled[order] = of_unit[moved]
        return shuffled[question.units]

    def mean(labels: list[np.ndarray], shifts: list[np.ndarray | None]) -> float:
        return float(np.mean([p.balanced_accuracy(y, s) for p, y, s in zip(probes, labels, shifts, strict=True)]))

    nothing: list[np.ndarray | None] = [None] * len(questions)
    observed = mean([q.labels for q in questions], nothing)
    null = np.array([mean([shuffle(q, draw) for q in questions], nothing) for draw in range(permutations)])
    low, high = (float(v) for v in np.quantile(null, [0.025, 0.975]))

    def is_found(size: float) -> bool:
        hits = 0
        for plant in range(PLANTS):
            labels = [shuffle(q, permutations + plant) for q in questions]
            shifts: list[np.ndarray | None] = [
                size * p.directions(int(y.max()) + 1, rng) for p, y in zip(probes, labels, strict=True)
            ]
            hits += mean(labels, shifts) > high
            if hits >= POWER * PLANTS or hits + PLANTS - plant - 1 < POWER * PLANTS:
                break
        return hits >= POWER * PLANTS

    # the greater the shift, the surer it is found: the smallest one by bisection
    smaller, greater = -1, len(SHIFTS)
    while greater - smaller > 1:
        middle = (smaller + greater) // 2
        smaller, greater = (smaller, middle) if is_found(SHIFTS[middle]) else (middle, greater)
    detectable = SHIFTS[greater] if greater < len(SHIFTS) else None
    return {
        "balanced_accuracy": observed,
        "chance": float(np.mean([q.chance for q in questions])),
        "null_low": low,
        "null_high": high,
        "p": float((1 + (null >= observed - 1e-12).sum()) / (1 + permutations)),
        "smallest_p": 1 / (1 + permutations),
        "probes": len(questions),
        "wells": int(sum(len(q.labels) for q in questions)),
        "detectable": detectable,
        "planted_found": detectable is not None and detectable <= smallest,
    }


def verdict(found: dict[str, Any]) -> str:
    """leak | none seen | undecided, of an answer of :func:`ask`.

    ``none seen`` needs that the probe would have found a planted shift of the wanted size.
    """
    if found["balanced_accuracy"] > found["null_high"]:
        return "leak"
    informative = (
        found["null_low"] < found["chance"] < found["null_high"]
    )  # else the shuffles left the answer as it was
    return "none seen" if found["planted_found"] and informative else "undecided"


def probe_batch(features: np.ndarray, batch: pd.Series, group: pd.Series, seed: int = 0) -> dict[str, Any]:
    """Balanced accuracy of naming a row's batch within its group, labels of perturbations unknown.

    Asked of experiments within a cell type (every treatment stands once in an experiment, so the perturbation says nothing about
    it), or of plates within an experiment on perturbations that stand on all of them.

    Args:
        features: (N, F) float, one row a well or site.
        batch: N names of experiments or plates.
        group: N names of cell types or experiments.
        seed: Seed of the five parts.

    Returns:
        ``balanced_accuracy`` and ``chance`` as means over groups, ``by_group``; both None where no group has two batches of five rows.
    """
    scores, chances = {}, []
    for kind in sorted(set(group)):
        member = (group == kind).to_numpy()
        names, labels, counts = np.unique(batch[member].to_numpy(str), return_inverse=True, return_counts=True)
        if len(names) < 2 or counts.min() < SPLITS:
            continue
        probe = Probe(features[member].astype(np.float64), np.arange(member.sum()), seed)
        scores[kind] = probe.balanced_accuracy(labels)
        chances.append(1 / len(names))
    return {
        "balanced_accuracy": float(np.mean(list(scores.values()))) if scores else None,
        "chance": float(np.mean(chances)) if chances else None,
        "by_group": scores,
    }
