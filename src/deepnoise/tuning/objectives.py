"""What a study maximizes: the T1 score of a training, or the top-1 of plate balancing on stored scores, both on validation experiments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
import pandas as pd

from deepnoise.errors import InputError
from deepnoise.network.site_images import ImageSource
from deepnoise.parameters import PlateBalancingParameters, TrainingParameters, replace_values
from deepnoise.plate_balancing.balancing import DesignKnowledge, balance
from deepnoise.plate_balancing.scores import pool_scores
from deepnoise.tuning.study import Objective

WHERE = "tuning"


def training_objective(
    store: ImageSource,
    sites: pd.DataFrame,
    wells: pd.DataFrame,
    folds: pd.DataFrame,
    statistics: pd.DataFrame,
    parameters: TrainingParameters,
) -> Objective:
    """Train the first fold with a trial's values; the score is the validation T1 of what would be handed on.

    A trial is given up where its epochs fall behind the median of the earlier ones.
    """
    from deepnoise.training.fold_view import fold_view
    from deepnoise.training.loop import pretrain, train_mean_teacher
    from deepnoise.training.trainer import NoState, Trainer

    fold = int(folds["fold"].min())

    def objective(trial: optuna.Trial, values: Mapping[str, Any]) -> float:
        own = replace_values(parameters, "training", values, WHERE)
        view = fold_view(sites, wells, folds, fold, own.unlabelled_source, own.sites)
        if view.validation.empty:
            raise InputError(
                "tuning goes by validation experiments, and there are none; set ingestion.folds.validation"
            )
        epochs = 0

        def report(row: dict[str, Any]) -> None:
            nonlocal epochs
            trial.report(row["chosen_top1"], epochs)
            epochs += 1
            if trial.should_prune():
                raise optuna.TrialPruned

        trainer = Trainer(view, store, statistics, own, NoState(), [report])
        _, model, _ = train_mean_teacher(trainer, pretrain(trainer)[0])
        return float(model.facts["validation_top1"])

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
            "tuning of plate_balancing goes by scores of validation experiments, and well_scores has no row of role 'validation'"
        )
    pooled = pool_scores(scores[scores["role"] == "validation"], wells)
    truth = pooled["id_code"].map(wells.set_index("id_code")["perturbation"])
    cell_type = wells.set_index("id_code")["cell_type"]

    def objective(trial: optuna.Trial, values: Mapping[str, Any]) -> float:
        own = replace_values(parameters, "plate_balancing", values, WHERE)
        steps = balance(pooled, DesignKnowledge(layout, cell_type=cell_type), own).steps
        calls = steps[steps["step"] == steps["step"].iloc[-1]].set_index("id_code")["call"]
        return float(np.mean(calls.loc[pooled["id_code"]].to_numpy() == truth.to_numpy()))

    return objective
