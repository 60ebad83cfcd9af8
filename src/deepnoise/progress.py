"""Progress of long tasks: a bar on a terminal, otherwise one log line per minute.

Used by the image store and the stages that go through many sites or wells.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from tqdm import tqdm

logger = logging.getLogger("deepnoise.progress")


class _Log:
    """A stream that turns each redraw of the bar into a log line."""

    def write(self, text: str) -> None:
        """Log the text unless it is blank."""
        if text.strip():
            logger.info(text.strip())

    def flush(self) -> None:
        """Do nothing: nothing is buffered."""


def progress(description: str, total: int, unit: str) -> Any:
    """A tqdm bar with count, rate and remaining time; without a terminal, one log line per minute."""
    if sys.stderr.isatty():
        return tqdm(desc=description, total=total, unit=f" {unit}")
    return tqdm(desc=description, total=total, unit=f" {unit}", file=_Log(), mininterval=60, delay=60, ncols=0)  # type: ignore[call-overload]
