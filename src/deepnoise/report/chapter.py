"""Chapters of the report: the results of one pipeline as JSON, from which the page can be rebuilt.

A chapter holds sections of exhibits (figures, images, tables), answers to the questions of the verdict, and doubts.
Each pipeline writes its chapter with the functions of this module; ``deepnoise.report.page`` assembles the page.
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

MAX_ROWS = 300
"""Largest number of rows that a table on the page shows; the catalog entry holds them all."""

SHARES = frozenset(
    ("top1", "top5", "chance", "interval_low", "interval_high", "accuracy", "confidence", "confident_share", "confident_precision", "balanced_accuracy", "hand_features")
)  # fmt: skip
"""Columns that are shown as percentages."""

SIMPLE_FRACTIONS = sorted(
    {(n / d, n, d) for d in (10, 8, 6, 5, 4, 3, 2) for n in range(1, d) if math.gcd(n, d) == 1}
    | {(n / d, n, d) for d in (20, 50, 100) for n in (1, d - 1)}
)
"""(value, numerator, denominator) of the fractions that people say aloud."""


@dataclass(frozen=True)
class Cell:
    """A table cell: the text that is shown and the key that it is sorted by."""

    text: str
    key: str
    number: bool = False


@dataclass(frozen=True)
class Exhibit:
    """One item of a section: a figure (plotly's JSON), an image (a data URL) or a table."""

    title: str
    caption: str = ""
    entry: str = ""
    figure: dict[str, Any] | None = None
    image: str | None = None
    head: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]] = ()
    left_out: int = 0
    """Number of rows that are not shown."""
    wide: bool = False
    """Whether it keeps its width on a narrow screen and scrolls there."""


@dataclass(frozen=True)
class Section:
    """A section of the page."""

    title: str
    lead: str
    exhibits: list[Exhibit]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Answer:
    """An answer to one question of the verdict.

    Args:
        lead: The answer itself in one sentence, such as "Yes: ...". It claims no more than ``sentences`` show.
        sentences: The evidence, one result per sentence, with its interval, chance level and tier.
        warning: Whether the reader should be cautious.
    """

    lead: str
    sentences: Sequence[str]
    warning: bool

    @property
    def text(self) -> str:
        """The answer as one string."""
        return " ".join([self.lead, *self.sentences])


@dataclass(frozen=True)
class Chapter:
    """What one pipeline contributes to the report."""

    sections: Sequence[Section]
    answers: dict[str, Answer] = field(default_factory=dict)
    """Key of :data:`deepnoise.report.page.QUESTIONS` -> answer."""
    doubts: Sequence[str] = ()
    """Reasons for distrust, strongest first, each a sentence with its number."""

    def as_json(self) -> dict[str, Any]:
        """The chapter as dicts, lists, strings and numbers."""
        return json.loads(json.dumps(asdict(self)))


def figure(title: str, plot: go.Figure, entry: str, caption: str = "", wide: bool = False) -> Exhibit:
    """A figure as an exhibit; ``entry`` is the catalog entry that holds it."""
    return Exhibit(title, caption, entry, figure=json.loads(str(plot.to_json())), wide=wide)


def image(title: str, pixels: Image, entry: str, caption: str = "") -> Exhibit:
    """An image as an exhibit."""
    png = io.BytesIO()
    pixels.save(png, format="PNG", optimize=True)
    url = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
    return Exhibit(title, caption, entry, image=url)


def table(
    title: str, data: pd.DataFrame, entry: str = "", caption: str = "", percent: Collection[str] = SHARES
) -> Exhibit:
    """A table as an exhibit.

    Args:
        title: Heading.
        data: Rows in the order in which they are first shown; the reader can sort them. At most ``MAX_ROWS``
            are shown.
        entry: Catalog entry that holds the complete table.
        caption: How to read it.
        percent: Columns that are shown as percentages.
    """
    first_rows = data.head(MAX_ROWS)
    rows = [
        [_cell(value, str(column) in percent) for column, value in zip(first_rows.columns, row, strict=True)]
        for row in first_rows.itertuples(index=False, name=None)
    ]
    head = [str(column).replace("_", " ") for column in data.columns]
    return Exhibit(title, caption, entry, head=head, rows=rows, left_out=len(data) - len(first_rows))


def name_value_table(title: str, values: dict[str, Any], entry: str = "", caption: str = "") -> Exhibit:
    """A table of two columns, name and value, in the order of ``values``."""
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
    # a plate named "01" is shown as a name and sorted as a number
    if isinstance(value, str) or not math.isfinite(number):
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
    """A share as text: 0.799 -> "79.9 %"."""
    return f"{100 * share:.1f} %"


def fraction_of(share: float, noun: str) -> str:
    """A share as one would say it: 0.799 of "wells" -> "about 4 of 5 wells".

    The fraction is the nearest of :data:`SIMPLE_FRACTIONS`, with "about" unless it is exact. "All" and "none"
    are always exact.
    """
    if share <= 0:
        return f"none of the {noun}"
    if share >= 1:
        return f"all {noun}"
    if share < 0.005:
        return f"fewer than 1 of 100 {noun}"
    if share > 0.995:
        return f"more than 99 of 100 {noun}"
    value, numerator, denominator = min(SIMPLE_FRACTIONS, key=lambda fraction: abs(fraction[0] - share))
    about = "" if abs(value - share) < 1e-9 else "about "
    return f"{about}half of the {noun}" if denominator == 2 else f"{about}{numerator} of {denominator} {noun}"


def listing(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def hardly_above_chance(accuracy: float, chance: float) -> bool:
    """Whether an accuracy is at most twice chance; with few classes, a tenth of the way from chance to 1."""
    return accuracy <= chance + min(chance, 0.1 * (1 - chance))


def given_away_by_design(prediction: dict[str, float]) -> bool:
    """Whether the place of a well predicts its perturbation (``accuracy``) clearly better than ``chance``."""
    return prediction["accuracy"] > max(2 * prediction["chance"], prediction["chance"] + 0.05)
