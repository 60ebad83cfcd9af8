"""Chapters of the report: what one pipeline has to show, as JSON, so that the page can be written again without it.

A chapter holds sections of exhibits (figures, images, tables), answers to the questions of the verdict, and doubts. Each pipeline
writes its own with the functions of its module here; ``deepnoise.report.page`` puts them together.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from PIL.Image import Image

ROWS = 300
"""Rows of a table, at most; the entry holds all of them."""

SHARES = frozenset(
    ("top1", "top5", "chance", "low", "high", "accuracy", "confidence", "confident_share", "confident_precision", "balanced_accuracy", "hand_features")
)  # fmt: skip
"""Columns that are read as percentages."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table: what is read, and what it is sorted by."""

    text: str
    key: str
    number: bool = False


@dataclass(frozen=True)
class Exhibit:
    """One thing to look at: a figure (plotly's JSON), an image (a data URL), or a table."""

    title: str
    caption: str = ""
    entry: str = ""
    figure: dict[str, Any] | None = None
    image: str | None = None
    head: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]] = ()
    left_out: int = 0
    wide: bool = False
    """Whether it keeps its width on a narrow screen and scrolls there."""


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    title: str
    lead: str
    exhibits: list[Exhibit]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Answer:
    """One sentence of the verdict, and whether it asks for caution."""

    text: str
    warning: bool


@dataclass(frozen=True)
class Chapter:
    """What a pipeline has to show."""

    sections: Sequence[Section]
    answers: dict[str, Answer] = field(default_factory=dict)
    """Key of :data:`deepnoise.report.page.QUESTIONS` -> answer."""
    doubts: Sequence[str] = ()
    """What to distrust, strongest first, each a clause with its number."""

    def as_json(self) -> dict[str, Any]:
        """The same in dicts, lists, strings and numbers."""
        return json.loads(json.dumps(asdict(self)))


def figure(title: str, drawn: go.Figure, entry: str, caption: str = "", wide: bool = False) -> Exhibit:
    """A figure as an exhibit; ``entry`` is the catalog entry that holds it."""
    return Exhibit(title, caption, entry, figure=json.loads(str(drawn.to_json())), wide=wide)


def image(title: str, drawn: Image, entry: str, caption: str = "") -> Exhibit:
    """An image as an exhibit."""
    written = io.BytesIO()
    drawn.save(written, format="PNG", optimize=True)
    url = "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()
    return Exhibit(title, caption, entry, image=url)


def table(
    title: str, data: pd.DataFrame, entry: str = "", caption: str = "", percent: Collection[str] = SHARES
) -> Exhibit:
    """A table as an exhibit.

    Args:
        title: Heading.
        data: In the order of its first showing; a reader may sort it otherwise. At most ``ROWS`` rows are shown.
        entry: Catalog entry that holds it whole.
        caption: What to know of it.
        percent: Columns that are shares.
    """
    shown = data.head(ROWS)
    rows = [
        [_cell(value, str(column) in percent) for column, value in zip(shown.columns, row, strict=True)]
        for row in shown.itertuples(index=False, name=None)
    ]
    head = [str(column).replace("_", " ") for column in data.columns]
    return Exhibit(title, caption, entry, head=head, rows=rows, left_out=len(data) - len(shown))


def facts(title: str, values: dict[str, Any], entry: str = "", caption: str = "") -> Exhibit:
    """Names and values as a table of two columns, in their order."""
    rows = [[_cell(str(name), False), _cell(value, False)] for name, value in values.items()]
    return Exhibit(title, caption, entry, head=["name", "value"], rows=rows)


def _cell(value: Any, share: bool) -> Cell:
    if value is None or (not isinstance(value, str | bool | list | dict | tuple) and pd.isna(value)):
        return Cell("–", "")
    if isinstance(value, bool):
        return Cell("yes" if value else "no", str(int(value)))
    try:
        number = float(value)
    except (TypeError, ValueError):
        return Cell(str(value), str(value))
    if isinstance(value, str) or not math.isfinite(number):  # a plate named "01" is a name, sorted as a number
        return Cell(str(value), repr(number) if math.isfinite(number) else str(value))
    if share:
        return Cell(f"{100 * number:.1f} %", repr(number), True)
    whole = number == int(number) or abs(number) >= 1000
    return Cell(f"{number:,.0f}".replace(",", "\u202f") if whole else f"{number:.3g}", repr(number), True)


def flatten(values: dict[str, Any], name: str = "") -> dict[str, Any]:
    """Nested values under dotted names: ``{"a": {"b": 1}}`` -> ``{"a.b": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        dotted = f"{name}.{key}" if name else str(key)
        if isinstance(value, dict) and value:
            flat |= flatten(value, dotted)
        else:
            flat[dotted] = str(value) if isinstance(value, list | dict) else value
    return flat


def percent(share: float) -> str:
    """A share as it is read: 0.799 -> "79.9 %"."""
    return f"{100 * share:.1f} %"


def told_by_design(part: dict[str, float]) -> bool:
    """Whether a place names the perturbation clearly better than chance (``accuracy`` against ``chance``)."""
    return part["accuracy"] > max(2 * part["chance"], part["chance"] + 0.05)


def sentence(clauses: Sequence[str]) -> str:
    """Clauses as one sentence."""
    text = "; ".join(clauses)
    return text[:1].upper() + text[1:] + "."
