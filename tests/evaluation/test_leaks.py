"""Leak probes find planted shifts, find none in clean profiles, and say when a design cannot answer."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from deepnoise.evaluation.figures import draw_card
from deepnoise.evaluation.probe import (
    FEWEST_SHUFFLES,
    SHIFTS,
    Probe,
    ProbeTask,
    _factor,
    count_shuffles,
    run_probes,
    split_blocks,
    verdict,
)
from deepnoise.evaluation.probe_tasks import (
    AXES,
    leak_scores,
    left_half,
    outer_ring,
    probe_leaks,
    probe_tasks,
    upper_half,
    well_features,
)
from deepnoise.evaluation.profiles import Profiles, class_residuals
from deepnoise.evaluation.reference_wells import are_reference
from deepnoise.evaluation.score_table import format_card
from deepnoise.evaluation.signal_leak_card import leak_table, make_card
from deepnoise.tables import CARD_KEYS, SCHEMAS, validate_table
from deepnoise.wells import parse_well
from tests.evaluation.test_signal import screen

NO_INTENSITY = pd.DataFrame()


def planted(profiles: Profiles, column: str, size: float, seed: int = 5) -> Profiles:
    """Add a random shift per value of a column (per experiment and plate for ``plate``)."""
    rows = profiles.rows
    code = pd.factorize(rows["experiment"] + rows["plate"] if column == "plate" else rows[column])[0]
    shift = np.random.default_rng(seed).normal(size=(code.max() + 1, profiles.values.shape[1])) * size
    return Profiles(rows, (profiles.values + shift[code]).astype(np.float32))


def answers(profiles: Profiles, permutations=60, smallest=3.0, axes=AXES) -> dict:
    return {a["axis"]: a for a in probe_leaks(profiles, NO_INTENSITY, permutations, smallest, axes=axes)}


@pytest.fixture(scope="module")
def clean() -> Profiles:
    return screen(experiments=4, plates=4, treatments=40, controls=6, dimensions=8, effect=1.0, seed=1)


def test_clean_profiles_show_no_leak(clean):
    probes = answers(clean)
    assert list(probes) == list(AXES)
    assert {probes[axis]["verdict"] for axis in AXES[:-1]} == {"none seen"}
    for axis in AXES[:-1]:
        assert probes[axis]["null_low"] <= probes[axis]["balanced_accuracy"] <= probes[axis]["null_high"]
        assert probes[axis]["null_low"] < probes[axis]["chance"] < probes[axis]["null_high"]
        assert probes[axis]["smallest_p"] == 1 / 61
    assert probes["raw_intensity"]["verdict"] == "not asked"


@pytest.mark.parametrize("column", ["plate", "experiment"])
def test_a_planted_shift_is_found_on_its_axis_alone(clean, column):
    probes = answers(planted(clean, column, 1.5))
    assert probes[column]["verdict"] == "leak" and probes[column]["p"] == probes[column]["smallest_p"]
    assert probes["well_row"]["verdict"] == probes["well_edge"]["verdict"] == "none seen"
    if column == "experiment":
        assert probes["plate"]["verdict"] == "none seen"  # plates are compared within an experiment


def test_a_planted_position_effect_is_found_on_the_edge(clean):
    position = np.array([parse_well(w) for w in clean.rows["well"]])
    edge = outer_ring(position)
    moved = Profiles(clean.rows, clean.values + 2.0 * edge[:, None].astype(np.float32))
    probes = answers(moved)
    assert probes["well_edge"]["verdict"] == "leak" and probes["plate"]["verdict"] == "none seen"


def test_perturbations_tied_to_a_plate_are_no_leak():
    """Strong treatments on one plate each: their mean is subtracted, and the plate probe uses only controls."""
    strong = screen(experiments=5, plates=4, treatments=40, controls=6, dimensions=8, effect=8.0, seed=2)
    probes = answers(strong)
    assert probes["plate"]["verdict"] == "none seen" and probes["plate"]["wells"] == 5 * 4 * 8


def test_too_few_wells_give_undecided_and_never_none_seen():
    few = screen(experiments=2, plates=2, treatments=4, controls=4, dimensions=30, seed=3)
    probes = answers(few, smallest=0.2)
    assert probes["experiment"]["verdict"] == "undecided" and not probes["experiment"]["planted_found"]


def test_plates_seen_in_training_are_left_out_or_make_the_probe_void(clean):
    seen = Profiles(clean.rows.assign(plate_seen=clean.rows["experiment"] == "E0"), clean.values)
    assert answers(seen)["experiment"]["chance"] == pytest.approx(1 / 3)
    every = answers(Profiles(clean.rows.assign(plate_seen=True), clean.values))
    assert {a["verdict"] for a in every.values()} == {"void"}


def test_designs_that_cannot_answer_give_the_reason(clean):
    tied = clean.rows.assign(well="B02")
    assert "keeps its well" in answers(Profiles(tied, clean.values))["well_edge"]["reason"]
    one = answers(clean.take((clean.rows["experiment"] == "E0").to_numpy()))
    assert one["experiment"]["verdict"] == "not asked" and one["plate"]["wells"] == 4 * 8
    unknown = answers(Profiles(clean.rows.assign(perturbation=None), clean.values))
    assert {a["verdict"] for a in unknown.values()} == {"not asked"}


def test_staining_read_from_the_embedding_is_a_leak(clean):
    rng = np.random.default_rng(0)
    stain = pd.DataFrame({"nucleus": rng.normal(size=len(clean.rows))}, index=clean.rows["id_code"])
    silent = {a["axis"]: a for a in probe_leaks(clean, stain, 60, 3.0)}
    assert silent["raw_intensity"]["verdict"] == "none seen"
    values = clean.values + 2 * stain["nucleus"].to_numpy(np.float32)[:, None]
    probes = {a["axis"]: a for a in probe_leaks(Profiles(clean.rows, values), stain, 60, 3.0)}
    assert probes["raw_intensity"]["verdict"] == "leak" and probes["plate"]["verdict"] == "none seen"


def test_the_probe_agrees_with_scikit_learn_and_a_planted_shift_with_shifted_data():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([0, 1], 60))
    values = rng.normal(size=(120, 5)) @ rng.normal(size=(5, 5))
    values[labels == 1] += 1.0
    blocks = np.arange(120)
    probe = Probe(values, blocks, 0)
    part = split_blocks(blocks, 0)
    called = np.empty(120, int)
    for split in range(5):  # with two classes of equal size both are Fisher's discriminant
        model = LinearDiscriminantAnalysis(solver="lsqr", priors=[0.5, 0.5]).fit(
            values[part != split], labels[part != split]
        )
        called[part == split] = model.predict(values[part == split])
    oracle = np.mean([(called[labels == k] == k).mean() for k in (0, 1)])
    assert probe.balanced_accuracy(labels) == pytest.approx(oracle, abs=0.04)
    scaled = (values - values.mean(axis=0)) / values.std(axis=0)
    shift = rng.normal(size=(2, 5)) * 2
    moved = Probe.__new__(Probe)
    moved._values, moved._splits = scaled + shift[labels], []
    for split in probe._splits:
        train = np.delete(moved._values, split.test, axis=0)
        centre = train.mean(axis=0)
        factor = _factor((train - centre).T @ (train - centre) / len(train), split.ridge)
        moved._splits.append(replace(split, values=moved._values[split.test], centre=centre, factor=factor))
    assert probe.balanced_accuracy(labels, shift) == pytest.approx(moved.balanced_accuracy(labels), abs=0.01)


def test_predictions_are_those_of_the_shrunken_discriminant_written_out():
    """Few wells in many dimensions, where shrinkage counts; with and without a shift of each class."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(60, 30)) * np.geomspace(10, 0.1, 30) @ rng.normal(size=(30, 30))
    labels = rng.permutation(np.repeat([0, 1, 2], 20))
    values += labels[:, None] * rng.normal(size=30) * 3
    probe, part = Probe(values, np.arange(60), 0), split_blocks(np.arange(60), 0)
    for shift in (None, *rng.normal(size=(8, 3, 30)) * 0.6):
        called = np.empty(60, int)
        for number, split in enumerate(probe._splits):
            assert 0.05 < split.ridge < 0.9
            plain = probe._values[part != number].astype(float)
            moved = probe._values + (0 if shift is None else shift[labels])
            train, of_train = moved[part != number], labels[part != number]
            covariance = np.cov(train.T, bias=True)
            target = (
                np.trace(np.cov(plain.T, bias=True)) / 30 * np.eye(30)
            )  # the shift leaves the target of the shrinkage
            inverse = np.linalg.inv((1 - split.ridge) * covariance + split.ridge * target)
            means = np.stack([train[of_train == k].mean(axis=0) for k in range(3)])
            distance = [
                ((moved[part == number] - m) @ inverse * (moved[part == number] - m)).sum(axis=1) for m in means
            ]
            called[part == number] = np.argmin(distance, axis=0)
        oracle = np.mean([(called[labels == k] == k).mean() for k in range(3)])
        assert probe.balanced_accuracy(labels, shift) == pytest.approx(oracle)


def test_null_and_plants_have_shuffles_of_their_own(clean, monkeypatch):
    drawn = []

    def shuffled(task: ProbeTask, seed: int, draw: int) -> np.ndarray:
        drawn.append((seed, draw))
        return task.labels

    tasks = probe_tasks(class_residuals(clean), "experiment", NO_INTENSITY)
    monkeypatch.setattr(ProbeTask, "shuffled_labels", shuffled)
    run_probes(tasks, 20, 3.0, seed=7)
    assert {seed for seed, _ in drawn} == {7}
    of_null, of_plants = [draw for _, draw in drawn[: 20 * len(tasks)]], {draw for _, draw in drawn[20 * len(tasks) :]}
    assert of_null == [draw for draw in range(20) for _ in tasks] and min(of_plants) == 20 and len(of_plants) > 1


@pytest.mark.parametrize("size", [*SHIFTS, 99.0])
def test_the_smallest_shift_that_is_found_is_reported(clean, size):
    class SeesFrom(Probe):
        def balanced_accuracy(self, labels, shift=None):
            return 0.25 if shift is None else 0.25 + 0.5 * (np.linalg.norm(shift[0]) >= size)

        def directions(self, count, rng):
            return np.eye(count, 8)

    tasks = probe_tasks(class_residuals(clean), "experiment", NO_INTENSITY)
    result = run_probes(tasks, 20, 1.0, make_probe=SeesFrom)
    assert result["detectable"] == (size if size in SHIFTS else None) and result["planted_found"] == (size <= 1.0)


def test_p_counts_the_shuffles_that_do_as_well(clean):
    tasks = probe_tasks(class_residuals(clean), "experiment", NO_INTENSITY)
    probes = [Probe(task.values, task.blocks, 3) for task in tasks]

    def accuracy(labels: list[np.ndarray]) -> float:
        return float(np.mean([p.balanced_accuracy(y) for p, y in zip(probes, labels, strict=True)]))

    observed = accuracy([task.labels for task in tasks])
    null = np.array([accuracy([task.shuffled_labels(3, draw) for task in tasks]) for draw in range(30)])
    result = run_probes(tasks, 30, 3.0, seed=3)
    assert result["balanced_accuracy"] == observed and 0 < (null >= observed).sum() < 30
    assert result["p"] == (1 + (null >= observed).sum()) / 31
    assert (result["null_low"], result["null_high"]) == tuple(np.quantile(null, [0.025, 0.975]))


def test_halves_and_ring_of_a_plate():
    position = np.array([(row, column) for row in range(1, 5) for column in range(2, 8)])
    shape = (4, 6)
    assert upper_half(position).reshape(shape).tolist() == [[True] * 6] * 2 + [[False] * 6] * 2
    assert left_half(position).reshape(shape).tolist() == [[True] * 3 + [False] * 3] * 4
    inner = [True] + [False] * 4 + [True]
    assert outer_ring(position).reshape(shape).tolist() == [[True] * 6, inner, inner, [True] * 6]


def test_constant_profiles_are_predicted_by_chance():
    labels = np.arange(40) % 2
    assert Probe(np.ones((40, 3)), np.arange(40), 0).balanced_accuracy(labels) == 0.5


def test_directions_have_unit_spread_and_blocks_stay_whole():
    rng = np.random.default_rng(0)
    probe = Probe(rng.normal(size=(200, 4)) * [1, 5, 0.1, 3], np.arange(200), 0)
    directions = probe.directions(3, rng)
    for d in directions:
        assert (probe._values @ (d / np.linalg.norm(d))).std() == pytest.approx(np.linalg.norm(d))
    blocks = np.repeat(np.arange(12), 5)
    part = split_blocks(blocks, 1)
    assert all(len(set(part[blocks == b])) == 1 for b in range(12)) and set(part) == set(range(5))


def test_a_greater_shift_is_detected_where_a_small_one_is_not():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 40)
    question = ProbeTask("a", rng.normal(size=(80, 4)), labels, np.arange(80), np.arange(80), np.zeros(80, int))
    found = run_probes([question], 60, smallest=2.0)
    more = run_probes(
        [
            ProbeTask(
                "a",
                rng.normal(size=(2000, 4)),
                np.repeat([0, 1], 1000),
                np.arange(2000),
                np.arange(2000),
                np.zeros(2000, int),
            )
        ],
        60,
        2.0,
    )
    assert more["detectable"] < found["detectable"] <= 2.0 and verdict(found) in ("none seen", "leak")


def test_an_interaction_of_perturbation_and_experiment_is_no_leak_of_the_experiment():
    """Each perturbation has its own shift in each experiment: false alarms stay at the nominal level."""
    alarms = 0
    for seed in range(20):
        plain = screen(experiments=5, plates=4, treatments=8, controls=8, dimensions=5, seed=seed)
        code = plain.rows.groupby(["experiment", "perturbation"]).ngroup().to_numpy()
        shift = np.random.default_rng(seed).normal(size=(code.max() + 1, 5)) * 3
        probes = answers(
            Profiles(plain.rows, (plain.values + shift[code]).astype(np.float32)), permutations=40, axes=("experiment",)
        )
        alarms += probes["experiment"]["verdict"] == "leak"
    assert alarms <= 3


def test_leak_scores_equal_the_scores_of_the_probes(clean):
    probes = answers(clean)
    for axis, (score, chance) in leak_scores(clean, ("plate", "experiment")).items():
        assert score == probes[axis]["balanced_accuracy"] and chance == probes[axis]["chance"]


def test_the_card_is_complete_printed_and_drawn(clean):
    leaks = leak_table({"embedding": probe_leaks(clean, NO_INTENSITY, 20, 3.0)}, {"embedding": "T1"})
    validate_table(leaks, "leak_probes", "x")
    active = pd.DataFrame({"q": [0.01, 0.5]})
    suspects = SCHEMAS["suspect_wells"].empty()
    signal = {"treatment": {"any": {"map": 0.5, "chance": 0.1, "null": 0.2, "skill": 0.4, "n": 9, "experiments": 4, "interval": None, "sign_flip_p": 0.0625, "p": 0.05, "smallest_p": 0.05}}}  # fmt: skip
    no_controls = {"redealt": [], "group_share": {}, "redrawn": {}}
    card = make_card(
        screen="s",
        tier="T1",
        plate_design=no_controls,
        profiles=clean,
        signal=signal,
        leaks=leaks,
        corrections=SCHEMAS["embedding_corrections"].empty(),
        activity=active,
        suspects=suspects,
    )
    assert set(card) == set(CARD_KEYS) and card["activity"]["active"] == 1
    text = format_card(card)
    assert "could see a shift of" in text and "none seen" in text and "0.200      9   p 0.050 (smallest 0.050)" in text
    assert "raw intensity                                   -" in text and "not asked: no raw intensities" in text
    draw_card(card)
    collapsed = Profiles(clean.rows, np.ones_like(clean.values) + 1e-3 * clean.values[:, :1])
    collapsed_card = make_card(
        screen="s",
        tier="T1",
        plate_design=no_controls,
        profiles=collapsed,
        signal={},
        leaks=leaks,
        corrections=SCHEMAS["embedding_corrections"].empty(),
        activity=active,
        suspects=suspects,
    )
    assert any("effective rank 1.0" in note for note in collapsed_card["notes"])
    empty = make_card(
        screen="s", tier="unknown", plate_design=no_controls, profiles=clean.take(np.zeros(len(clean.rows), bool)), signal={},
        leaks=SCHEMAS["leak_probes"].empty(), corrections=SCHEMAS["embedding_corrections"].empty(), activity=active.head(0), suspects=suspects,
    )  # fmt: skip
    assert "no embeddings" in format_card(empty) and draw_card(empty)


def test_raw_brightness_is_pooled_over_the_sites_of_a_well():
    sites = pd.DataFrame(
        {"id_code": ["a", "a", "b", "b"], "site": [1, 2, 1, 2], "channel": "er", "mean": [1.0, 3, 5, 5], "std": 1.0}
    )
    assert np.exp(well_features(sites, ("mean",)).iloc[:, 0]).tolist() == pytest.approx([2, 5])
    assert well_features(sites.head(0)).empty


def test_the_shortcut_for_planted_shifts_equals_solving_shifted_data():
    """Woodbury's identity against the covariance of shifted data, class by class."""
    rng = np.random.default_rng(0)
    values, labels = rng.normal(size=(300, 40)) @ rng.normal(size=(40, 40)), rng.integers(0, 5, 300)
    probe = Probe(values, np.arange(300), 0)
    shift = probe.directions(5, rng)
    moved = probe._values.astype(float) + shift[labels]
    called = np.empty(300, int)
    for split in probe._splits:
        test, ridge = split.test, split.ridge
        train = np.setdiff1d(np.arange(300), test)
        known = probe._values[train] - probe._values[train].mean(axis=0)
        centre = moved[train].mean(axis=0)
        residual = moved[train] - centre
        target = np.trace(known.T.astype(float) @ known / len(train)) / 40
        metric = (1 - ridge) * residual.T @ residual / len(train) + ridge * target * np.eye(40)
        means = np.stack([residual[labels[train] == k].mean(axis=0) for k in range(5)])
        weight = np.linalg.solve(metric, means.T)
        called[test] = ((moved[test] - centre) @ weight - 0.5 * (means.T * weight).sum(axis=0)).argmax(axis=1)
    slow = np.mean([(called[labels == k] == k).mean() for k in range(5)])
    assert probe.balanced_accuracy(labels, shift) == pytest.approx(slow, abs=0.005)


def test_a_single_shared_control_can_show_a_leak():
    """Only DMSO is on every plate, the usual design of a compound screen."""
    rng = np.random.default_rng(0)
    rows = [(0, f"E{e}_{p}_{w}", f"E{e}", str(p), f"{'ABCDEFGH'[w // 4]}{w % 4 + 1:02d}", "x", "negative_control", "DMSO") for e in range(2) for p in range(4) for w in range(24)]  # fmt: skip
    columns = ["fold", "id_code", "experiment", "plate", "well", "cell_type", "well_type", "perturbation"]
    table = pd.DataFrame(rows, columns=columns).assign(role="heldout", plate_seen=False)
    silent = Profiles(table, rng.normal(size=(len(table), 6)).astype(np.float32))
    assert answers(silent, axes=("plate",))["plate"]["verdict"] == "none seen"
    probes = answers(planted(silent, "plate", 1.0), axes=("plate",))["plate"]
    assert probes["verdict"] == "leak" and probes["null_low"] < probes["chance"] < probes["null_high"]


def test_fold_models_on_the_same_wells_are_no_additional_evidence(clean):
    """Three fold models with the same profiles have the null distribution of one."""
    one = answers(clean, axes=("plate",))["plate"]
    three = Profiles(
        pd.concat([clean.rows.assign(fold=f) for f in range(3)], ignore_index=True), np.tile(clean.values, (3, 1))
    )
    probes = answers(three, axes=("plate",))["plate"]
    for name in ("balanced_accuracy", "null_low", "null_high", "p"):
        assert probes[name] == pytest.approx(one[name])


def test_an_experiment_leak_is_not_mistaken_for_a_leak_of_the_staining(clean):
    rng = np.random.default_rng(0)
    batch = pd.factorize(clean.rows["experiment"])[0]
    stain = pd.DataFrame(
        {"er": rng.normal(size=len(batch)) + 5 * rng.normal(size=4)[batch]}, index=clean.rows["id_code"]
    )
    moved = planted(clean, "experiment", 3.0)
    answer = probe_leaks(moved, stain, 60, 3.0, axes=("raw_intensity",))[0]
    assert answer["verdict"] != "leak"


def test_a_null_of_one_value_is_no_result(clean, monkeypatch):
    constant = {"null_low": 0.561, "null_high": 0.561, "balanced_accuracy": 0.561, "p": 1.0}
    monkeypatch.setattr("deepnoise.evaluation.probe_tasks.run_probes", lambda *_: constant)
    probe = answers(clean)["plate"]
    assert probe["verdict"] == "not asked" and "p" not in probe
    assert probe["reason"] == "cannot be tested: each shuffle of the labels has the accuracy 0.561"


def test_shuffles_are_counted_up_to_what_a_test_needs(clean):
    tasks = probe_tasks(class_residuals(clean), "plate", NO_INTENSITY)
    assert count_shuffles(tasks) == FEWEST_SHUFFLES
    fixed = [replace(task, strata=np.arange(len(task.strata))) for task in tasks]  # each unit alone in its stratum
    assert count_shuffles(fixed) == 1


# profiles that were normalized on the probed wells ---------------------------------------------------------------


def normalized(profiles: Profiles, *well_types: str, by=("experiment", "plate"), centre="mean") -> Profiles:
    """Profiles minus the mean (or median) of the wells of some types on their plate (or other batch)."""
    batch = profiles.rows.groupby(list(by)).ngroup().to_numpy()
    is_reference = profiles.rows["well_type"].isin(well_types).to_numpy()
    table = pd.DataFrame(profiles.values[is_reference]).groupby(batch[is_reference])
    return Profiles(profiles.rows, profiles.values - table.agg(centre).loc[batch].to_numpy())


def shifted_treatments(profiles: Profiles, size: float) -> Profiles:
    """A plate shift of the treatments alone."""
    moved = planted(profiles, "plate", size)
    is_treatment = (profiles.rows["well_type"] == "treatment").to_numpy()
    return Profiles(profiles.rows, np.where(is_treatment[:, None], moved.values, profiles.values))


@pytest.fixture(scope="module")
def replicated() -> Profiles:
    """Every treatment on every plate of its experiment."""
    one = screen(experiments=3, plates=1, treatments=12, controls=6, dimensions=8, effect=1.0, seed=3)
    plates = []
    for plate in range(4):
        rows = one.rows.assign(plate=str(plate), id_code=one.rows["id_code"] + f"_{plate}")
        noise = np.random.default_rng(plate).normal(size=one.values.shape)
        plates.append(Profiles(rows, one.values + noise))
    rows = pd.concat([p.rows for p in plates], ignore_index=True)
    return Profiles(rows, np.concatenate([p.values for p in plates]).astype(np.float32))


@pytest.mark.parametrize("centre", ["mean", "median"])
def test_wells_that_profiles_are_normalized_on_never_say_that_a_shift_of_the_treatments_is_gone(clean, centre):
    controls = ("negative_control", "positive_control")
    moved = normalized(shifted_treatments(planted(clean, "plate", 1.5), 2.0), *controls, centre=centre)
    probe = answers(moved, smallest=0.75, axes=("plate",))["plate"]
    assert probe["verdict"] == "undecided" and "reference" in probe["reason"] and "treatments do" in probe["reason"]
    assert probe["balanced_accuracy"] > 0.9
    alone = answers(moved.take((moved.rows["well_type"] != "treatment").to_numpy()), axes=("plate",))["plate"]
    assert alone["verdict"] == "void" and "balanced_accuracy" not in alone and "would not be seen" in alone["reason"]


def test_wells_that_are_no_reference_are_probed_in_their_place(replicated):
    silent = answers(normalized(replicated, "positive_control", "negative_control"), axes=("plate",))["plate"]
    assert silent["wells"] == 3 * 4 * 12 and "normalized" in silent["reason"]
    loud = normalized(shifted_treatments(replicated, 2.0), "positive_control", "negative_control")
    assert answers(loud, axes=("plate",))["plate"]["verdict"] == "leak"


def test_others_whose_labels_can_hardly_be_shuffled_are_not_probed(replicated, monkeypatch):
    def of_treatments(tasks, seed):
        return 19 if sum(len(task.labels) for task in tasks) == 3 * 4 * 12 else 20

    monkeypatch.setattr("deepnoise.evaluation.probe_tasks.count_shuffles", of_treatments)
    probe = answers(normalized(replicated, "positive_control", "negative_control"), axes=("plate",))["plate"]
    assert "half of them" in probe["reason"]


def test_half_of_the_reference_shows_what_normalizing_on_the_other_half_leaves(clean):
    """Noise that is not common to the wells of a plate: it is subtracted from half of them, and doubled in the other half."""
    everything = ("negative_control", "positive_control", "treatment")
    experiments = normalized(planted(clean, "experiment", 2.0), *everything, by=("experiment",))
    probe = answers(experiments, axes=("experiment",))["experiment"]
    assert probe["verdict"] == "none seen" and "half of them" in probe["reason"]
    assert probe["null_low"] <= probe["balanced_accuracy"] <= probe["null_high"]


def test_where_controls_tell_no_plate_treatments_are_asked(clean):
    """Each treatment is on one plate of its experiment, so the probe proper uses controls alone."""
    is_treatment = (clean.rows["well_type"] == "treatment").to_numpy()
    silent = answers(clean, axes=("plate",))["plate"]
    assert silent["verdict"] == "none seen" and "nor do treatments" in silent["reason"]
    assert silent["wells"] == (~is_treatment).sum() and silent["planted_found"]
    loud = answers(shifted_treatments(clean, 1.5), axes=("plate",))["plate"]
    assert loud["verdict"] == "undecided" and loud["balanced_accuracy"] > loud["null_high"]
    without = answers(clean.take(~is_treatment), axes=("plate",))["plate"]
    assert without["verdict"] == "none seen" and "would not be seen" in without["reason"]


def test_treatments_without_noise_of_their_own_seldom_raise_an_alarm():
    doubts = 0
    for seed in range(20):
        profiles = screen(experiments=4, plates=4, treatments=40, controls=3, dimensions=8, effect=1.0, seed=seed)
        probe = answers(planted(profiles, "experiment", 1.0), permutations=40, axes=("plate",))["plate"]
        doubts += "but treatments do" in probe["reason"]
    assert doubts <= 3


def test_an_accuracy_below_the_shuffles_is_never_none_seen():
    result = {"balanced_accuracy": 0.018, "null_low": 0.2, "null_high": 0.45, "chance": 0.33, "planted_found": True}
    assert verdict(result) == "undecided" and verdict(result | {"balanced_accuracy": 0.3}) == "none seen"


def test_normal_profiles_are_no_reference():
    """False alarms of the test, over screens without normalization: with many wells, few, and few dimensions."""
    found = 0
    for seed in range(20):
        size = {"dimensions": 2, "controls": 1} if seed % 2 else {"dimensions": 20, "controls": 6}
        profiles = class_residuals(screen(experiments=3, plates=4, treatments=16, seed=seed, effect=1.0, **size))
        for axis in ("plate", "experiment"):
            found += are_reference(probe_tasks(profiles, axis, NO_INTENSITY))
    assert found <= 2
