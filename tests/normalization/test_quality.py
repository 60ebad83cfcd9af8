"""Plate QC: a planted fault raises its flag; clean plates raise next to none."""

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from deepnoise.normalization.features import measure_sites, site_table
from deepnoise.normalization.figures import (
    choose_sites,
    draw_experiments,
    draw_fields,
    draw_flagged,
    draw_normalization,
)
from deepnoise.normalization.illumination import field_table
from deepnoise.normalization.quality import MIN_CONTROLS, check_plates, control_separation, position_trends
from deepnoise.normalization.statistics import histograms
from deepnoise.simulation.design import design_screen
from deepnoise.simulation.noise import NoiseLevels
from deepnoise.simulation.screen import render_screen
from deepnoise.tables import validate_table
from deepnoise.wells import all_wells

CHANNELS = ["nucleus", "er", "actin", "rna", "mito", "golgi"]
CLEAN = NoiseLevels(position_gain=0.0, edge=0.0, density=0.05, experiment_gain=0.1, blur=0.05)


@pytest.fixture(scope="module")
def plates():
    """Wells and images of 8 plates of 48 wells, with hardly any position noise."""
    design = design_screen(
        treatments=160, positive_controls=4, negative_wells=4, cell_types=1, labelled_experiments=2, heldout_experiments=0,
        plates=4, missing_wells=0.0, duplicate_layout=False, seed=1,
    )  # fmt: skip
    rendered = render_screen(design, effect_strength=0.5, traits_changed=2, sites=1, image_size=48, noise=CLEAN, seed=1)
    images, tables = {}, []
    for plate in rendered:
        key = (plate.experiment, str(plate.plate))
        images[key] = plate.tiles[:, 0]
        rows = (
            design[(design["experiment"] == key[0]) & (design["plate"].astype(str) == key[1])]
            .set_index("well")
            .loc[plate.wells]
        )
        tables.append(
            pd.DataFrame(
                {
                    "id_code": [f"{key[0]}_{key[1]}_{w}" for w in plate.wells], "experiment": key[0], "plate": key[1],
                    "well": plate.wells, "well_type": rows["well_type"].to_numpy(), "cell_type": "ALPHA",
                }
            )
        )  # fmt: skip
    return pd.concat(tables, ignore_index=True), images


def features_of(wells, images):
    tables = []
    for (experiment, plate), plate_images in images.items():
        rows = wells[(wells["experiment"] == experiment) & (wells["plate"] == plate)].assign(site=1)
        tables.append(site_table(rows, CHANNELS, measure_sites(plate_images, histograms(plate_images))))
    return pd.concat(tables, ignore_index=True)


def check(wells, images):
    return validate_table(check_plates(features_of(wells, images), wells), "plate_qc", "test")


FIRST = ("ALPHA-01", "1")


def test_clean_plates_raise_few_flags(plates):
    table = check(*plates)
    assert len(table) == 8 * 6 and (table["flags"] != "").sum() <= 2, table.loc[table["flags"] != "", "flags"].tolist()
    assert table["row_trend"].notna().all() and table["ssmd"].notna().all()


def blur(x):
    return ndimage.gaussian_filter(x.astype(np.float32), (0, 0, 1.5, 1.5)).astype(np.uint8)


def overexpose(x):
    return np.clip(x.astype(int) * 12, 0, 255).astype(np.uint8)


def without_cells(x):
    return np.full_like(x, 10) + np.random.default_rng(0).integers(0, 3, x.shape).astype(np.uint8)


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        (blur, "blurred: focus"),
        (overexpose, "saturated: "),
        (np.zeros_like, "dead channel"),
        (without_cells, "few objects: "),
    ],
)
def test_a_fault_is_flagged_on_its_plate_with_the_reason(plates, change, flag):
    wells, images = plates
    table = check(wells, images | {FIRST: change(images[FIRST])})
    flagged = table["flags"].str.contains(flag, regex=False)
    changed = (table["experiment"] == FIRST[0]) & (table["plate"] == FIRST[1])
    assert flagged[changed].sum() >= 4 and flagged[~changed].sum() <= 1, table.loc[
        flagged, ["plate", "channel", "flags"]
    ]


def test_a_row_trend_is_flagged(plates):
    wells, images = plates
    plate_wells = wells[(wells["experiment"] == FIRST[0]) & (wells["plate"] == FIRST[1])]
    row = plate_wells["well"].str[0].map(ord).to_numpy() - 65
    tilted = np.clip(images[FIRST] * (0.5 + 0.2 * row)[:, None, None, None], 0, 255).astype(np.uint8)
    table = check(wells, images | {FIRST: tilted}).query("experiment == 'ALPHA-01' and plate == '1'")
    assert table["flags"].str.contains("row trend").sum() >= 3


def plate_wells_of(values, well_types=None):
    wells = all_wells(96)[: len(values)]
    return pd.DataFrame({"well": wells, "mean": values, "well_type": well_types or ["treatment"] * len(values)})


def test_an_edge_effect_is_measured_in_standard_deviations_of_the_inner_wells():
    wells = all_wells(96)
    outer = np.array([w[0] in "AH" or w[1:] in ("01", "12") for w in wells])
    values = np.random.default_rng(0).normal(100, 2, 96) + 10 * outer
    trends = position_trends(plate_wells_of(values))
    assert trends["edge_effect"] == pytest.approx(5, rel=0.35)
    assert all(np.isnan(v) for v in position_trends(plate_wells_of(values[:10])).values())


def test_control_separation_agrees_with_its_formulas():
    positive, negative = np.array([10.0, 12, 14]), np.array([3.0, 4, 5])
    well_types = ["positive_control"] * 3 + ["negative_control"] * 3
    separation = control_separation(plate_wells_of([*positive, *negative], well_types))
    assert separation["z_prime"] == pytest.approx(1 - 3 * (2 + 1) / 8)
    assert separation["ssmd"] == pytest.approx(8 / np.sqrt(5))
    few = plate_wells_of([1.0, 2, 3], ["positive_control"] * (MIN_CONTROLS - 1) + ["negative_control"])
    assert all(np.isnan(v) for v in control_separation(few).values())


def test_a_plate_with_missing_wells_is_flagged_with_their_number(plates):
    wells, images = plates
    mask = (wells["experiment"] == FIRST[0]) & (wells["plate"] == FIRST[1])
    keep = ~(mask & wells["id_code"].isin(wells.loc[mask, "id_code"].head(3)))
    table = check(wells[keep], images | {FIRST: images[FIRST][3:]})
    short_plate = table.query("experiment == 'ALPHA-01' and plate == '1'")
    assert short_plate["flags"].str.contains("3 wells fewer than the median plate").all()


def test_heat_maps_have_the_geometry_of_the_plate(plates):
    features = features_of(*plates)
    table = check_plates(features, plates[0])
    figure = draw_flagged(features, table)
    assert len(figure.data) == 8 * 6  # 8 plates, 6 channels of 96 wells
    first = figure.data[0]
    colours, values = (np.array(grid, float) for grid in (first.z, first.customdata))
    assert colours.shape == values.shape == (8, 12) and list(first.y) == list("ABCDEFGH") and first.x[11] == "12"
    experiment, plate = figure.layout.annotations[0].text.split(" / ")
    nuclei = features[
        (features["experiment"] == experiment) & (features["plate"] == plate) & (features["channel"] == "nucleus")
    ]
    well_means = nuclei.groupby("well")["mean"].mean()
    well = nuclei["well"].iloc[0]
    assert values[ord(well[0]) - 65, int(well[1:]) - 1] == pytest.approx(well_means[well], abs=0.05)
    assert np.isnan(colours).sum() == 48 and np.nanmin(colours) >= 0 and np.nanmax(colours) <= 1
    assert [trace.visible for trace in figure.data[::8]] == [True] + [False] * 5
    assert set(draw_experiments(features, table)) == {"ALPHA-01.png", "ALPHA-02.png"}


def test_fields_are_drawn_or_replaced_by_a_note():
    table = field_table(np.ones((2, 4, 4)), "E", "1", ["a", "b"])
    note = draw_fields(table.head(0), ["a", "b"])
    drawn = draw_fields(table, ["a", "b"])
    assert drawn.mode == note.mode == "RGB" and drawn.size[1] > note.size[1] > 50


def test_sites_are_drawn_raw_and_normalized(screen, wells):
    store, sites, statistics = screen
    tile_sites = choose_sites(sites, wells, 3)
    assert len(tile_sites) == 3 and tile_sites["experiment"].nunique() == 3
    perturbations = tile_sites["id_code"].map(wells.set_index("id_code")["perturbation"])
    assert perturbations.nunique() == 1  # one perturbation, so that differences are technical
    sheet = np.asarray(draw_normalization(store, tile_sites, statistics), float)
    assert sheet.shape[2] == 3 and sheet.std() > 10
    dark = statistics.assign(scale=1e9)
    assert np.asarray(draw_normalization(store, tile_sites, dark), float).mean() < sheet.mean() + 60
    assert not np.array_equal(np.asarray(draw_normalization(store, tile_sites, dark)), sheet)


def test_sites_of_unlabelled_wells_can_be_chosen(screen, wells):
    _, sites, _ = screen
    assert len(choose_sites(sites, wells.assign(perturbation=None), 2)) == 2
