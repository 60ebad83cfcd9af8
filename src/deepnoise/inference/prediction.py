"""Logits and embeddings of pictures under test-time augmentation; each picture is read once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from scipy.special import logsumexp
from tqdm import tqdm

from deepnoise.errors import InputError, closest, first_few
from deepnoise.fingerprint import fingerprint
from deepnoise.normalization.statistics import statistics_of_plates
from deepnoise.plate_balancing.scores import entropies, log_softmax
from deepnoise.tables import EMBEDDING, SCORE, class_names, matrix, prefixed
from deepnoise.training.augmentation import dihedral_view
from deepnoise.training.images import Batch, PictureStore, SitePictures, normalise
from deepnoise.training.model import TrainedModel
from deepnoise.training.network import (
    Network,
    NetworkSpec,
    adapted_batches,
    autocast,
    choose_batch_size,
    choose_device,
    to_device,
)

logger = logging.getLogger(__name__)
CROP = 7 / 8  # of the side, in multicrop


def crop_view(pictures: torch.Tensor, place: int) -> torch.Tensor:
    """One of four corners (0..3) or the centre (4) of (B, C, H, W) pictures, CROP of their side."""
    height, width = (int(round(side * CROP)) for side in pictures.shape[-2:])
    down, right = pictures.shape[-2] - height, pictures.shape[-1] - width
    top, left = [(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)][place]
    return pictures[..., top : top + height, left : left + width]


VIEWS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], ...]] = {
    "none": (partial(dihedral_view, view=0),),
    "flips": tuple(partial(dihedral_view, view=v) for v in (0, 2, 4, 6)),
    "dihedral": tuple(partial(dihedral_view, view=v) for v in range(8)),
    "multicrop": tuple(partial(crop_view, place=p) for p in range(5)),
}
"""Name -> views of (B, C, H, W) pictures that are averaged."""


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


def named_sites(sites: pd.DataFrame, only: str) -> pd.Series:
    """(S,) bool: the sites of ``EXPERIMENT``, ``EXPERIMENT/PLATE`` or ``EXPERIMENT/PLATE/WELL``; all where nothing is named.

    Raises:
        InputError: No site has that name.
    """
    named = pd.Series(True, index=sites.index)
    for column, name in zip(("experiment", "plate", "well"), only.split("/") if only else (), strict=False):
        there = sites.loc[named, column]
        named &= sites[column] == name
        if not named.any():
            raise InputError(
                f"inference.only is {only!r}, but there is no {column} {name!r}; there are {first_few(sorted(set(there)))}.{closest(name, set(there))}"
            )
    return named


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
    pooling: str = "logits",
    adabn: str = "none",
    wanted: np.ndarray | None = None,
    batch_size: int | str,
    device_name: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and embeddings of sites, averaged over views; memory holds a few batches of pictures at a time, with AdaBN at most a
    unit of HELD_BYTES.

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
        batch_size: Pictures a batch, or ``auto``: see :func:`deepnoise.training.network.choose_batch_size`.
        device_name: See :func:`deepnoise.training.network.choose_device`.

    Returns:
        (S, K targets) float32 logits, control classes dropped, and (S, D) float32 unit-length embeddings; NaN where not wanted.
    """
    device = choose_device(device_name)
    network = to_device(Network(NetworkSpec(**model.facts["network"])), device)
    network.load_state_dict(model.weights)
    network.eval()
    pictures = SitePictures(store, asked, statistics, cache_gigabytes=0)
    size = (
        int(batch_size)
        if batch_size != "auto"
        else choose_batch_size(network, device, len(store.channels), model.facts["image_size"])
    )

    def pixels(batch: Batch) -> torch.Tensor:
        return normalise(batch.to(device), pictures.strategy).contiguous(memory_format=torch.channels_last)

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
        for batch, x in adapted_batches(network, pictures, units, size, pixels, adapt=bool(by), chosen=chosen):
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
    store: PictureStore,
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
        only: See :func:`named_sites`; with AdaBN the other sites of the plate or experiment are read to adapt.
        views: See :func:`predict_sites`; so the others.
        pooling: Of views and members.
        adabn: ``auto`` follows the batches of each model's training.
        seen_experiments: See :func:`sites_to_predict`.
        batch_size: Pictures a batch, or ``auto``.
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
    store: PictureStore,
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
    named = named_sites(sites, only)
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
        check_fit(model.facts, store.channels, shape, statistics, wells, folds)
        wanted = named_sites(asked, only).to_numpy()
        if own != "none":
            for complaint in partial_plates(asked, sites, model.facts["training_plates"]):
                logger.warning("%s", complaint)
        logits, embeddings = predict_sites(model, store, asked, statistics, adabn=own, wanted=wanted, **options)
        meta = asked.loc[wanted, ["role", "id_code", "experiment", "plate", "well", "site"]].assign(
            fold=int(model.facts["fold"]), tier=tier_of_reading(model.facts["tier"], own)
        )
        logit_parts.append(
            pd.concat([meta, prefixed(logits[wanted], model.facts["targets"], SCORE, meta.index)], axis=1)
        )
        numbers = [f"{i:04d}" for i in range(embeddings.shape[1])]
        meta = meta.assign(plate_seen=asked.loc[wanted, "plate_seen"])
        embedding_parts.append(pd.concat([meta, prefixed(embeddings[wanted], numbers, EMBEDDING, meta.index)], axis=1))
    if not logit_parts and only:
        raise InputError(
            f"inference.only is {only!r}, whose pictures {member or 'the model'} was trained on; name a plate that it has not seen"
        )
    if not logit_parts:
        raise InputError("none of the specialists was trained on the cell types of this screen")
    logits = pd.concat(logit_parts, ignore_index=True)
    scores = [c for c in logits.columns if c.startswith(SCORE)]
    # a perturbation that a fold's model has never seen is the least likely one of its wells
    lowest = np.nanmin(logits[scores].to_numpy(), axis=1)
    logits[scores] = logits[scores].apply(lambda column: column.fillna(pd.Series(lowest, index=logits.index)))
    return logits, pd.concat(embedding_parts, ignore_index=True)


def partial_plates(asked: pd.DataFrame, sites: pd.DataFrame, training_plates: list[str]) -> list[str]:
    """Plates that AdaBN adapts to on less than half the wells of a training plate: their statistics are those of few wells.

    Args:
        asked: The sites that are read.
        sites: The table ``sites``.
        training_plates: ``experiment/plate`` of the model; where none is in ``sites``, all plates of it are compared with.
    """
    count = sites.groupby(["experiment", "plate"])["id_code"].nunique()
    trained = count[[f"{e}/{p}" in set(training_plates) for e, p in count.index]]
    usual = float((trained if len(trained) else count).median())
    own = asked.groupby(["experiment", "plate"])["id_code"].nunique()
    return [
        f"plate {e}/{p} has {n} wells with pictures, a plate of the training {usual:.0f}: AdaBN adapts to these few; compare with "
        "inference.adabn none"
        for (e, p), n in own[own < usual / 2].items()
    ]


def skewed_plates(logits: pd.DataFrame, adabn: str, share: float = 1 / 3, least_wells: int = 10) -> list[str]:
    """Plates most of whose wells are called one perturbation: AdaBN takes such a plate's biology for its noise.

    Args:
        logits: The table ``site_logits``.
        adabn: What was adapted to; nothing is said where nothing was.
        share: Of the wells, from which on a plate is named.
        least_wells: Plates with fewer wells are not judged.
    """
    if adabn == "none":
        return []
    wells = logits.assign(call=matrix(logits, SCORE).argmax(axis=1)).drop_duplicates(["fold", "id_code"])
    found = []
    for (experiment, plate), own in wells.groupby(["experiment", "plate"]):
        most = own["call"].value_counts(normalize=True)
        if len(own) >= least_wells and most.iloc[0] > share:
            name = class_names(logits)[most.index[0]]
            found.append(
                f"plate {experiment}/{plate}: {most.iloc[0]:.0%} of {len(own)} wells are called {name}; if one perturbation fills "
                "the plate, AdaBN takes what it does for noise: compare with inference.adabn none"
            )
    return found


def average_members(
    members: list[pd.DataFrame], names: list[str], wells: pd.DataFrame, weights: str, pooling: str
) -> pd.DataFrame:
    """Scores of an ensemble: the weighted mean over its members of logits, or of probabilities, whose log is given.

    Args:
        members: ``site_logits`` of each, the first one decides which sites are asked; a member that does not predict a site
            (a specialist of other cells) is left out there.
        names: What to call them, in errors and the log.
        wells: The table ``wells``, for the labels of validation wells.
        weights: ``equal`` or ``validation``: those with the least log loss on validation wells.
        pooling: ``logits`` or ``probabilities``.

    Raises:
        InputError: Members of different tiers or classes; no validation well to fit on.
    """
    key = ["fold", "id_code", "site"]
    first = members[0]
    columns = [c for c in first.columns if c.startswith(SCORE)]
    stack = []
    for name, member in zip(names, members, strict=True):
        if set(member["tier"]) != set(first["tier"]):
            raise InputError(
                f"ensemble: {name} is of tier {first_few(sorted(set(member['tier'])))}, the teacher of {first_few(sorted(set(first['tier'])))}; average within one tier"
            )
        strange = set(columns) ^ {c for c in member.columns if c.startswith(SCORE)}
        if strange:
            raise InputError(
                f"ensemble: {name} does not call the same perturbations; different: {first_few(sorted(c.removeprefix(SCORE) for c in strange))}"
            )
        stack.append(member.set_index(key)[columns].reindex(pd.MultiIndex.from_frame(first[key])).to_numpy(np.float64))
    scores = np.stack(stack)  # (M, S, K)
    if pooling == "probabilities":
        scores = np.exp(log_softmax(scores.reshape(-1, scores.shape[2])).reshape(scores.shape))
    share = np.full(len(members), 1 / len(members))
    if weights == "validation":
        label = first["id_code"].map(wells.set_index("id_code")["perturbation"])
        label = label.where(first["role"] == "validation").map(
            {c.removeprefix(SCORE): i for i, c in enumerate(columns)}
        )
        asked = label.notna().to_numpy() & np.isfinite(scores).all(axis=(0, 2))
        if not asked.any():
            raise InputError(
                "inference.ensemble_weights is 'validation', but no validation well is predicted by all members; use equal"
            )
        share = fit_weights(scores[:, asked], label[asked].to_numpy(int), pooling)
    logger.info("ensemble: %s", ", ".join(f"{n or 'teacher'} {w:.2f}" for n, w in zip(names, share, strict=True)))
    there = np.isfinite(scores).all(axis=2)[..., None] * share[:, None, None]
    mean = (np.nan_to_num(scores) * there).sum(axis=0) / there.sum(axis=0)
    if pooling == "probabilities":
        mean = np.log(np.maximum(mean, 1e-30))
    return pd.concat([first.drop(columns=columns), pd.DataFrame(mean.astype(np.float32), first.index, columns)], axis=1)


def fit_weights(scores: np.ndarray, label: np.ndarray, pooling: str) -> np.ndarray:
    """Weights of ensemble members with the least log loss.

    Args:
        scores: (M, W, K) logits, or probabilities.
        label: (W,) int.
        pooling: ``logits``: their weights may add up to any scale; ``probabilities``: to 1.

    Returns:
        (M,) weights that add up to 1.
    """

    def mixed(free: np.ndarray) -> np.ndarray:
        return np.exp(free) if pooling == "logits" else np.exp(free - logsumexp(free))

    def loss(free: np.ndarray) -> float:
        mean = np.tensordot(mixed(free), scores, axes=1)
        log_p = log_softmax(mean) if pooling == "logits" else np.log(np.maximum(mean, 1e-30))
        return -float(log_p[np.arange(len(label)), label].mean())

    found = minimize(
        loss, np.full(len(scores), -np.log(len(scores))), method="L-BFGS-B", bounds=[(-10, 5)] * len(scores)
    )
    share = mixed(found.x)
    return share / share.sum()


def pool_wells(
    site_logits: pd.DataFrame, site_embeddings: pd.DataFrame, pooling: str = "logits"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Average the sites of each well, as many as there are.

    Args:
        site_logits: Of sites.
        site_embeddings: Of the same sites.
        pooling: ``logits``: their mean; ``probabilities``: the log of the mean softmax.

    Returns:
        ``well_logits`` (mean logits) and ``well_embeddings`` (mean, brought back to unit length).
    """
    key = ["fold", "role", "id_code", "experiment", "plate", "well", "tier"]
    scores = [c for c in site_logits.columns if c.startswith(SCORE)]
    if pooling == "probabilities":
        p = np.exp(log_softmax(site_logits[scores].to_numpy(np.float64)))
        site_logits = pd.concat([site_logits[key], pd.DataFrame(p, site_logits.index, scores)], axis=1)
    grouped = site_logits.groupby(key, sort=True)
    wells = pd.concat([grouped.size().rename("n_sites"), grouped[scores].mean()], axis=1).reset_index()
    if pooling == "probabilities":
        wells[scores] = np.log(np.maximum(wells[scores], 1e-30))
    wells.insert(wells.columns.get_loc("n_sites") + 1, "entropy", entropies(matrix(wells, SCORE)))
    axes = [c for c in site_embeddings.columns if c.startswith(EMBEDDING)]
    pooled = site_embeddings.groupby([*key, "plate_seen"], sort=True)[axes].mean().reset_index()
    values = matrix(pooled, EMBEDDING)
    values = values / np.clip(np.linalg.norm(values, axis=1, keepdims=True), 1e-12, None)
    meta = pooled.drop(columns=axes)
    return wells, pd.concat([meta, pd.DataFrame(values, columns=axes, index=meta.index)], axis=1)


def best_calls(well_logits: pd.DataFrame, most: int = 3) -> list[str]:
    """A line a well: its likeliest perturbations, with uncalibrated probabilities."""
    names = np.array(class_names(well_logits))
    p = np.exp(log_softmax(matrix(well_logits, SCORE).astype(np.float64)))
    order = np.argsort(-p, axis=1)[:, :most]
    return [
        f"{row.experiment}/{row.plate}/{row.well}: " + ", ".join(f"{names[c]} ({p[i, c]:.2f})" for c in order[i])
        for i, row in enumerate(well_logits.itertuples())
    ]


def profiles_table(site_embeddings: pd.DataFrame, wells: pd.DataFrame) -> pd.DataFrame:
    """The table ``profiles``: embeddings of sites under the column names that pycytominer and copairs know.

    Args:
        site_embeddings: Of sites.
        wells: The table ``wells``; a withheld perturbation stays empty.
    """
    axes = [c for c in site_embeddings.columns if c.startswith(EMBEDDING)]
    known = wells.set_index("id_code")
    place = site_embeddings
    meta = pd.DataFrame(
        {
            "Metadata_Experiment": place["experiment"],
            "Metadata_Plate": place["plate"],
            "Metadata_Well": place["well"],
            "Metadata_Site": place["site"],
            "Metadata_Perturbation": place["id_code"].map(known["perturbation"]),
            "Metadata_Control": place["id_code"].map(known["well_type"]),
            "Metadata_CellType": place["id_code"].map(known["cell_type"]),
            "Metadata_Fold": place["fold"],
            "Metadata_PlateSeen": place["plate_seen"],
            "Metadata_Tier": place["tier"],
        }
    )
    return pd.concat([meta, place[axes]], axis=1)
