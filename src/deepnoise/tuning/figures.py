"""Images of a study: history, importances, parallel coordinates."""

from __future__ import annotations

import warnings

import optuna
from matplotlib.figure import Figure
from optuna.trial import TrialState


def draw_study(study: optuna.Study) -> tuple[Figure, Figure, Figure]:
    """Scores in the order of the trials, which parameters mattered, and which values went with which scores.

    Returns:
        One figure each; one that needs more finished trials than there are says so.
    """
    import matplotlib.pyplot as plt
    from optuna.visualization import matplotlib as draw

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    figures: list[Figure] = []
    for title, function, needed in (
        ("history", draw.plot_optimization_history, 1),
        ("importances", draw.plot_param_importances, 4),
        ("parallel coordinates", draw.plot_parallel_coordinate, 2),
    ):
        spread = len({trial.value for trial in complete}) > 1 or title == "history"
        if len(complete) >= needed and spread:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                axes = function(study)
            figure = axes.get_figure(root=True)
            assert figure is not None
            figure.set_size_inches(10, 5)
        else:
            figure = plt.figure(figsize=(10, 5))
            figure.text(0.5, 0.5, f"{title}: {len(complete)} finished trials tell nothing yet", ha="center")
        plt.close(figure)
        figures.append(figure)
    return figures[0], figures[1], figures[2]
