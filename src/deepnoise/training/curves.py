"""Learning curves as a figure."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from deepnoise.drawing.figures import COLOURS, new_figure, say

SCORED = {"student_top1": ("student", COLOURS[0]), "teacher_top1": ("moving average", COLOURS[5])}


def learning_curves(pretraining: pd.DataFrame, training: pd.DataFrame) -> go.Figure:
    """Losses, validation scores and learning rate by epoch, both stages behind one another.

    Args:
        pretraining: ``training_history`` rows of stage 1.
        training: Rows of stage 2; may be empty.
    """
    shift = int(pretraining["epoch"].max()) + 1 if len(pretraining) else 0
    both = pd.concat([pretraining, training.assign(epoch=training["epoch"] + shift)], ignore_index=True)
    if both.empty:
        return say("no epoch was trained")
    figure = new_figure(760, ["loss", "validation top-1 (T1, one site, one view)", "learning rate"])
    for number, ((fold, cell_type), rows) in enumerate(both.groupby(["fold", "cell_type"])):
        rows = rows.sort_values("epoch")
        own = {"mode": "lines", "hovertemplate": f"fold {fold}, {cell_type}, epoch %{{x}}: %{{y:.4g}}<extra></extra>"}
        epochs = rows["epoch"].tolist()
        colour = COLOURS[number % len(COLOURS)]
        label = f"loss, fold {fold}, {cell_type}"
        figure.add_scatter(x=epochs, y=rows["loss"].tolist(), line_color=colour, name=label, **own, row=1, col=1)
        for column, (name, shade) in SCORED.items():
            known = rows.dropna(subset=[column])
            figure.add_scatter(
                x=known["epoch"].tolist(), y=known[column].astype(float).tolist(), line_color=shade, name=name,
                showlegend=number == 0, legendgroup=name, **own, row=2, col=1,
            )  # fmt: skip
        figure.add_scatter(
            x=epochs, y=rows["learning_rate"].tolist(), line_color="#555555", showlegend=False, **own, row=3, col=1
        )
    if shift and len(training):
        figure.add_vline(x=shift - 0.5, line={"color": "#AAAAAA", "width": 1})
    figure.update_yaxes(tickformat=".0%", row=2)
    figure.update_xaxes(title_text="epoch (mean teacher behind the grey line)", row=3)
    figure.update_layout(legend_y=-0.1)
    return figure
