"""Plate quality: focus, saturation, background, cells, position trends and control separation, with flags and reasons."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from deepnoise.normalization.position import enough_wells, median_polish, plate_grid
from deepnoise.normalization.statistics import MAD_TO_STD
from deepnoise.wells import places

MIN_CONTROLS = 3
"""Wells of each kind from which on Z' and SSMD are given."""
SHUFFLES = 40
"""Random arrangements of a plate's wells that its trends are compared with: few wells a row make large trends by chance."""
LIMITS: dict[str, float] = {
    "focus_shift": -6.0,  # robust z of the plate's focus among plates of its cell type and channel; and by 0.3 at least
    "saturated": 0.01,  # share of pixels at the ceiling
    "few_objects": 0.5,  # of the median plate of its cell type and channel
    "trend": 1.25,  # times the largest of SHUFFLES trends of the same wells in random places
    "edge": 1.5,  # outermost wells against the others, in robust standard deviations
}
"""Where a flag is raised."""


def check_plates(site_features: pd.DataFrame, wells: pd.DataFrame) -> pd.DataFrame:
    """The table ``plate_qc``.

    ``z_prime`` (Zhang et al. 1999, J. Biomol. Screen. 4, 67: 1 - 3 (sd_p + sd_n) / |mean_p - mean_n|) and ``ssmd`` (Zhang 2007,
    Genomics 89, 552: (mean_p - mean_n) / sqrt(var_p + var_n)) compare the wells of all positive controls with the negative
    ones by their mean intensity; missing with fewer than ``MIN_CONTROLS`` wells of a kind. Trends are of the wells' mean
    intensity, by median polish; missing with too few wells
    (:func:`deepnoise.normalization.position.enough_wells`).

    Args:
        site_features: The table ``site_features``.
        wells: The table ``wells``.

    Returns:
        One row a plate and channel; ``flags`` names what is wrong and why, empty where nothing is.
    """
    key = ["experiment", "plate", "channel"]
    listed = wells.groupby(["experiment", "plate"]).size()
    usual = listed.median()
    of_wells = site_features.groupby([*key, "id_code", "well"], sort=False)["mean"].mean().reset_index()
    of_wells = of_wells.merge(wells[["id_code", "well_type", "cell_type"]], on="id_code")
    by_channel = site_features.groupby(key, sort=False)
    middle = by_channel[["focus", "p01", "mean", "objects"]].median()
    sites, share, spread = by_channel.size(), by_channel["saturated"].mean(), by_channel["std"].max()
    rows = []
    for place, of_well in of_wells.groupby(key, sort=False):
        row: dict[str, Any] = dict(zip(key, place, strict=True)) | {
            "cell_type": of_well["cell_type"].iloc[0], "wells": len(of_well), "sites": int(sites[place]),
            "focus": middle.at[place, "focus"], "saturated": share[place], "background": middle.at[place, "p01"],
            "intensity": middle.at[place, "mean"], "objects": middle.at[place, "objects"], "constant": spread[place] == 0,
            "short": int(usual - listed[place[:2]]),
        }  # fmt: skip
        rows.append(row | position_trends(of_well) | control_separation(of_well))
    table = pd.DataFrame(rows)
    table["flags"] = _flags(table)
    return table.drop(columns=["constant", "short"])


def position_trends(of_well: pd.DataFrame) -> dict[str, float]:
    """Row and column effects over the residual, and the outermost used rows and columns against the rest.

    Args:
        of_well: One row a well of one plate and channel: well, mean.

    Returns:
        ``row_trend`` and ``column_trend`` (standard deviation of the effects over the scaled MAD of the residuals, divided by
        the largest value that ``SHUFFLES`` random arrangements of the same wells reach) and ``edge_effect`` (difference of
        medians over the scaled MAD of the inner wells).
    """
    nothing = {"row_trend": np.nan, "column_trend": np.nan, "edge_effect": np.nan}
    row, column = places(of_well["well"])
    if not enough_wells(row, column):
        return nothing
    values = of_well["mean"].to_numpy(np.float64)
    rng = np.random.default_rng(0)
    arranged = np.stack([values, *(rng.permutation(values) for _ in range(SHUFFLES))], axis=1)
    by_row, by_column, residual = median_polish(plate_grid(arranged, row, column))
    left = residual[row, column]
    spread = _scaled_mad(left)
    outer = np.isin(row, [row.min(), row.max()]) | np.isin(column, [column.min(), column.max()])
    inner_spread = float(_scaled_mad(values[~outer])) if (~outer).any() else 0.0
    if (spread == 0).any() or inner_spread == 0:
        return nothing
    trends = by_row[np.unique(row)].std(axis=0) / spread, by_column[np.unique(column)].std(axis=0) / spread
    return {
        "row_trend": float(trends[0][0] / trends[0][1:].max()),
        "column_trend": float(trends[1][0] / trends[1][1:].max()),
        "edge_effect": float((np.median(values[outer]) - np.median(values[~outer])) / inner_spread),
    }


def control_separation(of_well: pd.DataFrame) -> dict[str, float]:
    """``z_prime`` and ``ssmd`` of the plate's positive against its negative controls; nan where there are too few."""
    kinds, values = of_well["well_type"].to_numpy(), of_well["mean"].to_numpy(np.float64)
    positive, negative = (values[kinds == kind] for kind in ("positive_control", "negative_control"))
    if min(len(positive), len(negative)) < MIN_CONTROLS:
        return {"z_prime": np.nan, "ssmd": np.nan}
    gap = positive.mean() - negative.mean()
    spread = positive.std(ddof=1), negative.std(ddof=1)
    return {
        "z_prime": float(1 - 3 * sum(spread) / abs(gap)) if gap else -np.inf,
        "ssmd": float(gap / np.hypot(*spread)) if any(spread) else np.nan,
    }


def _scaled_mad(values: np.ndarray) -> np.ndarray:
    """Of (W,) or (W, F) values over the wells."""
    return np.asarray(MAD_TO_STD * np.median(np.abs(values - np.median(values, axis=0)), axis=0))


def _flags(table: pd.DataFrame) -> list[str]:
    """Flags with their reasons, joined by "; "."""
    among = table.groupby(["cell_type", "channel"])
    middle = among["focus"].transform("median")
    spread = among["focus"].transform(lambda v: max(float(_scaled_mad(v.to_numpy())), 0.05))
    objects = among["objects"].transform("median")
    flags = []
    for i, row in enumerate(table.itertuples()):
        why = []
        if row.constant:
            why.append("dead channel: every image is constant")
        shift = row.focus - middle.iloc[i]
        if shift / spread.iloc[i] < LIMITS["focus_shift"] and shift < -0.3:
            why.append(f"blurred: focus {row.focus:.2f}, its cell type {middle.iloc[i]:.2f}")
        if row.saturated > LIMITS["saturated"]:
            why.append(f"saturated: {row.saturated:.1%} of the pixels")
        if row.objects < LIMITS["few_objects"] * objects.iloc[i]:
            why.append(f"few objects: {row.objects:.0f} a site, its cell type {objects.iloc[i]:.0f}")
        for name in ("row_trend", "column_trend"):
            if getattr(row, name) > LIMITS["trend"]:
                why.append(f"{name.replace('_', ' ')}: {getattr(row, name):.1f} times what chance reaches")
        if abs(row.edge_effect) > LIMITS["edge"]:
            why.append(f"edge effect: {row.edge_effect:+.1f} standard deviations")
        if row.short > 0:
            why.append(f"{row.short} wells fewer than the usual plate")
        flags.append("; ".join(why))
    return flags
