"""The nodes together: one pass in blocks, options on and off, results as computed in one piece."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from deepnoise.normalization import illumination, measure, position
from deepnoise.pipelines.normalization import nodes
from deepnoise.tables import validate_table


def parameters(**changes):
    base = dict(strategy="plate", reference="all", scale_floor=1.0, illumination="none", position_correction="none")
    return SimpleNamespace(**base | changes)


@pytest.fixture(scope="module")
def few(screen, wells):
    store, sites, _ = screen
    sites = sites[sites["experiment"].isin(["ALPHA-01", "BETA-01"])]
    return store, sites, wells


@pytest.mark.parametrize("block", [1, 50_000, 10**9])
def test_blocks_of_any_size_give_the_same_and_the_statistics_of_whole_plates(few, monkeypatch, block):
    store, sites, wells = few
    monkeypatch.setattr(measure, "BLOCK_BYTES", block)
    nothing, figure = nodes.estimate_illumination(store, sites, parameters())
    assert nothing.empty and figure.mode == "RGB"
    features, levels = nodes.measure_sites(store, nothing, sites, wells)
    assert len(validate_table(features, "site_features", "x")) == len(sites) * len(store.channels)
    table = nodes.compute_statistics(validate_table(levels, "plate_histograms", "x"), wells, parameters())
    assert set(table["illumination"]) == {"none"}
    indexed = table.set_index(["experiment", "plate", "channel"])
    for key in (("ALPHA-01", "2"), ("BETA-01", "4")):
        x = store.images[key].astype(np.float64)
        for c, channel in enumerate(store.channels):
            assert indexed.loc[(*key, channel), "location"] == pytest.approx(x[:, c].mean(), rel=1e-12)
            assert indexed.loc[(*key, channel), "scale"] == pytest.approx(x[:, c].std(), rel=1e-12)


def test_statistics_of_a_flat_field_are_those_of_the_corrected_images(few, monkeypatch):
    store, sites, wells = few
    monkeypatch.setattr(illumination, "MIN_SITES", 1)
    fields, figure = nodes.estimate_illumination(store, sites, parameters(illumination="flat_field"))
    assert (
        len(validate_table(fields, "illumination_fields", "x")) == 8 * 6 * illumination.GRID**2 and figure.size[1] > 500
    )
    _, levels = nodes.measure_sites(store, fields, sites, wells)
    table = nodes.compute_statistics(levels, wells, parameters(illumination="flat_field"))
    corrected = illumination.corrected_store(store, fields).read("ALPHA-01", "2").astype(np.float64)
    own = table[(table["experiment"] == "ALPHA-01") & (table["plate"] == "2")].set_index("channel")
    for c, channel in enumerate(store.channels):
        assert own.loc[channel, "mean"] == pytest.approx(corrected[:, c].mean(), rel=1e-12)
    assert set(table["illumination"]) == {"flat_field"}


def test_position_correction_changes_the_features_and_nothing_else(few, monkeypatch, caplog):
    store, sites, wells = few
    features, levels = nodes.measure_sites(store, pd.DataFrame(), sites, wells)
    table = nodes.compute_statistics(levels, wells, parameters())
    plain = nodes.normalize_features(features, table, parameters())
    too_few = nodes.normalize_features(features, table, parameters(position_correction="median_polish"))
    pd.testing.assert_frame_equal(plain, too_few)
    assert "8 of 8 plates have fewer than 2 wells for each row and column in use" in caplog.text
    monkeypatch.setattr(position, "MIN_WELLS", 0)
    moved = nodes.normalize_features(features, table, parameters(position_correction="median_polish"))
    key = ["id_code", "experiment", "plate", "well", "site"]
    pd.testing.assert_frame_equal(plain[key], moved[key])
    assert not np.allclose(plain.drop(columns=key), moved.drop(columns=key))
    validate_table(moved, "normalized_features", "x")


def test_plate_qc_and_its_images_come_together(few):
    store, sites, wells = few
    features, _ = nodes.measure_sites(store, pd.DataFrame(), sites, wells)
    table, overview, by_experiment = nodes.check_plates(features, wells)
    assert len(table) == 8 * 6 and len(overview.data) == 8 * 6 and set(by_experiment) == {"ALPHA-01.png", "BETA-01.png"}
