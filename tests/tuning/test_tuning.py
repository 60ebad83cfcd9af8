"""Studies: they go on, share their work, record failures, and hand over what won."""

import threading
from dataclasses import replace

import numpy as np
import optuna
import pytest
from kedro.io import DatasetError

from deepnoise.datasets.study import StudyStorageDataset
from deepnoise.errors import InputError
from deepnoise.ingestion.folds import make_folds
from deepnoise.ingestion.layouts import discover_groups, visible_labels
from deepnoise.parameters import SearchRange, TuningParameters, replace_values
from deepnoise.plate_balancing.balancing import DesignKnowledge, balance
from deepnoise.plate_balancing.scores import pool_scores
from deepnoise.tables import SCORE, validate_table
from deepnoise.tuning.figures import draw_study
from deepnoise.tuning.objectives import balancing_objective, training_objective
from deepnoise.tuning.study import run_file, run_study, suggest, trials_table
from tests.plate_balancing.helpers import PARAMETERS
from tests.training.helpers import MEAN_TEACHER, STAGE, as_screen, parameters

SPACE = {
    "training.pretrain.learning_rate": SearchRange(low=1e-4, high=1e-1, log=True),
    "training.batch_size": SearchRange(low=8, high=64),
    "training.batches": SearchRange(choices=["mixed", "plate"]),
}  # fmt: skip


def tuning(**changes) -> TuningParameters:
    values = dict(study="s", seed=1, trials=8, startup_trials=3, warmup_epochs=0, training=SPACE, plate_balancing={})
    return TuningParameters.model_validate(values | changes)


def valley(trial, values):
    return -abs(np.log10(values["training.pretrain.learning_rate"]) + 2) - values["training.batch_size"] / 1000


@pytest.fixture
def journal(tmp_path):
    return StudyStorageDataset(filepath=str(tmp_path / "below" / "tuning.journal"))


def test_a_study_goes_on_where_it_was_and_its_best_values_make_a_run(journal):
    run_study(journal.load(), "s", "m", SPACE, valley, tuning(trials=3))
    study = run_study(journal.load(), "s", "m", SPACE, valley, tuning())
    assert len(study.trials) == 8
    assert len(run_study(journal.load(), "s", "m", SPACE, valley, tuning()).trials) == 8  # nothing left to do
    table = trials_table(study)
    validate_table(table, "tuning_trials", "tuning_trials")
    assert table["trial"].nunique() == 8 and len(table) == 24 and set(table["state"]) == {"complete"}
    best = study.best_trial.params
    wanted = {
        "pretrain": {"learning_rate": best["training.pretrain.learning_rate"]}, "batch_size": best["training.batch_size"],
        "batches": best["training.batches"],
    }  # fmt: skip
    assert run_file(study) == {"run": {"params": {"training": wanted}}}
    whole = run_study(optuna.storages.InMemoryStorage(), "s", "m", SPACE, valley, tuning())
    assert [t.params for t in whole.trials] == [t.params for t in study.trials]  # the same, stopped in between or not


def test_other_data_cannot_go_on_under_the_same_name(journal):
    run_study(journal.load(), "s", "m", SPACE, valley, tuning(trials=1))
    with pytest.raises(InputError, match="the study 's' was made from other data.*give tuning.study another name"):
        run_study(journal.load(), "s", "other", SPACE, valley, tuning(trials=2))


def test_workers_share_one_study(journal):
    journal.load()
    begun = threading.Barrier(2)

    def slow(trial, values):
        if trial.number < 2:
            begun.wait(timeout=30)  # both workers have a trial at once
        return valley(trial, values)

    def work():
        run_study(journal.load(), "s", "m", SPACE, slow, tuning(trials=6))

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    study = optuna.load_study(study_name="s", storage=journal.load())
    assert 6 <= len(study.trials) <= 7  # one may have been under way when the last was done
    assert len({tuple(t.params.values()) for t in study.trials}) == len(study.trials)  # no value was tried twice


def test_failures_are_recorded_and_given_up_trials_too(journal):
    def moody(trial, values):
        if trial.number == 1:
            raise InputError("no such well")
        for epoch in range(3):
            trial.report(-trial.number, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return -trial.number

    table = trials_table(run_study(journal.load(), "s", "m", SPACE, moody, tuning(trials=6, startup_trials=1)))
    states = table.drop_duplicates("trial").set_index("trial")
    assert states["state"].tolist()[:2] == ["complete", "fail"] and "pruned" in set(states["state"])
    assert states.loc[1, "error"] == "InputError: no such well" and states.loc[0, "epochs"] == 3

    def never(trial, values):
        raise ValueError("broken")

    with pytest.raises(InputError, match="no trial of the study 't' succeeded; the first error: ValueError: broken"):
        run_study(journal.load(), "t", "m", SPACE, never, tuning(trials=2))
    with pytest.raises(InputError, match="has no parameter to try"):
        run_study(journal.load(), "u", "m", {}, never, tuning())


def test_values_stay_in_their_ranges_and_names_must_exist():
    trial = optuna.trial.FixedTrial(
        {"training.pretrain.learning_rate": 0.01, "training.batch_size": 9, "training.batches": "plate"}
    )
    values = suggest(trial, SPACE)
    own = replace_values(parameters(unlabelled_source="training"), "training", values, "tuning")
    assert own.batch_size == 9 and own.batches == "plate" and own.pretrain.learning_rate == 0.01
    with pytest.raises(
        InputError,
        match="tuning changes 'training.pretrain.rate', which is no parameter; allowed at 'rate'.*learning_rate",
    ):
        replace_values(own, "training", {"training.pretrain.rate": 1}, "tuning")
    with pytest.raises(InputError, match="tuning changes 'sites', which is no parameter"):
        replace_values(own, "training", {"sites": 1}, "tuning")
    with pytest.raises(InputError, match="tuning cannot set .*batch_size"):
        replace_values(own, "training", {"training.batch_size": 1}, "tuning")
    for wrong in (
        dict(low=1.0),
        dict(low=2.0, high=1.0),
        dict(low=0.0, high=1.0, log=True),
        dict(low=0, high=1, choices=[1]),
    ):
        with pytest.raises(ValueError, match="search range"):
            SearchRange.model_validate(wrong)


def test_images_of_a_study_and_of_one_that_tells_nothing_yet(journal):
    one = run_study(journal.load(), "one", "m", SPACE, valley, tuning(trials=1))
    assert [len(figure.axes) for figure in draw_study(one)][1:] == [0, 0]
    study = run_study(journal.load(), "s", "m", SPACE, valley, tuning())
    assert all(len(figure.axes) > 0 for figure in draw_study(study))


def test_storages_that_cannot_be_opened_say_so(tmp_path):
    with pytest.raises(DatasetError, match="study_url: the database cannot be opened"):
        StudyStorageDataset(filepath="unused", url="nothing://here").load()
    database = StudyStorageDataset(filepath="unused", credentials={"url": f"sqlite:///{tmp_path}/studies.db"})
    assert "studies.db" not in str(database._describe())
    assert len(run_study(database.load(), "s", "m", SPACE, valley, tuning(trials=2)).trials) == 2


def test_training_is_scored_on_validation_experiments(screen, wells):
    whole = as_screen(screen, wells, make_folds(wells, [], 3, [0], True))
    own = parameters(pretrain=STAGE | dict(epochs=1), mean_teacher=MEAN_TEACHER | dict(epochs=1))
    objective = training_objective(whole, own)
    space = {"training.pretrain.learning_rate": SearchRange(low=1e-3, high=1e-2)}
    study = run_study(optuna.storages.InMemoryStorage(), "s", "m", space, objective, tuning(trials=2))
    assert all(0 <= t.value <= 1 and len(t.intermediate_values) == 2 for t in study.trials)
    assert all(t.value == t.intermediate_values[1] for t in study.trials)
    unvalidated = whole.folds[whole.folds["role"] != "validation"]
    blind = training_objective(replace(whole, folds=unvalidated), own)
    with pytest.raises(InputError, match="tuning needs validation experiments, and there are none"):
        run_study(optuna.storages.InMemoryStorage(), "s", "m", space, blind, tuning(trials=1))


def test_plate_balancing_is_tuned_on_stored_scores(wells):
    folds = make_folds(wells, [], 3, [0], True)
    layout = discover_groups(visible_labels(wells, folds, "design"))
    asked = wells.merge(folds[["experiment", "plate", "role"]], on=["experiment", "plate"])
    asked = asked[asked["target"] & asked["role"].isin(["validation", "heldout"])].reset_index(drop=True)
    rng = np.random.default_rng(0)
    names = sorted(layout["perturbation"])
    scores = asked[["id_code", "role"]].assign(tier="T1", fold=0)
    for name in names:
        scores[SCORE + name] = rng.normal(0, 1, len(asked)) + 1.5 * (asked["perturbation"] == name)
    block = PARAMETERS.model_copy(update={"temperature": 1.0})
    objective = balancing_objective(scores, wells, layout, block)
    space = {"plate_balancing.method": SearchRange(choices=["none", "sinkhorn", "matching"])}
    study = run_study(optuna.storages.InMemoryStorage(), "s", "m", space, objective, tuning(trials=12))
    by_method = {t.params["plate_balancing.method"]: t.value for t in study.trials}
    pooled = pool_scores(scores[scores["role"] == "validation"], wells)
    truth = pooled["id_code"].map(wells.set_index("id_code")["perturbation"])
    for method, score in by_method.items():
        steps = balance(pooled, DesignKnowledge(layout), block.model_copy(update={"method": method})).steps
        called = steps[steps["step"] == steps["step"].iloc[-1]].set_index("id_code")["call"]
        assert score == np.mean(called.loc[pooled["id_code"]].to_numpy() == truth.to_numpy())
    assert len(by_method) == 3 and len(set(by_method.values())) > 1
    with pytest.raises(InputError, match="no row of role 'validation'"):
        balancing_objective(scores[scores["role"] == "heldout"], wells, layout, block)
