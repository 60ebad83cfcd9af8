"""Nodes of ``inference``: adapters of ``deepnoise.inference``. torch is imported when a node runs."""

from __future__ import annotations

from typing import Any

import pandas as pd

from deepnoise.normalization.illumination import corrected_store
from deepnoise.parameters import InferenceParameters
from deepnoise.training.model import TrainedModel


def predict_sites(
    teacher: dict[str, TrainedModel],
    image_store: Any,
    illumination_fields: pd.DataFrame,
    sites: pd.DataFrame,
    wells: pd.DataFrame,
    folds: pd.DataFrame,
    plate_statistics: pd.DataFrame,
    parameters: InferenceParameters,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Logits and embeddings of every site that the teacher was not trained on, and of a few experiments that it was."""
    from deepnoise.inference.prediction import predict_folds

    return predict_folds(
        teacher, corrected_store(image_store, illumination_fields), sites, wells, folds, plate_statistics,
        views=parameters.views, adabn=parameters.adabn, seen_experiments=parameters.seen_experiments, batch_size=parameters.batch_size, device_name=parameters.device,
    )  # fmt: skip


def pool_sites(site_logits: pd.DataFrame, site_embeddings: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Average the sites of each well."""
    from deepnoise.inference.prediction import pool_wells

    return pool_wells(site_logits, site_embeddings)
