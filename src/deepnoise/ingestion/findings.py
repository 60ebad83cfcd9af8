"""What can be wrong with a screen's images and tables, and what is done about it: error, exclude or report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from deepnoise.errors import InputError

KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "missing_well": ("a well that most plates have is not listed for this one", ("error", "report")),
    "metadata_without_images": ("a listed well has no image", ("error", "report")),
    "well_without_metadata": ("a well has images and stands in no table", ("error", "exclude")),
    "orphan_image": ("an image whose name tells no well", ("error", "exclude")),
    "missing_image": ("a channel, or a whole site that most wells have, has no image", ("error", "exclude")),
    "duplicate_image": ("two names for one place, or the same pixels at two places", ("error", "exclude", "report")),
    "unreadable_image": ("a damaged image, or a folder in its place", ("error", "exclude")),
    "wrong_shape": ("an image of another size than the screen's", ("error", "exclude")),
    "wrong_dtype": ("an image of another dtype than the screen's", ("error", "exclude")),
    "unequal_channels": ("a file with more or fewer channels than the screen", ("error", "exclude")),
    "black_image": ("every pixel has one value", ("error", "exclude", "report")),
    "saturated_image": ("5 % of the pixels or more stand at the highest value", ("error", "exclude", "report")),
    "unknown_perturbation": (
        "a perturbation of unlabelled plates that no labelled plate has",
        ("error", "exclude", "report"),
    ),
    "excluded": ("left out by the list of excluded wells", ("exclude",)),
}
"""Kind of finding -> (what it is, policies it can have). What cannot be packed can only be an error or left out."""

WHOLE_WELL = -1
"""Stands for all sites of a well, and for a site that is not known; a layout may number its sites from 0."""
PLACE = ["experiment", "plate", "well", "site"]
COLUMNS = ["finding", "policy", *PLACE, "channel", "file", "detail"]


def findings_table(rows: Iterable[Mapping[str, Any]], policies: Mapping[str, str]) -> pd.DataFrame:
    """The table ``ingestion_findings`` of some findings.

    Args:
        rows: One mapping a finding: ``finding`` (key of ``KINDS``), and what is known of experiment, plate, well, site,
            channel, file and detail.
        policies: Kind -> error, exclude or report.

    Returns:
        Unknown places are empty strings, an unknown site is ``WHOLE_WELL``.
    """
    empty: dict[str, Any] = {
        "experiment": "",
        "plate": "",
        "well": "",
        "site": WHOLE_WELL,
        "channel": "",
        "file": "",
        "detail": "",
    }
    full = [{**empty, **row, "policy": policies.get(row["finding"], "exclude")} for row in rows]
    table = pd.DataFrame(full, columns=COLUMNS)
    text = [c for c in COLUMNS if c != "site"]
    return table.astype(dict.fromkeys(text, "str") | {"site": "int64"})


def name_of(row: Any) -> str:
    """One line on a finding: where, which file, what."""
    place = "/".join(p for p in (row.experiment, row.plate, row.well) if p)
    place += f" site {row.site}" if row.site != WHOLE_WELL else ""
    parts = [place, row.channel, row.file]
    return f"{row.finding}: " + " ".join(p for p in parts if p) + (f": {row.detail}" if row.detail else "")


def stop_on_errors(findings: pd.DataFrame) -> None:
    """Raise where the policy of a finding is ``error``.

    Raises:
        InputError: Names the first three such findings and the parameter that decides.
    """
    faults = findings[findings["policy"] == "error"]
    if faults.empty:
        return
    kinds = list(dict.fromkeys(faults["finding"]))
    named = "; ".join(name_of(row) for row in faults.head(3).itertuples())
    more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
    other = [p for p in KINDS[kinds[0]][1] if p != "error"]
    raise InputError(
        f"{named}{more}. Mend it, list it in excluded_wells, or set ingestion.findings.{kinds[0]} to {' or '.join(other)}"
    )


def excluded_sites(findings: pd.DataFrame) -> set[tuple[str, str, str, int]]:
    """(experiment, plate, well, site) of the findings whose policy is ``exclude``; the site may be ``WHOLE_WELL``."""
    left_out = findings[(findings["policy"] == "exclude") & (findings["well"] != "")]
    return set(left_out[PLACE].itertuples(index=False, name=None))


def summarize(findings: pd.DataFrame) -> dict[str, Any]:
    """Number of findings by kind, with the policy, the plates and the first of them by name."""
    summary = {}
    for kind, rows in findings.groupby("finding", sort=False):
        by_plate = rows.groupby(["experiment", "plate"]).size()
        summary[str(kind)] = {
            "what": KINDS[str(kind)][0],
            "policy": str(rows["policy"].iloc[0]),
            "count": len(rows),
            "by_plate": {f"{e}/{p}": int(n) for (e, p), n in by_plate.items() if e},
            "first": [name_of(row) for row in rows.head(5).itertuples()],
        }
    return summary


def usable_sites(sites: pd.DataFrame, wells: pd.DataFrame, findings: pd.DataFrame) -> pd.DataFrame:
    """The packed sites of listed wells that no finding excludes.

    Args:
        sites: One row per packed site.
        wells: The table ``wells``.
        findings: The table ``ingestion_findings``.

    Raises:
        InputError: A finding is an error, or no site is left.
    """
    stop_on_errors(findings)
    excluded = excluded_sites(findings)
    keep = [
        (e, p, w, s) not in excluded and (e, p, w, WHOLE_WELL) not in excluded
        for e, p, w, s in sites[PLACE].itertuples(index=False)
    ]
    usable = sites[np.array(keep, bool) & sites["id_code"].isin(wells["id_code"]).to_numpy()]
    if usable.empty:
        counts = findings.loc[findings["policy"] == "exclude", "finding"].value_counts()
        listed = ", ".join(f"{n} {finding}" for finding, n in counts.items())
        raise InputError(
            f"no usable site is left of {len(sites)} packed ones; left out: {listed or 'none'}. See ingestion_findings"
        )
    return usable.sort_values(["experiment", "plate", "store_row"], ignore_index=True)
