"""Both stages of training for every fold of a screen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from deepnoise.errors import InputError
from deepnoise.network.trained_model import TrainedModel
from deepnoise.parameters import TrainingParameters
from deepnoise.screen import Screen
from deepnoise.training.fold_view import FoldView, fold_view
from deepnoise.training.loop import pretrain, train_mean_teacher
from deepnoise.training.tracking import Report
from deepnoise.training.trainer import StateStore, Trainer


@contextmanager
def explain_out_of_memory(stage: str, parameters: TrainingParameters) -> Iterator[None]:
    """Turn a lack of memory, on the device or beside it, into advice on what to lower.

    Args:
        stage: Name of the block that is running.
        parameters: The block ``training``.

    Raises:
        InputError: Instead of torch's and Python's errors.
    """
    try:
        yield
    except (
        RuntimeError,
        MemoryError,
    ) as error:  # torch's errors, of the GPU and of its CPU allocator, are RuntimeErrors
        message = str(error).lower()
        if not isinstance(error, MemoryError) and "out of memory" not in message and "can't allocate" not in message:
            raise
        raise InputError(
            f"{stage} ran out of memory: lower training.batch_size ({parameters.batch_size}), then training.mean_teacher.unlabelled_ratio "
            f"({parameters.mean_teacher.unlabelled_ratio}). If the images fill the memory, lower training.cache_gigabytes "
            f"({parameters.cache_gigabytes}); training then continues from its last epoch. {str(error)[:200] or type(error).__name__}"
        ) from error


def view_of_fold(screen: Screen, fold: int, parameters: TrainingParameters) -> FoldView:
    """What one fold of a screen may train on."""
    return fold_view(
        screen.sites, screen.wells, screen.folds, fold, parameters.unlabelled_source, parameters.sites
    )  # fmt: skip


def pretrain_folds(
    screen: Screen, state: StateStore, parameters: TrainingParameters, reports: Sequence[Report] = ()
) -> tuple[dict[str, TrainedModel], list[dict[str, Any]]]:
    """Stage 1 for every fold.

    Returns:
        Name -> model, and one history row per epoch.
    """
    models, history = {}, []
    for fold in screen.fold_numbers:
        view = view_of_fold(screen, fold, parameters)
        with state.lock(view.name), explain_out_of_memory("training.pretrain", parameters):
            models[view.name], rows = pretrain(Trainer(view, screen, parameters, state, reports))
        history += rows
    return models, history


def train_mean_teacher_folds(
    pretrained: dict[str, TrainedModel],
    screen: Screen,
    state: StateStore,
    parameters: TrainingParameters,
    reports: Sequence[Report] = (),
) -> tuple[dict[str, TrainedModel], dict[str, TrainedModel], list[dict[str, Any]]]:
    """Stage 2 for every fold, or with ``cell_type`` = specialist for every cell type of every fold.

    Returns:
        Name -> student, name -> teacher, and one history row per epoch.

    Raises:
        InputError: A pretrained student was made from other data or parameters.
    """
    students, teachers, history = {}, {}, []
    specialists = parameters.cell_type == "specialist"
    for fold in screen.fold_numbers:
        fold_view = view_of_fold(screen, fold, parameters)
        trainer = Trainer(fold_view, screen, parameters, state, reports)
        student = pretrained.get(fold_view.name)
        if student is None or student.card.fingerprints != trainer.card.fingerprints:
            raise InputError(
                f"the entry pretrained has no student of {fold_view.name} made from today's data and parameters; run the whole pipeline training"
            )
        views = [fold_view.of_cell_type(name) for name in fold_view.cell_types] if specialists else [fold_view]
        for view in views:
            with state.lock(view.name), explain_out_of_memory("training.mean_teacher", parameters):
                if specialists:  # one at a time, so that only its images are cached
                    trainer = Trainer(view, screen, parameters, state, reports)
                students[view.name], teachers[view.name], rows = train_mean_teacher(trainer, student)
            history += rows
    return students, teachers, history
