"""The network: a timm backbone, pooled features, and a head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from deepnoise.errors import InputError, closest, first_few, first_line
from deepnoise.network.heads import HEADS
from deepnoise.network.trained_model import NetworkSpec


class Network(nn.Module):
    """Backbone, global average pooling and head.

    Args:
        spec: What to build.
        pretrained: ``none``, ``timm`` (the backbone's published weights, downloaded), or a safetensors file of timm's weights. timm
            adapts the first layer to the number of channels.

    Raises:
        InputError: The backbone is unknown, or the weights are unavailable or do not fit.
    """

    def __init__(self, spec: NetworkSpec, pretrained: str = "none") -> None:
        super().__init__()
        self.backbone = _backbone(spec, pretrained)
        # num_features misses the hidden layer that some backbones put behind the pooling
        self.features = int(getattr(self.backbone, "head_hidden_size", None) or self.backbone.num_features)  # type: ignore[arg-type]
        self.head = HEADS[spec.head](self.features, spec.classes, spec.scale, spec.margin)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) normalized images -> (B, D) features."""
        return self.backbone(images)

    def classify(self, features: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
        """(B, D) features -> (B, K) float32 logits; with a target (B,) the margin is applied."""
        return self.head(features, target)

    def forward(self, images: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
        """(B, C, H, W) -> (B, K) float32 logits."""
        return self.classify(self.embed(images), target)


def _backbone(spec: NetworkSpec, pretrained: str) -> nn.Module:
    import timm

    name, _, weights = spec.backbone.partition(".")  # timm names weights after a dot: resnet18.a1_in1k
    if not timm.is_model(name):
        raise InputError(
            f"training.backbone is {spec.backbone!r}, which timm does not have.{closest(spec.backbone, timm.list_models())}"
        )
    if weights and spec.backbone not in timm.list_models(f"{name}.*", pretrained=True):
        known = [full.partition(".")[2] for full in timm.list_models(f"{name}.*", pretrained=True)]
        raise InputError(
            f"training.backbone is {spec.backbone!r}; timm has {name} with the weights {first_few(known) or 'none'}."
            f"{closest(weights, known)}"
        )
    options: dict[str, Any] = {"in_chans": spec.channels, "num_classes": 0, "global_pool": "avg"}
    if pretrained == "none":
        return timm.create_model(spec.backbone, pretrained=False, **options)
    parameter = "training.pretrained_weights"
    if pretrained == "timm":
        try:
            return timm.create_model(spec.backbone, pretrained=True, **options)
        except Exception as error:
            raise InputError(
                f"{parameter} is 'timm', but the weights of {spec.backbone} could not be downloaded ({first_line(error)}); "
                "without network access give the path of a .safetensors file, or none"
            ) from error
    if Path(pretrained).suffix != ".safetensors" or not Path(pretrained).is_file():
        raise InputError(
            f"{parameter} is {pretrained!r}; allowed: none, timm, or the path of an existing .safetensors file"
        )
    try:
        return timm.create_model(
            spec.backbone, pretrained=True, pretrained_cfg_overlay={"file": pretrained, "custom_load": False}, **options
        )
    except Exception as error:
        raise InputError(f"{parameter}: {pretrained} does not fit {spec.backbone}: {first_line(error)}") from error
