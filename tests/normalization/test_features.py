"""Features of single pictures: against slow references, and as signs of what was done to a picture."""

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from deepnoise.errors import InputError
from deepnoise.normalization.features import (
    count_objects,
    measure_sites,
    normalise_features,
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
    pictures = RNG.integers(0, top, (5, 3, 27, 29), endpoint=True).astype(dtype)
    pictures[0, 0, :2] = top
    measured = measure_sites(pictures, histograms(pictures))
    exact = pictures.astype(np.float64)
    np.testing.assert_allclose(measured["mean"], exact.mean(axis=(2, 3)), rtol=1e-12)
    np.testing.assert_allclose(measured["std"], exact.std(axis=(2, 3)), rtol=1e-12)
    np.testing.assert_array_equal(measured["p50"], np.sort(exact.reshape(5, 3, -1))[..., round(0.5 * (27 * 29 - 1))])
    first = [np.diff(exact, axis=a) for a in (2, 3)]
    second = [np.diff(d, axis=a) for d, a in zip(first, (2, 3), strict=True)]
    for name, parts in (("gradient", first), ("laplace", second)):
        np.testing.assert_allclose(measured[name], sum(np.abs(p).mean(axis=(2, 3)) for p in parts) / 2, rtol=1e-12)
    np.testing.assert_allclose(measured["saturated"][0, 0], (exact[0, 0] == top).mean())


def test_a_bright_pixel_below_the_ceiling_is_no_saturation():
    pictures = RNG.integers(0, 200, (1, 1, 32, 32)).astype(np.uint8)
    pictures[0, 0, :9] = 201
    assert measure_sites(pictures, histograms(pictures))["saturated"][0, 0] == 0


def test_shrinking_takes_block_means():
    pictures = RNG.integers(0, 255, (2, 20, 26)).astype(np.uint8)
    np.testing.assert_allclose(shrink(pictures, 13), pictures.reshape(2, 10, 2, 13, 2).mean(axis=(2, 4)), rtol=1e-6)
    np.testing.assert_array_equal(shrink(pictures), pictures)


def spots(count, size=96, seed=0):
    """A picture of bright discs that do not touch."""
    rng = np.random.default_rng(seed)
    grid = [(y, x) for y in range(10, size - 8, 16) for x in range(10, size - 8, 16)]
    picture = np.zeros((size, size))
    for y, x in (grid[i] for i in rng.permutation(len(grid))[:count]):
        picture[y - 3 : y + 4, x - 3 : x + 4] = 150
    return (picture + rng.normal(20, 2, picture.shape)).astype(np.float32)


@pytest.mark.parametrize("count", [4, 17, 24])
def test_objects_are_counted_picture_by_picture(count):
    pictures = np.stack([spots(count, seed=s) for s in range(3)])
    np.testing.assert_array_equal(count_objects(pictures, np.full(3, 85.0)), [count] * 3)


def test_blur_lowers_the_power_slope_whatever_the_brightness():
    sharp = np.stack([spots(20, seed=s) for s in range(4)])
    slopes = power_slope(sharp)
    blurred = power_slope(ndimage.gaussian_filter(sharp, (0, 1.5, 1.5)))
    assert (blurred < slopes - 0.5).all()
    np.testing.assert_allclose(power_slope(sharp * 3 + 40), slopes, rtol=1e-3)
    assert power_slope(np.full((1, 32, 32), 7, np.float32)) == 0


def test_power_slope_agrees_with_a_plain_computation():
    picture = spots(9)[:64, :80]
    window = np.outer(np.hanning(66)[1:-1], np.hanning(82)[1:-1])
    power = np.abs(np.fft.fft2((picture - picture.mean()) * window)) ** 2
    edges = np.geomspace(2 / 64, 0.5, 13)
    half = power[:, :41]
    radius = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.rfftfreq(80)[None])
    rings = [half[(radius >= low) & (radius < high)] for low, high in zip(edges, edges[1:], strict=False)]
    x = [np.log(np.sqrt(low * high)) for low, high, r in zip(edges, edges[1:], rings, strict=False) if len(r)]
    slope = np.polyfit(x, [np.log(r.mean()) for r in rings if len(r)], 1)[0]
    assert power_slope(picture[None].astype(np.float32))[0] == pytest.approx(slope, rel=1e-3)


def measured_plates():
    wells = wells_of(("1", "2")).assign(well=["B02", "B03", "B04", "B05"] * 2)
    pictures = {p: (RNG.integers(0, 256, (4, 2, 8, 8)) // int(p)).astype(np.uint8) for p in ("1", "2")}
    parts = []
    for plate, own in pictures.items():
        rows = wells[wells["plate"] == plate].assign(site=1)
        parts.append(site_table(rows, ["a", "b"], measure_sites(own, histograms(own))))
    return pictures, wells, pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("strategy", ["none", "plate", "site"])
def test_features_are_those_of_normalized_pictures(strategy):
    pictures, wells, features = measured_plates()
    statistics = plate_statistics(levels_of(pictures, wells), wells, strategy, "all")
    wide = normalise_features(features, statistics)
    picture = pictures["2"].astype(float)
    if strategy == "plate":
        picture = (picture - picture.mean(axis=(0, 2, 3), keepdims=True)) / picture.std(axis=(0, 2, 3), keepdims=True)
    elif strategy == "site":
        picture = (picture - picture.mean(axis=(2, 3), keepdims=True)) / picture.std(axis=(2, 3), keepdims=True)
    own = wide[wide["plate"] == "2"].sort_values("id_code")
    np.testing.assert_allclose(own["feature_mean_b"], picture[:, 1].mean(axis=(1, 2)), atol=1e-12)
    np.testing.assert_allclose(own["feature_std_a"], picture[:, 0].std(axis=(1, 2)), rtol=1e-12)
    at = np.sort(picture[:, 0].reshape(4, -1))[:, round(0.9 * 63)]
    np.testing.assert_allclose(own["feature_p90_a"], at, atol=1e-12)


def test_a_plate_without_statistics_is_named():
    pictures, wells, features = measured_plates()
    statistics = plate_statistics(levels_of(pictures, wells), wells, "plate", "all")
    with pytest.raises(InputError, match="plate E/2 has no statistics"):
        normalise_features(features, statistics[statistics["plate"] == "1"])
