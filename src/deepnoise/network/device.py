"""Device, precision and batch size of a network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from deepnoise.errors import InputError, first_line
from deepnoise.network.network import Network


def choose_batch_size(network: Network, device: torch.device, channels: int, image_size: Sequence[int]) -> int:
    """Batch size of inference: on a GPU what fits in half of its free memory, measured with two images; on a CPU what stays in its caches.

    Args:
        network: On the device.
        device: See :func:`choose_device`.
        channels: Of the images.
        image_size: (H, W).

    Returns:
        8 to 1,024 on a GPU, 8 to 128 elsewhere.
    """
    if device.type != "cuda":
        return int(np.clip(128 * 64 * 64 // (image_size[0] * image_size[1]), 8, 128))
    torch.cuda.reset_peak_memory_stats(device)
    allocated = torch.cuda.memory_allocated(device)
    with torch.inference_mode(), autocast(device):
        network.embed(torch.zeros(2, channels, *image_size, device=device))
    bytes_per_image = max(torch.cuda.max_memory_allocated(device) - allocated, 2) / 2
    return int(np.clip(torch.cuda.mem_get_info(device)[0] / 2 / bytes_per_image, 8, 1024))


def choose_device(name: str) -> torch.device:
    """The device with a name; ``auto`` takes a GPU if there is one.

    Raises:
        InputError: This machine does not have the device.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device("cuda" if available["cuda"] else "cpu")
    if not available[name]:
        raise InputError(
            f"device {name!r} is not available here; allowed: {', '.join(d for d in available if available[d])}, auto"
        )
    return torch.device(name)


def autocast(device: torch.device, precision: str = "auto") -> torch.autocast:
    """Autocast of the backbone. ``auto`` means bfloat16 on a GPU that has it in hardware, where it is faster."""
    if precision == "auto":
        native = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        precision = "bfloat16" if native else "float32"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on the device. To a GPU it goes through pinned memory, so that neither side waits for the copy."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def to_device(network: Network, device: torch.device, channels_last: bool = True) -> Network:
    """Move a network to a device. Most convolutions are faster in channels_last, the default."""
    network = network.to(device)
    return network.to(memory_format=torch.channels_last) if channels_last else network  # type: ignore[call-overload]


def compile_backbone(network: Network, images: torch.Tensor, backend: str = "inductor") -> str:
    """Compile the backbone in place, and try it on some images, backwards too. Its weights keep their names and values.

    Args:
        network: On the device.
        images: (B, C, H, W) such as it will get.
        backend: Of ``torch.compile``.

    Returns:
        Why it cannot be compiled here, in which case it stays as it is; empty if it is compiled.
    """
    state = {name: value.clone() for name, value in network.state_dict().items()}
    reason = ""
    try:
        network.backbone.compile(backend=backend)
        network.embed(images).float().sum().backward()
    except Exception as error:  # compilers fail in many ways
        network.backbone._compiled_call_impl = None
        reason = first_line(error)
    network.zero_grad(set_to_none=True)
    network.load_state_dict(state)  # statistics of BatchNorm have seen the images
    return reason


def batch_that_fits(size: int, peak: int, fixed: int, total: int) -> int:
    """The batch of training that would fill 90 % of a GPU's memory, from the peak memory of a smaller one.

    Args:
        size: Images of the labelled batch that was measured.
        peak: Bytes at the peak.
        fixed: Bytes that do not grow with the batch: weights, gradients, moments of the optimizer, moving average.
        total: Bytes of the GPU.

    Returns:
        Labelled images; 0 if not even the weights fit.
    """
    per_image = max(peak - fixed, 1) / size
    return max(int((0.9 * total - fixed) / per_image), 0)
