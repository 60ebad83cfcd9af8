"""Logits and embeddings of pictures under test-time augmentation; each picture is read once."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from tqdm import tqdm

from deepnoise.errors import InputError, first_few
from deepnoise.fingerprint import fingerprint
from deepnoise.normalization.statistics import statistics_of_plates
from deepnoise.tables import EMBEDDING, SCORE, matrix, prefixed
from deepnoise.training.augmentation import dihedral_view
from deepnoise.training.images import PictureStore, SitePictures, normalise
from deepnoise.training.model import TrainedModel
from deepnoise.training.network import Network, NetworkSpec, autocast, choose_device, to_device

logger = logging.getLogger(__name__)
VIEWS = {"none": (0,), "dihedral": tuple(range(8))}


def check_fit(
    facts: Mapping[str, Any],
    channels: list[str],
    shape: tuple[int, ...],
    statistics: pd.DataFrame,
    wells: pd.DataFrame,
    folds: pd.DataFrame,
) -> None:
    """Refuse a model that was not made for these pictures.

    Args:
        facts: JSON of the model.
        channels: Channels of the image store.
        shape: (H, W) of its pictures.
        statistics: The table ``plate_statistics``.
        wells: The table ``wells``.
        folds: The table ``folds``; the labels of plates that train in the model's fold must be its classes.

    Raises:
        InputError: Names what does not fit, the model's value and the screen's.
    """

    def refuse(what: str, model: object, screen: object) -> None:
        raise InputError(
            f"the model does not fit this screen: {what} of the model is {model}, of the screen {screen}; "
            "choose the environment it was trained in, or train a model here"
        )

    if list(facts["channels"]) != list(channels):
        refuse("the channel list", facts["channels"], channels)
    if list(facts["image_size"]) != list(shape):
        refuse("the image size", facts["image_size"], list(shape))
    for part in ("strategy", "reference", "illumination"):
        here = str(statistics[part].iloc[0])
        if facts["normalization"].get(part, "none") != here:  # "none": a model from before there was a choice
            refuse(f"the normalization {part}", facts["normalization"].get(part, "none"), here)
    trained = statistics_of_plates(statistics, facts["training_plates"])  # none of them on a screen of new plates alone
    complete = len(trained.drop_duplicates(["experiment", "plate"])) == len(facts["training_plates"])
    if complete and fingerprint(trained) != facts["fingerprints"]["statistics"]:
        raise InputError(
            "the model does not fit this screen: plate_statistics of the plates it was trained on are not those of its training "
            "(other pictures, or another normalization); run training again"
        )
    trains = folds[(folds["fold"] == facts["fold"]) & (folds["role"] == "train")]
    known = wells[wells["target"]].merge(trains[["experiment", "plate"]], on=["experiment", "plate"])
    strange = set(known["perturbation"].dropna()) - set(facts["targets"])
    if strange:
        refuse(
            "the class set",
            f"{len(facts['targets'])} perturbations without {first_few(sorted(strange))}",
            "one that has them",
        )


def sites_to_predict(facts: Mapping[str, Any], sites: pd.DataFrame, folds: pd.DataFrame) -> pd.DataFrame:
    """The sites of plates that the model was not trained on, with their role.

    A plate that no row of ``folds`` names (a new one) counts as held out.

    Raises:
        InputError: ``folds`` holds out a plate that this model was trained on.
    """
    own = folds.loc[folds["fold"] == facts["fold"], ["experiment", "plate", "role"]]
    asked = sites.merge(own, on=["experiment", "plate"], how="left")
    asked["role"] = asked["role"].fillna("heldout")
    trained = set(facts["training_plates"])
    name = asked["experiment"] + "/" + asked["plate"]
    clash = asked["role"].isin(["heldout", "validation"]) & name.isin(trained)
    if clash.any():
        raise InputError(
            f"the entry folds says {asked.loc[clash, 'role'].iloc[0]} of plate {name[clash].iloc[0]} in fold {facts['fold']}, but the "
            "model was trained on it; run training again, or load the folds of that model's run"
        )
    return asked[asked["role"] != "train"].reset_index(drop=True)


@torch.inference_mode()
def predict_sites(
    model: TrainedModel,
    store: PictureStore,
    asked: pd.DataFrame,
    statistics: pd.DataFrame,
    *,
    views: str,
    batch_size: int,
    device_name: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and embeddings of sites, averaged over views; memory holds one batch of pictures at a time.

    Args:
        model: Weights and facts.
        store: The image store.
        asked: Rows of ``sites``.
        statistics: The table ``plate_statistics``; a new plate brings its own rows.
        views: Key of VIEWS.
        batch_size: Pictures a batch.
        device_name: See :func:`deepnoise.training.network.choose_device`.

    Returns:
        (S, K targets) float32 logits, control classes dropped, and (S, D) float32 unit-length embeddings.
    """
    device = choose_device(device_name)
    network = to_device(Network(NetworkSpec(**model.facts["network"])), device)
    network.load_state_dict(model.weights)
    network.eval()
    pictures = SitePictures(store, asked, statistics, cache_gigabytes=0)
    order = np.array_split(np.arange(len(asked)), max(1, -(-len(asked) // batch_size)))
    logits, embeddings = [], []
    targets = len(model.facts["targets"])
    with tqdm(
        total=len(asked), unit=" sites", desc=f"predict fold {model.facts['fold']}", disable=None, mininterval=1.0
    ) as bar:
        for batch in pictures.batches(order):
            x = normalise(batch.to(device), pictures.strategy)
            scores = torch.zeros(len(x), targets, device=device)
            embedded = torch.zeros(len(x), network.features, device=device)
            for view in VIEWS[views]:
                seen = dihedral_view(x, view).contiguous(memory_format=torch.channels_last)
                with autocast(device):
                    features = network.embed(seen)
                scores += network.head(features)[:, :targets]
                embedded += F.normalize(features.float())
            logits.append((scores / len(VIEWS[views])).cpu().numpy())
            embeddings.append(F.normalize(embedded).cpu().numpy())
            bar.update(len(x))
    return np.concatenate(logits), np.concatenate(embeddings)


def predict_folds(
    models: Mapping[int, TrainedModel],
    store: PictureStore,
    sites: pd.DataFrame,
    wells: pd.DataFrame,
    folds: pd.DataFrame,
    statistics: pd.DataFrame,
    *,
    views: str,
    batch_size: int,
    device_name: str,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every fold's model on the plates it was not trained on.

    Returns:
        The table ``site_logits``, and site embeddings with the same keys. Embeddings of different folds are kept
        apart: their axes have nothing to do with each other.
    """
    logit_parts, embedding_parts = [], []
    for model in models.values():
        asked = sites_to_predict(model.facts, sites, folds)
        if asked.empty:
            raise InputError(f"fold {model.facts['fold']}: the screen has no plate that the model was not trained on")
        shape = store.read(asked["experiment"].iloc[0], asked["plate"].iloc[0], np.array([0])).shape[2:]
        check_fit(model.facts, store.channels, shape, statistics, wells, folds)
        logits, embeddings = predict_sites(
            model, store, asked, statistics, views=views, batch_size=batch_size, device_name=device_name
        )
        meta = asked[["role", "id_code", "experiment", "plate", "well", "site"]].assign(
            fold=int(model.facts["fold"]), tier=model.facts["tier"]
        )
        logit_parts.append(pd.concat([meta, prefixed(logits, model.facts["targets"], SCORE, meta.index)], axis=1))
        numbers = [f"{i:04d}" for i in range(embeddings.shape[1])]
        embedding_parts.append(pd.concat([meta, prefixed(embeddings, numbers, EMBEDDING, meta.index)], axis=1))
    logits = pd.concat(logit_parts, ignore_index=True)
    scores = [c for c in logits.columns if c.startswith(SCORE)]
    # a perturbation that a fold's model has never seen is the least likely one of its wells
    lowest = np.nanmin(logits[scores].to_numpy(), axis=1)
    logits[scores] = logits[scores].apply(lambda column: column.fillna(pd.Series(lowest, index=logits.index)))
    return logits, pd.concat(embedding_parts, ignore_index=True)


def pool_wells(site_logits: pd.DataFrame, site_embeddings: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Average the sites of each well.

    Returns:
        ``well_logits`` (mean logits) and ``well_embeddings`` (mean, brought back to unit length).
    """
    key = ["fold", "role", "id_code", "experiment", "plate", "well", "tier"]
    scores = [c for c in site_logits.columns if c.startswith(SCORE)]
    grouped = site_logits.groupby(key, sort=True)
    wells = pd.concat([grouped.size().rename("n_sites"), grouped[scores].mean()], axis=1).reset_index()
    axes = [c for c in site_embeddings.columns if c.startswith(EMBEDDING)]
    pooled = site_embeddings.groupby(key, sort=True)[axes].mean().reset_index().drop(columns="tier")
    values = matrix(pooled, EMBEDDING)
    values = values / np.clip(np.linalg.norm(values, axis=1, keepdims=True), 1e-12, None)
    meta = pooled.drop(columns=axes).assign(plate_seen=False)  # only unseen plates are predicted
    return wells, pd.concat([meta, pd.DataFrame(values, columns=axes, index=meta.index)], axis=1)
