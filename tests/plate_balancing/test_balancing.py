"""The steps of plate balancing over a whole table: groups, filter, methods, tiers, invariances, bad input."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepnoise.errors import InputError
from deepnoise.parameters import PlateBalancingParameters
from deepnoise.plate_balancing.balancing import (
    STRAY_SHARE,
    Calibration,
    DesignKnowledge,
    _group_orders_of_others,
    _Step,
    apply_steps,
    balance,
    balance_plate,
    call_sharpness,
    choose_method,
    list_steps,
    make_calls,
    probability_table,
    read_plates,
    tied_calls,
)
from deepnoise.plate_balancing.scores import fill_unlisted, log_probabilities, log_softmax, pool_scores
from deepnoise.plate_balancing.temperature import LIST_SHARPNESS, fit_to_labels
from deepnoise.tables import SCORE, matrix
from tests.plate_balancing.helpers import PARAMETERS, screen_scores

METHODS = ("matching", "sinkhorn", "assignment", "greedy")


def accuracy(steps, truth):
    return {s: float((g["call"] == g["id_code"].map(truth)).mean()) for s, g in steps.groupby("step")}


def last_calls(table, knowledge, parameters=PARAMETERS):
    steps = balance(table, knowledge, parameters).steps
    return steps[steps["step"] == steps["step"].iloc[-1]].set_index("id_code")["call"]


def test_each_step_improves_accuracy_where_the_design_holds():
    table, layout, truth = screen_scores(2.5, np.random.default_rng(6), size=25, experiments=3)
    before = table.copy()
    parameters = PARAMETERS.model_copy(update={"compare": list(METHODS)})
    balanced = balance(table, DesignKnowledge(layout), parameters)
    pd.testing.assert_frame_equal(table, before)
    score = accuracy(balanced.steps, truth)
    assert score["plain"] < score["group_filter"] < min(score[name] for name in METHODS)
    wide = probability_table(balanced, table)
    assert set(wide["step"]) == {"plain", "group_filter", "matching"}
    np.testing.assert_allclose(matrix(wide, SCORE).sum(axis=1), 1, atol=1e-5)
    assert set(wide.loc[wide["step"] == "plain", "tier"]) == {"T1"} and set(balanced.steps["step"]) == {
        "plain",
        "group_filter",
        *METHODS,
    }
    assert balanced.steps.loc[balanced.steps["step"] == "group_filter", "candidates"].eq(25).all()
    for step in ("confidence", "margin", "entropy"):
        assert np.isfinite(balanced.steps[step]).all()
    assert balanced.steps["confidence"].between(0, 1).all() and (balanced.steps["entropy"] >= 0).all()
    assigned = balanced.steps[balanced.steps["step"] == "assignment"].groupby(["experiment", "plate"])["call"]
    assert assigned.nunique().equals(assigned.size())


def test_calls_say_what_changed_and_why():
    table, layout, truth = screen_scores(2.5, np.random.default_rng(6), size=25, experiments=3)
    knowledge = DesignKnowledge(layout)
    steps = balance(table, knowledge, PARAMETERS).steps
    calls = make_calls(steps, table, knowledge, precision=0.9)
    assert set(calls["tier"]) == {"T2"} and set(steps.loc[steps["step"] == "plain", "tier"]) == {"T1"}
    assert (calls["changed"] == (calls["plain_call"] != calls["design_call"])).all() and (
        calls["changed"] == (calls["reason"] != "")
    ).all()
    group = layout.set_index("perturbation")["group"]
    on_plate = calls["id_code"].map(truth).map(group)
    outside = calls[calls["plain_call"].map(group) != on_plate]
    assert len(outside) and outside["reason"].str.endswith("is not on this plate").all()
    displaced = calls[calls["reason"].str.contains(" is in ")]
    for row in displaced.itertuples():
        well = row.reason.split(" is in ")[1].split(" (")[0]
        holder = calls[
            (calls["experiment"] == row.experiment) & (calls["plate"] == row.plate) & (calls["well"] == well)
        ]
        assert holder["design_call"].tolist() == [row.plain_call]
    assert calls.loc[calls["design_confident"], "design_confidence"].mean() >= 0.9 and not calls["tied"].any()


@pytest.mark.parametrize("size", [25, 60])
def test_random_scores_stay_at_chance_and_no_call_is_confident(size):
    table, layout, truth = screen_scores(0.0, np.random.default_rng(7), size=size, experiments=4)
    balanced = balance(table, DesignKnowledge(layout), PARAMETERS)
    for value in accuracy(balanced.steps, truth).values():
        assert value < 5 / (4 * size)
    assert not balanced.groups["decided"].any()
    assert balanced.steps["confidence"].max() < 0.3  # one in 100 classes, and flat
    assert not make_calls(balanced.steps, table, DesignKnowledge(layout), 0.9)["design_confident"].any()


def test_a_missing_or_repeated_class_does_not_spoil_the_other_calls():
    table, layout, truth = screen_scores(6.0, np.random.default_rng(12), size=12, experiments=1)
    fewer = table.drop(index=[0, 5, 17]).reset_index(drop=True)
    assert (last_calls(fewer, DesignKnowledge(layout)) == fewer.set_index("id_code").index.map(truth)).mean() > 0.95
    extra = pd.concat([table, table.iloc[[3]].assign(id_code="E0_0_extra", well="H12")], ignore_index=True)
    calls = last_calls(extra, DesignKnowledge(layout))
    assert calls["E0_0_extra"] == truth[table["id_code"][3]] == calls[table["id_code"][3]]


def test_given_plate_contents_filter_without_inference():
    table, layout, truth = screen_scores(2.0, np.random.default_rng(13), size=8, experiments=2)
    names = table["id_code"].map(truth)
    contents = table[["experiment", "plate"]].assign(perturbation=names, wells=1)
    known_plate = contents[(contents["experiment"] == "E0") & (contents["plate"] == "0")]
    flat = layout.assign(group=0)
    steps = balance(table, DesignKnowledge(flat, contents=known_plate), PARAMETERS).steps
    filtered = steps[steps["step"] == "group_filter"]
    on_known_plate = (filtered["experiment"] == "E0") & (filtered["plate"] == "0")
    assert (
        filtered.loc[on_known_plate, "candidates"].eq(8).all()
        and filtered.loc[~on_known_plate, "candidates"].eq(32).all()
    )
    allowed = set(known_plate["perturbation"])
    for _, rows in steps[(steps["experiment"] == "E0") & (steps["plate"] == "0") & (steps["step"] != "plain")].groupby(
        "step"
    ):
        assert set(rows["call"]) <= allowed
    with pytest.raises(InputError, match="plate_contents names 1 perturbations without scores: banana"):
        balance(
            table,
            DesignKnowledge(
                layout, contents=known_plate.assign(perturbation=["banana", *known_plate["perturbation"][1:]])
            ),
            PARAMETERS,
        )


def test_replicates_of_a_class_fill_its_slots():
    rng = np.random.default_rng(14)
    label = np.repeat(np.arange(4), [6, 2, 1, 1])
    values = rng.normal(0, 0.5, (10, 4))
    values[np.arange(10), label] += 1.0
    table = pd.DataFrame(
        {"id_code": [f"w{i}" for i in range(10)], "experiment": "E", "plate": "1", "role": "heldout", "tier": "T1"}
    )
    table["well"] = [f"A{i + 1:02d}" for i in range(10)]
    table = table.join(pd.DataFrame(values, columns=[f"{SCORE}{c}" for c in "abcd"]))
    layout = pd.DataFrame({"perturbation": list("abcd"), "group": 0, "per_plate": [6, 2, 1, 1]})
    for method in METHODS[:3]:
        calls = last_calls(
            table, DesignKnowledge(layout), PARAMETERS.model_copy(update={"method": method, "temperature": 0.3})
        )
        counts = calls.value_counts()
        assert counts["a"] == 6 and counts["b"] == 2, method


def test_none_is_a_real_choice():
    table, layout, _ = screen_scores(2.0, np.random.default_rng(8))
    parameters = PARAMETERS.model_copy(update={"group_inference": "none", "method": "none"})
    balanced = balance(table, DesignKnowledge(layout), parameters)
    calls = make_calls(balanced.steps, table, DesignKnowledge(layout), 0.9)
    assert set(balanced.steps["step"]) == {"plain"} and balanced.groups.empty
    assert (
        (calls["plain_call"] == calls["design_call"]).all()
        and set(calls["tier"]) == {"T1"}
        and not calls["changed"].any()
    )


@pytest.mark.parametrize(
    ("method", "compare", "filtered", "steps"),
    [
        ("matching", ["sinkhorn"], True, ["plain", "group_filter", "sinkhorn", "matching"]),
        ("matching", ["none", "matching"], False, ["plain", "matching"]),
        ("none", ["sinkhorn", "assignment"], True, ["plain", "sinkhorn", "assignment", "group_filter"]),
        ("none", ["sinkhorn"], False, ["plain", "sinkhorn", "group_filter"]),
        ("none", [], True, ["plain", "group_filter"]),
        ("none", [], False, ["plain"]),
        ("group_filter", ["sinkhorn"], True, ["plain", "sinkhorn", "group_filter"]),
    ],
)
def test_the_chosen_method_comes_last_also_where_it_is_the_filter_alone(method, compare, filtered, steps):
    assert list_steps(method, compare, filtered) == steps


def test_with_method_none_the_design_calls_are_those_of_the_filter():
    table, layout, _ = screen_scores(2.0, np.random.default_rng(8))
    own = PARAMETERS.model_copy(update={"method": "none", "compare": ["sinkhorn", "assignment"]})
    found = balance(table, DesignKnowledge(layout), own)
    calls = make_calls(found.steps, table, DesignKnowledge(layout), 0.9).set_index("id_code")
    of_step = {name: rows.set_index("id_code")["call"] for name, rows in found.steps.groupby("step")}
    assert calls["design_call"].equals(of_step["group_filter"].loc[calls.index].rename("design_call"))
    assert not calls["design_call"].equals(of_step["assignment"].loc[calls.index].rename("design_call"))


def test_a_reason_says_where_else_a_perturbation_is_called():
    names = ["a", "b", "c", "d"]
    step = _Step(4, "matching")
    p = np.array([[0.1, 0.9, 0, 0], [0.6, 0.4, 0, 0], [0.7, 0.3, 0, 0], [0.2, 0, 0.8, 0]]) + 1e-9
    step.record(np.arange(4), np.log(p), np.array([1, 0, 0, 2]), np.arange(4), 4)
    wells, capacity = np.array(["A01", "A02", "A03", "A04"], object), np.array([2, 1, 1, 0])
    step.explain(np.arange(4), np.array([0, 0, 0, 3]), capacity, wells, names)
    reasons = list(step.table(pd.DataFrame(index=range(4)), names)["reason"])
    assert reasons == ["a is in A03 (probability 0.70) and 1 more", "", "", "d is not on this plate"]
    step.explain(np.arange(4), np.array([0, 0, 0, 3]), np.ones(4, int), wells, names)
    assert step.table(pd.DataFrame(index=range(4)), names)["reason"][3] == "d is called in no well of this plate"


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
def test_balanced_calls_add_t2_to_the_tier(tier, after):
    table, layout, _ = screen_scores(2.0, np.random.default_rng(9))
    steps = balance(table.assign(tier=tier), DesignKnowledge(layout), PARAMETERS).steps
    assert set(steps.loc[steps["step"] == "matching", "tier"]) == {after}
    assert set(steps.loc[steps["step"] == "plain", "tier"]) == {tier}


@pytest.mark.parametrize("method", METHODS)
def test_calls_do_not_depend_on_well_order_score_offsets_or_class_names(method):
    table, layout, _ = screen_scores(3.0, np.random.default_rng(10))
    parameters = PARAMETERS.model_copy(update={"method": method})
    scores = [c for c in table.columns if c.startswith(SCORE)]
    calls = last_calls(table, DesignKnowledge(layout), parameters)
    shuffled = table.sample(frac=1, random_state=0).reset_index(drop=True)
    shuffled[scores] = shuffled[scores].add(np.random.default_rng(0).normal(0, 5, len(table)), axis=0)
    assert last_calls(shuffled, DesignKnowledge(layout), parameters).loc[calls.index].equals(calls)
    renamed = table.rename(columns={c: c + "x" for c in scores})
    renamed_calls = last_calls(
        renamed, DesignKnowledge(layout.assign(perturbation=layout["perturbation"] + "x")), parameters
    )
    assert (renamed_calls.str.removesuffix("x") == calls).all()


@settings(max_examples=25, deadline=None)
@given(
    wells=st.integers(1, 9),
    classes=st.integers(2, 7),
    doubled=st.booleans(),
    named=st.integers(1, 7),
    seed=st.integers(0, 999),
)
def test_any_table_gives_probabilities_and_calls(wells, classes, doubled, named, seed):
    """Missing wells, too many wells, the same class twice, and lists with few classes."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 3, (wells, classes))
    rank = np.argsort(-values, axis=1).argsort(axis=1)
    values[rank >= named] = np.nan
    if doubled:
        values[:, 0] = values[:, -1]
        values[np.isnan(values).all(axis=1)] = 0.0
    names = [f"{SCORE}{c}" for c in range(classes)]
    table = pd.DataFrame(
        {"id_code": [f"w{i}" for i in range(wells)], "experiment": "E", "plate": "1", "role": "heldout", "tier": "T1"}
    )
    table["well"] = [f"A{i + 1:02d}" for i in range(wells)]
    table = table.join(pd.DataFrame(values, columns=names))
    layout = pd.DataFrame({"perturbation": [str(c) for c in range(classes)], "group": 0, "per_plate": 1})
    balanced = balance(table, DesignKnowledge(layout), PARAMETERS.model_copy(update={"compare": list(METHODS)}))
    for step in balanced.probabilities_by_plate:
        np.testing.assert_allclose(balanced.probabilities(step).sum(axis=1), 1, atol=1e-4, err_msg=step)
    assert balanced.steps["confidence"].between(0, 1 + 1e-6).all() and len(balanced.steps) == wells * len(
        set(balanced.steps["step"])
    )


def test_ties_of_one_hot_scores_are_reported_and_cost_no_accuracy():
    rng = np.random.default_rng(15)
    table, layout, truth = screen_scores(1.6, rng, size=30, experiments=4)
    values = matrix(table, SCORE)
    hard = table.copy()
    hard[[c for c in table.columns if c.startswith(SCORE)]] = np.where(
        values == values.max(axis=1, keepdims=True), 1.0, np.nan
    )
    assert tied_calls(hard).mean() > 0.1 and tied_calls(table).mean() == 0
    score = accuracy(
        balance(hard, DesignKnowledge(layout), PARAMETERS.model_copy(update={"compare": ["assignment"]})).steps, truth
    )
    assert score["matching"] >= score["plain"] - 0.005 and score["assignment"] < score["matching"]


def test_auto_uses_validation_wells_where_there_are_any():
    table, layout, truth = screen_scores(2.0, np.random.default_rng(16), size=20, experiments=2)
    knowledge = DesignKnowledge(layout, validation=pd.Series(truth))
    table["role"] = np.where(table["experiment"] == "E0", "validation", "heldout")
    balanced = balance(table, knowledge, PARAMETERS)
    assert balanced.calibration["source"].tolist() == ["validation"] and balanced.steps["step"].iloc[-1] == "matching"
    # labels of held-out wells are not read
    blind = DesignKnowledge(layout, validation=pd.Series({k: v for k, v in truth.items() if k.startswith("E0")}))
    pd.testing.assert_frame_equal(balance(table, blind, PARAMETERS).steps, balanced.steps)
    # a wrong design: one class fills every well, although the layout has each class once per plate
    broken = table.copy()
    broken[[c for c in table.columns if c.startswith(SCORE)]] = 0.0
    broken[f"{SCORE}3"] = np.random.default_rng(0).uniform(1, 3, len(table))
    single_class = DesignKnowledge(layout.assign(group=0), validation=pd.Series("3", index=table["id_code"]))
    wrong = balance(broken, single_class, PARAMETERS.model_copy(update={"temperature": 1.0, "method": "auto"}))
    assert (wrong.steps["call"] == "3").mean() == 1 and wrong.calibration["stray_share"].tolist() == [0.1]
    plates = read_plates(broken, single_class)
    everything = {key: np.ones(80, int) for key in plates.rows}
    without_strays = Calibration({"all": 1.0}, {"all": "given"}, stray_share=0.0)
    assert choose_method(plates, without_strays, everything, 2.0) == "none"
    assert choose_method(plates, replace(without_strays, stray_share=0.1), everything, 2.0) == "matching"


# strays ----------------------------------------------------------------------------------------------------------


def stray_plate(kind: str, signal: float, rng: np.random.Generator, size=12, classes=48):
    """Exact log posteriors (size, classes) of one plate, capacities, and the true class of each well (-1: of none)."""
    on_plate = rng.choice(classes, size, replace=False)
    truth = rng.permutation(on_plate)
    capacity = np.zeros(classes, int)
    capacity[on_plate] = 1
    scores = rng.normal(size=(size, classes))
    if kind == "re-dealt":
        truth = rng.permutation(classes)[:size]
    if kind == "damaged":  # one well in twelve holds any class
        truth[::12] = rng.integers(0, classes, len(truth[::12]))
    scores[np.arange(size), truth] += signal
    if kind == "junk":
        scores[::12], truth[::12] = rng.normal(size=scores[::12].shape), -1
    return log_softmax(signal * scores), capacity, truth


def confidence_of(method, plate, share):
    log_p, capacity, truth = plate
    columns, log_q, picked = balance_plate(method, log_p, capacity, share)
    np.testing.assert_allclose(np.exp(log_q).sum(axis=1), 1, atol=1e-5)
    return np.exp(log_q[np.arange(len(truth)), picked]), (columns[picked] == truth).astype(float)


def test_a_well_of_another_plate_is_not_certain_by_elimination():
    log_p, capacity, truth = stray_plate("designed", 6.0, np.random.default_rng(0))
    foreign = int(np.flatnonzero(capacity == 0)[0])
    log_p[0] = log_softmax(np.where(np.arange(48) == foreign, 20.0, 0.0)[None])[0]
    certain, _ = confidence_of("matching", (log_p, capacity, truth), 0.0)
    doubtful, _ = confidence_of("matching", (log_p, capacity, truth), STRAY_SHARE)
    assert certain[0] > 0.9 and doubtful[0] < 0.1 and doubtful[1:].min() > 0.9


def test_a_junk_well_gets_the_last_place_only_as_far_as_there_are_few_strays():
    log_p, capacity, truth = stray_plate("designed", 6.0, np.random.default_rng(0))
    log_p[0] = log_softmax(np.random.default_rng(1).normal(size=(1, 48)))[0]
    by_share = [confidence_of("matching", (log_p, capacity, truth), share)[0][0] for share in (0.0, 0.01, 0.1)]
    assert by_share[0] > 0.8 and by_share == sorted(by_share, reverse=True) and by_share[2] < 0.5


@pytest.mark.parametrize("kind", ["designed", "damaged", "junk", "re-dealt"])
@pytest.mark.parametrize("size", [12, 40])
def test_matching_is_calibrated_at_least_as_well_as_sinkhorn(kind, size):
    """The share of strays is the true one; the Brier score of the called class pools sharpness and calibration."""
    rng = np.random.default_rng(3)
    share = {"designed": STRAY_SHARE, "damaged": 0.08, "junk": 0.08, "re-dealt": 0.1}[kind]
    errors = {"matching": [], "sinkhorn": []}
    for _ in range(20):
        plate = stray_plate(kind, 4.0, rng, size, 4 * size)
        for method in errors:
            confidence, correct = confidence_of(method, plate, share)
            errors[method] += list((confidence - correct) ** 2)
    assert np.mean(errors["matching"]) <= np.mean(errors["sinkhorn"]) + 1e-3


def test_strays_and_temperature_of_balancing_are_fitted_to_validation_wells():
    """A damaged screen: the share of wells that hold another perturbation than the map says is found, and a designed one has none."""
    shares = {}
    for kind in ("designed", "damaged"):
        rng = np.random.default_rng(4)
        rows, values, truth, contents = [], [], {}, []
        for plate in range(10):
            log_p, capacity, classes = stray_plate(kind, 4.0, rng, 24, 48)
            for well, (scores, label) in enumerate(zip(log_p, classes, strict=True)):
                code = f"E_{plate}_{well}"
                truth[code] = str(label)
                rows.append((code, "E", str(plate), f"A{well + 1:02d}", "validation", "T1"))
                values.append(3 * scores)  # three times overconfident
            contents += [("E", str(plate), str(c), 1) for c in np.flatnonzero(capacity)]
        table = pd.DataFrame(rows, columns=["id_code", "experiment", "plate", "well", "role", "tier"])
        table = table.join(pd.DataFrame(values).add_prefix(SCORE))
        layout = pd.DataFrame({"perturbation": [str(c) for c in range(48)], "group": 0, "per_plate": 1})
        known = pd.DataFrame(contents, columns=["experiment", "plate", "perturbation", "wells"])
        knowledge = DesignKnowledge(layout, contents=known, validation=pd.Series(truth))
        calibration = balance(table, knowledge, PARAMETERS).calibration.iloc[0]
        shares[kind] = calibration["stray_share"]
        assert 1.5 < calibration["temperature"] < 6 and 1.5 < calibration["design_temperature"] < 6
    assert shares["designed"] <= 0.003 and 0.01 <= shares["damaged"] <= 0.1


def test_an_unknown_method_lists_the_allowed_ones():
    with pytest.raises(ValueError, match="'none', 'matching', 'sinkhorn', 'assignment' or 'greedy'"):
        PlateBalancingParameters.model_validate(PARAMETERS.model_dump() | {"method": "hungarian"})


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


def test_long_scores_are_summed_and_unlisted_perturbations_rank_last():
    long = pd.DataFrame(
        {"id_code": ["a", "a", "b"], "perturbation": ["2", "2", "10"], "score": [0.5, 0.25, 1.0], "tier": "unknown"}
    )
    pooled = pool_scores(long, WELLS).set_index("id_code")
    assert pooled.loc["a", "score_2"] == 0.75 and np.isnan(pooled.loc["a", "score_10"])
    assert np.isnan(pooled.loc["b", "score_2"]) and pooled.loc["b", "score_10"] == 1.0
    ranked = fill_unlisted(pool_scores(long, WELLS)).set_index("id_code")
    assert (
        ranked.loc["a", "score_2"] > ranked.loc["a", "score_10"]
        and ranked.loc["b", "score_2"] < ranked.loc["b", "score_10"]
    )


def test_a_well_held_out_in_one_fold_and_validating_another_is_scored_as_held_out():
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
    mean = log_softmax(pool_scores(wide, WELLS, "probabilities")[["score_x", "score_y"]].to_numpy())
    p = np.exp(log_softmax(np.array([[1.0, 0.0], [2.0, 0.0]]))).mean(axis=0)
    np.testing.assert_allclose(np.exp(mean)[0], p)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id_code": "zz"}, "1 wells that the screen does not have: zz"),
        ({"score": np.nan}, "score nan of well a"),
        ({"score": np.inf}, "score inf"),
        ({"id_code": "c"}, "no row for a target well"),
    ],
)
def test_invalid_scores_are_refused_by_well(change, message):
    long = pd.DataFrame([{"id_code": "a", "perturbation": "2", "score": 1.0, "tier": "T1"} | change])
    with pytest.raises(InputError, match=message):
        pool_scores(long, WELLS)


def test_a_perturbation_missing_from_the_screen_is_reported(caplog):
    wells = WELLS.assign(perturbation=["x", "y", None])
    pool_scores(pd.DataFrame({"id_code": ["a"], "tier": "T1", "score_x": [1.0], "score_banana": [2.0]}), wells)
    assert "1 perturbations that no labelled well of the screen has (banana)" in caplog.text


def test_mixed_tiers_and_incomplete_wide_scores_are_refused():
    wide = pd.DataFrame({"id_code": ["a", "b"], "tier": ["T1", "T3"], "score_x": [1.0, 2.0]})
    with pytest.raises(InputError, match="mixes tiers T1, T3"):
        pool_scores(wide, WELLS)
    with pytest.raises(InputError, match="well b has a score that is not a finite number"):
        pool_scores(wide.assign(tier="T1", score_x=[1.0, np.nan]), WELLS)


def test_calls_of_lists_are_made_at_a_sharper_temperature_and_confidences_are_not():
    table, layout, _ = screen_scores(3.0, np.random.default_rng(20), size=12)
    scores = [c for c in table.columns if c.startswith(SCORE)]
    rank = table[scores].rank(axis=1, ascending=False)
    lists = table.assign(**table[scores].where(rank <= 3))
    by_design = Calibration({"all": 1.0}, {"all": "design"})
    plates = read_plates(lists, DesignKnowledge(layout))
    assert call_sharpness(plates, by_design) == LIST_SHARPNESS
    assert call_sharpness(plates, replace(by_design, source={"all": "validation"})) == 1.0
    for values in (table[scores].where(rank <= 1), table[scores]):
        assert call_sharpness(read_plates(table.assign(**values), DesignKnowledge(layout)), by_design) == 1.0
    capacity = {key: plates.default_capacity(key) for key in plates.rows}

    def matched(calibration):
        return apply_steps(plates, calibration, capacity, 2.0, ["plain", "matching"], {"matching"})

    (usual, p), (sharp, same_p) = matched(by_design), matched(replace(by_design, call_sharpness=50.0))
    for before, after in zip(p["matching"], same_p["matching"], strict=True):
        np.testing.assert_array_equal(before.p, after.p)
    assigned, _ = apply_steps(plates, by_design, capacity, 2.0, ["plain", "assignment"], set())
    calls = [steps.loc[steps["step"] != "plain", "call"].tolist() for steps in (usual, sharp, assigned)]
    agreement = [np.mean(np.array(calls[i]) == np.array(calls[2])) for i in (0, 1)]
    assert agreement[1] > agreement[0]  # the sharper, the closer to the assignment


def test_the_temperature_of_balancing_is_a_multiple_of_the_plain_one():
    table, layout, _ = screen_scores(2.0, np.random.default_rng(21), size=12)
    plates = read_plates(table, DesignKnowledge(layout))
    capacity = {key: plates.default_capacity(key) for key in plates.rows}

    def steps(temperature, sharpening=1.0):
        calibration = Calibration({"all": temperature}, {"all": "given"}, sharpening=sharpening)
        table, _ = apply_steps(plates, calibration, capacity, 2.0, ["plain", "group_filter", "matching"], set())
        return {name: of_step["confidence"].to_numpy() for name, of_step in table.groupby("step")}

    flatter, plain, twice = steps(1.0, sharpening=2.0), steps(1.0), steps(2.0)
    np.testing.assert_array_equal(flatter["matching"], twice["matching"])
    for name in ("plain", "group_filter"):
        np.testing.assert_array_equal(flatter[name], plain[name])


# what must not flow in ------------------------------------------------------------------------------------------


def test_each_cell_type_has_a_temperature_of_its_own():
    table, layout, truth = screen_scores(3.0, np.random.default_rng(18), size=12, experiments=2)
    scores = [c for c in table.columns if c.startswith(SCORE)]
    table.loc[table["experiment"] == "E1", scores] *= 10.0
    table["role"] = "validation"
    cell_type = pd.Series(np.where(table["experiment"] == "E1", "sharp", "flat"), index=table["id_code"])
    knowledge = DesignKnowledge(layout, cell_type=cell_type, validation=pd.Series(truth))
    balanced = balance(table, knowledge, PARAMETERS)
    fitted = balanced.calibration.set_index("cell_type")["temperature"]
    assert fitted["sharp"] > 5 * fitted["flat"]
    plain = balanced.steps[balanced.steps["step"] == "plain"].groupby("experiment")["confidence"].mean()
    assert plain["E0"] == pytest.approx(plain["E1"], abs=0.1)  # each scaled by its own


def test_scores_of_training_plates_are_never_pooled():
    wide = pd.DataFrame({"id_code": ["a", "a", "b"], "role": ["heldout", "train", "train"], "tier": "T1"})
    wide = wide.assign(**{f"{SCORE}x": [1.0, 99.0, 5.0], f"{SCORE}y": [0.0, -99.0, 0.0]})
    wells = pd.DataFrame({"id_code": ["a", "b"], "experiment": "E", "plate": "1", "well": ["A01", "A02"]})
    wells = wells.assign(well_type="treatment", cell_type="x", perturbation=None, target=True)
    pooled = pool_scores(wide, wells, "logits")
    assert pooled["id_code"].tolist() == ["a"] and pooled[f"{SCORE}x"].tolist() == [1.0]


def test_the_layout_of_an_experiment_does_not_vote_for_itself():
    in_use = pd.DataFrame(
        [(e, p, g) for e, groups in (("E0", "01"), ("E1", "10"), ("E2", "10")) for p, g in zip("ab", groups, strict=True)],
        columns=["experiment", "plate", "group"],
    )  # fmt: skip
    in_use["group"] = in_use["group"].astype(int)
    plates = np.array(["a", "b"])
    assert _group_orders_of_others(in_use, "E0", plates) == {(1, 0): 2}
    assert _group_orders_of_others(in_use, "E1", plates) == {(0, 1): 1, (1, 0): 1}


def test_the_layout_is_discovered_without_held_out_labels(wells, folds):
    from deepnoise.pipelines.plate_balancing.nodes import discover_layout

    layout, in_use = discover_layout(wells, folds)
    heldout = folds[folds["role"] == "heldout"]
    hidden = wells["experiment"].isin(heldout["experiment"])
    scrambled = wells.copy()
    scrambled.loc[hidden, "perturbation"] = wells.loc[hidden, "perturbation"].sample(frac=1, random_state=0).to_numpy()
    again, in_use_again = discover_layout(scrambled, folds)
    pd.testing.assert_frame_equal(layout, again)
    pd.testing.assert_frame_equal(in_use, in_use_again)


def test_the_temperature_of_single_models_never_makes_their_ensemble_claim_too_much():
    """A validation well is unseen by the model of one fold alone, so the temperature of an ensemble cannot be fitted."""
    rng = np.random.default_rng(0)
    for shared in (0.3, 0.7, 0.95):  # share of a model's errors that the others make too

        def scores(wells: int, models: int, shared: float = shared) -> tuple[np.ndarray, np.ndarray]:
            truth, common = rng.integers(0, 30, wells), rng.normal(size=(wells, 30))
            own = rng.normal(size=(models, wells, 30)).mean(axis=0)
            return truth, 3 * np.eye(30)[truth] + np.sqrt(shared) * common + np.sqrt(1 - shared) * own

        truth, single = scores(2000, 1)
        temperature = fit_to_labels(single, truth, 3.0)
        truth, ensemble = scores(2000, 5)
        log_p = log_probabilities(ensemble, temperature, 3.0)
        assert np.exp(log_p.max(axis=1)).mean() < (log_p.argmax(axis=1) == truth).mean() + 0.015


def test_two_groups_are_enough_to_infer_them():
    table, layout, _ = screen_scores(3.0, np.random.default_rng(0), plates=2, size=12)
    groups = balance(table, DesignKnowledge(layout), PARAMETERS.model_copy(update={"temperature": 1.0})).groups
    assert len(groups) == 4 and groups["decided"].all() and set(groups["group"]) == {0, 1}
    one = balance(table, DesignKnowledge(layout.assign(group=0)), PARAMETERS.model_copy(update={"temperature": 1.0}))
    assert one.groups.empty
