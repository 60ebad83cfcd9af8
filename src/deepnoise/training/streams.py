"""In which order images are shown: the labelled and the unlabelled stream, each drawn for itself."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch


def batch_group(table: pd.DataFrame, batches: str) -> np.ndarray:
    """(N,) the experiment or plate whose images alone make a batch; one unit for all where ``batches`` is mixed."""
    if batches == "mixed":
        return np.zeros(len(table), int)
    own = table["experiment"].to_numpy(dtype=str)
    return own if batches == "experiment" else np.char.add(np.char.add(own, "/"), table["plate"].to_numpy(dtype=str))


def labelled_stream(
    units: np.ndarray, size: int, generator: torch.Generator, wells: np.ndarray | None = None
) -> list[np.ndarray]:
    """All images once, in random batches of one unit each; the batches come in random order.

    A last batch of one image is joined to the one before (BatchNorm needs two).

    Args:
        units: Of :func:`batch_group`.
        size: Images a batch.
        generator: Source of all randomness.
        wells: (N,) well of each image, where one random image of each well is shown instead of all.

    Returns:
        Rows of the site table, an array a batch.
    """
    shown = np.arange(len(units))
    if wells is not None:
        shown = shown[torch.randperm(len(shown), generator=generator).numpy()]
        shown = np.sort(shown[np.unique(wells[shown], return_index=True)[1]])
    batches: list[np.ndarray] = []
    for unit in pd.Series(shown).groupby(units[shown]).indices.values():
        shuffled = shown[unit][torch.randperm(len(unit), generator=generator).numpy()]
        own = [shuffled[i : i + size] for i in range(0, len(unit), size)]
        if len(own) > 1 and len(own[-1]) < 2:
            own[-2:] = [np.concatenate(own[-2:])]
        batches += own
    return [batches[i] for i in torch.randperm(len(batches), generator=generator)]


def unlabelled_stream(
    labelled: list[np.ndarray], units: np.ndarray, own_units: np.ndarray, size: int, generator: torch.Generator
) -> list[np.ndarray]:
    """A random unlabelled batch of one unit beside each labelled one: of the same unit where its images are unlabelled ones too.

    No image comes twice before all of its unit have come once.

    Args:
        labelled: Of :func:`labelled_stream`.
        units: (N,) units of the labelled images.
        own_units: (U,) units of the unlabelled images.
        size: Unlabelled images a step; fewer where the unit has fewer.
        generator: Source of all randomness.
    """
    if not size or not len(own_units):
        return [np.empty(0, int)] * len(labelled)
    pools = {unit: np.flatnonzero(own_units == unit) for unit in np.unique(own_units)}
    names = list(pools)
    left: dict[object, np.ndarray] = {unit: np.empty(0, int) for unit in names}
    further = []
    for batch in labelled:
        unit = units[batch[0]]
        if unit not in pools:  # held-out experiments are others than the labelled ones
            unit = names[int(torch.randint(len(names), (), generator=generator))]
        if len(left[unit]) < size:  # the next round of the unit's images
            again = pools[unit][torch.randperm(len(pools[unit]), generator=generator).numpy()]
            left[unit] = np.concatenate([left[unit], again])
        further.append(left[unit][:size])
        left[unit] = left[unit][size:]
    return further
