"""Learning curves as a figure."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from deepnoise.drawing.figures import COLOURS, new_figure, say

SCORED_MODELS = {"student_top1": ("student", COLOURS[0]), "teacher_top1": ("moving average", COLOURS[5])}


def learning_curves(pretraining: pd.DataFrame, training: pd.DataFrame) -> go.Figure:
    """Losses, validation scores and learning rate by epoch, stage 2 after stage 1.

    Args:
        pretraining: ``training_history`` rows of stage 1.
        training: The same of stage 2; may be empty.
    """
    shift = int(pretraining["epoch"].max()) + 1 if len(pretraining) else 0
    history = pd.concat([pretraining, training.assign(epoch=training["epoch"] + shift)], ignore_index=True)
    if history.empty:
        return say("no epoch was trained")
    figure = new_figure(760, ["loss", "validation top-1 (T1, one site, one view)", "learning rate"])
    for number, ((fold, cell_type), rows) in enumerate(history.groupby(["fold", "cell_type"])):
        rows = rows.sort_values("epoch")
        line = {"mode": "lines", "hovertemplate": f"fold {fold}, {cell_type}, epoch %{{x}}: %{{y:.4g}}<extra></extra>"}
        epochs = rows["epoch"].tolist()
        colour = COLOURS[number % len(COLOURS)]
        label = f"loss, fold {fold}, {cell_type}"
        figure.add_scatter(x=epochs, y=rows["loss"].tolist(), line_color=colour, name=label, **line, row=1, col=1)
        for column, (name, shade) in SCORED_MODELS.items():
            scored = rows.dropna(subset=[column])
            figure.add_scatter(
                x=scored["epoch"].tolist(), y=scored[column].astype(float).tolist(), line_color=shade, name=name,
                showlegend=number == 0, legendgroup=name, **line, row=2, col=1,
            )  # fmt: skip
        figure.add_scatter(
            x=epochs, y=rows["learning_rate"].tolist(), line_color="#555555", showlegend=False, **line, row=3, col=1
        )
    if shift and len(training):
        figure.add_vline(x=shift - 0.5, line={"color": "#AAAAAA", "width": 1})
    figure.update_yaxes(tickformat=".0%", row=2)
    figure.update_xaxes(title_text="epoch (mean teacher after the grey line)", row=3)
    figure.update_layout(legend_y=-0.1)
    return figure
