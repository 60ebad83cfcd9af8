"""Scores of somebody else's model: a parquet or csv table, a table of neighbours, or a folder of submissions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from kedro.io import AbstractDataset

from deepnoise.errors import InputError, first_few
from deepnoise.tables import SCORE, TIERS, validate_table


class ExternalScoresDataset(AbstractDataset[pd.DataFrame, pd.DataFrame]):
    """Loads ``well_scores``, wide or long, from what the path holds:

    - a folder of csv files (id_code, sirna): each is one vote a well,
    - a csv with label1, sim1, label2, sim2, ...: similarities, label -1 meaning "no neighbour",
    - a csv or parquet that is wide (``score_<perturbation>``) or long (perturbation, score).

    Args:
        filepath: The file or folder.
        tier: Tier of knowledge of the scores; ``unknown`` where their author did not say. A ``tier`` column wins.
        metadata: For kedro-viz.
    """

    def __init__(self, *, filepath: str, tier: str = "unknown", metadata: dict[str, Any] | None = None) -> None:
        if tier not in TIERS:
            raise InputError(f"scores_tier is {tier!r}; allowed: {', '.join(TIERS)}")
        self._path = Path(filepath)
        self._tier = tier
        self.metadata = metadata

    def load(self) -> pd.DataFrame:
        if self._path.is_dir():
            files = sorted([*self._path.glob("*.csv"), *self._path.glob("*.csv.gz")])
            if not files:
                raise InputError(f"{self._path}: holds no .csv or .csv.gz file; expected submissions (id_code, sirna)")
            table = pd.concat([self._votes(file) for file in files], ignore_index=True)
        elif self._path.is_file():
            table = pd.read_parquet(self._path) if self._path.suffix == ".parquet" else self._csv(self._path)
            if "label1" in table.columns:
                table = self._neighbours(table)
            elif "sirna" in table.columns and "score" not in table.columns:
                table = self._votes(self._path)
        else:
            raise InputError(f"{self._path}: no such file or folder; give the scores as --params scores=PATH")
        long = "perturbation" in table.columns
        if not long and not any(str(c).startswith(SCORE) for c in table.columns):
            raise InputError(
                f"{self._path}: columns {first_few((str(c)[:40] for c in table.columns), 8)} are no scores; expected id_code with "
                f"{SCORE}<perturbation> columns, or id_code, perturbation, score"
            )
        if "tier" not in table.columns:
            table = pd.concat([table, pd.Series(self._tier, index=table.index, name="tier")], axis=1)
        if long:
            table = table.reindex(columns=["id_code", "perturbation", "score", "tier"])
            return validate_table(table, "well_scores_long", str(self._path))
        wide = table[["id_code", "tier", *[c for c in table.columns if str(c).startswith(SCORE)]]]
        words = [c for c in wide.columns[2:] if not pd.api.types.is_numeric_dtype(wide[c])]
        if words:
            raise InputError(f"{self._path}: column {words[0]!r} holds {wide[words[0]].iloc[0]!r}, expected numbers")
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
        named = table.loc[table["sirna"].notna(), ["id_code", "sirna"]]
        return named.rename(columns={"sirna": "perturbation"}).assign(score=1.0)

    def _neighbours(self, table: pd.DataFrame) -> pd.DataFrame:
        ranks = [c.removeprefix("label") for c in table.columns if c.startswith("label")]
        parts = [
            pd.DataFrame({"id_code": table["id_code"], "label": table[f"label{r}"], "score": table[f"sim{r}"]})
            for r in ranks
        ]
        long = pd.concat(parts, ignore_index=True)
        long = long[long["label"] >= 0]
        return long.assign(perturbation=long["label"].astype("int64").astype("str")).drop(columns="label")

    def save(self, data: pd.DataFrame) -> None:
        raise InputError("scores of another model are an input and are never written")

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path), "tier": self._tier}
