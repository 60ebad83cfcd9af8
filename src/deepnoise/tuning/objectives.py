"""What a study maximizes: top-1 of a training, or of plate balancing on stored scores, both on validation experiments."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import optuna
import pandas as pd

from deepnoise.errors import InputError
from deepnoise.parameters import PlateBalancingParameters, TrainingParameters, replace_values
from deepnoise.plate_balancing.balancing import DesignKnowledge, balance
from deepnoise.plate_balancing.scores import pool_scores
from deepnoise.screen import Screen
from deepnoise.tuning.study import Objective

CALLER = "tuning"
"""Who changes parameters, in error messages."""


def training_objective(screen: Screen, parameters: TrainingParameters) -> Objective:
    """Train the first fold with a trial's values; the score is the validation top-1 of the model handed on.

    A trial is pruned if its epochs fall behind the median of the earlier trials.
    """
    from deepnoise.training.loop import pretrain, train_mean_teacher
    from deepnoise.training.run_folds import view_of_fold
    from deepnoise.training.trainer import NoState, Trainer

    def objective(trial: optuna.Trial, values: Mapping[str, Any]) -> float:
        training = replace_values(parameters, "training", values, CALLER)
        view = view_of_fold(screen, screen.fold_numbers[0], training)
        if view.validation.empty:
            raise InputError("tuning needs validation experiments, and there are none; set ingestion.folds.validation")
        epochs = 0

        def report(row: dict[str, Any]) -> None:
            nonlocal epochs
            trial.report(row["chosen_top1"], epochs)
            epochs += 1
            if trial.should_prune():
                raise optuna.TrialPruned

        trainer = Trainer(view, screen, training, NoState(), [report])
        _, model, _ = train_mean_teacher(trainer, pretrain(trainer)[0])
        assert model.card.validation_top1 is not None  # there are validation plates
        return float(model.card.validation_top1)

    return objective


def balancing_objective(
    scores: pd.DataFrame, wells: pd.DataFrame, layout: pd.DataFrame, parameters: PlateBalancingParameters
) -> Objective:
    """Balance the stored scores of validation experiments with a trial's values; the score is the top-1 of the final call (tier T2).

    Raises:
        InputError: The table has no scores of validation experiments.
    """
    if "role" not in scores.columns or not (scores["role"] == "validation").any():
        raise InputError(
            "tuning of plate_balancing needs scores of validation experiments, and well_scores has no row of role 'validation'"
        )
    of_validation = scores[scores["role"] == "validation"]
    label = wells.set_index("id_code")["perturbation"]
    cell_type = wells.set_index("id_code")["cell_type"]

    @cache
    def pool(pooling: str) -> pd.DataFrame:
        return pool_scores(of_validation, wells, pooling)

    def objective(trial: optuna.Trial, values: Mapping[str, Any]) -> float:
        balancing = replace_values(parameters, "plate_balancing", values, CALLER)
        pooled = pool(balancing.pooling)
        steps = balance(pooled, DesignKnowledge(layout, cell_type=cell_type), balancing).steps
        calls = steps[steps["step"] == steps["step"].iloc[-1]].set_index("id_code")["call"]
        return float(np.mean(calls.loc[pooled["id_code"]].to_numpy() == pooled["id_code"].map(label).to_numpy()))

    return objective
