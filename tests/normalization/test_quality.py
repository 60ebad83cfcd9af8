"""Plate QC: a planted fault raises its flag, a clean plate raises none."""

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
    """Wells, and the images of 8 plates of 48 wells with next to no noise of position."""
    design = design_screen(
        treatments=160, positive_controls=4, negative_wells=4, cell_types=1, labelled_experiments=2, heldout_experiments=0,
        plates=4, missing_wells=0.0, duplicate_layout=False, seed=1,
    )  # fmt: skip
    rendered = render_screen(design, effect_strength=0.5, traits_changed=2, sites=1, image_size=48, noise=CLEAN, seed=1)
    images, parts = {}, []
    for plate in rendered:
        key = (plate.experiment, str(plate.plate))
        images[key] = plate.tiles[:, 0]
        rows = (
            design[(design["experiment"] == key[0]) & (design["plate"].astype(str) == key[1])]
            .set_index("well")
            .loc[plate.wells]
        )
        parts.append(
            pd.DataFrame(
                {
                    "id_code": [f"{key[0]}_{key[1]}_{w}" for w in plate.wells], "experiment": key[0], "plate": key[1],
                    "well": plate.wells, "well_type": rows["well_type"].to_numpy(), "cell_type": "ALPHA",
                }
            )
        )  # fmt: skip
    return pd.concat(parts, ignore_index=True), images


def features_of(wells, images):
    parts = []
    for (experiment, plate), own in images.items():
        rows = wells[(wells["experiment"] == experiment) & (wells["plate"] == plate)].assign(site=1)
        parts.append(site_table(rows, CHANNELS, measure_sites(own, histograms(own))))
    return pd.concat(parts, ignore_index=True)


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
def test_a_fault_of_one_plate_is_flagged_there_with_its_reason(plates, change, flag):
    wells, images = plates
    table = check(wells, images | {FIRST: change(images[FIRST])})
    hit = table["flags"].str.contains(flag, regex=False)
    where = (table["experiment"] == FIRST[0]) & (table["plate"] == FIRST[1])
    assert hit[where].sum() >= 4 and hit[~where].sum() <= 1, table.loc[hit, ["plate", "channel", "flags"]]


def test_trends_and_edges_are_flagged(plates):
    wells, images = plates
    own = wells[(wells["experiment"] == FIRST[0]) & (wells["plate"] == FIRST[1])]
    row = own["well"].str[0].map(ord).to_numpy() - 65
    tilted = np.clip(images[FIRST] * (0.5 + 0.2 * row)[:, None, None, None], 0, 255).astype(np.uint8)
    table = check(wells, images | {FIRST: tilted}).query("experiment == 'ALPHA-01' and plate == '1'")
    assert table["flags"].str.contains("row trend").sum() >= 3


def of_well(values, kinds=None, wells=None):
    wells = wells or all_wells(96)[: len(values)]
    return pd.DataFrame({"well": wells, "mean": values, "well_type": kinds or ["treatment"] * len(values)})


def test_an_edge_effect_is_measured_in_standard_deviations_of_the_inner_wells():
    wells = all_wells(96)
    outer = np.array([w[0] in "AH" or w[1:] in ("01", "12") for w in wells])
    values = np.random.default_rng(0).normal(100, 2, 96) + 10 * outer
    found = position_trends(of_well(values))
    assert found["edge_effect"] == pytest.approx(5, rel=0.35)
    assert all(np.isnan(v) for v in position_trends(of_well(values[:10])).values())


def test_control_separation_follows_its_formulas():
    positive, negative = np.array([10.0, 12, 14]), np.array([3.0, 4, 5])
    found = control_separation(of_well([*positive, *negative], ["positive_control"] * 3 + ["negative_control"] * 3))
    assert found["z_prime"] == pytest.approx(1 - 3 * (2 + 1) / 8)
    assert found["ssmd"] == pytest.approx(8 / np.sqrt(5))
    few = of_well([1.0, 2, 3], ["positive_control"] * (MIN_CONTROLS - 1) + ["negative_control"])
    assert all(np.isnan(v) for v in control_separation(few).values())


def test_a_short_plate_says_how_many_wells_it_lacks(plates):
    wells, images = plates
    mask = (wells["experiment"] == FIRST[0]) & (wells["plate"] == FIRST[1])
    keep = ~(mask & wells["id_code"].isin(wells.loc[mask, "id_code"].head(3)))
    table = check(wells[keep], images | {FIRST: images[FIRST][3:]})
    own = table.query("experiment == 'ALPHA-01' and plate == '1'")
    assert own["flags"].str.contains("3 wells fewer than the median plate").all()


def test_heat_maps_are_drawn_in_the_geometry_of_the_plate(plates):
    features = features_of(*plates)
    table = check_plates(features, plates[0])
    figure = draw_flagged(features, table)
    assert len(figure.data) == 8 * 6  # 8 plates, 6 channels of 96 wells
    first = figure.data[0]
    shown, values = (np.array(grid, float) for grid in (first.z, first.customdata))
    assert shown.shape == values.shape == (8, 12) and list(first.y) == list("ABCDEFGH") and first.x[11] == "12"
    experiment, plate = figure.layout.annotations[0].text.split(" / ")
    own = features[
        (features["experiment"] == experiment) & (features["plate"] == plate) & (features["channel"] == "nucleus")
    ]
    place = own.groupby("well")["mean"].mean()
    well = own["well"].iloc[0]
    assert values[ord(well[0]) - 65, int(well[1:]) - 1] == pytest.approx(place[well], abs=0.05)
    assert np.isnan(shown).sum() == 48 and np.nanmin(shown) >= 0 and np.nanmax(shown) <= 1
    assert [trace.visible for trace in figure.data[::8]] == [True] + [False] * 5
    assert set(draw_experiments(features, table)) == {"ALPHA-01.png", "ALPHA-02.png"}


def test_fields_are_drawn_and_their_absence_is_told():
    table = field_table(np.ones((2, 4, 4)), "E", "1", ["a", "b"])
    small = draw_fields(table.head(0), ["a", "b"])
    drawn = draw_fields(table, ["a", "b"])
    assert drawn.mode == small.mode == "RGB" and drawn.size[1] > small.size[1] > 50


def test_a_site_is_shown_as_photographed_and_as_the_network_sees_it(screen, wells):
    store, sites, statistics = screen
    chosen = choose_sites(sites, wells, 3)
    assert len(chosen) == 3 and chosen["experiment"].nunique() == 3
    named = chosen["id_code"].map(wells.set_index("id_code")["perturbation"])
    assert named.nunique() == 1  # one perturbation, so that what differs is technical
    sheet = np.asarray(draw_normalization(store, chosen, statistics), float)
    assert sheet.shape[2] == 3 and sheet.std() > 10
    dark = statistics.assign(scale=1e9)
    assert np.asarray(draw_normalization(store, chosen, dark), float).mean() < sheet.mean() + 60
    assert not np.array_equal(np.asarray(draw_normalization(store, chosen, dark)), sheet)


def test_sites_of_unlabelled_wells_can_be_shown_too(screen, wells):
    _, sites, _ = screen
    assert len(choose_sites(sites, wells.assign(perturbation=None), 2)) == 2
