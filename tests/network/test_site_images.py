"""Batches of images and their statistics."""

import numpy as np
import pytest

from deepnoise.errors import InputError
from deepnoise.network.site_images import SiteImages


@pytest.mark.parametrize("cache", [0.0, 1.0])
def test_batches_hold_the_right_images_whether_cached_or_read(screen, cache):
    store, sites, statistics = screen
    shuffled = sites.sample(frac=1, random_state=0).reset_index(drop=True)
    images = SiteImages(store, shuffled, statistics, cache)
    order = [np.array([5, 0, 40]), np.array([7])]
    for index, batch in zip(order, images.batches(order), strict=True):
        for i, image in zip(index, batch.images, strict=True):
            row = shuffled.iloc[i]
            np.testing.assert_array_equal(
                image.numpy(), store.images[(row["experiment"], row["plate"])][row["store_row"]]
            )
        plate_rows = statistics[
            (statistics["experiment"] == shuffled.iloc[index[0]]["experiment"])
            & (statistics["plate"] == shuffled.iloc[index[0]]["plate"])
        ]
        expected = plate_rows.set_index("channel").loc[store.channels, "location"].to_numpy(np.float32)
        np.testing.assert_array_equal(batch.location[0].numpy(), expected)


def test_a_plate_without_statistics_is_refused(screen):
    store, sites, statistics = screen
    with pytest.raises(InputError, match="plate_statistics lacks.*BETA-04"):
        SiteImages(store, sites, statistics[statistics["experiment"] != "BETA-04"], 0)
