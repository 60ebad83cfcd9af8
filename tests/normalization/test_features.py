"""Features of single images: checked against slow references, and sensitive to what was done to an image."""

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from deepnoise.errors import InputError
from deepnoise.normalization.features import (
    count_objects,
    measure_sites,
    normalize_features,
    power_slope,
    shrink,
    site_table,
)
from deepnoise.normalization.statistics import histograms, plate_statistics
from tests.normalization.test_statistics import levels_of, wells_of

RNG = np.random.default_rng(1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_measurements_agree_with_numpy(dtype):
    top = np.iinfo(dtype).max
    images = RNG.integers(0, top, (5, 3, 27, 29), endpoint=True).astype(dtype)
    images[0, 0, :2] = top
    measured = measure_sites(images, histograms(images))
    exact = images.astype(np.float64)
    np.testing.assert_allclose(measured["mean"], exact.mean(axis=(2, 3)), rtol=1e-12)
    np.testing.assert_allclose(measured["std"], exact.std(axis=(2, 3)), rtol=1e-12)
    np.testing.assert_array_equal(measured["p50"], np.sort(exact.reshape(5, 3, -1))[..., round(0.5 * (27 * 29 - 1))])
    first = [np.diff(exact, axis=a) for a in (2, 3)]
    second = [np.diff(d, axis=a) for d, a in zip(first, (2, 3), strict=True)]
    for name, differences in (("gradient", first), ("laplace", second)):
        expected = sum(np.abs(d).mean(axis=(2, 3)) for d in differences) / 2
        np.testing.assert_allclose(measured[name], expected, rtol=1e-12)
    np.testing.assert_allclose(measured["saturated"][0, 0], (exact[0, 0] == top).mean())


def test_a_bright_pixel_below_the_ceiling_is_not_saturated():
    images = RNG.integers(0, 200, (1, 1, 32, 32)).astype(np.uint8)
    images[0, 0, :9] = 201
    assert measure_sites(images, histograms(images))["saturated"][0, 0] == 0


def test_shrinking_averages_blocks():
    images = RNG.integers(0, 255, (2, 20, 26)).astype(np.uint8)
    np.testing.assert_allclose(shrink(images, 13), images.reshape(2, 10, 2, 13, 2).mean(axis=(2, 4)), rtol=1e-6)
    np.testing.assert_array_equal(shrink(images), images)


def spots(count, size=96, seed=0):
    """An image of bright discs that do not touch."""
    rng = np.random.default_rng(seed)
    grid = [(y, x) for y in range(10, size - 8, 16) for x in range(10, size - 8, 16)]
    image = np.zeros((size, size))
    for y, x in (grid[i] for i in rng.permutation(len(grid))[:count]):
        image[y - 3 : y + 4, x - 3 : x + 4] = 150
    return (image + rng.normal(20, 2, image.shape)).astype(np.float32)


@pytest.mark.parametrize("count", [4, 17, 24])
def test_objects_are_counted_in_each_image(count):
    images = np.stack([spots(count, seed=s) for s in range(3)])
    np.testing.assert_array_equal(count_objects(images, np.full(3, 85.0)), [count] * 3)


def test_blur_lowers_the_power_slope_and_brightness_does_not_change_it():
    sharp = np.stack([spots(20, seed=s) for s in range(4)])
    slopes = power_slope(sharp)
    blurred = power_slope(ndimage.gaussian_filter(sharp, (0, 1.5, 1.5)))
    assert (blurred < slopes - 0.5).all()
    np.testing.assert_allclose(power_slope(sharp * 3 + 40), slopes, rtol=1e-3)
    assert power_slope(np.full((1, 32, 32), 7, np.float32)) == 0


def test_power_slope_agrees_with_a_plain_computation():
    image = spots(9)[:64, :80]
    window = np.outer(np.hanning(66)[1:-1], np.hanning(82)[1:-1])
    power = np.abs(np.fft.fft2((image - image.mean()) * window)) ** 2
    edges = np.geomspace(2 / 64, 0.5, 13)
    half = power[:, :41]
    radius = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.rfftfreq(80)[None])
    rings = [half[(radius >= low) & (radius < high)] for low, high in zip(edges, edges[1:], strict=False)]
    x = [np.log(np.sqrt(low * high)) for low, high, r in zip(edges, edges[1:], rings, strict=False) if len(r)]
    slope = np.polyfit(x, [np.log(r.mean()) for r in rings if len(r)], 1)[0]
    assert power_slope(image[None].astype(np.float32))[0] == pytest.approx(slope, rel=1e-3)


def measured_plates():
    wells = wells_of(("1", "2")).assign(well=["B02", "B03", "B04", "B05"] * 2)
    images = {p: (RNG.integers(0, 256, (4, 2, 8, 8)) // int(p)).astype(np.uint8) for p in ("1", "2")}
    tables = []
    for plate, plate_images in images.items():
        rows = wells[wells["plate"] == plate].assign(site=1)
        tables.append(site_table(rows, ["a", "b"], measure_sites(plate_images, histograms(plate_images))))
    return images, wells, pd.concat(tables, ignore_index=True)


@pytest.mark.parametrize("strategy", ["none", "plate", "site"])
def test_normalized_features_equal_those_measured_on_normalized_images(strategy):
    images, wells, features = measured_plates()
    statistics = plate_statistics(levels_of(images, wells), wells, strategy, "all")
    wide = normalize_features(features, statistics)
    image = images["2"].astype(float)
    if strategy == "plate":
        image = (image - image.mean(axis=(0, 2, 3), keepdims=True)) / image.std(axis=(0, 2, 3), keepdims=True)
    elif strategy == "site":
        image = (image - image.mean(axis=(2, 3), keepdims=True)) / image.std(axis=(2, 3), keepdims=True)
    plate = wide[wide["plate"] == "2"].sort_values("id_code")
    np.testing.assert_allclose(plate["feature_mean_b"], image[:, 1].mean(axis=(1, 2)), atol=1e-12)
    np.testing.assert_allclose(plate["feature_std_a"], image[:, 0].std(axis=(1, 2)), rtol=1e-12)
    p90 = np.sort(image[:, 0].reshape(4, -1))[:, round(0.9 * 63)]
    np.testing.assert_allclose(plate["feature_p90_a"], p90, atol=1e-12)


def test_a_plate_without_statistics_is_refused():
    images, wells, features = measured_plates()
    statistics = plate_statistics(levels_of(images, wells), wells, "plate", "all")
    with pytest.raises(InputError, match="plate E/2 has no statistics"):
        normalize_features(features, statistics[statistics["plate"] == "1"])
