"""The network: a timm backbone, pooled features, and a head. HEADS is the table of heads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from deepnoise.errors import InputError, closest
from deepnoise.training.images import Batch, SitePictures

HELD_BYTES = 2 * 1024**3
"""Most raw pictures that stay in memory between the two readings of AdaBN: a plate of RxRx1 takes 1 GB."""


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
    cell_types: int = 0  # of the one-hot code joined to the features; 0: none


class Network(nn.Module):
    """Backbone, global average pooling, head; the head may also be told the cell type.

    Args:
        spec: What to build.
        pretrained: ``none``, ``timm`` (the backbone's published weights, downloaded) or a safetensors file of timm's weights; the first
            layer is fitted to the number of channels by timm.

    Raises:
        InputError: An unknown backbone, or weights that cannot be had or do not fit.
    """

    def __init__(self, spec: NetworkSpec, pretrained: str = "none") -> None:
        super().__init__()
        self.backbone = _backbone(spec, pretrained)
        # what the pooled backbone really gives; num_features lacks the hidden layer that some heads put behind the pool
        self.features = int(getattr(self.backbone, "head_hidden_size", None) or self.backbone.num_features)  # type: ignore[arg-type]
        self.cell_types = spec.cell_types
        self.head = HEADS[spec.head](self.features + spec.cell_types, spec.classes, spec.scale, spec.margin)

    def embed(self, pictures: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) normalized pictures -> (B, D) features."""
        return self.backbone(pictures)

    def classify(
        self, features: torch.Tensor, cell_type: torch.Tensor, target: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(B, D) features and (B,) cell type numbers -> (B, K) float32 logits; with a target (B,) the margin is applied."""
        if self.cell_types:
            code = F.one_hot(cell_type, self.cell_types)
            features = torch.cat([F.normalize(features.float()), code], dim=1)
        return self.head(features, target)

    def forward(
        self, pictures: torch.Tensor, cell_type: torch.Tensor, target: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(B, C, H, W) and (B,) cell type numbers -> (B, K) float32 logits."""
        return self.classify(self.embed(pictures), cell_type, target)


def _backbone(spec: NetworkSpec, pretrained: str) -> nn.Module:
    import timm

    if not timm.is_model(spec.backbone):
        raise InputError(
            f"training.backbone is {spec.backbone!r}, which timm does not know.{closest(spec.backbone, timm.list_models())}"
        )
    options: dict[str, Any] = {"in_chans": spec.channels, "num_classes": 0, "global_pool": "avg"}
    if pretrained == "none":
        return timm.create_model(spec.backbone, pretrained=False, **options)
    given = "training.pretrained_weights"
    if pretrained == "timm":
        try:
            return timm.create_model(spec.backbone, pretrained=True, **options)
        except Exception as error:
            raise InputError(
                f"{given} is 'timm', but the weights of {spec.backbone} could not be had ({_first_line(error)}); without a network "
                "give the path of a .safetensors file with them, or none"
            ) from error
    if Path(pretrained).suffix != ".safetensors" or not Path(pretrained).is_file():
        raise InputError(
            f"{given} is {pretrained!r}; allowed: none, timm, or the path of a .safetensors file that exists"
        )
    try:
        return timm.create_model(
            spec.backbone, pretrained=True, pretrained_cfg_overlay={"file": pretrained, "custom_load": False}, **options
        )
    except Exception as error:
        raise InputError(f"{given}: {pretrained} does not fit {spec.backbone}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:300]


def batch_norms(network: nn.Module) -> list[Any]:
    """All BatchNorm layers."""
    return [m for m in network.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]


def use_batch_statistics(network: Network) -> None:
    """Let BatchNorm take mean and variance from the batch, without a change of its running statistics."""
    for layer in batch_norms(network):
        layer.train()
        layer.momentum = 0.0


@torch.no_grad()
def reestimate_batch_norm(network: Network, pictures: Iterable[torch.Tensor]) -> None:
    """Replace the running statistics of every BatchNorm by the mean over these batches (AdaBN, Li et al. 2016, arXiv 1603.04779).

    Args:
        network: Changed in place and left in evaluation mode.
        pictures: Normalized batches (B, C, H, W), such as the unlabelled pictures of one experiment or plate.

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
    for x in pictures:
        network.embed(x)
    for layer, momentum in zip(layers, usual, strict=True):
        layer.momentum = momentum
    network.eval()


def adapted_batches(
    network: Network,
    pictures: SitePictures,
    units: Iterable[np.ndarray],
    size: int,
    pixels: Callable[[Batch], torch.Tensor],
    adapt: bool,
    chosen: np.ndarray | None = None,
) -> Iterator[tuple[Batch, torch.Tensor]]:
    """Batches with their normalized pictures, unit by unit; with ``adapt`` BatchNorm statistics are first re-estimated on each unit.

    A unit of at most HELD_BYTES of raw pictures is read once; a larger one a second time.

    Args:
        network: Changed in place where it adapts.
        pictures: Where batches come from.
        units: Rows of each experiment or plate, or all rows.
        size: Most pictures a batch.
        pixels: Makes the input of the network from a batch.
        adapt: See above.
        chosen: (S,) bool rows that are asked for, the others only serve to adapt; None: all.
    """
    for unit in units:
        order = np.array_split(unit, max(1, -(-len(unit) // size)))
        held: list[Batch] = []
        if adapt and (chosen is None or chosen[unit].any()):
            reestimate_batch_norm(network, map(pixels, _holding(pictures.batches(order), held)))
            if len(held) < len(order):  # not all would fit
                held.clear()
        if chosen is not None and not chosen[unit].all():
            asked = unit[chosen[unit]]
            order, held = [part for part in np.array_split(asked, max(1, -(-len(asked) // size))) if len(part)], []
        for batch in held or pictures.batches(order):
            yield batch, pixels(batch)


def _holding(batches: Iterable[Batch], held: list[Batch]) -> Iterator[Batch]:
    """The batches, which are put into ``held`` as long as there is room for their pictures."""
    room = HELD_BYTES
    for batch in batches:
        room -= batch.pictures.nbytes
        if room >= 0:
            held.append(batch)
        yield batch


def choose_batch_size(network: Network, device: torch.device, channels: int, image_size: Sequence[int]) -> int:
    """Pictures a batch of inference: on a GPU what fits in half of its free memory, by a trial of two; on a CPU what stays in its caches.

    Args:
        network: On the device.
        device: See :func:`choose_device`.
        channels: Of the pictures.
        image_size: (H, W).

    Returns:
        8 to 1,024 pictures on a GPU, 8 to 128 elsewhere.
    """
    if device.type != "cuda":
        return int(np.clip(128 * 64 * 64 // (image_size[0] * image_size[1]), 8, 128))
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    with torch.inference_mode(), autocast(device):
        network.embed(torch.zeros(2, channels, *image_size, device=device))
    each = max(torch.cuda.max_memory_allocated(device) - before, 2) / 2
    return int(np.clip(torch.cuda.mem_get_info(device)[0] / 2 / each, 8, 1024))


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


def autocast(device: torch.device, precision: str = "auto") -> torch.autocast:
    """Where the backbone computes in bfloat16: with ``auto`` on a GPU that has it in hardware, where it is faster."""
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        precision = "bfloat16" if fast else "float32"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def to_device(network: Network, device: torch.device, channels_last: bool = True) -> Network:
    """Move a network, in channels_last unless told otherwise, which convolutions mostly prefer."""
    network = network.to(device)
    return network.to(memory_format=torch.channels_last) if channels_last else network  # type: ignore[call-overload]
