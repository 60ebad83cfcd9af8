"""One stage of training in progress, and one of its epochs."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator
from itertools import repeat
from typing import Any, NoReturn

import numpy as np
import torch
from tqdm import tqdm

from deepnoise.errors import InputError, closest, first_few
from deepnoise.network.device import batch_that_fits
from deepnoise.network.network import Network
from deepnoise.network.site_images import Batch
from deepnoise.network.trained_model import TrainedModel
from deepnoise.parameters import StageParameters
from deepnoise.training import schedules
from deepnoise.training.checkpoint import Checkpoint, load_optimizer, pack, unpack
from deepnoise.training.trainer import Trainer

logger = logging.getLogger(__name__)
CHECK_EVERY = 10
"""Steps between two looks at the losses."""


class Stage:
    """Student, moving average, optimizer and history of a stage; kept as a checkpoint at the end of each epoch.

    Args:
        trainer: Data and losses of the fold.
        name: ``pretrain`` or ``mean_teacher``.
        parameters: The block ``training.<name>``.
        student: The network to train, with its starting weights; changed in place.
        averaged: Whether a moving average is kept.
    """

    def __init__(
        self, trainer: Trainer, name: str, parameters: StageParameters, student: Network, averaged: bool
    ) -> None:
        self.trainer, self.name, self.parameters = trainer, name, parameters
        self.student = student
        self.average = copy.deepcopy(student).eval().requires_grad_(False) if averaged else None
        trainer.compile(student)
        self.optimizer = make_optimizer(student, parameters, f"training.{name}")
        self.history: list[dict[str, Any]] = []
        self.improved = False  # the last epoch has the best validation score so far
        self.extra: dict[str, torch.Tensor] = {}  # what else the next epoch needs
        self._best: dict[str, dict[str, torch.Tensor]] = {}
        self._next_epoch = 0

    # epochs ---------------------------------------------------------------------------------------------------

    def epochs(self) -> Iterator[Epoch]:
        """The epochs still to do. Asking for the next one finishes the one before: scores, best weights, history, checkpoint."""
        total = self.parameters.epochs
        steps = len(self.trainer.labelled_order(self.trainer.generator(self.name, 0)))
        with tqdm(
            total=total * steps, initial=self._next_epoch * steps, unit=" steps",
            desc=f"{self.name} {self.trainer.view.name}", disable=None, mininterval=1.0,
        ) as bar:  # fmt: skip
            for number in range(self._next_epoch, total):
                self.student.train()
                epoch = Epoch(self, number, bar)
                yield epoch
                self._finish(epoch)

    def _finish(self, epoch: Epoch) -> None:
        """Score the networks after an epoch, keep the best, and write history and checkpoint."""
        trainer = self.trainer
        epoch.read_losses()
        measured = epoch.measurements()
        student_top1 = trainer.validation_score(self.student)
        average_top1 = None if self.average is None else trainer.validation_score(self.average)
        chosen_top1 = student_top1 if self.average is None else average_top1
        self._keep_if_best(chosen_top1)
        if not self.history:
            self._say_what_fits()
        row = {
            "fold": trainer.view.fold, "cell_type": trainer.view.cell_type or "all", "stage": self.name, "epoch": epoch.number,
            "loss": measured["loss"], "consistency": measured["consistency"], "learning_rate": epoch.learning_rate,
            "student_top1": student_top1, "teacher_top1": average_top1, "chosen_top1": chosen_top1,
            "images_per_second": measured["images_per_second"], "loader_wait": measured["loader_wait"],
        }  # fmt: skip
        self.history.append(row)
        epoch.show(measured, chosen_top1)
        self._save_checkpoint(epoch.number)
        for report in trainer.reports:
            report(row)

    def _say_what_fits(self) -> None:
        """On a GPU, log the memory of the first epoch and the batch that would fit; the batch stays as it is."""
        trainer = self.trainer
        if trainer.device.type != "cuda":
            return
        copies = 4 + (self.average is not None)  # weights, gradients and usually two moments; the average
        fixed = copies * sum(p.numel() * p.element_size() for p in self.student.parameters())
        peak, (_, total) = torch.cuda.max_memory_allocated(trainer.device), torch.cuda.mem_get_info(trainer.device)
        size = trainer.parameters.batch_size
        logger.info(
            "%s: a batch of %s took %.1f of %.1f GB; about %s would fit (training.batch_size)",
            self.name, size, peak / 1e9, total / 1e9, batch_that_fits(size, peak, fixed, total),
        )  # fmt: skip

    def _keep_if_best(self, chosen_top1: float | None) -> None:
        best_top1 = max((row["chosen_top1"] for row in self.history if row["chosen_top1"] is not None), default=-1.0)
        self.improved = chosen_top1 is not None and chosen_top1 > best_top1
        if self.improved and self.parameters.keep == "best":
            self._best = {
                role: {name: value.detach().clone() for name, value in network.state_dict().items()}
                for role, network in self._networks().items()
            }

    def _networks(self) -> dict[str, Network]:
        return {"student": self.student} | ({} if self.average is None else {"average": self.average})

    # results --------------------------------------------------------------------------------------------------

    def load_best(self) -> None:
        """With ``keep`` = best, load the weights of the best epoch into the networks; else leave the last ones."""
        for role, weights in self._best.items():
            self._networks()[role].load_state_dict(weights)

    def student_model(self) -> TrainedModel:
        """The student, with its own validation score."""
        return self._model(self.student, "student", "student_top1")

    def chosen_model(self) -> TrainedModel:
        """The model handed on: the average, or the student if no average is kept."""
        if self.average is None:
            return self.student_model()
        return self._model(self.average, "average", "chosen_top1")

    def _model(self, network: Network, role: str, score: str) -> TrainedModel:
        epoch = len(self.history) - 1
        if self._best:
            epoch = int(np.argmax([row["chosen_top1"] for row in self.history]))
        top1 = self.history[epoch][score] if self.history else None
        waits = [row["loader_wait"] for row in self.history] or [0.0]
        return self.trainer.to_trained_model(
            network, stage=self.name, epoch=epoch, validation_top1=top1, loader_wait=float(np.mean(waits)), network_role=role
        )  # fmt: skip

    # checkpoints ----------------------------------------------------------------------------------------------

    @property
    def checkpoint_name(self) -> str:
        """Name of the stage's checkpoint."""
        return f"{self.trainer.view.name}_{self.name}"

    def _save_checkpoint(self, epoch: int) -> None:
        networks = {role: network.state_dict() for role, network in self._networks().items()}
        checkpoint = Checkpoint(
            self.name, epoch, self.history, self.improved, networks, self.optimizer.state_dict(), self._best, self.extra
        )
        try:
            tensors, content = pack(checkpoint)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"training.{self.name}.optimizer {self.parameters.optimizer!r} keeps a state that is not made of numbers and could not be "
                "resumed; choose another, such as adamw"
            ) from error
        self.trainer.state.save(self.checkpoint_name, self.trainer.fingerprint, tensors, content)

    def resume(self) -> None:
        """Continue after the last checkpoint, if there is one of the same data and parameters."""
        saved = self.trainer.state.load(self.checkpoint_name, self.trainer.fingerprint)
        if saved is None:
            return
        checkpoint = unpack(*saved)
        for role, network in self._networks().items():
            network.load_state_dict(checkpoint.networks[role])
        load_optimizer(self.optimizer, checkpoint.optimizer)
        self.history, self.improved = checkpoint.history, checkpoint.improved
        self._best, self.extra = checkpoint.best, checkpoint.extra
        self._next_epoch = checkpoint.epoch + 1
        logger.info("%s: %s continues after epoch %s", self.trainer.view.name, self.name, checkpoint.epoch)


class Epoch:
    """One epoch in progress: the randomness of its order, schedules, clock, progress bar and loss terms.

    Args:
        stage: The stage it belongs to.
        number: Counted from 0.
        bar: Progress bar of the stage, in steps.
    """

    def __init__(self, stage: Stage, number: int, bar: Any) -> None:
        self.number = number
        self.generator = stage.trainer.generator(stage.name, number)  # of what the epoch draws once
        self._stage, self._bar = stage, bar
        self._step, self._steps = 0, 1  # done so far, and in the epoch
        self._losses: list[tuple[float, float]] = []  # loss and consistency of each step
        self._unread: list[
            tuple[np.ndarray, torch.Tensor]
        ] = []  # rows, and loss, consistency and gradient on the device
        self._images = 0
        self._started = time.monotonic()
        self._waited_before = self._seconds_waited()

    def batches(
        self, labelled: list[np.ndarray], unlabelled: list[np.ndarray] | None = None
    ) -> Iterator[tuple[Batch, Batch | None, torch.Generator]]:
        """The batches of the epoch: a labelled one, the unlabelled one beside it if there is one, and their generator."""
        trainer = self._stage.trainer
        self._steps = len(labelled)
        unlabelled_batches: Iterator[Batch | None] = repeat(None, len(labelled))
        if unlabelled is not None and len(unlabelled[0]):
            unlabelled_batches = trainer.unlabelled.batches(unlabelled)
        pairs = zip(trainer.labelled.batches(labelled), unlabelled_batches, strict=True)
        for number, (batch, beside) in enumerate(pairs):
            yield batch, beside, trainer.generator(self._stage.name, self.number, number)

    @property
    def epochs_done(self) -> float:
        """Epochs done in the stage, with the fraction of this one."""
        return self.number + self._step / self._steps

    @property
    def learning_rate(self) -> float:
        """Learning rate of the current step; after the last step, that of the last one."""
        stage = self._stage.parameters
        step = self.number * self._steps + min(self._step, self._steps - 1)
        return schedules.learning_rate(step, stage.epochs * self._steps, stage.learning_rate, stage.schedule)

    @property
    def ema_decay(self) -> float:
        """Decay of the moving average at the current step."""
        return schedules.ema_decay(
            self.number * self._steps + self._step, self.number, self._stage.parameters.ema_decay
        )

    def record(
        self, batch: Batch, loss: torch.Tensor, consistency: torch.Tensor | None, gradient: torch.Tensor | None
    ) -> None:
        """Note the loss terms of a finished step, and the norm of its gradient, and move the bar.

        The numbers are read every CHECK_EVERY steps, so that a GPU does not wait for each.

        Raises:
            InputError: One of them is not a number.
        """
        nothing = loss.new_zeros(())
        terms = [loss, nothing if consistency is None else consistency, nothing if gradient is None else gradient]
        self._unread.append((batch.index, torch.stack([term.detach().float() for term in terms])))
        self._images += len(batch.index)
        self._step += 1
        if self._step % CHECK_EVERY == 0:
            self.read_losses()
            rate = self._images / (time.monotonic() - self._started)
            loss_value, consistency_value = self._losses[-1]
            self._bar.set_postfix(
                loss=f"{loss_value:.2f}", consistency=f"{consistency_value:.1e}", images_per_s=f"{rate:.0f}", refresh=False
            )  # fmt: skip
        self._bar.update()

    def read_losses(self) -> None:
        """Read the numbers of the steps since the last time.

        Raises:
            InputError: One is not a number. Names the step, the wells of the batch and the last good checkpoint.
        """
        if not self._unread:
            return
        values = torch.stack([terms for _, terms in self._unread]).cpu().numpy()
        for (index, _), (loss, consistency, gradient) in zip(self._unread, values, strict=True):
            for name, number in (("loss", loss), ("gradient", gradient)):
                if not np.isfinite(number):
                    self._stop(name, float(number), len(self._losses), index)
            self._losses.append((float(loss), float(consistency)))
        self._unread.clear()

    def _stop(self, name: str, number: float, step: int, index: np.ndarray) -> NoReturn:
        stage, trainer = self._stage, self._stage.trainer
        wells = trainer.view.labelled["id_code"].to_numpy()[index]
        raise InputError(
            f"training.{stage.name}: the {name} became {number} in epoch {self.number}, step {step}, at wells {first_few(wells)}; "
            f"last good state: {trainer.state.where(stage.checkpoint_name)}. Lower training.{stage.name}.learning_rate, or set "
            "training.gradient_clip, and run again"
        )

    def measurements(self) -> dict[str, float]:
        """Mean loss terms, labelled images per second, and the share of time spent waiting for images."""
        seconds = time.monotonic() - self._started
        loss, consistency = np.mean(self._losses, axis=0)
        return {
            "loss": float(loss), "consistency": float(consistency), "images_per_second": self._images / seconds,
            "loader_wait": (self._seconds_waited() - self._waited_before) / seconds,
        }  # fmt: skip

    def show(self, measured: dict[str, float], top1: float | None) -> None:
        """Write the result of the epoch beside the bar."""
        self._bar.set_postfix(
            loss=f"{measured['loss']:.2f}", consistency=f"{measured['consistency']:.1e}",
            validation_top1="-" if top1 is None else f"{top1:.1%}",
        )  # fmt: skip

    def _seconds_waited(self) -> float:
        trainer = self._stage.trainer
        shared = trainer.unlabelled is trainer.labelled
        return trainer.labelled.seconds_waited + (0.0 if shared else trainer.unlabelled.seconds_waited)


def make_optimizer(network: Network, stage: StageParameters, block: str) -> torch.optim.Optimizer:
    """The optimizer of a stage, by its name in timm. Biases and BatchNorm have no weight decay.

    Raises:
        InputError: timm does not have the name, or the optimizer is not installed.
    """
    import timm.optim

    names = [str(name) for name in timm.optim.list_optimizers()]
    if stage.optimizer not in names:
        raise InputError(
            f"{block}.optimizer is {stage.optimizer!r}, which timm does not have.{closest(stage.optimizer, names)}"
        )
    try:
        return timm.optim.create_optimizer_v2(
            network, opt=stage.optimizer, lr=stage.learning_rate, weight_decay=stage.weight_decay, momentum=0.9
        )
    except (ImportError, AssertionError, TypeError, ValueError) as error:
        raise InputError(f"{block}.optimizer {stage.optimizer!r} cannot be used here: {error}") from error


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate
