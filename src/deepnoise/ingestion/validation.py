"""Checks of the raw well table and of the images found for it."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

import pandas as pd

from deepnoise.errors import InputError, closest, first_few
from deepnoise.ingestion.findings import WHOLE_WELL
from deepnoise.ingestion.packing import RawImages
from deepnoise.tables import WELL_TYPES
from deepnoise.wells import normalize_well, well_or_none

RAW_COLUMNS = ("experiment", "plate", "well", "cell_type", "well_type", "perturbation", "split", "source")
EXCLUDED_COLUMNS = ("experiment", "plate", "well", "site", "reason")
PLACE = ["experiment", "plate", "well"]


def validate_wells(
    raw: pd.DataFrame, target_well_types: Sequence[str], excluded: pd.DataFrame | None = None
) -> tuple[pd.DataFrame, dict[str, Any], list[dict[str, Any]]]:
    """Turn raw well rows into the table ``wells``.

    Args:
        raw: One row a well, columns ``RAW_COLUMNS``; ``source`` names file and line of the row.
        target_well_types: Well types whose perturbation is to be called.
        excluded: Rows of :data:`EXCLUDED_COLUMNS` and ``source``: plates (no well given), wells (no site given) and sites
            to be left out.

    Returns:
        The table ``wells``, counts, and findings (rows of :func:`deepnoise.ingestion.findings.findings_table`).

    Raises:
        InputError: A well name that is none, a well listed twice, an unknown well type, a labelled well
            without perturbation, a perturbation that is a treatment here and a control there, or an excluded
            place that the screen does not have.
    """
    if raw.empty:
        raise InputError("the raw tables hold no wells")
    wells = raw.copy()
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
            f"{first_few(rows['source'], 4)} ({int(twice.sum())} such rows); each well may stand in one row"
        )
    labelled = wells["split"] == "labelled"
    nameless = labelled & wells["perturbation"].isna()
    if nameless.any():
        raise InputError(
            f"{first_few(wells.loc[nameless, 'source'], 3)}: a labelled well has no perturbation; "
            "give one, or list the well among the unlabelled ones"
        )
    kinds = wells.dropna(subset=["perturbation"]).groupby("perturbation")["well_type"].agg(lambda t: sorted(set(t)))
    mixed = kinds[kinds.map(len) > 1]
    if len(mixed):
        name = mixed.index[0]
        rows = wells.loc[wells["perturbation"] == name].drop_duplicates("well_type")["source"]
        raise InputError(
            f"perturbation {name!r} is {' and '.join(mixed.iloc[0])} ({first_few(rows)}); expected one well type each"
        )
    wells["target"] = wells["well_type"].isin(target_well_types)
    wells.loc[~labelled & wells["target"], "perturbation"] = None
    wells["perturbation"] = wells["perturbation"].astype("str")
    wells["id_code"] = wells["experiment"] + "_" + wells["plate"] + "_" + wells["well"]
    findings = _exclude(wells, excluded)
    gone = {(f["experiment"], f["plate"], f["well"]) for f in findings if f["site"] == WHOLE_WELL}
    wells = wells[[key not in gone for key in wells[PLACE].itertuples(index=False, name=None)]]
    if wells.empty:
        raise InputError("the list of excluded wells leaves no well")
    labelled = wells["split"] == "labelled"
    findings += _unknown_perturbations(wells) + _missing_wells(wells, gone)
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
    """A finding for each well (site ``WHOLE_WELL``) and each single site of the list of excluded wells."""
    found: list[dict[str, Any]] = []
    for row in (pd.DataFrame() if excluded is None else excluded).itertuples():
        plate = wells[(wells["experiment"] == row.experiment) & (wells["plate"] == row.plate)]
        try:
            members = plate if pd.isna(row.well) else plate[plate["well"] == normalize_well(row.well)]
            site = WHOLE_WELL if pd.isna(row.site) else int(row.site)
        except ValueError as error:
            raise InputError(f"{row.source}: {error}") from error
        if members.empty:
            place = f"{row.experiment}/{row.plate}" + ("" if pd.isna(row.well) else f"/{row.well}")
            hint = closest(row.experiment, wells["experiment"].unique()) if plate.empty else ""
            raise InputError(
                f"{row.source}: {place} is no {'plate' if pd.isna(row.well) else 'well'} of this screen.{hint}"
            )
        why = "" if pd.isna(row.reason) else str(row.reason)
        for place in members[PLACE].to_dict("records"):
            found.append({**place, "finding": "excluded", "site": site, "file": row.source, "detail": why})
    return found


def _unknown_perturbations(wells: pd.DataFrame) -> list[dict[str, Any]]:
    """Wells of unlabelled plates whose given perturbation (a control's) no labelled plate has."""
    labelled = wells["split"] == "labelled"
    known = set(wells.loc[labelled, "perturbation"].dropna())
    strange = wells[~labelled & wells["perturbation"].notna() & ~wells["perturbation"].isin(known)]
    return [
        {
            "finding": "unknown_perturbation", "experiment": row.experiment, "plate": row.plate, "well": row.well,
            "file": row.source, "detail": f"{row.perturbation!r} stands on no labelled plate",
        }
        for row in strange.itertuples()
    ] if labelled.any() else []  # fmt: skip


def _missing_wells(wells: pd.DataFrame, gone: Set[tuple[str, str, str]]) -> list[dict[str, Any]]:
    """Wells that most plates have and a plate lacks, though nobody has excluded them."""
    plates = {key: set(rows) for key, rows in wells.groupby(["experiment", "plate"])["well"]}
    common = wells["well"].value_counts()
    usual = sorted(common.index[common > len(plates) / 2])
    text = "listed on {} of {} plates, not on this one"
    return [
        {
            "finding": "missing_well", "experiment": e, "plate": p, "well": well,
            "detail": text.format(common[well], len(plates)),
        }
        for (e, p), there in plates.items() for well in usual if well not in there and (e, p, well) not in gone
    ]  # fmt: skip


def match_images(
    wells: pd.DataFrame, images: RawImages, excluded: Set[tuple[str, str, str, int]] = frozenset()
) -> tuple[pd.DataFrame, dict[str, Any], list[dict[str, Any]]]:
    """Join the images found with the wells.

    Args:
        wells: The table ``wells``.
        excluded: Places left out on purpose (experiment, plate, well, site; ``WHOLE_WELL`` for all sites): no finding.
        images: The raw images: ``found`` has one row a site (experiment, plate, well, site, ``files``, ``missing``).

    Returns:
        The complete sites of known wells (id_code added, in plate order), counts, and findings (rows of
        :func:`deepnoise.ingestion.findings.findings_table`), each with the file's name.

    Raises:
        InputError: There is not one complete site.
    """
    found = images.found.copy()
    found["plate"] = found["plate"].astype(str)
    found["given"] = found["well"]
    found["well"] = [well_or_none(well) for well in found["well"]]
    findings: list[dict[str, Any]] = [
        {"finding": "orphan_image", "file": name, "detail": "no place known"} for name in images.strays
    ]

    def report(rows: pd.DataFrame, kind: str, detail: str) -> None:
        for row in rows.itertuples():
            place = {
                "experiment": row.experiment,
                "plate": row.plate,
                "well": row.well if isinstance(row.well, str) else "",
                "site": row.site,
            }
            file = next((f for f in row.files if f not in row.missing), row.files[0])
            findings.append({**place, "finding": kind, "file": file, "detail": detail.format(row=row)})

    if excluded:
        places = found[[*PLACE, "site"]].itertuples(index=False, name=None)
        found = found[[place not in excluded and (*place[:3], WHOLE_WELL) not in excluded for place in places]]
    nowhere = found["well"].isna()
    report(found[nowhere], "orphan_image", "well name {row.given!r} is none")
    joined = found[~nowhere].merge(wells[["id_code", *PLACE]], on=PLACE, how="left")
    report(joined[joined["id_code"].isna()], "well_without_metadata", "the well stands in no table")
    joined = joined.dropna(subset=["id_code"]).sort_values([*PLACE, "site", "given"], ignore_index=True)
    twice = joined.duplicated(["id_code", "site"])
    report(joined[twice], "duplicate_image", "a second image of this site")
    joined = joined[~twice]
    for row in joined[joined["missing"].map(len) > 0].itertuples():
        for file in row.missing:
            channel = images.channels[row.files.index(file)] if len(row.files) == len(images.channels) else ""
            findings.append(
                {
                    "finding": "missing_image", "experiment": row.experiment, "plate": row.plate, "well": row.well,
                    "site": row.site, "channel": channel, "file": file, "detail": "no such file",
                }
            )  # fmt: skip
    if images.numbered_sites:
        common = joined["site"].value_counts()
        usual = sorted(common.index[common > joined["id_code"].nunique() / 2])
        for (e, p, w), there in joined.groupby(PLACE)["site"].agg(set).items():
            findings += [
                {"finding": "missing_image", "experiment": e, "plate": p, "well": w, "site": site, "detail": "no file of this site"}
                for site in usual if site not in there and (e, p, w, site) not in excluded
            ]  # fmt: skip
    for row in wells[~wells["id_code"].isin(joined["id_code"])].itertuples():
        place = {"experiment": row.experiment, "plate": row.plate, "well": row.well}
        findings.append({**place, "finding": "metadata_without_images", "detail": "no image found"})
    complete = joined[joined["missing"].map(len) == 0].drop(columns="given")
    if joined.empty and len(found):
        own, listed = ("/".join(map(str, t[PLACE].iloc[0])) for t in (found.fillna({"well": found["given"]}), wells))
        raise InputError(
            f"no image belongs to a listed well: there are images of {own}, the tables list {listed}; do experiment, plate and "
            "well have the same names in both?"
        )
    if complete.empty:
        raise InputError(
            f"no complete image was found for any of the {len(wells)} wells ({len(joined)} sites lack channels "
            f"of {', '.join(images.channels)}); check raw_root"
        )
    counts = {
        "plates_with_images": int(joined.groupby(["experiment", "plate"]).ngroups),
        "sites_found": len(found),
        "sites_complete": len(complete),
    }
    return complete.reset_index(drop=True), counts, findings
