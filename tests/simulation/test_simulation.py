"""The simulated screen: its design, its images and the strengths of its noise."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml

from deepnoise.errors import InputError
from deepnoise.ingestion.layouts import duplicate_layouts
from deepnoise.simulation.biology import draw_effects
from deepnoise.simulation.cells import CHANNELS, INDEX, TRAITS, render_cells
from deepnoise.simulation.design import design_screen
from deepnoise.simulation.noise import NoiseLevels
from deepnoise.simulation.profiles import ADVERSARIAL
from deepnoise.simulation.redealt import rendering_of
from deepnoise.simulation.screen import render_screen
from tests.conftest import PROJECT

SMALL = dict(
    treatments=8, positive_controls=2, negative_wells=3, cell_types=2, labelled_experiments=2, heldout_experiments=1,
    plates=4, missing_wells=0.0, duplicate_layout=False, seed=1,
)  # fmt: skip


def test_every_treatment_is_once_in_an_experiment_and_controls_are_on_every_plate():
    table = design_screen(**SMALL)
    treated = table[table["well_type"] == "treatment"]
    assert (treated.groupby(["experiment", "sirna"]).size() == 1).all()
    assert treated.groupby("experiment")["sirna"].nunique().eq(8).all()
    per_plate = table.groupby(["experiment", "plate", "well_type"]).size().unstack()
    assert (per_plate["positive_control"] == 2).all() and (per_plate["negative_control"] == 3).all()
    assert not table.duplicated(["experiment", "plate", "well"]).any()
    assert (table[table["well"] == "B02"]["well_type"] == "negative_control").all()
    assert table.groupby("split")["experiment"].nunique().to_dict() == {"test": 2, "train": 4}


def test_perturbations_of_a_plate_group_stay_together():
    treated = design_screen(**SMALL).query("well_type == 'treatment'")
    members = treated.groupby(["experiment", "plate"])["sirna"].agg(frozenset)
    assert len(set(members)) == 4


def labels_of(table):
    return table[table["well_type"] == "treatment"].assign(perturbation=table["sirna"].astype(str))


def controls_of(table):
    return table[table["well_type"] == "positive_control"].assign(perturbation=table["sirna"].astype(str))


def test_duplicate_layout_gives_one_pair_of_experiments_the_same_layout():
    table = design_screen(**SMALL | {"duplicate_layout": True})
    assert duplicate_layouts(labels_of(table)) == [{"experiments": ["ALPHA-01", "BETA-02"], "wells": 8}]
    assert duplicate_layouts(controls_of(table)) == [{"experiments": ["ALPHA-01", "BETA-02"], "wells": 8}]
    plain = design_screen(**SMALL)
    assert duplicate_layouts(labels_of(plain)) == [] == duplicate_layouts(controls_of(plain))


def test_missing_wells_are_missing_at_the_stated_rate():
    few = design_screen(**SMALL | {"missing_wells": 0.3, "treatments": 40})
    lost = 1 - few["well_type"].eq("treatment").sum() / (40 * 6)
    assert 0.2 < lost < 0.4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"treatments": 9}, "treatments is 9"),
        ({"cell_types": 7}, "cell_types is 7"),
        ({"treatments": 40000}, "but at most 1536 fit"),
    ],
)
def test_an_impossible_design_says_why(change, message):
    with pytest.raises(InputError, match=message):
        design_screen(**SMALL | change)


def screen_pixels(seed=5):
    plates = list(
        render_screen(
            design_screen(**SMALL),
            effect_strength=1.0,
            traits_changed=4,
            sites=2,
            image_size=32,
            noise=NoiseLevels(),
            seed=seed,
        )
    )
    return plates, np.concatenate([plate.tiles for plate in plates])


def test_the_same_seed_gives_the_same_pixels_and_another_seed_does_not():
    plates, pixels = screen_pixels()
    assert pixels.shape == (len(design_screen(**SMALL)), 2, 6, 32, 32) and pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, screen_pixels()[1])
    assert (pixels != screen_pixels(seed=6)[1]).mean() > 0.3
    assert len(plates) == 24


def test_a_plate_does_not_depend_on_the_plates_before_it():
    design = design_screen(**SMALL)
    options = dict(effect_strength=1.0, traits_changed=4, sites=1, image_size=32, noise=NoiseLevels(), seed=5)
    all_plates = {(p.experiment, p.plate): p.tiles for p in render_screen(design, **options)}
    one_plate_less = design[~((design["experiment"] == "ALPHA-01") & (design["plate"] == 1))]
    rest = {(p.experiment, p.plate): p.tiles for p in render_screen(one_plate_less, **options)}
    np.testing.assert_array_equal(all_plates[("BETA-01", 2)], rest[("BETA-01", 2)])


def test_experiment_gains_spread_as_the_noise_level_says():
    quiet = dict.fromkeys(NoiseLevels.__dataclass_fields__, 0.0)
    design = design_screen(**SMALL | {"labelled_experiments": 30, "cell_types": 1, "plates": 1, "treatments": 2})
    noise = NoiseLevels(**quiet | {"experiment_gain": 0.4})
    plates = render_screen(design, effect_strength=0.0, traits_changed=1, sites=4, image_size=64, noise=noise, seed=2)
    level = np.log(
        [p.tiles.astype(float).mean(axis=(0, 1, 3, 4)) - 6 for p in plates]
    )  # (experiments, C); 6 is the offset
    assert 0.3 < level.std(axis=0).mean() < 0.5


def test_traits_change_their_own_channel():
    rng = np.random.default_rng
    traits = np.zeros((12, len(TRAITS)))
    strong = traits.copy()
    strong[:, INDEX["mito_amount"]] = 3
    plain = render_cells(traits, np.ones(12), 64, rng(0)).mean(axis=(0, 2, 3))
    ratio = render_cells(strong, np.ones(12), 64, rng(0)).mean(axis=(0, 2, 3)) / plain
    mito = CHANNELS.index("mito")
    assert ratio[mito] > 1.4
    np.testing.assert_allclose(np.delete(ratio, mito), 1, rtol=1e-5)


def test_effects_are_sparse_and_the_untreated_control_has_none():
    effects = draw_effects(201, 3, 1.0, 5, np.random.default_rng(0))
    assert (effects[:, -1] == 0).all()
    changed = (effects[0, :-1] != 0).sum(axis=1)
    assert changed.min() >= 1 and 4 < changed.mean() < 6
    shared = np.corrcoef(effects[0].ravel(), effects[1].ravel())[0, 1]
    assert 0.75 < shared < 0.98


def test_the_adversarial_profile_is_noisier_where_plate_normalization_cannot_help():
    for dial in ("penetrance", "experiment_trait_shift", "plate_trait_shift", "density_interaction", "blur"):
        assert getattr(ADVERSARIAL.noise, dial) > getattr(NoiseLevels(), dial)


def test_single_noise_levels_override_a_profile():
    from deepnoise.parameters import SimulationParameters

    text = (PROJECT / "conf" / "base" / "parameters_simulation.yml").read_text()
    parameters = yaml.safe_load(text)["simulation"] | {"profile": "adversarial", "noise": {"blur": 0.8}}
    parameters["biology"] = {"inactive": 0.5}
    rendering = rendering_of(SimulationParameters.model_validate(parameters))
    assert rendering.noise == replace(ADVERSARIAL.noise, blur=0.8)
    assert rendering.biology == replace(ADVERSARIAL.biology, inactive=0.5)


def test_rendering_does_not_change_the_design_table():
    design = design_screen(**SMALL)
    before = design.copy()
    next(
        render_screen(
            design, effect_strength=1.0, traits_changed=4, sites=1, image_size=32, noise=NoiseLevels(), seed=5
        )
    )
    pd.testing.assert_frame_equal(design, before)
