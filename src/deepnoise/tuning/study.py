"""An optuna study over parameters: its search space, its trials, and the best values."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import optuna
import pandas as pd
from optuna.trial import TrialState

from deepnoise.errors import InputError
from deepnoise.parameters import SearchRange, TuningParameters

logger = logging.getLogger(__name__)
optuna.logging.set_verbosity(optuna.logging.WARNING)  # our own log line per trial says the same
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
Objective = Callable[[optuna.Trial, dict[str, Any]], float]
"""Function of a trial (to report to) and of values by dotted name; returns the score."""


def suggest(trial: optuna.Trial, space: Mapping[str, SearchRange]) -> dict[str, Any]:
    """Draw the values of one trial from the search space."""
    values: dict[str, Any] = {}
    for name, range_ in space.items():
        if range_.choices is not None:
            values[name] = trial.suggest_categorical(name, range_.choices)
        elif isinstance(range_.low, int) and isinstance(range_.high, int):
            values[name] = trial.suggest_int(name, range_.low, range_.high, log=range_.log)
        else:
            assert range_.low is not None and range_.high is not None
            values[name] = trial.suggest_float(name, range_.low, range_.high, log=range_.log)
    return values


def run_study(
    storage: optuna.storages.BaseStorage,
    name: str,
    fingerprint: str,
    space: Mapping[str, SearchRange],
    objective: Objective,
    parameters: TuningParameters,
) -> optuna.Study:
    """Run the remaining trials of a study, alone or alongside other workers on the same storage.

    Each trial has its own seed, so that workers do not try the same values. A trial that fails is recorded
    with its error, and the study continues.

    Args:
        storage: Storage of the study; several processes may share it.
        name: Name of the study.
        fingerprint: Fingerprint of everything the scores depend on besides the tried values.
        space: Dotted name of a parameter -> values to try.
        objective: See ``Objective``; greater is better.
        parameters: The block ``tuning``.

    Raises:
        InputError: The space is empty, a study of that name has other data or parameters, or no trial
            succeeded.
    """
    if not space:
        raise InputError(f"the study {name!r} has no parameter to try; list some under tuning")
    pruner = optuna.pruners.MedianPruner(parameters.startup_trials, parameters.warmup_epochs)
    study = optuna.create_study(
        storage=storage, study_name=name, direction="maximize", pruner=pruner, load_if_exists=True
    )
    stored_fingerprint = study.user_attrs.get("mark")
    if stored_fingerprint is None:
        study.set_user_attr("mark", fingerprint)
    elif stored_fingerprint != fingerprint:
        raise InputError(
            f"the study {name!r} was made from other data, other parameters or another search space; give tuning.study another name to start a new one"
        )

    def score(trial: optuna.Trial) -> float:
        study.sampler = optuna.samplers.TPESampler(
            seed=parameters.seed + trial.number, n_startup_trials=parameters.startup_trials, constant_liar=True
        )
        try:
            return objective(trial, suggest(trial, space))
        except optuna.TrialPruned:
            raise
        except Exception as error:
            trial.set_user_attr("error", f"{type(error).__name__}: {error}"[:500])
            raise

    finished_before = len(study.get_trials(deepcopy=False, states=FINISHED))
    logger.info("study %s: %s of %s trials are finished", name, finished_before, parameters.trials)
    started = time.monotonic()

    def log_progress(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        finished = len(study.get_trials(deepcopy=False, states=FINISHED))
        seconds_per_trial = (time.monotonic() - started) / max(1, finished - finished_before)
        seconds_left = seconds_per_trial * max(0, parameters.trials - finished)
        value = trial.user_attrs.get("error", "") if trial.value is None else f"{trial.value:.1%}"
        logger.info(
            "study %s: trial %s %s %s, %s of %s finished; about %.0f s left",
            name, trial.number, trial.state.name.lower(), value, finished, parameters.trials, seconds_left,
        )  # fmt: skip

    if finished_before < parameters.trials:
        stop = optuna.study.MaxTrialsCallback(parameters.trials, FINISHED)
        study.optimize(
            score, n_trials=parameters.trials - finished_before, callbacks=[log_progress, stop], catch=(Exception,)
        )
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        errors = [t.user_attrs["error"] for t in study.get_trials(deepcopy=False) if "error" in t.user_attrs]
        raise InputError(
            f"no trial of the study {name!r} succeeded; the first error: {errors[0] if errors else 'none'}"
        )
    return study


def trials_table(study: optuna.Study) -> pd.DataFrame:
    """The table ``tuning_trials``: one row per trial and tried parameter."""
    rows = []
    for trial in study.get_trials(deepcopy=False):
        seconds = trial.duration.total_seconds() if trial.duration is not None else None
        rows += [
            {
                "study": study.study_name, "trial": trial.number, "state": trial.state.name.lower(), "score": trial.value,
                "epochs": len(trial.intermediate_values), "seconds": seconds, "error": trial.user_attrs.get("error"),
                "parameter": name, "value": str(value),
            }
            for name, value in trial.params.items()
        ]  # fmt: skip
    columns = ["study", "trial", "state", "score", "epochs", "seconds", "error", "parameter", "value"]
    return pd.DataFrame(rows, columns=columns)


def run_file(study: optuna.Study) -> dict[str, Any]:
    """The best trial's values as run parameters, in the format of ``kedro run --config FILE``."""
    values: dict[str, Any] = {}
    for dotted, value in study.best_trial.params.items():
        block = values
        *path, key = dotted.split(".")
        for name in path:
            block = block.setdefault(name, {})
        block[key] = value
    return {"run": {"params": values}}
