"""Train and score the arms of a growth chart, one network after another. Arms whose inputs are unchanged are not run again."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from deepnoise import __version__
from deepnoise.errors import InputError
from deepnoise.evaluation.embedding_correction import CorrectionError, correct_profiles, tier_of_correction
from deepnoise.evaluation.metrics import mean_over_sites, ranked_calls
from deepnoise.evaluation.plate_design import group_share, redealt_score, redrawn_calls
from deepnoise.evaluation.probe_tasks import leak_scores
from deepnoise.evaluation.profiles import join_profiles, true_labels
from deepnoise.evaluation.retrieval import average_precisions
from deepnoise.evaluation.score_types import RedrawnCalls
from deepnoise.fingerprint import fingerprint
from deepnoise.growth_chart.arms import Arm, Settings, slug
from deepnoise.inference.compatibility import adabn_of, tier_of_prediction
from deepnoise.inference.pooling import pool_wells
from deepnoise.inference.predict import predict_redealt, predict_sites, redraw_statistics
from deepnoise.inference.selection import sites_to_predict
from deepnoise.ingestion.layouts import repeated_units
from deepnoise.network.site_images import checksums
from deepnoise.network.trained_model import TrainedModel
from deepnoise.normalization.statistics import plate_statistics
from deepnoise.parameters import InferenceParameters, PlateBalancingParameters
from deepnoise.plate_balancing.balancing import DesignKnowledge, balance
from deepnoise.plate_balancing.scores import pool_scores
from deepnoise.screen import Screen
from deepnoise.tables import EMBEDDING, SCORE, prefixed
from deepnoise.tiers import after_control
from deepnoise.training.loop import pretrain, train_mean_teacher
from deepnoise.training.run_folds import view_of_fold
from deepnoise.training.trainer import NoState, Trainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Redealt:
    """The held-out plates with their treatments dealt anew."""

    screen: Screen  # its statistics are not used
    histograms: pd.DataFrame  # of all plates, see the entry redealt_histograms
    labels: pd.Series  # id_code -> perturbation, of treatment wells; only scores read it


class ChartScreen:
    """The screen that every arm is trained on and predicts, under each arm's normalization; it holds no withheld label.

    Args:
        screen: Images and tables; its statistics are not used.
        histograms: The table ``plate_histograms``.
        layout: The table ``plate_layout``.
        illumination: How the images are corrected, a value of ``normalization.illumination``.
        redealt: The held-out plates with their treatments dealt anew; None where there are none.
    """

    def __init__(
        self,
        screen: Screen,
        histograms: pd.DataFrame,
        layout: pd.DataFrame,
        illumination: str,
        redealt: Redealt | None = None,
    ) -> None:
        self.screen, self.histograms, self._illumination = screen, histograms, illumination
        self.layout, self.redealt = layout, redealt
        self.fold = screen.fold_numbers[0]
        self.fingerprint = fingerprint(
            checksums(screen.images, screen.sites),
            screen.sites,
            screen.wells,
            screen.folds[screen.folds["fold"] == self.fold],
            histograms,
            layout,
            illumination,
            None if redealt is None else [redealt.histograms, redealt.labels],
        )

    @property
    def wells(self) -> pd.DataFrame:
        """The table ``wells``."""
        return self.screen.wells

    def normalized(self, settings: Settings) -> Screen:
        """The screen under an arm's normalization."""
        return self.screen.with_statistics(self._statistics(self.histograms, settings))

    def normalized_redealt(self, settings: Settings) -> Screen | None:
        """The re-dealt plates under an arm's normalization."""
        if self.redealt is None:
            return None
        statistics = self._statistics(self.redealt.histograms, settings)
        plates = self.redealt.screen.sites[["experiment", "plate"]].drop_duplicates()
        return self.redealt.screen.with_statistics(statistics.merge(plates, on=["experiment", "plate"]))

    def _statistics(self, histograms: pd.DataFrame, settings: Settings) -> pd.DataFrame:
        parameters = settings.normalization
        return plate_statistics(
            histograms, self.wells, parameters.strategy, parameters.reference, parameters.scale_floor, self._illumination
        )  # fmt: skip


class Truth:
    """What arms are scored against once they are trained: held-out wells, or validation wells if no held-out label is known."""

    def __init__(self, wells: pd.DataFrame, heldout_labels: pd.DataFrame, folds: pd.DataFrame) -> None:
        self.labels = true_labels(wells, heldout_labels)
        self.fingerprint = fingerprint(heldout_labels)
        first_fold = folds[folds["fold"] == folds["fold"].min()]
        labelled_targets = wells[wells["target"] & wells["id_code"].isin(self.labels.index)]
        roles = set(labelled_targets.merge(first_fold, on=["experiment", "plate"])["role"])
        self.role = next((role for role in ("heldout", "validation") if role in roles), "")
        if not self.role:
            raise InputError(
                "the growth chart has nothing to score: no held-out or validation well has a known perturbation; give heldout_labels, "
                "or set ingestion.folds.validation"
            )


def arm_fingerprint(
    arm: Arm,
    seed: int,
    screen: ChartScreen,
    truth: Truth,
    balancing: PlateBalancingParameters,
) -> str:
    """Fingerprint of everything that an arm's result depends on: data, parameters, seed and package version."""
    settings = arm.settings
    recipe = settings.training.model_copy(update={"seed": seed}).recipe()
    return fingerprint(
        screen.fingerprint,
        truth.fingerprint,
        __version__,
        seed,
        settings.normalization.model_dump(mode="json"),
        recipe,
        settings.sites,
        settings.views,
        settings.adabn,
        arm.balancing,
        arm.correction,
        balancing.model_dump(mode="json") if arm.balancing else None,
    )


def record_name(arm: Arm, seed: int) -> str:
    """Name of the record of an arm and seed."""
    return f"{slug(arm.name)}_seed_{seed}"


def run_arms(
    arms: list[Arm],
    seeds: list[int],
    screen: ChartScreen,
    truth: Truth,
    kept: dict[str, dict[str, Any]],
    inference: InferenceParameters,
    balancing: PlateBalancingParameters,
) -> Iterator[tuple[dict[str, dict[str, Any]], dict[str, Any]]]:
    """Yield each arm as it finishes, with the list of finished arms; ``complete`` once all are.

    Args:
        arms: As planned by :func:`deepnoise.growth_chart.arms.plan_arms`.
        seeds: Training seeds; each arm is trained once per seed.
        screen: What they are trained on and predict.
        truth: What they are scored against.
        kept: Name -> record of earlier runs. Those with today's fingerprint are not run again.
        inference: Batch size and device.
        balancing: For the arms that know the plate design.
    """
    _check_groups(arms, screen, balancing)
    fingerprints = {
        record_name(arm, seed): arm_fingerprint(arm, seed, screen, truth, balancing) for arm in arms for seed in seeds
    }
    done = {name: value for name, value in fingerprints.items() if kept.get(name, {}).get("fingerprint") == value}
    total = len(arms) * len(seeds)
    logger.info("growth chart: %s arms x %s seeds; %s of %s are kept from earlier runs", len(arms), len(seeds), len(done), total)  # fmt: skip
    started, already_done = time.monotonic(), len(done)
    for seed in seeds:
        networks: dict[str, list[Arm]] = {}  # arms that share a trained network
        for arm in arms:
            if record_name(arm, seed) not in done:
                networks.setdefault(_network_fingerprint(arm.settings), []).append(arm)
        students: dict[str, TrainedModel] = {}  # stage 1 is shared by arms that differ in stage 2 alone
        for members in networks.values():
            network_started = time.monotonic()
            normalized = screen.normalized(members[0].settings)
            model = _train(members[0].settings, seed, screen.fold, normalized, students)
            training_seconds = time.monotonic() - network_started
            for arm, result in _score(members, model, normalized, screen, truth, inference, balancing):
                name = record_name(arm, seed)
                record = {
                    "arm": arm.name, "kind": arm.kind, "seed": seed, "fold": screen.fold, "scored": truth.role,
                    "fingerprint": fingerprints[name], "deepnoise": __version__, "compute": arm.compute,
                    "training_seconds": training_seconds, **result,
                }  # fmt: skip
                done[name] = fingerprints[name]
                seconds_per_arm = (time.monotonic() - started) / (len(done) - already_done)
                logger.info(
                    "growth chart: %s of %s, %s, seed %s: %s, tier %s; about %.0f s left",
                    len(done), total, arm.name, seed, _result_in_words(record), record["tier"], seconds_per_arm * (total - len(done)),
                )  # fmt: skip
                yield {name: record}, {"complete": False, "arms": dict(done)}
    yield {}, {"complete": True, "arms": dict(done)}


def _result_in_words(record: dict[str, Any]) -> str:
    if record["top1"] is not None:
        return f"top-1 {record['top1']:.1%}"
    return "no mAP" if record["map"] is None else f"mAP {record['map']:.3f}"


def _check_groups(arms: list[Arm], screen: ChartScreen, balancing: PlateBalancingParameters) -> None:
    has_groups = screen.layout["group"].nunique() >= 2 and balancing.group_inference != "none"
    if not has_groups and any(arm.balancing == "group_filter" for arm in arms):
        raise InputError(
            "growth_chart.design names 'group_filter', but this screen has no plate groups, or plate_balancing.group_inference is none; "
            "leave it out"
        )


def _network_fingerprint(settings: Settings) -> str:
    return fingerprint(settings.normalization.model_dump(), settings.training.model_dump())


def _train(settings: Settings, seed: int, fold: int, screen: Screen, students: dict[str, TrainedModel]) -> TrainedModel:
    """Train the network of an arm; ``students`` caches stage 1."""
    training = settings.training.model_copy(update={"seed": seed})
    trainer = Trainer(view_of_fold(screen, fold, training), screen, training, NoState())
    stage_2_only = {"mean_teacher", "unlabelled_source"}
    stage_1 = fingerprint(settings.normalization.model_dump(), training.model_dump(exclude=stage_2_only))
    if stage_1 not in students:
        students[stage_1] = pretrain(trainer)[0]
    model = TrainedModel(students[stage_1].weights, trainer.card.with_result(stage="pretrain"))
    if training.mean_teacher.epochs:
        model = train_mean_teacher(trainer, model)[1]
    return model


@dataclass(frozen=True)
class _Reading:
    """Wells of a network read in one way, and what their embeddings show."""

    wells: pd.DataFrame  # well_logits
    embeddings: pd.DataFrame  # well_embeddings
    measured: dict[str, Any]  # of signal_and_leak
    tier: str


class _Reader:
    """Predictions of one network; each combination of views, AdaBN and sites is computed once.

    Args:
        model: The network.
        screen: The screen under its normalization.
        fold: Number of the fold.
        truth: The labels.
        inference: Batch size and device.
        balancing: The block ``plate_balancing``.
        layout: The table ``plate_layout``.
        redealt: The re-dealt plates under its normalization.
    """

    def __init__(
        self,
        model: TrainedModel,
        screen: Screen,
        fold: int,
        truth: Truth,
        inference: InferenceParameters,
        balancing: PlateBalancingParameters,
        layout: pd.DataFrame,
        redealt: Screen | None,
    ) -> None:
        self.model, self._screen, self._fold, self._truth = model, screen, fold, truth
        self._inference, self._balancing, self._layout = inference, balancing, layout
        self._redealt = redealt
        self._sites = sites_to_predict(model.card, screen.sites, screen.wells, screen.folds)
        if self._sites.empty:
            raise InputError(f"fold {fold} leaves no plate to score the growth chart on")
        self._predictions: dict[tuple[str, str], tuple[pd.DataFrame, pd.DataFrame]] = {}
        self._readings: dict[tuple[str, str, str], _Reading] = {}
        self._steps: dict[tuple[str, str, str], pd.DataFrame] = {}
        self._redealt_calls: dict[tuple[str, str, str], pd.DataFrame] = {}
        self._redrawn: dict[str, dict[str, RedrawnCalls]] = {}

    def _key(self, settings: Settings) -> tuple[str, str, str]:
        return settings.views, settings.sites, adabn_of(self.model.card, settings.adabn)

    def _predict(self, views: str, adabn: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Site logits and site embeddings."""
        if (views, adabn) not in self._predictions:
            parameters = self._inference.model_copy(update={"views": views, "pooling": "logits"})
            logits, embeddings = predict_sites(
                self.model, self._screen.images, self._sites, self._screen.statistics, parameters, adabn
            )
            columns = ["role", "id_code", "experiment", "plate", "well", "site", "plate_seen"]
            meta = self._sites[columns].assign(
                fold=self._fold, tier=tier_of_prediction(self.model.card, adabn, self._screen.wells)
            )
            dimensions = [f"{i:04d}" for i in range(embeddings.shape[1])]
            targets = self.model.card.targets
            self._predictions[views, adabn] = (
                pd.concat([meta.drop(columns="plate_seen"), prefixed(logits, targets, SCORE, meta.index)], axis=1),
                pd.concat([meta, prefixed(embeddings, dimensions, EMBEDDING, meta.index)], axis=1),
            )
        return self._predictions[views, adabn]

    def read(self, settings: Settings) -> _Reading:
        """Wells as an arm reads them."""
        views, sites, adabn = key = self._key(settings)
        if key not in self._readings:
            tables = [
                table[table["site"] == table.groupby("id_code")["site"].transform("min")] if sites == "one" else table
                for table in self._predict(views, adabn)
            ]
            wells, embeddings = pool_wells(*tables)
            measured = signal_and_leak(embeddings, self._screen.wells, self._truth.labels)
            tier = tier_of_prediction(self.model.card, adabn, self._screen.wells)
            self._readings[key] = _Reading(wells, embeddings, measured, tier)
        return self._readings[key]

    def redealt_calls(self, settings: Settings) -> pd.DataFrame:
        """The re-dealt wells as an arm reads them; no rows where there are none."""
        key = self._key(settings)
        if key not in self._redealt_calls:
            logits = pd.DataFrame()
            if self._redealt is not None:
                parameters = self._inference.model_copy(
                    update={"views": settings.views, "pooling": "logits", "adabn": key[2]}
                )
                logits = predict_redealt({"": self.model}, self._redealt, parameters)
            if len(logits) and settings.sites == "one":
                logits = logits[logits["site"] == logits.groupby("id_code")["site"].transform("min")]
            self._redealt_calls[key] = mean_over_sites(logits) if len(logits) else logits
        return self._redealt_calls[key]

    def redrawn(self, settings: Settings) -> dict[str, RedrawnCalls]:
        """How calls change under statistics of random parts of the experiment, by role."""
        adabn = self._key(settings)[2]
        if adabn not in self._redrawn:
            parameters = self._inference.model_copy(update={"adabn": adabn})
            redrawn = redraw_statistics({"": self.model}, self._screen, parameters)
            self._redrawn[adabn] = redrawn_calls(redrawn, self._layout)
        return self._redrawn[adabn]

    def balancing_steps(self, settings: Settings) -> pd.DataFrame:
        """The table ``balancing_steps`` of the wells as an arm reads them."""
        key = self._key(settings)
        if key not in self._steps:
            design = self._balancing.model_copy(update={"method": "matching", "compare": ["sinkhorn", "assignment"]})
            pooled = pool_scores(self.read(settings).wells, self._screen.wells, self._balancing.pooling)
            self._steps[key] = balance(pooled, DesignKnowledge(self._layout), design).steps
        return self._steps[key]


def _score(
    arms: list[Arm],
    model: TrainedModel,
    normalized: Screen,
    screen: ChartScreen,
    truth: Truth,
    inference: InferenceParameters,
    balancing: PlateBalancingParameters,
) -> Iterator[tuple[Arm, dict[str, Any]]]:
    """Scores of all arms that read the same network."""
    redealt = screen.normalized_redealt(arms[0].settings)
    reader = _Reader(model, normalized, screen.fold, truth, inference, balancing, screen.layout, redealt)
    targets = set(screen.wells.loc[screen.wells["target"], "id_code"]) & set(truth.labels.index)
    for arm in arms:
        reading = reader.read(arm.settings)
        if arm.correction != "none":
            yield arm, _score_correction(arm, reading, screen.wells, truth)
            continue
        controls: dict[str, Any] = {}
        if arm.balancing:
            steps = reader.balancing_steps(arm.settings)
            called = steps[(steps["step"] == arm.balancing) & (steps["role"] == truth.role)]
            if called.empty:
                raise InputError(
                    f"growth_chart.design names {arm.balancing!r}, which this screen's plate design does not allow; leave it out"
                )
            called = called[called["id_code"].isin(truth.labels.index)]
            correct = (called["call"] == called["id_code"].map(truth.labels)).to_numpy()
            chance, tier = float((1 / called["candidates"]).mean()), str(called["tier"].iloc[0])
        else:
            wells = reading.wells
            called = wells[(wells["role"] == truth.role) & wells["id_code"].isin(targets)]
            calls = ranked_calls(called, called["id_code"].map(truth.labels))
            correct = (calls["rank"] == 0).to_numpy()
            chance = 1 / len(model.card.targets)
            controls = _plate_design(arm, reader, called, calls, screen, truth.role)
            tier = after_control(reading.tier, controls["redealt"])
        by_experiment = pd.Series(correct).groupby(called["experiment"].to_numpy())
        yield arm, {
            "tier": tier, "top1": float(correct.mean()), "chance": chance, "n": int(len(correct)),
            "right_by_experiment": {str(e): int(n) for e, n in by_experiment.sum().items()},
            "wells_by_experiment": {str(e): int(n) for e, n in by_experiment.size().items()},
            **reading.measured, **controls,
        }  # fmt: skip


def _score_correction(arm: Arm, reading: _Reading, wells: pd.DataFrame, truth: Truth) -> dict[str, Any]:
    """Signal and leak of the corrected embeddings; there are no calls."""
    scored = reading.wells[(reading.wells["role"] == truth.role) & reading.wells["id_code"].isin(truth.labels.index)]
    by_experiment = scored.groupby("experiment").size()
    try:
        measured = signal_and_leak(reading.embeddings, wells, truth.labels, arm.correction)
    except CorrectionError as error:
        logger.warning("growth chart: %s is not possible: %s", arm.name, error)
        measured = {"map": None, "map_chance": None, "leaks": {}, "unseen_wells": 0}
    return {
        "tier": tier_of_correction(arm.correction, reading.tier, repeated_units(wells)), "top1": None, "chance": None, "n": len(scored),
        "wells_by_experiment": {str(e): int(n) for e, n in by_experiment.items()},
        **measured,
    }  # fmt: skip


def _plate_design(
    arm: Arm, reader: _Reader, called: pd.DataFrame, calls: pd.DataFrame, screen: ChartScreen, role: str
) -> dict[str, Any]:
    """The three controls of what an arm's plain calls owe to the plate design; None where one cannot be run."""
    table = called[["experiment", "plate"]].assign(perturbation=calls["perturbation"], call=calls["call"])
    redealt = None
    dealt = reader.redealt_calls(arm.settings)
    if screen.redealt is not None and role == "heldout":
        dealt = dealt[dealt["id_code"].isin(screen.redealt.labels.index)]
        dealt_calls = ranked_calls(dealt, dealt["id_code"].map(screen.redealt.labels))
        designed = table.assign(right=(calls["rank"] == 0))
        anew = dealt[["experiment"]].assign(perturbation=dealt_calls["perturbation"], right=dealt_calls["rank"] == 0)
        redealt = redealt_score("model", designed, anew)
    return {
        "redealt": redealt,
        "group_share": group_share(table, len(reader.model.card.targets)),
        "redrawn": reader.redrawn(arm.settings).get(role),
    }


def signal_and_leak(
    embeddings: pd.DataFrame, wells: pd.DataFrame, labels: pd.Series, correction: str = "none"
) -> dict[str, Any]:
    """Replicate mAP of treatments across experiments, and the leak probes, on all plates without an image in training."""
    profiles = join_profiles(embeddings, wells, labels)
    unseen = correct_profiles(profiles.take(~profiles.rows["plate_seen"].to_numpy(bool)), correction)
    table, _ = average_precisions(unseen, 0)
    across = table[(table["level"] == "not_same_experiment") & (table["well_type"] == "treatment")]
    leaks = leak_scores(unseen, ("plate", "experiment", "well_edge"))
    return {
        "map": float(across["average_precision"].mean()) if len(across) else None,
        "map_chance": float(across["chance"].mean()) if len(across) else None,
        "leaks": {axis: {"balanced_accuracy": score, "chance": chance} for axis, (score, chance) in leaks.items()},
        "unseen_wells": int(np.count_nonzero(~profiles.rows["plate_seen"])),
    }
