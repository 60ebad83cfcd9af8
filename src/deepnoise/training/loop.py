"""The two stages of training, each written once in the order of the algorithm (method: section 4).

All randomness of an epoch comes from a generator seeded by (seed, fold, stage, epoch): a run that is stopped
and resumed at an epoch's end gives the same weights, bit by bit on the CPU, as one that was not.
"""

from __future__ import annotations

import copy
import logging
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from tqdm import tqdm

from deepnoise import __version__
from deepnoise.errors import InputError, first_few
from deepnoise.fingerprint import fingerprint
from deepnoise.normalization.statistics import statistics_of_plates
from deepnoise.parameters import StageParameters, TrainingParameters
from deepnoise.plate_balancing.balancing import balance
from deepnoise.tables import SCORE, natural_order, prefixed
from deepnoise.training.augmentation import random_view
from deepnoise.training.images import Batch, PictureStore, SitePictures, normalise
from deepnoise.training.losses import PUBLISHED_CLASSES, consistency, cosine_rate, ema_decay, ramp, update_ema
from deepnoise.training.model import TrainedModel
from deepnoise.training.network import Network, NetworkSpec, autocast, choose_device, to_device

logger = logging.getLogger(__name__)


class StateStore(Protocol):
    """Keeps the state of an unfinished training; implemented by the dataset ``training_state``."""

    def load(self, name: str, mark: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """The state saved under a name, or None if there is none with this fingerprint."""

    def save(self, name: str, mark: str, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        """Replace the state, whole or not at all."""


@dataclass(frozen=True)
class FoldView:
    """What one training run may see of the screen.

    ``labelled`` has a column ``label`` (class number). ``unlabelled`` has no labels at all; ``target`` tells treated
    wells from controls, which the plate map says of every well. ``validation`` has labels that only the
    validation score reads.
    """

    fold: int
    classes: list[str]  # targets first, then controls
    targets: list[str]
    labelled: pd.DataFrame
    unlabelled: pd.DataFrame
    validation: pd.DataFrame
    training_plates: list[str]


def fold_view(
    sites: pd.DataFrame,
    wells: pd.DataFrame,
    folds: pd.DataFrame,
    fold: int,
    unlabelled_source: str,
    trained_sites: list[int] | str = "all",
) -> FoldView:
    """Cut the screen down to what a fold may train on.

    Labels of held-out plates are dropped here, so a cross-validated screen is as blind as one whose labels
    are withheld; validation plates never enter the unlabelled stream.

    Args:
        sites: The table ``sites``.
        wells: The table ``wells``.
        folds: The table ``folds``.
        fold: Number of the fold.
        unlabelled_source: ``none``, ``training`` (its own pictures, without labels) or ``heldout``.
        trained_sites: Site numbers of the training plates that are trained on, or ``all``.
    """
    own = folds.loc[folds["fold"] == fold, ["experiment", "plate", "role"]]
    joined = sites.merge(own, on=["experiment", "plate"])
    joined = joined.merge(wells[["id_code", "perturbation", "target"]], on="id_code")
    if trained_sites != "all":
        joined = joined[(joined["role"] != "train") | joined["site"].isin(trained_sites)]
    train = joined[(joined["role"] == "train") & joined["perturbation"].notna()]
    if train.empty:
        raise InputError(
            f"fold {fold} has no labelled pictures to train on; see the entries folds and ingestion_report"
        )
    targets = natural_order(train.loc[train["target"], "perturbation"])
    controls = natural_order(train.loc[~train["target"], "perturbation"])
    classes = targets + controls
    number = {name: i for i, name in enumerate(classes)}
    plain = [*sites.columns, "target"]
    validation = joined[(joined["role"] == "validation") & joined["target"]]
    source = {"none": None, "training": "train", "heldout": "heldout"}[unlabelled_source]
    return FoldView(
        fold=fold,
        classes=classes,
        targets=targets,
        labelled=train[plain].assign(label=train["perturbation"].map(number)).reset_index(drop=True),
        unlabelled=joined.loc[joined["role"] == source, plain].reset_index(drop=True),
        validation=validation[plain]
        .assign(label=validation["perturbation"].map(number).fillna(-1))
        .reset_index(drop=True),
        training_plates=sorted({f"{e}/{p}" for e, p in zip(train["experiment"], train["plate"], strict=True)}),
    )


def tier_of_training(normalization_tier: str, unlabelled_source: str, pseudo_labels: str) -> str:
    """Tier of every score of a model trained this way (method: section 7)."""
    if unlabelled_source != "heldout":
        return normalization_tier
    return "T2+T3" if pseudo_labels == "balanced" else "T3"


class Trainer:
    """One fold's data, network and bookkeeping, shared by both stages."""

    def __init__(
        self,
        view: FoldView,
        store: PictureStore,
        statistics: pd.DataFrame,
        parameters: TrainingParameters,
        state: StateStore,
    ) -> None:
        self.view = view
        self.parameters = parameters
        self.state = state
        self.device = choose_device(parameters.device)
        self.strategy = str(statistics["strategy"].iloc[0])
        self.channels = list(store.channels)
        gigabytes = parameters.cache_gigabytes
        if parameters.unlabelled_source == "training":
            gigabytes /= 2
        self.labelled = SitePictures(store, view.labelled, statistics, gigabytes)
        same = view.unlabelled["store_row"].size == len(view.labelled) and view.unlabelled.equals(
            view.labelled[view.unlabelled.columns]
        )
        self.unlabelled = self.labelled if same else SitePictures(store, view.unlabelled, statistics, gigabytes)
        self.validation = SitePictures(store, view.validation, statistics, gigabytes / 2)
        self.label = torch.tensor(view.labelled["label"].to_numpy(np.int64))
        self.spec = NetworkSpec(
            parameters.backbone, len(self.channels), len(view.classes), parameters.head.name,
            parameters.head.scale, parameters.head.margin,
        )  # fmt: skip
        training = parameters.model_dump(mode="json", exclude={"device", "cache_gigabytes"})
        self.facts = {
            "deepnoise": __version__,
            "fold": view.fold,
            "network": asdict(self.spec),
            "channels": self.channels,
            "image_size": list(self.labelled.batch(np.array([0])).pictures.shape[2:]),
            "classes": view.classes,
            "targets": view.targets,
            "normalization": {
                part: str(statistics[part].iloc[0]) for part in ("strategy", "reference", "illumination")
            },
            "tier": tier_of_training(
                str(statistics["tier"].iloc[0]), parameters.unlabelled_source, parameters.mean_teacher.pseudo_labels
            ),
            "training_plates": view.training_plates,
            "fingerprints": {
                "folds": fingerprint(view.training_plates, sorted(set(view.validation["experiment"]))),
                "parameters": fingerprint(training),
                "statistics": fingerprint(statistics_of_plates(statistics, view.training_plates)),
                "data": fingerprint(view.labelled, view.unlabelled),
                "pixels": fingerprint(_checksums(store, view.labelled), _checksums(store, view.unlabelled)),
            },
            "parameters": training,
        }
        self.mark = fingerprint({k: v for k, v in self.facts.items() if k != "parameters"})

    def new_network(self) -> Network:
        """A freshly drawn network; the seed and the fold decide its weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.parameters.seed * 1000 + self.view.fold)
            return to_device(Network(self.spec), self.device)

    def optimizer(self, network: Network, stage: StageParameters) -> torch.optim.Optimizer:
        """The optimizer of a stage."""
        options: dict[str, Any] = {"lr": stage.learning_rate, "weight_decay": stage.weight_decay}
        if self.parameters.optimizer == "sgd":
            return torch.optim.SGD(network.parameters(), momentum=0.9, **options)
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self.parameters.optimizer]
        return kind(network.parameters(), **options)

    def generator(self, stage: str, epoch: int) -> torch.Generator:
        """The source of all randomness of one epoch."""
        name = f"{self.parameters.seed}/{self.view.fold}/{stage}/{epoch}"
        return torch.Generator().manual_seed(zlib.crc32(name.encode()))

    def unit_of(self, table: pd.DataFrame) -> pd.Series:
        """The experiment or plate of each row, whichever makes a pure batch."""
        own = table["experiment"].reset_index(drop=True)
        return own if self.parameters.batches == "experiment" else own + "/" + table["plate"].reset_index(drop=True)

    def order(self, table: pd.DataFrame, size: int, generator: torch.Generator) -> list[np.ndarray]:
        """A random order in batches; a last batch of one is joined to the one before (BatchNorm needs two).

        With ``batches`` = experiment or plate the pictures of a batch are all of one, and the batches come in random order.
        """
        pure = self.parameters.batches != "mixed"
        units = (
            list(table.groupby(self.unit_of(table).to_numpy()).indices.values()) if pure else [np.arange(len(table))]
        )
        batches = []
        for unit in units:
            shuffled = unit[torch.randperm(len(unit), generator=generator).numpy()]
            own = [shuffled[i : i + size] for i in range(0, len(unit), size)]
            if len(own) > 1 and len(own[-1]) < 2:
                own[-2:] = [np.concatenate(own[-2:])]
            batches += own
        if pure:
            batches = [batches[i] for i in torch.randperm(len(batches), generator=generator)]
        return batches

    def unlabelled_order(self, labelled: list[np.ndarray], generator: torch.Generator) -> list[np.ndarray]:
        """A random unlabelled batch beside each labelled one, in the stated ratio; where batches are pure, of the same unit."""
        size = round(self.parameters.batch_size * self.parameters.mean_teacher.unlabelled_ratio)
        count = len(self.view.unlabelled)
        if not size or not count:
            return [np.empty(0, int)] * len(labelled)
        if self.parameters.batches != "mixed":
            here, there = self.unit_of(self.view.labelled).to_numpy(), self.unit_of(self.view.unlabelled).to_numpy()
            pools = [np.flatnonzero(there == here[batch[0]]) for batch in labelled]
            return [pool[torch.randperm(len(pool), generator=generator)[:size].numpy()] for pool in pools]
        rounds = -(-len(labelled) * size // count)
        endless = torch.cat([torch.randperm(count, generator=generator) for _ in range(rounds)]).numpy()
        return [endless[i * size : (i + 1) * size] for i in range(len(labelled))]

    def pixels(self, batch: Batch, generator: torch.Generator | None = None) -> torch.Tensor:
        """Normalized pictures on the device, jittered in training."""
        jitter = self.parameters.augmentation.statistics_jitter if generator is not None else 0.0
        pictures = normalise(batch.to(self.device), self.strategy, jitter, generator)
        return pictures.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def validation_score(self, network: Network) -> float | None:
        """Top-1 of single sites in one view, on validation plates: a T1 score that knows no plate design."""
        if self.view.validation.empty:
            return None
        network.eval()
        count = len(self.view.validation)
        chunks = np.array_split(np.arange(count), -(-count // 256))
        right = 0
        for batch in self.validation.batches(chunks):
            with autocast(self.device):
                logits = network(self.pixels(batch))[:, : len(self.view.targets)]
            truth = self.view.validation["label"].to_numpy()[batch.index]
            right += int((logits.argmax(dim=1).cpu().numpy() == truth).sum())
        return right / count

    def check(self, loss: torch.Tensor, batch: Batch, stage: str, epoch: int) -> float:
        """The loss as a number; stops the run where it is none."""
        value = float(loss.detach())
        if not np.isfinite(value):
            codes = self.view.labelled["id_code"].to_numpy()[batch.index]
            raise InputError(
                f"training.{stage}: the loss became {value} in epoch {epoch} at wells {first_few(codes)}; the last good "
                "state is kept: lower the learning rate and run again"
            )
        return value

    # state ----------------------------------------------------------------------------------------------------

    def save_state(
        self,
        stage: str,
        epoch: int,
        networks: dict[str, Network],
        optimizer: torch.optim.Optimizer,
        history: list,
        extra: dict,
    ) -> None:
        """Keep everything that the next epoch needs."""
        tensors = {f"{name}.{k}": v for name, network in networks.items() for k, v in network.state_dict().items()}
        for i, slots in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": torch.as_tensor(v) for k, v in slots.items() if v is not None}
        tensors |= {f"extra.{k}": v for k, v in extra.items()}
        facts = {"stage": stage, "epoch": epoch, "history": history}
        self.state.save(f"fold_{self.view.fold}_{stage}", self.mark, tensors, facts)

    def load_state(
        self, stage: str, networks: dict[str, Network], optimizer: torch.optim.Optimizer
    ) -> tuple[int, list, dict]:
        """Restore a stage: the next epoch, the history and the extras; (0, [], {}) to start afresh."""
        kept = self.state.load(f"fold_{self.view.fold}_{stage}", self.mark)
        if kept is None:
            return 0, [], {}
        tensors, facts = kept
        for name, network in networks.items():
            network.load_state_dict(_under(tensors, name))
        slots: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in _under(tensors, "optimizer").items():
            i, slot = key.split(".", 1)
            slots.setdefault(int(i), {})[slot] = value
        optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
        logger.info("fold %s: %s goes on after epoch %s", self.view.fold, stage, facts["epoch"] + 1)
        return int(facts["epoch"]) + 1, facts["history"], _under(tensors, "extra")

    def trained(self, network: Network, **facts: Any) -> TrainedModel:
        """A model with its facts."""
        weights = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
        return TrainedModel(weights, self.facts | facts)

    def epochs(self, stage: str, first: int, total: int) -> Iterator[tuple[int, tqdm]]:
        """Epochs still to do, each with its progress bar."""
        per_epoch = len(self.view.labelled)
        with tqdm(
            total=total * per_epoch, initial=first * per_epoch, unit=" images", desc=f"{stage} fold {self.view.fold}",
            disable=None, mininterval=1.0,
        ) as bar:  # fmt: skip
            for epoch in range(first, total):
                yield epoch, bar


def _under(tensors: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {k[len(name) + 1 :]: v for k, v in tensors.items() if k.startswith(name + ".")}


def _checksums(store: PictureStore, sites: pd.DataFrame) -> list[str]:
    plates = sites[["experiment", "plate"]].drop_duplicates().sort_values(["experiment", "plate"])
    return [store.checksum(e, p) for e, p in plates.itertuples(index=False)]


def pretrain(trainer: Trainer) -> tuple[TrainedModel, list[dict[str, Any]]]:
    """Stage 1: cross-entropy with margin on labelled wells, controls as extra classes.

    Returns:
        The student and one history row an epoch.
    """
    p, stage, view = trainer.parameters, trainer.parameters.pretrain, trainer.view
    augmentation = p.augmentation
    student = trainer.new_network()
    optimizer = trainer.optimizer(student, stage)
    first, history, _ = trainer.load_state("pretrain", {"student": student}, optimizer)
    for epoch, bar in trainer.epochs("pretrain", first, stage.epochs):
        generator = trainer.generator("pretrain", epoch)
        order = trainer.order(view.labelled, p.batch_size, generator)
        student.train()
        started, losses = time.monotonic(), []
        for step, batch in enumerate(trainer.labelled.batches(order)):
            rate = cosine_rate(epoch * len(order) + step, stage.epochs * len(order), stage.learning_rate)
            optimizer.param_groups[0]["lr"] = rate
            target = trainer.label[torch.from_numpy(batch.index)].to(trainer.device)
            x = random_view(
                trainer.pixels(batch, generator), turns=augmentation.dihedral, strength=augmentation.shift_scale,
                erase_chance=augmentation.erase, generator=generator,
            )  # fmt: skip
            with autocast(trainer.device):
                loss = F.cross_entropy(student(x, target), target)
            losses.append(trainer.check(loss, batch, "pretrain", epoch))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            bar.update(len(batch.index))
        pace = len(view.labelled) / (time.monotonic() - started)
        score = trainer.validation_score(student)
        bar.set_postfix(loss=f"{np.mean(losses):.2f}", validation_T1="-" if score is None else f"{score:.1%}")
        history.append(_row(view.fold, "pretrain", epoch, losses, 0.0, rate, score, None, pace))
        trainer.save_state("pretrain", epoch, {"student": student}, optimizer, history, {})
    return trainer.trained(student, stage="pretrain"), history


def train_mean_teacher(
    trainer: Trainer, pretrained: TrainedModel
) -> tuple[TrainedModel, TrainedModel, list[dict[str, Any]]]:
    """Stage 2: the student learns from labels, from agreement with its own average, and from pseudo-labels.

    loss = (1 - w_p) CE(student(x, y), y) + w_c(t) MSE(softmax student, softmax teacher) + w_p CE(student(u), pseudo)

    The teacher is the exponential moving average of the student, BatchNorm buffers included, and sees the
    strong view. With ``views`` = shared the student's one view serves all terms; with ``two`` it sees a weak view
    of its own for the consistency, as published.

    Returns:
        The student, the teacher and one history row an epoch.
    """
    p, stage, view = trainer.parameters, trainer.parameters.mean_teacher, trainer.view
    augmentation = p.augmentation
    weight = stage.consistency_weight * len(view.classes) / PUBLISHED_CLASSES
    student = trainer.new_network()
    student.load_state_dict(pretrained.weights)
    teacher = copy.deepcopy(student).eval().requires_grad_(False)
    optimizer = trainer.optimizer(student, stage)
    networks = {"student": student, "teacher": teacher}
    first, history, extra = trainer.load_state("mean_teacher", networks, optimizer)
    pseudo = extra.get("pseudo_label")
    weak: dict[str, Any] = {"turns": augmentation.dihedral, "strength": augmentation.shift_scale}
    normal = weak | {"erase_chance": augmentation.erase}
    strong = normal | {"crop": True}
    for epoch, bar in trainer.epochs("mean teacher", first, stage.epochs):
        generator = trainer.generator("mean_teacher", epoch)
        order = trainer.order(view.labelled, p.batch_size, generator)
        unlabelled = trainer.unlabelled.batches(trainer.unlabelled_order(order, generator))
        pseudo_weight = 0.0
        if stage.pseudo_labels != "none" and len(view.unlabelled) and epoch >= stage.pseudo_label_start:
            pseudo = make_pseudo_labels(trainer, teacher, stage.pseudo_labels)
            pseudo_weight = stage.pseudo_label_weight
        student.train()
        started, losses, gaps = time.monotonic(), [], []
        for step, (batch, further) in enumerate(zip(trainer.labelled.batches(order), unlabelled, strict=True)):
            steps_before = epoch * len(order) + step
            rate = cosine_rate(steps_before, stage.epochs * len(order), stage.learning_rate)
            optimizer.param_groups[0]["lr"] = rate
            target = trainer.label[torch.from_numpy(batch.index)].to(trainer.device)
            count = len(target)
            x = trainer.pixels(batch, generator)
            if len(further.index):
                x = torch.cat([x, trainer.pixels(further, generator)])
            with autocast(trainer.device):
                if stage.views == "shared":
                    features = student.embed(random_view(x, **normal, generator=generator))
                    supervised = student.head(features[:count], target)
                    plain = student.head(features)
                else:
                    supervised = student(random_view(x[:count], **normal, generator=generator), target)
                    plain = student(random_view(x, **weak, generator=generator))
                with torch.no_grad():
                    goal = teacher(random_view(x, **strong, generator=generator))
                gap = consistency(plain, goal)
                loss = (1 - pseudo_weight) * F.cross_entropy(supervised, target)
                loss = loss + weight * ramp(epoch + step / len(order), stage.ramp_epochs) * gap
                if pseudo is not None and pseudo_weight:
                    guess = pseudo[torch.from_numpy(further.index)].to(trainer.device)
                    loss = loss + pseudo_weight * F.cross_entropy(plain[count:], guess)
            losses.append(trainer.check(loss, batch, "mean_teacher", epoch))
            gaps.append(float(gap.detach()))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            update_ema(teacher, student, ema_decay(steps_before, stage.ema_decay))
            bar.update(count)
        pace = len(view.labelled) / (time.monotonic() - started)
        student_score, teacher_score = trainer.validation_score(student), trainer.validation_score(teacher)
        shown = "-" if teacher_score is None else f"{teacher_score:.1%}"
        bar.set_postfix(loss=f"{np.mean(losses):.2f}", consistency=f"{np.mean(gaps):.1e}", validation_T1=shown)
        gap_mean = float(np.mean(gaps))
        history.append(
            _row(view.fold, "mean_teacher", epoch, losses, gap_mean, rate, student_score, teacher_score, pace)
        )
        kept = {} if pseudo is None else {"pseudo_label": pseudo}
        trainer.save_state("mean_teacher", epoch, networks, optimizer, history, kept)
    facts = {"stage": "mean_teacher", "validation_t1": history[-1]["teacher_t1"] if history else None}
    return (
        trainer.trained(student, **facts, network_role="student"),
        trainer.trained(teacher, **facts, network_role="teacher"),
        history,
    )


def _row(
    fold: int,
    stage: str,
    epoch: int,
    losses: list[float],
    gap: float,
    rate: float,
    student: float | None,
    teacher: float | None,
    pace: float,
) -> dict[str, Any]:
    return {
        "fold": fold, "stage": stage, "epoch": epoch, "loss": float(np.mean(losses)), "consistency": gap,
        "learning_rate": rate, "student_t1": student, "teacher_t1": teacher, "images_per_second": pace,
    }  # fmt: skip


@torch.inference_mode()
def make_pseudo_labels(trainer: Trainer, teacher: Network, kind: str) -> torch.Tensor:
    """The teacher's call for every unlabelled site, pooled over the sites of a well.

    A treated well is called among the targets, a control well among the controls. With ``balanced`` the calls of
    treated wells go through plate balancing's own Sinkhorn, plate by plate; which perturbations travel together
    is not used.

    Returns:
        (U,) int64 class numbers, one a row of the unlabelled table.
    """
    teacher.eval()
    table, targets = trainer.view.unlabelled, trainer.view.targets
    chunks = np.array_split(np.arange(len(table)), -(-len(table) // 256))
    logits = np.concatenate(
        [teacher(trainer.pixels(b)).float().cpu().numpy() for b in trainer.unlabelled.batches(chunks)]
    )
    key = ["id_code", "experiment", "plate", "well", "target"]
    wells = table[key].reset_index(drop=True)
    pooled = pd.concat([wells, prefixed(logits, trainer.view.classes, SCORE, wells.index)], axis=1)
    scores = [SCORE + name for name in trainer.view.classes]
    pooled = pooled.groupby(key, sort=False)[scores].mean().reset_index()
    treated = pooled["target"].to_numpy()
    own = np.arange(len(scores)) < len(targets)  # (K,) classes of treated wells
    best = np.where(own[None] == treated[:, None], pooled[scores].to_numpy(), -np.inf).argmax(axis=1)
    if kind == "balanced" and treated.any():
        part = pooled.loc[treated, [*key[:-1], *scores[: len(targets)]]].reset_index(drop=True)
        one_group = pd.DataFrame({"perturbation": targets, "group": 0})
        probabilities, _, _ = balance(
            part.assign(role="heldout", tier="T1"), one_group, group_inference="none", group_posterior=1.0,
            method="sinkhorn", temperature=1.0, iterations=100, tolerance=1e-3,
        )  # fmt: skip
        best[treated] = probabilities[scores[: len(targets)]].to_numpy().argmax(axis=1)
    call = dict(zip(pooled["id_code"], best, strict=True))
    return torch.tensor([int(call[code]) for code in table["id_code"]])
