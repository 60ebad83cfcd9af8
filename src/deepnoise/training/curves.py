"""Learning curves as a picture."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

COLOURS = {"student_t1": "#0072B2", "teacher_t1": "#D55E00"}


def learning_curves(pretraining: pd.DataFrame, training: pd.DataFrame) -> Figure:
    """Losses, validation scores and learning rate by epoch, both stages behind one another.

    Args:
        pretraining: ``training_history`` rows of stage 1.
        training: Rows of stage 2; may be empty.
    """
    shift = int(pretraining["epoch"].max()) + 1 if len(pretraining) else 0
    both = pd.concat([pretraining, training.assign(epoch=training["epoch"] + shift)], ignore_index=True)
    figure = Figure(figsize=(9, 7), layout="constrained")
    losses, scores, rates = figure.subplots(3, 1, sharex=True)
    for (fold, cell_type), rows in both.groupby(["fold", "cell_type"]):
        rows = rows.sort_values("epoch")
        losses.plot(rows["epoch"], rows["loss"], label=f"fold {fold}, {cell_type}")
        for column, colour in COLOURS.items():
            known = rows.dropna(subset=column)
            scores.plot(known["epoch"], 100 * known[column].astype(float), color=colour, alpha=0.8)
        rates.plot(rows["epoch"], rows["learning_rate"], color="0.3")
    for axes in (losses, scores, rates):
        if shift and len(training):
            axes.axvline(shift - 0.5, color="0.7", linewidth=1)
        axes.spines[["top", "right"]].set_visible(False)
    for name, colour in COLOURS.items():
        scores.plot([], [], color=colour, label={"student_t1": "student", "teacher_t1": "moving average"}[name])
    scores.legend(frameon=False)
    if both[["fold", "cell_type"]].drop_duplicates().shape[0] <= 8:
        losses.legend(frameon=False)
    losses.set_ylabel("loss")
    scores.set_ylabel("validation top-1, % (T1,\none site, one view)")
    rates.set_ylabel("learning rate")
    rates.set_xlabel("epoch, mean teacher behind the grey line")
    return figure
