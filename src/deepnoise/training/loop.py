"""The two stages of training, each written once in the order of the algorithm (method: section 4).

The order of an epoch comes from a generator seeded by (seed, fold, stage, epoch). Views and jitter of a batch come from one
seeded by these and the number of the batch, whoever draws the batches before it. A run that is stopped and resumed at the end of an
epoch therefore gives the same weights, bit by bit on the CPU, as an uninterrupted one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from deepnoise.network.batch_norm import use_batch_statistics
from deepnoise.network.device import send
from deepnoise.network.network import Network
from deepnoise.network.site_images import Batch
from deepnoise.network.trained_model import TrainedModel
from deepnoise.training import schedules
from deepnoise.training.losses import squared_error, update_ema
from deepnoise.training.pseudo_labels import PseudoLabels
from deepnoise.training.stage import Epoch, Stage, set_learning_rate
from deepnoise.training.trainer import Strength, Trainer


def pretrain(trainer: Trainer) -> tuple[TrainedModel, list[dict[str, Any]]]:
    """Stage 1: cross-entropy with margin on labelled wells; controls are extra classes.

    Returns:
        The moving average of the student, or the student where ``ema_decay`` is 0; and one history row per epoch.
    """
    parameters = trainer.parameters
    student = trainer.new_network(parameters.pretrained_weights)
    stage = Stage(trainer, "pretrain", parameters.pretrain, student, averaged=parameters.pretrain.ema_decay != 0)
    stage.resume()
    for epoch in stage.epochs():
        for batch, _, generator in epoch.batches(trainer.labelled_order(epoch.generator)):
            label = trainer.labels_of(batch)
            images = trainer.draw_view(trainer.to_input(batch, generator), "normal", generator)
            with trainer.autocast():
                loss = F.cross_entropy(student(images, label), label)
            take_step(stage, epoch, batch, loss)
    stage.load_best()
    return stage.chosen_model(), stage.history


def train_mean_teacher(
    trainer: Trainer, pretrained: TrainedModel
) -> tuple[TrainedModel, TrainedModel, list[dict[str, Any]]]:
    """Stage 2: the student learns from labels, from agreement with its own moving average, and from pseudo-labels.

    loss = (1 - w_p) CE(student(x, y), y) + w_c(t) consistency(student, teacher) + w_p CE(student(u), pseudo-label)

    x are the labelled images, u the unlabelled ones; student(x, y) are logits with the margin on y. Consistency is over both, at
    epoch t. Each network sees them under a jitter of its own, and the teacher in a strong view. The teacher is the exponential moving
    average of the student. With ``views`` = shared, one normal view of each image serves all terms of the student. With ``two``, the
    labels have a normal view of their own, and consistency and pseudo-labels a weak one. Where each batch is of one experiment or
    plate, labelled and unlabelled images pass the networks separately, and the teacher too takes its BatchNorm statistics from the
    batch; else these are averaged like the weights.

    Returns:
        The student, the teacher and one history row per epoch.
    """
    parameters = trainer.parameters.mean_teacher
    student = trainer.new_network()
    student.load_state_dict(pretrained.weights)
    if not parameters.epochs:
        card = pretrained.card
        model = trainer.to_trained_model(
            student, stage=card.stage, epoch=card.epoch, validation_top1=card.validation_top1, loader_wait=card.loader_wait
        )  # fmt: skip
        return model, model, []
    stage = Stage(trainer, "mean_teacher", parameters, student, averaged=True)
    teacher = stage.average
    assert teacher is not None
    stage.resume()
    if trainer.pure_batches:
        use_batch_statistics(teacher)
    student_strength: Strength = "normal" if parameters.views == "shared" else "weak"
    pseudo_labels = PseudoLabels(trainer.view, parameters.pseudo_labels)
    if "pseudo_logits" in stage.extra:
        pseudo_labels.set_logits(stage.extra["pseudo_logits"])
    for epoch in stage.epochs():
        labelled_order = trainer.labelled_order(epoch.generator)
        unlabelled_order = trainer.unlabelled_order(labelled_order, epoch.generator)
        if pseudo_labels.needs_refresh(epoch.number, stage.improved):
            views = parameters.pseudo_labels.views
            stage.extra["pseudo_logits"] = pseudo_labels.refresh(
                np.mean([trainer.logits(teacher, trainer.unlabelled, epoch.generator) for _ in range(views)], axis=0)
            )
        for batch, unlabelled, generator in epoch.batches(labelled_order, unlabelled_order):
            label = trainer.labels_of(batch)
            count = len(label)  # B labelled images, then U unlabelled ones
            batches = [batch] if unlabelled is None else [batch, unlabelled]
            images, of_teacher = ([trainer.to_input(each, generator) for each in batches] for _ in range(2))
            if not trainer.pure_batches:
                images, of_teacher = [torch.cat(images)], [torch.cat(of_teacher)]
            with trainer.autocast():
                if parameters.views == "shared":
                    features = embed(student, [trainer.draw_view(x, student_strength, generator) for x in images])
                    labelled_features = features[:count]
                else:
                    labelled_view = trainer.draw_view(images[0][:count], "normal", generator)
                    labelled_features = student.embed(labelled_view)
                    features = embed(student, [trainer.draw_view(x, student_strength, generator) for x in images])
                supervised = F.cross_entropy(student.classify(labelled_features, label), label)
                student_logits = student.classify(features)  # (B + U, K), without margin
                with torch.no_grad():
                    teacher_views = [trainer.draw_view(x, "strong", generator) for x in of_teacher]
                    teacher_logits = teacher.classify(embed(teacher, teacher_views))
                consistency = squared_error(student_logits, teacher_logits)
                w_c = parameters.consistency_weight * schedules.ramp(epoch.epochs_done, parameters.ramp_epochs)
                w_p = pseudo_labels.weight(epoch.epochs_done)
                loss = (1 - w_p) * supervised + w_c * consistency
                if pseudo_labels.target_of_site is not None and unlabelled is not None:
                    pseudo_label = send(
                        pseudo_labels.target_of_site[torch.from_numpy(unlabelled.index)], trainer.device
                    )
                    loss = loss + w_p * F.cross_entropy(student_logits[count:], pseudo_label)
            take_step(stage, epoch, batch, loss, consistency)
    stage.load_best()
    return stage.student_model(), stage.chosen_model(), stage.history


def take_step(
    stage: Stage, epoch: Epoch, batch: Batch, loss: torch.Tensor, consistency: torch.Tensor | None = None
) -> None:
    """Set the learning rate, update the student, then the moving average, and record the step.

    Raises:
        InputError: A loss, or with clipping a gradient, of the last steps is not a number.
    """
    set_learning_rate(stage.optimizer, epoch.learning_rate)
    stage.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    gradient = None
    if largest_norm := stage.trainer.parameters.gradient_clip:
        gradient = torch.nn.utils.clip_grad_norm_(stage.student.parameters(), largest_norm)
    stage.optimizer.step()
    if stage.average is not None:
        update_ema(stage.average, stage.student, epoch.ema_decay)
    epoch.record(batch, loss, consistency, gradient)


def embed(network: Network, batches: list[torch.Tensor]) -> torch.Tensor:
    """(B, D) features of images that pass the network batch by batch, each with its own BatchNorm statistics."""
    return torch.cat([network.embed(images) for images in batches])
