"""Live reports of an epoch to TensorBoard, an optional extra."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepnoise.errors import InputError

Report = Callable[[dict[str, Any]], None]
"""Takes one row of ``training_history``."""
KEYS = ("fold", "cell_type", "stage", "epoch")


def _figures(row: dict[str, Any]) -> dict[str, float]:
    prefix = "_".join(str(row[key]) for key in ("stage", "fold", "cell_type"))
    return {f"{prefix}/{name}": float(value) for name, value in row.items() if name not in KEYS and value is not None}


def to_tensorboard(folder: Path) -> Report:
    """A report that writes TensorBoard events to a folder.

    Raises:
        InputError: The package tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            'training.tensorboard is true, but the package tensorboard is not installed; pip install -e ".[tensorboard]", or set it to false'
        ) from error
    writer = SummaryWriter(str(folder))

    def report(row: dict[str, Any]) -> None:
        for name, value in _figures(row).items():
            writer.add_scalar(name, value, row["epoch"])
        writer.flush()

    return report
