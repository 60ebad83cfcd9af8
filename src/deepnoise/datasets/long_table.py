"""A generic file layout: a csv with one row per site (or image file), its columns mapped in the catalog."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from string import Formatter
from typing import Any

import fsspec
import pandas as pd

from deepnoise.datasets.files import SiteFiles
from deepnoise.datasets.folder import Folder
from deepnoise.datasets.read_only import ReadOnlyDataset
from deepnoise.datasets.text_tables import missing_column_hint, read_csv
from deepnoise.errors import InputError, closest, first_few
from deepnoise.ingestion.validation import PLACE, RAW_COLUMNS, one_row_per_well
from deepnoise.names import DOSE, known_names, number_of, unify_doses
from deepnoise.wells import well_or_none

logger = logging.getLogger(__name__)
SOURCE = "file and line"
HELDOUT = "row is held out"
NEEDED_COLUMNS = ("experiment", "plate", "well", "cell_type", "perturbation")
OPTIONAL_COLUMNS = ("site", "well_type", "channel")


class _LongTable(ReadOnlyDataset[Any]):
    """Reads the csv and maps its columns.

    A template is a text with column names in braces, such as ``"{compound}@{concentration}"``.
    ``{column:regex}`` takes the first group of the first match, or the whole match if there is no group:
    ``"{file:_s([0-9]+)_}"``. ``{column|0}`` is 0 where the column is empty. A text without braces is a constant. In
    place of a template a list of templates may be given: each row takes the first that the table can fill.

    Args:
        filepath: The csv (or .csv.gz, .tsv): a path or an fsspec URL. With ``*``, all files that match are
            concatenated.
        columns: Templates of experiment, plate, well, cell_type and perturbation. Optional: well_type, site (a
            number; without it the rows of a well are numbered in their order), and channel, where each row is one
            image of one channel.
        files: Template of the path of an image with all channels, or channel name -> template of that
            channel's path; with ``columns.channel``, template of the path of a row's image.
        root: Folder that ``files`` and ``join`` are relative to; the csv's folder if not given.
        channels: Channel names, in order, where one file has all channels, or each row one channel.
        z: Which plane of an image with several z planes is read: ``max`` (of each pixel) or ``middle``. If not given,
            such an image is a finding.
        join: More csv files, joined on the columns that they share with the first. Instead of a name: ``file`` (may
            have ``*``) and ``on``, a column of the first table -> the column of the joined one.
        well_types: Value of the well_type template ("" if empty) -> treatment, positive_control or
            negative_control.
        negative_controls: Perturbations that are negative controls, if there is no well_type.
        positive_controls: Perturbations that are positive controls, if there is no well_type.
        heldout: csv column -> values whose rows are unlabelled: predicted, never trained on. "" is an empty field.
        exclude: csv column -> values whose rows are left out.
        dtype: uint8 or uint16 if all images must have it; otherwise the most common dtype is used.
        metadata: For kedro-viz.
    """

    read_only = "raw data is an input and is never written"

    def __init__(
        self,
        *,
        filepath: str,
        columns: dict[str, str | list[str]],
        files: str | list[str] | dict[str, str | list[str]] | None = None,
        root: str | None = None,
        channels: list[str] | None = None,
        z: str | None = None,
        join: list[str | dict[str, Any]] | None = None,
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
        self._columns = {name: _alternatives(template) for name, template in columns.items()}
        by_channel = files if isinstance(files, dict) else {"file": files} if files else {}
        self._files = {channel: _alternatives(template) for channel, template in by_channel.items()}
        self._folder = root or (filepath.rsplit("/", 1)[0] if "/" in filepath else ".")
        self._channels = list(files) if isinstance(files, dict) else channels or []
        self._z = z
        self._join = [{"file": entry} if isinstance(entry, str) else dict(entry) for entry in _as_list(join)]
        self._well_types = {str(k): v for k, v in (well_types or {}).items()}
        self._controls = {
            "negative_control": _as_list(negative_controls),
            "positive_control": _as_list(positive_controls),
        }
        self._heldout, self._exclude = heldout or {}, exclude or {}
        self._dtype = dtype
        self.metadata = metadata
        self._check_entry()

    def _check_entry(self) -> None:
        missing = [name for name in NEEDED_COLUMNS if name not in self._columns]
        unknown = [name for name in self._columns if name not in (*NEEDED_COLUMNS, *OPTIONAL_COLUMNS)]
        if missing or unknown:
            raise InputError(
                f"catalog: columns of {self._name} "
                + (f"lack {missing[0]!r}" if missing else f"have an unknown {unknown[0]!r}")
                + f"; needed: {', '.join(NEEDED_COLUMNS)}; optional: {', '.join(OPTIONAL_COLUMNS)}"
            )
        if "well_type" in self._columns and any(self._controls.values()):
            key = next(well_type for well_type, names in self._controls.items() if names)
            raise InputError(
                f"catalog: {self._name} has both columns.well_type and {key}s; give one of them, since the two can "
                "disagree on a well"
            )
        if "channel" in self._columns and not (
            self._channels and "site" in self._columns and list(self._files) in ([], ["file"])
        ):
            raise InputError(
                f"catalog: {self._name} has one row per image (columns.channel); it needs columns.site, a list of "
                "'channels', and one template 'files'"
            )
        for entry in self._join:
            if not {"file"} <= set(entry) <= {"file", "on"}:
                raise InputError(f"catalog: join of {self._name} has {entry!r}; expected a file, or file and on")
        for name, templates in {**self._columns, **{f"files.{c}": t for c, t in self._files.items()}}.items():
            for template in templates:
                try:
                    for field in _fields(template):
                        re.compile(field.pattern)
                        if not field.column:
                            raise ValueError("braces without the name of a column")
                except (ValueError, re.error) as error:
                    raise InputError(
                        f"catalog: the template {template!r} of {name} cannot be read ({error})"
                    ) from error

    def _table(self) -> pd.DataFrame:
        """The csv with joined tables and without excluded rows. ``SOURCE`` names file and line, ``HELDOUT`` the split."""
        templates = {**self._columns, **{f"files.{channel}": t for channel, t in self._files.items()}}
        used = {c for alternatives in templates.values() for t in alternatives for c in template_columns(t)}
        used |= {*self._heldout, *self._exclude}
        joins = [(entry, self._joined_table(entry)) for entry in self._join]
        keys = {str(c) for entry, joined in joins for c in (entry.get("on") or joined.columns)}
        parts = []
        available: dict[str, None] = {}  # columns of any table, in order
        paths = matching_paths(self._path)
        for path in paths:
            rows = read_csv(path, [])
            available |= dict.fromkeys(rows.columns)
            rows = rows[[c for c in rows if c in used | keys]]
            short_path = path.rsplit("/", 1)[-1] if len(paths) == 1 else "/".join(path.split("/")[-3:])
            parts.append(rows.assign(**{SOURCE: short_path + " line " + (rows.index + 2).astype("str")}))
        table = pd.concat(parts, ignore_index=True)
        for entry, joined in joins:
            table = self._add(table, entry, joined, list(available))
            available |= dict.fromkeys(joined.columns)
        for alternatives in [*templates.values(), *([f"{{{column}}}"] for column in (*self._heldout, *self._exclude))]:
            if not _usable(alternatives, table.columns):
                column = next(c for c in template_columns(alternatives[0]) if c not in table.columns)
                files = ", ".join([self._name, *(str(entry["file"]) for entry in self._join)])
                raise InputError(
                    f"{files}: column {column!r} is missing.{missing_column_hint(column, list(available))}"
                )
        unify_doses(table, sorted(used & set(table.columns)), self._name)
        table[HELDOUT] = self._matches(table, self._heldout, "heldout")
        excluded = self._matches(table, self._exclude, "exclude")
        if excluded.all():
            raise InputError(f"{self._path}: no row is left of {len(table)}; 'exclude' leaves all of them out")
        if excluded.any():
            logger.info("%s: %s of %s rows are left out by 'exclude'", self._name, int(excluded.sum()), len(table))
        return table[~excluded]

    def _joined_table(self, entry: dict[str, Any]) -> pd.DataFrame:
        parts = [
            read_csv(path, list((entry.get("on") or {}).values()))
            for path in matching_paths(f"{self._folder}/{entry['file']}")
        ]
        return pd.concat(parts).drop_duplicates()  # the same plate map may lie in the folder of each batch

    def _add(
        self, table: pd.DataFrame, entry: dict[str, Any], joined: pd.DataFrame, available: Iterable[str]
    ) -> pd.DataFrame:
        """The table with the columns of a joined one; rows without a partner have missing values there."""
        name = entry["file"]
        shared = [c for c in joined.columns if c in table.columns]
        pairs = entry.get("on") or {column: column for column in shared}
        if not pairs:
            raise InputError(
                f"{name}: shares no column with {self._name} ({first_few(available, 8)}); cannot be joined"
            )
        for column in pairs:
            if column not in table:
                raise InputError(
                    f"catalog: join of {name}: column {column!r} is missing in {self._name}.{closest(column, table.columns)}"
                )
        clash = [c for c in shared if c not in pairs and c not in pairs.values()]
        if clash:
            raise InputError(f"{name}: column {clash[0]!r} is in {self._name} too; add it to 'on', or rename it")
        joined = joined.rename(columns={theirs: ours for ours, theirs in pairs.items()})
        joined = joined.dropna(subset=list(pairs))  # pandas would join an empty field to every other empty one
        wells = {c for t in self._columns["well"] for c in template_columns(t)}
        for column in wells & set(pairs):  # A1 and A01 are the same well
            table[column], joined[column] = (
                side[column].map(lambda well: well if pd.isna(well) else well_or_none(well) or well)
                for side in (table, joined)
            )
        repeated = joined[joined.duplicated(list(pairs))]
        if len(repeated):
            first = dict(repeated[list(pairs)].iloc[0])
            raise InputError(f"{name}: line {repeated.index[0] + 2} repeats {first}; expected one row each")
        merged = table.merge(joined, on=list(pairs), how="left", indicator="has a partner")
        alone = merged["has a partner"] == "left_only"
        if alone.all():
            row = merged.iloc[0]
            key = ", ".join(f"{c} {row[c]!r}" for c in pairs)
            hints = [closest(row[c], joined[c].dropna().unique()) for c in pairs if row[c] not in set(joined[c])]
            raise InputError(
                f"{name}: has no row with {key} ({row[SOURCE]}), nor for any other row.{''.join(hints[:1])}"
            )
        if alone.any():
            logger.warning("%s: has no row for %s of %s rows of %s, the first: %s", name, int(alone.sum()), len(merged), self._name, merged.loc[alone, SOURCE].iloc[0])  # fmt: skip
        return merged.drop(columns="has a partner")

    def _matches(self, table: pd.DataFrame, values_of: dict[str, list[str]], key: str) -> pd.Series:
        """Whether each row has one of the given values in one of the given columns."""
        matches = pd.Series(False, index=table.index)
        for column, values in values_of.items():
            texts = table[column].fillna("")
            present = set(texts)
            given = _as_list(values) if values is not None else [None]
            if DOSE.search(column):
                spelling = {number_of(text): text for text in present}
                given = [spelling.get(number_of(str(value)), value) for value in given]
            where = f"catalog: {key} of {self._name}"
            matches |= texts.isin(known_names(given, present, f"value of column {column!r}", where))
        return matches

    def _rows(self) -> pd.DataFrame:
        table = self._table()
        rows = pd.DataFrame(
            {name: fill(templates, table) for name, templates in self._columns.items()}, index=table.index
        )
        rows["split"] = table[HELDOUT].map({True: "heldout", False: "labelled"})
        if "well_type" in rows:
            rows["well_type"] = rows["well_type"].fillna("").replace(self._well_types)
        for name in self._columns:
            required = rows["split"] == "labelled" if name == "perturbation" else pd.Series(True, index=rows.index)
            self._check_complete(name, self._columns[name], rows[name][required], table)
        for channel, templates in self._files.items():
            rows[f"file {channel}"] = fill(templates, table)
            mismatched = rows[f"file {channel}"].isna() & _has_values(templates, table)
            if mismatched.any():  # a path that fits no template; an empty cell is a missing image
                self._check_complete(f"files.{channel}", templates, rows.loc[mismatched, f"file {channel}"], table)
            rows[f"file {channel}"] = rows[f"file {channel}"].fillna("")
        rows["source"] = table[SOURCE]
        rows["well"] = [well_or_none(well) or well for well in rows["well"]]  # A1 and A01 are the same well
        return rows

    def _wells(self) -> pd.DataFrame:
        """One row per well, the rows of which must agree."""
        rows = self._rows()
        columns = ["perturbation", "cell_type", "split", *(["well_type"] if "well_type" in rows else [])]
        return one_row_per_well(rows, columns, self._path)

    def _check_complete(self, name: str, templates: list[str], values: pd.Series, table: pd.DataFrame) -> None:
        empty_rows = values.index[values.isna()]
        if not len(empty_rows):
            return
        first = empty_rows[0]
        problem = f"{name} is empty"
        for field in _fields(_usable(templates, table.columns)[-1]):
            if pd.isna(table.at[first, field.column]):
                problem = f"column {field.column!r} is empty"
                break
            if field.pattern and not re.search(field.pattern, table.at[first, field.column]):
                problem = f"{name}: {table.at[first, field.column]!r} of column {field.column!r} does not match {field.pattern!r}"
                break
        raise InputError(
            f"{table.at[first, SOURCE]}: {problem} ({len(empty_rows)} rows); give a value, a default as in "
            f"'{{{'column|0'}}}', or drop the rows with 'exclude' (\"\" is an empty field)"
        )

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._path, "columns": self._columns}


def _as_list(given: Any) -> list[Any]:
    """What YAML has as a list, as a single value, or not at all."""
    if given is None:
        return []
    return list(given) if isinstance(given, Iterable) and not isinstance(given, str | Mapping) else [given]


def _alternatives(template: str | list[str]) -> list[str]:
    return [str(t) for t in template] if isinstance(template, list) else [str(template)]


def matching_paths(path: str) -> list[str]:
    """The file, or with ``*`` all files that match."""
    if "*" not in path:
        return [path]
    fs, pattern = fsspec.core.url_to_fs(path)
    paths = [fs.unstrip_protocol(found) for found in sorted(fs.glob(pattern))]
    if not paths:
        raise InputError(f"{path}: no file matches. Check raw_root")
    return paths


class _Field:
    """One column in a template: its name, default (None: none) and regex."""

    def __init__(self, name: str, pattern: str) -> None:
        self.pattern = pattern
        self.column, bar, default = name.partition("|")
        self.default = default if bar else None


def _fields(template: str) -> list[_Field]:
    return [_Field(name, spec or "") for _, name, spec, _ in Formatter().parse(template) if name is not None]


def template_columns(template: str) -> list[str]:
    """The columns that a template uses."""
    return [field.column for field in _fields(template)]


def _usable(templates: Iterable[str], columns: Iterable[str]) -> list[str]:
    """The templates all of whose columns are among the given ones."""
    present = set(columns)
    return [template for template in templates if present.issuperset(template_columns(template))]


def fill(templates: list[str], table: pd.DataFrame) -> pd.Series:
    """The value in each row of the first template that it can fill.

    A template cannot be filled where a column is absent, is empty and has no default, or does not match its regex.
    Missing where no template can be filled.
    """
    filled = pd.Series(None, index=table.index, dtype="str")
    for template in _usable(templates, table.columns):
        filled = filled.fillna(_fill(template, table))
    return filled


def _fill(template: str, table: pd.DataFrame) -> pd.Series:
    filled = pd.Series("", index=table.index, dtype="str")
    for text, name, pattern, _ in Formatter().parse(template):
        filled = filled + text
        if name:
            field = _Field(name, pattern or "")
            values = table[field.column]
            if field.default is not None:
                values = values.fillna(field.default)
            if field.pattern:
                grouped = field.pattern if re.compile(field.pattern).groups else f"({field.pattern})"
                values = values.str.extract(grouped)[0]
            filled = filled + values
    return filled


def _has_values(templates: list[str], table: pd.DataFrame) -> pd.Series:
    """Whether each row has a value in every column of some template."""
    has_values = pd.Series(False, index=table.index)
    for template in _usable(templates, table.columns):
        has_values |= table[template_columns(template)].notna().all(axis=1)
    return has_values


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
            perturbation: "{compound}@{concentration|0}"
          negative_controls: ["DMSO@0"]
    """

    def load(self) -> pd.DataFrame:
        wells = self._wells()
        if "well_type" not in self._columns:
            wells["well_type"] = "treatment"
            for well_type, given in self._controls.items():
                what, where = "perturbation", f"{self._path}: {well_type}s"
                names = known_names(given, wells["perturbation"].dropna().unique(), what, where)
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
            perturbation: "{compound}@{concentration|0}"
    """

    def load(self) -> pd.DataFrame:
        wells = self._wells()
        unknown = int(wells["perturbation"].isna().sum())
        if unknown:
            logger.info("%s: %s of %s wells have no perturbation and are no labels", self._name, unknown, len(wells))
            wells = wells.dropna(subset=["perturbation"])
        id_code = wells["experiment"] + "_" + wells["plate"] + "_" + wells["well"]
        return pd.DataFrame({"id_code": id_code, "perturbation": wells["perturbation"]}).reset_index(drop=True)


class LongTableImagesDataset(_LongTable):
    """The images of a csv with one row per site, or per image. Loading lists their folders and opens no image.

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
            perturbation: "{compound}@{concentration|0}"
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
        if "site" in self._columns:
            invalid = rows[~rows["site"].str.fullmatch(r"0*[0-9]+")]
            if len(invalid):
                row = invalid.iloc[0]
                raise InputError(f"{self._path}: site {row['site']!r} ({row['source']}); expected a whole number")
            rows["site"] = rows["site"].astype(int)
        else:
            rows["site"] = rows.groupby(PLACE).cumcount() + 1
        if "channel" in self._columns:
            rows = self._one_row_per_site(rows)
        files = [c for c in rows if c.startswith("file ")]
        folder = Folder(self._folder)
        names = [tuple(existing_name(folder, name) for name in row) for row in rows[files].to_numpy()]
        for source, row in zip(rows["source"], names, strict=True):
            named = [name for name in row if name]
            if len(set(named)) < len(named):
                name = next(n for n in named if named.count(n) > 1)
                channels = [c for c, n in zip(self._channels, row, strict=True) if n == name]
                raise InputError(f"{source}: channels {' and '.join(channels)} name the same file, {name}")
        sites = rows[[*PLACE, "site"]].assign(files=names)
        sites["missing"] = [tuple(n for n in row if not n or folder.info(n) is None) for row in names]
        return SiteFiles(
            folder,
            self._channels,
            sites.reset_index(drop=True),
            dtype=self._dtype,
            numbered_sites="site" in self._columns,
            z=self._z,
        )

    def _one_row_per_site(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Rows of one image each, put together to one row per site with a column ``file <channel>`` per channel."""
        known_names(self._channels, rows["channel"].unique(), "channel", f"catalog: channels of {self._name}")
        others = rows[~rows["channel"].isin(self._channels)]
        if len(others):
            logger.info("%s: %s images of other channels (%s) are not used", self._name, len(others), first_few(sorted(others["channel"].unique())))  # fmt: skip
            rows = rows.drop(others.index)
        key = [*PLACE, "site"]
        twice = rows[rows.duplicated([*key, "channel"], keep=False)]
        if len(twice):
            first = twice.iloc[0]
            same = twice[(twice[[*key, "channel"]] == first[[*key, "channel"]]).all(axis=1)]
            raise InputError(
                f"{self._path}: {first_few(same['source'], 3)} name several images of channel {first['channel']} of "
                f"{'/'.join(first[PLACE])} site {first['site']}; expected one"
            )
        wide = rows.pivot(index=key, columns="channel", values="file file").reindex(columns=self._channels).fillna("")
        wide.columns = pd.Index([f"file {channel}" for channel in self._channels])
        sources = rows.drop_duplicates(key).set_index(key)["source"]
        return wide.assign(source=sources).reset_index()


def existing_name(folder: Folder, name: str) -> str:
    """The name of a file; one written on Windows (``a\\b.tif``) with slashes, unless a file has just that name."""
    if "\\" not in name or folder.info(name) is not None:
        return name
    return name.replace("\\", "/")
