"""The baselines: what z-scores do, what each baseline may know, and that held-out labels reach none of them."""

import numpy as np
import pandas as pd
import pytest

from deepnoise.normalization.features import z_score
from deepnoise.tables import BASELINES, validate_table
from deepnoise.training.baseline import score_hand_features

PLATE = ["experiment", "plate"]


@pytest.fixture(scope="module")
def features(wells):
    """Two sites per well: a feature of the perturbation, one of the plate, and a constant."""
    rng = np.random.default_rng(0)
    table = pd.concat([wells.assign(site=s) for s in (1, 2)], ignore_index=True)
    effect = dict(zip(sorted(wells["perturbation"].dropna().unique()), rng.normal(0, 1, 40), strict=False))
    effect_of_well = table["perturbation"].map(effect).fillna(0.3)
    plate = table.groupby(PLATE).ngroup().map(dict(enumerate(rng.normal(0, 30, 200))))
    return table[["id_code", "experiment", "plate", "well", "site"]].assign(
        feature_a=effect_of_well + plate + rng.normal(0, 0.05, len(table)),
        feature_b=2 * effect_of_well + plate,
        feature_c=7.0,
    )


def test_a_z_score_centres_and_scales_each_unit(features):
    scored = z_score(features, PLATE)
    by_plate = scored.groupby(PLATE)[["feature_a", "feature_b"]]
    np.testing.assert_allclose(by_plate.mean(), 0, atol=1e-9)
    np.testing.assert_allclose(by_plate.std(ddof=0), 1, atol=1e-9)
    assert (scored["feature_c"] == 0).all()  # a constant is only centred
    pd.testing.assert_frame_equal(scored[["id_code", "site"]], features[["id_code", "site"]])
    by_experiment = z_score(features, ["experiment"])
    np.testing.assert_allclose(by_experiment.groupby("experiment")["feature_a"].mean(), 0, atol=1e-9)
    assert by_experiment.groupby(PLATE)["feature_a"].mean().abs().max() > 0.5


def test_a_z_score_on_reference_wells_does_not_depend_on_the_others(features, wells):
    controls = set(wells.loc[wells["well_type"] != "treatment", "id_code"])
    scored = z_score(features, PLATE, controls)
    of_controls = scored[scored["id_code"].isin(controls)].groupby(PLATE)["feature_a"]
    np.testing.assert_allclose(of_controls.mean(), 0, atol=1e-9)
    is_control = features["id_code"].isin(controls)
    changed = features.assign(feature_a=features["feature_a"].where(is_control, -5 * features["feature_a"]))
    again = z_score(changed, PLATE, controls)
    np.testing.assert_array_equal(again.loc[is_control, "feature_a"], scored.loc[is_control, "feature_a"])


def test_a_unit_without_reference_wells_keeps_its_values(features):
    untouched = z_score(features, PLATE, {"nowhere"})
    pd.testing.assert_frame_equal(untouched, features)


def accuracy(table, wells, name):
    rows = table[(table["baseline"] == name) & (table["role"] == "validation")]
    scores = rows[[c for c in rows if c.startswith("score_")]]
    truth = rows["id_code"].map(wells.set_index("id_code")["perturbation"])
    return float((scores.idxmax(axis=1).str.removeprefix("score_") == truth).mean())


def test_baselines_carry_the_tier_of_what_they_know(features, wells, folds):
    table = validate_table(score_hand_features(features, wells, folds, "T1"), "baseline_logits", "test")
    tiers = table.groupby("baseline")["tier"].agg(set).to_dict()
    doubt = "T1, plate design not excluded"  # plates repeat their contents here
    assert tiers == dict(zip(BASELINES, ({"T1"}, {"T1"}, {doubt}, {"T1c"}), strict=True))
    assert set(table["role"]) == {"validation", "heldout"}
    # features of a plate-normalized image are in doubt whatever is done to them afterwards, but for a z-score on controls
    tiers = score_hand_features(features, wells, folds, doubt).groupby("baseline")["tier"].first()
    assert tiers[BASELINES[0]] == tiers[BASELINES[1]] == doubt and tiers[BASELINES[3]] == "T1c"


def test_a_z_score_by_plate_finds_what_plate_effects_hide(features, wells, folds):
    table = score_hand_features(features, wells, folds, "T1")
    assert accuracy(table, wells, "by plate") > accuracy(table, wells, "hand features") + 0.2


def test_re_dealt_plates_are_scored_by_the_same_model(features, wells, folds):
    redealt = features[features["experiment"].isin(folds.loc[folds["role"] == "heldout", "experiment"])]
    table = score_hand_features(features, wells, folds, "T1", redealt)
    columns = [c for c in table if c.startswith("score_")]
    targets = set(wells.loc[wells["target"], "id_code"])
    for name in BASELINES:
        of = table[table["baseline"] == name].set_index(["id_code", "site"]).sort_index()
        dealt, designed = of[of["role"] == "redealt"], of[of["role"] == "heldout"]
        assert len(dealt) and set(dealt.index.get_level_values(0)) <= targets
        np.testing.assert_allclose(
            dealt[columns], designed.loc[dealt.index, columns], atol=1e-5
        )  # the same images here


def test_held_out_and_validation_labels_reach_no_baseline(features, wells, folds):
    scrambled = wells.copy()
    train = folds.loc[folds["role"] == "train", PLATE].apply(tuple, axis=1)
    hidden = ~wells[PLATE].apply(tuple, axis=1).isin(set(train)) & wells["target"]
    scrambled.loc[hidden, "perturbation"] = "0"
    pd.testing.assert_frame_equal(
        score_hand_features(features, scrambled, folds, "T1").drop(columns="tier"),
        score_hand_features(features, wells, folds, "T1").drop(columns="tier"),
    )


def test_a_screen_without_controls_has_no_baseline_on_controls(features, wells, folds):
    treated = wells[wells["well_type"] == "treatment"]
    table = score_hand_features(features[features["id_code"].isin(treated["id_code"])], treated, folds, "T1")
    assert set(table["baseline"]) == set(BASELINES) - {"by plate controls"}
