"""The three controls of plate design, on calls whose knowledge of the plate is known."""

import numpy as np
import pandas as pd
import pytest

from deepnoise.evaluation.plate_design import group_share, redealt_score, redrawn_calls

EXPERIMENTS, PLATES, SIZE = 8, 4, 10
CLASSES = PLATES * SIZE


def calls_of(knowledge, right=0.3, experiments=EXPERIMENTS, seed=0):
    """Calls of which a share ``right`` is right; a share ``knowledge`` of the wrong ones falls inside the plate, the rest anywhere."""
    rng = np.random.default_rng(seed)
    rows = []
    for e in range(experiments):
        for p in range(PLATES):
            contents = np.arange(p * SIZE, (p + 1) * SIZE)
            for name in contents:
                wrong = np.setdiff1d(contents if rng.random() < knowledge else np.arange(CLASSES), name)
                call = name if rng.random() < right else rng.choice(wrong)
                rows.append((f"E-{e}", str(p), str(name), str(call)))
    return pd.DataFrame(rows, columns=["experiment", "plate", "perturbation", "call"])


def test_wrong_calls_of_a_model_that_knows_nothing_fall_inside_the_plate_as_often_as_by_chance():
    shares = [group_share(calls_of(0.0, seed=s), CLASSES) for s in range(12)]
    assert {round(s["chance"], 6) for s in shares} == {round((SIZE - 1) / (CLASSES - 1), 6)}
    assert np.mean([s["share"] for s in shares]) == pytest.approx(9 / 39, abs=0.02)
    assert sum(s["above_chance"] for s in shares) <= 2


def test_a_model_that_knows_the_plate_is_found():
    share = group_share(calls_of(0.4), CLASSES)
    assert share["above_chance"] and share["share"] == pytest.approx(0.4 + 0.6 * 9 / 39, abs=0.06)
    assert share["excess"] == pytest.approx(share["share"] - share["chance"])
    assert share["n"] == (calls_of(0.4)["call"] != calls_of(0.4)["perturbation"]).sum()


def test_few_experiments_must_all_agree():
    assert group_share(calls_of(0.8, experiments=3), CLASSES)["above_chance"]
    assert group_share(calls_of(0.8, experiments=3), CLASSES)["excess_interval"] is None
    alarms = [group_share(calls_of(0.0, experiments=3, seed=s), CLASSES)["above_chance"] for s in range(40)]
    assert sum(alarms) <= 4  # three experiments above chance alone would be 1 in 8
    one = group_share(calls_of(0.8, experiments=1), CLASSES)
    assert not one["above_chance"]  # one experiment decides nothing


def test_nothing_is_said_without_a_wrong_call_or_where_a_plate_holds_all_perturbations():
    assert group_share(calls_of(0.0, right=1.0), CLASSES) is None
    whole = calls_of(0.0).assign(plate="1")
    assert group_share(whole, CLASSES) is None
    assert group_share(calls_of(0.0).head(0), CLASSES) is None


def test_top1_as_designed_and_dealt_anew_is_paired_by_experiment_and_perturbation():
    key = [(f"E-{e}", str(p)) for e in range(6) for p in range(20)]
    designed = pd.DataFrame(key, columns=["experiment", "perturbation"]).assign(right=[True, False] * 60)
    redealt = designed.assign(right=[True] * 60 + [False] * 60).sample(frac=1, random_state=0)
    score = redealt_score("model", designed, redealt)
    assert score["designed"] == 0.5 and score["redealt"] == 0.5 and score["gain"] == 0 and score["n"] == 120
    assert score["of"] == "model" and score["experiments"] == 6 and score["loses_nothing"]
    lost = redealt_score("model", designed, designed.assign(right=False))
    assert lost["gain"] == -0.5 and lost["loses_nothing"] is False
    fewer = redealt_score("model", designed, redealt[redealt["perturbation"] != "3"])
    assert fewer["n"] == 114  # a well that is missing on one side is on neither
    assert redealt_score("model", designed, redealt.assign(perturbation="x")) is None
    few = redealt_score("model", designed[designed["experiment"] < "E-3"], redealt)
    assert few["gain_interval"] is None and few["loses_nothing"] is None


LAYOUT = pd.DataFrame({"perturbation": [str(i) for i in range(CLASSES)], "group": np.arange(CLASSES) // SIZE})


def redrawn_of(knowledge, experiments=EXPERIMENTS, right=0.3):
    """Calls whose knowledge of the plate is gone under the statistics of random parts."""
    own = calls_of(knowledge, right, experiments)
    parts = [calls_of(0.0, right, experiments, seed)["call"] for seed in (1, 2)]
    return own.assign(role="heldout", fold=0, call_first=parts[0], call_second=parts[1])


def test_calls_of_a_plate_that_stand_together_only_under_its_own_statistics_are_found():
    knows = redrawn_calls(redrawn_of(0.6), LAYOUT)["heldout"]
    assert knows["above_chance"] and knows["together"] > knows["redrawn"] + 0.15
    assert knows["excess"] == pytest.approx(knows["together"] - knows["redrawn"])
    # calls that are right stand together too, under any statistics: that is no plate design
    honest = redrawn_calls(redrawn_of(0.0, right=0.7), LAYOUT)["heldout"]
    assert not honest["above_chance"] and honest["redrawn"] > 0.5
    assert 0 < honest["changed"] < 1


def test_pairs_of_calls_are_counted_on_one_plate_alone():
    table = pd.DataFrame({"experiment": "E-0", "plate": ["1", "1", "1", "2"], "call": ["0", "1", "10", "10"]})
    table = table.assign(
        role="heldout", fold=0, call_first=["0", "10", "20", "10"], call_second=["0", "10", "20", "10"]
    )
    calls = redrawn_calls(table, LAYOUT)["heldout"]
    assert calls["together"] == pytest.approx((0.5 + 0.5 + 0 + 0) / 4) and calls["redrawn"] == 0
    assert calls["changed"] == 0.5 and not calls["above_chance"]


def test_a_difference_that_poorer_statistics_explain_is_tolerated():
    small = redrawn_calls(redrawn_of(0.12, experiments=40), LAYOUT)["heldout"]
    assert 0 < small["excess"] < 0.06 and not small["above_chance"]


def test_without_plate_groups_nothing_is_said_of_random_parts():
    assert redrawn_calls(redrawn_of(0.6), LAYOUT.assign(group=0)) == {}
    assert redrawn_calls(redrawn_of(0.6).head(0), LAYOUT) == {}
