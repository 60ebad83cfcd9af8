"""Scores against hand-computed values, their notes and headline, and the simple batch probe."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

from deepnoise.errors import InputError
from deepnoise.evaluation.headline import no_better_than_chance
from deepnoise.evaluation.metrics import (
    _check_labels,
    confusions,
    evaluate,
    macro_recall,
    pair_recall,
    perturbation_scores,
    score_table,
    skill,
)
from deepnoise.evaluation.probe import probe_batch
from deepnoise.evaluation.score_table import format_scores
from deepnoise.tables import SCHEMAS, SCORES_KEYS

NO_LABELS = pd.DataFrame({"id_code": [], "perturbation": []})


def test_skill_is_zero_at_chance_and_one_when_all_is_correct():
    assert skill(0.25, 0.25) == 0 and skill(1.0, 0.1) == 1 and skill(0.55, 0.1) == pytest.approx(0.5)


def test_macro_recall_is_balanced_accuracy():
    rng = np.random.default_rng(0)
    truth, called = rng.choice(["a", "b", "c"], 50, p=[0.7, 0.2, 0.1]), rng.choice(["a", "b", "c"], 50)
    assert macro_recall(truth, called) == pytest.approx(balanced_accuracy_score(truth, called))


def wide(n, k, seed=0):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(rng.normal(size=(n, k)), columns=[f"score_{i}" for i in range(k)])
    return table.assign(
        id_code=[f"w{i}" for i in range(n)],
        experiment=np.where(np.arange(n) % 2, "A", "B"),
        plate="1",
        well="B02",
        role="heldout",
        tier="T1",
    )


def test_top1_and_top5_against_a_double_loop():
    table = wide(40, 9)
    truth = pd.Series(np.random.default_rng(1).integers(0, 9, 40).astype(str))
    scored = score_table(table, truth, pd.Series(["x"] * 40))
    right1 = right5 = 0
    for i in range(40):
        row = sorted(range(9), key=lambda c: -table.loc[i, f"score_{c}"])
        right1 += str(row[0]) == truth[i]
        right5 += truth[i] in [str(c) for c in row[:5]]
    assert scored["top1"] == right1 / 40 and scored["top5"] == right5 / 40
    assert scored["chance"] == 1 / 9 and scored["tier"] == "T1" and set(scored["by_experiment"]) == {"A", "B"}


def test_pair_recall_ignores_all_other_perturbations():
    table = pd.DataFrame({"score_a": [3.0, 0, 9, 1], "score_b": [1.0, 2, 0, 5], "score_c": [9.0, 9, 9, 9]})
    scored = pair_recall(table, pd.Series(["a", "b", "c", "a"]), ["a", "b"])
    assert scored["n"] == 3 and scored["macro_recall"] == pytest.approx((0.5 + 1.0) / 2)


def test_a_pair_without_rows_has_no_recall():
    assert pair_recall(wide(3, 3), pd.Series(["2", "2", "2"]), ["0", "1"]) is None


def evaluation(**changes):
    scores = wide(30, 6)
    wells = scores[["id_code", "experiment", "plate", "well"]].assign(cell_type="x", target=True, perturbation=None)
    labels = pd.DataFrame({"id_code": scores["id_code"], "perturbation": (np.arange(30) % 6).astype(str)})
    steps = scores[["id_code", "experiment", "role"]].assign(step="plain", call="0", candidates=6, tier="T1")
    steps = pd.concat([steps, steps.assign(step="group_filter", candidates=3, tier="T2")])
    inputs = dict(
        screen="s", well_scores=scores, site_logits=scores.head(0), redealt_logits=scores.head(0),
        redrawn_statistics=SCHEMAS["redrawn_statistics"].empty(), baseline_logits=scores.head(0), steps=steps,
        groups_found=pd.DataFrame(columns=["experiment", "plate", "group", "posterior", "margin", "decided"]),
        layout=pd.DataFrame({"perturbation": list("012345"), "group": 0}), wells=wells, heldout_labels=labels, unit="well", pairs=[],
        redealt_labels=labels.head(0),
    )  # fmt: skip
    return evaluate(**inputs | changes)


def test_every_score_has_a_tier_and_a_chance_level():
    scores = evaluation()
    assert set(scores) == set(SCORES_KEYS)
    assert [(s["step"], s["tier"]) for s in scores["steps"]] == [("plain", "T1"), ("group_filter", "T2")]
    assert [s["chance"] for s in scores["steps"]] == pytest.approx([1 / 6, 1 / 3])
    assert scores["steps"][0]["top1"] == pytest.approx(5 / 30)
    text = format_scores(scores)
    assert f"balanced accuracy (macro recall): {scores['heldout']['well']['macro_recall']:.3f}\n" in text
    assert "points and exact sign-flip p, no intervals" in text
    assert scores["headline"]["tier"] == "T1" and scores["headline"]["top1"] == scores["heldout"]["well"]["top1"]
    assert scores["steps"][1]["gain"] == 0 and scores["steps"][1]["gain_sign_flip_p"] == 1.0


@pytest.mark.parametrize("tier", ["T2", "T3", "T2+T3", "unknown"])
def test_tiers_beyond_t1_and_unknown_ones_have_no_headline(tier):
    scores = evaluation(well_scores=wide(30, 6).assign(tier=tier))
    assert scores["headline"] is None and scores["heldout"]["well"]["tier"] == tier
    assert f"tier {tier}: no headline" in format_scores(scores)


def test_scores_by_site_on_seen_experiments_and_their_gap():
    sites = wide(30, 6, seed=1).assign(fold=0, site=1)
    labels = pd.DataFrame({"id_code": sites["id_code"], "perturbation": (np.arange(30) % 6).astype(str)})
    seen = sites.assign(id_code="s" + sites["id_code"], role="train", experiment="C")
    truth = labels["perturbation"].astype(int)
    seen[[f"score_{k}" for k in range(6)]] = np.eye(6)[truth]  # every call is correct where the model was trained
    wells = pd.concat([sites, seen])[["id_code", "experiment", "plate", "well"]].assign(
        cell_type="x", target=True, perturbation=[None] * 30 + labels["perturbation"].tolist()
    )
    scores = evaluation(site_logits=pd.concat([sites, seen]), wells=wells, heldout_labels=labels)
    assert scores["seen"]["top1"] == 1.0
    assert scores["gap"]["top1"] == pytest.approx(1 - scores["heldout"]["well"]["top1"])
    assert scores["heldout"]["site"]["n"] == 30 and "the same by site" in format_scores(scores)


def test_each_perturbation_is_scored_and_its_confusions_are_listed():
    scores = wide(4, 3).assign(id_code=list("abcd"))
    scores[["score_0", "score_1", "score_2"]] = [[1.0, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]]
    truth = dict(zip("abcd", ["0", "0", "0", "2"], strict=True))
    wrong = confusions(scores, truth)
    assert wrong[["perturbation", "call", "wells", "share"]].values.tolist() == [["0", "1", 2, pytest.approx(2 / 3)]]
    no_retrieval = pd.DataFrame(
        columns=["cell_type", "perturbation", "id_code", "level", "average_precision", "chance", "p", "q"]
    )
    cell_type = pd.Series("x", index=list("abcd"))
    table = perturbation_scores(scores, truth, cell_type, no_retrieval, no_retrieval, "T1").set_index("perturbation")
    assert table.loc["0", "top1"] == pytest.approx(1 / 3) and table.loc["0", "most_called"] == "1"
    assert table.loc["2", "top1"] == 1.0 and table.loc["2", "wells"] == 1


def test_without_held_out_labels_nothing_is_scored_and_a_note_says_so():
    scores = evaluation(heldout_labels=NO_LABELS)
    assert scores["heldout"]["well"] is None and scores["headline"] is None and scores["steps"] == []
    assert "no held-out labels" in format_scores(scores)


def test_labels_of_another_screen_are_refused_and_uncallable_ones_noted():
    labels = pd.DataFrame({"id_code": [f"w{i}" for i in range(30)], "perturbation": ["0"] * 28 + ["77", "78"]})
    assert (
        "2 held-out wells have a perturbation that cannot be called (77, 78): they count as wrong"
        in evaluation(heldout_labels=labels)["notes"]
    )
    with pytest.raises(
        InputError, match="has 30 wells such as 'xw0', none of which is a target well of screen 's'.*'w0'"
    ):
        evaluation(heldout_labels=labels.assign(id_code="x" + labels["id_code"]))
    with pytest.raises(InputError, match="evaluation.pairs has '9', which is not a scored perturbation"):
        evaluation(pairs=[["0", "9"]])


def test_a_note_warns_if_perturbation_and_well_position_are_confounded():
    wells = pd.DataFrame({
        "id_code": list("abcd"), "experiment": "E", "plate": ["1", "1", "2", "2"], "well": ["B02", "B03"] * 2, "cell_type": "x",
        "target": True, "perturbation": ["p", "q"] * 2,
    })  # fmt: skip
    notes = " ".join(evaluation(wells=wells, heldout_labels=NO_LABELS)["notes"])
    assert "class and well position are confounded" in notes and "portability check only" in notes
    wells.loc[2:, "well"] = ["B03", "B02"]
    assert "confounded" not in " ".join(evaluation(wells=wells, heldout_labels=NO_LABELS)["notes"])


def test_the_probe_detects_a_planted_shift_and_is_at_chance_without_one():
    rng = np.random.default_rng(0)
    experiment = pd.Series(np.repeat(["A-1", "A-2", "A-3"], 60))
    cell_type = pd.Series(["A"] * 180)
    noise = rng.normal(size=(180, 5))
    silent = probe_batch(noise, experiment, cell_type)
    shifted = noise + 3 * (experiment.to_numpy() == "A-2")[:, None]
    assert silent["chance"] == pytest.approx(1 / 3) and abs(silent["balanced_accuracy"] - 1 / 3) < 0.12
    assert probe_batch(shifted, experiment, cell_type)["balanced_accuracy"] > 0.6


def test_the_probe_has_no_result_for_a_single_experiment():
    assert probe_batch(np.zeros((10, 2)), pd.Series(["A"] * 10), pd.Series(["x"] * 10))["chance"] is None


def test_scores_at_chance_are_recognized():
    few = {"interval": None, "chance": 0.01, "by_experiment": {"a": 0.012, "b": 0.2, "c": 0.008, "d": 0.01}}
    assert no_better_than_chance(few) and not no_better_than_chance(
        few | {"by_experiment": {"a": 0.1, "b": 0.2, "c": 0.01}}
    )
    assert no_better_than_chance(few | {"interval": [0.005, 0.02]}) and not no_better_than_chance(
        few | {"interval": [0.02, 0.03]}
    )


def experiments_of(right, seed):
    """Scores of 6 experiments of 12 wells and 12 perturbations, of which a share ``right`` is right, and their labels."""
    rng = np.random.default_rng(seed)
    wells = [f"{row}{column:02d}" for row in "BC" for column in range(2, 8)]
    table = pd.DataFrame(
        [(f"E-{e}", "1", well) for e in range(6) for well in wells], columns=["experiment", "plate", "well"]
    )
    table["id_code"] = table["experiment"] + "_1_" + table["well"]
    truth = np.tile(np.arange(12), 6)
    call = np.where(rng.random(72) < right, truth, (truth + rng.integers(1, 12, 72)) % 12)
    logits = rng.normal(0, 0.1, (72, 12)) + 5 * np.eye(12)[call]
    scores = pd.DataFrame(logits, columns=[f"score_{k}" for k in range(12)])
    labels = pd.DataFrame({"id_code": table["id_code"], "perturbation": truth.astype(str)})
    table = table.assign(role="heldout", fold=0, site=1, n_sites=1, entropy=0.0, tier="T1, plate design not excluded")
    return pd.concat([table, scores], axis=1), labels


def with_redealt(share, **changes):
    scores, labels = experiments_of(0.8, 0)
    dealt, dealt_labels = experiments_of(share, 1)
    wells = scores[["id_code", "experiment", "plate", "well"]].assign(cell_type="x", target=True, perturbation=None)
    steps = scores[["id_code", "experiment", "role", "tier"]].assign(
        step="plain", call=labels["perturbation"], candidates=12
    )
    layout = pd.DataFrame({"perturbation": [str(k) for k in range(12)], "group": 0})
    return evaluation(
        well_scores=scores, site_logits=scores.head(0), heldout_labels=labels, wells=wells, layout=layout, baseline_logits=scores.head(0),
        steps=steps, redealt_logits=dealt.assign(role="redealt"), redealt_labels=dealt_labels, **changes,
    )  # fmt: skip


@pytest.mark.parametrize(("share", "tier"), [(0.8, "T1"), (0.95, "T1"), (0.3, "T2")])
def test_the_re_dealt_control_decides_the_tier_of_every_plain_score(share, tier):
    scores = with_redealt(share)
    control = scores["plate_design"]["redealt"][0]
    assert control["of"] == "model" and control["loses_nothing"] is (tier == "T1")
    assert scores["heldout"]["well"]["tier"] == scores["steps"][0]["tier"] == tier
    assert (scores["headline"] is None) is (tier == "T2")
    text = format_scores(scores)
    assert "dealt anew: model" in text and ("no loss" in text) is (tier == "T1")
    assert ("the plain calls owe something to the plate design, so their tier is T2" in text) is (tier == "T2")


def test_without_re_dealt_plates_the_doubt_stays_and_is_said():
    scores, labels = experiments_of(0.8, 0)
    no_rows = with_redealt(0.8, **{})["plate_design"]
    assert no_rows["redealt"]
    doubt = evaluation(well_scores=wide(30, 6).assign(tier="T1, plate design not excluded"))
    assert doubt["headline"]["tier"] == doubt["heldout"]["well"]["tier"] == "T1, plate design not excluded"
    text = format_scores(doubt)
    assert "T1?" in text and "?: plate design not excluded" in text and "nothing can be dealt anew here" in text


def baseline_rows(name, tier, share, seed):
    scores, _ = experiments_of(share, seed)
    return scores.assign(baseline=name, tier=tier)


def test_the_gain_is_quoted_against_the_best_baseline_that_knows_no_more():
    baselines = pd.concat(
        [
            baseline_rows("hand features", "T1", 0.2, 2),
            baseline_rows("by experiment", "T1", 0.5, 3),
            baseline_rows("by plate controls", "T1c", 0.7, 4),  # knows the controls, which the model does not
        ]
    )
    scores = with_redealt(0.8, **{})
    assert scores["baseline"] is None and scores["against_baseline"] is None
    scores, labels = experiments_of(0.8, 0)
    wells = scores[["id_code", "experiment", "plate", "well"]].assign(cell_type="x", target=True, perturbation=None)
    inputs = dict(
        site_logits=scores.head(0), heldout_labels=labels, wells=wells, steps=scores.head(0).assign(step="", call="", candidates=1),
        layout=pd.DataFrame({"perturbation": [str(k) for k in range(12)], "group": 0}),
    )  # fmt: skip
    t1 = evaluation(well_scores=scores.assign(tier="T1"), baseline_logits=baselines, **inputs)
    assert [b["name"] for b in t1["baselines"]] == ["hand features", "by experiment", "by plate controls"]
    assert t1["baseline"]["name"] == "by experiment"
    assert t1["against_baseline"]["gain"] == pytest.approx(t1["heldout"]["well"]["top1"] - t1["baseline"]["top1"])
    t1c = evaluation(well_scores=scores.assign(tier="T1c"), baseline_logits=baselines, **inputs)
    assert t1c["baseline"]["name"] == "by plate controls"
    assert "gain over the best baseline (hand features, z-scored by experiment)" in format_scores(t1)


def test_labels_of_wells_that_are_not_on_the_screen_are_counted(caplog):
    _check_labels({"E_1_A01": "a", "E_9_Z01": "b", "E_9_Z02": "b"}, {"E_1_A01"}, {"E_1_A01", "E_1_A02"}, "mine")
    assert (
        "heldout_labels: 2 of 3 wells are not on the screen 'mine' and are not scored: E_9_Z01, E_9_Z02" in caplog.text
    )
    caplog.clear()
    _check_labels({"E_1_A01": "a", "E_1_A02": "b"}, {"E_1_A01"}, {"E_1_A01", "E_1_A02"}, "mine")  # A02 is a control
    assert not caplog.text
