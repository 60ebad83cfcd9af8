"""Logits and embeddings of pictures under test-time augmentation; each picture is read once (twice with AdaBN)."""

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
from deepnoise.training.images import Batch, PictureStore, SitePictures, normalise
from deepnoise.training.model import TrainedModel
from deepnoise.training.network import (
    Network,
    NetworkSpec,
    adapted_batches,
    autocast,
    choose_device,
    to_device,
)

logger = logging.getLogger(__name__)
VIEWS = {"none": (0,), "dihedral": tuple(range(8))}


def tier_of_reading(tier: str, adabn: str) -> str:
    """Tier of a prediction: AdaBN reads the other pictures of the plate or experiment, which makes T0 to T1 (method: section 7)."""
    return "T1" if tier == "T0" and adabn != "none" else tier


def adabn_of(facts: Mapping[str, Any], adabn: str) -> str:
    """``auto``: the unit whose pictures made the batches of the model's training; ``none`` where they were mixed."""
    if adabn != "auto":
        return adabn
    return {"mixed": "none"}.get(unit := facts["parameters"].get("batches", "mixed"), unit)


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


def sites_to_predict(
    facts: Mapping[str, Any], sites: pd.DataFrame, wells: pd.DataFrame, folds: pd.DataFrame, seen_experiments: int = 0
) -> pd.DataFrame:
    """The sites of plates that the model was not trained on, with their role; and some of the others.

    A plate that no row of ``folds`` names (a new one) counts as held out.

    Args:
        facts: JSON of the model.
        sites: The table ``sites``.
        wells: The table ``wells``.
        folds: The table ``folds``.
        seen_experiments: How many experiments of each cell type that the model was trained on are added, the first by name;
            of these the sites that it was not trained on, where training was confined to some.

    Returns:
        Rows of ``sites`` with ``role``, ``plate_seen`` (pictures of the plate were in the training, labelled or not) and ``cell_type``,
        the number that the model knows the cells by, -1 for others. A specialist is asked about its own cells alone.

    Raises:
        InputError: ``folds`` holds out a plate that this model was trained on, or the model must be told the cell type and does not know it.
    """
    own = folds.loc[folds["fold"] == facts["fold"], ["experiment", "plate", "role"]]
    asked = sites.merge(own, on=["experiment", "plate"], how="left")
    cells = asked["id_code"].map(wells.set_index("id_code")["cell_type"])
    specialist = facts.get("cell_type", "")
    if specialist:
        asked, cells = asked[cells == specialist], cells[cells == specialist]
    known = {name: i for i, name in enumerate(facts.get("cell_types", []))}
    asked["cell_type"] = cells.map(known).fillna(-1).astype(int)
    strange = asked[asked["cell_type"] < 0]
    if facts["network"].get("cell_types") and len(strange):
        raise InputError(
            f"the model must be told the cell type, and does not know {cells[strange.index[0]]!r} of plate {strange['experiment'].iloc[0]}/"
            f"{strange['plate'].iloc[0]}; it knows {', '.join(known)}. Train with training.cell_type none to call other cells"
        )
    asked["role"] = asked["role"].fillna("heldout")
    trained = set(facts["training_plates"])
    name = asked["experiment"] + "/" + asked["plate"]
    clash = asked["role"].isin(["heldout", "validation"]) & name.isin(trained)
    if clash.any():
        raise InputError(
            f"the entry folds says {asked.loc[clash, 'role'].iloc[0]} of plate {name[clash].iloc[0]} in fold {facts['fold']}, but the "
            "model was trained on it; run training again, or load the folds of that model's run"
        )
    training = asked[asked["role"] == "train"].drop_duplicates("experiment").sort_values("experiment")
    chosen = training.groupby(cells[training.index]).head(seen_experiments)["experiment"]
    kept = (asked["role"] != "train") | asked["experiment"].isin(chosen)
    trained_sites = facts["parameters"].get("sites", "all")
    if trained_sites != "all":
        kept &= (asked["role"] != "train") | ~asked["site"].isin(trained_sites)
    unlabelled = {"training": "train"}.get(
        facts["parameters"]["unlabelled_source"], facts["parameters"]["unlabelled_source"]
    )
    asked["plate_seen"] = asked["role"].isin(["train", unlabelled])
    return asked[kept].reset_index(drop=True)


@torch.inference_mode()
def predict_sites(
    model: TrainedModel,
    store: PictureStore,
    asked: pd.DataFrame,
    statistics: pd.DataFrame,
    *,
    views: str,
    adabn: str = "none",
    batch_size: int,
    device_name: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and embeddings of sites, averaged over views; memory holds one batch of pictures at a time.

    Args:
        model: Weights and facts.
        store: The image store.
        asked: Rows of :func:`sites_to_predict`.
        statistics: The table ``plate_statistics``; a new plate brings its own rows.
        views: Key of VIEWS.
        adabn: ``experiment`` or ``plate``: BatchNorm statistics are first re-estimated on all asked sites of each (Li et al. 2016,
            arXiv 1603.04779); then the calls of a well depend on which others are asked with it.
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

    def pixels(batch: Batch) -> torch.Tensor:
        return normalise(batch.to(device), pictures.strategy).contiguous(memory_format=torch.channels_last)

    # plates that were trained on are kept apart: whether they are asked too must not change a held-out call
    by = {"none": [], "experiment": ["role", "experiment"], "plate": ["role", "experiment", "plate"]}[adabn]
    units = (
        list(asked.reset_index(drop=True).groupby(by, sort=True).indices.values()) if by else [np.arange(len(asked))]
    )
    targets = len(model.facts["targets"])
    logits = np.empty((len(asked), targets), np.float32)
    embeddings = np.empty((len(asked), network.features), np.float32)
    with tqdm(
        total=len(asked), unit=" sites", desc=f"predict fold {model.facts['fold']}", disable=None, mininterval=1.0
    ) as bar:
        for batch, x in adapted_batches(network, pictures, units, batch_size, pixels, adapt=bool(by)):
            cell_type = batch.cell_type.to(device)
            scores = torch.zeros(len(x), targets, device=device)
            embedded = torch.zeros(len(x), network.features, device=device)
            for view in VIEWS[views]:
                seen = dihedral_view(x, view).contiguous(memory_format=torch.channels_last)
                with autocast(device):
                    features = network.embed(seen)
                scores += network.classify(features, cell_type)[:, :targets]
                embedded += F.normalize(features.float())
            logits[batch.index] = (scores / len(VIEWS[views])).cpu().numpy()
            embeddings[batch.index] = F.normalize(embedded).cpu().numpy()
            bar.update(len(x))
    return logits, embeddings


def predict_folds(
    models: Mapping[str, TrainedModel],
    store: PictureStore,
    sites: pd.DataFrame,
    wells: pd.DataFrame,
    folds: pd.DataFrame,
    statistics: pd.DataFrame,
    *,
    views: str,
    adabn: str = "none",
    seen_experiments: int = 0,
    batch_size: int,
    device_name: str,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every fold's model on the plates it was not trained on, and on some that it was, for comparison.

    Returns:
        The table ``site_logits``, and site embeddings with the same keys. Embeddings of different folds are kept
        apart: their axes have nothing to do with each other.
    """
    logit_parts, embedding_parts = [], []
    for model in models.values():
        asked = sites_to_predict(model.facts, sites, wells, folds, seen_experiments)
        if asked.empty and model.facts.get("cell_type"):
            continue  # a specialist whose cells are not there
        if asked.empty:
            raise InputError(f"fold {model.facts['fold']}: the screen has no plate that the model was not trained on")
        shape = store.read(asked["experiment"].iloc[0], asked["plate"].iloc[0], np.array([0])).shape[2:]
        check_fit(model.facts, store.channels, shape, statistics, wells, folds)
        own = adabn_of(model.facts, adabn)
        logits, embeddings = predict_sites(
            model, store, asked, statistics, views=views, adabn=own, batch_size=batch_size, device_name=device_name
        )
        meta = asked[["role", "id_code", "experiment", "plate", "well", "site"]].assign(
            fold=int(model.facts["fold"]), tier=tier_of_reading(model.facts["tier"], own)
        )
        logit_parts.append(pd.concat([meta, prefixed(logits, model.facts["targets"], SCORE, meta.index)], axis=1))
        numbers = [f"{i:04d}" for i in range(embeddings.shape[1])]
        meta = meta.assign(plate_seen=asked["plate_seen"])
        embedding_parts.append(pd.concat([meta, prefixed(embeddings, numbers, EMBEDDING, meta.index)], axis=1))
    if not logit_parts:
        raise InputError("none of the specialists was trained on the cell types of this screen")
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
    pooled = site_embeddings.groupby([*key, "plate_seen"], sort=True)[axes].mean().reset_index()
    values = matrix(pooled, EMBEDDING)
    values = values / np.clip(np.linalg.norm(values, axis=1, keepdims=True), 1e-12, None)
    meta = pooled.drop(columns=axes)
    return wells, pd.concat([meta, pd.DataFrame(values, columns=axes, index=meta.index)], axis=1)
