"""Order of the images in an epoch: the labelled and the unlabelled stream, each shuffled separately."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch


def batch_group(table: pd.DataFrame, batches: str) -> np.ndarray:
    """(N,) group of each site: the experiment or plate that shares a batch; one group for all where ``batches`` is mixed."""
    if batches == "mixed":
        return np.zeros(len(table), int)
    experiment = table["experiment"].to_numpy(dtype=str)
    if batches == "experiment":
        return experiment
    return np.char.add(np.char.add(experiment, "/"), table["plate"].to_numpy(dtype=str))


def labelled_stream(
    groups: np.ndarray, size: int, generator: torch.Generator, wells: np.ndarray | None = None
) -> list[np.ndarray]:
    """All images once, in random batches of one group each, in random order of batches.

    A last batch of a single image joins the one before it, since BatchNorm needs two.

    Args:
        groups: (N,) as returned by :func:`batch_group`.
        size: Images per batch.
        generator: Source of all randomness.
        wells: (N,) well of each image, to draw one random image per well instead of all.

    Returns:
        Rows of the site table, one array per batch.
    """
    rows = np.arange(len(groups))
    if wells is not None:
        rows = rows[torch.randperm(len(rows), generator=generator).numpy()]
        rows = np.sort(rows[np.unique(wells[rows], return_index=True)[1]])
    batches: list[np.ndarray] = []
    for members in pd.Series(rows).groupby(groups[rows]).indices.values():
        shuffled = rows[members][torch.randperm(len(members), generator=generator).numpy()]
        of_group = [shuffled[i : i + size] for i in range(0, len(members), size)]
        if len(of_group) > 1 and len(of_group[-1]) < 2:
            of_group[-2:] = [np.concatenate(of_group[-2:])]
        batches += of_group
    return [batches[i] for i in torch.randperm(len(batches), generator=generator)]


def unlabelled_stream(
    labelled: list[np.ndarray],
    groups: np.ndarray,
    unlabelled_groups: np.ndarray,
    size: int,
    generator: torch.Generator,
) -> list[np.ndarray]:
    """A random unlabelled batch beside each labelled one: of the same group if that group has unlabelled images.

    No image is drawn twice before all images of its group have been drawn once.

    Args:
        labelled: As returned by :func:`labelled_stream`.
        groups: (N,) groups of the labelled images.
        unlabelled_groups: (U,) groups of the unlabelled images.
        size: Unlabelled images per step; fewer where the group has fewer.
        generator: Source of all randomness.
    """
    if not size or not len(unlabelled_groups):
        return [np.empty(0, int)] * len(labelled)
    pools = {group: np.flatnonzero(unlabelled_groups == group) for group in np.unique(unlabelled_groups)}
    names = list(pools)
    queues: dict[object, np.ndarray] = {group: np.empty(0, int) for group in names}
    batches = []
    for batch in labelled:
        group = groups[batch[0]]
        if group not in pools:  # held-out experiments are others than the labelled ones
            group = names[int(torch.randint(len(names), (), generator=generator))]
        if len(queues[group]) < size:  # the next round of the group's images
            shuffled = pools[group][torch.randperm(len(pools[group]), generator=generator).numpy()]
            queues[group] = np.concatenate([queues[group], shuffled])
        batches.append(queues[group][:size])
        queues[group] = queues[group][size:]
    return batches
