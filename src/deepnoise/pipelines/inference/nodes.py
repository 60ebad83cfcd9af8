"""Nodes of ``inference``: adapters of ``deepnoise.inference``. torch is imported when a node runs."""

from __future__ import annotations

import logging
from typing import Any

import pandas as pd

from deepnoise.network.trained_model import TrainedModel
from deepnoise.normalization.illumination import corrected_store
from deepnoise.parameters import InferenceParameters

logger = logging.getLogger(__name__)


def predict_sites(
    teacher: dict[str, TrainedModel],
    ensemble_models: dict[str, dict[str, TrainedModel]],
    image_store: Any,
    illumination_fields: pd.DataFrame,
    sites: pd.DataFrame,
    wells: pd.DataFrame,
    folds: pd.DataFrame,
    plate_statistics: pd.DataFrame,
    parameters: InferenceParameters,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Logits and embeddings of every site that the teacher was not trained on, and of a few experiments that it was."""
    from deepnoise.inference.predict import predict_folds

    own = parameters
    return predict_folds(
        teacher, corrected_store(image_store, illumination_fields), sites, wells, folds, plate_statistics, further=ensemble_models,
        weights=own.ensemble_weights, only=own.only, views=own.views, pooling=own.pooling, adabn=own.adabn,
        seen_experiments=own.seen_experiments, batch_size=own.batch_size, device_name=own.device,
    )  # fmt: skip


def pool_sites(
    site_logits: pd.DataFrame, site_embeddings: pd.DataFrame, parameters: InferenceParameters
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Average the sites of each well; the calls of a few named wells are told at once."""
    from deepnoise.inference.pooling import best_calls, pool_wells

    wells, embeddings = pool_wells(site_logits, site_embeddings, parameters.pooling)
    if parameters.only:
        logger.info("later stages read these %s wells alone until inference runs again on the whole", len(wells))
        for line in best_calls(wells.head(8)):
            logger.info("%s", line)
    return wells, embeddings


def export_profiles(site_embeddings: pd.DataFrame, wells: pd.DataFrame) -> pd.DataFrame:
    """Embeddings of sites under the column names of other tools."""
    from deepnoise.inference.pooling import profiles_table

    return profiles_table(site_embeddings, wells)
