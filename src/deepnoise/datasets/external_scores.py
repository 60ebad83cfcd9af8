"""External scores and their wells: a parquet or csv table, a table of neighbours, or submissions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from deepnoise.datasets.files import read_csv
from deepnoise.datasets.read_only import ReadOnlyDataset
from deepnoise.errors import InputError, first_few
from deepnoise.ingestion.validation import validate_wells
from deepnoise.tables import SCORE, validate_table
from deepnoise.tiers import TIERS

PLACE = ("experiment", "plate", "well")


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
            if not file.is_file():
                raise InputError(f"{file}: no such file or folder; give the scores as --params scores=PATH")
            table = pd.read_parquet(file) if file.suffix == ".parquet" else read_csv(file, ["id_code"])
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
        wells = validate_wells(rows, ["treatment"])[0]
        unmatched = wells[~wells["id_code"].isin(rows["id_code"])]
        if len(unmatched):
            raise InputError(
                f"{self._path}: id_code of well {'/'.join(unmatched[list(PLACE)].iloc[0])} is not "
                f"{unmatched['id_code'].iloc[0]!r}; expected <experiment>_<plate>_<well> with a well such as B02"
            )
        return wells

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path)}


def _csv_files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.csv"), *folder.glob("*.csv.gz")])


class ExternalScoresDataset(ReadOnlyDataset[pd.DataFrame]):
    """The table ``well_scores``, wide or long, from one of these:

    - a folder of csv files (id_code, sirna): each file is one vote per well,
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
                    f"{self._path}: no .csv or .csv.gz file in this folder; expected submissions (id_code, sirna)"
                )
            table = pd.concat([self._votes(file) for file in files], ignore_index=True)
        elif self._path.is_file():
            table = pd.read_parquet(self._path) if self._path.suffix == ".parquet" else self._csv(self._path)
            if "label1" in table.columns:
                table = self._neighbours(table)
            elif "sirna" in table.columns and "score" not in table.columns:
                table = self._votes(self._path)
        else:
            raise InputError(f"{self._path}: no such file or folder; give the scores as --params scores=PATH")
        is_long = "perturbation" in table.columns
        if not is_long and not any(str(c).startswith(SCORE) for c in table.columns):
            raise InputError(
                f"{self._path}: columns {first_few((str(c)[:40] for c in table.columns), 8)} are not scores; "
                f"expected id_code with {SCORE}<perturbation> columns, or id_code, perturbation, score"
            )
        if "tier" not in table.columns:
            table = pd.concat([table, pd.Series(self._tier, index=table.index, name="tier")], axis=1)
        if is_long:
            table = table.reindex(columns=["id_code", "perturbation", "score", "tier"])
            return validate_table(table, "well_scores_long", str(self._path))
        wide = table[["id_code", "tier", *[c for c in table.columns if str(c).startswith(SCORE)]]]
        texts = [c for c in wide.columns[2:] if not pd.api.types.is_numeric_dtype(wide[c])]
        if texts:
            raise InputError(f"{self._path}: column {texts[0]!r} has {wide[texts[0]].iloc[0]!r}, expected numbers")
        return validate_table(wide, "well_scores", str(self._path))

    def _csv(self, path: Path) -> pd.DataFrame:
        try:
            return pd.read_csv(
                path, encoding="utf-8-sig", dtype={"id_code": "str", "sirna": "str", "perturbation": "str"}
            )
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError) as error:
            raise InputError(f"{path}: cannot be read as csv: {error}") from error

    def _votes(self, path: Path) -> pd.DataFrame:
        table = self._csv(path)
        if not {"id_code", "sirna"} <= set(table.columns):
            raise InputError(
                f"{path}: columns {first_few((str(c)[:40] for c in table.columns), 8)}; expected id_code and sirna"
            )
        votes = table.loc[table["sirna"].notna(), ["id_code", "sirna"]]
        return votes.rename(columns={"sirna": "perturbation"}).assign(score=1.0)

    def _neighbours(self, table: pd.DataFrame) -> pd.DataFrame:
        ranks = [c.removeprefix("label") for c in table.columns if c.startswith("label")]
        parts = [
            pd.DataFrame({"id_code": table["id_code"], "label": table[f"label{r}"], "score": table[f"sim{r}"]})
            for r in ranks
        ]
        long = pd.concat(parts, ignore_index=True)
        long = long[long["label"] >= 0]
        return long.assign(perturbation=long["label"].astype("int64").astype("str")).drop(columns="label")

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path), "tier": self._tier}
