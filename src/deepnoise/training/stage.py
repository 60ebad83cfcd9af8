"""One stage in progress: steps, the moving average, scores at each epoch's end, and the state that survives a kill."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from deepnoise.errors import InputError, closest, first_few
from deepnoise.network.batch_norm import reestimate_batch_norm
from deepnoise.network.network import Network
from deepnoise.network.site_images import Batch
from deepnoise.network.trained_model import TrainedModel
from deepnoise.parameters import StageParameters
from deepnoise.training import schedules
from deepnoise.training.losses import update_ema
from deepnoise.training.trainer import Trainer

logger = logging.getLogger(__name__)
REESTIMATED_ON = 2048
"""Labelled images on which BatchNorm statistics of an average are re-estimated."""


class Stage:
    """A stage in progress: student, moving average, optimizer, history, and the state on disk.

    Args:
        trainer: The fold.
        name: ``pretrain`` or ``mean_teacher``.
        parameters: Its block.
        student: Where it starts.
        averaged: Whether a moving average is kept.
    """

    def __init__(
        self, trainer: Trainer, name: str, parameters: StageParameters, student: Network, averaged: bool
    ) -> None:
        self.trainer, self.name, self.parameters = trainer, name, parameters
        self.student = student
        self.average = copy.deepcopy(student).eval().requires_grad_(False) if averaged else None
        self.optimizer = make_optimizer(student, parameters, f"training.{name}")
        self.history: list[dict[str, Any]] = []
        self.improved = False  # the last epoch had the best validation score so far
        self.extra: dict[str, torch.Tensor] = {}  # what else the next epoch needs
        self._best: dict[str, torch.Tensor] = {}
        self._terms: list[tuple[float, float]] = []  # loss and consistency of the steps of the epoch
        self._epoch = self._step = self._images = 0
        self._first = 0
        self._load()

    def epochs(self) -> Iterator[tuple[int, torch.Generator]]:
        """Epochs still to do, each with its source of randomness; kept on disk, scored and reported at its end."""
        total = self.parameters.epochs
        shown = len(self.trainer.labelled_order(self.trainer.generator(self.name, 0)))
        with tqdm(
            total=total * shown, initial=self._first * shown, unit=" steps",
            desc=f"{self.name} {self.trainer.view.name}", disable=None, mininterval=1.0,
        ) as self._bar:  # fmt: skip
            for epoch in range(self._first, total):
                self.student.train()
                self._epoch, self._step, self._terms = epoch, 0, []
                self._images, self._started = 0, time.monotonic()
                self._waited = self.trainer.labelled.waited + self._unlabelled_waited()
                yield epoch, self.trainer.generator(self.name, epoch)
                self._end_epoch()

    def steps(
        self, labelled: list[np.ndarray], unlabelled: list[np.ndarray] | None = None
    ) -> Iterator[tuple[Batch, Batch | None]]:
        """The batches of an epoch, the labelled one and the unlabelled one beside it."""
        self._steps = len(labelled)
        first = self.trainer.labelled.batches(labelled)
        if unlabelled is None or not len(unlabelled[0]):
            yield from ((batch, None) for batch in first)
        else:
            yield from zip(first, self.trainer.unlabelled.batches(unlabelled), strict=True)

    @property
    def progress(self) -> float:
        """Fractional epochs done."""
        return self._epoch + self._step / self._steps

    def step(self, loss: torch.Tensor, batch: Batch, consistency: torch.Tensor | None = None) -> None:
        """One step down the gradient, and of the average after it.

        Raises:
            InputError: The loss, or with clipping the gradient, is no number.
        """
        done = self._epoch * self._steps + self._step
        stage = self.parameters
        self._rate = schedules.learning_rate(done, stage.epochs * self._steps, stage.learning_rate, stage.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate
        value = self._finite(loss, "loss", batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if limit := self.trainer.parameters.gradient_clip:
            self._finite(torch.nn.utils.clip_grad_norm_(self.student.parameters(), limit), "gradient", batch)
        self.optimizer.step()
        if self.average is not None:
            update_ema(self.average, self.student, schedules.ema_decay(done, self._epoch, stage.ema_decay))
        gap = 0.0 if consistency is None else float(consistency.detach())
        self._terms.append((value, gap))
        self._images += len(batch.index)
        self._step += 1
        if self._step % 10 == 0:
            pace = self._images / (time.monotonic() - self._started)
            self._bar.set_postfix(
                loss=f"{value:.2f}", consistency=f"{gap:.1e}", images_per_s=f"{pace:.0f}", refresh=False
            )
        self._bar.update()

    def _finite(self, number: torch.Tensor, what: str, batch: Batch) -> float:
        value = float(number.detach())
        if not np.isfinite(value):
            codes = self.trainer.view.labelled["id_code"].to_numpy()[batch.index]
            raise InputError(
                f"training.{self.name}: the {what} became {value} in epoch {self._epoch}, step {self._step}, at wells {first_few(codes)}; "
                f"last good state: {self.trainer.state.where(self._state_name)}. Lower training.{self.name}.learning_rate, or set "
                "training.gradient_clip, and run again"
            )
        return value

    def _unlabelled_waited(self) -> float:
        trainer = self.trainer
        return 0.0 if trainer.unlabelled is trainer.labelled else trainer.unlabelled.waited

    def _end_epoch(self) -> None:
        trainer = self.trainer
        seconds = time.monotonic() - self._started
        waited = trainer.labelled.waited + self._unlabelled_waited() - self._waited
        if self.average is not None and self.parameters.ema_buffers == "reestimated":
            self._reestimate(self.average)
        student = trainer.validation_score(self.student)
        average = None if self.average is None else trainer.validation_score(self.average)
        chosen = student if self.average is None else average
        losses, gaps = np.mean(self._terms, axis=0)
        best = max((row["chosen_top1"] for row in self.history if row["chosen_top1"] is not None), default=-1.0)
        self.improved = chosen is not None and chosen > best
        if self.improved and self.parameters.keep == "best":
            self._best = {
                f"{role}.{k}": v.detach().clone()
                for role, n in self._networks().items()
                for k, v in n.state_dict().items()
            }
        row = {
            "fold": trainer.view.fold, "cell_type": trainer.view.cell_type or "all", "stage": self.name, "epoch": self._epoch,
            "loss": float(losses), "consistency": float(gaps), "learning_rate": self._rate, "student_top1": student,
            "teacher_top1": average, "chosen_top1": chosen, "images_per_second": self._images / seconds,
            "loader_wait": waited / seconds,
        }  # fmt: skip
        self.history.append(row)
        self._bar.set_postfix(
            loss=f"{losses:.2f}", consistency=f"{gaps:.1e}", validation_T1="-" if chosen is None else f"{chosen:.1%}"
        )
        self._save()
        for report in trainer.reports:
            report(row)

    def _reestimate(self, network: Network) -> None:
        trainer = self.trainer
        generator = trainer.generator(self.name + "/buffers", self._epoch)
        order = trainer.labelled_order(generator)[: -(-REESTIMATED_ON // trainer.parameters.batch_size)]
        reestimate_batch_norm(network, (trainer.pixels(batch) for batch in trainer.labelled.batches(order)))

    def _networks(self) -> dict[str, Network]:
        return {"student": self.student} | ({} if self.average is None else {"average": self.average})

    def models(self) -> tuple[TrainedModel, TrainedModel]:
        """The student, and what is handed on: the average, or the student where none is kept."""
        scores = [row["chosen_top1"] for row in self.history]
        epoch = len(scores) - 1
        if self._best:
            for role, network in self._networks().items():
                network.load_state_dict(_under(self._best, role))
            epoch = int(np.argmax(scores))
        facts = {
            "stage": self.name, "epoch": epoch, "validation_top1": scores[epoch] if scores else None,
            "loader_wait": float(np.mean([row["loader_wait"] for row in self.history])) if scores else 0.0,
        }  # fmt: skip
        student = self.trainer.trained(self.student, **facts, network_role="student")
        if self.average is None:
            return student, student
        return student, self.trainer.trained(self.average, **facts, network_role="average")

    # state ----------------------------------------------------------------------------------------------------

    @property
    def _state_name(self) -> str:
        return f"{self.trainer.view.name}_{self.name}"

    def _save(self) -> None:
        """Keep everything that the next epoch needs."""
        state = self.optimizer.state_dict()
        tensors = {
            f"{role}.{k}": v for role, network in self._networks().items() for k, v in network.state_dict().items()
        }
        try:
            for i, slots in state["state"].items():
                tensors |= {f"optimizer.{i}.{k}": torch.as_tensor(v) for k, v in slots.items() if v is not None}
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"training.{self.name}.optimizer {self.parameters.optimizer!r} keeps a state that is not made of numbers and could not be "
                "resumed; choose another, such as adamw"
            ) from error
        for i, group in enumerate(state["param_groups"]):  # some optimizers count their steps here
            tensors |= {f"group.{i}.{k}": v for k, v in group.items() if isinstance(v, torch.Tensor)}
        tensors |= {f"best.{k}": v for k, v in self._best.items()}
        tensors |= {f"extra.{k}": v for k, v in self.extra.items()}
        plain = [
            {k: v for k, v in group.items() if isinstance(v, bool | int | float)} for group in state["param_groups"]
        ]
        facts = {
            "stage": self.name, "epoch": self._epoch, "history": self.history, "optimizer_groups": plain,
            "improved": self.improved,
        }  # fmt: skip
        self.trainer.state.save(self._state_name, self.trainer.mark, tensors, facts)

    def _load(self) -> None:
        kept = self.trainer.state.load(self._state_name, self.trainer.mark)
        if kept is None:
            return
        tensors, facts = kept
        for role, network in self._networks().items():
            network.load_state_dict(_under(tensors, role))
        slots: dict[int, dict[str, torch.Tensor]] = {}
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        for key, value in _under(tensors, "optimizer").items():
            i, slot = key.split(".", 1)
            if (
                value.shape == weights[int(i)].shape
            ):  # in the weight's memory format, on which sums depend in the last bit
                value = torch.empty_like(weights[int(i)], dtype=value.dtype).copy_(value)
            slots.setdefault(int(i), {})[slot] = value
        groups = self.optimizer.state_dict()["param_groups"]
        groups = [
            group | plain | _under(tensors, f"group.{i}")
            for i, (group, plain) in enumerate(zip(groups, facts["optimizer_groups"], strict=True))
        ]
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        self.history, self.improved = facts["history"], facts["improved"]
        self._best, self.extra = _under(tensors, "best"), _under(tensors, "extra")
        self._first = int(facts["epoch"]) + 1
        logger.info("%s: %s goes on after epoch %s", self.trainer.view.name, self.name, self._first)


def make_optimizer(network: Network, stage: StageParameters, block: str) -> torch.optim.Optimizer:
    """The optimizer of a stage, by its name in timm; biases and BatchNorm are free of weight decay.

    Raises:
        InputError: A name that timm does not know, or an optimizer that is not installed.
    """
    import timm.optim

    known = [str(name) for name in timm.optim.list_optimizers()]
    if stage.optimizer not in known:
        raise InputError(
            f"{block}.optimizer is {stage.optimizer!r}, which timm does not know.{closest(stage.optimizer, known)}"
        )
    try:
        return timm.optim.create_optimizer_v2(
            network, opt=stage.optimizer, lr=stage.learning_rate, weight_decay=stage.weight_decay, momentum=0.9
        )
    except (ImportError, AssertionError, TypeError, ValueError) as error:
        raise InputError(f"{block}.optimizer {stage.optimizer!r} cannot be used here: {error}") from error


def _under(tensors: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {k[len(name) + 1 :]: v for k, v in tensors.items() if k.startswith(name + ".")}
