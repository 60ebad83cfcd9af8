"""Illumination and position: planted effects are recovered, and clean plates are left as they are."""

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


def planted_field(size):
    axis = np.linspace(-1, 1, size)
    field = 1 - 0.3 * ((axis[:, None] - 0.3) ** 2 + axis[None] ** 2) / 2
    return field / field.mean()


def cells(sites, size, field, seed=0, dtype=np.uint16, brightness=20_000):
    """Sites of random bright discs under the same illumination."""
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
    row_edges, column_edges = (np.linspace(0, n, GRID + 1).round().astype(int) for n in (37, 50))
    for i, j in np.ndindex(GRID, GRID):
        block = images[1, 0, row_edges[i] : row_edges[i + 1], column_edges[j] : column_edges[j + 1]]
        assert blocks[1, 0, i, j] == pytest.approx(block.mean(), rel=1e-6)
    assert block_means(images[..., :9, :9]).shape == (2, 1, 9, 9)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_planted_field_is_estimated_and_removed(seed):
    field = planted_field(128)
    images = cells(300, 128, field, seed)
    estimate = full_field(estimate_field(block_means(images)), 128, 128)[0]
    assert np.abs(estimate / field - 1).mean() < 0.015 and np.corrcoef(estimate.ravel(), field.ravel())[0, 1] > 0.98
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
def test_evenly_lit_images_are_hardly_changed(sites):
    """Where cells happen to be is not mistaken for illumination."""
    deviations = [
        np.abs(estimate_field(block_means(cells(sites, 64, np.ones((64, 64)), s))) - 1).max() for s in range(6)
    ]
    assert np.median(deviations) == 0 and max(deviations) < 0.25


def test_too_few_sites_or_a_dark_channel_keep_a_flat_field():
    images = cells(MIN_SITES - 1, 32, planted_field(32))
    assert (estimate_field(block_means(images)) == 1).all()
    assert (estimate_field(np.zeros((MIN_SITES, 1, 4, 4), np.float32)) == 1).all()


def test_fields_are_restored_from_their_table_and_interpolated_between_block_centres():
    field = 1 + 0.1 * np.arange(2 * 3 * 4).reshape(2, 3, 4)
    table = field_table(field, "E", "1", ["a", "b"])
    np.testing.assert_array_equal(field_of(table.sample(frac=1, random_state=0), ["a", "b"]), field)
    ramp = np.tile(np.arange(4.0) + 1, (1, 4, 1))
    full = full_field(ramp, 16, 16)[0]
    steps = np.diff(full[0])[2:13]
    np.testing.assert_allclose(steps, steps[0], rtol=1e-4)
    assert full.mean() == pytest.approx(1, abs=1e-6)
    assert (full_field(np.ones((2, 1, 1)), 5, 7) == 1).all()


def test_corrected_images_keep_their_dtype_and_a_plate_without_a_field_is_refused():
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


def test_the_corrected_store_has_the_shape_and_channels_of_the_wrapped_store():
    class ShapedStore(MemoryStore):
        shape = (1, 8, 6)

    store = ShapedStore({("E", "1"): np.zeros((2, 1, 8, 6), np.uint8)}, ["c"])
    corrected = corrected_store(store, field_table(np.ones((1, 2, 2)), "E", "1", ["c"]))
    assert isinstance(corrected, FlatFieldStore)
    assert corrected.shape == store.shape == corrected.read("E", "1").shape[1:] and corrected.channels == ["c"]


def test_median_polish_recovers_planted_effects_despite_outliers():
    rng = np.random.default_rng(0)
    row, column = rng.normal(0, 3, 8), rng.normal(0, 3, 12)
    grid = 100 + row[:, None] + column[None] + rng.normal(0, 0.1, (8, 12))
    grid[rng.random((8, 12)) < 0.1] += 50
    grid[2, 3] = np.nan
    before = grid.copy()
    row_effect, column_effect, residual = median_polish(grid[..., None])
    np.testing.assert_array_equal(grid, before)
    np.testing.assert_allclose(row_effect[:, 0], row - np.median(row), atol=0.4)
    np.testing.assert_allclose(column_effect[:, 0], column - np.median(column), atol=0.4)
    overall = np.nanmedian(grid - row_effect - column_effect.T)
    assert abs(overall - 100 - np.median(row) - np.median(column)) < 0.5
    assert np.isnan(residual[2, 3, 0]) and np.nanmedian(np.abs(residual)) < 0.2


def test_median_polish_agrees_with_a_plain_loop():
    grid = np.random.default_rng(1).normal(0, 1, (4, 5))
    residual = grid.copy()
    for _ in range(20):
        residual -= np.median(residual, axis=1, keepdims=True)
        residual -= np.median(residual, axis=0, keepdims=True)
    np.testing.assert_allclose(median_polish(grid[..., None])[2][..., 0], residual, atol=1e-9)


def test_position_effects_are_removed_and_all_sites_of_a_well_shift_together():
    rng = np.random.default_rng(2)
    rows = [(f"{'ABCDEFGH'[r]}{c + 1:02d}", r, c, s) for r in range(8) for c in range(12) for s in (1, 2)]
    table = pd.DataFrame(rows, columns=["well", "row", "column", "site"]).assign(experiment="E", plate="1")
    table["id_code"] = "E_1_" + table["well"]
    signal = rng.normal(0, 1, len(table))
    table["feature_x"], table["feature_y"] = signal + 2 * table["row"] - table["column"], signal
    features = table.drop(columns=["row", "column"])
    before = features.copy()
    corrected = correct_positions(features)
    pd.testing.assert_frame_equal(features, before)
    row_means = corrected.groupby(table["row"])["feature_x"].mean()
    assert row_means.std() < 0.5 < features.groupby(table["row"])["feature_x"].mean().std()
    shift = features["feature_x"] - corrected["feature_x"]
    assert shift.groupby(features["well"]).std().max() < 1e-12


def test_a_grid_is_nan_where_there_is_no_well():
    grid = plate_grid(np.array([[1.0], [2.0]]), np.array([0, 1]), np.array([2, 0]))
    assert grid.shape == (2, 3, 1) and np.isnan(grid).sum() == 4 and grid[1, 0, 0] == 2
