"""Views of test-time augmentation. VIEWS is the table of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from deepnoise.network.dihedral import dihedral_view

CROP = 7 / 8
"""Side of a multicrop view, as a share of the image's."""


def crop_view(images: torch.Tensor, position: int) -> torch.Tensor:
    """One of the four corners (0..3) or the centre (4) of (B, C, H, W) images, CROP of their side."""
    height, width = (int(round(side * CROP)) for side in images.shape[-2:])
    down, right = images.shape[-2] - height, images.shape[-1] - width
    top, left = [(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)][position]
    return images[..., top : top + height, left : left + width]


VIEWS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], ...]] = {
    "none": (partial(dihedral_view, view=0),),
    "flips": tuple(partial(dihedral_view, view=v) for v in (0, 2, 4, 6)),
    "dihedral": tuple(partial(dihedral_view, view=v) for v in range(8)),
    "multicrop": tuple(partial(crop_view, position=p) for p in range(5)),
}
"""Name -> views of (B, C, H, W) images whose predictions are averaged."""
