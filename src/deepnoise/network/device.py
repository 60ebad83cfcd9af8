"""Device, precision and batch size of a network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from deepnoise.errors import InputError
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


def to_device(network: Network, device: torch.device, channels_last: bool = True) -> Network:
    """Move a network to a device. Most convolutions are faster in channels_last, the default."""
    network = network.to(device)
    return network.to(memory_format=torch.channels_last) if channels_last else network  # type: ignore[call-overload]
