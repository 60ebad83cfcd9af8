"""Errors that a user can act on, and helpers that word their messages. Used by every stage."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """An input (file, table or parameter) cannot be used; the message says why, and what to do about it."""


class ImageError(InputError):
    """One image cannot be used, although the rest of the screen can.

    Args:
        finding: A key of :data:`deepnoise.ingestion.finding_types.FINDINGS`.
        file: Path of the file, as the raw images list it.
        detail: What is wrong with it.
    """

    def __init__(self, finding: str, file: str, detail: str) -> None:
        super().__init__(f"{file}: {detail}")
        self.finding, self.file, self.detail = finding, file, detail


def closest(name: str, allowed: Iterable[str]) -> str:
    """The hint `` Did you mean 'x'?``, or an empty string if no allowed name is close."""
    names = [str(a) for a in allowed]
    match = [a for a in names if a.strip().casefold() == str(name).strip().casefold()]
    match = match or get_close_matches(str(name), names, n=1)
    return f" Did you mean {match[0]!r}?" if match else ""


def first_few(names: Iterable[object], limit: int = 5) -> str:
    """List the first ``limit`` names and count the rest: ``a, b, c and 7 more``."""
    listed = [str(name) for name in names]
    more = len(listed) - limit
    return ", ".join(listed[:limit]) + (f" and {more} more" if more > 0 else "")


def first_line(error: Exception) -> str:
    """Type and first line of another library's error, at most 300 characters: ``RuntimeError: no compiler``."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
