"""Corrections of the embeddings remove what they name, read no perturbation of a treatment, and are chosen without held-out labels."""

import sys

import numpy as np
import pandas as pd
import pytest

from deepnoise.evaluation.compare_corrections import choose_correction, compare_corrections
from deepnoise.evaluation.embedding_correction import (
    CORRECTIONS,
    CorrectionError,
    correct_profiles,
    tier_of_correction,
)
from deepnoise.evaluation.profiles import Profiles, join_profiles, true_labels
from deepnoise.evaluation.representations import probe_representations
from deepnoise.evaluation.retrieval import average_precisions
from deepnoise.parameters import EvaluationParameters
from deepnoise.tables import EMBEDDING, SCHEMAS, prefixed, validate_table
from tests.evaluation.test_leaks import planted
from tests.evaluation.test_signal import screen

PARAMETERS = EvaluationParameters(
    screen="s", unit="well", pairs=[], permutations=40, smallest_leak=3.0,
    corrections=["none", "plate_centred", "experiment_centred", "sphered"],
)  # fmt: skip
DOUBT = ", plate design not excluded"


@pytest.fixture(scope="module")
def clean() -> Profiles:
    return screen(experiments=4, plates=4, treatments=40, controls=6, dimensions=8, effect=1.0, seed=1)


@pytest.mark.parametrize(
    ("correction", "column", "by"),
    [("plate_centred", "plate", ["experiment", "plate"]), ("experiment_centred", "experiment", ["experiment"])],
)
def test_centring_takes_away_a_shift_of_its_unit_and_nothing_else(clean, correction, column, by):
    corrected = correct_profiles(clean, correction).values
    moved = correct_profiles(planted(clean, column, 3.0), correction).values
    np.testing.assert_allclose(moved, corrected, atol=1e-4)
    difference = pd.DataFrame(clean.values - corrected).groupby([clean.rows[c] for c in by])
    np.testing.assert_allclose(difference.std().to_numpy(), 0, atol=1e-5)  # the same for all wells of a unit
    np.testing.assert_allclose(pd.DataFrame(corrected).groupby([clean.rows[c] for c in by]).mean(), 0, atol=1e-5)


def test_cell_types_folds_and_seen_plates_are_corrected_apart(clean):
    """The others of each kind are moved far away; nothing must change for those that stay."""
    half = np.arange(len(clean.rows)) % 2 == 0
    for column, values in {"cell_type": ("x", "y"), "fold": (0, 1), "plate_seen": (False, True)}.items():
        rows = clean.rows.assign(**{column: np.where(half, *values)})
        for correction in ("plate_centred", "experiment_centred", "sphered"):
            here = correct_profiles(Profiles(rows, clean.values), correction).values[half]
            far = correct_profiles(Profiles(rows, clean.values + 100 * ~half[:, None]), correction).values[half]
            np.testing.assert_allclose(here, far, atol=1e-3)


def test_sphered_controls_have_unit_noise_around_a_mean_of_zero():
    profiles = screen(experiments=4, plates=8, treatments=9, controls=8, dimensions=4, effect=1.0, seed=2)
    mixing = (np.eye(4) + 0.3) * [1, 10, 100, 1000]
    mixed = planted(Profiles(profiles.rows, profiles.values @ mixing), "experiment", 50.0)
    corrected = correct_profiles(mixed, "sphered")
    controls = corrected.rows["well_type"] != "treatment"
    of_control = pd.DataFrame(corrected.values).groupby([corrected.rows["experiment"], corrected.rows["perturbation"]])
    noise = (corrected.values - of_control.transform("mean").to_numpy())[controls]
    covariance = noise.T @ noise / len(noise)
    np.testing.assert_allclose(covariance, np.eye(4), atol=0.15)  # shrunken a little
    centre = of_control.mean()[of_control.mean().index.get_level_values(1).str.startswith(("neg", "pos"))]
    np.testing.assert_allclose(centre.groupby(level=0).mean(), 0, atol=1e-4)  # each perturbation counts the same


def test_sphering_uses_controls_of_every_experiment_and_needs_some(clean):
    one_more = clean.rows["perturbation"].where(
        ~((clean.rows["experiment"] == "E0") & (clean.rows["perturbation"] == "pos0")), "only in E0"
    )
    rows = clean.rows.assign(perturbation=one_more)
    far = clean.values + 100 * (one_more == "only in E0").to_numpy()[:, None]
    others = (one_more != "only in E0").to_numpy()
    without = correct_profiles(Profiles(rows, clean.values), "sphered").values[others]
    np.testing.assert_allclose(correct_profiles(Profiles(rows, far), "sphered").values[others], without, atol=1e-4)
    with pytest.raises(CorrectionError, match="no control that is in every experiment"):
        correct_profiles(Profiles(clean.rows.assign(well_type="treatment"), clean.values), "sphered")
    single = clean.take(
        (
            clean.rows["perturbation"].str.startswith("t") | ~clean.rows.duplicated(["experiment", "perturbation"])
        ).to_numpy()
    )
    with pytest.raises(CorrectionError, match="two wells of one experiment"):
        correct_profiles(single, "sphered")


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_no_perturbation_of_a_treatment_is_read(clean, correction):
    rows = clean.rows.copy()
    rows.loc[rows["well_type"] == "treatment", "perturbation"] = None
    blind = correct_profiles(Profiles(rows, clean.values), correction).values
    np.testing.assert_array_equal(blind, correct_profiles(clean, correction).values)


def test_harmony_mixes_experiments_or_says_that_it_is_not_installed(clean, monkeypatch):
    moved = planted(clean, "experiment", 3.0)

    def distance(profiles: Profiles) -> float:
        return float(pd.DataFrame(profiles.values).groupby(profiles.rows["experiment"]).mean().std().mean())

    assert distance(correct_profiles(moved, "harmony")) < 0.6 * distance(moved)
    monkeypatch.setitem(sys.modules, "harmonypy", None)
    with pytest.raises(CorrectionError, match=r"deepnoise\[harmony\]"):
        correct_profiles(clean, "harmony")


@pytest.mark.parametrize(
    ("correction", "tier", "repeated", "expected"),
    [
        ("none", "T0", "plate", "T0"),
        ("plate_centred", "T0", "plate", f"T1{DOUBT}"),
        ("plate_centred", "T1", "experiment", "T1"),
        ("experiment_centred", "T1", "plate", "T1"),
        ("experiment_centred", "T1", "experiment", f"T1{DOUBT}"),
        ("sphered", "T1", "plate", "T1c"),
        ("sphered", f"T1{DOUBT}", "", f"T1c{DOUBT}"),
        ("sphered", "T3", "", "T3"),
        ("harmony", "T1", "", "T3"),
        ("harmony", "T1", "experiment", f"T3{DOUBT}"),
        ("harmony", "T2", "", "T2+T3"),
        ("plate_centred", "unknown", "plate", "unknown"),
    ],
)
def test_the_tier_says_what_flowed_in(correction, tier, repeated, expected):
    assert tier_of_correction(correction, tier, frozenset([repeated])) == expected


def tables(profiles: Profiles) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """well_embeddings, wells and heldout_labels: E0 and E1 are training and validation, the labels of the rest are withheld."""
    role = profiles.rows["experiment"].map({"E0": "train", "E1": "validation"}).fillna("heldout")
    rows = profiles.rows.assign(role=role, plate_seen=role == "train")
    names = [f"{i:04d}" for i in range(profiles.values.shape[1])]
    columns = ["fold", "role", "id_code", "experiment", "plate", "well", "plate_seen"]
    embeddings = pd.concat(
        [rows[columns].assign(tier="T1"), prefixed(profiles.values, names, EMBEDDING, rows.index)], axis=1
    )
    withheld = (role == "heldout") & (rows["well_type"] == "treatment")
    wells = rows[["id_code", "experiment", "plate", "well", "cell_type", "well_type", "perturbation"]].assign(
        target=rows["well_type"] == "treatment"
    )
    labels = wells.loc[withheld, ["id_code", "perturbation"]]
    return embeddings, wells.assign(perturbation=wells["perturbation"].mask(withheld)), labels


def compared(profiles: Profiles, parameters: EvaluationParameters = PARAMETERS) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables corrected_embeddings and embedding_corrections."""
    embeddings, wells, labels = tables(profiles)
    nothing = pd.DataFrame()
    probes = probe_representations(embeddings, wells, labels, nothing, nothing, nothing, parameters)
    corrected, choice = choose_correction(embeddings, wells, parameters)
    table = compare_corrections(embeddings, wells, labels, probes, choice, parameters)
    return (
        validate_table(corrected, "corrected_embeddings", "x"),
        validate_table(table, "embedding_corrections", "x"),
    )


def test_the_correction_of_the_planted_shift_is_chosen_and_shown_beside_the_others(clean):
    shifted = planted(clean, "experiment", 3.0)
    corrected, table = compared(shifted)
    rows = table.set_index("correction")
    assert rows["chosen"].sum() == 1 and rows.loc["none", "validation_map"] < rows["validation_map"].max()
    chosen = rows["validation_map"].idxmax()
    assert rows.loc[chosen, "chosen"] and set(corrected["correction"]) == {chosen} != {"none"}
    expected = correct_profiles(
        Profiles(clean.rows.assign(plate_seen=clean.rows["experiment"] == "E0"), shifted.values), chosen
    )
    np.testing.assert_array_equal(corrected.filter(like=EMBEDDING), expected.values)
    heldout_treatments = ((clean.rows["well_type"] == "treatment") & ~clean.rows["experiment"].isin(["E0", "E1"])).sum()
    assert (rows["wells"] == heldout_treatments).all() and (rows["level"] == "not_same_experiment").all()
    assert rows.loc["none", "experiment_verdict"] == "leak" and rows.loc["none", "gain"] == 0
    centred = rows.loc["experiment_centred"]
    assert centred["experiment_verdict"] != "leak" and centred["map"] > rows.loc["none", "map"]
    assert centred["gain"] == pytest.approx(centred["map"] - rows.loc["none", "map"])


def test_wells_that_are_compared_for_the_choice_are_corrected_together(clean):
    """Embeddings collapse on the plates of the training: sphered apart, these and validation plates would be in different spaces."""
    embeddings, wells, _ = tables(clean)
    is_seen = embeddings["plate_seen"].to_numpy(bool)
    columns = [c for c in embeddings if c.startswith(EMBEDDING)]
    scale = np.where(is_seen[:, None], 0.1 * np.arange(1, 9), 1.0)
    embeddings[columns] = (embeddings[columns] * scale).astype(np.float32)
    validation_map = choose_correction(embeddings, wells, PARAMETERS)[1]["validation_map"]
    joined = join_profiles(embeddings.assign(plate_seen=False), wells, true_labels(wells, wells.head(0)))
    known = joined.take((joined.rows["role"] != "heldout").to_numpy())
    for correction in ("none", "sphered", "experiment_centred"):
        table, _ = average_precisions(correct_profiles(known, correction), 0)
        table = table[(table["level"] == "not_same_experiment") & (table["well_type"] == "treatment")]
        expected = table.loc[table["experiment"] == "E1", "average_precision"].mean()
        assert validation_map[correction] == pytest.approx(expected, abs=1e-9)


def test_a_well_that_validates_one_fold_and_trains_another_is_queried_in_the_first(clean):
    embeddings, wells, _ = tables(clean)
    swapped = embeddings.assign(
        fold=1, role=embeddings["role"].map({"train": "validation", "validation": "train", "heldout": "heldout"})
    )
    values = np.random.default_rng(0).normal(size=(len(swapped), 8))
    columns = [c for c in embeddings if c.startswith(EMBEDDING)]
    noise = swapped.assign(**dict(zip(columns, values.T, strict=True)))
    alone = [choose_correction(t, wells, PARAMETERS)[1]["validation_map"]["none"] for t in (embeddings, noise)]
    both = choose_correction(pd.concat([embeddings, noise], ignore_index=True), wells, PARAMETERS)[1]
    assert min(alone) < both["validation_map"]["none"] < max(alone)
    assert both["validation_map"]["none"] == pytest.approx(np.mean(alone), abs=0.02)


def test_the_choice_reads_no_withheld_label(clean):
    embeddings, wells, labels = tables(planted(clean, "experiment", 3.0))
    revealed = wells.assign(
        perturbation=wells["perturbation"].fillna(wells["id_code"].map(labels.set_index("id_code")["perturbation"]))
    )
    assert wells["perturbation"].isna().any()
    _, choice = choose_correction(embeddings, wells, PARAMETERS)
    assert choice == choose_correction(embeddings, revealed, PARAMETERS)[1]


def test_without_validation_the_first_is_taken_and_one_alone_is_taken_as_it_is(clean):
    embeddings, wells, _ = tables(clean)
    embeddings["role"], embeddings["plate_seen"] = "heldout", False
    corrected, choice = choose_correction(embeddings, wells, PARAMETERS)
    assert choice["chosen"] == "none" and set(choice["validation_map"].values()) == {None}
    np.testing.assert_array_equal(corrected.filter(like=EMBEDDING), embeddings.filter(like=EMBEDDING))
    alone = PARAMETERS.model_copy(update={"corrections": ["sphered"]})
    assert choose_correction(embeddings, wells, alone)[1]["chosen"] == "sphered"
    with pytest.raises(CorrectionError, match="no control"):
        choose_correction(embeddings, wells.assign(well_type="treatment"), alone)


def test_what_is_not_possible_says_why_and_the_others_are_shown(clean):
    no_controls = clean.take((clean.rows["well_type"] == "treatment").to_numpy())
    _, table = compared(no_controls)
    rows = table.set_index("correction")
    assert "no control" in rows.loc["sphered", "reason"] and np.isnan(rows.loc["sphered", "map"])
    assert rows.loc["plate_centred", "map"] > 0 and rows.loc["plate_centred", "reason"] == ""


def test_without_embeddings_there_is_nothing_to_correct():
    empty = SCHEMAS["well_embeddings"].empty()
    wells, labels = SCHEMAS["wells"].empty(), SCHEMAS["heldout_labels"].empty()
    corrected, choice = choose_correction(empty, wells, PARAMETERS)
    assert corrected.empty and choice["chosen"] is None
    nothing = compare_corrections(empty, wells, labels, SCHEMAS["leak_probes"].empty(), choice, PARAMETERS)
    assert nothing.empty and list(nothing) == list(SCHEMAS["embedding_corrections"].columns)
