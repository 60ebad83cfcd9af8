"""Views of test-time augmentation. VIEWS is the table of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from deepnoise.training.augmentation import dihedral_view

CROP = 7 / 8  # of the side, in multicrop


def crop_view(images: torch.Tensor, place: int) -> torch.Tensor:
    """One of four corners (0..3) or the centre (4) of (B, C, H, W) images, CROP of their side."""
    height, width = (int(round(side * CROP)) for side in images.shape[-2:])
    down, right = images.shape[-2] - height, images.shape[-1] - width
    top, left = [(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)][place]
    return images[..., top : top + height, left : left + width]


VIEWS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], ...]] = {
    "none": (partial(dihedral_view, view=0),),
    "flips": tuple(partial(dihedral_view, view=v) for v in (0, 2, 4, 6)),
    "dihedral": tuple(partial(dihedral_view, view=v) for v in range(8)),
    "multicrop": tuple(partial(crop_view, place=p) for p in range(5)),
}
"""Name -> views of (B, C, H, W) images that are averaged."""
