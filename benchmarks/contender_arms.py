"""The arms of benchmarks/contenders.py: mean teachers of several kinds, what they are made of, and their controls.

Each arm trains a network within the compute of a supervised training (forward passes per labelled site; a backward pass counts as two).
What they gain is in docs/experiments.md. What won is in the package; the rest lives here alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from deepnoise.network.batch_norm import use_batch_statistics
from deepnoise.network.network import Network
from deepnoise.network.site_images import Batch
from deepnoise.network.trained_model import TrainedModel
from deepnoise.plate_balancing.methods import sinkhorn
from deepnoise.plate_balancing.scores import log_probabilities
from deepnoise.plate_balancing.temperature import fit_to_labels
from deepnoise.screen import Screen
from deepnoise.training import schedules
from deepnoise.training.augmentation import erase, random_view, shift_scale
from deepnoise.training.loop import pretrain, train_mean_teacher
from deepnoise.training.losses import update_ema
from deepnoise.training.stage import Stage, set_learning_rate
from deepnoise.training.trainer import Trainer

SUPERVISED_EPOCHS = 44
"""Of the shipped default; 3 forward passes per labelled site and epoch."""


class StudyTrainer(Trainer):
    """A trainer that is not scored between epochs."""

    def validation_score(self, network: Network) -> float | None:
        """None."""
        return None


@dataclass
class Step:
    """One step of a training: a batch of one experiment and the networks."""

    trainer: Trainer
    student: Network
    teacher: Network | None
    batch: Batch
    beside: Batch | None  # unlabelled images of the same experiment
    label: torch.Tensor
    generator: torch.Generator
    epochs_done: float

    def images(self, batch: Batch | None = None) -> torch.Tensor:
        """Normalized images with their own jitter."""
        return self.trainer.to_input(self.batch if batch is None else batch, self.generator)

    def view(self, images: torch.Tensor, strong: bool = False) -> torch.Tensor:
        """A view: flips and turns; a strong one is also shifted, scaled, cropped and erased in half of the cases."""
        images = random_view(images, turns=True, strength=0.0, generator=self.generator)
        if strong:
            images = shift_scale(images, 0.1, crop=True, generator=self.generator)
            images = erase(images, 0.5, self.generator)
        return self.trainer.to_memory_format(images)

    def cross_entropy(self, features: torch.Tensor) -> torch.Tensor:
        """The supervised loss."""
        return F.cross_entropy(self.student.classify(features, self.label), self.label)

    @torch.no_grad()
    def teacher_logits(self, images: torch.Tensor) -> torch.Tensor:
        """(B, K) logits of the teacher, with BatchNorm statistics of these images."""
        assert self.teacher is not None
        return self.teacher(images)

    def student_logits(self, features: torch.Tensor) -> torch.Tensor:
        """(B, K) logits of the student without margin."""
        return self.student.classify(features)


def divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean over samples of KL(softmax teacher || softmax student) of (B, K) logits, in nats."""
    return F.kl_div(
        student.log_softmax(dim=1), teacher.detach().log_softmax(dim=1), log_target=True, reduction="batchmean"
    )


Loss = Callable[[Step], tuple[torch.Tensor, torch.Tensor | None]]


def imagined_experiment(
    images: torch.Tensor, generator: torch.Generator, strength: float = 1.0, per_image: bool = False
) -> torch.Tensor:
    """Images under the technical noise of an experiment that does not exist: gain, offset, gamma, blur and bleed-through of the channels.

    Drawn once per batch, which is of one experiment, or for each image.
    """
    count, channels, _, _ = images.shape
    draws = count if per_image else 1

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(draws, *shape, generator=generator)

    gain = torch.exp(0.2 * strength * normal(channels, 1, 1))
    offset = 0.2 * strength * normal(channels, 1, 1)
    bend = 0.1 * strength * normal(channels, 1, 1)
    mixing = torch.eye(channels) + 0.05 * strength * normal(channels, channels).abs() * (1 - torch.eye(channels))
    images = torch.einsum("bchw,bdc->bdhw", images, mixing.expand(count, -1, -1))
    images = gain * images + offset
    images = images + bend * torch.tanh(images) * images  # a gamma bends bright against dark
    width = 0.8 * strength * torch.rand((), generator=generator)
    if torch.rand((), generator=generator) < 0.5 and width > 0.2:
        taps = torch.exp(-0.5 * (torch.arange(-2, 3) / width) ** 2)
        taps = (taps / taps.sum()).expand(channels, 1, -1)
        images = F.conv2d(F.pad(images, (2, 2, 0, 0), mode="reflect"), taps[:, :, None, :], groups=channels)
        images = F.conv2d(F.pad(images, (0, 0, 2, 2), mode="reflect"), taps[:, :, :, None], groups=channels)
    return images


class Neck(torch.nn.Module):
    """A backbone whose pooled features are normalized over the batch, and by AdaBN over the experiment."""

    def __init__(self, backbone: torch.nn.Module) -> None:
        super().__init__()
        self.body = backbone
        self.num_features = int(getattr(backbone, "head_hidden_size", None) or backbone.num_features)
        self.norm = torch.nn.BatchNorm1d(self.num_features, affine=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, D)."""
        return self.norm(self.body(images))


def use_neck() -> None:
    """Give every network of this process a neck."""
    from deepnoise.network import network

    plain = network._backbone
    network._backbone = lambda spec, pretrained: Neck(plain(spec, pretrained))


# losses -----------------------------------------------------------------------------------------------------------


def supervised(strong: bool = False, imagined: float = 0.0, per_image: bool = False) -> Loss:
    """Cross-entropy with the margin, on plain or changed images."""

    def loss(step: Step) -> tuple[torch.Tensor, None]:
        images = step.images()
        if imagined:
            images = imagined_experiment(images, step.generator, imagined, per_image)
        return step.cross_entropy(step.student.embed(step.view(images, strong))), None

    return loss


def view_gap(weight: float, imagined: float = 0.0, strong: bool = True, ramp: float = 5.0) -> Loss:
    """One view of the student serves labels and consistency; the teacher sees another, weak one with jitter of its own."""

    def loss(step: Step) -> tuple[torch.Tensor, torch.Tensor]:
        images = step.images()
        if imagined:
            images = imagined_experiment(images, step.generator, imagined)
        features = step.student.embed(step.view(images, strong))
        target = step.teacher_logits(step.view(step.images()))
        consistency = divergence(step.student_logits(features), target)
        return step.cross_entropy(features) + weight * schedules.ramp(step.epochs_done, ramp) * consistency, consistency

    return loss


def context_noise(weight: float, by_plate: bool, ramp: float = 5.0) -> Loss:
    """The student's BatchNorm statistics are of a part of the batch; the teacher's of the batch and as many more images of the experiment."""

    def loss(step: Step) -> tuple[torch.Tensor, torch.Tensor]:
        count = len(step.label)
        if by_plate:
            part = step.trainer.view.labelled["plate"].to_numpy(str)[step.batch.index]
            parts = [torch.from_numpy(np.flatnonzero(part == name)) for name in np.unique(part)]
        else:
            cut = int(torch.randint(count // 4, count // 2 + 1, (), generator=step.generator))
            order = torch.randperm(count, generator=step.generator)
            parts = [order[:cut], order[cut:]]
        parts = [rows for rows in parts if len(rows) > 1]
        images = step.view(step.images())
        features = torch.zeros(count, step.student.features)
        for rows in parts:
            features = features.index_copy(0, rows, step.student.embed(images[rows]))
        kept = torch.cat(parts)
        context = step.view(step.images())
        if step.beside is not None:
            context = torch.cat([context, step.view(step.images(step.beside))])
        target = step.teacher_logits(context)[:count]
        consistency = divergence(step.student_logits(features[kept]), target[kept])
        supervised_loss = F.cross_entropy(step.student.classify(features[kept], step.label[kept]), step.label[kept])
        return supervised_loss + weight * schedules.ramp(step.epochs_done, ramp) * consistency, consistency

    return loss


class Replicates:
    """The target is the teacher's mean over the perturbation in other experiments (neighbour: CWA-MSN, arXiv 2509.19896)."""

    def __init__(self, weight: float, momentum: float = 0.9, ramp: float = 5.0) -> None:
        self.weight, self.momentum, self.ramp = weight, momentum, ramp
        self.bank: torch.Tensor | None = (
            None  # (E, K, K) probabilities by experiment and class; rows of 0: not seen yet
        )

    def __call__(self, step: Step) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and consistency of a step."""
        codes = step.trainer.view.labelled["experiment"].astype("category").cat.codes.to_numpy("int64")
        experiment = int(codes[step.batch.index[0]])
        classes = step.trainer.spec.classes
        if self.bank is None:
            self.bank = torch.zeros(int(codes.max()) + 1, classes, classes)
        features = step.student.embed(step.view(step.images()))
        teacher = step.teacher_logits(step.view(step.images())).softmax(dim=1)
        others = self.bank.clone()
        others[experiment] = 0
        total = others.sum(dim=0)[step.label]  # (B, K)
        seen = total.sum(dim=1) > 0
        target = total / total.sum(dim=1, keepdim=True).clamp_min(1e-9)
        for row, label in zip(teacher, step.label.tolist(), strict=True):
            old = self.bank[experiment, label]
            self.bank[experiment, label] = row if old.sum() == 0 else self.momentum * old + (1 - self.momentum) * row
        student = step.student_logits(features)
        consistency = F.cross_entropy(student[seen], target[seen]) if seen.any() else student.sum() * 0
        share = self.weight * schedules.ramp(step.epochs_done, self.ramp)
        return (1 - share) * step.cross_entropy(features) + share * consistency, consistency


def unlabelled_consistency(weight: float, sharpen: float = 1.0, imagined: float = 0.0, ramp: float = 5.0) -> Loss:
    """Labels on the labelled wells; agreement with the teacher on unlabelled wells of the same experiment, which share a BatchNorm context."""

    def loss(step: Step) -> tuple[torch.Tensor, torch.Tensor]:
        count = len(step.label)
        images = torch.cat([step.images(), step.images(step.beside)])
        if imagined:
            images = imagined_experiment(images, step.generator, imagined)
        features = step.student.embed(step.view(images))
        target = step.teacher_logits(step.view(torch.cat([step.images(), step.images(step.beside)])))
        consistency = divergence(step.student_logits(features[count:]), sharpen * target[count:])
        share = weight * schedules.ramp(step.epochs_done, ramp)
        return step.cross_entropy(features[:count]) + share * consistency, consistency

    return loss


class DesignLabels:
    """Labels on the labelled wells, and on the others the teacher's probabilities with every perturbation once per experiment.

    The perturbations of an experiment whose wells have no label are shared out among these wells by Sinkhorn, anew each epoch. No held-out
    plate has a part in it, so the tier is that of the images.
    """

    def __init__(self, weight: float, even: bool = True, ramp: float = 5.0) -> None:
        self.weight, self.even, self.ramp = weight, even, ramp
        self.epoch = -1
        self.target = torch.empty(0)  # (U, K) of the unlabelled sites

    def __call__(self, step: Step) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and consistency of a step."""
        if int(step.epochs_done) != self.epoch:
            self.epoch = int(step.epochs_done)
            self.target = self.targets(step)
        count = len(step.label)
        features = step.student.embed(step.view(torch.cat([step.images(), step.images(step.beside)])))
        assert step.beside is not None
        target = self.target[torch.from_numpy(step.beside.index)]
        consistency = F.cross_entropy(step.student_logits(features[count:]), target)
        share = self.weight * schedules.ramp(step.epochs_done, self.ramp)
        return step.cross_entropy(features[:count]) + share * consistency, consistency

    def targets(self, step: Step) -> torch.Tensor:
        """The teacher's probabilities of the unlabelled sites, by well."""
        view, trainer = step.trainer.view, step.trainer
        count = len(view.targets)
        sites = view.unlabelled
        wells = pd.factorize(sites["id_code"])[0]
        logits = trainer.logits(step.teacher, trainer.unlabelled, step.generator)[:, :count]
        log_p = log_probabilities(pd.DataFrame(logits).groupby(wells).mean().to_numpy(), 1.0, 3.0)
        p = np.exp(log_p)
        experiment = sites["experiment"].to_numpy(str)[np.unique(wells, return_index=True)[1]]
        labelled = view.labelled[view.labelled["label"] < count].drop_duplicates("id_code")
        for name in np.unique(experiment) if self.even else []:
            rows = np.flatnonzero(experiment == name)
            left = ~np.isin(np.arange(count), labelled.loc[labelled["experiment"] == name, "label"])
            p[np.ix_(rows, ~left)] = 0
            if left.any():
                capacity = np.full(int(left.sum()), -(-len(rows) // int(left.sum())))
                p[np.ix_(rows, left)] = np.exp(sinkhorn(log_p[np.ix_(rows, left)], capacity))
        classes = trainer.spec.classes
        return F.pad(torch.from_numpy(p.astype(np.float32)), (0, classes - count))[torch.from_numpy(wells)]


def distill(trainer: Trainer, screen: Screen, folds: int = 3, weight: float = 0.5) -> TrainedModel:
    """A student of soft labels that come only from models which never saw the experiment.

    The experiments are dealt to the folds; a model is trained without each. Its probabilities, at the temperature that fits the labels
    of all of them, are the targets beside the labels. The compute is that of three supervised trainings.
    """
    from dataclasses import replace

    view = trainer.view
    fold = pd.factorize(view.labelled["experiment"])[0] % folds
    logits = np.zeros((len(view.labelled), trainer.spec.classes), np.float32)
    for number in range(folds):
        held = fold == number
        part = replace(
            view,
            fold=100 + number,
            labelled=view.labelled[~held].reset_index(drop=True),
            unlabelled=view.labelled[held].drop(columns="label").reset_index(drop=True),
        )
        fold_trainer = StudyTrainer(part, screen, trainer.parameters, trainer.state)
        model = fit(fold_trainer, supervised(), SUPERVISED_EPOCHS, None)
        network = fold_trainer.new_network()
        network.load_state_dict(model.weights)
        network.eval()
        use_batch_statistics(network)
        logits[held] = fold_trainer.logits(network, fold_trainer.unlabelled, trainer.generator("distill", number))
    label = view.labelled["label"].to_numpy(int)
    temperature = fit_to_labels(logits, label, 3.0)
    soft = torch.from_numpy(np.exp(log_probabilities(logits, temperature, 3.0)).astype(np.float32))

    def loss(step: Step) -> tuple[torch.Tensor, torch.Tensor]:
        features = step.student.embed(step.view(step.images()))
        distilled = F.cross_entropy(step.student_logits(features), soft[torch.from_numpy(step.batch.index)])
        return (1 - weight) * step.cross_entropy(features) + weight * distilled, distilled

    return fit(trainer, loss, SUPERVISED_EPOCHS, None)


def train_stages(trainer: Trainer) -> TrainedModel:
    """Both stages of the package."""
    model = pretrain(trainer)[0]
    return train_mean_teacher(trainer, model)[1] if trainer.parameters.mean_teacher.epochs else model


# trainings --------------------------------------------------------------------------------------------------------


def fit(
    trainer: Trainer, loss: Loss, epochs: int, ema: float | None, beside: float = 0.0, start: TrainedModel | None = None
) -> TrainedModel:
    """Train by a loss; the moving average, if there is one, is both teacher and result."""
    parameters = trainer.parameters.pretrain.model_copy(update={"epochs": epochs, "ema_decay": ema or 0.0})
    student = trainer.new_network()
    if start is not None:
        student.load_state_dict(start.weights)
    stage = Stage(trainer, "pretrain", parameters, student, averaged=ema is not None)
    if stage.average is not None:
        use_batch_statistics(stage.average)
    size = round(trainer.parameters.batch_size * beside)
    for epoch in stage.epochs():
        order = trainer.labelled_order(epoch.generator)
        unlabelled = None
        if size:
            unlabelled = trainer.unlabelled_order(order, epoch.generator)
        for batch, other, generator in epoch.batches(order, unlabelled):
            label = trainer.labels[torch.from_numpy(batch.index)]
            value, consistency = loss(
                Step(trainer, student, stage.average, batch, other, label, generator, epoch.epochs_done)
            )
            set_learning_rate(stage.optimizer, epoch.learning_rate)
            stage.optimizer.zero_grad(set_to_none=True)
            value.backward()
            stage.optimizer.step()
            if stage.average is not None:
                update_ema(stage.average, student, epoch.ema_decay)
            epoch.record(batch, value, consistency, None)
    return stage.chosen_model()


def adapt(
    trainer: Trainer, start: TrainedModel, epochs: int, rate: float, targets: str, ema: float = 0.99, labelled: float = 1.0,
    strong: bool = True, sharpen: float = 1.0,
) -> TrainedModel:  # fmt: skip
    """Continue on the unlabelled images of held-out experiments, with targets of the teacher that are renewed each epoch.

    Args:
        trainer: Its unlabelled images are those of held-out plates.
        start: The model to adapt.
        epochs: Passes over the held-out images.
        rate: Largest learning rate.
        targets: ``teacher``: its probabilities, of each well; ``even``: with every perturbation equally often in an experiment;
            ``plate``: once on a plate, among those of its group (design).
        ema: Decay of the teacher.
        labelled: Weight of the labelled batch beside each unlabelled one; 0: none.
        strong: Whether the student gets strong views.
        sharpen: Divides the temperature of the targets.
    """
    student = trainer.new_network()
    student.load_state_dict(start.weights)
    teacher = copy.deepcopy(student).eval().requires_grad_(False)
    use_batch_statistics(teacher)
    view = trainer.view
    count = len(view.targets)
    validation = trainer.logits(teacher, trainer.validation)[:, :count]
    temperature = fit_to_labels(validation, view.validation["label"].to_numpy(int), 3.0) / sharpen
    sites = view.unlabelled
    is_target = sites["target"].to_numpy(bool)
    wells = pd.factorize(sites["id_code"])[0]
    stage = Stage(trainer, "mean_teacher", trainer.parameters.pretrain, student, averaged=False)
    size = trainer.parameters.batch_size
    groups = sites["experiment"].to_numpy(str)
    total = epochs * sum(-(-int(is_target[groups == g].sum()) // size) for g in np.unique(groups))
    done = 0
    for number in range(epochs):
        generator = trainer.generator("adapt", number)
        site_logits = np.mean([trainer.logits(teacher, trainer.unlabelled, generator) for _ in range(2)], axis=0)[
            :, :count
        ]
        well_logits = pd.DataFrame(site_logits).groupby(wells).mean().to_numpy()
        target = _targets(view, sites, wells, is_target, well_logits, temperature, targets)
        order = []
        for group in np.unique(groups):
            rows = np.flatnonzero((groups == group) & is_target)
            rows = rows[torch.randperm(len(rows), generator=generator).numpy()]
            order += np.array_split(rows, -(-len(rows) // size))
        order = [order[i] for i in torch.randperm(len(order), generator=generator)]
        labelled_order = trainer.labelled_order(generator)[: len(order)]
        student.train()
        for rows, labelled_rows in zip(order, labelled_order, strict=True):
            batch = trainer.unlabelled.batch(rows)
            step = Step(trainer, student, teacher, batch, None, torch.empty(0), generator, number)
            logits = step.student_logits(student.embed(step.view(step.images(), strong)))
            loss = F.cross_entropy(logits, F.pad(target[wells[rows]], (0, logits.shape[1] - count)))
            if labelled:
                beside = trainer.labelled.batch(labelled_rows)
                step = Step(
                    trainer, student, teacher, beside, None, trainer.labels[torch.from_numpy(labelled_rows)], generator, number
                )  # fmt: skip
                loss = loss + labelled * step.cross_entropy(student.embed(step.view(step.images())))
            set_learning_rate(stage.optimizer, rate * 0.5 * (1 + np.cos(np.pi * done / total)))
            stage.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            stage.optimizer.step()
            update_ema(teacher, student, ema)
            done += 1
    return trainer.to_trained_model(teacher, stage="mean_teacher", epoch=epochs, validation_top1=None, loader_wait=0.0)


def _targets(
    view: Any, sites: pd.DataFrame, wells: np.ndarray, is_target: np.ndarray, logits: np.ndarray, temperature: float, kind: str
) -> torch.Tensor:  # fmt: skip
    """(W, K) probabilities of the wells as targets of the student."""
    from deepnoise.ingestion.layouts import discover_groups
    from deepnoise.plate_balancing.balancing import DesignKnowledge, balance
    from deepnoise.tables import SCORE, prefixed
    from deepnoise.training.pseudo_labels import BALANCING, WELL_COLUMNS

    log_p = log_probabilities(logits, temperature, 3.0)
    first = np.unique(wells, return_index=True)[1]
    treated = is_target[first]
    p = np.exp(log_p)
    if kind == "even":
        experiment = sites["experiment"].to_numpy(str)[first]
        for name in np.unique(experiment):
            rows = np.flatnonzero((experiment == name) & treated)
            capacity = np.full(log_p.shape[1], -(-len(rows) // log_p.shape[1]))
            p[rows] = np.exp(sinkhorn(log_p[rows], capacity))
    if kind == "plate":
        labelled = view.labelled.drop_duplicates("id_code")
        names = np.array(view.classes, dtype=object)[labelled["label"]]
        layout = discover_groups(labelled.assign(perturbation=names))
        table = (
            sites.iloc[first[treated]][WELL_COLUMNS]
            .drop(columns="target")
            .assign(role="heldout", tier="T1")
            .reset_index(drop=True)
        )
        scores = prefixed(logits[treated].astype(float), list(view.targets), SCORE, table.index)
        parameters = BALANCING.model_copy(update={"temperature": temperature, "method": "matching"})
        balanced = balance(pd.concat([table, scores], axis=1), DesignKnowledge(layout), parameters)
        p[treated] = balanced.probabilities("matching")
    return torch.from_numpy(p.astype(np.float32))


@dataclass(frozen=True)
class Arm:
    """One contender.

    ``passes`` are forward passes per labelled site of a step of its training (a backward pass counts as two); the epochs follow from
    the compute of SUPERVISED_EPOCHS supervised ones, unless ``epochs`` says otherwise.
    """

    loss: Callable[[], Loss] = supervised
    passes: float = 3.0
    ema: float | None = None
    beside: float = 0.0  # unlabelled images of the experiment per labelled one
    epochs: int | None = None
    changes: dict[str, Any] = field(default_factory=dict)  # of parameters, by dotted name
    adapted: dict[str, Any] | None = None  # arguments of adapt(), from the arm "supervised"
    stages: tuple[int, int] | None = None  # epochs of the two stages of the package, in place of ``loss``
    distilled: bool = False  # distill() in place of ``loss``
    ensemble: int = 1  # number of supervised models, of this seed and the next ones, whose scores are averaged
    labels: float = 1.0  # share of the treated wells of each experiment whose labels are known
    neck: bool = False  # BatchNorm of the pooled features, which centres them by experiment
    tier: str = "T1"

    def budget(self) -> int:
        """Epochs within the compute of the supervised training."""
        return self.epochs if self.epochs is not None else round(SUPERVISED_EPOCHS * 3 / self.passes)


PUBLISHED = {
    "training.head.scale": 30.0, "training.batch_size": 32, "training.sites_per_epoch": "one",
    "training.augmentation.shift_scale": 0.1, "training.augmentation.erase": 0.5,
    "training.pretrain.optimizer": "adam", "training.pretrain.learning_rate": 3e-4, "training.pretrain.weight_decay": 2e-4,
    "training.pretrain.schedule": [
        {"share": 100.0, "start": 1.0, "end": 1.0}, {"share": 40.0, "start": 1 / 3, "end": 1 / 3},
        {"share": 20.0, "start": 1 / 30, "end": 1 / 30},
    ],
    "training.mean_teacher.optimizer": "momentum", "training.mean_teacher.learning_rate": 0.1,
    "training.mean_teacher.weight_decay": 2e-4,
    "training.mean_teacher.schedule": 4 * [{"share": 40.0, "start": 1.0, "end": 0.01}] + [{"share": 5.0, "start": 0.001, "end": 0.001}],
    "training.mean_teacher.ema_decay": {0: 0.5, 1: 0.9, 3: 0.99}, "training.mean_teacher.views": "two",
    "training.mean_teacher.unlabelled_ratio": 1.0, "training.mean_teacher.pseudo_labels.method": "balanced",
    "training.mean_teacher.pseudo_labels.start": 2, "training.mean_teacher.pseudo_labels.groups": True,
    "training.mean_teacher.pseudo_labels.views": 4, "training.mean_teacher.pseudo_labels.memory": 0.1,
}  # fmt: skip
"""The recipe of Yang et al. 2022 in its T1 form (unlabelled images are those of the training experiments), its schedules scaled to the compute.

One site of a well per epoch, so an epoch costs half; a step of the second stage costs 11 forward passes per labelled image.
"""
POOR = {"labels": 0.3}
"""With 30 % of the labels and all controls, 65 % of the training images are labelled."""
ADAPTED = {"epochs": 8, "rate": 0.001, "targets": "teacher"}
ARMS: dict[str, Arm] = {
    "supervised": Arm(),
    "supervised, 59 epochs": Arm(epochs=59),
    "supervised, moving average": Arm(ema=0.99),
    "supervised, rate 0.0015": Arm(changes={"training.pretrain.learning_rate": 0.0015}),
    "supervised, rate 0.006": Arm(changes={"training.pretrain.learning_rate": 0.006}),
    "supervised, neck": Arm(neck=True),
    "mean teacher, view gap, neck": Arm(lambda: view_gap(1.0), 4.0, 0.99, neck=True),
    "mean teacher, context, neck": Arm(lambda: context_noise(1.0, by_plate=False), 5.0, 0.99, beside=1.0, neck=True),
    "replicates, neck": Arm(lambda: Replicates(0.5), 4.0, 0.99, neck=True),
    "supervised, neck, imagined": Arm(lambda: supervised(imagined=1.0), neck=True),
    "supervised, neck, softmax": Arm(neck=True, changes={"training.head.name": "softmax", "training.head.scale": 1.0}),
    "supervised, softmax": Arm(changes={"training.head.name": "softmax", "training.head.scale": 1.0}),
    "supervised, margin 0.3": Arm(changes={"training.head.margin": 0.3}),
    "supervised, strong views": Arm(lambda: supervised(strong=True)),
    "supervised, imagined experiments": Arm(lambda: supervised(imagined=1.0)),
    "supervised, imagined, half": Arm(lambda: supervised(imagined=0.5)),
    "supervised, imagined per image": Arm(lambda: supervised(imagined=1.0, per_image=True)),
    "mean teacher, view gap": Arm(lambda: view_gap(1.0), 4.0, 0.99),
    "mean teacher, view gap, weight 0": Arm(lambda: view_gap(0.0), 4.0, 0.99),
    "mean teacher, jitter alone": Arm(lambda: view_gap(1.0, strong=False), 4.0, 0.99),
    "mean teacher, imagined experiments": Arm(lambda: view_gap(1.0, imagined=1.0, strong=False), 4.0, 0.99),
    "mean teacher, imagined, weight 4": Arm(lambda: view_gap(4.0, imagined=1.0, strong=False), 4.0, 0.99),
    "mean teacher, context": Arm(lambda: context_noise(1.0, by_plate=False), 5.0, 0.99, beside=1.0),
    "mean teacher, context by plate": Arm(lambda: context_noise(1.0, by_plate=True), 5.0, 0.99, beside=1.0),
    "mean teacher, context, weight 0": Arm(lambda: context_noise(0.0, by_plate=False), 5.0, 0.99, beside=1.0),
    "replicates": Arm(lambda: Replicates(0.5), 4.0, 0.99),
    "replicates, weight 0": Arm(lambda: Replicates(0.0), 4.0, 0.99),
    **{
        f"published, stage 1 alone, rate {rate}": Arm(
            changes=PUBLISHED | {"training.pretrain.learning_rate": rate}, stages=(2 * SUPERVISED_EPOCHS, 0)
        )
        for rate in (0.0003, 0.001, 0.003)
    },
    **{
        f"published, rate 0.001, then {rate}": Arm(
            changes=PUBLISHED | {"training.pretrain.learning_rate": 0.001, "training.mean_teacher.learning_rate": rate},
            stages=(SUPERVISED_EPOCHS, 12),
        )
        for rate in (0.1, 0.03, 0.01)
    },
    "out-of-fold distillation": Arm(distilled=True),
    "supervised, ensemble of three": Arm(ensemble=3),
    "poor, supervised": Arm(epochs=68, **POOR),
    "poor, supervised, moving average": Arm(ema=0.99, epochs=68, **POOR),
    "poor, mean teacher": Arm(lambda: unlabelled_consistency(1.0), ema=0.99, beside=0.5, epochs=38, **POOR),
    "poor, mean teacher, sharpened": Arm(
        lambda: unlabelled_consistency(1.0, 2.0), ema=0.99, beside=0.5, epochs=38, **POOR
    ),
    "poor, mean teacher, weight 0": Arm(lambda: unlabelled_consistency(0.0), ema=0.99, beside=0.5, epochs=38, **POOR),
    "poor, mean teacher, design": Arm(lambda: DesignLabels(1.0), ema=0.99, beside=0.5, epochs=42, **POOR),
    "poor, mean teacher, own labels": Arm(
        lambda: DesignLabels(1.0, even=False), ema=0.99, beside=0.5, epochs=42, **POOR
    ),
    "adapted": Arm(adapted=ADAPTED, tier="T3"),
    "adapted, rate 0.0003": Arm(adapted=ADAPTED | {"rate": 0.0003}, tier="T3"),
    "adapted, sharpened": Arm(adapted=ADAPTED | {"sharpen": 2.0}, tier="T3"),
    "adapted, without labels": Arm(adapted=ADAPTED | {"labelled": 0.0, "rate": 0.0003}, tier="T3"),
    "adapted, even": Arm(adapted=ADAPTED | {"targets": "even"}, tier="T2+T3"),
    "adapted, by plate": Arm(adapted=ADAPTED | {"targets": "plate"}, tier="T2+T3"),
    "adapted, by plate, longer": Arm(adapted=ADAPTED | {"targets": "plate", "epochs": 16, "rate": 0.003}, tier="T2+T3"),
    "adapted, longer": Arm(adapted=ADAPTED | {"epochs": 16, "rate": 0.003}, tier="T3"),
}
