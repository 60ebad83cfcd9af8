"""Resumable checkpoints of a stage: what its next epoch needs, as tensors and JSON.

Pure functions; the dataset ``training_state`` keeps what they return.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

Tensors = dict[str, torch.Tensor]

RENAMED_COLUMNS = {"student_t1": "student_top1", "teacher_t1": "teacher_top1", "chosen_t1": "chosen_top1"}
"""Column of the training history in a checkpoint of an earlier version -> today's."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of a stage at the end of an epoch."""

    stage: str
    epoch: int
    history: list[dict[str, Any]]  # one row per epoch
    improved: bool  # this epoch has the best validation score so far
    networks: dict[str, Tensors]  # "student" and, if one is kept, "average"
    optimizer: dict[str, Any]  # as torch's state_dict()
    best: dict[str, Tensors]  # networks of the best epoch; empty unless keep is best
    extra: Tensors  # such as the logits behind the pseudo-labels


def pack(checkpoint: Checkpoint) -> tuple[Tensors, dict[str, Any]]:
    """Split a checkpoint into named tensors and JSON-like values.

    Raises:
        TypeError, ValueError, RuntimeError: The optimizer keeps a state that is not made of numbers.
    """
    tensors: Tensors = {}
    for role, weights in checkpoint.networks.items():
        tensors |= {f"{role}.{name}": value for name, value in weights.items()}
    for i, slots in checkpoint.optimizer["state"].items():
        tensors |= {
            f"optimizer.{i}.{slot}": torch.as_tensor(value) for slot, value in slots.items() if value is not None
        }
    groups = checkpoint.optimizer["param_groups"]
    for i, group in enumerate(groups):  # some optimizers count their steps here
        tensors |= {f"group.{i}.{key}": value for key, value in group.items() if isinstance(value, torch.Tensor)}
    for role, weights in checkpoint.best.items():
        tensors |= {f"best.{role}.{name}": value for name, value in weights.items()}
    tensors |= {f"extra.{name}": value for name, value in checkpoint.extra.items()}
    numbers = [
        {key: value for key, value in group.items() if isinstance(value, bool | int | float)} for group in groups
    ]
    return tensors, {
        "stage": checkpoint.stage, "epoch": checkpoint.epoch, "history": checkpoint.history, "optimizer_groups": numbers,
        "improved": checkpoint.improved,
    }  # fmt: skip


def unpack(tensors: Mapping[str, torch.Tensor], content: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint from what :func:`pack` returned, also from that of an earlier version."""
    slots: dict[int, Tensors] = {}
    for key, value in _below(tensors, "optimizer").items():
        i, slot = key.split(".", 1)
        slots.setdefault(int(i), {})[slot] = value
    groups = [numbers | _below(tensors, f"group.{i}") for i, numbers in enumerate(content["optimizer_groups"])]
    roles = [role for role in ("student", "average") if any(key.startswith(f"{role}.") for key in tensors)]
    best = _below(tensors, "best")
    return Checkpoint(
        stage=str(content["stage"]),
        epoch=int(content["epoch"]),
        history=[{RENAMED_COLUMNS.get(key, key): value for key, value in row.items()} for row in content["history"]],
        improved=bool(content["improved"]),
        networks={role: _below(tensors, role) for role in roles},
        optimizer={"state": slots, "param_groups": groups},
        best={role: _below(best, role) for role in roles} if best else {},
        extra=_below(tensors, "extra"),
    )


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load the optimizer state of a checkpoint, each tensor in the memory format of its weight.

    Sums depend on the memory format in the last bit, and a resumed run must equal an uninterrupted one bit by bit.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    slots = {
        i: {
            slot: torch.empty_like(weights[i], dtype=value.dtype).copy_(value)
            if value.shape == weights[i].shape
            else value
            for slot, value in of_weight.items()
        }
        for i, of_weight in state["state"].items()
    }
    groups = [
        current | saved
        for current, saved in zip(optimizer.state_dict()["param_groups"], state["param_groups"], strict=True)
    ]
    optimizer.load_state_dict({"state": slots, "param_groups": groups})


def _below(tensors: Mapping[str, torch.Tensor], name: str) -> Tensors:
    """The tensors whose key starts with ``name.``, without that prefix."""
    return {key[len(name) + 1 :]: value for key, value in tensors.items() if key.startswith(name + ".")}
