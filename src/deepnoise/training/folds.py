"""Both stages over every fold of a screen; called by the nodes of ``training``."""

from __future__ import annotations

from typing import Any

import pandas as pd

from deepnoise.errors import InputError
from deepnoise.parameters import TrainingParameters
from deepnoise.training.images import PictureStore
from deepnoise.training.loop import StateStore, Trainer, fold_view, pretrain, train_mean_teacher
from deepnoise.training.model import TrainedModel


def _trainer(
    fold: int,
    store: PictureStore,
    sites: pd.DataFrame,
    wells: pd.DataFrame,
    folds: pd.DataFrame,
    statistics: pd.DataFrame,
    state: StateStore,
    parameters: TrainingParameters,
) -> Trainer:
    view = fold_view(sites, wells, folds, fold, parameters.unlabelled_source, parameters.sites)
    return Trainer(view, store, statistics, parameters, state)


def pretrain_folds(
    store: PictureStore,
    sites: pd.DataFrame,
    wells: pd.DataFrame,
    folds: pd.DataFrame,
    statistics: pd.DataFrame,
    state: StateStore,
    parameters: TrainingParameters,
) -> tuple[dict[int, TrainedModel], list[dict[str, Any]]]:
    """Stage 1 for every fold in the table ``folds``: fold -> student, and the history."""
    models, history = {}, []
    for fold in sorted(int(f) for f in folds["fold"].unique()):
        trainer = _trainer(fold, store, sites, wells, folds, statistics, state, parameters)
        models[fold], rows = pretrain(trainer)
        history += rows
    return models, history


def train_mean_teacher_folds(
    pretrained: dict[int, TrainedModel],
    store: PictureStore,
    sites: pd.DataFrame,
    wells: pd.DataFrame,
    folds: pd.DataFrame,
    statistics: pd.DataFrame,
    state: StateStore,
    parameters: TrainingParameters,
) -> tuple[dict[int, TrainedModel], dict[int, TrainedModel], list[dict[str, Any]]]:
    """Stage 2 for every fold: fold -> student, fold -> teacher, and the history.

    Raises:
        InputError: A pretrained student belongs to other data or parameters.
    """
    students, teachers, history = {}, {}, []
    for fold in sorted(int(f) for f in folds["fold"].unique()):
        trainer = _trainer(fold, store, sites, wells, folds, statistics, state, parameters)
        start = pretrained.get(fold)
        if start is None or start.facts["fingerprints"] != trainer.facts["fingerprints"]:
            raise InputError(
                f"the entry pretrained has no student of fold {fold} made from today's data and parameters; run the whole pipeline training"
            )
        students[fold], teachers[fold], rows = train_mean_teacher(trainer, start)
        history += rows
    return students, teachers, history
