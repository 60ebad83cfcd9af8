"""Training's chapter of the report: learning curves and the last epochs."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from deepnoise.report.chapter import Chapter, Section, figure, table


def write_chapter(curves: go.Figure, pretraining: pd.DataFrame, training: pd.DataFrame) -> Chapter:
    """The chapter of training.

    Args:
        curves: The entry ``learning_curves``.
        pretraining: The table ``pretraining_history``.
        training: The table ``training_history``.
    """
    last_epochs = [
        history.groupby(["fold", "cell_type", "stage"]).tail(1) for history in (pretraining, training) if len(history)
    ]
    last = pd.concat(last_epochs) if last_epochs else training
    exhibits = [
        figure("Learning curves", curves, "learning_curves", "One line per fold and cell type. A grey vertical line, where there is one, marks the start of the mean teacher."),
        table("Last epochs", last, "training_history", "Last epoch of each stage. The validation plates were monitored during training.", {"student_top1", "teacher_top1", "chosen_top1", "loader_wait"}),
    ]  # fmt: skip
    return Chapter([Section("Training", "Loss, validation score and learning rate in each epoch.", exhibits)])
