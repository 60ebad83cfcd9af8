"""One linear probe: its algebra, its permutation null and the planted shifts that it must find (method: section 8).

A probe is a linear discriminant: a profile is assigned to the nearest class mean in the metric of the shrunken total covariance of
its training wells. The covariance reads no label, so a permutation costs two matrix products instead of a new fit.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from scipy.linalg import cho_factor, cho_solve
from sklearn.covariance import ledoit_wolf_shrinkage
from threadpoolctl import threadpool_limits

SPLITS = 5
"""Parts of the cross-validation."""
SHIFTS = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
"""Sizes of planted shifts, in standard deviations of the wells along the shift's direction."""
PLANTS = 10
"""Random directions per size."""
POWER = 0.8
"""Share of them that must be found."""
FEWEST_SHUFFLES = 20
"""Different shuffles of the labels that a test needs: with fewer, p cannot reach 0.05."""


@dataclass(frozen=True)
class _Split:
    """Test wells of one part of the cross-validation, and centre and covariance of the training wells, which are all others."""

    test: np.ndarray  # rows
    values: np.ndarray  # (W test, D)
    centre: np.ndarray  # (D,) mean of the training wells
    train_count: int
    ridge: float  # shrinkage of the covariance, in 0..1
    factor: Any  # Cholesky factor of the shrunken covariance


class Probe:
    """One linear probe, cross-validated over blocks of wells that stay together.

    Args:
        values: (W, D) residuals.
        blocks: (W,) codes; whole blocks are left out.
        seed: Of the split.
    """

    def __init__(self, values: np.ndarray, blocks: np.ndarray, seed: int) -> None:
        spread = values.std(axis=0)
        scaled = (values - values.mean(axis=0)) / np.where(spread > 1e-12, spread, 1.0)
        self._values = scaled.astype(np.float32)
        split_of_well = split_blocks(blocks, seed)
        numbers = [n for n in range(SPLITS) if 0 < np.count_nonzero(split_of_well == n) < len(values)]
        self._splits = [self._fit(split_of_well == number) for number in numbers]

    def _fit(self, is_test: np.ndarray) -> _Split:
        train = self._values[~is_test]
        centre = train.mean(axis=0)
        train -= centre
        covariance = (train.T @ train).astype(np.float64) / len(train)
        ridge = max(float(ledoit_wolf_shrinkage(train, assume_centered=True)), 1e-4)
        test = np.flatnonzero(is_test)
        return _Split(test, self._values[test], centre, len(train), ridge, _factor(covariance, ridge))

    def directions(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """(count, D) random directions, drawn like the scatter of the profiles and scaled so that the wells' deviation along each is 1."""
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
        predicted = np.empty(len(labels), int)
        # sums over the test wells of each split; those of its training wells are the sums of all others
        members = [np.eye(classes, dtype=np.float32)[labels[split.test]] for split in self._splits]
        sums = np.array([m.T @ split.values for m, split in zip(members, self._splits, strict=True)], np.float64)
        counts = np.array([m.sum(axis=0) for m in members], np.float64)
        for split, of_test, count in zip(self._splits, sums, counts, strict=True):
            train_sums, train_counts = sums.sum(axis=0) - of_test, counts.sum(axis=0) - count
            predicted[split.test] = _predict(split, labels[split.test], train_sums, train_counts, shift)
        correct = np.bincount(labels, weights=predicted == labels, minlength=classes)
        return float((correct / np.bincount(labels, minlength=classes)).mean())


class AnyProbe(Protocol):
    """What :func:`run_probes` needs of a probe."""

    def directions(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """See :meth:`Probe.directions`."""

    def balanced_accuracy(self, labels: np.ndarray, shift: np.ndarray | None = None) -> float:
        """See :meth:`Probe.balanced_accuracy`."""


MakeProbe = Callable[[np.ndarray, np.ndarray, int], AnyProbe]


def _predict(
    split: _Split, labels: np.ndarray, sums: np.ndarray, count: np.ndarray, shift: np.ndarray | None
) -> np.ndarray:
    """(W test,) predicted class of the test wells of a split.

    Args:
        split: The split.
        labels: (W test,) of the test wells, for the shift that is added to them.
        sums: (K, D) sum of the training wells of each class.
        count: (K,) their number.
        shift: (K, D) added to the profiles of each class, or None.
    """
    classes = len(count)
    means = (sums - count[:, None] * split.centre) / np.maximum(count, 1)[:, None]  # (K, D)
    # what the shift adds to each class, once the mean is removed again
    moved = np.zeros_like(means)
    solved = cho_solve(split.factor, means.T, check_finite=False)  # (D, K)
    weight = solved
    if shift is not None:
        # the shifted covariance is the old one + U C U', of rank 2K: solved by Woodbury's identity
        share = count / split.train_count
        moved = shift - share @ shift
        both = np.vstack([means, moved]).T  # U (D, 2K)
        core = (1 - split.ridge) * np.kron([[0, 1], [1, 1]], np.diag(share))  # C
        solved = np.hstack([solved, cho_solve(split.factor, moved.T, check_finite=False)])
        inner = np.linalg.solve(np.eye(2 * classes) + core @ (both.T @ solved), core)
        means = means + moved
        weight = solved[:, :classes] + solved[:, classes:]
        weight = weight - solved @ (inner @ (both.T @ weight))
    score = split.values @ weight.astype(np.float32)
    score = score + (moved @ weight)[labels] - (split.centre @ weight + 0.5 * (means.T * weight).sum(axis=0))
    return np.where(count > 0, score, -np.inf).argmax(axis=1)


def _factor(covariance: np.ndarray, ridge: float) -> Any:
    """Cholesky factor of a (D, D) covariance, shrunken towards a multiple of the identity."""
    size = len(covariance)
    shrunk = (1 - ridge) * covariance
    shrunk[np.diag_indices(size)] += ridge * np.trace(covariance) / size + 1e-9
    return cho_factor(shrunk, overwrite_a=True, check_finite=False)


def split_blocks(blocks: np.ndarray, seed: int) -> np.ndarray:
    """(W,) block codes -> (W,) split 0..SPLITS-1. Blocks stay whole; each goes to the split with the fewest wells so far."""
    names, sizes = np.unique(blocks, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-sizes[order], kind="stable")]
    load, split = np.zeros(SPLITS), np.zeros(len(names), int)
    for block in order:
        split[block] = load.argmin()
        load[split[block]] += sizes[block]
    return split[np.searchsorted(names, blocks)]


@dataclass(frozen=True)
class ProbeTask:
    """One probe of an axis: its wells, their labels, and the wells between which a label may move under the null.

    ``name`` is the experiment or cell type. Fold models are probed on the same wells, so their labels move together: the name seeds
    the shuffle.
    """

    name: str
    values: np.ndarray  # (W, D)
    labels: np.ndarray  # (W,) codes 0..K-1
    blocks: np.ndarray  # (W,) codes, left out together
    units: np.ndarray  # (W,) codes 0..U-1; wells of a unit have one label and keep it together
    strata: np.ndarray  # (U,) codes; labels are shuffled among the units of each

    @property
    def chance(self) -> float:
        """1 / K."""
        return 1 / (int(self.labels.max()) + 1)

    def shuffled_labels(self, seed: int, draw: int) -> np.ndarray:
        """(W,) labels after a random shuffle of units within strata."""
        rng = np.random.default_rng([seed, draw, zlib.crc32(self.name.encode())])
        order = np.argsort(self.strata, kind="stable")
        # sorting random numbers within strata shuffles all of them at once
        moved = np.lexsort((rng.random(len(order)), self.strata))
        of_unit = np.empty(len(order), int)
        of_unit[self.units] = self.labels
        shuffled = np.empty_like(of_unit)
        shuffled[order] = of_unit[moved]
        return shuffled[self.units]


def count_shuffles(tasks: Sequence[ProbeTask], seed: int = 0) -> int:
    """In how many ways the labels of an axis can be shuffled, counted up to FEWEST_SHUFFLES."""
    seen: set[bytes] = set()
    for draw in range(10 * FEWEST_SHUFFLES):
        seen.add(b"".join(task.shuffled_labels(seed, draw).tobytes() for task in tasks))
        if len(seen) == FEWEST_SHUFFLES:
            break
    return len(seen)


@threadpool_limits.wrap(
    limits=1, user_api="blas"
)  # many small products: threads that wait for one another cost ten times as much
def run_probes(
    tasks: list[ProbeTask], permutations: int, smallest: float, seed: int = 0, make_probe: MakeProbe = Probe
) -> dict[str, Any]:
    """Probe an axis: mean accuracy over its tasks, a permutation interval, and the smallest planted shift that would be found.

    A shift is planted into shuffled labels, in one random direction per class, so that nothing but the shift can be found.

    Args:
        tasks: At least one.
        permutations: Shuffles of the labels of units within strata.
        smallest: Standard deviations. A planted shift of this size must be found for a silent probe to mean something.
        seed: Of splits, shuffles and shifts.
        make_probe: Called with values, blocks and seed.

    Returns:
        ``balanced_accuracy``, ``chance``, ``null_low`` and ``null_high`` (95 % of the shuffles), ``p``, ``smallest_p``, ``probes``,
        ``wells``, ``detectable`` (smallest size of SHIFTS found in POWER of the plants, None if none is), ``planted_found``.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return _run_probes(tasks, _probes_of(tasks, seed, make_probe, pool), permutations, smallest, seed, pool)


def _run_probes(
    tasks: list[ProbeTask],
    probes: list[AnyProbe],
    permutations: int,
    smallest: float,
    seed: int,
    pool: ThreadPoolExecutor,
) -> dict[str, Any]:
    """:func:`run_probes` with the probe of each task, whose accuracies are computed side by side."""

    def accuracy(probe: AnyProbe, labels: np.ndarray, shift: np.ndarray | None) -> float:
        return probe.balanced_accuracy(labels, shift)

    def mean_accuracy(labels: Sequence[np.ndarray], shifts: Sequence[np.ndarray | None]) -> float:
        return float(np.mean(list(pool.map(accuracy, probes, labels, shifts))))

    no_shift = [None] * len(tasks)
    observed = mean_accuracy([task.labels for task in tasks], no_shift)
    null = np.array(
        [mean_accuracy([task.shuffled_labels(seed, draw) for task in tasks], no_shift) for draw in range(permutations)]
    )
    low, high = (float(v) for v in np.quantile(null, [0.025, 0.975]))
    rng = np.random.default_rng(seed)

    def is_found(size: float) -> bool:
        hits = 0
        for plant in range(PLANTS):
            labels = [task.shuffled_labels(seed, permutations + plant) for task in tasks]
            shifts = [size * p.directions(int(y.max()) + 1, rng) for p, y in zip(probes, labels, strict=True)]
            hits += mean_accuracy(labels, shifts) > high
            remaining = PLANTS - plant - 1
            if hits >= POWER * PLANTS or hits + remaining < POWER * PLANTS:
                break
        return hits >= POWER * PLANTS

    # the larger the shift, the more surely it is found: the smallest one by bisection
    too_small, large_enough = -1, len(SHIFTS)
    while large_enough - too_small > 1:
        middle = (too_small + large_enough) // 2
        too_small, large_enough = (too_small, middle) if is_found(SHIFTS[middle]) else (middle, large_enough)
    detectable = SHIFTS[large_enough] if large_enough < len(SHIFTS) else None
    return {
        "balanced_accuracy": observed,
        "chance": float(np.mean([task.chance for task in tasks])),
        "null_low": low,
        "null_high": high,
        "p": float((1 + (null >= observed - 1e-12).sum()) / (1 + permutations)),
        "smallest_p": 1 / (1 + permutations),
        "probes": len(tasks),
        "wells": int(sum(len(task.labels) for task in tasks)),
        "detectable": detectable,
        "planted_found": detectable is not None and detectable <= smallest,
    }


def _probes_of(tasks: list[ProbeTask], seed: int, make_probe: MakeProbe, pool: ThreadPoolExecutor) -> list[AnyProbe]:
    """The probe of each task; tasks on the same wells, such as those of the channels, share it."""
    distinct = {id(task.values): task for task in tasks}
    made = pool.map(lambda task: make_probe(task.values, task.blocks, seed), distinct.values())
    shared = dict(zip(distinct, made, strict=True))
    return [shared[id(task.values)] for task in tasks]


def verdict(result: dict[str, Any]) -> str:
    """leak | none seen | undecided, from the result of :func:`run_probes`.

    ``none seen`` requires that the probe would have found a planted shift of the requested size, and an accuracy among those of the
    shuffles: one below them all but says that the probed wells were centred together, which makes left-out wells opposite.
    """
    if result["balanced_accuracy"] > result["null_high"]:
        return "leak"
    # else the shuffles left the accuracy where it was
    informative = result["null_low"] < result["chance"] < result["null_high"]
    return "none seen" if result["planted_found"] and informative and not is_below_null(result) else "undecided"


def is_below_null(result: dict[str, Any]) -> bool:
    """Whether a probe does worse than 97.5 % of the shuffles of its labels."""
    return bool(result["balanced_accuracy"] < result["null_low"])


def probe_batch(features: np.ndarray, batch: pd.Series, group: pd.Series, seed: int = 0) -> dict[str, Any]:
    """Balanced accuracy of predicting a row's batch within its group, without knowing perturbations.

    Batches are experiments within a cell type: every treatment is in an experiment once, so perturbations do not reveal it. Or they
    are plates within an experiment, on perturbations that are on all of them.

    Args:
        features: (N, F) float, one row per well or site.
        batch: N names of experiments or plates.
        group: N names of cell types or experiments.
        seed: Of the split.

    Returns:
        ``balanced_accuracy`` and ``chance`` as means over groups, ``by_group``; both None if no group has two batches of five rows.
    """
    scores, chances = {}, []
    for name in sorted(set(group)):
        member = (group == name).to_numpy()
        batches, labels, counts = np.unique(batch[member].to_numpy(str), return_inverse=True, return_counts=True)
        if len(batches) < 2 or counts.min() < SPLITS:
            continue
        probe = Probe(features[member].astype(np.float64), np.arange(member.sum()), seed)
        scores[name] = probe.balanced_accuracy(labels)
        chances.append(1 / len(batches))
    return {
        "balanced_accuracy": float(np.mean(list(scores.values()))) if scores else None,
        "chance": float(np.mean(chances)) if chances else None,
        "by_group": scores,
    }
