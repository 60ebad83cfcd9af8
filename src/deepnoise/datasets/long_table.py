"""A generic layout: one csv with a row for each site (or each image file), its columns mapped in the catalog."""

from __future__ import annotations

import re
from string import Formatter
from typing import Any

import fsspec
import pandas as pd
from kedro.io import AbstractDataset

from deepnoise.datasets.files import Folder, SiteFiles, read_csv
from deepnoise.errors import InputError, closest
from deepnoise.ingestion.validation import PLACE, RAW_COLUMNS
from deepnoise.wells import well_or_none

SOURCE = "file and line"
NEEDED = ["experiment", "plate", "well", "cell_type", "perturbation"]


class _LongTable(AbstractDataset[Any, Any]):
    """Reads the csv and maps its columns.

    A template is text with columns in braces, ``"{compound}@{concentration}"``; ``{column:regex}`` takes the first group of
    the first match, or the whole match, as ``"{file:_s([0-9]+)_}"``. A text without braces is a constant.

    Args:
        filepath: The csv (or .csv.gz): a path or an fsspec URL; with ``*`` in it, all files that match, one below the other.
        columns: Templates of experiment, plate, well, cell_type and perturbation; also, where the table has them, of site (a
            number; without it the rows of a well are numbered in their order) and well_type.
        files: Template of the image's path, of all channels; or channel name -> template of that channel's path.
        root: What ``files`` and ``join`` are relative to; the csv's folder if not given.
        channels: Channel names of a file of all channels, in its order.
        join: Further csv files, joined on the columns that they share with the first.
        well_types: Value of the well_type template ("" where it is empty) -> treatment, positive_control or negative_control.
        negative_controls: Perturbations that are negative controls, where there is no well_type.
        positive_controls: Perturbations that are positive controls, where there is no well_type.
        heldout: csv column -> values whose rows are unlabelled: predicted, never trained on.
        exclude: csv column -> values whose rows are left out.
        dtype: uint8 or uint16 where all images must be of it; else the commonest counts.
        metadata: For kedro-viz.
    """

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
        absent = [name for name in NEEDED if name not in columns]
        unknown = [name for name in columns if name not in (*NEEDED, "site", "well_type")]
        if absent or unknown:
            raise InputError(
                f"catalog: columns of {self._name} "
                + (f"lack {absent[0]!r}" if absent else f"have an unknown {unknown[0]!r}")
                + f"; needed: {', '.join(NEEDED)}; allowed too: site, well_type"
            )
        for name, template in {**self._columns, **{f"files.{c}": t for c, t in self._files.items()}}.items():
            try:
                for _, _, pattern in _parts(template):
                    re.compile(pattern)
            except (ValueError, re.error) as error:
                raise InputError(f"catalog: the template {template!r} of {name} cannot be read ({error})") from error

    def _table(self) -> pd.DataFrame:
        """The csv with what is joined to it, without the excluded rows; its column ``SOURCE`` names file and line."""
        templates = [*self._columns.values(), *self._files.values()]
        used = [c for t in templates for _, c, _ in _parts(t)] + [*self._heldout, *self._exclude]
        parts = []
        paths = self._paths()
        for path in paths:
            part = read_csv(path, list(dict.fromkeys(used)) if not self._join else [])
            shown = path.rsplit("/", 1)[-1] if len(paths) == 1 else "/".join(path.split("/")[-3:])
            part[SOURCE] = shown + " line " + (part.index + 2).astype(str)
            parts.append(part)
        table = pd.concat(parts, ignore_index=True)
        for name in self._join:
            other = read_csv(f"{self._folder}/{name}", [])
            shared = [c for c in other.columns if c in table.columns]
            if not shared:
                raise InputError(
                    f"{name}: shares no column with {self._name} ({', '.join(table.columns[:8])}); cannot be joined"
                )
            twice = other[other.duplicated(shared)]
            if len(twice):
                raise InputError(
                    f"{name}: line {twice.index[0] + 2} repeats {dict(twice[shared].iloc[0])}; expected one row each"
                )
            table = table.merge(other, on=shared, how="left")
        for column in dict.fromkeys(used):
            if column not in table.columns:
                files = ", ".join([self._name, *self._join])
                raise InputError(f"{files}: column {column!r} is missing.{closest(column, table.columns)}")
        return table[~_any_of(table, self._exclude)]

    def _paths(self) -> list[str]:
        if "*" not in self._path:
            return [self._path]
        fs, pattern = fsspec.core.url_to_fs(self._path)
        found = [fs.unstrip_protocol(path) for path in sorted(fs.glob(pattern))]
        if not found:
            raise InputError(f"{self._path}: no file matches. Check raw_root")
        return found

    def _rows(self) -> pd.DataFrame:
        table = self._table()
        rows = pd.DataFrame(
            {name: fill(template, table) for name, template in self._columns.items()}, index=table.index
        )
        rows["split"] = _any_of(table, self._heldout).map({True: "heldout", False: "labelled"})
        if "well_type" in rows:
            rows["well_type"] = rows["well_type"].fillna("").replace(self._well_types)
        for name in self._columns:
            wanted = rows["split"] == "labelled" if name == "perturbation" else pd.Series(True, index=rows.index)
            self._no_holes(name, self._columns[name], rows[name][wanted], table)
        for channel, template in self._files.items():
            rows[f"file {channel}"] = fill(template, table)
            self._no_holes(f"files.{channel}", template, rows[f"file {channel}"], table)
        rows["source"] = table[SOURCE]
        rows["well"] = [well_or_none(well) or well for well in rows["well"]]  # A1 and A01 in two rows are one well
        return rows

    def _no_holes(self, name: str, template: str, values: pd.Series, table: pd.DataFrame) -> None:
        holes = values.index[values.isna()]
        if not len(holes):
            return
        line = holes[0]
        fault = f"{name} is empty"
        for _, column, pattern in _parts(template):
            if pd.isna(table.at[line, column]):
                fault = f"column {column!r} is empty"
                break
            if pattern and not re.search(pattern, table.at[line, column]):
                fault = f"{name}: {table.at[line, column]!r} of column {column!r} does not match {pattern!r}"
                break
        raise InputError(
            f"{table.at[line, SOURCE]}: {fault} ({len(holes)} such); give a value, or leave the row out by exclude"
        )

    def save(self, data: Any) -> None:
        raise InputError("raw data is an input and is never written")

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._path, "columns": self._columns}


def _texts(chosen: dict[str, list[str]] | None) -> dict[str, list[str]]:
    return {column: [str(v) for v in values] for column, values in (chosen or {}).items()}


def _any_of(table: pd.DataFrame, chosen: dict[str, list[str]]) -> pd.Series:
    hit = pd.Series(False, index=table.index)
    for column, values in chosen.items():
        hit |= table[column].isin(values)
    return hit


def _parts(template: str) -> list[tuple[str, str, str]]:
    """(text before it, column, regex) of each column in a template."""
    return [(text, name, spec or "") for text, name, spec, _ in Formatter().parse(template) if name]


def template_columns(template: str) -> list[str]:
    """The columns that a template names."""
    return [column for _, column, _ in _parts(template)]


def fill(template: str, table: pd.DataFrame) -> pd.Series:
    """The template's value for every row; missing where a column is empty or does not match."""
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
    """The wells of the csv as a raw table."""

    def load(self) -> pd.DataFrame:
        rows = self._rows()
        several = rows.groupby(PLACE)["perturbation"].nunique()
        if (several > 1).any():
            raise InputError(
                f"{self._path}: well {'/'.join(several.index[several > 1][0])} has several perturbations, expected one"
            )
        there = set(rows["perturbation"])
        for kind, names in self._controls.items():
            for name in names:
                if name not in there:
                    what = kind.replace("_", " ")
                    raise InputError(f"{self._path}: {what} {name!r} occurs in no row.{closest(name, there - {None})}")
        wells = rows.drop_duplicates(PLACE).copy()
        if "well_type" not in self._columns:
            wells["well_type"] = "treatment"
            for kind, names in self._controls.items():
                wells.loc[wells["perturbation"].isin(names), "well_type"] = kind
        return wells[list(RAW_COLUMNS)].reset_index(drop=True)


class LongTableLabelsDataset(_LongTable):
    """Every perturbation that the csv knows, as ``heldout_labels``: the truth of unlabelled or cross-validated plates."""

    def load(self) -> pd.DataFrame:
        rows = self._rows().drop_duplicates(PLACE).dropna(subset=["perturbation"])
        code = rows["experiment"] + "_" + rows["plate"] + "_" + rows["well"]
        return pd.DataFrame({"id_code": code, "perturbation": rows["perturbation"]}).reset_index(drop=True)


class LongTableImagesDataset(_LongTable):
    """The images of the csv, a row a site; loading lists their folders, no image is opened."""

    def load(self) -> SiteFiles:
        if not self._files:
            raise InputError(
                f"catalog: the entry of images of {self._name} has no 'files'; give the template of their paths"
            )
        rows = self._rows()
        found = rows[PLACE].copy()
        if "site" in self._columns:
            odd = rows[~rows["site"].str.fullmatch(r"0*[0-9]+")]
            if len(odd):
                raise InputError(
                    f"{self._path}: site {odd['site'].iloc[0]!r} ({odd['source'].iloc[0]}); expected a whole number"
                )
            found["site"] = rows["site"].astype(int)
        else:
            found["site"] = found.groupby(PLACE).cumcount() + 1
        folder = Folder(self._folder)
        names = [tuple(row) for row in rows[[c for c in rows if c.startswith("file ")]].to_numpy()]
        found["files"] = names
        found["missing"] = [tuple(n for n in files if folder.facts(n) is None) for files in names]
        return SiteFiles(
            folder,
            self._channels,
            found.reset_index(drop=True),
            dtype=self._dtype,
            numbered_sites="site" in self._columns,
        )
