"""External profiles (CellProfiler, DINO, OpenPhenom, ...): a table of features with ``Metadata_`` columns."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deepnoise.datasets.long_table import fill, template_columns
from deepnoise.datasets.read_only import ReadOnlyDataset
from deepnoise.datasets.text_tables import column_names, read_table
from deepnoise.errors import InputError, closest, first_few
from deepnoise.ingestion.validation import PLACE, one_row_per_well, wells_of
from deepnoise.names import known_names, not_a_feature, unify_doses
from deepnoise.tables import prefixed, validate_table
from deepnoise.tiers import TIERS
from deepnoise.wells import normalize_well

logger = logging.getLogger(__name__)
METADATA = "Metadata_"
NEEDED_COLUMNS = ("experiment", "plate", "well", "perturbation")
OPTIONAL_COLUMNS = {"cell_type": "all", "well_type": "treatment", "plate_seen": "false"}
"""Columns that a table may lack, with their default values."""
USUAL_NEGATIVE_CONTROLS = ("DMSO", "negative", "untreated")
"""Perturbations that are negative controls where the catalog names none."""
OUTWEIGHS = 0.5
"""A feature with more than this share of the variance of all is named in the log."""
TRUTH_VALUES = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class _ExternalProfiles(ReadOnlyDataset[pd.DataFrame]):
    """Reads the table and maps its metadata columns.

    Args:
        filepath: A parquet, csv or csv.gz with one row per well, site or cell. Rows of the same well are
            averaged.
        columns: Templates of experiment, plate, well and perturbation, such as ``"{Metadata_Plate}"`` (see
            :class:`deepnoise.datasets.long_table.LongTableDataset`). Optional: cell_type, well_type and
            plate_seen.
        negative_controls: Perturbations that are negative controls. If not given, those of DMSO, negative and
            untreated that occur, unless there is a well_type.
        positive_controls: Perturbations that are positive controls.
        well_types: Value of the well_type template -> treatment, positive_control or negative_control.
        features: Prefixes of the feature columns. If not given, every numeric column without the prefix
            ``Metadata_`` that is no row number, place or dose (:data:`deepnoise.names.NOT_FEATURES`).
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
        if "well_type" in columns and (negative_controls or positive_controls):
            raise InputError(
                "catalog: the profiles have both columns.well_type and a list of controls; give one of them, since the "
                "two can disagree on a well"
            )
        self._controls = {
            "negative_control": [] if negative_controls is None and "well_type" in columns else negative_controls,
            "positive_control": positive_controls or [],
        }
        self._well_types = well_types or {}
        self._features = tuple(features or [])
        self._tier = tier
        self.metadata = metadata

    def _read(self, features: bool) -> pd.DataFrame:
        """Read the table with its features, or only its metadata columns."""
        used = list(dict.fromkeys(c for t in self._columns.values() for c in template_columns(t)))
        if self._path.is_file():
            names = column_names(self._path)
            for column in used:
                if column not in names:
                    metadata = [name for name in names if name.startswith(METADATA)]
                    raise InputError(
                        f"{self._path}: column {column!r} is missing; it has {first_few(metadata, 12)} and "
                        f"{len(names) - len(metadata)} other columns.{closest(column, names)} "
                        "Correct 'columns' of the catalog entry"
                    )
        table = read_table(self._path, used, "give the profiles as --params profiles=PATH", only_text=not features)
        if table.empty:
            raise InputError(f"{self._path}: has no rows")
        unify_doses(table, used, self._path.name)
        return table

    def _well_metadata(self, table: pd.DataFrame) -> pd.DataFrame:
        """Experiment, plate, well and the other mapped columns of each row, with its number in ``source``."""
        rows = pd.DataFrame(
            {name: fill([template], table) for name, template in self._columns.items()}, index=table.index
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
        rows["source"] = "row " + (rows.index + 1).astype("str")
        rows["well_type"] = rows["well_type"].replace(self._well_types)
        present = set(rows["perturbation"].dropna())
        for well_type, given in self._controls.items():
            if given is None:  # the usual names, of which a table may have none
                perturbations = [name for name in USUAL_NEGATIVE_CONTROLS if name in present]
            else:
                where = f"catalog: {well_type}s of {self._path.name}"
                perturbations = known_names(given, present, "perturbation", where)
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
        wells = one_row_per_well(rows, ["perturbation", "cell_type", "well_type"], str(self._path))
        wells = wells.assign(split="labelled", source=f"{self._path.name} " + wells["source"])
        wells.loc[wells["perturbation"].isna(), "split"] = "heldout"
        return wells_of(wells.drop(columns="plate_seen"))


class ExternalProfilesDataset(_ExternalProfiles):
    """The table ``well_embeddings``: the mean over the rows of each well.

    Missing and infinite values are left out of the mean. A well without cells, which lacks more than half of its
    features, is left out; then a feature that some other well lacks. Both are named in the log.

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
        columns = self._features_of(table)
        seen = rows["plate_seen"].str.lower().map(TRUTH_VALUES)
        if seen.isna().any():
            unknown = rows.loc[seen.isna(), "plate_seen"].iloc[0]
            raise InputError(f"{self._path}: plate_seen is {unknown!r}; allowed: {', '.join(TRUTH_VALUES)}")
        values = table[columns].astype(np.float64)
        values = values.where(np.isfinite(values.to_numpy()))
        if values.isna().to_numpy().any():
            lost, rows_with = int(values.isna().to_numpy().sum()), int(values.isna().any(axis=1).sum())
            text = f"{lost:,} values of features are missing or infinite, in {rows_with} of {len(values)} rows"
            _say_once(logging.WARNING, self._path, text)
        key = [rows[column] for column in PLACE]
        means = self._complete(values.groupby(key, sort=True).mean())
        _warn_of_outweighing(means, self._path)
        seen_of_well = seen.astype(bool).groupby(key, sort=True).max().reindex(means.index)
        metadata = means.index.to_frame(index=False).assign(plate_seen=seen_of_well.to_numpy())
        metadata = metadata.assign(
            fold=0,
            role="heldout",
            tier=self._tier,
            id_code=metadata["experiment"] + "_" + metadata["plate"] + "_" + metadata["well"],
        )
        names = [f"{n:04d}" for n in range(means.shape[1])]
        embeddings = prefixed(means.to_numpy(np.float32), names, "embedding_", metadata.index)
        return validate_table(pd.concat([metadata, embeddings], axis=1), "well_embeddings", str(self._path))

    def _features_of(self, table: pd.DataFrame) -> list[str]:
        """The feature columns; logs which columns are taken, and which are not and why."""
        used = {c for t in self._columns.values() for c in template_columns(t)}
        numeric = [
            c for c in table.columns
            if c not in used and pd.api.types.is_numeric_dtype(table[c]) and not pd.api.types.is_bool_dtype(table[c])
        ]  # fmt: skip
        for prefix in self._features:
            if not any(c.startswith(prefix) for c in numeric):
                raise InputError(
                    f"{self._path}: has no feature column that starts with {prefix}.{closest(prefix, numeric)}"
                )
        reasons = {c: reason for c in numeric if (reason := not_a_feature(c, table[c]))}
        if self._features:
            features = [
                c for c in numeric if c.startswith(self._features) and (c not in reasons or c in self._features)
            ]
        else:
            features = [c for c in numeric if c not in reasons and not c.startswith(METADATA)]
        if not features:
            raise InputError(f"{self._path}: has no feature column")
        _say_once(logging.INFO, self._path, f"{len(features)} features: {first_few(features, 3)}")
        texts = [c for c in table.columns if c not in used and c not in numeric and not c.startswith(METADATA)]
        reasons |= dict.fromkeys(texts, "not numbers")
        left_out = [
            f"{c or 'a column without a name'} ({reason})" for c, reason in reasons.items() if c not in features
        ]
        if left_out:
            text = f"{len(left_out)} columns are not taken as features: {first_few(left_out)}"
            _say_once(logging.WARNING, self._path, text)
        return features

    def _complete(self, means: pd.DataFrame) -> pd.DataFrame:
        """The means without wells that lack more than half of the features, then without features that some well lacks."""
        lacking = means.isna().mean(axis=1)
        empty = means.index[lacking > 0.5]
        if len(empty) == len(means):
            raise InputError(
                f"{self._path}: each well lacks more than half of the {means.shape[1]} features; are they empty, or is "
                "another table needed?"
            )
        if len(empty):
            wells = first_few("/".join(place) for place in empty)
            text = f"{len(empty)} of {len(means)} wells lack more than half of the features and are left out: {wells}"
            _say_once(logging.WARNING, self._path, text)
            means = means.drop(empty)
        incomplete = means.columns[means.isna().any()]
        if len(incomplete) == means.shape[1]:
            raise InputError(
                f"{self._path}: each of its {len(incomplete)} features is missing or infinite in some well; "
                "fill in the values or remove the rows"
            )
        if len(incomplete):
            missing = f"{len(incomplete)} of {means.shape[1]} features are missing in some well"
            _say_once(logging.WARNING, self._path, f"{missing} and are left out: {first_few(incomplete)}")
            means = means.drop(columns=incomplete)
        return means


_said: set[tuple[str, str]] = set()


def _say_once(level: int, path: Path, message: str) -> None:
    """Log what was found in a file, once: a run reads it in several nodes."""
    if (str(path), message) not in _said:
        _said.add((str(path), message))
        logger.log(level, "%s: %s", path.name, message)


def _warn_of_outweighing(means: pd.DataFrame, path: Path) -> None:
    """Name a feature that has most of the variance: distances between wells would follow it alone."""
    variance = means.var(axis=0, ddof=0)
    if len(variance) > 2 and variance.max() > OUTWEIGHS * variance.sum():
        share = f"{100 * variance.max() / variance.sum():.0f} % of the variance of all {len(variance)} features"
        _say_once(
            logging.WARNING,
            path,
            f"feature {variance.idxmax()} has {share}, so distances between wells follow it; standardize the features, or "
            "leave it out with 'features'",
        )
