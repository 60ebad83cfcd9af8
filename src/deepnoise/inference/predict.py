"""Logits and embeddings of sites under test-time augmentation; each image is read once."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from tqdm import tqdm

from deepnoise.errors import InputError
from deepnoise.inference.compatibility import (
    adabn_of,
    check_compatible,
    partial_plates,
    skewed_plates,
    tier_of_prediction,
)
from deepnoise.inference.ensemble import average_members
from deepnoise.inference.selection import select_sites, sites_to_predict
from deepnoise.inference.views import VIEWS
from deepnoise.network.batch_norm import adapted_batches
from deepnoise.network.device import autocast, choose_batch_size, choose_device, to_device
from deepnoise.network.network import Network, NetworkSpec
from deepnoise.network.site_images import Batch, ImageSource, SiteImages, normalize
from deepnoise.network.trained_model import TrainedModel
from deepnoise.plate_balancing.scores import entropies
from deepnoise.tables import EMBEDDING, SCORE, matrix, prefixed

logger = logging.getLogger(__name__)


@torch.inference_mode()
def predict_sites(
    model: TrainedModel,
    store: ImageSource,
    asked: pd.DataFrame,
    statistics: pd.DataFrame,
    *,
    views: str,
    pooling: str = "logits",
    adabn: str = "none",
    wanted: np.ndarray | None = None,
    batch_size: int | str,
    device_name: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and embeddings of sites, averaged over views; memory holds a few batches of images at a time, with AdaBN at most a
    unit of ADABN_CACHE_BYTES.

    Args:
        model: Weights and facts.
        store: The image store.
        asked: Rows of :func:`sites_to_predict`.
        statistics: The table ``plate_statistics``; a new plate brings its own rows.
        views: Key of VIEWS.
        pooling: What is averaged over views: ``logits``, or ``probabilities``, whose log is given.
        adabn: ``experiment`` or ``plate``: BatchNorm statistics are first re-estimated on all asked sites of each (Li et al. 2016,
            arXiv 1603.04779); then the calls of a well depend on which others are asked with it.
        wanted: (S,) bool: sites to predict; the others only serve to adapt. None: all.
        batch_size: Images a batch, or ``auto``: see :func:`deepnoise.network.device.choose_batch_size`.
        device_name: See :func:`deepnoise.network.device.choose_device`.

    Returns:
        (S, K targets) float32 logits, control classes dropped, and (S, D) float32 unit-length embeddings; NaN where not wanted.
    """
    device = choose_device(device_name)
    network = to_device(Network(NetworkSpec(**model.facts["network"])), device)
    network.load_state_dict(model.weights)
    network.eval()
    images = SiteImages(store, asked, statistics, cache_gigabytes=0)
    size = (
        int(batch_size)
        if batch_size != "auto"
        else choose_batch_size(network, device, len(store.channels), model.facts["image_size"])
    )

    def pixels(batch: Batch) -> torch.Tensor:
        return normalize(batch.to(device), images.strategy).contiguous(memory_format=torch.channels_last)

    # plates that were trained on are kept apart: whether they are asked too must not change a held-out call
    by = {"none": [], "experiment": ["role", "experiment"], "plate": ["role", "experiment", "plate"]}[adabn]
    rows = asked.reset_index(drop=True)
    units = list(rows.groupby(by, sort=True).indices.values()) if by else [np.arange(len(asked))]
    chosen = np.ones(len(asked), bool) if wanted is None else wanted
    targets = len(model.facts["targets"])
    logits = np.full((len(asked), targets), np.nan, np.float32)
    embeddings = np.full((len(asked), network.features), np.nan, np.float32)
    with tqdm(
        total=int(chosen.sum()),
        unit=" sites",
        desc=f"predict fold {model.facts['fold']}",
        disable=None,
        mininterval=1.0,
    ) as bar:
        for batch, x in adapted_batches(network, images, units, size, pixels, adapt=bool(by), chosen=chosen):
            cell_type = batch.cell_type.to(device)
            scores = torch.zeros(len(x), targets, device=device)
            embedded = torch.zeros(len(x), network.features, device=device)
            for view in VIEWS[views]:
                seen = view(x).contiguous(memory_format=torch.channels_last)
                with autocast(device):
                    features = network.embed(seen)
                of_view = network.classify(features, cell_type)[:, :targets]
                scores += of_view.softmax(dim=1) if pooling == "probabilities" else of_view
                embedded += F.normalize(features.float())
            scores /= len(VIEWS[views])
            if pooling == "probabilities":
                scores = scores.clamp_min(1e-30).log()
            logits[batch.index] = scores.cpu().numpy()
            embeddings[batch.index] = F.normalize(embedded).cpu().numpy()
            bar.update(len(x))
    return logits, embeddings


def predict_folds(
    models: Mapping[str, TrainedModel],
    store: ImageSource,
    sites: pd.DataFrame,
    wells: pd.DataFrame,
    folds: pd.DataFrame,
    statistics: pd.DataFrame,
    *,
    further: Mapping[str, Mapping[str, TrainedModel]] | None = None,
    weights: str = "equal",
    only: str = "",
    views: str,
    pooling: str = "logits",
    adabn: str = "none",
    seen_experiments: int = 0,
    batch_size: int | str,
    device_name: str,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every fold's model on the plates it was not trained on, and on some that it was, for comparison.

    Args:
        models: Name -> model: one a fold, or a cell type of one.
        store: The image store.
        sites: The table ``sites``.
        wells: The table ``wells``.
        folds: The table ``folds``.
        statistics: The table ``plate_statistics``.
        further: Name -> models of other versions, seeds or backbones, whose logits are averaged with those of ``models``.
        weights: Of the members of this ensemble: ``equal``, or ``validation``, fitted on the labels of validation wells.
        only: See :func:`select_sites`; with AdaBN the other sites of the plate or experiment are read to adapt.
        views: See :func:`predict_sites`; so the others.
        pooling: Of views and members.
        adabn: ``auto`` follows the batches of each model's training.
        seen_experiments: See :func:`sites_to_predict`.
        batch_size: Images a batch, or ``auto``.
        device_name: The device.

    Returns:
        The table ``site_logits``, and site embeddings of ``models`` with the same keys. Embeddings of different folds are kept
        apart: their axes have nothing to do with each other.
    """
    options = {"views": views, "pooling": pooling, "batch_size": batch_size, "device_name": device_name}
    members = []
    for name, group in {"": models, **(further or {})}.items():
        found = _predict_member(
            group, store, sites, wells, folds, statistics, only, adabn, seen_experiments, options, name
        )
        members.append(found)
    logits, embeddings = members[0]
    if len(members) > 1:
        logits = average_members([found[0] for found in members], ["", *(further or {})], wells, weights, pooling)
    for complaint in skewed_plates(logits, adabn_of(next(iter(models.values())).facts, adabn)):
        logger.warning("%s", complaint)
    logits.insert(logits.columns.get_loc("tier"), "entropy", entropies(matrix(logits, SCORE)))
    return logits, embeddings


def _predict_member(
    models: Mapping[str, TrainedModel],
    store: ImageSource,
    sites: pd.DataFrame,
    wells: pd.DataFrame,
    folds: pd.DataFrame,
    statistics: pd.DataFrame,
    only: str,
    adabn: str,
    seen_experiments: int,
    options: dict[str, Any],
    member: str,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    named = select_sites(sites, only)
    logit_parts, embedding_parts = [], []
    for model in models.values():
        own = adabn_of(model.facts, adabn)
        unit = {"plate": ["experiment", "plate"], "experiment": ["experiment"], "none": []}[own]
        # what has a named site in its unit: the rest of the unit is read to adapt to it
        about = named.groupby([sites[c] for c in unit]).transform("any") if unit else named
        asked = sites_to_predict(model.facts, sites[about], wells, folds, seen_experiments if not only else 0)
        if asked.empty and (model.facts.get("cell_type") or only):
            continue  # a specialist whose cells are not there; a named plate that this fold trained on
        if asked.empty:
            raise InputError(f"fold {model.facts['fold']}: the screen has no plate that the model was not trained on")
        shape = store.read(asked["experiment"].iloc[0], asked["plate"].iloc[0], np.array([0])).shape[2:]
        check_compatible(model.facts, store.channels, shape, statistics, wells, folds)
        wanted = select_sites(asked, only).to_numpy()
        if own != "none":
            for complaint in partial_plates(asked, sites, model.facts["training_plates"]):
                logger.warning("%s", complaint)
        logits, embeddings = predict_sites(model, store, asked, statistics, adabn=own, wanted=wanted, **options)
        meta = asked.loc[wanted, ["role", "id_code", "experiment", "plate", "well", "site"]].assign(
            fold=int(model.facts["fold"]), tier=tier_of_prediction(model.facts["tier"], own)
        )
        logit_parts.append(
            pd.concat([meta, prefixed(logits[wanted], model.facts["targets"], SCORE, meta.index)], axis=1)
        )
        numbers = [f"{i:04d}" for i in range(embeddings.shape[1])]
        meta = meta.assign(plate_seen=asked.loc[wanted, "plate_seen"])
        embedding_parts.append(pd.concat([meta, prefixed(embeddings[wanted], numbers, EMBEDDING, meta.index)], axis=1))
    if not logit_parts and only:
        raise InputError(
            f"inference.only is {only!r}, whose images {member or 'the model'} was trained on; name a plate that it has not seen"
        )
    if not logit_parts:
        raise InputError("none of the specialists was trained on the cell types of this screen")
    logits = pd.concat(logit_parts, ignore_index=True)
    scores = [c for c in logits.columns if c.startswith(SCORE)]
    # a perturbation that a fold's model has never seen is the least likely one of its wells
    lowest = np.nanmin(logits[scores].to_numpy(), axis=1)
    logits[scores] = logits[scores].apply(lambda column: column.fillna(pd.Series(lowest, index=logits.index)))
    return logits, pd.concat(embedding_parts, ignore_index=True)
