"""Consistency loss of the mean teacher, and the moving average (method: section 4)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

PUBLISHED_CLASSES = 1139
"""Classes for which the published consistency weight of 100 was chosen. The squared error is scaled by K / 1139."""


def squared_error(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """K / 1139 times the mean over samples and classes of (softmax student - softmax teacher)^2; no gradient to the teacher.

    The mean over classes makes the same weight stronger with fewer classes, hence the factor.

    Args:
        student: (B, K) logits.
        teacher: (B, K) logits.
    """
    distance = (student.softmax(dim=1) - teacher.detach().softmax(dim=1)).square().mean()
    return distance * (student.shape[1] / PUBLISHED_CLASSES)


@torch.no_grad()
def update_ema(average: torch.nn.Module, student: torch.nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * student, for parameters and floating buffers (BatchNorm), in one call.

    Integer buffers are copied.
    """
    pairs = list(zip(_tensors(average), _tensors(student), strict=True))
    floating = [pair for pair in pairs if pair[0].is_floating_point()]
    get_ema_multi_avg_fn(decay)([mean for mean, _ in floating], [value for _, value in floating], None)
    for mean, value in pairs:
        if not mean.is_floating_point():
            mean.copy_(value)


def _tensors(network: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Parameters and buffers of a network."""
    return chain(network.parameters(), network.buffers())
