"""Logits and embeddings of sites under test-time augmentation; each image is read once."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from tqdm import tqdm

from deepnoise.errors import InputError
from deepnoise.inference.compatibility import (
    ADAPTATION_GROUPS,
    adabn_of,
    check_compatible,
    partial_plates,
    skewed_plates,
    tier_of_prediction,
)
from deepnoise.inference.ensemble import average_members
from deepnoise.inference.selection import select_sites, sites_to_predict
from deepnoise.inference.views import VIEWS
from deepnoise.ingestion.layouts import validation_labels
from deepnoise.network.batch_norm import adapted_batches
from deepnoise.network.device import autocast, choose_batch_size, choose_device, to_device
from deepnoise.network.network import Network
from deepnoise.network.site_images import Batch, ImageSource, SiteImages, normalize
from deepnoise.network.trained_model import TrainedModel
from deepnoise.parameters import InferenceParameters
from deepnoise.plate_balancing.scores import entropies
from deepnoise.screen import Screen
from deepnoise.tables import EMBEDDING, SCHEMAS, SCORE, matrix, prefixed

logger = logging.getLogger(__name__)
LOWEST_PROBABILITY = 1e-30
"""Floor under averaged probabilities before their logarithm."""


@torch.inference_mode()
def predict_sites(
    model: TrainedModel,
    source: ImageSource,
    sites: pd.DataFrame,
    statistics: pd.DataFrame,
    parameters: InferenceParameters,
    adabn: str = "none",
    predict_mask: np.ndarray | None = None,
    groups: list[np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and embeddings of sites, averaged over views.

    Memory holds a few batches of images at a time; with AdaBN, at most ADABN_CACHE_BYTES of one experiment or plate.

    Args:
        model: Weights and card.
        source: The images.
        sites: Rows of :func:`sites_to_predict`.
        statistics: The table ``plate_statistics``. A new plate brings its own rows.
        parameters: The block ``inference``; views, pooling (of views), batch_size and device are used.
        adabn: ``experiment`` or ``plate``: BatchNorm statistics are first re-estimated on all given sites of each (Li et al. 2016,
            arXiv 1603.04779). The prediction of a well then depends on which others are given with it.
        predict_mask: (S,) bool, the sites to predict. The others only serve to adapt. None: all.
        groups: Rows that share their BatchNorm statistics, instead of those of each experiment or plate.

    Returns:
        (S, K targets) float32 logits without control classes, and (S, D) float32 embeddings of unit length; NaN where not predicted.
    """
    device = choose_device(parameters.device)
    network = to_device(Network(model.card.network), device)
    network.load_state_dict(model.weights)
    network.eval()
    images = SiteImages(source, sites, statistics, cache_gigabytes=0)
    if parameters.batch_size == "auto":
        batch_size = choose_batch_size(network, device, len(source.channels), model.card.image_size)
    else:
        batch_size = parameters.batch_size

    def to_input(batch: Batch) -> torch.Tensor:
        return normalize(batch.to(device), images.strategy).contiguous(memory_format=torch.channels_last)

    if predict_mask is None:
        predict_mask = np.ones(len(sites), bool)
    target_count = len(model.card.targets)
    logits = np.full((len(sites), target_count), np.nan, np.float32)
    embeddings = np.full((len(sites), network.features), np.nan, np.float32)
    with tqdm(
        total=int(predict_mask.sum()),
        unit=" sites",
        desc=f"predict fold {model.card.fold}",
        disable=None,
        mininterval=1.0,
    ) as bar:
        groups = _adaptation_groups(sites, adabn) if groups is None else groups
        for batch, x in adapted_batches(network, images, groups, batch_size, to_input, adabn != "none", predict_mask):
            scores, embedded = _average_views(network, x, target_count, parameters)
            logits[batch.index] = scores.cpu().numpy()
            embeddings[batch.index] = embedded.cpu().numpy()
            bar.update(len(x))
    return logits, embeddings


def _adaptation_groups(sites: pd.DataFrame, adabn: str) -> list[np.ndarray]:
    """Rows that share their BatchNorm statistics; all rows without AdaBN.

    Plates that were trained on form groups of their own: predicting them too must not change a held-out prediction.
    """
    if adabn == "none":
        return [np.arange(len(sites))]
    columns = ["role", *ADAPTATION_GROUPS[adabn]]
    return list(sites.reset_index(drop=True).groupby(columns, sort=True).indices.values())


def _average_views(
    network: Network, x: torch.Tensor, target_count: int, parameters: InferenceParameters
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, K) scores and (B, D) unit embeddings, averaged over the views of (B, C, H, W) inputs."""
    views = VIEWS[parameters.views]
    of_probabilities = parameters.pooling == "probabilities"
    scores = torch.zeros(len(x), target_count, device=x.device)
    embedded = torch.zeros(len(x), network.features, device=x.device)
    for view in views:
        with autocast(x.device):
            features = network.embed(view(x).contiguous(memory_format=torch.channels_last))
        view_logits = network.classify(features)[:, :target_count]
        scores += view_logits.softmax(dim=1) if of_probabilities else view_logits
        embedded += F.normalize(features.float())
    scores /= len(views)
    if of_probabilities:
        scores = scores.clamp_min(LOWEST_PROBABILITY).log()
    return scores, F.normalize(embedded)


def predict_folds(
    models: Mapping[str, TrainedModel],
    screen: Screen,
    parameters: InferenceParameters,
    ensemble_models: Mapping[str, Mapping[str, TrainedModel]] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every fold's model on the plates it was not trained on, and on a few that it was, for comparison.

    Args:
        models: Name -> model: one per fold, or one per cell type of a fold.
        screen: The screen.
        parameters: The block ``inference``. With ``only``, AdaBN still reads the other sites of the plate or experiment.
        ensemble_models: Name -> models of other versions, seeds or backbones. Their logits are averaged with those of ``models``.

    Returns:
        The table ``site_logits``, and site embeddings of ``models`` with the same keys. Embeddings of different folds must not be
        pooled: their axes are unrelated.
    """
    members = {"": models, **(ensemble_models or {})}
    predictions = [_predict_member(group, screen, parameters, name) for name, group in members.items()]
    logits, embeddings = predictions[0]
    if len(members) > 1:
        logits = average_members(
            [member_logits for member_logits, _ in predictions],
            list(members),
            validation_labels(screen.wells, screen.folds),
            parameters,
        )
    for warning in skewed_plates(logits, adabn_of(next(iter(models.values())).card, parameters.adabn)):
        logger.warning("%s", warning)
    logits.insert(logits.columns.get_loc("tier"), "entropy", entropies(matrix(logits, SCORE)))
    return logits, embeddings


def _predict_member(
    models: Mapping[str, TrainedModel], screen: Screen, parameters: InferenceParameters, member: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Site logits and embeddings of one member of an ensemble; "" is the teacher."""
    logit_tables, embedding_tables = [], []
    for model in models.values():
        tables = _predict_model(model, screen, parameters)
        if tables is not None:
            logit_tables.append(tables[0])
            embedding_tables.append(tables[1])
    if not logit_tables and parameters.only:
        raise InputError(
            f"inference.only is {parameters.only!r}, whose images {member or 'the model'} was trained on; name a plate that it has not seen"
        )
    if not logit_tables:
        raise InputError("none of the specialists was trained on the cell types of this screen")
    logits = pd.concat(logit_tables, ignore_index=True)
    scores = [c for c in logits.columns if c.startswith(SCORE)]
    # a perturbation that a fold's model has never seen is the least likely one of its wells
    lowest = np.nanmin(logits[scores].to_numpy(), axis=1)
    logits[scores] = logits[scores].apply(lambda column: column.fillna(pd.Series(lowest, index=logits.index)))
    return logits, pd.concat(embedding_tables, ignore_index=True)


def _predict_model(
    model: TrainedModel, screen: Screen, parameters: InferenceParameters
) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Site logits and embeddings of one model; None if it has nothing to predict here.

    That is a specialist whose cells are absent, or a requested plate that this fold trained on.
    """
    card, only = model.card, parameters.only
    adabn = adabn_of(card, parameters.adabn)
    requested = select_sites(screen.sites, only)
    group_columns = ADAPTATION_GROUPS[adabn]
    # the rest of the plate or experiment of a requested site is read to adapt to it
    is_read = (
        requested.groupby([screen.sites[c] for c in group_columns]).transform("any") if group_columns else requested
    )
    seen_experiments = 0 if only else parameters.seen_experiments
    sites = sites_to_predict(card, screen.sites[is_read], screen.wells, screen.folds, seen_experiments)
    if sites.empty and (card.cell_type or only):
        return None
    if sites.empty:
        raise InputError(f"fold {card.fold}: the screen has no plate that the model was not trained on")
    check_compatible(card, screen)
    if adabn != "none":
        for warning in partial_plates(sites, screen.sites, card.training_plates):
            logger.warning("%s", warning)
    predicted = select_sites(sites, only).to_numpy()
    logits, embeddings = predict_sites(
        model, screen.images, sites, screen.statistics, parameters, adabn, predict_mask=predicted
    )
    meta = sites.loc[predicted, ["role", "id_code", "experiment", "plate", "well", "site"]].assign(
        fold=card.fold, tier=tier_of_prediction(card, adabn, screen.wells)
    )
    site_logits = pd.concat([meta, prefixed(logits[predicted], card.targets, SCORE, meta.index)], axis=1)
    meta = meta.assign(plate_seen=sites.loc[predicted, "plate_seen"])
    dimensions = [f"{i:04d}" for i in range(embeddings.shape[1])]
    return site_logits, pd.concat([meta, prefixed(embeddings[predicted], dimensions, EMBEDDING, meta.index)], axis=1)


def predict_redealt(
    models: Mapping[str, TrainedModel],
    screen: Screen,
    parameters: InferenceParameters,
    ensemble_models: Mapping[str, Mapping[str, TrainedModel]] | None = None,
) -> pd.DataFrame:
    """Every fold's model on held-out plates whose treatments were dealt anew: the table ``site_logits``, role ``redealt``.

    Args:
        models: Name -> model, as for :func:`predict_folds`.
        screen: The re-dealt plates; of its folds only held-out plates count.
        parameters: The block ``inference``.
        ensemble_models: As for :func:`predict_folds`.
    """
    heldout = screen.folds[screen.folds["role"] == "heldout"]
    dealt = screen.sites.merge(heldout[["experiment", "plate"]].drop_duplicates(), on=["experiment", "plate"])
    if dealt.empty:
        return SCHEMAS["site_logits"].empty()
    everything = parameters.model_copy(update={"only": "", "seen_experiments": 0})
    logits, _ = predict_folds(models, replace(screen, sites=dealt), everything, ensemble_models)
    return logits.assign(role="redealt")


def redraw_statistics(
    models: Mapping[str, TrainedModel], screen: Screen, parameters: InferenceParameters
) -> pd.DataFrame:
    """How calls change when BatchNorm statistics come from a random part of the experiment: the table ``redrawn_statistics``.

    The parts of an experiment are as many as its plates, and hold whole wells of all plates. Whatever a plate's statistics tell of its
    contents, those of a random part do not. One view is read.

    Args:
        models: Name -> model, as for :func:`predict_folds`.
        screen: The screen.
        parameters: The block ``inference``.

    Returns:
        One row per fold and target well that the model was not trained on; no rows where nothing is adapted.
    """
    tables = []
    one_view = parameters.model_copy(update={"views": "none", "only": ""})
    for model in models.values():
        adabn = adabn_of(model.card, parameters.adabn)
        sites = sites_to_predict(model.card, screen.sites, screen.wells, screen.folds)
        if adabn == "none" or sites.empty:
            continue
        rng = np.random.default_rng([model.card.fold, 17])
        calls = {}
        for name, groups in (
            ("call", None),
            ("call_first", random_parts(sites, rng)),
            ("call_second", random_parts(sites, rng)),
        ):
            logits, _ = predict_sites(model, screen.images, sites, screen.statistics, one_view, adabn, groups=groups)
            mean = pd.DataFrame(logits).groupby(sites["id_code"].to_numpy(), sort=True).mean()
            calls[name] = pd.Series(np.array(model.card.targets)[mean.to_numpy().argmax(axis=1)], mean.index)
        wells = sites.drop_duplicates("id_code")[["role", "id_code", "experiment", "plate", "well"]]
        table = wells.merge(pd.DataFrame(calls), left_on="id_code", right_index=True)
        targets = screen.wells.loc[screen.wells["target"], "id_code"]
        tier = tier_of_prediction(model.card, adabn, screen.wells)
        tables.append(table[table["id_code"].isin(targets)].assign(fold=model.card.fold, tier=tier))
    return pd.concat(tables, ignore_index=True) if tables else SCHEMAS["redrawn_statistics"].empty()


def random_parts(sites: pd.DataFrame, rng: np.random.Generator) -> list[np.ndarray]:
    """Rows of each part: the wells of every experiment and role, dealt at random to as many parts as it has plates."""
    parts = []
    for rows in sites.reset_index(drop=True).groupby(["role", "experiment"], sort=True).indices.values():
        well, _ = pd.factorize(sites["id_code"].iloc[rows])
        count = sites["plate"].iloc[rows].nunique()
        part = rng.permutation(np.arange(well.max() + 1) % count)[well]
        parts += [rows[part == number] for number in range(count)]
    return parts
