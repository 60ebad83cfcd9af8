"""What training has to show in the report."""

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
    ends = [part.groupby(["fold", "cell_type", "stage"]).tail(1) for part in (pretraining, training) if len(part)]
    last = pd.concat(ends) if ends else training
    exhibits = [
        figure("How the network learned", curves, "learning_curves"),
        table("Last epochs", last, "training_history", "The validation plates were watched during training.", {"student_top1", "teacher_top1", "chosen_top1", "loader_wait"}),
    ]  # fmt: skip
    return Chapter([Section("Training", "Loss, validation score and learning rate.", exhibits)])
