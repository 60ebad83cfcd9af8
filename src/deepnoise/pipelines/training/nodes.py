"""Nodes of ``training``: adapters of ``deepnoise.training``. torch is imported when a node runs."""

from __future__ import annotations

import logging
from typing import Any

import pandas as pd
from plotly.graph_objects import Figure

from deepnoise.network.trained_model import TrainedModel
from deepnoise.normalization.illumination import corrected_store
from deepnoise.parameters import TrainingParameters
from deepnoise.tables import SCHEMAS

logger = logging.getLogger(__name__)
HISTORY = list(SCHEMAS["training_history"].columns)


def score_hand_features(
    normalized_features: pd.DataFrame, plate_statistics: pd.DataFrame, wells: pd.DataFrame, folds: pd.DataFrame
) -> pd.DataFrame:
    """The baseline: intensity features and logistic regression on the same folds."""
    from deepnoise.training.baseline import score_hand_features

    return score_hand_features(normalized_features, wells, folds, str(plate_statistics["tier"].iloc[0]))


def pretrain_student(
    image_store: Any,
    illumination_fields: pd.DataFrame,
    sites: pd.DataFrame,
    wells: pd.DataFrame,
    folds: pd.DataFrame,
    plate_statistics: pd.DataFrame,
    training_state: Any,
    parameters: TrainingParameters,
) -> tuple[dict[str, TrainedModel], pd.DataFrame]:
    """Stage 1 for every fold."""
    from deepnoise.training.run_folds import pretrain_folds

    store = corrected_store(image_store, illumination_fields)
    models, history = pretrain_folds(
        store, sites, wells, folds, plate_statistics, training_state, parameters, _reports(training_state, parameters)
    )
    return models, pd.DataFrame(history, columns=HISTORY)


def train_mean_teacher(
    pretrained: dict[str, TrainedModel],
    image_store: Any,
    illumination_fields: pd.DataFrame,
    sites: pd.DataFrame,
    wells: pd.DataFrame,
    folds: pd.DataFrame,
    plate_statistics: pd.DataFrame,
    training_state: Any,
    parameters: TrainingParameters,
) -> tuple[dict[str, TrainedModel], dict[str, TrainedModel], pd.DataFrame]:
    """Stage 2 for every fold."""
    from deepnoise.training.run_folds import train_mean_teacher_folds

    store = corrected_store(image_store, illumination_fields)
    students, teachers, history = train_mean_teacher_folds(
        pretrained, store, sites, wells, folds, plate_statistics, training_state, parameters,
        _reports(training_state, parameters),
    )  # fmt: skip
    for name, teacher in teachers.items():
        score, tier = teacher.facts["validation_top1"], teacher.facts["tier"]
        if score is None:
            logger.info("teacher %s: trained, tier %s; there are no validation plates", name, tier)
        else:
            logger.info(
                "teacher %s: perturbation named %.0f %% on validation plates (one site, one view), tier %s; steps waited for images %.1f %% of the time",
                name, 100 * score, tier, 100 * teacher.facts["loader_wait"],
            )  # fmt: skip
    return students, teachers, pd.DataFrame(history, columns=HISTORY)


def draw_learning_curves(pretraining_history: pd.DataFrame, training_history: pd.DataFrame) -> Figure:
    """Losses, validation scores and learning rate of both stages by epoch."""
    from deepnoise.training.curves import learning_curves

    return learning_curves(pretraining_history, training_history)


def _reports(training_state: Any, parameters: TrainingParameters) -> list[Any]:
    from deepnoise.training.tracking import to_mlflow, to_tensorboard

    return [to_mlflow] + ([to_tensorboard(training_state.root / "tensorboard")] if parameters.tensorboard else [])


def write_chapter(
    learning_curves: Figure, pretraining_history: pd.DataFrame, training_history: pd.DataFrame
) -> dict[str, Any]:
    """What the report shows of training."""
    from deepnoise.training import chapter

    return chapter.write_chapter(learning_curves, pretraining_history, training_history).as_json()
