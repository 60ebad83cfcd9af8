"""Consistency losses of the mean teacher, and the moving average (method: section 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

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


def divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean over samples of KL(softmax teacher || softmax student) in nats; no gradient to the teacher.

    Args:
        student: (B, K) logits.
        teacher: (B, K) logits.
    """
    teacher_log_p = teacher.detach().log_softmax(dim=1)
    return F.kl_div(student.log_softmax(dim=1), teacher_log_p, log_target=True, reduction="batchmean")


CONSISTENCY = {"mse": squared_error, "kl": divergence}


@torch.no_grad()
def update_ema(average: torch.nn.Module, student: torch.nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * student, for parameters and floating buffers (BatchNorm).

    Integer buffers are copied.
    """
    for mean, value in zip(average.state_dict().values(), student.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)
