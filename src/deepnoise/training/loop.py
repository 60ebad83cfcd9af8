"""The two stages of training, each written once in the order of the algorithm (method: section 4).

All randomness of an epoch comes from a generator seeded by (seed, fold, stage, epoch): a run that is stopped
and resumed at an epoch's end gives the same weights, bit by bit on the CPU, as one that was not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from deepnoise.network.batch_norm import use_batch_statistics
from deepnoise.network.network import Network
from deepnoise.network.trained_model import TrainedModel
from deepnoise.training import schedules
from deepnoise.training.losses import CONSISTENCY
from deepnoise.training.pseudo_labels import PseudoLabels
from deepnoise.training.stage import Stage
from deepnoise.training.trainer import Strength, Trainer


def pretrain(trainer: Trainer) -> tuple[TrainedModel, list[dict[str, Any]]]:
    """Stage 1: cross-entropy with margin on labelled wells, controls as extra classes.

    Returns:
        The moving average of the student, or the student where ``ema_decay`` is 0, and one history row an epoch.
    """
    p = trainer.parameters
    student = trainer.new_network(p.pretrained_weights)
    stage = Stage(trainer, "pretrain", p.pretrain, student, averaged=p.pretrain.ema_decay != 0)
    for _, generator in stage.epochs():
        for batch, _ in stage.steps(trainer.labelled_order(generator)):
            target = trainer.label[torch.from_numpy(batch.index)].to(trainer.device)
            cell_type = batch.cell_type.to(trainer.device)
            x = trainer.draw_view(trainer.pixels(batch, generator), "normal", generator)
            x, mixed = trainer.mixed(x, generator)
            with trainer.autocast():
                loss = trainer.cross_entropy(student, student.embed(x), cell_type, target, mixed)
            stage.step(loss, batch)
    return stage.models()[1], stage.history


def train_mean_teacher(
    trainer: Trainer, pretrained: TrainedModel
) -> tuple[TrainedModel, TrainedModel, list[dict[str, Any]]]:
    """Stage 2: the student learns from labels, from agreement with its own average, and from pseudo-labels.

    loss = (1 - w_p) CE(student(x, y), y) + w_c(t) D(softmax student, softmax teacher) + w_p CE(student(u), pseudo)

    The teacher is the exponential moving average of the student, BatchNorm buffers included. With ``views`` = shared the
    student's one view serves all terms; with ``two`` it sees one view for the labels and another, of its own, for consistency and pseudo-labels.
    ``strong_view`` says which of teacher and student sees the strong view there, and the other the weak one. Where batches are pure,
    the labelled and the unlabelled part pass the networks one by one, and the teacher too takes BatchNorm statistics from the batch.

    Returns:
        The student, the teacher and one history row an epoch.
    """
    own = trainer.parameters.mean_teacher
    student = trainer.new_network()
    student.load_state_dict(pretrained.weights)
    if not own.epochs:
        model = trainer.trained(
            student, **{k: pretrained.facts[k] for k in ("stage", "epoch", "validation_top1", "loader_wait")}
        )
        return model, model, []
    stage = Stage(trainer, "mean_teacher", own, student, averaged=True)
    teacher = stage.average
    assert teacher is not None
    if trainer.pure:
        use_batch_statistics(teacher)
    distance = CONSISTENCY[own.consistency]
    seen: Strength = "normal" if own.views == "shared" else "weak"
    shown: Strength = "strong"
    if own.views == "two" and own.strong_view == "student":
        seen, shown = shown, seen
    pseudo = PseudoLabels(trainer.view, own.pseudo_labels)
    if "pseudo_logits" in stage.extra:
        pseudo.restore(stage.extra["pseudo_logits"])
    for epoch, generator in stage.epochs():
        order = trainer.labelled_order(generator)
        further = trainer.unlabelled_order(order, generator)
        if pseudo.due(epoch, stage.improved):
            views = own.pseudo_labels.views
            stage.extra["pseudo_logits"] = pseudo.renew(
                np.mean([trainer.logits(teacher, trainer.unlabelled, generator) for _ in range(views)], axis=0)
            )
        for batch, unlabelled in stage.steps(order, further):
            target = trainer.label[torch.from_numpy(batch.index)].to(trainer.device)
            count = len(target)
            both = [batch] if unlabelled is None else [batch, unlabelled]
            x = [trainer.pixels(each, generator) for each in both]
            cell_type = torch.cat([each.cell_type for each in both]).to(trainer.device)
            if not trainer.pure:
                x = [torch.cat(x)]
            with trainer.autocast():
                if own.views == "shared":
                    features = embed(student, [trainer.draw_view(part, seen, generator) for part in x])
                    supervised = trainer.cross_entropy(student, features[:count], cell_type[:count], target)
                else:
                    labelled, mixed = trainer.mixed(trainer.draw_view(x[0][:count], "normal", generator), generator)
                    supervised = trainer.cross_entropy(
                        student, student.embed(labelled), cell_type[:count], target, mixed
                    )
                    features = embed(student, [trainer.draw_view(part, seen, generator) for part in x])
                plain = student.classify(features, cell_type)
                with torch.no_grad():
                    goal = teacher.classify(
                        embed(teacher, [trainer.draw_view(part, shown, generator) for part in x]), cell_type
                    )
                gap = distance(plain, goal)
                w_c = own.consistency_weight * schedules.ramp(stage.progress, own.ramp_epochs)
                w_p = pseudo.weight(stage.progress)
                loss = (1 - w_p) * supervised + w_c * gap
                if pseudo.of_site is not None and unlabelled is not None:
                    guess = pseudo.of_site[torch.from_numpy(unlabelled.index)].to(trainer.device)
                    loss = loss + w_p * F.cross_entropy(plain[count:], guess)
            stage.step(loss, batch, gap)
    return *stage.models(), stage.history


def embed(network: Network, parts: list[torch.Tensor]) -> torch.Tensor:
    """Features (B, D) of images that pass the network part by part, each with BatchNorm statistics of its own."""
    return torch.cat([network.embed(part) for part in parts])
