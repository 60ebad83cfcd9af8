"""Planted faults of the plate map are found; a clean plate map is not flagged."""

import numpy as np
import pandas as pd
import pytest

from deepnoise.evaluation.profiles import Profiles
from deepnoise.evaluation.suspects import (
    _PlateEvidence,
    _swapped_wells,
    _turned_plate,
    calibrated,
    empty_wells,
    find_suspects,
    similarity_to_perturbations,
    turned_wells,
)
from deepnoise.tables import SCHEMAS, validate_table
from tests.evaluation.test_signal import screen

NO_SCORES = SCHEMAS["well_scores"].empty()
NO_FEATURES = SCHEMAS["site_features"].empty()


@pytest.fixture(scope="module")
def clean() -> Profiles:
    return screen(experiments=4, plates=4, treatments=48, controls=4, dimensions=40, effect=2.0, seed=4)


def suspects(profiles: Profiles) -> pd.DataFrame:
    table = find_suspects(profiles, NO_SCORES, NO_FEATURES, "T1")
    validate_table(table, "suspect_wells", "x")
    return table


def relabelled(profiles: Profiles, wells: list[int], names: list[str]) -> Profiles:
    rows = profiles.rows.copy()
    rows.loc[wells, "perturbation"] = names
    return Profiles(rows, profiles.values)


def treatments(profiles: Profiles, experiment: str, plate: str) -> list[int]:
    rows = profiles.rows
    selected = (rows["experiment"] == experiment) & (rows["plate"] == plate) & (rows["well_type"] == "treatment")
    return list(rows.index[selected])


def test_a_clean_plate_map_is_not_flagged(clean):
    assert not suspects(clean)["flagged"].any()


def test_a_swap_is_ranked_first_with_its_partner(clean):
    first, second = treatments(clean, "E2", "1")[:2]
    rows = clean.rows
    names = rows.loc[[second, first], "perturbation"].tolist()
    table = suspects(relabelled(clean, [first, second], names))
    top = table.head(2)
    assert set(top["id_code"]) == {rows.loc[first, "id_code"], rows.loc[second, "id_code"]}
    assert (
        set(top["kind"]) == {"swapped"}
        and top["flagged"].all()
        and set(top["partner"]) == set(rows.loc[[first, second], "well"])
    )
    assert table["flagged"].sum() == 2 and table["rank"].tolist() == list(range(1, len(table) + 1))


def test_a_mislabelled_well_without_a_swap_partner_is_ranked_first(clean):
    well = treatments(clean, "E1", "0")[0]
    elsewhere = clean.rows.loc[treatments(clean, "E1", "2")[0], "perturbation"]
    table = suspects(relabelled(clean, [well], [elsewhere]))
    row = table[table["id_code"] == clean.rows.loc[well, "id_code"]].iloc[0]
    assert row["kind"] == "mislabelled" and row["rank"] == 1
    assert f"looks like {clean.rows.loc[well, 'perturbation']}, the plate map says {elsewhere}" in row["detail"]


def test_a_turned_plate_is_flagged_once_and_not_well_by_well(clean):
    rows = clean.rows
    plate = rows.index[(rows["experiment"] == "E3") & (rows["plate"] == "2")]
    perturbation_at = dict(zip(rows.loc[plate, "well"], rows.loc[plate, "perturbation"], strict=True))
    turned = [perturbation_at.get(w) for w in turned_wells(rows.loc[plate, "well"])]
    table = suspects(relabelled(clean, list(plate), turned))
    flagged = table[table["flagged"]]
    assert flagged["kind"].tolist() == ["plate turned by 180 degrees"]
    assert (flagged["experiment"].iloc[0], flagged["plate"].iloc[0]) == ("E3", "2")


def test_scores_of_the_model_add_to_the_evidence(clean):
    noisy = Profiles(
        clean.rows, clean.values + np.random.default_rng(0).normal(size=clean.values.shape).astype(np.float32) * 3
    )
    names = sorted(set(clean.rows.loc[clean.rows["well_type"] == "treatment", "perturbation"]))
    treated = clean.rows[clean.rows["well_type"] == "treatment"]
    truth = np.array([names.index(p) for p in treated["perturbation"]])
    values = np.random.default_rng(1).normal(size=(len(treated), len(names))) + 6 * np.eye(len(names))[truth]
    scores = pd.concat(
        [treated[["id_code"]].reset_index(drop=True), pd.DataFrame(values, columns=[f"score_{n}" for n in names])],
        axis=1,
    )
    first, second = treatments(clean, "E2", "1")[:2]
    swapped = relabelled(noisy, [first, second], clean.rows.loc[[second, first], "perturbation"].tolist())
    table = find_suspects(swapped, scores, NO_FEATURES, "T1")
    assert (
        set(table.head(2)["id_code"]) == set(clean.rows.loc[[first, second], "id_code"])
        and table.head(2)["flagged"].all()
    )
    assert table["flagged"].sum() == 2


def test_plates_seen_in_training_are_not_judged(clean):
    first, second = treatments(clean, "E2", "1")[:2]
    swapped = relabelled(clean, [first, second], clean.rows.loc[[second, first], "perturbation"].tolist())
    assert suspects(Profiles(swapped.rows.assign(plate_seen=True), swapped.values)).empty


def test_empty_wells_are_found_by_their_number_of_objects():
    rng = np.random.default_rng(0)
    rows = [
        (f"w{i}", "E", "1", f"A{i + 1:02d}", s, "nucleus", float(rng.poisson(30))) for i in range(24) for s in (1, 2)
    ]
    table = pd.DataFrame(rows, columns=["id_code", "experiment", "plate", "well", "site", "channel", "objects"])
    assert empty_wells(table).empty
    table.loc[table["id_code"] == "w7", "objects"] = 1.0
    empty = empty_wells(table)
    assert empty["id_code"].tolist() == ["w7"] and "1.0 objects per site in nucleus" in empty["detail"].iloc[0]


def test_a_channel_without_objects_does_not_hide_an_empty_well():
    rng = np.random.default_rng(0)
    rows = [(f"w{i}", "E", "1", f"A{i + 1:02d}", 1, c, n) for i in range(24) for c, n in (("nucleus", float(rng.poisson(30)) * (i != 3)), ("er", 0.0), ("rna", 1.0))]  # fmt: skip
    table = pd.DataFrame(rows, columns=["id_code", "experiment", "plate", "well", "site", "channel", "objects"])
    assert empty_wells(table)["id_code"].tolist() == ["w3"]
    assert empty_wells(table[table["channel"] != "nucleus"]).empty


def test_similarity_never_uses_the_experiment_of_the_well(clean):
    cosines, names = similarity_to_perturbations(clean)
    rows = clean.rows
    changed = clean.values.copy()
    same_experiment_other_plates = (
        (rows["experiment"] == "E0").to_numpy()
        & (np.arange(len(rows)) > 0)
        & (rows["plate"] != rows["plate"].iloc[0]).to_numpy()
    )
    selected = changed[same_experiment_other_plates]
    changed[same_experiment_other_plates] += 5 * np.random.default_rng(0).normal(size=selected.shape)
    np.testing.assert_allclose(similarity_to_perturbations(Profiles(rows, changed))[0][0], cosines[0], atol=1e-6)
    assert len(names) == rows["perturbation"].nunique()


def test_the_likelihood_is_calibrated_on_the_labels():
    """Labels drawn from a softmax of known sharpness: calibration recovers its probabilities."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 6)) * 2
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    label = np.array([rng.choice(6, p=row) for row in p])
    fitted = np.exp(calibrated([7.0 * logits + 3.0], label))  # any scale
    np.testing.assert_allclose(fitted.sum(axis=1), 1, atol=1e-9)
    assert np.abs(fitted - p).mean() < 0.02
    unscored = calibrated([np.full((3, 2), np.nan)], np.array([0, 1, 0]))
    assert np.isneginf(unscored).all()


def evidence(label_ratio: np.ndarray, plates: int = 1, threshold: float = 3.0) -> _PlateEvidence:
    """A plate of one row of wells, A01, A02, ..., each with a perturbation of its own."""
    wells = [f"A{i + 1:02d}" for i in range(len(label_ratio))]
    gain = label_ratio + label_ratio.T
    names = np.array([f"p{i}" for i in range(len(wells))])
    rows = pd.DataFrame({"well": wells})
    return _PlateEvidence(rows, names, np.arange(len(wells)), [], label_ratio, gain, threshold, plates)


def test_a_turned_plate_must_be_evident_without_the_wells_that_favour_it_most():
    """Four wells of a real plate gave 6 to 7.7 nats for a turned map that a classifier refuted by 28.8 nats."""
    ratio = np.full((4, 4), -1.0)
    ratio[[0, 3], [3, 0]] = 4.5  # two wells favour the turned map; the other two do not
    assert not [f for f in _turned_plate(evidence(ratio)) if f["evidence"] > f["needed"]]
    ratio = np.full((24, 24), -1.0)
    ratio[np.arange(24), 23 - np.arange(24)] = 1.0
    (fault,) = [f for f in _turned_plate(evidence(ratio)) if f["kind"] == "plate turned by 180 degrees"]
    assert (
        pytest.approx(fault["evidence"]) == 21.0 and fault["evidence"] > fault["needed"]
    )  # without the 3 that fit best
    assert (
        fault["detail"] == "24 wells fit the plate map better in this orientation, also without the 3 that fit it best"
    )


def test_more_plates_need_more_evidence_since_a_false_alarm_counts_for_the_screen():
    ratio = np.full((24, 24), -1.0)
    ratio[np.arange(24), 23 - np.arange(24)] = 1.0
    needed = [_turned_plate(evidence(ratio, plates))[0]["needed"] for plates in (1, 172)]
    assert needed[1] - needed[0] == pytest.approx(np.log(172))


def test_a_well_is_in_one_swap_at_most_and_both_wells_must_agree():
    ratio = np.full((6, 6), -2.0)
    for i, j, size in ((0, 1, 5.0), (0, 2, 4.0), (0, 3, 3.0)):  # one odd well that seems swapped with three others
        ratio[i, j] = ratio[j, i] = size
    ratio[4, 5], ratio[5, 4] = 9.0, -1.0  # one well alone looks like the other
    faults = _swapped_wells(evidence(ratio))
    assert [(f["row"], f["partner"], f["evidence"]) for f in faults] == [(0, "A02", 10.0), (1, "A01", 10.0)]
    assert all(f["detail"].endswith("(2 wells)") for f in faults)


@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-4])
def test_wells_that_look_like_no_other_are_outliers_however_close_the_scores_lie(spread):
    """Real profiles with one wild feature have cosines of 0.999 to each perturbation; 52 wells were flagged there."""
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(30), 12)
    scores = rng.normal(size=(360, 30))
    scores[np.arange(360), label] += 4.0
    scores[::5] = rng.normal(size=(72, 30))  # a fifth shows another perturbation than its label, or none
    log_p = calibrated([np.where(rng.random((360, 1)) < 0.02, -50.0, 1.0) + spread * scores], label)
    most = (log_p.max(axis=1) - log_p[np.arange(360), label]).max()
    assert most < np.log(
        30 / 0.05
    )  # an outlier share of 0.2 bounds the evidence of a well; a share of 0 would give 17 nats
