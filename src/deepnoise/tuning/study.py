"""An optuna study over named parameters: what it may try, how it goes on, what came out of it."""

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
optuna.logging.set_verbosity(optuna.logging.WARNING)  # its line a trial says what ours says
DONE = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
Objective = Callable[[optuna.Trial, dict[str, Any]], float]
"""Takes a trial (to report to) and dotted names with values; gives the score."""


def suggest(trial: optuna.Trial, space: Mapping[str, SearchRange]) -> dict[str, Any]:
    """Values of one trial."""
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
    mark: str,
    space: Mapping[str, SearchRange],
    objective: Objective,
    parameters: TuningParameters,
) -> optuna.Study:
    """Run the trials that a study still lacks, alone or beside other workers on the same storage.

    Each trial is drawn from a seed of its own, so that workers do not try the same values. A trial that fails is recorded with its
    error, and the study goes on.

    Args:
        storage: Where the study is kept; several processes may share it.
        name: Of the study.
        mark: Fingerprint of all that the scores depend on beside the tried values.
        space: Dotted name -> values.
        objective: See Objective; greater is better.
        parameters: The block ``tuning``.

    Raises:
        InputError: An empty space, a study of other data or parameters under the same name, or no trial that succeeded.
    """
    if not space:
        raise InputError(f"the study {name!r} has no parameter to try; name some under tuning")
    pruner = optuna.pruners.MedianPruner(parameters.startup_trials, parameters.warmup_epochs)
    study = optuna.create_study(
        storage=storage, study_name=name, direction="maximize", pruner=pruner, load_if_exists=True
    )
    kept = study.user_attrs.get("mark")
    if kept is None:
        study.set_user_attr("mark", mark)
    elif kept != mark:
        raise InputError(
            f"the study {name!r} was made from other data, other parameters or another search space; give tuning.study another name to begin a new one"
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

    done = len(study.get_trials(deepcopy=False, states=DONE))
    logger.info("study %s: %s of %s trials are done", name, done, parameters.trials)
    started = time.monotonic()

    def tell(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        finished = len(study.get_trials(deepcopy=False, states=DONE))
        left = (time.monotonic() - started) / max(1, finished - done) * max(0, parameters.trials - finished)
        value = trial.user_attrs.get("error", "") if trial.value is None else f"{trial.value:.1%}"
        logger.info(
            "study %s: trial %s %s %s, %s of %s done; about %.0f s left",
            name, trial.number, trial.state.name.lower(), value, finished, parameters.trials, left,
        )  # fmt: skip

    if done < parameters.trials:
        enough = optuna.study.MaxTrialsCallback(parameters.trials, DONE)
        study.optimize(score, n_trials=parameters.trials - done, callbacks=[tell, enough], catch=(Exception,))
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        errors = [t.user_attrs["error"] for t in study.get_trials(deepcopy=False) if "error" in t.user_attrs]
        raise InputError(
            f"no trial of the study {name!r} succeeded; the first error: {errors[0] if errors else 'none'}"
        )
    return study


def trials_table(study: optuna.Study) -> pd.DataFrame:
    """The table ``tuning_trials``: one row a trial and tried parameter."""
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
    """What ``kedro run --config FILE`` takes: the best trial's values as parameters of the run."""
    values: dict[str, Any] = {}
    for dotted, value in study.best_trial.params.items():
        holder = values
        *path, last = dotted.split(".")
        for part in path:
            holder = holder.setdefault(part, {})
        holder[last] = value
    return {"run": {"params": values}}
