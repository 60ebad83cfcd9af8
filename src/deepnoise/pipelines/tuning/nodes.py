"""Nodes of ``tuning``: adapters of ``deepnoise.tuning``. torch and optuna are imported when a node runs."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from deepnoise.fingerprint import fingerprint
from deepnoise.normalization.illumination import corrected_store
from deepnoise.parameters import PlateBalancingParameters, TrainingParameters, TuningParameters


def tune_training(
    tuning_storage: Any,
    image_store: Any,
    illumination_fields: pd.DataFrame,
    sites: pd.DataFrame,
    wells: pd.DataFrame,
    folds: pd.DataFrame,
    plate_statistics: pd.DataFrame,
    training: TrainingParameters,
    parameters: TuningParameters,
) -> tuple[pd.DataFrame, dict[str, Any], Any]:
    """Search parameters of training by the T1 score of validation experiments."""
    from deepnoise.network.site_images import checksums
    from deepnoise.tuning.objectives import training_objective
    from deepnoise.tuning.study import run_file, run_study, trials_table

    store = corrected_store(image_store, illumination_fields)
    space = {name: range_.model_dump() for name, range_ in parameters.training.items()}
    mark = fingerprint(checksums(store, sites), wells, folds, plate_statistics, training.recipe(), space)
    objective = training_objective(store, sites, wells, folds, plate_statistics, training)
    study = run_study(tuning_storage, f"{parameters.study}_training", mark, parameters.training, objective, parameters)
    return trials_table(study), run_file(study), study


def tune_balancing(
    tuning_storage: Any,
    well_scores: pd.DataFrame,
    wells: pd.DataFrame,
    plate_layout: pd.DataFrame,
    balancing: PlateBalancingParameters,
    parameters: TuningParameters,
) -> tuple[pd.DataFrame, dict[str, Any], Any]:
    """Search parameters of plate balancing on stored scores of validation experiments, without training anything."""
    from deepnoise.tuning.objectives import balancing_objective
    from deepnoise.tuning.study import run_file, run_study, trials_table

    space = {name: range_.model_dump() for name, range_ in parameters.plate_balancing.items()}
    mark = fingerprint(well_scores, plate_layout, balancing.model_dump(mode="json"), space)
    objective = balancing_objective(well_scores, wells, plate_layout, balancing)
    study = run_study(
        tuning_storage, f"{parameters.study}_plate_balancing", mark, parameters.plate_balancing, objective, parameters
    )
    return trials_table(study), run_file(study), study


def draw_study(study: Any) -> tuple[Figure, Figure, Figure]:
    """History, importances and parallel coordinates."""
    from deepnoise.tuning.figures import draw_study

    return draw_study(study)
