"""Names that users write by hand (in YAML, in a csv): looked up, and told apart from misspellings.

Used wherever a name given in one place must exist in another: plates, wells, channels, perturbations.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from deepnoise.errors import InputError, closest, first_few

logger = logging.getLogger(__name__)
DOSE = re.compile(r"dose|dosage|concentration|(^|_)conc(_|$)|moles_per|mg_per", re.IGNORECASE)
"""Names of columns whose values are doses: numbers that may be written in several ways."""
NOT_FEATURES = {
    "row number": re.compile(r"^$|^Unnamed: |^index$|^level_\d+$|^__index_level_\d+__$"),
    "number of an image or object": re.compile(
        r"^Image(Set_)?Number$|^ImageSet_|^(\w+_)?ObjectNumber$|TableNumber$|Number_Object_Number$|(^|_)Parent_|^Group_(Index|Number)$"
    ),
    "place in the image": re.compile(r"(^|_)Location_|(^|_)AreaShape_(Center|BoundingBox)"),
    "place on the plate": re.compile(
        r"^(plate|well|site|field|row|col|column|batch|experiment)(_?(id|number|no))?$", re.I
    ),
    "dose": DOSE,
}
"""Why a numeric column is not a feature -> names of such columns."""


def known_names(given: Iterable[Any], present: Iterable[str], what: str, where: str) -> list[str]:
    """The given names as text, after a check that each of them exists.

    Args:
        given: Names as a person wrote them; YAML may have made a number, a date or a truth value of one.
        present: Names that exist.
        what: What they are names of, for the error: ``value of column 'plate'``.
        where: Where they were given: a catalog entry, or a file and line.

    Raises:
        InputError: A name does not exist. Names it, the closest one that does, and says where quotes are missing.
    """
    existing = set(present)
    names = []
    for name in given:
        text = "" if name is None else str(name)
        if text not in existing:
            listed = first_few(sorted(existing), 5)
            raise InputError(
                f"{where}: {name!r} is no {what}; there is {listed or 'none'}."
                f"{unquoted(name, existing) or closest(text, existing)}"
            )
        names.append(text)
    return names


def unquoted(value: Any, present: Iterable[str]) -> str:
    """The hint that a name lost its quotes in YAML, or an empty string if it did not.

    Without quotes YAML reads ``2016_05_06`` as the number 20160506, ``010`` as 8 and ``on`` as true.
    """
    if isinstance(value, str) or value is None:
        return ""
    import yaml

    for name in present:
        try:
            read = yaml.safe_load(name)
        except (yaml.YAMLError, ValueError):
            continue
        if type(read) is type(value) and read == value:
            return f" Put quotes around {name!r}: without them YAML reads it as {value!r}"
    return f" YAML read it as {type(value).__name__}; put quotes around names"


def number_of(text: str) -> float | None:
    """The finite number that a text is, or None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in text else None


def one_spelling(values: pd.Series, what: str) -> pd.Series:
    """Numbers written in several ways (10, 10.0, 1e1) in their most frequent spelling; all else unchanged.

    Args:
        values: Text, of which missing values stay missing.
        what: What the values are, for the log: ``cells.csv: column 'dose'``.

    Returns:
        The values. They are unchanged unless every one of them is a number.
    """
    counts = values.value_counts()
    numbers = {text: number_of(text) for text in counts.index}
    if len(numbers) == len(set(numbers.values())) or None in numbers.values():
        return values
    chosen: dict[float | None, str] = {}
    for text in sorted(counts.index, key=lambda t: (-counts[t], len(t), t)):
        chosen.setdefault(numbers[text], text)
    merged = [f"{text} is read as {chosen[n]}" for text, n in numbers.items() if chosen[n] != text]
    logger.warning("%s: the same number is written in several ways: %s", what, first_few(sorted(merged), 3))
    return values.map({text: chosen[number] for text, number in numbers.items()})


def unify_doses(table: pd.DataFrame, columns: Iterable[str], file: str) -> None:
    """Give each number one spelling in those of the columns that are doses, in place."""
    for column in columns:
        if DOSE.search(column):
            table[column] = one_spelling(table[column], f"{file}: column {column!r}")


def plain_numbers(values: pd.Series) -> pd.Series:
    """Class labels without the decimals that a table program gave them (12.0 -> 12); all else unchanged.

    Args:
        values: Text. They are unchanged unless every value is a number; ``007`` keeps its zeros.
    """
    known = values.dropna().unique()
    if not any(text.endswith(".0") for text in known) or any(number_of(text) is None for text in known):
        return values
    return values.str.replace(r"^([+-]?[0-9]+)\.0+$", r"\1", regex=True)


def similar_names(names: Iterable[str]) -> list[list[str]]:
    """Groups of names that differ only in upper and lower case or in white space, such as DMSO and dmso."""
    groups: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        groups.setdefault(" ".join(name.split()).casefold(), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def same_names(labels: Sequence[str], classes: Sequence[str], where: str) -> None:
    """Refuse labels none of which is a class that can be predicted: the two sides use different names.

    Args:
        labels: Perturbations of the wells.
        classes: Perturbations with scores.
        where: Names of the two tables, for the error.

    Raises:
        InputError: No label is a class.
    """
    if len(labels) and len(classes) and not set(labels) & set(classes):
        label = min(labels)
        raise InputError(
            f"{where}: none of the {len(set(labels))} perturbations with labels, such as {label!r}, is among the "
            f"{len(set(classes))} with scores, such as {min(classes)!r}; use the same names in both."
            f"{closest(label, classes)}"
        )


def not_a_feature(column: str, values: pd.Series) -> str:
    """Why a numeric column is not a feature: what it counts or places; empty for a feature."""
    for reason, pattern in NOT_FEATURES.items():
        if pattern.search(column):
            return reason
    numbers = values.to_numpy(np.float64, na_value=np.nan)
    steps = np.diff(numbers) if np.isfinite(numbers).all() else np.zeros(0)
    return "row number" if len(steps) > 2 and (steps == 1).all() else ""
