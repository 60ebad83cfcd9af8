"""Losses and schedules of the mean teacher (method: section 4), each one small function."""

from __future__ import annotations

import math

import torch

PUBLISHED_CLASSES = 1139
"""Classes for which the published consistency weight of 100 was chosen; it is scaled by K / 1139."""


def consistency(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean over samples and classes of (softmax student - softmax teacher)^2; no gradient to the teacher.

    Args:
        student: (B, K) logits.
        teacher: (B, K) logits.
    """
    return (student.softmax(dim=1) - teacher.detach().softmax(dim=1)).square().mean()


def ramp(epoch: float, length: float) -> float:
    """Sigmoid ramp exp(-5 (1 - min(t, T) / T)^2), t in fractional epochs (Laine and Aila, arXiv 1610.02242)."""
    if length <= 0:
        return 1.0
    return math.exp(-5 * (1 - min(epoch, length) / length) ** 2)


def cosine_rate(step: int, steps: int, peak: float) -> float:
    """Learning rate: a linear warm-up over the first tenth, then a cosine to a hundredth of the peak."""
    warm = max(1, steps // 10)
    if step < warm:
        return peak * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def ema_decay(step: int, decay: float) -> float:
    """Decay of the teacher's average at a step counted from 0: never above 1 - 1/(step + 1), so the first copies."""
    return min(decay, 1 - 1 / (step + 1))


@torch.no_grad()
def update_ema(teacher: torch.nn.Module, student: torch.nn.Module, decay: float) -> None:
    """teacher <- decay * teacher + (1 - decay) * student, for parameters and floating buffers (BatchNorm).

    Integer buffers are copied.
    """
    for average, value in zip(teacher.state_dict().values(), student.state_dict().values(), strict=True):
        if average.is_floating_point():
            average.lerp_(value, 1 - decay)
        else:
            average.copy_(value)
