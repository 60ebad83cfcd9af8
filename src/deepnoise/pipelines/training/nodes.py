"""Nodes of ``training``: adapters of ``deepnoise.training``."""

from __future__ import annotations

import logging
from typing import Any

from deepnoise.network.trained_model import TrainedModel
from deepnoise.parameters import TrainingParameters
from deepnoise.pipelines.types import DataFrame, Figure, ImageStore, TrainingState

logger = logging.getLogger(__name__)


def score_hand_features(
    normalized_features: DataFrame,
    redealt_features: DataFrame,
    plate_statistics: DataFrame,
    wells: DataFrame,
    folds: DataFrame,
) -> DataFrame:
    """The baselines: intensity features, z-scored or not, and logistic regression on the same folds."""
    from deepnoise.training.baseline import score_hand_features

    tier = str(plate_statistics["tier"].iloc[0])
    return score_hand_features(normalized_features, wells, folds, tier, redealt_features)


def pretrain_student(
    image_store: ImageStore,
    illumination_fields: DataFrame,
    sites: DataFrame,
    wells: DataFrame,
    folds: DataFrame,
    plate_statistics: DataFrame,
    training_state: TrainingState,
    parameters: TrainingParameters,
) -> tuple[dict[str, TrainedModel], DataFrame]:
    """Stage 1 for every fold."""
    from deepnoise.screen import Screen
    from deepnoise.training.run_folds import pretrain_folds

    screen = Screen.from_store(image_store, illumination_fields, sites, wells, folds, plate_statistics)
    models, history = pretrain_folds(screen, training_state, parameters, _reports(training_state, parameters))
    return models, _history_table(history)


def train_mean_teacher(
    pretrained: dict[str, TrainedModel],
    image_store: ImageStore,
    illumination_fields: DataFrame,
    sites: DataFrame,
    wells: DataFrame,
    folds: DataFrame,
    plate_statistics: DataFrame,
    training_state: TrainingState,
    parameters: TrainingParameters,
) -> tuple[dict[str, TrainedModel], dict[str, TrainedModel], DataFrame]:
    """Stage 2 for every fold."""
    from deepnoise.screen import Screen
    from deepnoise.training.run_folds import train_mean_teacher_folds

    screen = Screen.from_store(image_store, illumination_fields, sites, wells, folds, plate_statistics)
    students, teachers, history = train_mean_teacher_folds(
        pretrained, screen, training_state, parameters, _reports(training_state, parameters)
    )
    for name, teacher in teachers.items():
        card = teacher.card
        if card.validation_top1 is None:
            logger.info("teacher %s: trained, tier %s; there are no validation plates", name, card.tier)
        else:
            logger.info(
                "teacher %s: perturbation identified in %.0f %% on validation plates (one site, one view), tier %s; data loading: %.1f %% of training time",
                name, 100 * card.validation_top1, card.tier, 100 * card.loader_wait,
            )  # fmt: skip
    return students, teachers, _history_table(history)


def draw_learning_curves(pretraining_history: DataFrame, training_history: DataFrame) -> Figure:
    """Losses, validation scores and learning rate of both stages by epoch."""
    from deepnoise.training.curves import learning_curves

    return learning_curves(pretraining_history, training_history)


def write_chapter(
    learning_curves: Figure, pretraining_history: DataFrame, training_history: DataFrame
) -> dict[str, Any]:
    """What the report shows of training."""
    from deepnoise.training import chapter

    return chapter.write_chapter(learning_curves, pretraining_history, training_history).as_json()


def _history_table(history: list[dict[str, Any]]) -> DataFrame:
    import pandas as pd

    from deepnoise.tables import SCHEMAS

    return pd.DataFrame(history, columns=list(SCHEMAS["training_history"].columns))


def _reports(training_state: TrainingState, parameters: TrainingParameters) -> list[Any]:
    from deepnoise.training.tracking import to_tensorboard

    return [to_tensorboard(training_state.root / "tensorboard")] if parameters.tensorboard else []
