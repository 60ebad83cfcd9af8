"""Wells on which profiles were normalized: they look free of technical noise whatever is left in the others (method: section 8).

A profile minus the mean of its plate's controls has controls of mean 0 on every plate, by construction. A probe that sees nothing there
says nothing about the treatments.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deepnoise.evaluation.probe import Probe, ProbeTask

SHUFFLES = 99
"""Shuffles of the labels with which the scatter of the batches' means is compared."""
ALIKE = 0.75
"""The means of a reference scatter at most this much of what they do after a shuffle (medians as reference: 0.57; means: 0)."""
CANDIDATES = {
    "negative controls": ("negative_control",),
    "controls": ("negative_control", "positive_control"),
    "probed wells": ("negative_control", "positive_control", "treatment"),
}
"""Name -> well types of the wells that may be the reference."""


def are_reference(tasks: Sequence[ProbeTask], seed: int = 0) -> bool:
    """Whether the batches' means are closer together than chance allows, so that these wells must be the reference of a normalization.

    Args:
        tasks: Probes whose labels are plates or experiments; at least one.
        seed: Of the shuffles.
    """
    observed = sum(_scatter(task, task.labels) for task in tasks)
    shuffled = [sum(_scatter(task, task.shuffled_labels(seed, draw)) for task in tasks) for draw in range(SHUFFLES)]
    return bool(observed < min(shuffled) and observed < ALIKE * np.median(shuffled))


def _scatter(task: ProbeTask, labels: np.ndarray) -> float:
    """Sum over wells of the squared distance of their class mean from the mean of all, each feature in its standard deviations."""
    spread = task.values.std(axis=0)
    scaled = (task.values - task.values.mean(axis=0)) / np.where(spread > 1e-12, spread, np.inf)
    means, count = _means(scaled, labels, int(labels.max()) + 1)
    return float((count[:, None] * means**2).sum())


def _means(values: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(K, D) mean and (K,) number of the rows of each class; 0 for a class without rows."""
    member = np.eye(classes, dtype=values.dtype)[labels]
    count = member.sum(axis=0)
    return (member.T @ values) / np.maximum(count, 1)[:, None], count


class HalvedProbe:
    """A probe of half of the wells, after the mean that each class has in the other half is subtracted.

    That is what normalizing on the other half alone would leave. Shuffled labels are treated likewise, so the noise of a mean over few
    wells is part of the null. Used like :class:`~deepnoise.evaluation.probe.Probe`; a planted shift acts on the probed half alone.
    """

    def __init__(self, values: np.ndarray, blocks: np.ndarray, seed: int) -> None:
        order = np.random.default_rng(seed).permutation(len(values))
        self._probed, self._reference = np.sort(order[::2]), np.sort(order[1::2])
        half = values[self._probed]
        spread = half.std(axis=0)
        scaled = (values - half.mean(axis=0)) / np.where(spread > 1e-12, spread, 1.0)
        self._reference_values = scaled[self._reference].astype(np.float32)
        self._probe = Probe(half, blocks[self._probed], seed)

    def directions(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """See :meth:`~deepnoise.evaluation.probe.Probe.directions`."""
        return self._probe.directions(count, rng)

    def balanced_accuracy(self, labels: np.ndarray, shift: np.ndarray | None = None) -> float:
        """See :meth:`~deepnoise.evaluation.probe.Probe.balanced_accuracy`; classes without a probed well do not count."""
        classes = int(labels.max()) + 1
        centre, _ = _means(self._reference_values, labels[self._reference], classes)
        moved = -centre.astype(np.float64) if shift is None else shift - centre
        present, of_present = np.unique(labels[self._probed], return_inverse=True)
        return self._probe.balanced_accuracy(of_present, moved[present])
