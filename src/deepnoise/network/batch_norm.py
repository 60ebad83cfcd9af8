"""BatchNorm statistics re-estimated on other images (AdaBN)."""

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
"""Most raw images that stay in memory between the two readings of AdaBN: a plate of RxRx1 takes 1 GB."""


def batch_norms(network: nn.Module) -> list[Any]:
    """All BatchNorm layers."""
    return [m for m in network.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]


def use_batch_statistics(network: Network) -> None:
    """Let BatchNorm take mean and variance from the batch, without a change of its running statistics."""
    for layer in batch_norms(network):
        layer.train()
        layer.momentum = 0.0


@torch.no_grad()
def reestimate_batch_norm(network: Network, images: Iterable[torch.Tensor]) -> None:
    """Replace the running statistics of every BatchNorm by the mean over these batches (AdaBN, Li et al. 2016, arXiv 1603.04779).

    Args:
        network: Changed in place and left in evaluation mode.
        images: Normalized batches (B, C, H, W), such as the unlabelled images of one experiment or plate.

    Raises:
        InputError: The backbone has no BatchNorm.
    """
    layers = batch_norms(network)
    if not layers:
        raise InputError(
            "BatchNorm statistics are to be re-estimated, but the backbone has no BatchNorm; set training.batches to mixed, ema_buffers to averaged and "
            "inference.adabn to none"
        )
    usual = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # cumulative: each batch counts the same
    network.eval()
    for layer in layers:
        layer.train()
    for x in images:
        network.embed(x)
    for layer, momentum in zip(layers, usual, strict=True):
        layer.momentum = momentum
    network.eval()


def adapted_batches(
    network: Network,
    images: SiteImages,
    units: Iterable[np.ndarray],
    size: int,
    pixels: Callable[[Batch], torch.Tensor],
    adapt: bool,
    chosen: np.ndarray | None = None,
) -> Iterator[tuple[Batch, torch.Tensor]]:
    """Batches with their normalized images, unit by unit; with ``adapt`` BatchNorm statistics are first re-estimated on each unit.

    A unit of at most ADABN_CACHE_BYTES of raw images is read once; a larger one a second time.

    Args:
        network: Changed in place where it adapts.
        images: Where batches come from.
        units: Rows of each experiment or plate, or all rows.
        size: Most images a batch.
        pixels: Makes the input of the network from a batch.
        adapt: See above.
        chosen: (S,) bool rows that are asked for, the others only serve to adapt; None: all.
    """
    for unit in units:
        order = np.array_split(unit, max(1, -(-len(unit) // size)))
        held: list[Batch] = []
        if adapt and (chosen is None or chosen[unit].any()):
            reestimate_batch_norm(network, map(pixels, _holding(images.batches(order), held)))
            if len(held) < len(order):  # not all would fit
                held.clear()
        if chosen is not None and not chosen[unit].all():
            asked = unit[chosen[unit]]
            order, held = [part for part in np.array_split(asked, max(1, -(-len(asked) // size))) if len(part)], []
        for batch in held or images.batches(order):
            yield batch, pixels(batch)


def _holding(batches: Iterable[Batch], held: list[Batch]) -> Iterator[Batch]:
    """The batches, which are put into ``held`` as long as there is room for their images."""
    room = ADABN_CACHE_BYTES
    for batch in batches:
        room -= batch.images.nbytes
        if room >= 0:
            held.append(batch)
        yield batch
