"""The error a user can act on, and the closest match to a misspelt name. Used everywhere."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Something the user gave (file, table, parameter) cannot be used; the message says what and what to do."""


class ImageError(InputError):
    """An image that cannot be used, although its screen can.

    Args:
        finding: Key of :data:`deepnoise.ingestion.findings.KINDS`.
        file: The file, as the layout names it.
        detail: What is wrong with it.
    """

    def __init__(self, finding: str, file: str, detail: str) -> None:
        super().__init__(f"{file}: {detail}")
        self.finding, self.file, self.detail = finding, file, detail


def closest(name: str, allowed: Iterable[str]) -> str:
    """`` Did you mean 'x'?``, or nothing where no allowed name is close."""
    match = get_close_matches(str(name), [str(a) for a in allowed], n=1)
    return f" Did you mean {match[0]!r}?" if match else ""


def first_few(names: Iterable[object], limit: int = 5) -> str:
    """``a, b, c and 7 more``."""
    listed = [str(name) for name in names]
    more = len(listed) - limit
    return ", ".join(listed[:limit]) + (f" and {more} more" if more > 0 else "")
