"""The network: a timm backbone, pooled features, and a head. HEADS is the table of heads."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from deepnoise.errors import InputError, closest


class ArcFace(nn.Module):
    """Additive angular margin (Deng et al., arXiv 1801.07698).

    cos t = w.z of unit vectors; the true class gets cos(t + m), or cos t - m sin m where t + m passes pi (as
    published; it steps down there by about 0.005 at m = 0.1); all times s. Computed in float32.

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
                past = true - self.margin * math.sin(self.margin)
                shifted = torch.where(true > math.cos(math.pi - self.margin), shifted, past)
                cosine = cosine.scatter(1, target[:, None], shifted)
            return self.scale * cosine


class Softmax(nn.Module):
    """A plain linear layer; takes and ignores the target."""

    def __init__(self, features: int, classes: int, scale: float, margin: float) -> None:
        super().__init__()
        self.linear = nn.Linear(features, classes)

    def forward(self, features: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
        """(B, D) features -> (B, K) float32 logits."""
        with torch.autocast(features.device.type, enabled=False):
            return self.linear(features.float())


HEADS: dict[str, type[nn.Module]] = {"arcface": ArcFace, "softmax": Softmax}


@dataclass(frozen=True)
class NetworkSpec:
    """What builds a network; kept in the JSON beside the weights."""

    backbone: str
    channels: int
    classes: int
    head: str
    scale: float
    margin: float


class Network(nn.Module):
    """Backbone, global average pooling, head."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        import timm

        if not timm.is_model(spec.backbone):
            raise InputError(
                f"training.backbone is {spec.backbone!r}, which timm does not know.{closest(spec.backbone, timm.list_models())}"
            )
        self.backbone = timm.create_model(
            spec.backbone, pretrained=False, in_chans=spec.channels, num_classes=0, global_pool="avg"
        )
        # what the pooled backbone really gives; num_features lacks the hidden layer that some heads put behind the pool
        self.features = int(getattr(self.backbone, "head_hidden_size", None) or self.backbone.num_features)  # type: ignore[arg-type]
        self.head = HEADS[spec.head](self.features, spec.classes, spec.scale, spec.margin)

    def embed(self, pictures: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) normalized pictures -> (B, D) features."""
        return self.backbone(pictures)

    def forward(self, pictures: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
        """(B, C, H, W) -> (B, K) float32 logits."""
        return self.head(self.embed(pictures), target)


def choose_device(name: str) -> torch.device:
    """The device of a name; ``auto`` takes a GPU where there is one.

    Raises:
        InputError: A device that this machine does not have.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device("cuda" if there["cuda"] else "cpu")
    if not there[name]:
        raise InputError(
            f"device {name!r} is not available here; allowed: {', '.join(d for d in there if there[d])}, auto"
        )
    return torch.device(name)


def autocast(device: torch.device) -> torch.autocast:
    """bf16 on a GPU; plain float32 on the CPU."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def to_device(network: Network, device: torch.device) -> Network:
    """Move a network, in channels_last, which convolutions prefer on CPU and GPU."""
    return network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
