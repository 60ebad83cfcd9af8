"""Nodes of ``inference``: adapters of ``deepnoise.inference``."""

from __future__ import annotations

import logging

from deepnoise.network.trained_model import TrainedModel
from deepnoise.parameters import InferenceParameters
from deepnoise.pipelines.types import DataFrame, ImageStore, RedealtImages

logger = logging.getLogger(__name__)


def predict_sites(
    teacher: dict[str, TrainedModel],
    ensemble_models: dict[str, dict[str, TrainedModel]],
    image_store: ImageStore,
    illumination_fields: DataFrame,
    sites: DataFrame,
    wells: DataFrame,
    folds: DataFrame,
    plate_statistics: DataFrame,
    parameters: InferenceParameters,
) -> tuple[DataFrame, DataFrame]:
    """Logits and embeddings of every site that the teacher was not trained on, and of a few experiments that it was."""
    from deepnoise.inference.predict import predict_folds
    from deepnoise.screen import Screen

    screen = Screen.from_store(image_store, illumination_fields, sites, wells, folds, plate_statistics)
    return predict_folds(teacher, screen, parameters, ensemble_models)


def predict_redealt(
    teacher: dict[str, TrainedModel],
    ensemble_models: dict[str, dict[str, TrainedModel]],
    redealt_images: RedealtImages,
    redealt_fields: DataFrame,
    redealt_sites: DataFrame,
    redealt_statistics: DataFrame,
    wells: DataFrame,
    folds: DataFrame,
    parameters: InferenceParameters,
) -> DataFrame:
    """Logits of the held-out plates with their treatments dealt anew; no rows where nothing can be dealt anew."""
    from deepnoise.inference.predict import predict_redealt
    from deepnoise.screen import Screen
    from deepnoise.tables import SCHEMAS

    if redealt_sites.empty:
        return SCHEMAS["site_logits"].empty()
    screen = Screen.from_store(redealt_images, redealt_fields, redealt_sites, wells, folds, redealt_statistics)
    return predict_redealt(teacher, screen, parameters, ensemble_models)


def redraw_statistics(
    teacher: dict[str, TrainedModel],
    image_store: ImageStore,
    illumination_fields: DataFrame,
    sites: DataFrame,
    wells: DataFrame,
    folds: DataFrame,
    plate_statistics: DataFrame,
    parameters: InferenceParameters,
) -> DataFrame:
    """How calls change when BatchNorm statistics come from random parts of the experiment."""
    from deepnoise.inference.predict import redraw_statistics
    from deepnoise.screen import Screen

    screen = Screen.from_store(image_store, illumination_fields, sites, wells, folds, plate_statistics)
    return redraw_statistics(teacher, screen, parameters)


def pool_sites(
    site_logits: DataFrame, site_embeddings: DataFrame, parameters: InferenceParameters
) -> tuple[DataFrame, DataFrame]:
    """Average the sites of each well; with ``inference.only``, log the calls of the first wells."""
    from deepnoise.inference.pooling import best_calls, pool_wells

    wells, embeddings = pool_wells(site_logits, site_embeddings, parameters.pooling)
    if parameters.only:
        logger.info("later stages read only these %s wells until inference runs again on the whole", len(wells))
        for line in best_calls(wells.head(8)):
            logger.info("%s", line)
    return wells, embeddings


def export_profiles(site_embeddings: DataFrame, wells: DataFrame) -> DataFrame:
    """Embeddings of sites under the column names of other tools."""
    from deepnoise.inference.pooling import profiles_table

    return profiles_table(site_embeddings, wells)
