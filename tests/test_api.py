"""The functions for use without Kedro: their examples, their defaults, and agreement with the pipelines that they stand for."""

from __future__ import annotations

import doctest
import inspect

import numpy as np
import pandas as pd
import pytest
import yaml

import deepnoise
from deepnoise import api, balance_plates, find_suspect_wells, probe_leaks, replicate_map
from deepnoise.errors import InputError
from deepnoise.evaluation.retrieval import average_precisions, summarize_retrieval
from deepnoise.plate_balancing.balancing import DesignKnowledge, balance, make_calls
from deepnoise.tables import SCORE
from tests.conftest import PROJECT
from tests.plate_balancing.helpers import PARAMETERS, screen_scores


@pytest.mark.parametrize("name", deepnoise.__all__)
def test_the_example_in_the_docstring_runs(name):
    runner = doctest.DocTestRunner()
    (example,) = doctest.DocTestFinder().find(getattr(api, name), name)
    runner.run(example)
    assert runner.failures == 0 and runner.tries > 3


def test_defaults_are_those_of_the_pipelines():
    configured = {
        stage: yaml.safe_load(
            (PROJECT / f"conf/base/parameters_{stage}.yml").read_text().replace("${globals:screen}", "x")
        )[stage]
        for stage in ("plate_balancing", "evaluation")
    }
    defaults = {
        name: {p.name: p.default for p in inspect.signature(getattr(api, name)).parameters.values()}
        for name in deepnoise.__all__
    }
    for parameter in ("method", "temperature", "group_posterior", "precision"):
        assert defaults["balance_plates"][parameter] == configured["plate_balancing"][parameter], parameter
    assert defaults["probe_leaks"]["permutations"] == configured["evaluation"]["permutations"]
    assert defaults["probe_leaks"]["smallest_leak"] == configured["evaluation"]["smallest_leak"]
    assert defaults["replicate_map"]["permutations"] == configured["evaluation"]["permutations"]


# plate balancing --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored():
    """Scores of three experiments with plate groups, their layout and their labels."""
    return screen_scores(2.5, np.random.default_rng(6), size=12, experiments=3)


def test_balancing_with_a_layout_equals_the_pipeline(scored):
    table, layout, labels = scored
    parameters = PARAMETERS.model_copy(
        update={"method": "auto", "compare": [], "precision": 0.95, "temperature": "auto", "unlisted": 2.0}
    )
    knowledge = DesignKnowledge(layout)
    expected = make_calls(balance(table, knowledge, parameters).steps, table, knowledge, 0.95)
    users = table.drop(columns=["id_code", "role", "tier"]).rename(columns=lambda c: str(c).removeprefix(SCORE))
    calls = balance_plates(users.sample(frac=1, random_state=0), layout)
    pd.testing.assert_frame_equal(calls, expected.drop(columns=["id_code", "tier"]))
    correct = calls.set_index(["experiment", "plate", "well"])
    truth = table.set_index(["experiment", "plate", "well"])["id_code"].map(labels)
    assert (correct["design_call"] == truth).mean() > (correct["plain_call"] == truth).mean() + 0.05


def test_without_a_layout_each_perturbation_is_on_each_plate_equally_often():
    scores = pd.DataFrame(np.eye(6) + 0.1, columns=list("abcdef")).assign(plate=1, well=[f"A{i}" for i in range(1, 7)])
    scores.loc[1, ["a", "b"]] = [1.2, 1.1]  # two wells claim a
    calls = balance_plates(scores, temperature=0.1)
    assert calls["plain_call"].tolist() == list("aacdef") and calls["design_call"].tolist() == list("abcdef")
    assert calls.loc[1, "changed"] and "a is in A01" in calls.loc[1, "reason"]
    twice = pd.concat([scores, scores.assign(well=[f"B{i}" for i in range(1, 7)])])
    assert balance_plates(twice, temperature=0.1)["design_call"].value_counts().tolist() == [2] * 6


def test_known_contents_are_used(scored):
    scores = pd.DataFrame({"plate": "1", "well": ["A1", "A2"], "a": [3.0, 2.0], "b": [0.0, 0.0], "c": [1.0, 1.0]})
    contents = pd.DataFrame({"plate": ["1", "1"], "perturbation": ["b", "c"]})
    assert set(balance_plates(scores, contents=contents)["design_call"]) == {"b", "c"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.drop(columns="well"), "scores: column 'well' is missing"),
        (lambda s: s.assign(well="Z99"), "well name 'Z99' is not a well"),
        (lambda s: s.assign(well="A1"), "well A01 of plate 1 of experiment is in 2 rows; expected one row per well"),
        (lambda s: s.assign(a=[np.nan, 1.0]), "'a' of well experiment_1_A01 is nan; expected finite numbers"),
        (lambda s: s[["plate", "well", "a"]], "1 score columns; expected one numeric column per perturbation"),
        (lambda s: s.head(0), "expected a DataFrame with one row per well"),
        (lambda s: s.assign(c=1.0).set_axis(["plate", "well", "a", "b", "b"], axis=1), "2 columns are named 'b'"),
        (lambda s: s.assign(**{"1": 0.0}).assign(c=0.0).rename(columns={"c": 1}), "2 columns are named '1'"),
        (lambda s: s.assign(c=["x", "y"]), "column 'c' holds 'x', expected numbers"),
        (lambda s: s.assign(a=[1e300, 1.0]), "'a' of well experiment_1_A01 is 1e[+]300; expected finite numbers"),
        (lambda s: s.assign(experiment=["E", None]), "experiment is missing in row 1"),
        (
            lambda s: s.assign(Metadata_Plate="1", Metadata_plate="1").drop(columns="plate"),
            "2 columns are named 'plate'",
        ),
    ],
)
def test_scores_that_cannot_be_used_say_why(change, message):
    scores = pd.DataFrame({"plate": 1, "well": ["A1", "A2"], "a": [1.0, 0.0], "b": [0.0, 1.0]})
    with pytest.raises(InputError, match=message):
        balance_plates(change(scores))


def test_columns_and_plates_may_be_numbers():
    scores = pd.DataFrame({"plate": 1, "well": ["A1", "A2"]}).join(pd.DataFrame(np.eye(2)))
    contents = pd.DataFrame({"Metadata_Plate": [1.0, 1.0], "perturbation": [0.0, 1.0]})
    layout = pd.DataFrame({"perturbation": [0, 1], "group": 0})
    assert balance_plates(scores, layout, contents=contents)["design_call"].tolist() == ["0", "1"]


def test_wells_are_told_apart_where_names_contain_the_separator():
    scores = pd.DataFrame({"experiment": ["a_1", "a"], "plate": ["2", "1_2"], "well": "A1", "x": 1.0, "y": 0.0})
    assert len(balance_plates(scores, temperature=1.0)) == 2


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"plate": ["2"]}, "contents: plate 'experiment/2' has no scores. Did you mean 'experiment/1'"),
        ({"plate": [None]}, "contents: plate is missing in row 0"),
        ({"wells": [0]}, "contents: wells is 0; expected whole numbers from 1"),
        ({"wells": [np.nan]}, "contents: wells is nan; expected whole numbers from 1"),
        ({"perturbation": ["x"]}, "plate_contents names 1 perturbations without scores: x"),
    ],
)
def test_contents_that_cannot_be_used_say_why(contents, message):
    scores = pd.DataFrame({"plate": 1, "well": ["A1", "A2"], "a": [1.0, 0.0], "b": [0.0, 1.0]})
    with pytest.raises(InputError, match=message):
        balance_plates(scores, contents=pd.DataFrame({"plate": ["1"], "perturbation": ["a"]} | contents))
    several = scores.assign(experiment=["E1", "E2"])
    with pytest.raises(InputError, match="contents: column 'experiment' is missing"):
        balance_plates(several, contents=pd.DataFrame({"plate": ["1"], "perturbation": ["a"]}))


def test_a_layout_or_method_that_cannot_be_used_says_why():
    scores = pd.DataFrame({"plate": 1, "well": ["A1", "A2"], "a": [1.0, 0.0], "b": [0.0, 1.0]})
    with pytest.raises(InputError, match="layout: per_plate is 0.5; expected whole numbers from 1"):
        balance_plates(scores, pd.DataFrame({"perturbation": ["a"], "group": [0], "per_plate": [0.5]}))
    with pytest.raises(InputError, match="balance_plates cannot set .*temperature"):
        balance_plates(scores, temperature=-1.0)
    with pytest.raises(InputError, match="layout: 'aa' has no scores. Did you mean 'a'"):
        balance_plates(scores, pd.DataFrame({"perturbation": ["aa"], "group": [0]}))
    with pytest.raises(InputError, match="layout: column 'group' is missing"):
        balance_plates(scores, pd.DataFrame({"perturbation": ["a"]}))
    with pytest.raises(InputError, match="balance_plates cannot set .*mathcing"):
        balance_plates(scores, method="mathcing")


# profiles ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def profiles() -> pd.DataFrame:
    """Six experiments of two plates, 12 perturbations in random wells and four controls, in pycytominer's names."""
    rng = np.random.default_rng(3)
    effect = rng.normal(size=(13, 6))
    rows, values = [], []
    wells = [f"{row}{column:02d}" for row in "ABCD" for column in range(1, 8)]
    for experiment in range(6):
        for plate in range(2):
            for well, code in zip(wells, rng.permutation([*range(12)] * 2 + [12] * 4), strict=True):
                rows.append((f"E{experiment}", plate + 1, well, "DMSO" if code == 12 else f"p{code}"))
                values.append(effect[code] * (code < 12) + rng.normal(size=6))
    names = ["Metadata_Experiment", "Metadata_Plate", "Metadata_Well", "Metadata_Perturbation"]
    return pd.DataFrame(rows, columns=names).join(pd.DataFrame(np.array(values)).add_prefix("f"))


def test_clean_profiles_show_signal_and_no_leak(profiles):
    probes = probe_leaks(profiles, negative_controls=["DMSO"], permutations=40).set_index("axis")
    assert set(probes["verdict"]) <= {"none seen", "undecided"} and (probes["p"] > 0.02).all()
    replicates = replicate_map(profiles, negative_controls=["DMSO"], permutations=20).set_index("level")
    assert (replicates["map"] > replicates["chance"] + 0.1).all() and (replicates["p"] == 1 / 21).all()
    assert replicates["low"].notna().all() and replicates["sign_flip_p"].isna().all()  # six experiments


def test_a_shifted_plate_is_a_leak(profiles):
    shifted = profiles.copy()
    shifted.loc[shifted["Metadata_Plate"] == 2, ["f0", "f1", "f2"]] += 2.0
    assert probe_leaks(shifted, axes=["plate"], permutations=40)["verdict"].tolist() == ["leak"]


def test_single_names_numbers_as_names_and_missing_values(profiles):
    numbered = profiles.assign(Metadata_Perturbation=pd.factorize(profiles["Metadata_Perturbation"])[0].astype(float))
    by_number = probe_leaks(numbered, axes="plate", features="f0", negative_controls=[1], permutations=5)
    assert by_number["axis"].tolist() == ["plate"] and by_number["wells"].dtype == "Int64"
    with pytest.raises(InputError, match="permutations is 0; expected at least 1"):
        probe_leaks(profiles, permutations=0)
    with pytest.raises(InputError, match="cell_type is missing in row 3"):
        replicate_map(profiles.assign(cell_type=["U2OS"] * 3 + [None] + ["U2OS"] * (len(profiles) - 4)))


def test_replicate_map_equals_the_pipeline(profiles):
    plain = profiles.rename(columns=lambda c: c.removeprefix("Metadata_").lower())
    table, null = average_precisions(api._to_profiles(plain, None, ["DMSO"]), 20)
    summary = summarize_retrieval(table, null)["treatment"]["not_same_experiment"]
    row = (
        replicate_map(profiles, negative_controls=["DMSO"], permutations=20)
        .set_index("level")
        .loc["not_same_experiment"]
    )
    assert (row["map"], row["chance"], row["n"], row["p"]) == tuple(summary[k] for k in ("map", "chance", "n", "p"))


def test_swapped_wells_are_found(profiles):
    columns = [c for c in profiles if c.startswith("f")]
    certain = profiles.assign(**{c: profiles[c] for c in columns})
    rng = np.random.default_rng(0)
    effect = dict(zip(sorted(set(certain["Metadata_Perturbation"])), rng.normal(size=(13, 6)) * 5, strict=True))
    certain[columns] = np.array([effect[p] for p in certain["Metadata_Perturbation"]]) + rng.normal(
        size=(len(certain), 6)
    )
    first, second = certain.index[certain["Metadata_Perturbation"] != "DMSO"][[0, 3]]
    certain.loc[[first, second], columns] = certain.loc[[second, first], columns].to_numpy()
    suspects = find_suspect_wells(certain, negative_controls=["DMSO"])
    flagged = suspects[suspects["flagged"]]
    assert set(flagged["well"]) >= set(certain.loc[[first, second], "Metadata_Well"])
    assert set(flagged["experiment"]) == {"E0"}


def test_profiles_that_cannot_be_used_say_why(profiles):
    with pytest.raises(InputError, match="column 'perturbation' is missing"):
        replicate_map(profiles.drop(columns="Metadata_Perturbation"))
    with pytest.raises(InputError, match="negative control 'DMS0' is no perturbation here. Did you mean 'DMSO'"):
        replicate_map(profiles, negative_controls=["DMS0"])
    with pytest.raises(InputError, match="column 'f99' is missing"):
        replicate_map(profiles, features=["f0", "f99"])
    with pytest.raises(InputError, match="unknown axis 'plates'.*Did you mean 'plate'"):
        probe_leaks(profiles, axes=["plates"])
    with pytest.raises(InputError, match="'f0' of well E0_1_A01 is inf"):
        find_suspect_wells(profiles.assign(f0=np.inf))


def test_input_tables_stay_as_they_are(profiles, scored):
    table, layout, _ = scored
    before = profiles.copy(), table.copy(), layout.copy()
    probe_leaks(profiles, axes=["plate"], permutations=5)
    balance_plates(table.drop(columns=["id_code", "role", "tier"]), layout)
    for table_after, table_before in zip((profiles, table, layout), before, strict=True):
        pd.testing.assert_frame_equal(table_after, table_before)


def test_row_numbers_places_and_doses_are_no_features():
    """They tell the batch or the perturbation by themselves."""
    rng = np.random.default_rng(0)
    wells = [(e, p, f"{r}{c:02d}") for e in "XY" for p in "12" for r in "ABCD" for c in range(1, 7)]
    table = pd.DataFrame(wells, columns=["experiment", "plate", "well"])
    table["perturbation"] = [f"p{i % 12}" for i in range(len(table))]
    table[["f1", "f2", "f3"]] = rng.normal(size=(len(table), 3))
    numbered = table.assign(ImageNumber=np.arange(len(table)), dose=rng.normal(size=len(table)), Unnamed=1.0)
    numbered = numbered.rename(columns={"Unnamed": "Unnamed: 0"})
    options = {"axes": ["experiment"], "permutations": 20}
    pd.testing.assert_frame_equal(probe_leaks(table, **options), probe_leaks(numbered, **options))
