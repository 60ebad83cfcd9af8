"""Train and score the arms of a growth chart, one network after the other; what is already known is not done again."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from deepnoise import __version__
from deepnoise.errors import InputError
from deepnoise.evaluation.metrics import ranked_calls
from deepnoise.evaluation.probe_tasks import leak_scores
from deepnoise.evaluation.profiles import join_profiles, true_labels
from deepnoise.evaluation.retrieval import average_precisions
from deepnoise.fingerprint import fingerprint
from deepnoise.growth_chart.arms import Arm, Settings, slug
from deepnoise.inference.compatibility import adabn_of, tier_of_prediction
from deepnoise.inference.pooling import pool_wells
from deepnoise.inference.predict import predict_sites
from deepnoise.inference.selection import sites_to_predict
from deepnoise.network.site_images import ImageSource, checksums
from deepnoise.network.trained_model import TrainedModel
from deepnoise.normalization.statistics import plate_statistics
from deepnoise.parameters import InferenceParameters, PlateBalancingParameters
from deepnoise.plate_balancing.balancing import DesignKnowledge, balance
from deepnoise.plate_balancing.scores import pool_scores
from deepnoise.tables import EMBEDDING, SCORE, prefixed
from deepnoise.training.fold_view import fold_view
from deepnoise.training.loop import pretrain, train_mean_teacher
from deepnoise.training.trainer import NoState, Trainer

logger = logging.getLogger(__name__)


class Screen:
    """The tables and images that every arm is trained on and predicts; it holds no withheld label."""

    def __init__(
        self,
        store: ImageSource,
        sites: pd.DataFrame,
        wells: pd.DataFrame,
        folds: pd.DataFrame,
        histograms: pd.DataFrame,
        layout: pd.DataFrame,
        illumination: str,
    ) -> None:
        self.store, self.sites, self.wells, self.folds = store, sites, wells, folds
        self.histograms, self.layout = histograms, layout
        self.illumination = illumination
        self.fold = int(folds["fold"].min())
        pixels = checksums(store, sites)
        self.mark = fingerprint(
            pixels, sites, wells, folds[folds["fold"] == self.fold], histograms, layout, illumination
        )

    def statistics(self, settings: Settings) -> pd.DataFrame:
        """``plate_statistics`` of an arm's normalization."""
        own = settings.normalization
        return plate_statistics(
            self.histograms, self.wells, own.strategy, own.reference, own.scale_floor, self.illumination
        )


class Truth:
    """What arms are scored against, once they are trained: held-out wells, or where none of these is known validation wells."""

    def __init__(self, wells: pd.DataFrame, heldout_labels: pd.DataFrame, folds: pd.DataFrame) -> None:
        self.labels = true_labels(wells, heldout_labels)
        self.mark = fingerprint(heldout_labels)
        own = folds[folds["fold"] == folds["fold"].min()]
        known = wells[wells["target"] & wells["id_code"].isin(self.labels.index)]
        roles = set(known.merge(own, on=["experiment", "plate"])["role"])
        self.role = next((role for role in ("heldout", "validation") if role in roles), "")
        if not self.role:
            raise InputError(
                "the growth chart has nothing to score: no held-out or validation well carries a known perturbation; give heldout_labels, "
                "or set ingestion.folds.validation"
            )


def arm_mark(
    arm: Arm,
    seed: int,
    screen: Screen,
    truth: Truth,
    balancing: PlateBalancingParameters,
) -> str:
    """Fingerprint of everything that an arm's result depends on: data, parameters, seed and package version."""
    own = arm.settings
    training = own.training.model_copy(update={"seed": seed}).recipe()
    balanced = balancing.model_dump(mode="json") if arm.balancing else None
    return fingerprint(
        screen.mark,
        truth.mark,
        __version__,
        seed,
        own.normalization.model_dump(mode="json"),
        training,
        own.sites,
        own.views,
        own.adabn,
        arm.balancing,
        balanced,
    )


def record_name(arm: Arm, seed: int) -> str:
    """Name of the arm's partition."""
    return f"{slug(arm.name)}_seed_{seed}"


def run_arms(
    arms: list[Arm],
    seeds: list[int],
    screen: Screen,
    truth: Truth,
    kept: dict[str, dict[str, Any]],
    inference: InferenceParameters,
    balancing: PlateBalancingParameters,
) -> Iterator[tuple[dict[str, dict[str, Any]], dict[str, Any]]]:
    """Yield each arm as it is done, with the list of what is done; ``complete`` once all are.

    Args:
        arms: Of :func:`deepnoise.growth_chart.arms.plan_arms`.
        seeds: Training seeds; each arm is trained once a seed.
        screen: What they are trained on and predict.
        truth: What they are scored against.
        kept: Partition -> record of earlier runs; those with today's fingerprint are not done again.
        inference: Batch size and device.
        balancing: For the arms that know the plate design.
    """
    no_groups = screen.layout["group"].nunique() < 2 or balancing.group_inference == "none"
    if no_groups and any(arm.balancing == "group_filter" for arm in arms):
        raise InputError(
            "growth_chart.design names 'group_filter', but this screen has no plate groups, or plate_balancing.group_inference is none; "
            "leave it out"
        )
    marks = {(arm.name, seed): arm_mark(arm, seed, screen, truth, balancing) for arm in arms for seed in seeds}
    done = {
        name: kept[name]["fingerprint"]
        for arm in arms
        for seed in seeds
        if (name := record_name(arm, seed)) in kept and kept[name].get("fingerprint") == marks[arm.name, seed]
    }
    total = len(arms) * len(seeds)
    logger.info("growth chart: %s arms x %s seeds; %s of %s are kept from before, nothing of theirs has changed", len(arms), len(seeds), len(done), total)  # fmt: skip
    started, first = time.monotonic(), len(done)
    for seed in seeds:
        networks: dict[str, list[Arm]] = {}
        for arm in arms:
            if record_name(arm, seed) not in done:
                networks.setdefault(_network_mark(arm.settings), []).append(arm)
        students: dict[str, TrainedModel] = {}  # stage 1 is shared by the arms that differ in stage 2 alone
        for members in networks.values():
            begun = time.monotonic()
            model, statistics = _train(members[0].settings, seed, screen, students)
            seconds = time.monotonic() - begun
            for arm, facts in _score(members, model, statistics, screen, truth, inference, balancing):
                name = record_name(arm, seed)
                record = {
                    "arm": arm.name, "kind": arm.kind, "seed": seed, "fold": screen.fold, "scored": truth.role,
                    "fingerprint": marks[arm.name, seed], "deepnoise": __version__, "compute": arm.compute,
                    "training_seconds": seconds, **facts,
                }  # fmt: skip
                done[name] = marks[arm.name, seed]
                left = (time.monotonic() - started) / (len(done) - first) * (total - len(done))
                logger.info(
                    "growth chart: %s of %s, %s, seed %s: top-1 %.1f %%, tier %s; about %.0f s left",
                    len(done), total, arm.name, seed, 100 * record["top1"], record["tier"], left,
                )  # fmt: skip
                yield {name: record}, {"complete": False, "arms": dict(done)}
    yield {}, {"complete": True, "arms": dict(done)}


def _network_mark(settings: Settings) -> str:
    return fingerprint(settings.normalization.model_dump(), settings.training.model_dump())


def _train(
    settings: Settings, seed: int, screen: Screen, students: dict[str, TrainedModel]
) -> tuple[TrainedModel, pd.DataFrame]:
    training = settings.training.model_copy(update={"seed": seed})
    statistics = screen.statistics(settings)
    view = fold_view(screen.sites, screen.wells, screen.folds, screen.fold, training.unlabelled_source, training.sites)
    trainer = Trainer(view, screen.store, statistics, training, NoState())
    later = {"mean_teacher", "unlabelled_source"}
    first = fingerprint(settings.normalization.model_dump(), training.model_dump(exclude=later))
    if first not in students:
        students[first] = pretrain(trainer)[0]
    model = TrainedModel(students[first].weights, trainer.facts | {"stage": "pretrain"})
    if training.mean_teacher.epochs:
        model = train_mean_teacher(trainer, model)[1]
    return model, statistics


def _score(
    arms: list[Arm],
    model: TrainedModel,
    statistics: pd.DataFrame,
    screen: Screen,
    truth: Truth,
    inference: InferenceParameters,
    balancing: PlateBalancingParameters,
) -> Iterator[tuple[Arm, dict[str, Any]]]:
    """Scores of all arms that read the same network; each kind of views is predicted once."""
    asked = sites_to_predict(model.facts, screen.sites, screen.wells, screen.folds)
    if asked.empty:
        raise InputError(f"fold {screen.fold} leaves no plate to score the growth chart on")
    targets = set(screen.wells.loc[screen.wells["target"], "id_code"]) & set(truth.labels.index)
    predicted: dict[tuple[str, str], tuple[pd.DataFrame, pd.DataFrame]] = {}
    read: dict[tuple[str, str, str], tuple[pd.DataFrame, dict[str, Any]]] = {}
    balanced: dict[tuple[str, str, str], pd.DataFrame] = {}
    for arm in arms:
        views, sites = arm.settings.views, arm.settings.sites
        adabn = adabn_of(model.facts, arm.settings.adabn)
        model_tier = tier_of_prediction(str(model.facts["tier"]), adabn)
        if (views, adabn) not in predicted:
            meta = asked[["role", "id_code", "experiment", "plate", "well", "site", "plate_seen"]].assign(
                fold=screen.fold, tier=model_tier
            )
            logits, embeddings = predict_sites(
                model, screen.store, asked, statistics, views=views, adabn=adabn,
                batch_size=inference.batch_size, device_name=inference.device,
            )  # fmt: skip
            axes = [f"{i:04d}" for i in range(embeddings.shape[1])]
            predicted[views, adabn] = (
                pd.concat(
                    [meta.drop(columns="plate_seen"), prefixed(logits, model.facts["targets"], SCORE, meta.index)],
                    axis=1,
                ),
                pd.concat([meta, prefixed(embeddings, axes, EMBEDDING, meta.index)], axis=1),
            )
        if (views, sites, adabn) not in read:
            taken = [
                t[t["site"] == t.groupby("id_code")["site"].transform("min")] if sites == "one" else t
                for t in predicted[views, adabn]
            ]
            wells, embedded = pool_wells(*taken)
            read[views, sites, adabn] = wells, signal_and_leak(embedded, screen.wells, truth.labels)
        wells, measured = read[views, sites, adabn]
        if arm.balancing:
            if (views, sites, adabn) not in balanced:
                design = balancing.model_copy(update={"method": "matching", "compare": ["sinkhorn", "assignment"]})
                balanced[views, sites, adabn] = balance(
                    pool_scores(wells, screen.wells, balancing.pooling), DesignKnowledge(screen.layout), design
                ).steps
            steps = balanced[views, sites, adabn]
            called = steps[(steps["step"] == arm.balancing) & (steps["role"] == truth.role)]
            if called.empty:
                raise InputError(
                    f"growth_chart.design names {arm.balancing!r}, which this screen's plate design does not allow; leave it out"
                )
            called = called[called["id_code"].isin(truth.labels.index)]
            right = (called["call"] == called["id_code"].map(truth.labels)).to_numpy()
            chance, tier = float((1 / called["candidates"]).mean()), str(called["tier"].iloc[0])
        else:
            called = wells[(wells["role"] == truth.role) & wells["id_code"].isin(targets)]
            right = (ranked_calls(called, called["id_code"].map(truth.labels))["rank"] == 0).to_numpy()
            chance, tier = 1 / len(model.facts["targets"]), model_tier
        by = pd.Series(right).groupby(called["experiment"].to_numpy())
        yield arm, {
            "tier": tier, "top1": float(right.mean()), "chance": chance, "n": int(len(right)),
            "right_by_experiment": {str(e): int(n) for e, n in by.sum().items()},
            "wells_by_experiment": {str(e): int(n) for e, n in by.size().items()},
            **measured,
        }  # fmt: skip


def signal_and_leak(embeddings: pd.DataFrame, wells: pd.DataFrame, labels: pd.Series) -> dict[str, Any]:
    """Replicate mAP of treatments across experiments, and the leak probes, on all plates without an image in training."""
    profiles = join_profiles(embeddings, wells, labels)
    unseen = profiles.take(~profiles.rows["plate_seen"].to_numpy(bool))
    table, _ = average_precisions(unseen, 0)
    across = table[(table["level"] == "not_same_experiment") & (table["well_type"] == "treatment")]
    leaks = leak_scores(unseen, ("plate", "experiment", "well_edge"))
    return {
        "map": float(across["average_precision"].mean()) if len(across) else None,
        "map_chance": float(across["chance"].mean()) if len(across) else None,
        "leaks": {axis: {"balanced_accuracy": score, "chance": chance} for axis, (score, chance) in leaks.items()},
        "unseen_wells": int(np.count_nonzero(~profiles.rows["plate_seen"])),
    }
