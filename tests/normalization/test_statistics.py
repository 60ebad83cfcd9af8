"""Histograms, statistics and strategies, checked against plain numpy in float64."""

import logging

import numpy as np
import pandas as pd
import pytest
import torch

from deepnoise.errors import InputError
from deepnoise.network.site_images import Batch, normalize
from deepnoise.normalization.statistics import (
    MAD_TO_STD,
    QUANTILES,
    STRATEGIES,
    add_histograms,
    histogram_table,
    histograms,
    moments,
    plate_statistics,
    quantiles,
    tier_of,
)
from deepnoise.parameters import NormalizationParameters
from deepnoise.tables import validate_table

RNG = np.random.default_rng(0)


def images_of(dtype, sites=5, channels=3):
    top = np.iinfo(dtype).max
    return RNG.integers(0, top, (sites, channels, 17, 19), endpoint=True).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_histograms_count_every_pixel(dtype):
    images = images_of(dtype)
    before = images.copy()
    counts = histograms(images)
    np.testing.assert_array_equal(images, before)
    assert counts.shape[:2] == (5, 3) and (counts.sum(axis=-1) == 17 * 19).all()
    for s, c in np.ndindex(5, 3):
        levels, level_counts = np.unique(images[s, c], return_counts=True)
        np.testing.assert_array_equal(counts[s, c][levels], level_counts)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_moments_and_quantiles_agree_with_float64(dtype):
    images = images_of(dtype)
    counts, exact = histograms(images), images.astype(np.float64).reshape(5, 3, -1)
    mean, std = moments(counts)
    np.testing.assert_allclose(mean, exact.mean(axis=2), rtol=1e-12)
    np.testing.assert_allclose(std, exact.std(axis=2), rtol=1e-12)
    shares = np.array([0, 0.013, 0.5, 0.77, 1])
    ordered = np.sort(exact, axis=2)
    expected = ordered[..., np.round(shares * (17 * 19 - 1)).astype(int)]
    np.testing.assert_array_equal(quantiles(counts, shares), expected)


def test_moments_neither_cancel_nor_overflow():
    """A bright, nearly constant 16-bit channel of 10^12 pixels: E[x^2] - E[x]^2 in float64 would lose the variance."""
    counts = np.zeros(65_536, np.int64)
    counts[65_000], counts[65_001] = 10**12 - 10**6, 10**6
    mean, std = moments(counts)
    share = 1e-6
    assert mean == pytest.approx(65_000 + share, rel=1e-15)
    assert std == pytest.approx(np.sqrt(share * (1 - share)), rel=1e-9)


def wells_of(plates=("1", "2"), wells=4, types=None):
    types = types or ["treatment"] * wells
    rows = [("E" if p < "3" else "F", p, f"E_{p}_{i}", types[i]) for p in plates for i in range(wells)]
    table = pd.DataFrame(rows, columns=["experiment", "plate", "id_code", "well_type"])
    table = table.assign(target=table["well_type"] == "treatment", perturbation=table["id_code"].str[-1])
    return table.assign(split="labelled", cell_type=np.where(table["experiment"] == "E", "HeLa", "U2OS"))


def levels_of(images, wells, channels=("a", "b")):
    """plate_histograms of plate -> (S, C, H, W) images, added in two halves."""
    tables = []
    for plate, plate_images in images.items():
        rows, total = wells[wells["plate"] == plate], {}
        for half in (slice(0, 1), slice(1, None)):
            add_histograms(total, histograms(plate_images[half]), rows["well_type"].to_numpy()[half])
        key = {"experiment": rows["experiment"].iloc[0], "plate": plate, "cell_type": rows["cell_type"].iloc[0]}
        tables.append(histogram_table(total, key, list(channels)))
    return pd.concat(tables, ignore_index=True)


def three_plates(dtype=np.uint8, types=None):
    wells = wells_of(("1", "2", "3"), types=types)
    images = {p: (RNG.integers(0, 200, (4, 2, 8, 8)) // int(p)).astype(dtype) for p in ("1", "2", "3")}
    if dtype == np.uint16:
        images = {p: x * 300 for p, x in images.items()}
    return images, wells, levels_of(images, wells)


POOLS = {
    "global": ["1", "2", "3"],
    "cell_type": ["1", "2"],
    "experiment": ["1", "2"],
    "plate": ["2"],
    "percentile": ["2"],
    "robust": ["2"],
}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("strategy", list(POOLS))
def test_every_strategy_agrees_with_numpy_to_1e_9(strategy, dtype):
    images, wells, levels = three_plates(dtype)
    table = validate_table(plate_statistics(levels, wells, strategy, "all"), "plate_statistics", "test")
    plate = table.set_index(["plate", "channel"]).loc["2"]
    for c, channel in enumerate("ab"):
        x = np.concatenate([images[p][:, c].ravel() for p in POOLS[strategy]]).astype(np.float64)
        ordered = np.sort(x)
        percentiles = {name: ordered[round(q * (len(x) - 1))] for name, q in QUANTILES.items()}
        mad = np.sort(np.abs(x - percentiles["p50"]))[round(0.5 * (len(x) - 1))] * MAD_TO_STD
        expected = {"mean": x.mean(), "std": x.std(), "scaled_mad": mad, "n_pixels": len(x), **percentiles}
        for name, value in expected.items():
            assert plate.loc[channel, name] == pytest.approx(value, rel=1e-9), name
        location, scale = {
            "percentile": (percentiles["p01"], percentiles["p99"] - percentiles["p01"]),
            "robust": (percentiles["p50"], mad),
        }.get(strategy, (x.mean(), x.std()))
        assert plate.loc[channel, "location"] == pytest.approx(location, rel=1e-9)
        assert plate.loc[channel, "scale"] == pytest.approx(scale, rel=1e-9)


def test_no_statistic_crosses_plates_unless_the_strategy_says_so():
    images, wells, levels = three_plates()
    changed = levels_of(images | {"1": images["1"] // 2}, wells)
    for strategy, pool in POOLS.items():
        before, after = (plate_statistics(t, wells, strategy, "all").query("plate == '2'") for t in (levels, changed))
        assert before["location"].equals(after["location"]) == ("1" not in pool), strategy


def test_strategies_are_those_of_the_parameters():
    from typing import get_args

    assert set(get_args(NormalizationParameters.model_fields["strategy"].annotation)) == set(STRATEGIES)


@pytest.mark.parametrize("strategy", ["global", "cell_type"])
def test_held_out_plates_do_not_affect_the_statistics_of_training(strategy):
    images, wells, levels = three_plates()
    wells.loc[wells["plate"] == "1", "split"] = "heldout"
    table = plate_statistics(levels, wells, strategy, "all").set_index(["plate", "channel"])
    pool = [images[p][:, 0].astype(float) for p in (["2", "3"] if strategy == "global" else ["2"])]
    assert table.loc[("2", "a"), "mean"] == pytest.approx(np.concatenate(pool).mean(), rel=1e-12)
    assert set(table["tier"]) == {"T0"}
    # cross-validated: the pool contains plates that folds hold out
    assert set(plate_statistics(levels, wells.assign(split="labelled"), strategy, "all")["tier"]) == {"T1"}


def test_controls_and_a_flat_field_raise_tier_t0():
    _, wells, levels = three_plates(types=["negative_control", "positive_control", "treatment", "treatment"])
    assert set(plate_statistics(levels, wells, "global", "controls")["tier"]) == {"T1c"}
    wells.loc[wells["plate"] == "1", "split"] = "heldout"
    for strategy in ("none", "site", "global"):
        assert set(plate_statistics(levels, wells, strategy, "all", illumination="flat_field")["tier"]) == {"T1"}
    assert set(plate_statistics(levels, wells, "plate", "controls", illumination="flat_field")["tier"]) == {"T1c"}


def test_a_cell_type_without_a_labelled_plate_is_refused():
    _, wells, levels = three_plates()
    wells.loc[wells["cell_type"] == "U2OS", "split"] = "heldout"
    with pytest.raises(InputError, match=r"plate F/3 has no images of reference wells .all. in its pool .cell_type."):
        plate_statistics(levels, wells, "cell_type", "all")


def test_statistics_are_those_of_the_reference_wells():
    images, wells, levels = three_plates(types=["negative_control", "positive_control", "treatment", "treatment"])
    for reference, members in (("controls", [0, 1]), ("negative_controls", [0]), ("all", [0, 1, 2, 3])):
        table = plate_statistics(levels, wells, "plate", reference).set_index(["plate", "channel"])
        assert table.loc[("2", "b"), "mean"] == pytest.approx(images["2"][members, 1].astype(float).mean(), rel=1e-12)
        assert set(table["tier"]) == {"T1" if reference == "all" else "T1c"}
    without_controls = levels[(levels["plate"] != "1") | (levels["well_type"] == "treatment")]
    with pytest.raises(InputError, match="plate E/1 has no images of reference wells"):
        plate_statistics(without_controls, wells, "plate", "controls")


@pytest.mark.parametrize("strategy", ["plate", "robust", "percentile"])
def test_a_dead_channel_is_logged_and_never_divided_by_zero(strategy, caplog):
    wells = wells_of(("1",))
    images = {"1": np.full((4, 2, 8, 8), 9, np.uint8)}
    images["1"][:, 1] = RNG.integers(0, 99, (4, 8, 8))
    with caplog.at_level(logging.WARNING):
        table = plate_statistics(levels_of(images, wells, ("dead", "alive")), wells, strategy, "all", scale_floor=2.5)
    assert "channel dead of plate E/1" in caplog.text and "scale_floor = 2.5 (1 such channels)" in caplog.text
    assert table.set_index("channel").loc["dead", "scale"] == 2.5
    assert np.isfinite(table[["location", "scale"]]).all().all()


def test_a_mad_of_zero_in_a_channel_with_cells_is_raised_to_the_floor(caplog):
    """More than half of the pixels are background of one value, so the MAD is 0 despite the cells."""
    wells = wells_of(("1",))
    images = {"1": np.full((4, 1, 8, 8), 3, np.uint8)}
    images["1"][:, :, :3] = 200
    table = plate_statistics(levels_of(images, wells, ("c",)), wells, "robust", "all", scale_floor=1.0)
    assert table["scale"].tolist() == [1.0] and table["std"].iloc[0] > 50 and "scaled MAD is 0" in caplog.text


@pytest.mark.parametrize(
    ("strategy", "reference", "tier"),
    [
        ("none", "all", "T0"),
        ("global", "all", "T0"),
        ("cell_type", "all", "T0"),
        ("site", "all", "T0"),
        ("plate", "all", "T1"),
        ("experiment", "all", "T1"),
        ("percentile", "all", "T1"),
        ("robust", "controls", "T1c"),
        ("plate", "negative_controls", "T1c"),
    ],
)
def test_each_strategy_and_reference_has_its_tier(strategy, reference, tier):
    assert tier_of(strategy, reference) == tier


def test_normalized_images_agree_with_the_formula():
    raw = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).reshape(2, 3, 4, 4)
    location, scale = torch.rand(2, 3) * 9, torch.rand(2, 3) + 0.5
    batch = Batch(np.arange(2), raw, location, scale)
    expected = (raw.double() - location[..., None, None].double()) / scale[..., None, None].double()
    torch.testing.assert_close(normalize(batch, "plate").double(), expected, rtol=1e-6, atol=1e-6)
    per_site = normalize(batch, "site")
    torch.testing.assert_close(per_site.mean(dim=(2, 3)), torch.zeros(2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(per_site.std(dim=(2, 3), correction=0), torch.ones(2, 3), atol=1e-5, rtol=0)


def test_jitter_changes_location_and_scale_by_at_most_its_share():
    location, scale = torch.full((500, 1), 10.0), torch.full((500, 1), 2.0)
    batch = Batch(np.arange(500), torch.zeros(500, 1, 1, 2, dtype=torch.uint8), location, scale)
    jittered = normalize(batch, "plate", 0.1, torch.Generator().manual_seed(0))
    assert jittered.min() >= -11 / 1.8 - 1e-4 and jittered.max() <= -9 / 2.2 + 1e-4 and jittered.std() > 0.1
