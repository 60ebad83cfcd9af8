"""Validation of the raw well table, and matching of the raw images to its wells.

Used by the ``ingestion`` pipeline; datasets use the columns and :func:`validate_wells`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence, Set
from typing import Any

import pandas as pd

from deepnoise.errors import InputError, first_few
from deepnoise.ingestion.findings import WHOLE_WELL
from deepnoise.ingestion.packing import RawImages
from deepnoise.names import known_names, similar_names
from deepnoise.tables import WELL_TYPES
from deepnoise.wells import normalize_well, well_or_none

logger = logging.getLogger(__name__)
RAW_COLUMNS = ("experiment", "plate", "well", "cell_type", "well_type", "perturbation", "split", "source")
EXCLUDED_COLUMNS = ("experiment", "plate", "well", "site", "reason")
PLACE = ["experiment", "plate", "well"]


def one_row_per_well(rows: pd.DataFrame, columns: Sequence[str], where: str) -> pd.DataFrame:
    """The first row of each well that has a perturbation (else its first row), after a check that all its rows agree.

    Args:
        rows: One row per site, image or cell; ``PLACE``, ``source`` and the given columns.
        columns: Columns that must have one value per well. A missing value agrees with any other.
        where: The file, for the error.

    Returns:
        One row per well, in the order of the rows.

    Raises:
        InputError: Rows of one well disagree. Says in how many wells, and names the rows of the first one.
    """
    for column in columns:
        counts = rows.groupby(PLACE)[column].nunique()
        several = counts.index[counts > 1]
        if len(several):
            well = rows[(rows[PLACE] == list(several[0])).all(axis=1)].dropna(subset=[column]).drop_duplicates(column)
            values = " and ".join(f"{row[column]!r} ({row['source']})" for _, row in well.head(2).iterrows())
            raise InputError(
                f"{where}: {len(several)} of {len(counts)} wells have several values of {column}, first "
                f"{'/'.join(several[0])}: {values}; expected one. Were two plate maps joined to the same wells?"
            )
    first = rows.sort_values("perturbation", key=pd.Series.isna, kind="stable").drop_duplicates(PLACE)
    return first.sort_index()


def wells_of(raw: pd.DataFrame) -> pd.DataFrame:
    """The table ``wells`` of a screen without images; its findings are logged, one line for each kind.

    Args:
        raw: See :func:`validate_wells`.
    """
    wells, _, findings = validate_wells(raw, ["treatment"])
    for finding in dict.fromkeys(f["finding"] for f in findings):
        rows = [f for f in findings if f["finding"] == finding]
        place = "/".join(str(rows[0][c]) for c in PLACE if rows[0].get(c))
        logger.warning("%s findings %s, the first: %s %s", len(rows), finding, place, rows[0].get("detail", ""))
    return wells


def validate_wells(
    raw: pd.DataFrame, target_well_types: Sequence[str], excluded: pd.DataFrame | None = None
) -> tuple[pd.DataFrame, dict[str, Any], list[dict[str, Any]]]:
    """Validate raw well rows and turn them into the table ``wells``.

    Args:
        raw: One row per well, columns ``RAW_COLUMNS``; ``source`` is the file and line of the row.
        target_well_types: Well types whose perturbation is to be called.
        excluded: Rows of :data:`EXCLUDED_COLUMNS` and ``source`` to exclude: plates (no well given), wells
            (no site given) and single sites.

    Returns:
        The table ``wells``, counts, and findings: rows of
        :func:`deepnoise.ingestion.findings.findings_table`.

    Raises:
        InputError: An invalid well name, a well listed twice, an unknown well type, a labelled well without
            perturbation, a perturbation with several well types, or an excluded plate or well that the screen
            does not have.
    """
    if raw.empty:
        raise InputError("the raw tables list no wells; expected one row per well")
    wells = raw.copy()
    for column in (*PLACE, "cell_type"):
        empty = wells[column].isna() | (wells[column] == "")
        if empty.any():
            raise InputError(f"{first_few(wells.loc[empty, 'source'], 3)}: {column} is empty; every well needs one")
    names = {}
    for well in wells["well"].unique():
        try:
            names[well] = normalize_well(str(well))
        except ValueError as error:
            rows = wells.loc[wells["well"] == well, "source"]
            raise InputError(f"{first_few(rows, 3)}: {error}") from error
    wells["well"] = wells["well"].map(names)
    wells["plate"] = wells["plate"].astype(str)
    unknown = ~wells["well_type"].isin(WELL_TYPES)
    if unknown.any():
        row = wells[unknown].iloc[0]
        raise InputError(f"{row['source']}: well_type {row['well_type']!r}; allowed: {', '.join(WELL_TYPES)}")
    twice = wells.duplicated(["experiment", "plate", "well"], keep=False)
    if twice.any():
        rows = wells[twice].sort_values(["experiment", "plate", "well"])
        row = rows.iloc[0]
        raise InputError(
            f"well {row['experiment']}/{row['plate']}/{row['well']} is listed more than once: "
            f"{first_few(rows['source'], 4)} ({int(twice.sum())} such rows); list each well once"
        )
    wells["id_code"] = wells["experiment"] + "_" + wells["plate"] + "_" + wells["well"]
    same = wells[wells.duplicated("id_code", keep=False)].sort_values("id_code", kind="stable").head(2)
    if len(same):
        first, second = ("/".join(row) for row in same[PLACE].to_numpy())
        raise InputError(
            f"wells {first} and {second} have the same id_code {same['id_code'].iloc[0]!r} "
            f"({first_few(same['source'])}); rename the experiment or the plate of one of them"
        )
    labelled = wells["split"] == "labelled"
    unnamed = labelled & wells["perturbation"].isna()
    if unnamed.any():
        raise InputError(
            f"{first_few(wells.loc[unnamed, 'source'], 3)}: a labelled well has no perturbation; "
            "give one, or list the well as unlabelled"
        )
    well_types = (
        wells.dropna(subset=["perturbation"]).groupby("perturbation")["well_type"].agg(lambda t: sorted(set(t)))
    )
    mixed = well_types[well_types.map(len) > 1]
    if len(mixed):
        name = mixed.index[0]
        rows = wells.loc[wells["perturbation"] == name].drop_duplicates("well_type")["source"]
        raise InputError(
            f"perturbation {name!r} is {' and '.join(mixed.iloc[0])} ({first_few(rows)}); "
            "give each perturbation one well type"
        )
    wells["target"] = wells["well_type"].isin(target_well_types)
    wells.loc[~labelled & wells["target"], "perturbation"] = None
    wells["perturbation"] = wells["perturbation"].astype("str")
    findings = _exclude(wells, excluded)
    excluded_wells = {(f["experiment"], f["plate"], f["well"]) for f in findings if f["site"] == WHOLE_WELL}
    wells = wells[[key not in excluded_wells for key in wells[PLACE].itertuples(index=False, name=None)]]
    if wells.empty:
        raise InputError("the list of excluded wells excludes every well of the screen; remove some of its rows")
    labelled = wells["split"] == "labelled"
    findings += _similar_names(wells)
    findings += _unknown_perturbations(wells) + _missing_wells(wells, excluded_wells)
    per_experiment = wells[wells["target"]].groupby("experiment").size()
    counts = {
        "wells": int(len(wells)),
        "labelled_targets": int((labelled & wells["target"]).sum()),
        "heldout_targets": int((~labelled & wells["target"]).sum()),
        "controls": int((~wells["target"]).sum()),
        "experiments": int(wells["experiment"].nunique()),
        "plates": int(wells.groupby(["experiment", "plate"]).ngroups),
        "target_perturbations": int(wells.loc[wells["target"], "perturbation"].nunique()),
        "experiments_short_of_targets": {
            str(e): int(per_experiment.max() - n) for e, n in per_experiment.items() if n < per_experiment.max()
        },
    }
    columns = ["id_code", *PLACE, "cell_type", "well_type", "perturbation", "target", "split"]
    return wells.sort_values(PLACE, ignore_index=True)[columns], counts, findings


def _exclude(wells: pd.DataFrame, excluded: pd.DataFrame | None) -> list[dict[str, Any]]:
    """One finding for each well (site ``WHOLE_WELL``) and each single site on the list of excluded wells."""
    findings: list[dict[str, Any]] = []
    for row in (pd.DataFrame() if excluded is None else excluded).itertuples():
        plate = wells[(wells["experiment"] == row.experiment) & (wells["plate"] == row.plate)]
        try:
            members = plate if pd.isna(row.well) else plate[plate["well"] == normalize_well(row.well)]
            site = WHOLE_WELL if pd.isna(row.site) else int(row.site)
        except ValueError as error:
            raise InputError(f"{row.source}: {error}") from error
        if members.empty:
            experiments = wells["experiment"].unique()
            known_names([row.experiment], experiments, "experiment", row.source)
            plates = wells.loc[wells["experiment"] == row.experiment, "plate"].unique()
            known_names([row.plate], plates, f"plate of experiment {row.experiment}", row.source)
            known_names([row.well], plate["well"], f"well of plate {row.experiment}/{row.plate}", row.source)
        reason = "" if pd.isna(row.reason) else str(row.reason)
        for well_key in members[PLACE].to_dict("records"):
            findings.append({**well_key, "finding": "excluded", "site": site, "file": row.source, "detail": reason})
    return findings


def _similar_names(wells: pd.DataFrame) -> list[dict[str, Any]]:
    """Findings on names that differ only in case or white space; each names the first well with the rarer name."""
    findings = []
    for column in ("experiment", "plate", "perturbation"):
        counts = wells[column].value_counts()
        for group in similar_names(counts.index):
            rarest = min(group, key=lambda name: (counts[name], name))
            first = wells[wells[column] == rarest].iloc[0]
            names = " and ".join(f"{name!r} ({counts[name]} wells)" for name in group)
            detail = f"{column} {names} are different names; if they are one, write them alike"
            findings.append({**first[PLACE], "finding": "similar_names", "file": first["source"], "detail": detail})
    return findings


def _unknown_perturbations(wells: pd.DataFrame) -> list[dict[str, Any]]:
    """Findings on controls of unlabelled plates whose perturbation is on no labelled plate."""
    labelled = wells["split"] == "labelled"
    labelled_perturbations = set(wells.loc[labelled, "perturbation"].dropna())
    unknown = wells[~labelled & wells["perturbation"].notna() & ~wells["perturbation"].isin(labelled_perturbations)]
    return [
        {
            "finding": "unknown_perturbation", "experiment": row.experiment, "plate": row.plate, "well": row.well,
            "file": row.source, "detail": f"{row.perturbation!r} is on no labelled plate",
        }
        for row in unknown.itertuples()
    ] if labelled.any() else []  # fmt: skip


def _missing_wells(wells: pd.DataFrame, excluded_wells: Set[tuple[str, str, str]]) -> list[dict[str, Any]]:
    """Findings on wells that most plates have and a plate lacks, unless the well is excluded."""
    wells_of = {key: set(rows) for key, rows in wells.groupby(["experiment", "plate"])["well"]}
    n_plates = wells["well"].value_counts()
    usual = sorted(n_plates.index[n_plates > len(wells_of) / 2])
    text = "listed on {} of {} plates, not on this one"
    return [
        {
            "finding": "missing_well", "experiment": e, "plate": p, "well": well,
            "detail": text.format(n_plates[well], len(wells_of)),
        }
        for (e, p), listed in wells_of.items() for well in usual
        if well not in listed and (e, p, well) not in excluded_wells
    ]  # fmt: skip


def match_images(
    wells: pd.DataFrame, images: RawImages, excluded: Set[tuple[str, str, str, int]] = frozenset()
) -> tuple[pd.DataFrame, dict[str, Any], list[dict[str, Any]]]:
    """Match the raw images to the wells.

    Args:
        wells: The table ``wells``.
        images: The raw images: ``found`` has one row per site (experiment, plate, well, site, ``files``,
            ``missing``).
        excluded: Sites excluded on purpose, which are no finding: (experiment, plate, well, site), with site
            ``WHOLE_WELL`` for all sites of a well.

    Returns:
        The complete sites of listed wells (with id_code, in plate order), counts, and findings (rows of
        :func:`deepnoise.ingestion.findings.findings_table`), with file names.

    Raises:
        InputError: No site is complete.
    """
    sites = images.found.copy()
    sites["plate"] = sites["plate"].astype(str)
    sites["given"] = sites["well"]
    sites["well"] = [well_or_none(well) for well in sites["well"]]
    findings: list[dict[str, Any]] = [
        {"finding": "orphan_image", "file": name, "detail": "its name identifies no site"} for name in images.strays
    ]

    def report(rows: pd.DataFrame, finding: str, detail: str) -> None:
        for row in rows.itertuples():
            site_key = {
                "experiment": row.experiment,
                "plate": row.plate,
                "well": row.well if isinstance(row.well, str) else "",
                "site": row.site,
            }
            file = next((f for f in row.files if f not in row.missing), row.files[0])
            findings.append({**site_key, "finding": finding, "file": file, "detail": detail.format(row=row)})

    numbers = set(sites["site"].astype(int))
    for experiment, plate, well, site in sorted(excluded):
        if site != WHOLE_WELL and images.numbered_sites and site not in numbers:
            raise InputError(
                f"excluded_wells: {experiment}/{plate}/{well} has no site {site}; the sites of this screen are "
                f"{first_few(sorted(numbers), 12)}"
            )
    if excluded:
        keys = sites[[*PLACE, "site"]].itertuples(index=False, name=None)
        sites = sites[[key not in excluded and (*key[:3], WHOLE_WELL) not in excluded for key in keys]]
    orphan = sites["well"].isna()
    report(sites[orphan], "orphan_image", "{row.given!r} is not a well name")
    joined = sites[~orphan].merge(wells[["id_code", *PLACE]], on=PLACE, how="left")
    report(joined[joined["id_code"].isna()], "well_without_metadata", "the well is in no table")
    joined = joined.dropna(subset=["id_code"]).sort_values([*PLACE, "site", "given"], ignore_index=True)
    repeated = joined.duplicated(["id_code", "site"])
    report(joined[repeated], "duplicate_image", "a second image of this site")
    joined = joined[~repeated]
    for row in joined[joined["missing"].map(len) > 0].itertuples():
        for file in dict.fromkeys(row.missing):
            channels = [c for c, name in zip(images.channels, row.files, strict=False) if name == file]
            findings += [
                {
                    "finding": "missing_image", "experiment": row.experiment, "plate": row.plate, "well": row.well,
                    "site": row.site, "channel": channel, "file": file,
                    "detail": "no such file" if file else "the table names no file",
                }
                for channel in (channels if len(row.files) == len(images.channels) else [""])
            ]  # fmt: skip
    if images.numbered_sites:
        n_wells = joined["site"].value_counts()
        usual = sorted(n_wells.index[n_wells > joined["id_code"].nunique() / 2])
        for (e, p, w), numbers in joined.groupby(PLACE)["site"].agg(set).items():
            findings += [
                {
                    "finding": "missing_image", "experiment": e, "plate": p, "well": w, "site": site,
                    "detail": "no file of this site",
                }
                for site in usual if site not in numbers and (e, p, w, site) not in excluded
            ]  # fmt: skip
    for row in wells[~wells["id_code"].isin(joined["id_code"])].itertuples():
        well_key = {"experiment": row.experiment, "plate": row.plate, "well": row.well}
        findings.append({**well_key, "finding": "metadata_without_images", "detail": "no image found"})
    complete = joined[joined["missing"].map(len) == 0].drop(columns="given")
    if joined.empty and len(sites):
        imaged, listed = ("/".join(map(str, t[PLACE].iloc[0])) for t in (sites.fillna({"well": sites["given"]}), wells))
        raise InputError(
            f"no image belongs to a listed well: there are images of {imaged}, the tables list {listed}; "
            "use the same names of experiment, plate and well in both"
        )
    if complete.empty:
        lacking = next((f for row in joined["missing"] for f in row if f), "")
        raise InputError(
            f"no complete image was found for any of the {len(wells)} wells ({len(joined)} sites lack channels "
            f"of {', '.join(images.channels)})" + (f"; no such file: {lacking}" if lacking else "") + "; check raw_root"
        )
    counts = {
        "plates_with_images": int(joined.groupby(["experiment", "plate"]).ngroups),
        "sites_found": len(sites),
        "sites_complete": len(complete),
    }
    return complete.reset_index(drop=True), counts, findings
