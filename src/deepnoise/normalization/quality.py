"""Plate quality: focus, saturation, background, cells, trends and control separation, with flags and reasons."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from deepnoise.normalization.position import enough_wells, median_polish, plate_grid
from deepnoise.normalization.statistics import MAD_TO_STD
from deepnoise.wells import places

MIN_CONTROLS = 3
"""Fewest positive and fewest negative control wells for which Z' and SSMD are computed."""
SHUFFLES = 40
"""Random arrangements of a plate's wells to compare its trends with.

Rows and columns of few wells have large trends by chance.
"""
LIMITS: dict[str, float] = {
    "focus_shift": -6.0,  # robust z of the focus among these plates; and at least 0.3 below their median
    "saturated": 0.01,  # share of pixels at the ceiling
    "few_objects": 0.5,  # times the median of the plates of its cell type, in this channel
    "trend": 1.25,  # times the largest trend of SHUFFLES random arrangements of the same wells
    "edge": 1.5,  # outermost wells minus inner wells, in robust standard deviations
}
"""Thresholds at which a flag is raised."""


def check_plates(site_features: pd.DataFrame, wells: pd.DataFrame) -> pd.DataFrame:
    """The table ``plate_qc``.

    ``z_prime`` and ``ssmd`` compare the mean intensities of all positive control wells with those of the
    negative ones. They are missing with fewer than ``MIN_CONTROLS`` wells of either type.

    - z_prime = 1 - 3 (sd_p + sd_n) / |mean_p - mean_n| (Zhang et al. 1999, J. Biomol. Screen. 4, 67)
    - ssmd = (mean_p - mean_n) / sqrt(var_p + var_n) (Zhang 2007, Genomics 89, 552)

    Trends are those of the wells' mean intensity, by median polish. They are missing with too few wells
    (:func:`deepnoise.normalization.position.enough_wells`).

    Args:
        site_features: The table ``site_features``.
        wells: The table ``wells``.

    Returns:
        One row per plate and channel; ``flags`` says what is wrong and why, and is empty if nothing is.
    """
    key = ["experiment", "plate", "channel"]
    plate_sizes = wells.groupby(["experiment", "plate"]).size()
    median_size = plate_sizes.median()
    well_means = site_features.groupby([*key, "id_code", "well"], sort=False)["mean"].mean().reset_index()
    well_means = well_means.merge(wells[["id_code", "well_type", "cell_type"]], on="id_code")
    channel_measures = _measure_channels(site_features, key)
    rows = []
    for values, plate_wells in well_means.groupby(key, sort=False):
        row: dict[str, Any] = dict(zip(key, values, strict=True)) | {
            "cell_type": plate_wells["cell_type"].iloc[0],
            "wells": len(plate_wells),
            **{name: column[values] for name, column in channel_measures.items()},
            "missing_wells": int(median_size - plate_sizes[values[:2]]),
        }
        rows.append(row | position_trends(plate_wells) | control_separation(plate_wells))
    table = pd.DataFrame(rows)
    table["flags"] = _flags(table)
    return table.drop(columns=["constant", "missing_wells"])


def _measure_channels(site_features: pd.DataFrame, key: list[str]) -> dict[str, pd.Series]:
    """Column of ``plate_qc`` -> values by plate and channel; ``constant`` is true for a dead channel."""
    by_channel = site_features.groupby(key, sort=False)
    medians = by_channel[["focus", "p01", "mean", "objects"]].median()
    return {
        "sites": by_channel.size(),
        "focus": medians["focus"],
        "saturated": by_channel["saturated"].mean(),
        "background": medians["p01"],
        "intensity": medians["mean"],
        "objects": medians["objects"],
        "constant": by_channel["std"].max() == 0,
    }


def position_trends(plate_wells: pd.DataFrame) -> dict[str, float]:
    """Row and column effects relative to the residuals, and the edge effect.

    Args:
        plate_wells: One row per well of one plate and channel, with the columns ``well`` and ``mean``.

    Returns:
        ``row_trend`` and ``column_trend``: standard deviation of the effects over the scaled MAD of the
        residuals, divided by the largest value in ``SHUFFLES`` random arrangements of the same wells.
        ``edge_effect``: median of the outermost used rows and columns minus that of the inner wells, over the
        scaled MAD of the inner wells.
    """
    missing = {"row_trend": np.nan, "column_trend": np.nan, "edge_effect": np.nan}
    row, column = places(plate_wells["well"])
    if not enough_wells(row, column):
        return missing
    values = plate_wells["mean"].to_numpy(np.float64)
    rng = np.random.default_rng(0)
    # the plate as it is, then its random arrangements: (W, 1 + SHUFFLES)
    arrangements = np.stack([values, *(rng.permutation(values) for _ in range(SHUFFLES))], axis=1)
    row_effects, column_effects, residuals = median_polish(plate_grid(arrangements, row, column))
    spread = _scaled_mad(residuals[row, column])
    outer = np.isin(row, [row.min(), row.max()]) | np.isin(column, [column.min(), column.max()])
    inner_spread = float(_scaled_mad(values[~outer])) if (~outer).any() else 0.0
    if (spread == 0).any() or inner_spread == 0:
        return missing
    row_trends = row_effects[np.unique(row)].std(axis=0) / spread
    column_trends = column_effects[np.unique(column)].std(axis=0) / spread
    return {
        "row_trend": float(row_trends[0] / row_trends[1:].max()),
        "column_trend": float(column_trends[0] / column_trends[1:].max()),
        "edge_effect": float((np.median(values[outer]) - np.median(values[~outer])) / inner_spread),
    }


def control_separation(plate_wells: pd.DataFrame) -> dict[str, float]:
    """``z_prime`` and ``ssmd`` of the plate's positive against its negative controls; nan with too few wells.

    Args:
        plate_wells: One row per well of one plate and channel, with the columns ``well_type`` and ``mean``.
    """
    well_types, values = plate_wells["well_type"].to_numpy(), plate_wells["mean"].to_numpy(np.float64)
    positive, negative = values[well_types == "positive_control"], values[well_types == "negative_control"]
    if min(len(positive), len(negative)) < MIN_CONTROLS:
        return {"z_prime": np.nan, "ssmd": np.nan}
    difference = positive.mean() - negative.mean()
    deviations = positive.std(ddof=1), negative.std(ddof=1)
    return {
        "z_prime": float(1 - 3 * sum(deviations) / abs(difference)) if difference else -np.inf,
        "ssmd": float(difference / np.hypot(*deviations)) if any(deviations) else np.nan,
    }


def _scaled_mad(values: np.ndarray) -> np.ndarray:
    """Scaled MAD over the wells of (W,) or (W, F) values."""
    return np.asarray(MAD_TO_STD * np.median(np.abs(values - np.median(values, axis=0)), axis=0))


def _flags(table: pd.DataFrame) -> list[str]:
    """The reasons for the flags of each row, joined by "; "."""
    peers = table.groupby(["cell_type", "channel"])
    peer_focus = peers["focus"].transform("median")
    focus_spread = peers["focus"].transform(lambda v: max(float(_scaled_mad(v.to_numpy())), 0.05))
    peer_objects = peers["objects"].transform("median")
    return [
        "; ".join(_reasons(row, *typical))
        for row, *typical in zip(table.itertuples(), peer_focus, focus_spread, peer_objects, strict=True)
    ]


def _reasons(row: Any, peer_focus: float, focus_spread: float, peer_objects: float) -> list[str]:
    """Reasons to flag one plate and channel.

    Args:
        row: Row of ``plate_qc``, with ``constant`` and ``missing_wells``.
        peer_focus: Median focus of the plates of this cell type, in this channel.
        focus_spread: Scaled MAD of their focus, at least 0.05.
        peer_objects: Median number of objects per site on these plates.
    """
    reasons = []
    if row.constant:
        reasons.append("dead channel: every image is constant")
    shift = row.focus - peer_focus
    if shift / focus_spread < LIMITS["focus_shift"] and shift < -0.3:
        reasons.append(f"blurred: focus {row.focus:.2f}, median of the cell type {peer_focus:.2f}")
    if row.saturated > LIMITS["saturated"]:
        reasons.append(f"saturated: {row.saturated:.1%} of the pixels")
    if row.objects < LIMITS["few_objects"] * peer_objects:
        reasons.append(f"few objects: {row.objects:.0f} per site, median of the cell type {peer_objects:.0f}")
    for name in ("row_trend", "column_trend"):
        if getattr(row, name) > LIMITS["trend"]:
            reasons.append(
                f"{name.replace('_', ' ')}: {getattr(row, name):.1f} times the largest of random arrangements"
            )
    if abs(row.edge_effect) > LIMITS["edge"]:
        reasons.append(f"edge effect: {row.edge_effect:+.1f} standard deviations")
    if row.missing_wells > 0:
        reasons.append(f"{row.missing_wells} wells fewer than the median plate")
    return reasons
