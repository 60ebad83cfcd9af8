"""Figures of a study: history, importances, parallel coordinates."""

from __future__ import annotations

import warnings

import optuna
from matplotlib.figure import Figure
from optuna.trial import TrialState


def draw_study(study: optuna.Study) -> tuple[Figure, Figure, Figure]:
    """Draw the scores in trial order, the importance of each parameter, and the values beside their scores.

    Returns:
        Three figures; one that cannot be drawn yet says so.
    """
    import matplotlib.pyplot as plt
    from optuna.visualization import matplotlib as draw

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    figures: list[Figure] = []
    for title, function, min_trials in (
        ("history", draw.plot_optimization_history, 1),
        ("importances", draw.plot_param_importances, 4),
        ("parallel coordinates", draw.plot_parallel_coordinate, 2),
    ):
        scores_differ = len({trial.value for trial in complete}) > 1
        if len(complete) >= min_trials and (scores_differ or title == "history"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                axes = function(study)
            figure = axes.get_figure(root=True)
            assert figure is not None
            figure.set_size_inches(10, 5)
        else:
            figure = plt.figure(figsize=(10, 5))
            figure.text(
                0.5,
                0.5,
                f"{title}: not enough trials with different scores yet ({len(complete)} complete)",
                ha="center",
            )
        plt.close(figure)
        figures.append(figure)
    return figures[0], figures[1], figures[2]
