"""External scores and their wells: a parquet or csv table, a table of neighbours, or submissions."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from deepnoise.datasets.read_only import ReadOnlyDataset
from deepnoise.datasets.rxrx1 import with_perturbation
from deepnoise.datasets.text_tables import read_table
from deepnoise.errors import InputError, first_few
from deepnoise.ingestion.validation import wells_of
from deepnoise.names import number_of, plain_numbers
from deepnoise.tables import SCORE, validate_table
from deepnoise.tiers import TIERS

logger = logging.getLogger(__name__)
PLACE = ("experiment", "plate", "well")
TEXT = ("id_code", *PLACE, "cell_type", "perturbation", "sirna", "role", "tier")
HINT = "give the scores as --params scores=PATH"


class ScoredWellsDataset(ReadOnlyDataset[pd.DataFrame]):
    """The table ``wells`` from a table of scores alone, for a screen without any other table.

    All wells are unlabelled. Experiment, plate and well are read from the columns of these names; without
    them ``id_code`` is split as ``<experiment>_<plate>_<well>``. A column ``cell_type`` is kept.

    Catalog::

        wells:
          type: deepnoise.datasets.external_scores.ScoredWellsDataset
          filepath: data/01_raw/score_table/well_scores.csv

    Args:
        filepath: A csv or parquet of scores, or a folder of submissions.
        metadata: For kedro-viz.
    """

    read_only = "external scores are an input and are never written"

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._path = Path(filepath)
        self.metadata = metadata

    def load(self) -> pd.DataFrame:
        parts = []
        for file in _csv_files(self._path) if self._path.is_dir() else [self._path]:
            table = read_table(file, TEXT, HINT)
            if "id_code" not in table:
                raise InputError(f"{file}: column 'id_code' is missing; it has {first_few(map(str, table.columns), 8)}")
            parts.append(table[[c for c in ("id_code", *PLACE, "cell_type") if c in table]].assign(source=file.name))
        rows = pd.concat(parts, ignore_index=True).drop_duplicates("id_code", ignore_index=True)
        if not set(PLACE) <= set(rows):
            split = rows["id_code"].str.rsplit("_", n=2, expand=True)
            invalid = split.isna().any(axis=1) if split.shape[1] == 3 else pd.Series(True, rows.index)
            if invalid.any():
                raise InputError(
                    f"{self._path}: id_code {rows.loc[invalid, 'id_code'].iloc[0]!r} is not "
                    "<experiment>_<plate>_<well>; rename it, or add the columns experiment, plate and well"
                )
            rows[list(PLACE)] = split.set_axis(list(PLACE), axis=1)
        rows = rows.assign(well_type="treatment", perturbation=None, split="heldout")
        if "cell_type" not in rows:
            rows["cell_type"] = "all"
        wells = wells_of(rows)
        unmatched = wells[~wells["id_code"].isin(rows["id_code"])]
        if len(unmatched):
            raise InputError(
                f"{self._path}: id_code of well {'/'.join(unmatched[list(PLACE)].iloc[0])} is not "
                f"{unmatched['id_code'].iloc[0]!r}; expected <experiment>_<plate>_<well> with a well such as B02"
            )
        return wells

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path)}


def _votes(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """One vote per row that has a label: id_code, perturbation, score 1."""
    if "id_code" not in table:
        raise InputError(f"{path}: column 'id_code' is missing; it has {first_few(table.columns, 8)}")
    votes = with_perturbation(table, str(path))[["id_code", "perturbation"]].dropna(subset=["perturbation"])
    if len(votes) < len(table):
        logger.warning(
            "%s: %s of %s rows have no label and are no vote", path.name, len(table) - len(votes), len(table)
        )
    return votes.assign(score=1.0)


def _scores_of(table: pd.DataFrame) -> list[str]:
    """The columns of a wide table with the score of a perturbation each."""
    return [str(c) for c in table.columns if str(c).startswith(SCORE)]


def _check_numbers(table: pd.DataFrame, columns: Iterable[str], path: Path) -> None:
    for column in columns:
        if column not in table:
            raise InputError(f"{path}: column {column!r} is missing; it has {first_few(table.columns, 8)}")
        if not pd.api.types.is_numeric_dtype(table[column]):
            text = next((v for v in table[column].dropna().astype("str") if number_of(v) is None), "no value")
            raise InputError(f"{path}: column {column!r} has {text!r}, expected numbers")


def _csv_files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.csv"), *folder.glob("*.csv.gz")])


class ExternalScoresDataset(ReadOnlyDataset[pd.DataFrame]):
    """The table ``well_scores``, wide or long, from one of these:

    - a folder of csv files (id_code, perturbation or sirna): each file is one vote per well,
    - a csv with label1, sim1, label2, sim2, ...: similarities to neighbours; label -1 means "no neighbour",
    - a csv or parquet that is wide (``score_<perturbation>``) or long (perturbation, score).

    Catalog::

        well_scores:
          type: deepnoise.datasets.external_scores.ExternalScoresDataset
          filepath: data/01_raw/external_scores/well_scores.csv
          tier: T1

    Args:
        filepath: The file or folder.
        tier: Tier of the scores: what their model was allowed to know. ``unknown`` if its author did not say.
            A column ``tier`` takes precedence.
        metadata: For kedro-viz.
    """

    read_only = "external scores are an input and are never written"

    def __init__(self, *, filepath: str, tier: str = "unknown", metadata: dict[str, Any] | None = None) -> None:
        if tier not in TIERS:
            raise InputError(f"scores_tier is {tier!r}; allowed: {', '.join(TIERS)}")
        self._path = Path(filepath)
        self._tier = tier
        self.metadata = metadata

    def load(self) -> pd.DataFrame:
        if self._path.is_dir():
            files = _csv_files(self._path)
            if not files:
                raise InputError(
                    f"{self._path}: no .csv or .csv.gz file in this folder; expected submissions (id_code, perturbation)"
                )
            table = pd.concat([_votes(read_table(file, TEXT, HINT), file) for file in files], ignore_index=True)
        else:
            table = read_table(self._path, TEXT, HINT)
            if "id_code" not in table:
                raise InputError(f"{self._path}: column 'id_code' is missing; it has {first_few(table.columns, 8)}")
            if "label1" in table:
                table = self._neighbours(table)
            elif "score" not in table and not _scores_of(table) and {"sirna", "perturbation"} & set(table):
                table = _votes(table, self._path)
        table = table.reset_index(drop=True)
        scores = _scores_of(table)
        is_long = {"perturbation", "score"} <= set(table)
        if is_long and scores:
            raise InputError(
                f"{self._path}: has both a column 'score' and {len(scores)} columns such as {scores[0]!r}; expected a long "
                "table (perturbation, score) or a wide one"
            )
        if not is_long and not scores:
            raise InputError(
                f"{self._path}: columns {first_few((str(c)[:40] for c in table.columns), 8)} are not scores; "
                f"expected id_code with {SCORE}<perturbation> columns, or id_code, perturbation, score"
            )
        if "tier" not in table.columns:
            table = pd.concat([table, pd.Series(self._tier, index=table.index, name="tier")], axis=1)
        if is_long:
            _check_numbers(table, ["score"], self._path)
            table = table.reindex(columns=["id_code", "perturbation", "score", "tier"])
            table["perturbation"] = plain_numbers(table["perturbation"])
            return validate_table(table, "well_scores_long", str(self._path))
        _check_numbers(table, scores, self._path)
        classes = plain_numbers(pd.Series([c.removeprefix(SCORE) for c in scores], dtype="str"))
        if classes.duplicated().any():
            name = classes[classes.duplicated()].iloc[0]
            first, second = [c for c, label in zip(scores, classes, strict=True) if label == name][:2]
            raise InputError(
                f"{self._path}: columns {first!r} and {second!r} are scores of one perturbation; expected one"
            )
        others = [c for c in table.columns if c not in (*scores, "id_code", "tier", *PLACE, "cell_type")]
        if others:
            logger.info(
                "%s: %s columns are not scores and are not read: %s", self._path.name, len(others), first_few(others)
            )
        wide = pd.concat([table[["id_code", "tier"]], table[scores].set_axis(SCORE + classes, axis=1)], axis=1)
        return validate_table(wide, "well_scores", str(self._path))

    def _neighbours(self, table: pd.DataFrame) -> pd.DataFrame:
        ranks = [c.removeprefix("label") for c in table.columns if c.startswith("label")]
        _check_numbers(table, [f"{name}{r}" for r in ranks for name in ("label", "sim")], self._path)
        parts = [
            pd.DataFrame({"id_code": table["id_code"], "label": table[f"label{r}"], "score": table[f"sim{r}"]})
            for r in ranks
        ]
        long = pd.concat(parts, ignore_index=True)
        none = ~(long["label"] >= 0)
        if none.any():
            logger.info(
                "%s: %s of %s neighbours are none (label -1 or empty)", self._path.name, int(none.sum()), len(none)
            )
            long = long[~none]
        return long.assign(perturbation=long["label"].astype("int64").astype("str")).drop(columns="label")

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path), "tier": self._tier}
