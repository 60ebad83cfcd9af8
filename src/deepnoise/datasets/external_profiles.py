"""External profiles (CellProfiler, DINO, OpenPhenom, ...): a table of features with ``Metadata_`` columns."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deepnoise.datasets.long_table import fill, template_columns
from deepnoise.datasets.read_only import ReadOnlyDataset
from deepnoise.errors import InputError, closest, first_few
from deepnoise.ingestion.validation import PLACE, validate_wells
from deepnoise.tables import as_text, prefixed, validate_table
from deepnoise.tiers import TIERS
from deepnoise.wells import normalize_well

logger = logging.getLogger(__name__)
METADATA = "Metadata_"
NEEDED_COLUMNS = ("experiment", "plate", "well", "perturbation")
OPTIONAL_COLUMNS = {"cell_type": "all", "well_type": "treatment", "plate_seen": "false"}
"""Columns that a table may lack, with their default values."""
TRUTH_VALUES = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class _ExternalProfiles(ReadOnlyDataset[pd.DataFrame]):
    """Reads the table and maps its metadata columns.

    Args:
        filepath: A parquet, csv or csv.gz with one row per well, site or cell. Rows of the same well are
            averaged.
        columns: Templates of experiment, plate, well and perturbation, such as ``"{Metadata_Plate}"`` (see
            :class:`deepnoise.datasets.long_table.LongTableDataset`). Optional: cell_type, well_type and
            plate_seen.
        negative_controls: Perturbations that are negative controls.
        positive_controls: Perturbations that are positive controls.
        well_types: Value of the well_type template -> treatment, positive_control or negative_control.
        features: Prefixes of the feature columns. If not given, every numeric column without the prefix
            ``Metadata_``.
        tier: Tier of the profiles: what their model was allowed to know. ``unknown`` if its author did not
            say.
        metadata: For kedro-viz.
    """

    read_only = "external profiles are an input and are never written"

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
        missing = [name for name in NEEDED_COLUMNS if name not in columns]
        unknown = [name for name in columns if name not in (*NEEDED_COLUMNS, *OPTIONAL_COLUMNS)]
        if missing or unknown:
            problem = f"lack {missing[0]!r}" if missing else f"have an unknown {unknown[0]!r}"
            raise InputError(
                f"catalog: columns of the profiles {problem}; "
                f"needed: {', '.join(NEEDED_COLUMNS)}; optional: {', '.join(OPTIONAL_COLUMNS)}"
            )
        if tier not in TIERS:
            raise InputError(f"catalog: tier of the profiles is {tier!r}; allowed: {', '.join(TIERS)}")
        self._path = Path(filepath)
        self._columns = {**OPTIONAL_COLUMNS, **columns}
        self._controls = {"negative_control": negative_controls or [], "positive_control": positive_controls or []}
        self._well_types = well_types or {}
        self._features = tuple(features or [])
        self._tier = tier
        self.metadata = metadata

    def _read(self, features: bool) -> pd.DataFrame:
        """Read the table with its features, or only its metadata columns."""
        import pyarrow.parquet as pq  # here, because the hooks import this module in every run
        from pyarrow import ArrowException

        used = list(dict.fromkeys(c for t in self._columns.values() for c in template_columns(t)))
        if not self._path.is_file():
            raise InputError(f"{self._path}: no such file; give the profiles as --params profiles=PATH")
        is_parquet = self._path.suffix == ".parquet"
        try:
            if is_parquet:
                names = pq.read_schema(self._path).names
            else:
                names = list(pd.read_csv(self._path, nrows=0, encoding="utf-8-sig").columns)
            for column in used:
                if column not in names:
                    metadata = [name for name in names if name.startswith(METADATA)]
                    raise InputError(
                        f"{self._path}: column {column!r} is missing; it has {first_few(metadata, 12)} and "
                        f"{len(names) - len(metadata)} other columns.{closest(column, names)} "
                        "Correct 'columns' of the catalog entry"
                    )
            selected = None if features else used
            table = pd.read_parquet(self._path, columns=selected) if is_parquet else pd.read_csv(
                self._path, usecols=selected, encoding="utf-8-sig", dtype=dict.fromkeys(used, "str")
            )  # fmt: skip
        except (ArrowException, pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError) as error:
            raise InputError(
                f"{self._path}: cannot be read as {'parquet' if is_parquet else 'csv'}: {error}"
            ) from error
        if table.empty:
            raise InputError(f"{self._path}: has no rows")
        for column in used:
            table[column] = as_text(table[column])
        return table

    def _well_metadata(self, table: pd.DataFrame) -> pd.DataFrame:
        """Experiment, plate, well and the other mapped columns of each row."""
        rows = pd.DataFrame(
            {name: fill(template, table) for name, template in self._columns.items()}, index=table.index
        )
        for name in rows.columns:
            empty = rows.index[rows[name].isna()]
            if name != "perturbation" and len(empty):
                raise InputError(f"{self._path}: {name} is empty in row {int(empty[0]) + 1}; every row needs one")
        names = {}
        for well in rows["well"].unique():
            try:
                names[well] = normalize_well(well)
            except ValueError as error:
                raise InputError(f"{self._path}: {error}") from error
        rows["well"] = rows["well"].map(names)
        rows["well_type"] = rows["well_type"].replace(self._well_types)
        for well_type, perturbations in self._controls.items():
            rows.loc[rows["perturbation"].isin(perturbations), "well_type"] = well_type
        return rows

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path), "columns": self._columns}


class ExternalProfileWellsDataset(_ExternalProfiles):
    """The table ``wells`` from the metadata of the profiles. A well without a perturbation is unlabelled.

    Catalog::

        wells:
          type: deepnoise.datasets.external_profiles.ExternalProfileWellsDataset
          filepath: data/01_raw/external_profiles/profiles.parquet
          columns:
            experiment: "{Metadata_Experiment}"
            plate: "{Metadata_Plate}"
            well: "{Metadata_Well}"
            perturbation: "{Metadata_Perturbation}"
          negative_controls: [DMSO]
    """

    def load(self) -> pd.DataFrame:
        rows = self._well_metadata(self._read(features=False))
        for name, plural in (
            ("perturbation", "perturbations"),
            ("cell_type", "values of cell_type"),
            ("well_type", "values of well_type"),
        ):
            counts = rows.groupby(PLACE)[name].nunique()
            if (counts > 1).any():
                raise InputError(
                    f"{self._path}: well {'/'.join(counts.index[counts > 1][0])} has several {plural}, expected one"
                )
        wells = rows.sort_values([*PLACE, "perturbation"], na_position="last").drop_duplicates(PLACE)
        wells = wells.assign(split="labelled", source=f"{self._path.name} row " + (wells.index + 1).astype(str))
        wells.loc[wells["perturbation"].isna(), "split"] = "heldout"
        return validate_wells(wells.drop(columns="plate_seen"), ["treatment"])[0]


class ExternalProfilesDataset(_ExternalProfiles):
    """The table ``well_embeddings``: the mean over the rows of each well.

    Features that have a non-finite value in some row are left out.

    Catalog::

        well_embeddings:
          type: deepnoise.datasets.external_profiles.ExternalProfilesDataset
          filepath: data/01_raw/external_profiles/profiles.parquet
          columns:
            experiment: "{Metadata_Experiment}"
            plate: "{Metadata_Plate}"
            well: "{Metadata_Well}"
            perturbation: "{Metadata_Perturbation}"
          features: [Cells_, Nuclei_]
          tier: T1
    """

    def load(self) -> pd.DataFrame:
        table = self._read(features=True)
        rows = self._well_metadata(table)
        columns = [c for c in table.columns if self._is_feature(table, c)]
        if not columns:
            prefixes = f" that starts with {first_few(self._features)}" if self._features else ""
            raise InputError(f"{self._path}: has no feature column{prefixes}")
        finite = np.array([np.isfinite(table[c].to_numpy(np.float64, na_value=np.nan)).all() for c in columns])
        if not finite.any():
            raise InputError(
                f"{self._path}: each of its {len(columns)} features is missing or infinite in some row; "
                "fill in the values or remove the rows"
            )
        if not finite.all():
            logger.warning(
                "%s: %s of %s features are not finite in every row and are left out",
                self._path.name,
                int((~finite).sum()),
                len(columns),
            )
        features = [c for c, is_finite in zip(columns, finite, strict=True) if is_finite]
        seen = rows["plate_seen"].str.lower().map(TRUTH_VALUES)
        if seen.isna().any():
            unknown = rows.loc[seen.isna(), "plate_seen"].iloc[0]
            raise InputError(f"{self._path}: plate_seen is {unknown!r}; allowed: {', '.join(TRUTH_VALUES)}")
        pooled = table[features].astype(np.float32).assign(**rows[PLACE], plate_seen=seen.astype(bool))
        pooled = (
            pooled.groupby(PLACE, sort=True).agg({**dict.fromkeys(features, "mean"), "plate_seen": "max"}).reset_index()
        )
        metadata = pooled[[*PLACE, "plate_seen"]].assign(
            fold=0,
            role="heldout",
            tier=self._tier,
            id_code=pooled["experiment"] + "_" + pooled["plate"] + "_" + pooled["well"],
        )
        names = [f"{n:04d}" for n in range(len(features))]
        embeddings = prefixed(pooled[features].to_numpy(np.float32), names, "embedding_", metadata.index)
        return validate_table(pd.concat([metadata, embeddings], axis=1), "well_embeddings", str(self._path))

    def _is_feature(self, table: pd.DataFrame, column: str) -> bool:
        used = {c for t in self._columns.values() for c in template_columns(t)}
        if column in used or not pd.api.types.is_numeric_dtype(table[column]):
            return False
        return column.startswith(self._features) if self._features else not column.startswith(METADATA)
