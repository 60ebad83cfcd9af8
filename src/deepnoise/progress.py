"""Progress of long work: a bar on a terminal, a line a minute in a log file. Used by every stage that reads images."""

from __future__ import annotations

import logging
import sys
from typing import Any

from tqdm import tqdm

logger = logging.getLogger("deepnoise.progress")


class _Log:
    """A stream that turns the bar's redrawing into log lines."""

    def write(self, text: str) -> None:
        """Log what is not blank."""
        if text.strip():
            logger.info(text.strip())

    def flush(self) -> None:
        """Nothing waits."""


def progress(what: str, total: int, unit: str) -> Any:
    """A tqdm bar that tells count, rate and time left: redrawn on a terminal, else one log line a minute."""
    if sys.stderr.isatty():
        return tqdm(desc=what, total=total, unit=f" {unit}")
    return tqdm(desc=what, total=total, unit=f" {unit}", file=_Log(), mininterval=60, delay=60, ncols=0)  # type: ignore[call-overload]
