"""Nodes of ``tuning``: adapters of ``deepnoise.tuning``."""

from __future__ import annotations

from typing import Any

from deepnoise.parameters import PlateBalancingParameters, SearchRange, TrainingParameters, TuningParameters
from deepnoise.pipelines.types import DataFrame, Drawing, ImageStore


def tune_training(
    tuning_storage: Any,
    image_store: ImageStore,
    illumination_fields: DataFrame,
    sites: DataFrame,
    wells: DataFrame,
    folds: DataFrame,
    plate_statistics: DataFrame,
    training: TrainingParameters,
    parameters: TuningParameters,
) -> tuple[DataFrame, dict[str, Any], Any]:
    """Search training parameters by the T1 score of validation experiments."""
    from deepnoise.fingerprint import fingerprint
    from deepnoise.network.site_images import checksums
    from deepnoise.screen import Screen
    from deepnoise.tuning.objectives import training_objective
    from deepnoise.tuning.study import run_file, run_study, trials_table

    screen = Screen.from_store(image_store, illumination_fields, sites, wells, folds, plate_statistics)
    inputs = fingerprint(
        checksums(screen.images, sites), wells, folds, plate_statistics, training.recipe(), _space(parameters.training)
    )
    study = run_study(
        tuning_storage, f"{parameters.study}_training", inputs, parameters.training, training_objective(screen, training), parameters
    )  # fmt: skip
    return trials_table(study), run_file(study), study


def tune_balancing(
    tuning_storage: Any,
    well_scores: DataFrame,
    wells: DataFrame,
    plate_layout: DataFrame,
    balancing: PlateBalancingParameters,
    parameters: TuningParameters,
) -> tuple[DataFrame, dict[str, Any], Any]:
    """Search plate-balancing parameters on stored scores of validation experiments, without training anything."""
    from deepnoise.fingerprint import fingerprint
    from deepnoise.tuning.objectives import balancing_objective
    from deepnoise.tuning.study import run_file, run_study, trials_table

    inputs = fingerprint(
        well_scores, plate_layout, balancing.model_dump(mode="json"), _space(parameters.plate_balancing)
    )
    objective = balancing_objective(well_scores, wells, plate_layout, balancing)
    study = run_study(
        tuning_storage, f"{parameters.study}_plate_balancing", inputs, parameters.plate_balancing, objective, parameters
    )
    return trials_table(study), run_file(study), study


def draw_study(study: Any) -> tuple[Drawing, Drawing, Drawing]:
    """History, importances and parallel coordinates."""
    from deepnoise.tuning.figures import draw_study

    return draw_study(study)


def _space(ranges: dict[str, SearchRange]) -> dict[str, Any]:
    return {name: search_range.model_dump() for name, search_range in ranges.items()}
