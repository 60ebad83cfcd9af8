"""Random views of images: drawn per image, applied in batches on the device (method: section 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from deepnoise.network.device import send
from deepnoise.network.dihedral import dihedral


def shift_scale(images: torch.Tensor, strength: float, crop: bool, generator: torch.Generator) -> torch.Tensor:
    """Random shift, scale and aspect, each up to ``strength`` (0.1 = 10 %), bilinear, mirrored at the border.

    With ``crop``, a random 80-99 % of the area is enlarged as well.
    """
    draw = (2 * torch.rand(len(images), 4, generator=generator) - 1) * strength
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0] = (1 + draw[:, 0]) * (1 + draw[:, 1] / 2)
    theta[:, 1, 1] = (1 + draw[:, 0]) / (1 + draw[:, 1] / 2)
    theta[:, :, 2] = 2 * draw[:, 2:]
    if crop:
        theta[:, :, :2] *= (0.80 + 0.19 * torch.rand(len(images), 1, 1, generator=generator)).sqrt()
    grid = F.affine_grid(send(theta, images.device), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid.to(images.dtype), mode="bilinear", padding_mode="reflection", align_corners=False)


def _rectangles(
    area: torch.Tensor, aspect: torch.Tensor, position: torch.Tensor, height: int, width: int
) -> torch.Tensor:
    """(B, 1, H, W) masks of rectangles: relative area (B,), height / width (B,), position (2, B) in 0..1."""
    tall, wide = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    top, left = position[0] * (1 - tall), position[1] * (1 - wide)
    y = (torch.arange(height) + 0.5) / height
    x = (torch.arange(width) + 0.5) / width
    rows = (y >= top[:, None]) & (y < (top + tall)[:, None])
    columns = (x >= left[:, None]) & (x < (left + wide)[:, None])
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def erase(images: torch.Tensor, chance: float, generator: torch.Generator) -> torch.Tensor:
    """Random erasing of a rectangle of 2-40 % of the area, filled with 0 (Zhong et al., arXiv 1708.04896)."""
    count, _, height, width = images.shape
    draw = torch.rand(5, count, generator=generator)
    area = (0.02 + 0.38 * draw[0]) * (draw[4] < chance)
    erased = _rectangles(area, torch.exp((2 * draw[1] - 1) * 0.7), draw[2:4], height, width)
    return images.masked_fill(send(erased, images.device), 0.0)


def random_view(
    images: torch.Tensor,
    *,
    turns: bool,
    strength: float,
    erase_chance: float = 0.0,
    crop: bool = False,
    generator: torch.Generator,
) -> torch.Tensor:
    """One random view of each normalized image.

    Args:
        images: (B, C, H, W) float.
        turns: Random flips and quarter turns.
        strength: Largest shift, scale and aspect; 0 leaves them out.
        erase_chance: Probability of random erasing.
        crop: Enlarge a random 80-99 % of the area.
        generator: CPU source of all randomness.
    """
    if turns:
        view = torch.randint(0, 8, (len(images),), generator=generator)
        images = dihedral(images, view)
    if strength > 0 or crop:
        images = shift_scale(images, strength, crop, generator)
    if erase_chance > 0:
        images = erase(images, erase_chance, generator)
    return images
