"""The table of findings: what is wrong with a screen, and the policy for it (error, exclude or report).

Used by the ``ingestion`` pipeline; the types of findings are in :mod:`deepnoise.ingestion.finding_types`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from deepnoise.errors import InputError
from deepnoise.ingestion.finding_types import FINDINGS

WHOLE_WELL = -1
"""Site number that means "all sites of the well" or "site unknown"; 0 may be a real site."""
PLACE = ["experiment", "plate", "well", "site"]
COLUMNS = ["finding", "policy", *PLACE, "channel", "file", "detail"]


def findings_table(rows: Iterable[Mapping[str, Any]], policies: Mapping[str, str]) -> pd.DataFrame:
    """Build the table ``ingestion_findings``.

    Args:
        rows: One mapping per finding: ``finding`` (a key of ``FINDINGS``), and those of experiment, plate,
            well, site, channel, file and detail that are known.
        policies: Finding -> error, exclude or report; ``exclude`` if it is not listed.

    Returns:
        One row per finding; unknown text fields are empty strings, and an unknown site is ``WHOLE_WELL``.
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
    """Describe a finding in one line: finding, location, channel, file and detail."""
    location = "/".join(p for p in (row.experiment, row.plate, row.well) if p)
    location += f" site {row.site}" if row.site != WHOLE_WELL else ""
    parts = [location, row.channel, row.file]
    return f"{row.finding}: " + " ".join(p for p in parts if p) + (f": {row.detail}" if row.detail else "")


def stop_on_errors(findings: pd.DataFrame) -> None:
    """Raise if any finding has the policy ``error``.

    Raises:
        InputError: Lists the first three such findings and the parameter that sets the policy.
    """
    errors = findings[findings["policy"] == "error"]
    if errors.empty:
        return
    types = list(dict.fromkeys(errors["finding"]))
    described = "; ".join(name_of(row) for row in errors.head(3).itertuples())
    more = f" (and {len(errors) - 3} more)" if len(errors) > 3 else ""
    alternatives = [p for p in FINDINGS[types[0]][1] if p != "error"]
    raise InputError(
        f"{described}{more}. Fix it, list it in excluded_wells, or set ingestion.findings.{types[0]} to "
        f"{' or '.join(alternatives)}"
    )


def excluded_sites(findings: pd.DataFrame) -> set[tuple[str, str, str, int]]:
    """(experiment, plate, well, site) of every excluded finding; the site may be ``WHOLE_WELL``."""
    excluded = findings[(findings["policy"] == "exclude") & (findings["well"] != "")]
    return set(excluded[PLACE].itertuples(index=False, name=None))


def summarize(findings: pd.DataFrame) -> dict[str, Any]:
    """Summarize each type of finding: description, policy, counts in total and per plate, first five."""
    summary = {}
    for finding, rows in findings.groupby("finding", sort=False):
        by_plate = rows.groupby(["experiment", "plate"]).size()
        summary[str(finding)] = {
            "what": FINDINGS[str(finding)][0],
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
