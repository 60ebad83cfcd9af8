"""Statistics against plain numpy in float64."""

import logging

import numpy as np
import pandas as pd
import pytest
import torch

from deepnoise.errors import InputError
from deepnoise.normalization.statistics import (
    measure_sites,
    moments,
    normalise_features,
    plate_statistics,
    site_table,
    tier_of,
)
from deepnoise.training.images import Batch, normalise

RNG = np.random.default_rng(0)


def rows(n, plate="1"):
    return pd.DataFrame(
        {"id_code": [f"E_{plate}_{i}" for i in range(n)], "experiment": "E", "plate": plate, "well": "B02", "site": 1}
    )


def wells_of(table, types=None):
    types = types or ["treatment"] * len(table)
    return pd.DataFrame({"id_code": table["id_code"], "well_type": types, "split": "labelled"})


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_site_measurements_agree_with_numpy(dtype):
    pictures = RNG.integers(0, np.iinfo(dtype).max, (5, 3, 17, 19), endpoint=True).astype(dtype)
    before = pictures.copy()
    measured = measure_sites(pictures)
    np.testing.assert_array_equal(pictures, before)
    exact = pictures.astype(np.float64)
    np.testing.assert_allclose(measured["mean"], exact.mean(axis=(2, 3)), rtol=1e-12)
    np.testing.assert_allclose(measured["std"], exact.std(axis=(2, 3)), rtol=1e-12)
    np.testing.assert_array_equal(measured["p50"], np.sort(exact.reshape(5, 3, -1))[..., round(0.5 * (17 * 19 - 1))])
    by_hand = (np.abs(np.diff(exact, axis=2)).mean(axis=(2, 3)) + np.abs(np.diff(exact, axis=3)).mean(axis=(2, 3))) / 2
    np.testing.assert_allclose(measured["gradient"], by_hand, rtol=1e-12)


def test_moments_do_not_cancel():
    """A bright, nearly constant 16-bit channel: E[x^2] - E[x]^2 in float64 would lose the variance."""
    pixels = np.full(10**6, 65_000, object)
    pixels[0] = 65_001
    mean, std = moments(np.array([pixels.sum()], object), np.array([(pixels * pixels).sum()], object), 10**6)
    assert std[0] == pytest.approx(np.sqrt(1e-6 * (1 - 1e-6)), rel=1e-9)


def two_plates():
    pictures = {p: RNG.integers(0, 256, (4, 2, 8, 8)).astype(np.uint8) // (int(p)) for p in ("1", "2")}
    table = pd.concat(
        [site_table(rows(4, p), ["a", "b"], measure_sites(x)) for p, x in pictures.items()], ignore_index=True
    )
    return pictures, table


@pytest.mark.parametrize("strategy", ["global", "experiment", "plate"])
def test_plate_statistics_agree_with_numpy(strategy):
    pictures, measured = two_plates()
    wells = wells_of(measured.drop_duplicates("id_code"))
    table = plate_statistics(measured, wells, strategy, "all").set_index(["plate", "channel"])
    for p in ("1", "2"):
        pool = pictures[p] if strategy == "plate" else np.concatenate(list(pictures.values()))
        for c, channel in enumerate("ab"):
            assert table.loc[(p, channel), "mean"] == pytest.approx(pool[:, c].astype(float).mean(), rel=1e-12)
            assert table.loc[(p, channel), "std"] == pytest.approx(pool[:, c].astype(float).std(), rel=1e-12)


def test_global_statistics_of_a_cross_validated_screen_are_not_inductive():
    _, measured = two_plates()
    wells = wells_of(measured.drop_duplicates("id_code"))
    assert set(plate_statistics(measured, wells, "global", "all")["tier"]) == {"T1"}
    withheld = wells.assign(split=["labelled"] * 4 + ["heldout"] * 4)
    assert set(plate_statistics(measured, withheld, "global", "all")["tier"]) == {"T0"}


def test_reference_wells_decide():
    pictures, measured = two_plates()
    ids = measured.drop_duplicates("id_code")
    wells = wells_of(ids, ["negative_control", "positive_control", "treatment", "treatment"] * 2)
    table = plate_statistics(measured, wells, "plate", "controls").set_index(["plate", "channel"])
    assert table.loc[("2", "b"), "mean"] == pytest.approx(pictures["2"][:2, 1].astype(float).mean(), rel=1e-12)
    assert set(table["tier"]) == {"T1c"}
    with pytest.raises(InputError, match="plate E/1 has no pictures of reference wells"):
        plate_statistics(measured, wells_of(ids), "plate", "controls")


def test_a_constant_channel_is_named_and_never_divided_by_zero(caplog):
    table = site_table(rows(3), ["dead"], measure_sites(np.full((3, 1, 4, 4), 9, np.uint8)))
    with caplog.at_level(logging.WARNING):
        statistics = plate_statistics(table, wells_of(rows(3)), "plate", "all")
    assert "channel dead of plate E/1 is constant" in caplog.text
    assert statistics["std"].tolist() == [1.0]


@pytest.mark.parametrize(
    ("strategy", "reference", "tier"),
    [
        ("none", "all", "T0"),
        ("global", "all", "T0"),
        ("site", "all", "T0"),
        ("plate", "all", "T1"),
        ("experiment", "all", "T1"),
        ("plate", "negative_controls", "T1c"),
    ],
)
def test_tiers(strategy, reference, tier):
    assert tier_of(strategy, reference) == tier


@pytest.mark.parametrize("strategy", ["none", "plate", "site"])
def test_features_are_those_of_normalized_pictures(strategy):
    pictures, measured = two_plates()
    statistics = plate_statistics(measured, wells_of(measured.drop_duplicates("id_code")), strategy, "all")
    wide = normalise_features(measured, statistics)
    picture = pictures["2"].astype(float)
    if strategy == "plate":
        picture = (picture - picture.mean(axis=(0, 2, 3), keepdims=True)) / picture.std(axis=(0, 2, 3), keepdims=True)
    elif strategy == "site":
        picture = (picture - picture.mean(axis=(2, 3), keepdims=True)) / picture.std(axis=(2, 3), keepdims=True)
    own = wide[wide["plate"] == "2"].sort_values("id_code")
    np.testing.assert_allclose(own["mean_b"], picture[:, 1].mean(axis=(1, 2)), atol=1e-12)
    np.testing.assert_allclose(own["std_a"], picture[:, 0].std(axis=(1, 2)), rtol=1e-12)
    np.testing.assert_allclose(own["p90_a"], np.sort(picture[:, 0].reshape(4, -1))[:, round(0.9 * 63)], atol=1e-12)


def test_pictures_are_normalized_as_the_formula_says():
    raw = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).reshape(2, 3, 4, 4)
    mean, std = torch.rand(2, 3) * 9, torch.rand(2, 3) + 0.5
    batch = Batch(np.arange(2), raw, mean, std)
    expected = (raw.double() - mean[..., None, None].double()) / std[..., None, None].double()
    torch.testing.assert_close(normalise(batch, "plate").double(), expected, rtol=1e-6, atol=1e-6)
    own = normalise(batch, "site")
    torch.testing.assert_close(own.mean(dim=(2, 3)), torch.zeros(2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(own.std(dim=(2, 3), correction=0), torch.ones(2, 3), atol=1e-5, rtol=0)


def test_jitter_moves_mean_and_std_by_at_most_its_share():
    mean, std = torch.full((500, 1), 10.0), torch.full((500, 1), 2.0)
    batch = Batch(np.arange(500), torch.zeros(500, 1, 1, 2, dtype=torch.uint8), mean, std)
    moved = normalise(batch, "plate", 0.1, torch.Generator().manual_seed(0))
    assert moved.min() >= -11 / 1.8 - 1e-4 and moved.max() <= -9 / 2.2 + 1e-4 and moved.std() > 0.1
