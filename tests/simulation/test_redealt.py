"""The re-dealt control: held-out plates with their treatments dealt anew, and nothing else changed."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from deepnoise.datasets.simulated import COMPLETION_FILE, RedealtImagesDataset, RedealtLabelsDataset
from deepnoise.ingestion.layouts import repeated_contents
from deepnoise.parameters import SimulationParameters
from deepnoise.pipelines.simulation.nodes import design_plates, render_plates
from deepnoise.simulation.design import design_screen, redeal
from deepnoise.simulation.redealt import deal_heldout, recorded_rendering, rendering_of
from deepnoise.simulation.screen import render_screen
from tests.conftest import PROJECT
from tests.simulation.test_simulation import SMALL, labels_of

BASE = yaml.safe_load((PROJECT / "conf/base/parameters_simulation.yml").read_text())["simulation"]
TINY = BASE | {
    "treatments": 8, "positive_controls": 2, "negative_wells": 2, "cell_types": 1, "labelled_experiments": 2, "heldout_experiments": 2,
    "image_size": 32, "sites": 2, "missing_wells": 0.0,
}  # fmt: skip


def treated(design):
    return design[design["well_type"] == "treatment"]


@pytest.mark.parametrize(("which", "splits"), [("none", []), ("heldout", ["test"]), ("all", ["test", "train"])])
def test_only_the_treatments_of_the_named_experiments_change_places(which, splits):
    design = design_screen(**SMALL | {"treatments": 40})
    dealt = redeal(design, which, 3)
    changed = design["sirna"] != dealt["sirna"]
    assert sorted(design.loc[changed, "split"].unique()) == splits
    assert set(design.loc[changed, "well_type"]) <= {"treatment"}
    pd.testing.assert_frame_equal(design.drop(columns="sirna"), dealt.drop(columns="sirna"))
    for _, rows in treated(design).groupby("experiment"):
        assert sorted(rows["sirna"]) == sorted(treated(dealt).loc[rows.index, "sirna"])


def test_a_deal_removes_the_plate_groups_and_follows_its_seed():
    design = design_screen(**SMALL | {"treatments": 40, "labelled_experiments": 4})
    dealt = redeal(design, "all", 3)
    assert repeated_contents(labels_of(design).assign(target=True))["plate"] == 1.0
    assert repeated_contents(labels_of(dealt).assign(target=True))["plate"] == pytest.approx(0.5, abs=0.1)
    pd.testing.assert_frame_equal(dealt, redeal(design, "all", 3))
    assert (redeal(design, "all", 4)["sirna"] != dealt["sirna"]).any()
    heldout = redeal(design, "heldout", 3)
    in_test = design["split"] == "test"
    np.testing.assert_array_equal(heldout[in_test]["sirna"].sort_index(), dealt[in_test]["sirna"].sort_index())


def test_cells_and_conditions_stay_where_the_treatment_does():
    """Controls look the same on both deals, pixel by pixel up to the noise drawn after other wells; treatments do not."""
    parameters = SimulationParameters.model_validate(
        TINY | {"biology": {"responding_cells": 1.0, "subpopulation": 0.0}}
    )
    design, _ = design_plates(parameters)
    options = rendering_of(parameters).options
    key = ("ALPHA-03", 1)
    dealt = redeal(design, "heldout", 11)
    images = [next(render_screen(d, only=[key], **options)) for d in (design, dealt)]
    assert images[0].wells == images[1].wells
    rows = design[(design["experiment"] == key[0]) & (design["plate"] == key[1])]
    same = rows["sirna"].to_numpy() == dealt.loc[rows.index, "sirna"].to_numpy()
    level = [i.tiles.astype(float).mean(axis=(1, 3, 4)) for i in images]  # (W, C)
    difference = np.abs(level[0] - level[1]).mean(axis=1)
    assert (~same).sum() >= 1 and np.median(difference[~same]) > 2 * np.median(difference[same])


def test_the_images_of_the_control_are_those_of_the_design_that_its_labels_tell():
    parameters = SimulationParameters.model_validate(TINY)
    design, _ = design_plates(parameters)
    redealt = deal_heldout(design, rendering_of(parameters))
    labels = redealt.labels().set_index("id_code")["perturbation"]
    heldout = treated(design[design["split"] == "test"])
    codes = heldout["experiment"] + "_" + heldout["plate"].astype(str) + "_" + heldout["well"]
    assert set(labels.index) == set(codes)
    assert (labels.loc[codes].to_numpy() != heldout["sirna"].astype(str).to_numpy()).mean() > 0.4
    # a design with these labels, rendered directly
    dealt = design.copy()
    dealt.loc[heldout.index, "sirna"] = labels.loc[codes].astype(int).to_numpy()
    direct = next(render_screen(dealt, only=[("ALPHA-04", 2)], **rendering_of(parameters).options))
    np.testing.assert_array_equal(redealt.read("ALPHA-04", "2"), direct.tiles.reshape(-1, *direct.tiles.shape[2:]))
    np.testing.assert_array_equal(
        redealt.read("ALPHA-04", "2", np.array([3, 1])), redealt.read("ALPHA-04", "2")[[3, 1]]
    )
    assert redealt.shape == (6, 32, 32)
    assert redealt.checksum("ALPHA-04", "2") != redealt.checksum("ALPHA-04", "1")


def test_its_sites_point_at_the_rows_of_their_wells():
    parameters = SimulationParameters.model_validate(TINY)
    design, _ = design_plates(parameters)
    redealt = deal_heldout(design, rendering_of(parameters))
    wells = design.assign(id_code=design["experiment"] + "_" + design["plate"].astype(str) + "_" + design["well"])
    sites = pd.concat([wells.assign(site=s) for s in (1, 2)]).assign(
        plate=lambda t: t["plate"].astype(str), store_row=0
    )
    sites = sites[["id_code", "experiment", "plate", "well", "site", "store_row"]].sample(frac=0.8, random_state=0)
    dealt = redealt.sites(sites)
    assert set(dealt["experiment"]) == {"ALPHA-03", "ALPHA-04"} and len(dealt) < len(sites)
    plate = dealt[(dealt["experiment"] == "ALPHA-03") & (dealt["plate"] == "1")]
    order = list(wells[(wells["experiment"] == "ALPHA-03") & (wells["plate"] == 1)]["well"])
    assert [order[row // 2] for row in plate["store_row"]] == list(plate["well"])
    assert [row % 2 + 1 for row in plate["store_row"]] == list(plate["site"])


def test_more_plates_than_are_kept_are_rendered_again():
    parameters = SimulationParameters.model_validate(TINY)
    redealt = deal_heldout(design_plates(parameters)[0], rendering_of(parameters))
    first = redealt.read("ALPHA-03", "1").copy()
    for experiment in ("ALPHA-03", "ALPHA-04"):
        for plate in "1234":
            redealt.read(experiment, plate)
    assert ("ALPHA-03", "1") not in redealt._plates and len(redealt._plates) == 4
    np.testing.assert_array_equal(redealt.read("ALPHA-03", "1"), first)


def test_any_other_screen_has_no_re_dealt_plates(tmp_path):
    images = RedealtImagesDataset(root=str(tmp_path)).load()
    sites = pd.DataFrame({"id_code": ["a"], "site": [1]})
    assert images.sites(sites).empty and images.labels().empty
    assert RedealtLabelsDataset(root=str(tmp_path)).load().empty


@pytest.fixture
def simulated(tmp_path):
    """A simulated screen on disk, as the pipeline writes it."""
    from deepnoise.datasets.simulated import SimulatedImagesDataset, SimulatedTablesDataset

    parameters = SimulationParameters.model_validate(TINY)
    design, _ = design_plates(parameters)
    SimulatedTablesDataset(root=str(tmp_path)).save(design)
    images = SimulatedImagesDataset(root=str(tmp_path))
    for record in render_plates(design, parameters):
        images.save(record)
    return tmp_path, parameters, design


def test_the_folder_of_a_screen_is_enough(simulated):
    root, parameters, design = simulated
    record = json.loads((root / COMPLETION_FILE).read_text())
    assert recorded_rendering(record["simulation"]) == rendering_of(parameters)
    from_folder, expected = RedealtImagesDataset(root=str(root)).load(), deal_heldout(design, rendering_of(parameters))
    pd.testing.assert_frame_equal(
        from_folder.labels().sort_values("id_code", ignore_index=True),
        expected.labels().sort_values("id_code", ignore_index=True),
    )
    np.testing.assert_array_equal(from_folder.read("ALPHA-03", "2"), expected.read("ALPHA-03", "2"))
    pd.testing.assert_frame_equal(RedealtLabelsDataset(root=str(root)).load(), from_folder.labels())


def test_a_record_of_another_version_is_one_clear_error(simulated):
    root, _, _ = simulated
    path = root / COMPLETION_FILE
    record = json.loads(path.read_text())
    record["simulation"]["profile"] = "wild"
    path.write_text(json.dumps(record))
    with pytest.raises(Exception, match="does not say how the screen was simulated") as error:
        RedealtImagesDataset(root=str(root)).load()
    assert "run simulation again" in str(error.value)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"simulation": TINY}))
    (root / "test_labels.csv").unlink()
    with pytest.raises(Exception, match="test_labels.csv"):
        RedealtImagesDataset(root=str(root)).load()
    del record["simulation"]  # written before screens kept it
    path.write_text(json.dumps(record))
    assert RedealtLabelsDataset(root=str(root)).load().empty
