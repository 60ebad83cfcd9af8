"""Views of images, drawn per image and applied in batches on the device (method: section 4)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F


def dihedral(images: torch.Tensor, view: torch.Tensor) -> torch.Tensor:
    """One of the eight symmetries of the square for each image, exact (no interpolation).

    Args:
        images: (B, C, H, H) any dtype.
        view: (B,) int64, 0..7: a quarter turn ``view % 4`` times, mirrored first where ``view >= 4``.

    Returns:
        (B, C, H, H).
    """
    out = torch.empty_like(images)
    for v in range(8):
        chosen = view == v
        if chosen.any():
            out[chosen] = dihedral_view(images[chosen], v)
    return out


def dihedral_view(images: torch.Tensor, view: int) -> torch.Tensor:
    """The same symmetry for all images of a batch."""
    if view >= 4:
        images = images.flip(-1)
    return torch.rot90(images, view % 4, dims=(-2, -1))


def shift_scale(images: torch.Tensor, strength: float, crop: bool, generator: torch.Generator) -> torch.Tensor:
    """Random shift, scale and aspect, each up to ``strength`` (0.1 = 10 %), bilinear, mirrored at the rim.

    With ``crop`` a random 80-99 % of the area is enlarged on top.
    """
    draw = (2 * torch.rand(len(images), 4, generator=generator) - 1) * strength
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0] = (1 + draw[:, 0]) * (1 + draw[:, 1] / 2)
    theta[:, 1, 1] = (1 + draw[:, 0]) / (1 + draw[:, 1] / 2)
    theta[:, :, 2] = 2 * draw[:, 2:]
    if crop:
        theta[:, :, :2] *= (0.80 + 0.19 * torch.rand(len(images), 1, 1, generator=generator)).sqrt()
    grid = F.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid.to(images.dtype), mode="bilinear", padding_mode="reflection", align_corners=False)


def _rectangles(area: torch.Tensor, aspect: torch.Tensor, place: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(B, 1, H, W) masks of rectangles: relative area (B,), height / width (B,), free place (2, B) in 0..1."""
    tall, wide = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    top, left = place[0] * (1 - tall), place[1] * (1 - wide)
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
    gone = _rectangles(area, torch.exp((2 * draw[1] - 1) * 0.7), draw[2:4], height, width)
    return images.masked_fill(gone.to(images.device), 0.0)


def mix(
    images: torch.Tensor, mixup: float, cutmix: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mix each image with another of the batch.

    It is blended (MixUp, Zhang et al., arXiv 1710.09412) or gets a rectangle of the other (CutMix, Yun et al., arXiv 1905.04899);
    where both are on, one of the two by chance for each image.

    Args:
        images: (B, C, H, W) float.
        mixup: a of Beta(a, a), from which the share of a blended image is drawn; 0: no blending.
        cutmix: The same of the area that is left of a pasted one.
        generator: CPU source of all randomness.

    Returns:
        The mixed images, the partner (B,) int64 of each and the share (B,) float32 in 0..1 that is left of the image itself.
    """
    count, _, height, width = images.shape
    rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
    pasted = torch.from_numpy(rng.random(count) < (cutmix > 0) * (0.5 if mixup > 0 else 1.0))
    blend = torch.from_numpy(rng.beta(mixup or 1.0, mixup or 1.0, count)).float()
    left = torch.from_numpy(rng.beta(cutmix or 1.0, cutmix or 1.0, count)).float()
    partner = torch.randperm(count, generator=generator)
    masks = _rectangles(1 - left, torch.ones(count), torch.rand(2, count, generator=generator), height, width)
    own = torch.where(pasted[:, None, None, None], (~masks).float(), blend[:, None, None, None])
    share = own.mean(dim=(1, 2, 3))
    own = own.to(images.device, images.dtype)
    return own * images + (1 - own) * images[partner.to(images.device)], partner, share


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
        strength: Of shift, scale and aspect; 0 leaves them out.
        erase_chance: Chance of random erasing.
        crop: Enlarge a random 80-99 % of the area (needs ``strength`` above 0).
        generator: CPU source of all randomness.
    """
    if turns:
        view = torch.randint(0, 8, (len(images),), generator=generator)
        images = dihedral(images, view.to(images.device))
    if strength > 0:
        images = shift_scale(images, strength, crop, generator)
    if erase_chance > 0:
        images = erase(images, erase_chance, generator)
    return images
