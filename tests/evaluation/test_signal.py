"""Intervals, replicate retrieval, activity and profiles against slow oracles."""

import itertools

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from deepnoise.evaluation.intervals import bootstrap_interval, sign_flip_p, summarize, uncertainty
from deepnoise.evaluation.profiles import Profiles, class_residuals, effective_rank, join_profiles, true_labels
from deepnoise.evaluation.retrieval import activity, average_precisions, chance_average_precision, summarize_retrieval
from deepnoise.tables import LEVELS


def screen(experiments=4, plates=3, treatments=9, controls=3, dimensions=6, seed=0, effect=0.0, folds=1):
    """Profiles of a screen: treatments in plate groups, positive and two negative controls on every plate."""
    rng = np.random.default_rng(seed)
    rows = []
    for fold, e, p in itertools.product(range(folds), range(experiments), range(plates)):
        names = [f"t{t}" for t in range(treatments) if t % plates == (p + e) % plates]
        names += [f"pos{c}" for c in range(controls)] + ["neg", "neg"]
        positions = rng.permutation(24)[: len(names)]
        for name, position in zip(names, positions, strict=True):
            well_type = (
                "negative_control" if name == "neg" else "positive_control" if name.startswith("pos") else "treatment"
            )
            well = f"{'ABCD'[position // 6]}{position % 6 + 1:02d}"
            rows.append((fold, f"E{e}_{p}_{well}", f"E{e}", str(p), well, "x", well_type, name))
    columns = ["fold", "id_code", "experiment", "plate", "well", "cell_type", "well_type", "perturbation"]
    table = pd.DataFrame(rows, columns=columns).assign(role="heldout", plate_seen=False)
    values = rng.normal(size=(len(table), dimensions))
    means = {name: rng.normal(size=dimensions) for name in sorted(table["perturbation"].unique())}
    values += effect * np.stack([means[name] for name in table["perturbation"]])
    return Profiles(table, values.astype(np.float32))


# intervals -------------------------------------------------------------------------------------------------------


def test_sign_flip_p_counts_all_sign_patterns():
    differences = np.array([0.3, 0.1, -0.05])
    means = [np.mean(np.array(signs) * differences) for signs in itertools.product([1, -1], repeat=3)]
    assert sign_flip_p(differences) == sum(m >= differences.mean() - 1e-12 for m in means) / 8 == 2 / 8
    assert sign_flip_p(np.ones(4)) == 1 / 16 and sign_flip_p(-np.ones(4)) == 1.0
    with pytest.raises(ValueError, match="21 differences"):
        sign_flip_p(np.ones(21))


def test_the_bootstrap_resamples_experiments_not_wells():
    """All wells of an experiment are equal: the number of wells does not narrow the interval."""
    right = np.repeat([1.0, 0, 1, 0, 1, 1, 0, 1], 500)
    many = summarize(right, np.repeat(list("abcdefgh"), 500))
    few = summarize(right[::500], np.array(list("abcdefgh")))
    assert many["interval"] == few["interval"] and many["sign_flip_p"] is None
    exact = np.quantile(np.random.default_rng(1).binomial(8, 5 / 8, 100_000) / 8, [0.025, 0.975])
    stretch = np.sqrt(8 / 7) * 2.3646 / 1.9600  # Student's t with 7 degrees of freedom
    np.testing.assert_allclose(many["interval"], 5 / 8 + stretch * (exact - 5 / 8), atol=0.01)


def test_the_interval_of_six_experiments_covers_the_truth():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        low, high = bootstrap_interval(rng.normal(size=6) * 40, np.full(6, 40.0))
        covered += low <= 0 <= high
    assert 0.90 < covered / 400 < 0.98


def test_fewer_than_six_experiments_give_a_p_and_no_interval():
    summary = summarize(np.array([1.0, 1, 0, 1]), np.array(list("aabb")), null=0.25)
    assert summary["interval"] is None and summary["sign_flip_p"] == 1 / 4 and summary["mean"] == 0.75
    assert uncertainty(summary | {"experiments": 2}) == "p 0.250 (smallest 0.250)"


# retrieval -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounded", [False, True], ids=["distinct", "ties"])
def test_average_precision_agrees_with_a_double_loop(rounded):
    profiles = screen(effect=0.5, dimensions=3)
    if rounded:
        profiles = Profiles(profiles.rows, np.round(profiles.values) + np.float32(0.01))
    rows = profiles.rows
    table, _ = average_precisions(profiles, 0)
    unit = profiles.values / np.linalg.norm(profiles.values, axis=1, keepdims=True)
    similar = unit @ unit.T
    allowed = {
        "any": lambda q, r: True,
        "not_same_plate": lambda q, r: (q.experiment, q.plate) != (r.experiment, r.plate),
        "not_same_experiment": lambda q, r: q.experiment != r.experiment,
        "not_same_experiment_nor_position": lambda q, r: q.experiment != r.experiment and q.well != r.well,
    }
    expected = {}
    for q in rows.itertuples():
        if q.well_type == "negative_control":
            continue
        negative = [
            r.Index for r in rows.itertuples() if r.experiment == q.experiment and r.perturbation != q.perturbation
        ]
        for level, rule in allowed.items():
            positive = [
                r.Index
                for r in rows.itertuples()
                if r.Index != q.Index and r.perturbation == q.perturbation and rule(q, r)
            ]
            if positive:
                truth = [1] * len(positive) + [0] * len(negative)
                expected[q.id_code, level] = average_precision_score(truth, similar[q.Index, positive + negative])
    measured = table.set_index(["id_code", "level"])["average_precision"]
    assert set(measured.index) == set(expected)
    np.testing.assert_allclose([measured[key] for key in expected], list(expected.values()), atol=1e-9)


def test_the_chance_level_is_the_mean_over_all_orders():
    for positives, negatives in ((1, 4), (2, 3), (3, 3)):
        orders = [
            average_precision_score(
                [i in ranks for i in range(positives + negatives)], -np.arange(positives + negatives)
            )
            for ranks in itertools.combinations(range(positives + negatives), positives)
        ]
        assert chance_average_precision(np.array([positives]), np.array([negatives]))[0] == pytest.approx(
            np.mean(orders)
        )
    noise, _ = average_precisions(screen(experiments=12, treatments=30, seed=3), 0)
    across = noise[noise["level"] == "not_same_experiment"]
    assert across["average_precision"].mean() == pytest.approx(across["chance"].mean(), abs=0.02)


def test_retrieval_finds_biology_and_no_signal_in_noise():
    for effect, expected in ((0.0, False), (1.5, True)):
        table, null = average_precisions(screen(effect=effect), 50)
        summary = summarize_retrieval(table, null)
        for well_type in ("treatment", "positive_control"):
            assert list(summary[well_type]) == list(LEVELS)
            for part in summary[well_type].values():
                assert (part["p"] <= 0.05) == expected and part["smallest_p"] == 1 / 51
                assert part["sign_flip_p"] is not None and part["interval"] is None


def test_a_batch_effect_is_no_signal_and_folds_are_never_pooled():
    """Wells of one experiment are alike: with negatives from the same experiment this gives no advantage."""
    profiles = screen(folds=2)
    shift = np.random.default_rng(1).normal(size=(4, 6)) * 10
    code = pd.factorize(profiles.rows["experiment"])[0]
    moved = Profiles(profiles.rows, (profiles.values + shift[code]).astype(np.float32))
    table, null = average_precisions(moved, 50)
    assert summarize_retrieval(table, null)["treatment"]["any"]["p"] > 0.05
    turned = moved.values.copy()
    second = (profiles.rows["fold"] == 1).to_numpy()
    turned[second] = turned[second] @ np.linalg.qr(np.random.default_rng(2).normal(size=(6, 6)))[0]
    again, _ = average_precisions(Profiles(profiles.rows, turned.astype(np.float32)), 0)
    np.testing.assert_allclose(table["average_precision"], again["average_precision"], atol=1e-6)


def test_one_null_answers_for_skill_and_both_p_values():
    """Wells of a plate that resemble each other, or that were centred together: chance of a random order is not what to compare with."""
    profiles = screen(experiments=4, plates=3, treatments=9, controls=3, dimensions=6)
    rows = profiles.rows
    plate = pd.factorize(rows["experiment"] + rows["plate"])[0]
    shift = np.random.default_rng(1).normal(size=(plate.max() + 1, 6)) * 3
    table, null = average_precisions(Profiles(rows, (profiles.values + shift[plate]).astype(np.float32)), 50)
    summary = summarize_retrieval(table, null)["positive_control"]["any"]
    shuffled = null["positive_control/any"]
    assert summary["null"] == pytest.approx(shuffled.means().mean())
    assert summary["skill"] == pytest.approx((summary["map"] - summary["null"]) / (1 - summary["null"]))
    wells = table[(table["well_type"] == "positive_control") & (table["level"] == "any")]
    excess = wells.groupby("experiment")["average_precision"].mean() - shuffled.by_experiment()
    assert summary["sign_flip_p"] == sign_flip_p(excess.to_numpy())
    assert abs(summary["null"] - summary["chance"]) > 0.01


def test_shuffled_labels_stay_on_their_plate():
    """Perturbations that are each on one plate of an experiment: a null that moved them between plates would hide the plate's noise."""
    profiles = screen(experiments=4, plates=3, treatments=9, controls=0, dimensions=6)
    profiles = profiles.take((profiles.rows["well_type"] == "treatment").to_numpy())
    rows = profiles.rows.assign(plate=profiles.rows["perturbation"].str[1:].astype(int).mod(3).astype(str))
    shift = (
        np.random.default_rng(1).normal(size=(3, 6)) * 4
    )  # the same in all experiments, as the plate's place in the run is
    values = profiles.values + shift[rows["plate"].astype(int)]
    table, null = average_precisions(Profiles(rows, values.astype(np.float32)), 50)
    summary = summarize_retrieval(table, null)["treatment"]["not_same_experiment"]
    assert summary["map"] > summary["chance"] + 0.1 and summary["p"] > 0.05


def test_wells_without_a_label_or_a_replicate_are_left_out():
    profiles = screen()
    rows = profiles.rows.copy()
    rows.loc[0, "perturbation"] = None
    rows.loc[1, "perturbation"] = "alone"
    table, _ = average_precisions(Profiles(rows, profiles.values), 0)
    assert not set(table["id_code"]) & {rows.loc[0, "id_code"], rows.loc[1, "id_code"]}
    empty, null = average_precisions(profiles.take(np.zeros(len(rows), bool)), 3)
    assert empty.empty and null == {} and summarize_retrieval(empty, null) == {}


def test_active_perturbations_are_distinguished_from_the_controls():
    profiles = screen(experiments=6, treatments=6, dimensions=8, seed=2)
    strong = profiles.rows["perturbation"].isin(["t0", "t1"]).to_numpy()
    values = profiles.values + 6 * strong[:, None] * np.eye(8, dtype=np.float32)[0]
    table = activity(Profiles(profiles.rows, values)).set_index("perturbation")
    assert (table.loc[["t0", "t1"], "q"] < 0.01).all() and (table.loc[["t2", "t3", "t4", "t5"], "q"] > 0.05).all()
    assert (table["q"] >= table["p"]).all()
    without = activity(profiles.take((profiles.rows["well_type"] != "negative_control").to_numpy()))
    assert without.empty


# profiles --------------------------------------------------------------------------------------------------------


def test_the_subtracted_mean_comes_only_from_other_experiments():
    profiles = screen(effect=2.0)
    residual = class_residuals(profiles)
    rows = profiles.rows
    well = residual.rows.iloc[5]
    elsewhere = ((rows["perturbation"] == well["perturbation"]) & (rows["experiment"] != well["experiment"])).to_numpy()
    same_well = (rows["id_code"] == well["id_code"]).to_numpy()
    np.testing.assert_allclose(
        residual.values[5], profiles.values[same_well][0] - profiles.values[elsewhere].mean(axis=0), atol=1e-5
    )
    one = profiles.take((rows["experiment"] == "E0").to_numpy())
    plates = class_residuals(one)  # from the other plates of one experiment: treatments on a single plate drop out
    assert set(plates.rows["well_type"]) == {"positive_control", "negative_control"}


def test_labels_combine_the_visible_and_the_withheld_ones():
    wells = pd.DataFrame(
        {"id_code": ["a", "b"], "perturbation": ["p", None], "cell_type": "x", "well_type": "treatment"}
    )
    labels = true_labels(wells, pd.DataFrame({"id_code": ["b"], "perturbation": ["q"]}))
    assert labels.to_dict() == {"a": "p", "b": "q"}
    embeddings = pd.DataFrame(
        {
            "fold": 0,
            "id_code": ["a", "b"],
            "experiment": "E",
            "plate": "1",
            "well": ["A01", "A02"],
            "role": "heldout",
            "plate_seen": False,
        }
    ).assign(embedding_0=[1.0, 2.0])
    assert join_profiles(embeddings, wells, labels).rows["perturbation"].tolist() == ["p", "q"]


def test_effective_rank_counts_the_used_directions():
    rng = np.random.default_rng(0)
    assert effective_rank(np.ones((20, 5))) == 1.0
    assert effective_rank(np.outer(rng.normal(size=50), [1.0, 2, 3])) == pytest.approx(1, abs=1e-4)
    equal = np.concatenate([np.eye(4), -np.eye(4)])
    assert effective_rank(equal) == pytest.approx(4)
    assert effective_rank(rng.normal(size=(20, 300))) <= 19


def test_plates_seen_in_training_are_no_part_of_retrieval():
    """A network makes the wells of its training plates alike: counted, they would look like biology."""
    from deepnoise.parameters import EvaluationParameters
    from deepnoise.pipelines.evaluation.nodes import measure_retrieval

    profiles = screen(effect=0.0, experiments=4)
    seen = (profiles.rows["experiment"] < "E2").to_numpy()
    rows = profiles.rows.assign(plate_seen=seen, role=np.where(seen, "train", "heldout"))
    names, code = np.unique(rows["perturbation"].to_numpy(str), return_inverse=True)
    learned = 10.0 * np.eye(len(names), 6)[code] * seen[:, None]
    embeddings = rows.drop(columns=["cell_type", "well_type", "perturbation"]).assign(tier="T1")
    embeddings = embeddings.join(pd.DataFrame(profiles.values + learned).add_prefix("embedding_"))
    no_labels = pd.DataFrame({"id_code": [], "perturbation": []}, dtype=str)
    parameters = EvaluationParameters(
        screen="s", unit="well", pairs=[], permutations=20, smallest_leak=1.0, corrections=["none"]
    )
    table, summary = measure_retrieval(embeddings, rows, no_labels, parameters)
    assert set(table["experiment"]) == {"E2", "E3"} and summary["treatment"]["not_same_experiment"]["p"] > 0.05


def test_random_orders_as_good_as_the_truth_count_against_it():
    """One replicate and one control: half of all orders are perfect, so a perfect one has a p of a half."""
    rows = pd.DataFrame(
        {
            "fold": 0, "id_code": list("abcd"), "experiment": ["E0", "E1", "E0", "E1"], "plate": "1", "well": "A01", "cell_type": "x",
            "well_type": ["treatment"] * 2 + ["negative_control"] * 2, "perturbation": ["t", "t", "n", "n"], "role": "heldout",
            "plate_seen": False,
        }
    )  # fmt: skip
    perfect = activity(Profiles(rows, np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], np.float32)))
    # a perfect mean of two wells: both of two random orders are perfect in a quarter of the cases
    assert perfect["average_precision"].item() == 1 and perfect["p"].item() == pytest.approx(0.25, abs=0.02)
