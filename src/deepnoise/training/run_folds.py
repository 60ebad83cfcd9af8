"""Both stages over every fold of a screen; called by the nodes of ``training``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd

from deepnoise.errors import InputError
from deepnoise.network.site_images import ImageSource
from deepnoise.network.trained_model import TrainedModel
from deepnoise.parameters import TrainingParameters
from deepnoise.training.fold_view import FoldView, fold_view
from deepnoise.training.loop import pretrain, train_mean_teacher
from deepnoise.training.tracking import Report
from deepnoise.training.trainer import StateStore, Trainer


@contextmanager
def explain_out_of_memory(stage: str, parameters: TrainingParameters) -> Iterator[None]:
    """Turn a lack of memory, on the device or beside it, into advice on what to lower.

    Args:
        stage: Name of the block that is worked on.
        parameters: The block ``training``.

    Raises:
        InputError: In place of torch's and Python's errors.
    """
    try:
        yield
    except (
        RuntimeError,
        MemoryError,
    ) as error:  # torch's errors, of the GPU and of its CPU allocator, are RuntimeErrors
        words = str(error).lower()
        if not isinstance(error, MemoryError) and "out of memory" not in words and "can't allocate" not in words:
            raise
        raise InputError(
            f"{stage} ran out of memory: lower training.batch_size ({parameters.batch_size}), then training.mean_teacher.unlabelled_ratio "
            f"({parameters.mean_teacher.unlabelled_ratio}); where the images fill the memory, training.cache_gigabytes "
            f"({parameters.cache_gigabytes}), with which training goes on from its last epoch. {str(error)[:200] or type(error).__name__}"
        ) from error


def _views(
    sites: pd.DataFrame, wells: pd.DataFrame, folds: pd.DataFrame, parameters: TrainingParameters
) -> list[FoldView]:
    numbers = sorted(int(f) for f in folds["fold"].unique())
    return [fold_view(sites, wells, folds, f, parameters.unlabelled_source, parameters.sites) for f in numbers]


def pretrain_folds(
    store: ImageSource,
    sites: pd.DataFrame,
    wells: pd.DataFrame,
    folds: pd.DataFrame,
    statistics: pd.DataFrame,
    state: StateStore,
    parameters: TrainingParameters,
    reports: Sequence[Report] = (),
) -> tuple[dict[str, TrainedModel], list[dict[str, Any]]]:
    """Stage 1 for every fold in the table ``folds``: name -> model, and the history."""
    models, history = {}, []
    for view in _views(sites, wells, folds, parameters):
        with explain_out_of_memory("training.pretrain", parameters):
            trainer = Trainer(view, store, statistics, parameters, state, reports)
            models[view.name], rows = pretrain(trainer)
        history += rows
    return models, history


def train_mean_teacher_folds(
    pretrained: dict[str, TrainedModel],
    store: ImageSource,
    sites: pd.DataFrame,
    wells: pd.DataFrame,
    folds: pd.DataFrame,
    statistics: pd.DataFrame,
    state: StateStore,
    parameters: TrainingParameters,
    reports: Sequence[Report] = (),
) -> tuple[dict[str, TrainedModel], dict[str, TrainedModel], list[dict[str, Any]]]:
    """Stage 2 for every fold, or with ``cell_type`` = specialist for every cell type of every fold.

    Returns:
        Name -> student, name -> teacher, and the history.

    Raises:
        InputError: A pretrained student belongs to other data or parameters.
    """
    students, teachers, history = {}, {}, []
    for view in _views(sites, wells, folds, parameters):
        trainer = Trainer(view, store, statistics, parameters, state, reports)
        start = pretrained.get(view.name)
        if start is None or start.facts["fingerprints"] != trainer.facts["fingerprints"]:
            raise InputError(
                f"the entry pretrained has no student of {view.name} made from today's data and parameters; run the whole pipeline training"
            )
        specialists = parameters.cell_type == "specialist"
        for part in [view.of_cell_type(name) for name in view.cell_types] if specialists else [view]:
            with explain_out_of_memory("training.mean_teacher", parameters):
                if specialists:  # one at a time, so that the images of one alone are kept
                    trainer = Trainer(part, store, statistics, parameters, state, reports)
                students[part.name], teachers[part.name], rows = train_mean_teacher(trainer, start)
            history += rows
    return students, teachers, history
