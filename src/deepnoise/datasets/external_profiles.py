"""Profiles of somebody else's pipeline (CellProfiler, DINO, OpenPhenom, ...): one table with ``Metadata_`` columns and features."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from kedro.io import AbstractDataset

from deepnoise.datasets.long_table import fill, template_columns
from deepnoise.errors import InputError, closest, first_few
from deepnoise.ingestion.validation import PLACE, validate_wells
from deepnoise.tables import TIERS, prefixed, validate_table
from deepnoise.wells import normalize_well

logger = logging.getLogger(__name__)
METADATA = "Metadata_"
NEEDED = ("experiment", "plate", "well", "perturbation")
OPTIONAL = {"cell_type": "all", "well_type": "treatment", "plate_seen": "false"}
"""Columns that a table may lack, and what then stands in their place."""
YES = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class _Profiles(AbstractDataset[pd.DataFrame, pd.DataFrame]):
    """Reads the table and maps its metadata.

    Args:
        filepath: A parquet, csv or csv.gz, one row a well, site or cell; rows of one well are averaged.
        columns: Templates (``"{Metadata_Plate}"``, see :class:`deepnoise.datasets.long_table.LongTableDataset`) of experiment, plate,
            well and perturbation; also of cell_type, well_type and plate_seen, where the table has them.
        negative_controls: Perturbations that are negative controls.
        positive_controls: Perturbations that are positive controls.
        well_types: Value of the well_type template -> treatment, positive_control or negative_control.
        features: Beginnings of the feature columns; all numeric columns that are no metadata if not given.
        tier: Tier of knowledge of the profiles; ``unknown`` where their author did not say.
        metadata: For kedro-viz.
    """

    def __init__(
        self,
        *,
        filepath: str,
        columns: dict[str, str],
        negative_controls: list[str] | None = None,
        positive_controls: list[str] | None = None,
        well_types: dict[str, str] | None = None,
        features: list[str] | None = None,
        tier: str = "unknown",
        metadata: dict[str, Any] | None = None,
    ) -> None:
        absent = [name for name in NEEDED if name not in columns]
        strange = [name for name in columns if name not in (*NEEDED, *OPTIONAL)]
        if absent or strange:
            raise InputError(
                f"catalog: columns of the profiles {f'lack {absent[0]!r}' if absent else f'have an unknown {strange[0]!r}'}; "
                f"needed: {', '.join(NEEDED)}; allowed too: {', '.join(OPTIONAL)}"
            )
        if tier not in TIERS:
            raise InputError(f"catalog: tier of the profiles is {tier!r}; allowed: {', '.join(TIERS)}")
        self._path = Path(filepath)
        self._columns = {**OPTIONAL, **columns}
        self._controls = {"negative_control": negative_controls or [], "positive_control": positive_controls or []}
        self._well_types = well_types or {}
        self._features = tuple(features or [])
        self._tier = tier
        self.metadata = metadata

    def _read(self, features: bool) -> pd.DataFrame:
        """The table; its metadata alone where the features are not asked for."""
        import pyarrow.parquet as pq  # here, since hooks import this module in every run
        from pyarrow import ArrowException

        used = list(dict.fromkeys(c for t in self._columns.values() for c in template_columns(t)))
        if not self._path.is_file():
            raise InputError(f"{self._path}: no such file; give the profiles as --params profiles=PATH")
        parquet = self._path.suffix == ".parquet"
        try:
            if parquet:
                names = pq.read_schema(self._path).names
            else:
                names = list(pd.read_csv(self._path, nrows=0, encoding="utf-8-sig").columns)
            for column in used:
                if column not in names:
                    raise InputError(
                        f"{self._path}: column {column!r} is missing; it has {first_few((n for n in names if n.startswith(METADATA)), 12)} "
                        f"and {sum(not n.startswith(METADATA) for n in names)} others.{closest(column, names)} The catalog entry maps the columns"
                    )
            wanted = None if features else used
            table = pd.read_parquet(self._path, columns=wanted) if parquet else pd.read_csv(
                self._path, usecols=wanted, encoding="utf-8-sig", dtype=dict.fromkeys(used, "str")
            )  # fmt: skip
        except (ArrowException, pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError) as error:
            raise InputError(f"{self._path}: cannot be read as {'parquet' if parquet else 'csv'}: {error}") from error
        if table.empty:
            raise InputError(f"{self._path}: holds no row")
        for column in used:
            values = table[column]
            whole = pd.api.types.is_float_dtype(values) and bool((values.dropna() % 1 == 0).all())
            table[column] = (values.astype("Int64") if whole else values).astype("str").where(values.notna())
        return table

    def _places(self, table: pd.DataFrame) -> pd.DataFrame:
        rows = pd.DataFrame(
            {name: fill(template, table) for name, template in self._columns.items()}, index=table.index
        )
        for name in rows.columns:
            if name != "perturbation" and rows[name].isna().any():
                raise InputError(
                    f"{self._path}: {name} is empty in row {int(rows.index[rows[name].isna()][0]) + 1}; give every row one"
                )
        names = {}
        for well in rows["well"].unique():
            try:
                names[well] = normalize_well(well)
            except ValueError as error:
                raise InputError(f"{self._path}: {error}") from error
        rows["well"] = rows["well"].map(names)
        rows["well_type"] = rows["well_type"].replace(self._well_types)
        for kind, chosen in self._controls.items():
            rows.loc[rows["perturbation"].isin(chosen), "well_type"] = kind
        return rows

    def save(self, data: pd.DataFrame) -> None:
        raise InputError("profiles of another pipeline are an input and are never written")

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path), "columns": self._columns}


class ExternalProfileWellsDataset(_Profiles):
    """The table ``wells`` as the metadata of the profiles tell it; a well without perturbation counts as unlabelled."""

    def load(self) -> pd.DataFrame:
        rows = self._places(self._read(features=False))
        for name, what in (
            ("perturbation", "perturbations"),
            ("cell_type", "values of cell_type"),
            ("well_type", "values of well_type"),
        ):
            several = rows.groupby(PLACE)[name].nunique()
            if (several > 1).any():
                raise InputError(
                    f"{self._path}: well {'/'.join(several.index[several > 1][0])} has several {what}, expected one"
                )
        wells = rows.sort_values([*PLACE, "perturbation"], na_position="last").drop_duplicates(PLACE)
        wells = wells.assign(split="labelled", source=f"{self._path.name} row " + (wells.index + 1).astype(str))
        wells.loc[wells["perturbation"].isna(), "split"] = "heldout"
        return validate_wells(wells.drop(columns="plate_seen"), ["treatment"])[0]


class ExternalProfilesDataset(_Profiles):
    """The table ``well_embeddings``: the mean of the rows of each well, features that are not finite everywhere left out."""

    def load(self) -> pd.DataFrame:
        table = self._read(features=True)
        rows = self._places(table)
        columns = [c for c in table.columns if self._is_feature(table, c)]
        if not columns:
            raise InputError(
                f"{self._path}: has no feature column{f' that starts with {first_few(self._features)}' if self._features else ''}"
            )
        finite = np.array([np.isfinite(table[c].to_numpy(np.float64, na_value=np.nan)).all() for c in columns])
        if not finite.any():
            raise InputError(
                f"{self._path}: each of its {len(columns)} features is missing or infinite in some row; fill these in, or leave the rows out"
            )
        if not finite.all():
            logger.warning("%s: %s of %s features are not finite in every row and are left out", self._path.name, int((~finite).sum()), len(columns))  # fmt: skip
        chosen = [c for c, good in zip(columns, finite, strict=True) if good]
        seen = rows["plate_seen"].str.lower().map(YES)
        if seen.isna().any():
            raise InputError(
                f"{self._path}: plate_seen is {rows.loc[seen.isna(), 'plate_seen'].iloc[0]!r}; allowed: {', '.join(YES)}"
            )
        pooled = table[chosen].astype(np.float32).assign(**rows[PLACE], plate_seen=seen.astype(bool))
        pooled = (
            pooled.groupby(PLACE, sort=True).agg({**dict.fromkeys(chosen, "mean"), "plate_seen": "max"}).reset_index()
        )
        meta = pooled[[*PLACE, "plate_seen"]].assign(
            fold=0,
            role="heldout",
            tier=self._tier,
            id_code=pooled["experiment"] + "_" + pooled["plate"] + "_" + pooled["well"],
        )
        names = [f"{n:04d}" for n in range(len(chosen))]
        wide = prefixed(pooled[chosen].to_numpy(np.float32), names, "embedding_", meta.index)
        return validate_table(pd.concat([meta, wide], axis=1), "well_embeddings", str(self._path))

    def _is_feature(self, table: pd.DataFrame, column: str) -> bool:
        used = {c for t in self._columns.values() for c in template_columns(t)}
        if column in used or not pd.api.types.is_numeric_dtype(table[column]):
            return False
        return column.startswith(self._features) if self._features else not column.startswith(METADATA)
