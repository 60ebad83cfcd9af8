"""Illumination and position: what was planted is found, what was not is left alone."""

import numpy as np
import pandas as pd
import pytest

from deepnoise.errors import InputError
from deepnoise.normalization.illumination import (
    GRID,
    MIN_SITES,
    FlatFieldStore,
    block_means,
    corrected_store,
    estimate_field,
    field_of,
    field_table,
    full_field,
)
from deepnoise.normalization.position import correct_positions, median_polish, plate_grid
from deepnoise.tables import SCHEMAS, validate_table
from tests.conftest import MemoryStore


def planted(size):
    axis = np.linspace(-1, 1, size)
    field = 1 - 0.3 * ((axis[:, None] - 0.3) ** 2 + axis[None] ** 2) / 2
    return field / field.mean()


def cells(sites, size, field, seed=0, dtype=np.uint16, brightness=20_000):
    """Sites of random bright discs under one illumination."""
    rng = np.random.default_rng(seed)
    images = np.full((sites, 1, size, size), 0.05)
    y, x = np.mgrid[:size, :size]
    for image in images:
        for cy, cx in rng.uniform(-12, size + 12, (24, 2)):
            image[0] += np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 18)
    return np.rint(np.clip(images, 0, 2) / 2 * field * brightness * rng.lognormal(0, 0.2, (sites, 1, 1, 1))).astype(
        dtype
    )


def test_block_means_agree_with_a_double_loop():
    images = np.random.default_rng(0).integers(0, 255, (2, 1, 37, 50)).astype(np.uint8)
    blocks = block_means(images)
    down, along = (np.linspace(0, n, GRID + 1).round().astype(int) for n in (37, 50))
    for i, j in np.ndindex(GRID, GRID):
        wanted = images[1, 0, down[i] : down[i + 1], along[j] : along[j + 1]].mean()
        assert blocks[1, 0, i, j] == pytest.approx(wanted, rel=1e-6)
    assert block_means(images[..., :9, :9]).shape == (2, 1, 9, 9)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_planted_field_is_found_and_taken_out(seed):
    field = planted(128)
    images = cells(300, 128, field, seed)
    found = full_field(estimate_field(block_means(images)), 128, 128)[0]
    assert np.abs(found / field - 1).mean() < 0.015 and np.corrcoef(found.ravel(), field.ravel())[0, 1] > 0.98
    store = MemoryStore({("E", "1"): images}, ["c"])
    table = validate_table(
        field_table(estimate_field(block_means(images)), "E", "1", ["c"]), "illumination_fields", "test"
    )
    corrected = FlatFieldStore(store, table).read("E", "1")
    assert corrected.dtype == np.uint16 and corrected.shape == images.shape

    def unevenness(x):
        return block_means(x, 4).mean(axis=0).std() / x.mean()

    assert unevenness(corrected) < 0.4 * unevenness(images)


@pytest.mark.parametrize("sites", [100, 200])
def test_an_even_plate_keeps_its_images_nearly_as_they_are(sites):
    """Where cells happen to lie is not taken for illumination."""
    deviations = [
        np.abs(estimate_field(block_means(cells(sites, 64, np.ones((64, 64)), s))) - 1).max() for s in range(6)
    ]
    assert np.median(deviations) == 0 and max(deviations) < 0.25


def test_too_few_sites_and_a_dark_channel_keep_a_flat_field():
    images = cells(MIN_SITES - 1, 32, planted(32))
    assert (estimate_field(block_means(images)) == 1).all()
    assert (estimate_field(np.zeros((MIN_SITES, 1, 4, 4), np.float32)) == 1).all()


def test_fields_survive_their_table_and_are_interpolated_between_block_centres():
    field = 1 + 0.1 * np.arange(2 * 3 * 4).reshape(2, 3, 4)
    table = field_table(field, "E", "1", ["a", "b"])
    np.testing.assert_array_equal(field_of(table.sample(frac=1, random_state=0), ["a", "b"]), field)
    ramp = np.tile(np.arange(4.0) + 1, (1, 4, 1))
    full = full_field(ramp, 16, 16)[0]
    steps = np.diff(full[0])[2:13]
    np.testing.assert_allclose(steps, steps[0], rtol=1e-4)
    assert full.mean() == pytest.approx(1, abs=1e-6)
    assert (full_field(np.ones((2, 1, 1)), 5, 7) == 1).all()


def test_the_corrected_store_keeps_to_the_dtype_and_names_a_plate_without_a_field():
    images = np.full((1, 1, 8, 8), 250, np.uint8)
    field = np.ones((1, 2, 2))
    field[0, 0, 0] = 0.5
    store = MemoryStore({("E", "1"): images, ("E", "2"): images}, ["c"])
    assert corrected_store(store, SCHEMAS["illumination_fields"].empty()) is store
    corrected = corrected_store(store, field_table(field, "E", "1", ["c"]))
    assert corrected.read("E", "1").max() == 255  # clipped, not wrapped around
    assert corrected.checksum("E", "1") != store.checksum("E", "1")
    with pytest.raises(InputError, match="plate E/2 has no illumination field"):
        corrected.read("E", "2")


def test_median_polish_finds_planted_effects_under_outliers():
    rng = np.random.default_rng(0)
    row, column = rng.normal(0, 3, 8), rng.normal(0, 3, 12)
    grid = 100 + row[:, None] + column[None] + rng.normal(0, 0.1, (8, 12))
    grid[rng.random((8, 12)) < 0.1] += 50
    grid[2, 3] = np.nan
    before = grid.copy()
    by_row, by_column, residual = median_polish(grid[..., None])
    np.testing.assert_array_equal(grid, before)
    np.testing.assert_allclose(by_row[:, 0], row - np.median(row), atol=0.4)
    np.testing.assert_allclose(by_column[:, 0], column - np.median(column), atol=0.4)
    overall = np.nanmedian(grid - by_row - by_column.T)
    assert abs(overall - 100 - np.median(row) - np.median(column)) < 0.5
    assert np.isnan(residual[2, 3, 0]) and np.nanmedian(np.abs(residual)) < 0.2


def test_median_polish_agrees_with_a_plain_loop():
    grid = np.random.default_rng(1).normal(0, 1, (4, 5))
    residual = grid.copy()
    for _ in range(20):
        residual -= np.median(residual, axis=1, keepdims=True)
        residual -= np.median(residual, axis=0, keepdims=True)
    np.testing.assert_allclose(median_polish(grid[..., None])[2][..., 0], residual, atol=1e-9)


def test_position_effects_leave_the_features_and_sites_of_a_well_move_together():
    rng = np.random.default_rng(2)
    rows = [(f"{'ABCDEFGH'[r]}{c + 1:02d}", r, c, s) for r in range(8) for c in range(12) for s in (1, 2)]
    table = pd.DataFrame(rows, columns=["well", "row", "column", "site"]).assign(experiment="E", plate="1")
    table["id_code"] = "E_1_" + table["well"]
    own = rng.normal(0, 1, len(table))
    table["feature_x"], table["feature_y"] = own + 2 * table["row"] - table["column"], own
    features = table.drop(columns=["row", "column"])
    before = features.copy()
    corrected = correct_positions(features)
    pd.testing.assert_frame_equal(features, before)
    by_row = corrected.groupby(table["row"])["feature_x"].mean()
    assert by_row.std() < 0.5 < features.groupby(table["row"])["feature_x"].mean().std()
    moved = features["feature_x"] - corrected["feature_x"]
    assert moved.groupby(features["well"]).std().max() < 1e-12


def test_a_grid_has_holes_where_there_is_no_well():
    grid = plate_grid(np.array([[1.0], [2.0]]), np.array([0, 1]), np.array([2, 0]))
    assert grid.shape == (2, 3, 1) and np.isnan(grid).sum() == 4 and grid[1, 0, 0] == 2
