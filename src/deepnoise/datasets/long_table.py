"""A generic file layout: a csv with one row per site (or image file), its columns mapped in the catalog."""

from __future__ import annotations

import re
from string import Formatter
from typing import Any

import fsspec
import pandas as pd

from deepnoise.datasets.files import Folder, SiteFiles, read_csv
from deepnoise.datasets.read_only import ReadOnlyDataset
from deepnoise.errors import InputError, closest
from deepnoise.ingestion.validation import PLACE, RAW_COLUMNS
from deepnoise.wells import well_or_none

SOURCE = "file and line"
NEEDED_COLUMNS = ["experiment", "plate", "well", "cell_type", "perturbation"]


class _LongTable(ReadOnlyDataset[Any]):
    """Reads the csv and maps its columns.

    A template is a text with column names in braces, such as ``"{compound}@{concentration}"``.
    ``{column:regex}`` takes the first group of the first match, or the whole match if there is no group:
    ``"{file:_s([0-9]+)_}"``. A text without braces is a constant.

    Args:
        filepath: The csv (or .csv.gz): a path or an fsspec URL. With ``*``, all files that match are
            concatenated.
        columns: Templates of experiment, plate, well, cell_type and perturbation. Optional: well_type, and
            site (a number; without it the rows of a well are numbered in their order).
        files: Template of the path of an image with all channels, or channel name -> template of that
            channel's path.
        root: Folder that ``files`` and ``join`` are relative to; the csv's folder if not given.
        channels: Channel names, in order, where one file has all channels.
        join: More csv files, joined on the columns that they share with the first.
        well_types: Value of the well_type template ("" if empty) -> treatment, positive_control or
            negative_control.
        negative_controls: Perturbations that are negative controls, if there is no well_type.
        positive_controls: Perturbations that are positive controls, if there is no well_type.
        heldout: csv column -> values whose rows are unlabelled: predicted, never trained on.
        exclude: csv column -> values whose rows are left out.
        dtype: uint8 or uint16 if all images must have it; otherwise the most common dtype is used.
        metadata: For kedro-viz.
    """

    read_only = "raw data is an input and is never written"

    def __init__(
        self,
        *,
        filepath: str,
        columns: dict[str, str],
        files: str | dict[str, str] | None = None,
        root: str | None = None,
        channels: list[str] | None = None,
        join: list[str] | None = None,
        well_types: dict[str, str] | None = None,
        negative_controls: list[str] | None = None,
        positive_controls: list[str] | None = None,
        heldout: dict[str, list[str]] | None = None,
        exclude: dict[str, list[str]] | None = None,
        dtype: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._path = filepath
        self._name = filepath.rsplit("/", 1)[-1]
        self._columns = {name: str(template) for name, template in columns.items()}
        self._files = files if isinstance(files, dict) else {"file": files} if files else {}
        self._folder = root or (filepath.rsplit("/", 1)[0] if "/" in filepath else ".")
        self._channels = list(files) if isinstance(files, dict) else channels or []
        self._join = join or []
        self._well_types = {str(k): v for k, v in (well_types or {}).items()}
        self._controls = {
            "negative_control": [str(name) for name in negative_controls or []],
            "positive_control": [str(name) for name in positive_controls or []],
        }
        self._heldout, self._exclude = _texts(heldout), _texts(exclude)
        self._dtype = dtype
        self.metadata = metadata
        missing = [name for name in NEEDED_COLUMNS if name not in columns]
        unknown = [name for name in columns if name not in (*NEEDED_COLUMNS, "site", "well_type")]
        if missing or unknown:
            raise InputError(
                f"catalog: columns of {self._name} "
                + (f"lack {missing[0]!r}" if missing else f"have an unknown {unknown[0]!r}")
                + f"; needed: {', '.join(NEEDED_COLUMNS)}; optional: site, well_type"
            )
        for name, template in {**self._columns, **{f"files.{c}": t for c, t in self._files.items()}}.items():
            try:
                for _, _, pattern in _fields(template):
                    re.compile(pattern)
            except (ValueError, re.error) as error:
                raise InputError(f"catalog: the template {template!r} of {name} cannot be read ({error})") from error

    def _table(self) -> pd.DataFrame:
        """The csv with joined tables and without excluded rows. The column ``SOURCE`` names file and line."""
        templates = [*self._columns.values(), *self._files.values()]
        used = [c for t in templates for _, c, _ in _fields(t)] + [*self._heldout, *self._exclude]
        parts = []
        paths = self._paths()
        for path in paths:
            rows = read_csv(path, list(dict.fromkeys(used)) if not self._join else [])
            short_path = path.rsplit("/", 1)[-1] if len(paths) == 1 else "/".join(path.split("/")[-3:])
            rows[SOURCE] = short_path + " line " + (rows.index + 2).astype(str)
            parts.append(rows)
        table = pd.concat(parts, ignore_index=True)
        for name in self._join:
            joined = read_csv(f"{self._folder}/{name}", [])
            shared = [c for c in joined.columns if c in table.columns]
            if not shared:
                raise InputError(
                    f"{name}: shares no column with {self._name} ({', '.join(table.columns[:8])}); cannot be joined"
                )
            repeated = joined[joined.duplicated(shared)]
            if len(repeated):
                key = dict(repeated[shared].iloc[0])
                raise InputError(f"{name}: line {repeated.index[0] + 2} repeats {key}; expected one row each")
            table = table.merge(joined, on=shared, how="left")
        for column in dict.fromkeys(used):
            if column not in table.columns:
                files = ", ".join([self._name, *self._join])
                raise InputError(f"{files}: column {column!r} is missing.{closest(column, table.columns)}")
        return table[~_matches(table, self._exclude)]

    def _paths(self) -> list[str]:
        if "*" not in self._path:
            return [self._path]
        fs, pattern = fsspec.core.url_to_fs(self._path)
        paths = [fs.unstrip_protocol(path) for path in sorted(fs.glob(pattern))]
        if not paths:
            raise InputError(f"{self._path}: no file matches. Check raw_root")
        return paths

    def _rows(self) -> pd.DataFrame:
        table = self._table()
        rows = pd.DataFrame(
            {name: fill(template, table) for name, template in self._columns.items()}, index=table.index
        )
        rows["split"] = _matches(table, self._heldout).map({True: "heldout", False: "labelled"})
        if "well_type" in rows:
            rows["well_type"] = rows["well_type"].fillna("").replace(self._well_types)
        for name in self._columns:
            required = rows["split"] == "labelled" if name == "perturbation" else pd.Series(True, index=rows.index)
            self._check_complete(name, self._columns[name], rows[name][required], table)
        for channel, template in self._files.items():
            rows[f"file {channel}"] = fill(template, table)
            self._check_complete(f"files.{channel}", template, rows[f"file {channel}"], table)
        rows["source"] = table[SOURCE]
        rows["well"] = [well_or_none(well) or well for well in rows["well"]]  # A1 and A01 are the same well
        return rows

    def _check_complete(self, name: str, template: str, values: pd.Series, table: pd.DataFrame) -> None:
        empty_rows = values.index[values.isna()]
        if not len(empty_rows):
            return
        first = empty_rows[0]
        problem = f"{name} is empty"
        for _, column, pattern in _fields(template):
            if pd.isna(table.at[first, column]):
                problem = f"column {column!r} is empty"
                break
            if pattern and not re.search(pattern, table.at[first, column]):
                problem = f"{name}: {table.at[first, column]!r} of column {column!r} does not match {pattern!r}"
                break
        raise InputError(
            f"{table.at[first, SOURCE]}: {problem} ({len(empty_rows)} rows); give a value, or drop the rows with "
            "'exclude'"
        )

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._path, "columns": self._columns}


def _texts(values_of: dict[str, list[str]] | None) -> dict[str, list[str]]:
    return {column: [str(v) for v in values] for column, values in (values_of or {}).items()}


def _matches(table: pd.DataFrame, values_of: dict[str, list[str]]) -> pd.Series:
    """Whether each row has one of the given values in one of the given columns."""
    matches = pd.Series(False, index=table.index)
    for column, values in values_of.items():
        matches |= table[column].isin(values)
    return matches


def _fields(template: str) -> list[tuple[str, str, str]]:
    """The columns in a template: (text before it, name of the column, regex)."""
    return [(text, name, spec or "") for text, name, spec, _ in Formatter().parse(template) if name]


def template_columns(template: str) -> list[str]:
    """The columns that a template uses."""
    return [column for _, column, _ in _fields(template)]


def fill(template: str, table: pd.DataFrame) -> pd.Series:
    """The template's value in each row; missing where a column is empty or does not match its regex."""
    filled = pd.Series("", index=table.index, dtype="str")
    for text, column, pattern, _ in Formatter().parse(template):
        filled = filled + text
        if column:
            values = table[column]
            if pattern:
                grouped = pattern if re.compile(pattern).groups else f"({pattern})"
                values = values.str.extract(grouped)[0]
            filled = filled + values
    return filled


class LongTableDataset(_LongTable):
    """The wells of the csv as a raw table.

    Catalog::

        raw_wells:
          type: deepnoise.datasets.long_table.LongTableDataset
          filepath: data/01_raw/my_screen/images.csv
          columns:
            experiment: "{batch}"
            plate: "{plate}"
            well: "{well}"
            cell_type: U2OS
            perturbation: "{compound}@{concentration}"
          negative_controls: ["DMSO@0.0"]
    """

    def load(self) -> pd.DataFrame:
        rows = self._rows()
        counts = rows.groupby(PLACE)["perturbation"].nunique()
        if (counts > 1).any():
            raise InputError(
                f"{self._path}: well {'/'.join(counts.index[counts > 1][0])} has several perturbations, expected one"
            )
        perturbations = set(rows["perturbation"])
        for well_type, names in self._controls.items():
            for name in names:
                if name not in perturbations:
                    raise InputError(
                        f"{self._path}: {well_type.replace('_', ' ')} {name!r} occurs in no row."
                        f"{closest(name, perturbations - {None})}"
                    )
        wells = rows.drop_duplicates(PLACE).copy()
        if "well_type" not in self._columns:
            wells["well_type"] = "treatment"
            for well_type, names in self._controls.items():
                wells.loc[wells["perturbation"].isin(names), "well_type"] = well_type
        return wells[list(RAW_COLUMNS)].reset_index(drop=True)


class LongTableLabelsDataset(_LongTable):
    """The table ``heldout_labels``: all perturbations in the csv, to score held-out plates.

    Catalog::

        heldout_labels:
          type: deepnoise.datasets.long_table.LongTableLabelsDataset
          filepath: data/01_raw/my_screen/images.csv
          columns:
            experiment: "{batch}"
            plate: "{plate}"
            well: "{well}"
            cell_type: U2OS
            perturbation: "{compound}@{concentration}"
    """

    def load(self) -> pd.DataFrame:
        rows = self._rows().drop_duplicates(PLACE).dropna(subset=["perturbation"])
        id_code = rows["experiment"] + "_" + rows["plate"] + "_" + rows["well"]
        return pd.DataFrame({"id_code": id_code, "perturbation": rows["perturbation"]}).reset_index(drop=True)


class LongTableImagesDataset(_LongTable):
    """The images of a csv with one row per site. Loading lists their folders and opens no image.

    Catalog::

        raw_images:
          type: deepnoise.datasets.long_table.LongTableImagesDataset
          filepath: data/01_raw/my_screen/images.csv
          columns:
            experiment: "{batch}"
            plate: "{plate}"
            well: "{well}"
            site: "{site}"
            cell_type: U2OS
            perturbation: "{compound}@{concentration}"
          files:
            DNA: "{folder}/{file_dna}"
            actin: "{folder}/{file_actin}"
    """

    def load(self) -> SiteFiles:
        if not self._files:
            raise InputError(
                f"catalog: the images entry of {self._name} has no 'files'; give the template of their paths"
            )
        rows = self._rows()
        sites = rows[PLACE].copy()
        if "site" in self._columns:
            invalid = rows[~rows["site"].str.fullmatch(r"0*[0-9]+")]
            if len(invalid):
                row = invalid.iloc[0]
                raise InputError(f"{self._path}: site {row['site']!r} ({row['source']}); expected a whole number")
            sites["site"] = rows["site"].astype(int)
        else:
            sites["site"] = sites.groupby(PLACE).cumcount() + 1
        folder = Folder(self._folder)
        names = [tuple(row) for row in rows[[c for c in rows if c.startswith("file ")]].to_numpy()]
        sites["files"] = names
        sites["missing"] = [tuple(n for n in files if folder.info(n) is None) for files in names]
        return SiteFiles(
            folder,
            self._channels,
            sites.reset_index(drop=True),
            dtype=self._dtype,
            numbered_sites="site" in self._columns,
        )
