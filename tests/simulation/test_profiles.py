"""Each dial of the profiles does what it says, and nothing else; earlier profiles give the images they always gave."""

from dataclasses import fields, replace

import numpy as np
import pytest

from deepnoise.simulation.biology import FAMILY_SIZE, Biology, apply_biology, draw_effects
from deepnoise.simulation.cells import CHANNELS, INDEX, TRAITS, CellShift, render_cells
from deepnoise.simulation.design import design_screen
from deepnoise.simulation.noise import NoiseLevels, draw_conditions
from deepnoise.simulation.profiles import ADDITIVE, DEFAULT, PROFILES
from deepnoise.simulation.screen import _effects_in_experiment, _limited, _time_of_imaging, draw_biology, render_screen
from tests.simulation.test_simulation import SMALL

BEFORE = {
    "additive": ([13.718, 15.111, 18.592, 13.748, 15.300, 14.018], [21.211, 20.072, 21.640, 12.257, 23.107, 16.175]),
    "adversarial": ([13.100, 16.438, 23.234, 15.746, 17.185, 15.325], [18.589, 21.172, 29.802, 14.328, 24.114, 18.589]),
}
"""Mean and standard deviation of each channel as version 78560c0 rendered them, before the profile ``default`` was another."""


def pixels(design=None, profile=ADDITIVE, **options):
    design = design_screen(**SMALL) if design is None else design
    options = dict(effect_strength=1.4, traits_changed=5, sites=1, image_size=32, seed=5) | options
    plates = render_screen(design, noise=profile.noise, biology=profile.biology, **options)
    return np.concatenate([plate.tiles for plate in plates])


@pytest.mark.parametrize("name", BEFORE)
def test_earlier_profiles_give_the_same_images(name):
    images = pixels(profile=PROFILES[name]).astype(float)
    mean, std = BEFORE[name]
    np.testing.assert_allclose(images.mean(axis=(0, 1, 3, 4)), mean, atol=6e-4)
    np.testing.assert_allclose(images.std(axis=(0, 1, 3, 4)), std, atol=6e-4)


NEUTRAL = ADDITIVE.biology, ADDITIVE.noise
DIALS = [
    (part, field.name)
    for part, neutral, default in (("biology", NEUTRAL[0], DEFAULT.biology), ("noise", NEUTRAL[1], DEFAULT.noise))
    for field in fields(neutral)
    if getattr(neutral, field.name) != getattr(default, field.name)
]


@pytest.mark.parametrize(("part", "dial"), DIALS, ids=[dial for _, dial in DIALS])
def test_each_dial_changes_the_images(part, dial):
    strong = {"family_similarity": 0.1, "dead_wells": 0.5, "out_of_focus": 0.5, "debris": 0.5}
    strong |= {"look_alikes": 0.9, "inactive": 0.5}
    # a dial that acts on another one is tried with that one on
    base = {"family_similarity": replace(ADDITIVE, biology=Biology(look_alikes=0.9))}.get(dial, ADDITIVE)
    value = strong.get(dial, getattr(getattr(DEFAULT, part), dial))
    changed = replace(base, **{part: replace(getattr(base, part), **{dial: value})})
    assert (pixels(profile=changed) != pixels(profile=base)).mean() > 0.02


def effects_of(biology, treatments=60, similarity_seed=0):
    rng = np.random.default_rng(1)
    shift = draw_effects(treatments + 5, 2, 1.0, 5, rng)
    return shift, apply_biology(shift, treatments, biology, np.random.default_rng(similarity_seed))


def test_inactive_treatments_do_nothing_and_controls_stay_active():
    shift, effects = effects_of(Biology(inactive=0.25))
    silent = (effects.shift == 0).all(axis=(0, 2))
    assert silent[:60].sum() == 15 and not silent[60:64].any() and silent[64]  # the last is untreated
    np.testing.assert_array_equal(silent, ~effects.active)
    np.testing.assert_array_equal(effects.shift[:, ~silent], shift[:, ~silent])


@pytest.mark.parametrize("similarity", [0.0, 0.8, 1.0])
def test_look_alikes_are_as_similar_as_asked_and_keep_their_size(similarity):
    shift, effects = effects_of(Biology(look_alikes=0.9, family_similarity=similarity))
    members = [np.flatnonzero(effects.family == f) for f in range(effects.family.max() + 1)]
    assert len(members) == 18 and {len(m) for m in members} == {FAMILY_SIZE}
    cosine = []
    for family in members:
        direction = effects.shift[0, family] / np.linalg.norm(effects.shift[0, family], axis=1, keepdims=True)
        cosine += [float(direction[0] @ direction[1]), float(direction[0] @ direction[2])]
    # the members' own directions share a few traits by chance
    assert np.mean(cosine) == pytest.approx(np.sqrt(similarity), abs=0.12)
    np.testing.assert_allclose(np.linalg.norm(effects.shift, axis=2), np.linalg.norm(shift, axis=2))


def test_the_share_of_responding_cells_differs_between_perturbations():
    _, effects = effects_of(Biology(responding_cells=0.7), treatments=400)
    assert effects.responding.mean() == pytest.approx(0.7, abs=0.03) and effects.responding.std() > 0.1
    assert effects.responding.min() > 0 and effects.responding.max() < 1
    assert (effects_of(Biology())[1].responding == 1).all()


def test_only_the_responding_share_of_cells_is_shifted():
    traits = np.zeros((40, len(TRAITS)))
    strong = traits.copy()
    strong[:, INDEX["mito_amount"]] = 3
    mito = CHANNELS.index("mito")

    def brightness(share):
        shift = CellShift(strong, np.full(40, share))
        return render_cells(traits, np.ones(40), 64, np.random.default_rng(0), [shift])[:, mito].mean()

    none, half, all_cells = (brightness(share) for share in (0.0, 0.5, 1.0))
    assert none < 0.8 * half and half < 0.85 * all_cells
    assert half == pytest.approx((none + all_cells) / 2, rel=0.15)


def test_an_experiment_turns_and_scales_effects():
    shift = draw_effects(300, 1, 1.0, 5, np.random.default_rng(0))[0]
    quiet = NoiseLevels()
    np.testing.assert_array_equal(_effects_in_experiment(shift, quiet, np.random.default_rng(1)), shift)
    turned = _effects_in_experiment(shift, replace(quiet, effect_direction=0.5), np.random.default_rng(1))
    size = np.linalg.norm(shift, axis=1)
    moved = np.linalg.norm(turned - shift, axis=1)
    assert np.median(moved[:-1] / size[:-1]) == pytest.approx(0.5, abs=0.05)
    assert (turned[-1] == 0).all()  # untreated cells have no effect to turn
    scaled = _effects_in_experiment(shift, replace(quiet, trait_response=0.5), np.random.default_rng(1))
    factors = np.array(
        [np.unique(np.round(scaled[shift[:, t] != 0, t] / shift[shift[:, t] != 0, t], 9)) for t in range(len(TRAITS))]
    )
    assert factors.shape == (len(TRAITS), 1)  # one factor per trait, for all perturbations
    assert np.log(factors).std() == pytest.approx(0.5, abs=0.15)


def test_traits_approach_their_limit():
    traits = np.linspace(-20, 20, 9)
    limited = _limited(traits, 4.0)
    assert np.abs(limited).max() < 4.0 + 1e-12 and (np.diff(limited) >= 0).all()
    np.testing.assert_allclose(_limited(np.array([0.1, -0.1]), 4.0), [0.1, -0.1], rtol=1e-3)


def test_wells_are_imaged_row_by_row_in_alternating_directions():
    position = np.array([[0, 0], [0, 3], [1, 3], [1, 0], [2, 0], [2, 3]])
    time = _time_of_imaging(position, (3, 4))
    assert (np.diff(time) > 0).all() and time[0] == -0.5 and time[-1] == 0.5


def test_gains_of_channels_correlate_as_asked():
    rng = np.random.default_rng(0)
    for correlation in (0.0, 0.6):
        levels = NoiseLevels(gain_correlation=correlation, plate_gain=0.0, experiment_gain=0.4)
        gains = [np.log(draw_conditions(levels, 1, 8, 6, rng)[0][1].gain) for _ in range(800)]
        pairs = np.corrcoef(np.array(gains).T)[np.triu_indices(6, 1)]
        assert pairs.mean() == pytest.approx(correlation, abs=0.06)
        assert np.array(gains).std() == pytest.approx(0.4, abs=0.02)


def test_the_background_follows_the_gain_where_asked():
    quiet = replace(NoiseLevels(), experiment_offset=0.0, plate_offset=0.0)
    rng = np.random.default_rng(0)
    for _, optics in draw_conditions(replace(quiet, background=1.0), 3, 8, 6, rng):
        np.testing.assert_allclose(optics.offset, np.minimum(6 * optics.gain, 40))
    assert {o for _, optics in draw_conditions(quiet, 3, 8, 6, rng) for o in optics.offset} == {6.0}


def test_dead_wells_have_fewer_cells():
    alive, dead = (
        pixels(profile=replace(ADDITIVE, noise=replace(ADDITIVE.noise, dead_wells=p)), image_size=64)
        for p in (0.0, 1.0)
    )
    nucleus = CHANNELS.index("nucleus")
    assert (dead[:, :, nucleus] > 40).mean() < 0.4 * (alive[:, :, nucleus] > 40).mean()


def test_a_site_out_of_focus_is_less_sharp_and_debris_is_bright():
    def sharpness(images):
        return np.abs(np.diff(images.astype(float), axis=-1)).mean()

    noise = replace(ADDITIVE.noise, sensor=0.0)
    plain = pixels(profile=replace(ADDITIVE, noise=noise))
    blurred = pixels(profile=replace(ADDITIVE, noise=replace(noise, out_of_focus=1.0)))
    assert sharpness(blurred) < 0.7 * sharpness(plain)
    dirty = pixels(profile=replace(ADDITIVE, noise=replace(noise, debris=1.0)))
    assert (dirty.astype(int) - plain).mean() > 1 and (dirty >= plain).mean() > 0.99


def test_a_fixed_layout_keeps_every_perturbation_in_its_well():
    options = SMALL | {"treatments": 40, "labelled_experiments": 3}

    def most_wells(fixed):
        treated = design_screen(**options, fixed_layout=fixed).query("well_type == 'treatment'")
        return treated.groupby("sirna")["well"].nunique().max(), treated

    assert most_wells(True)[0] == 1 and most_wells(False)[0] > 3
    plates = most_wells(True)[1].groupby("sirna")["plate"].nunique()
    assert plates.max() > 1  # the plates still change their order


def test_the_biology_of_a_screen_is_that_of_its_images():
    """The truth that a study reads: perturbations said to be inactive look like untreated wells."""
    design = design_screen(**SMALL | {"treatments": 16, "labelled_experiments": 6})
    biology = Biology(inactive=0.5)
    effects = draw_biology(design, 6.0, 8, biology, 5)
    assert effects.active[:16].sum() == 8
    quiet = replace(
        ADDITIVE, noise=NoiseLevels(**dict.fromkeys(NoiseLevels.__dataclass_fields__, 0.0)), biology=biology
    )
    images = pixels(design, quiet, effect_strength=6.0, traits_changed=8).astype(float).mean(axis=(1, 3, 4))
    by_cell_type = design["cell_type"].to_numpy()
    sirna, distance = design["sirna"].to_numpy(), np.full(16, np.inf)
    for perturbation in range(16):
        gaps = [
            np.abs(images[(sirna == perturbation) & (by_cell_type == c)].mean(axis=0) - images[(sirna == sirna.max()) & (by_cell_type == c)].mean(axis=0)).max()
            for c in np.unique(by_cell_type)
        ]  # fmt: skip
        distance[perturbation] = np.mean(gaps)
    assert np.median(distance[effects.active[:16]]) > 3 * np.median(distance[~effects.active[:16]])
