"""Plate balancing against brute force, scipy and invariances."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepnoise.errors import InputError
from deepnoise.plate_balancing.balancing import FORBIDDEN, METHODS, assign, balance, make_calls, sinkhorn
from deepnoise.plate_balancing.groups import FLOOR, infer_groups
from deepnoise.plate_balancing.scores import log_softmax, pool_scores
from deepnoise.tables import SCORE, matrix

OPTIONS = dict(
    group_inference="infer", group_posterior=0.95, method="sinkhorn", temperature=1.0, iterations=500, tolerance=1e-6
)


def screen_scores(signal, rng, plates=4, size=6, experiments=2):
    """Scores of a screen with plate groups: (pooled table, layout, truth)."""
    classes = plates * size
    rows, truth, values = [], {}, []
    for e in range(experiments):
        groups = rng.permutation(plates)
        for p in range(plates):
            members = groups[p] * size + rng.permutation(size)
            for w, c in enumerate(members):
                code = f"E{e}_{p}_A{w + 1:02d}"
                rows.append((code, f"E{e}", str(p), f"A{w + 1:02d}", "heldout", "T1"))
                truth[code] = str(c)
                score = rng.normal(0, 1, classes)
                score[c] += signal
                values.append(score)
    table = pd.DataFrame(rows, columns=["id_code", "experiment", "plate", "well", "role", "tier"])
    names = [f"{SCORE}{c}" for c in range(classes)]
    table = pd.concat([table, pd.DataFrame(np.array(values), columns=names)], axis=1)
    layout = pd.DataFrame({"perturbation": [str(c) for c in range(classes)], "group": np.arange(classes) // size})
    return table, layout, truth


def accuracy(steps, truth):
    return {s: float((g["call"] == g["id_code"].map(truth)).mean()) for s, g in steps.groupby("step")}


def test_group_inference_is_the_best_of_all_permutations():
    rng = np.random.default_rng(0)
    for _ in range(20):
        log_p = log_softmax(rng.normal(0, 2, (16, 12)))
        plate, group_of_class = np.repeat(np.arange(4), 4), np.repeat(np.arange(4), 3)
        found = infer_groups(log_p, plate, group_of_class, 0.95)
        mass = np.stack([np.exp(log_p)[:, group_of_class == g].sum(1) for g in range(4)], 1)
        score = np.log(np.clip(mass, FLOOR, None))
        totals = {p: sum(score[i, p[plate[i]]] for i in range(16)) for p in permutations(range(4))}
        ranked = sorted(totals, key=totals.get, reverse=True)
        assert tuple(found.groups) == ranked[0]
        assert found.margin * 16 == pytest.approx(totals[ranked[0]] - totals[ranked[1]], abs=1e-9)


def test_groups_are_undecided_on_random_scores_and_decided_on_good_ones():
    rng = np.random.default_rng(1)
    plate, group_of_class = np.repeat(np.arange(4), 60), np.repeat(np.arange(4), 60)
    decided = [
        infer_groups(log_softmax(rng.normal(0, 3, (240, 240))), plate, group_of_class, 0.95).decided for _ in range(100)
    ]
    assert np.mean(decided) <= 0.05
    table, layout, _ = screen_scores(4.0, rng, size=20)
    _, _, groups = balance(table, layout, **OPTIONS)
    assert groups["decided"].all()


def test_equal_scores_decide_nothing():
    flat = np.full((16, 12), np.log(1 / 12))
    found = infer_groups(flat, np.repeat(np.arange(4), 4), np.repeat(np.arange(4), 3), 0.95)
    assert not found.decided and found.posterior == 0.5


def test_more_plates_than_groups_leaves_plates_without_group():
    rng = np.random.default_rng(2)
    found = infer_groups(
        log_softmax(rng.normal(0, 1, (20, 6))), np.repeat(np.arange(5), 4), np.repeat(np.arange(2), 3), 0.95
    )
    assert sorted(found.groups)[:3] == [-1, -1, -1] and set(found.groups) >= {0, 1}


@pytest.mark.parametrize(("wells", "classes"), [(5, 5), (4, 6), (7, 5)])
def test_sinkhorn_reaches_its_marginals(wells, classes):
    log_p = log_softmax(np.random.default_rng(3).normal(0, 1, (wells, classes)))
    before = log_p.copy()
    balanced = np.exp(sinkhorn(log_p, 2000, 1e-9))
    np.testing.assert_array_equal(log_p, before)
    np.testing.assert_allclose(balanced.sum(axis=1), 1, atol=1e-9)
    used = balanced.sum(axis=0)
    if wells >= classes:
        np.testing.assert_allclose(used, wells / classes, atol=1e-6)
    else:
        assert (used <= 1 + 1e-6).all()


def test_sinkhorn_agrees_with_plain_alternate_scaling():
    p = np.exp(log_softmax(np.random.default_rng(11).normal(0, 2, (6, 6))))
    slow = p.copy()
    for _ in range(3000):
        slow /= slow.sum(axis=0, keepdims=True)
        slow /= slow.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(sinkhorn(np.log(p), 3000, 1e-12)), slow, atol=1e-9)


def test_sinkhorn_of_a_balanced_plate_changes_nothing_and_ignores_a_bias_of_a_class():
    rng = np.random.default_rng(4)
    log_p = log_softmax(rng.normal(0, 1, (6, 6)))
    balanced = sinkhorn(log_p, 5000, 1e-12)
    np.testing.assert_allclose(sinkhorn(balanced, 10, 1e-6), balanced, atol=1e-6)
    np.testing.assert_allclose(sinkhorn(log_softmax(log_p + rng.normal(0, 2, 6)), 5000, 1e-12), balanced, atol=1e-6)


def test_assignment_is_the_best_of_all_permutations_and_uses_each_class_once():
    rng = np.random.default_rng(5)
    for _ in range(10):
        log_p = log_softmax(rng.normal(0, 1, (5, 5)))
        calls = assign(log_p)
        best = max(permutations(range(5)), key=lambda p: sum(log_p[i, p[i]] for i in range(5)))
        assert tuple(calls) == best


def test_assignment_never_uses_a_forbidden_class():
    log_p = np.log(np.array([[0.9, 0.1], [0.8, 0.2]]))
    log_p[:, 1] = FORBIDDEN
    assert assign(log_p).tolist() == [0, 0]


def test_each_step_gains_where_the_design_holds():
    rng = np.random.default_rng(6)
    table, layout, truth = screen_scores(2.5, rng, size=25, experiments=3)
    before = table.copy()
    probabilities, steps, _ = balance(table, layout, **OPTIONS)
    pd.testing.assert_frame_equal(table, before)
    score = accuracy(steps, truth)
    assert score["plain"] < score["group_filter"] < min(score["sinkhorn"], score["assignment"])
    np.testing.assert_allclose(matrix(probabilities, SCORE).sum(axis=1), 1, atol=1e-9)
    calls = make_calls(steps, "sinkhorn")
    assert set(calls["tier"]) == {"T2"} and (calls["id_code"].map(truth) == calls["t2_call"]).mean() == pytest.approx(
        score["sinkhorn"]
    )
    assert set(steps.loc[steps["step"] == "plain", "tier"]) == {"T1"}
    assert steps.loc[steps["step"] == "group_filter", "candidates"].eq(25).all()
    once = make_calls(steps, "assignment").groupby(["experiment", "plate"])["t2_call"]
    assert once.nunique().equals(once.size())


def test_random_scores_stay_at_chance():
    table, layout, truth = screen_scores(0.0, np.random.default_rng(7), size=25, experiments=4)
    _, steps, groups = balance(table, layout, **OPTIONS)
    for value in accuracy(steps, truth).values():
        assert value < 0.04  # chance 0.01; 400 wells
    assert groups["posterior"].max() < 0.99


def test_none_is_a_real_choice():
    table, layout, _ = screen_scores(2.0, np.random.default_rng(8))
    probabilities, steps, groups = balance(table, layout, **OPTIONS | {"group_inference": "none", "method": "none"})
    calls = make_calls(steps, "none")
    assert set(steps["step"]) == {"plain"} and groups.empty
    assert (calls["t1_call"] == calls["t2_call"]).all() and set(calls["tier"]) == {"T1"} == set(probabilities["tier"])
    assert "none" in METHODS


@pytest.mark.parametrize(
    ("tier", "after"),
    [
        ("T3", "T2+T3"),
        ("unknown", "T2+unknown"),
        ("T1c", "T2"),
        ("T2", "T2"),
        ("T2+T3", "T2+T3"),
        ("T2+unknown", "T2+unknown"),
    ],
)
def test_tiers_are_carried(tier, after):
    table, layout, _ = screen_scores(2.0, np.random.default_rng(9))
    _, steps, _ = balance(table.assign(tier=tier), layout, **OPTIONS)
    assert set(steps.loc[steps["step"] == "sinkhorn", "tier"]) == {after}
    assert set(steps.loc[steps["step"] == "plain", "tier"]) == {tier}


def test_invariances_order_of_wells_a_constant_a_well_and_names_of_classes():
    table, layout, _ = screen_scores(2.0, np.random.default_rng(10))
    scores = [c for c in table.columns if c.startswith(SCORE)]
    calls = make_calls(balance(table, layout, **OPTIONS)[1], "sinkhorn").set_index("id_code")["t2_call"]
    shuffled = table.sample(frac=1, random_state=0).reset_index(drop=True)
    shuffled[scores] = shuffled[scores].add(np.random.default_rng(0).normal(0, 5, len(table)), axis=0)
    again = make_calls(balance(shuffled, layout, **OPTIONS)[1], "sinkhorn").set_index("id_code")["t2_call"]
    assert again.loc[calls.index].equals(calls)
    renamed = table.rename(columns={c: c + "x" for c in scores})
    other = make_calls(
        balance(renamed, layout.assign(perturbation=layout["perturbation"] + "x"), **OPTIONS)[1], "sinkhorn"
    )
    assert (other.set_index("id_code")["t2_call"].str.removesuffix("x") == calls).all()


@settings(max_examples=25, deadline=None)
@given(
    wells=st.integers(1, 9), classes=st.integers(1, 7), spread=st.sampled_from([0.1, 3, 300]), seed=st.integers(0, 999)
)
def test_any_plate_gives_probabilities_and_calls(wells, classes, spread, seed):
    log_p = log_softmax(np.random.default_rng(seed).normal(0, spread, (wells, classes)))
    balanced = sinkhorn(log_p, 200, 1e-4)
    assert np.isfinite(balanced).all()
    np.testing.assert_allclose(np.exp(balanced).sum(axis=1), 1, atol=1e-9)
    calls = assign(log_p)
    assert ((calls >= 0) & (calls < classes)).all()
    if wells <= classes:
        assert len(set(calls)) == wells


def test_an_unknown_method_lists_the_known_ones():
    table, layout, _ = screen_scores(1.0, np.random.default_rng(0))
    with pytest.raises(InputError, match="'greedy'; allowed: none, sinkhorn, assignment"):
        balance(table, layout, **OPTIONS | {"method": "greedy"})


# pooling -----------------------------------------------------------------------------------------------------------

WELLS = pd.DataFrame(
    {
        "id_code": ["a", "b", "c"],
        "experiment": "E",
        "plate": "1",
        "well": ["A01", "A02", "A03"],
        "perturbation": None,
        "target": [True, True, False],
    }
)


def test_long_scores_are_summed_and_what_is_not_listed_scores_zero():
    long = pd.DataFrame(
        {"id_code": ["a", "a", "b"], "perturbation": ["2", "2", "10"], "score": [0.5, 0.25, 1.0], "tier": "unknown"}
    )
    pooled = pool_scores(long, WELLS).set_index("id_code")
    assert pooled[["score_2", "score_10"]].loc["a"].tolist() == [0.75, 0.0]
    assert pooled[["score_2", "score_10"]].loc["b"].tolist() == [0.0, 1.0]


def test_a_well_that_is_held_out_in_one_fold_and_validates_another_is_scored_held_out():
    wide = pd.DataFrame(
        {
            "id_code": ["a", "a", "b"],
            "tier": "T1",
            "role": ["validation", "heldout", "validation"],
            "score_x": [9.0, 2.0, 3.0],
            "score_y": 0.0,
        }
    )
    pooled = pool_scores(wide, WELLS).set_index("id_code")
    assert pooled["role"].to_dict() == {"a": "heldout", "b": "validation"}
    assert pooled["score_x"].to_dict() == {"a": 2.0, "b": 3.0}


def test_wide_scores_of_several_folds_are_averaged_and_controls_left_out():
    wide = pd.DataFrame(
        {
            "id_code": ["a", "a", "c"],
            "tier": "T1",
            "role": "heldout",
            "score_x": [1.0, 2.0, 9.0],
            "score_y": [0.0, 0.0, 0.0],
        }
    )
    pooled = pool_scores(wide, WELLS)
    assert pooled["id_code"].tolist() == ["a"] and pooled.loc[0, "score_x"] == 1.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id_code": "zz"}, "1 wells that the screen does not have: zz"),
        ({"score": np.nan}, "score nan of well a"),
        ({"score": np.inf}, "score inf"),
        ({"id_code": "c"}, "no row for a target well"),
    ],
)
def test_bad_scores_are_named(change, message):
    long = pd.DataFrame([{"id_code": "a", "perturbation": "2", "score": 1.0, "tier": "T1"} | change])
    with pytest.raises(InputError, match=message):
        pool_scores(long, WELLS)


def test_a_perturbation_that_the_screen_does_not_know_is_named(caplog):
    wells = WELLS.assign(perturbation=["x", "y", None])
    pool_scores(pd.DataFrame({"id_code": ["a"], "tier": "T1", "score_x": [1.0], "score_banana": [2.0]}), wells)
    assert "1 perturbations that no labelled well of the screen carries (banana)" in caplog.text


def test_mixed_tiers_and_unfinished_wide_scores_are_refused():
    wide = pd.DataFrame({"id_code": ["a", "b"], "tier": ["T1", "T3"], "score_x": [1.0, 2.0]})
    with pytest.raises(InputError, match="mixes tiers T1, T3"):
        pool_scores(wide, WELLS)
    with pytest.raises(InputError, match="well b has a score that is no finite number"):
        pool_scores(wide.assign(tier="T1", score_x=[1.0, np.nan]), WELLS)
