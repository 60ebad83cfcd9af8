"""The eight symmetries of the square: views of images that training draws and inference averages."""

from __future__ import annotations

import torch


def dihedral(images: torch.Tensor, view: torch.Tensor) -> torch.Tensor:
    """One of the eight symmetries of the square per image; exact, without interpolation.

    Args:
        images: (B, C, H, H) any dtype.
        view: (B,) int64, 0..7: ``view % 4`` quarter turns; mirrored first where ``view >= 4``.

    Returns:
        (B, C, H, H).
    """
    turned = torch.empty_like(images)
    if images.device.type == "cpu":  # twice as fast as by view; on a GPU each call would be a kernel of its own
        for i, v in enumerate(view.tolist()):
            turned[i] = dihedral_view(images[i], v)
        return turned
    for v in range(8):
        rows = view == v
        turned[rows] = dihedral_view(images[rows], v)
    return turned


def dihedral_view(images: torch.Tensor, view: int) -> torch.Tensor:
    """The same symmetry for one image or all images of a batch, (..., H, H)."""
    if view >= 4:
        images = images.flip(-1)
    return torch.rot90(images, view % 4, dims=(-2, -1))
