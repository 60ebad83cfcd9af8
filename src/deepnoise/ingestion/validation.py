"""Checks of the raw well table and of the pictures found for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from deepnoise.errors import InputError, first_few
from deepnoise.tables import WELL_TYPES
from deepnoise.wells import normalise_well

RAW_COLUMNS = ("experiment", "plate", "well", "cell_type", "well_type", "perturbation", "split", "source")


def validate_wells(raw: pd.DataFrame, target_well_types: Sequence[str]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Turn raw well rows into the table ``wells``.

    Args:
        raw: One row a well, columns ``RAW_COLUMNS``; ``source`` names file and line of the row.
        target_well_types: Well types whose perturbation is to be called.

    Returns:
        The table ``wells`` and the findings that are no error.

    Raises:
        InputError: A well name that is none, a well listed twice, an unknown well type, a labelled well
            without perturbation, or a perturbation that is a treatment here and a control there.
    """
    if raw.empty:
        raise InputError("the raw tables hold no wells")
    wells = raw.copy()
    names = {}
    for well in wells["well"].unique():
        try:
            names[well] = normalise_well(str(well))
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
    seen = set(wells.loc[labelled, "perturbation"].dropna())
    strange = sorted(set(wells.loc[~labelled, "perturbation"].dropna()) - seen)
    per_experiment = wells[wells["target"]].groupby("experiment").size()
    findings = {
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
        "perturbations_only_in_heldout": strange,
    }
    order = ["experiment", "plate", "well"]
    columns = ["id_code", *order, "cell_type", "well_type", "perturbation", "target", "split"]
    return wells.sort_values(order, ignore_index=True)[columns], findings


def _well_or_none(name: str) -> str | None:
    try:
        return normalise_well(name)
    except ValueError:
        return None  # a stray picture: reported among images_without_well


def match_images(
    wells: pd.DataFrame, found: pd.DataFrame, channels: list[str], missing_images: str
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Join the pictures found with the wells.

    Args:
        wells: The table ``wells``.
        found: One row a site found: experiment, plate, well, site, ``files`` (tuple of names), ``missing``
            (tuple of channel names without a file).
        channels: Channel names.
        missing_images: ``error`` or ``report``.

    Returns:
        The complete sites of known wells (id_code added, in plate order), and findings: missing files are
        summed up by plate, and listed one by one for plates that have pictures.

    Raises:
        InputError: With ``missing_images`` = ``error`` where any picture lacks, and always if there is none.
    """
    found = found.copy()
    found["plate"] = found["plate"].astype(str)
    found["well"] = [_well_or_none(well) for well in found["well"]]
    key = ["experiment", "plate", "well"]
    joined = found.merge(wells[["id_code", *key]], on=key, how="left")
    orphans = joined[joined["id_code"].isna()]
    joined = joined.dropna(subset=["id_code"])
    incomplete = joined[joined["missing"].map(len) > 0]
    complete = joined[joined["missing"].map(len) == 0]
    with_pictures = wells["id_code"].isin(joined["id_code"])
    plates_found = set(zip(joined["experiment"], joined["plate"], strict=True))
    absent = wells[~with_pictures]
    by_plate = absent.groupby(["experiment", "plate"]).size()
    partly = [(e, p) in plates_found for e, p in zip(absent["experiment"], absent["plate"], strict=True)]
    findings: dict[str, Any] = {
        "plates_with_images": len(plates_found),
        "sites_complete": int(len(complete)),
        "wells_without_images_by_plate": {f"{e}/{p}": int(n) for (e, p), n in by_plate.items()},
        "wells_without_images": [str(i) for i in absent.loc[partly, "id_code"]],
        "incomplete_sites": [
            f"{row.id_code} site {row.site}: no channel {', '.join(row.missing)}" for row in incomplete.itertuples()
        ],
        "images_without_well": [str(row.files[0]) for row in orphans.itertuples() if row.files],
    }
    if complete.empty:
        raise InputError(
            f"no complete picture was found for any of the {len(wells)} wells ({len(incomplete)} sites lack channels "
            f"of {', '.join(channels)}); check raw_root"
        )
    if missing_images == "error" and (len(absent) or len(incomplete)):
        raise InputError(
            f"{len(absent)} wells have no pictures ({first_few(findings['wells_without_images_by_plate'], 3)}) and "
            f"{len(incomplete)} sites lack channels ({first_few(findings['incomplete_sites'], 3)}); "
            "set ingestion.missing_images to 'report' to leave them out"
        )
    return complete.sort_values([*key, "site"], ignore_index=True), findings
