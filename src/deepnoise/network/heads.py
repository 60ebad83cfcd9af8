"""Classification heads on pooled features. HEADS is the table of them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn


class ArcFace(nn.Module):
    """Additive angular margin (Deng et al., arXiv 1801.07698).

    cos t is the product w.z of unit vectors. The true class gets cos(t + m), or cos t - m sin m where t + m passes pi. This is as
    published; it steps down there by about 0.005 at m = 0.1. Everything is multiplied by s and computed in float32.

    Args:
        features: Size D of the features.
        classes: Number K of classes.
        scale: s.
        margin: m in radians.
    """

    def __init__(self, features: int, classes: int, scale: float, margin: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, features))
        nn.init.xavier_uniform_(self.weight)
        self.scale, self.margin = scale, margin

    def forward(self, features: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
        """(B, D) features -> (B, K) float32 logits; with a target (B,) the margin is applied to it."""
        with torch.autocast(features.device.type, enabled=False):
            cosine = F.linear(F.normalize(features.float()), F.normalize(self.weight.float()))
            if target is not None:
                true = cosine.gather(1, target[:, None]).clamp(-1 + 1e-7, 1 - 1e-7)
                sine = (1 - true.square()).sqrt()
                shifted = true * math.cos(self.margin) - sine * math.sin(self.margin)
                beyond_pi = true - self.margin * math.sin(self.margin)
                shifted = torch.where(true > math.cos(math.pi - self.margin), shifted, beyond_pi)
                cosine = cosine.scatter(1, target[:, None], shifted)
            return self.scale * cosine


class Softmax(nn.Module):
    """A plain linear layer. It accepts the target and ignores it."""

    def __init__(self, features: int, classes: int, scale: float, margin: float) -> None:
        super().__init__()
        self.linear = nn.Linear(features, classes)

    def forward(self, features: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
        """(B, D) features -> (B, K) float32 logits."""
        with torch.autocast(features.device.type, enabled=False):
            return self.linear(features.float())


HEADS: dict[str, type[nn.Module]] = {"arcface": ArcFace, "softmax": Softmax}
