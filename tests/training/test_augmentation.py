"""Random views and mixed images."""

import torch

from deepnoise.network.dihedral import dihedral
from deepnoise.training.augmentation import erase, random_view


def test_dihedral_views_are_the_eight_symmetries():
    image = torch.arange(9.0).reshape(1, 1, 3, 3).repeat(8, 1, 1, 1)
    views = dihedral(image, torch.arange(8))
    assert len({tuple(v.flatten().tolist()) for v in views}) == 8
    assert all(sorted(v.flatten().tolist()) == list(range(9)) for v in views)
    torch.testing.assert_close(views[0], image[0])


def test_erasing_removes_2_to_40_percent_of_an_image():
    g = torch.Generator().manual_seed(0)
    x = torch.ones(400, 1, 50, 50)
    share = (erase(x, 1.0, g) == 0).float().mean(dim=(1, 2, 3))
    assert share.min() > 0.005 and share.max() < 0.45 and 0.1 < share.mean() < 0.3
    assert (erase(x, 0.0, g) == 1).all() and (x == 1).all()


def test_views_differ_by_image_and_repeat_with_the_seed():
    x = torch.randn(6, 2, 16, 16)
    options = dict(turns=True, strength=0.1, erase_chance=0.5, crop=True)
    a = random_view(x, **options, generator=torch.Generator().manual_seed(3))
    b = random_view(x, **options, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert (
        a.shape == x.shape
        and (a - random_view(x, **options, generator=torch.Generator().manual_seed(4))).abs().max() > 0.1
    )


def test_a_strong_view_is_cropped_whatever_the_shift():
    ramp = torch.linspace(0, 1, 32).expand(8, 2, 32, 32).contiguous()
    options = dict(turns=False, strength=0.0, generator=torch.Generator().manual_seed(0))
    assert torch.equal(random_view(ramp, **options), ramp)
    cropped = random_view(ramp, crop=True, **options)
    slope = cropped[:, 0, 16, 24] - cropped[:, 0, 16, 8]
    # enlarging 80 to 99 % of the area makes the ramp that much flatter
    assert ((slope < 0.998 * 16 / 31) & (slope > 0.88 * 16 / 31)).all()
