"""BatchNorm statistics re-estimated on the images at hand (AdaBN, Li et al. 2016, arXiv 1603.04779)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from deepnoise.errors import InputError
from deepnoise.network.network import Network
from deepnoise.network.site_images import Batch, SiteImages

ADABN_CACHE_BYTES = 2 * 1024**3
"""Largest amount of raw images kept in memory between the two passes of AdaBN. A plate of RxRx1 takes 1 GB."""


def batch_norms(network: nn.Module) -> list[Any]:
    """All BatchNorm layers."""
    return [m for m in network.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]


def use_batch_statistics(network: Network) -> None:
    """Let BatchNorm take mean and variance from the batch, without changing its running statistics."""
    for layer in batch_norms(network):
        layer.train()
        layer.momentum = 0.0


@torch.no_grad()
def reestimate_batch_norm(network: Network, batches: Iterable[torch.Tensor]) -> None:
    """Replace the running statistics of every BatchNorm layer by their mean over some batches.

    Args:
        network: Changed in place and left in evaluation mode.
        batches: Normalized images (B, C, H, W), such as the unlabelled images of one experiment or plate.

    Raises:
        InputError: The backbone has no BatchNorm.
    """
    layers = batch_norms(network)
    if not layers:
        raise InputError(
            "BatchNorm statistics are to be re-estimated, but the backbone has no BatchNorm; set training.batches to mixed "
            "and inference.adabn to none"
        )
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # cumulative: every batch counts the same
    network.eval()
    for layer in layers:
        layer.train()
    for images in batches:
        network.embed(images)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    network.eval()


def adapted_batches(
    network: Network,
    images: SiteImages,
    groups: Iterable[np.ndarray],
    size: int,
    to_input: Callable[[Batch], torch.Tensor],
    adapt: bool,
    predict_mask: np.ndarray | None = None,
) -> Iterator[tuple[Batch, torch.Tensor]]:
    """Batches and their network inputs, group by group; with ``adapt``, BatchNorm is first re-estimated on each group.

    A group of at most ADABN_CACHE_BYTES of raw images is read once, a larger one twice.

    Args:
        network: Changed in place if it adapts.
        images: Source of the batches.
        groups: Rows of each experiment or plate, or all rows.
        size: Largest batch.
        to_input: Normalizes a batch.
        adapt: Whether to re-estimate BatchNorm.
        predict_mask: (S,) bool, the rows to yield. The others only serve to adapt. None: all.
    """
    for group in groups:
        order = np.array_split(group, max(1, -(-len(group) // size)))
        cached: list[Batch] = []
        if adapt and (predict_mask is None or predict_mask[group].any()):
            reestimate_batch_norm(network, map(to_input, _caching(images.batches(order), cached)))
            if len(cached) < len(order):  # not all of them fitted
                cached.clear()
        if predict_mask is not None and not predict_mask[group].all():
            predicted = group[predict_mask[group]]
            order = [rows for rows in np.array_split(predicted, max(1, -(-len(predicted) // size))) if len(rows)]
            cached = []
        for batch in cached or images.batches(order):
            yield batch, to_input(batch)


def _caching(batches: Iterable[Batch], cached: list[Batch]) -> Iterator[Batch]:
    """The batches, also appended to ``cached`` as long as there is room for their images."""
    room = ADABN_CACHE_BYTES
    for batch in batches:
        room -= batch.images.nbytes
        if room >= 0:
            cached.append(batch)
        yield batch
