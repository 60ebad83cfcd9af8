"""Exact statistics of raw counts from histograms, and the normalization strategies built on them."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd

from deepnoise.errors import InputError
from deepnoise.ingestion.layouts import repeated_units
from deepnoise.tiers import over_unit, plain_tier

logger = logging.getLogger(__name__)

QUANTILES = {"p01": 0.01, "p10": 0.10, "p25": 0.25, "p50": 0.50, "p75": 0.75, "p90": 0.90, "p99": 0.99}
MAD_TO_STD = 1.482602218505602
"""1 / the third quartile of the standard normal: the scaled MAD of a normal distribution is its std."""
POOL_STATISTICS = ["mean", "std", *QUANTILES, "scaled_mad", "n_pixels"]
"""Columns of ``plate_statistics`` that describe the pool of pixels."""


@dataclass(frozen=True)
class Strategy:
    """How an image is normalized: (x - location) / scale.

    ``location`` and ``scale`` are columns of the table ``plate_statistics`` (mean, std, p01 to p99,
    scaled_mad), or the difference of two: ``p90 - p10``.
    """

    pool: tuple[str, ...] | None  # columns within which pixels are pooled; None: no pooled statistic is used
    location: str = "mean"
    scale: str = "std"

    @property
    def across_experiments(self) -> bool:
        """Whether pixels of several experiments are pooled."""
        return self.pool is not None and "experiment" not in self.pool


STRATEGIES: dict[str, Strategy] = {
    "none": Strategy(None),
    "site": Strategy(None),
    "global": Strategy(()),
    "cell_type": Strategy(("cell_type",)),
    "experiment": Strategy(("experiment",)),
    "plate": Strategy(("experiment", "plate")),
    "percentile": Strategy(("experiment", "plate"), "p01", "p99 - p01"),
    "robust": Strategy(("experiment", "plate"), "p50", "scaled_mad"),
}

REFERENCES = {
    "all": ("treatment", "positive_control", "negative_control"),
    "controls": ("positive_control", "negative_control"),
    "negative_controls": ("negative_control",),
}


def histograms(images: np.ndarray) -> np.ndarray:
    """Count the pixels at each grey level.

    Args:
        images: (S, C, H, W) uint8 or uint16 raw counts.

    Returns:
        (S, C, L) int64, L = 256 or the highest level + 1.
    """
    sites, channels = images.shape[:2]
    levels = 256 if images.dtype == np.uint8 else int(images.max(initial=0)) + 1
    counts = np.empty((sites, channels, levels), np.int64)
    for s in range(sites):
        for c in range(channels):
            counts[s, c] = np.bincount(images[s, c].ravel(), minlength=levels)
    return counts


def moments(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (divisor n) of histograms, exact up to the final division.

    n * sum(x^2) - sum(x)^2 is computed in integers of arbitrary size, so there is no cancellation error.

    Args:
        counts: (..., L) int64 counts of the levels 0 to L - 1, fewer than 2^47 pixels in total.

    Returns:
        Two (...) float64 arrays; nan where there are no pixels.
    """
    level = np.arange(counts.shape[-1], dtype=np.int64)
    n, total = counts.sum(axis=-1), counts @ level
    high, low = np.divmod(level * level, 1 << 16)  # squares in two parts, so that no sum exceeds 2^63
    exact_n, exact_total, upper, lower = (np.asarray(v).astype(object) for v in (n, total, counts @ high, counts @ low))
    n_squared_variance = np.asarray(
        (upper * (1 << 16) + lower) * exact_n - exact_total * exact_total, dtype=object
    ).astype(np.float64)
    n_pixels = np.asarray(n, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / n_pixels, np.sqrt(n_squared_variance) / n_pixels


def quantiles(counts: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Quantiles of histograms by nearest rank: the sorted pixel of index round(q (n - 1)).

    Args:
        counts: (..., L) int64.
        shares: (Q,) in 0 to 1.

    Returns:
        (..., Q) int64 levels.
    """
    cumulative = np.cumsum(counts, axis=-1).reshape(-1, counts.shape[-1])
    ranks = np.round(shares[None] * (cumulative[:, -1:] - 1)).astype(np.int64)
    levels = np.stack([np.searchsorted(row, rank, side="right") for row, rank in zip(cumulative, ranks, strict=True)])
    return levels.reshape(*counts.shape[:-1], len(shares))


def scaled_mad(counts: np.ndarray) -> float:
    """Median absolute deviation (medians by nearest rank) of one (L,) histogram, times ``MAD_TO_STD``."""
    median = int(quantiles(counts, np.array([0.5]))[0])
    deviation_counts = np.bincount(np.abs(np.arange(len(counts)) - median), weights=counts).astype(np.int64)
    return MAD_TO_STD * float(quantiles(deviation_counts, np.array([0.5]))[0])


def add_histograms(total: dict[str, np.ndarray], counts: np.ndarray, well_types: np.ndarray) -> None:
    """Add sites to the histograms of their plate, in place.

    Args:
        total: Well type -> (C, L) int64, where L covers the highest level so far.
        counts: (S, C, L) from :func:`histograms`.
        well_types: (S,) names.
    """
    for well_type in sorted(set(well_types)):
        longer = counts[well_types == well_type].sum(axis=0)
        shorter = total.get(well_type, np.zeros((longer.shape[0], 0), np.int64))
        if shorter.shape[1] > longer.shape[1]:
            shorter, longer = longer, shorter
        longer[:, : shorter.shape[1]] += shorter
        total[well_type] = longer


def histogram_table(total: dict[str, np.ndarray], key: dict[str, str], channels: list[str]) -> pd.DataFrame:
    """The rows of ``plate_histograms`` of one plate.

    Args:
        total: Well type -> (C, L) from :func:`add_histograms`.
        key: Values of experiment, plate and cell_type.
        channels: C names.

    Returns:
        One row per well type and channel; ``levels`` holds the grey levels that occur, ``counts`` their pixel
        counts.
    """
    rows = []
    for well_type, counts in total.items():
        for c, channel in enumerate(channels):
            levels = np.flatnonzero(counts[c])
            rows.append(
                {**key, "well_type": well_type, "channel": channel, "levels": levels, "counts": counts[c, levels]}
            )
    return pd.DataFrame(rows)


def _sum_histograms(rows: pd.DataFrame) -> np.ndarray:
    """(L,) sum of the histograms in some rows of ``plate_histograms``."""
    total = np.zeros(1 + max(int(levels[-1]) for levels in rows["levels"]), np.int64)
    for levels, counts in zip(rows["levels"], rows["counts"], strict=True):
        total[np.asarray(levels)] += np.asarray(counts)
    return total


def plate_statistics(
    plate_histograms: pd.DataFrame,
    wells: pd.DataFrame,
    strategy: str,
    reference: str,
    scale_floor: float = 1.0,
    illumination: str = "none",
) -> pd.DataFrame:
    """The table ``plate_statistics`` of one strategy (method: section 2).

    Args:
        plate_histograms: The table ``plate_histograms``.
        wells: The table ``wells``.
        strategy: Key of ``STRATEGIES``. ``none`` gives location 0 and scale 1. With ``site`` each image is
            normalized by its own mean and std; the plate's statistics are kept for information.
        reference: Key of ``REFERENCES``: the wells that the statistics are computed from.
        scale_floor: Grey levels: the smallest scale of ``percentile`` and ``robust``, and the scale of a
            constant channel.
        illumination: How the images behind the histograms were corrected; written into the table.

    Returns:
        One row per plate and channel, whatever the strategy, so that a new plate brings its own rows: mean,
        std, quantiles and scaled MAD of the pool, and the location and scale to normalize with.

    Raises:
        InputError: A pool (plate, experiment, cell type) has no reference well with images.
    """
    rule = STRATEGIES[strategy]
    pool_columns = ["experiment", "plate"] if rule.pool is None else list(rule.pool)
    pooled = _pool_statistics(_reference_histograms(plate_histograms, wells, rule, reference), pool_columns)
    plates = plate_histograms[["experiment", "plate", "cell_type", "channel"]].drop_duplicates()
    table = plates.merge(pooled, on=[*pool_columns, "channel"], how="left")
    missing = table["mean"].isna()
    if missing.any():
        row = table[missing].iloc[0]
        raise InputError(
            f"plate {row['experiment']}/{row['plate']} has no images of reference wells ({reference}) in its pool ({strategy}); "
            "set normalization.reference to 'all', normalization.strategy to 'plate', or leave the plate out"
        )
    table["location"], table["scale"] = _statistic(table, rule.location), _floored_scale(table, rule.scale, scale_floor)
    if strategy == "none":
        table["location"], table["scale"] = 0.0, 1.0
    table["strategy"], table["reference"], table["illumination"] = strategy, reference, illumination
    withheld = bool((wells["split"] == "heldout").any())
    table["tier"] = tier_of(strategy, reference, illumination, withheld, repeated_units(wells))
    order = ["experiment", "plate", "channel", "location", "scale", *POOL_STATISTICS]
    order += ["strategy", "reference", "illumination", "tier"]
    return table[order].sort_values(["experiment", "plate"], kind="stable", ignore_index=True)


def _reference_histograms(
    plate_histograms: pd.DataFrame, wells: pd.DataFrame, rule: Strategy, reference: str
) -> pd.DataFrame:
    """Histograms of the reference wells, without held-out plates if the pool spans experiments."""
    references = plate_histograms[plate_histograms["well_type"].isin(REFERENCES[reference])]
    if not rule.across_experiments:
        return references
    # held-out plates must not affect the statistics that training uses
    labelled = wells.loc[wells["split"] == "labelled", ["experiment", "plate"]].drop_duplicates()
    return references.merge(labelled, on=["experiment", "plate"])


def _pool_statistics(histogram_rows: pd.DataFrame, pool_columns: list[str]) -> pd.DataFrame:
    """``POOL_STATISTICS`` of each pool and channel."""
    key = [*pool_columns, "channel"]
    rows = []
    for values, group in histogram_rows.groupby(key, sort=True):
        counts = _sum_histograms(group)
        mean, std = moments(counts)
        percentiles = quantiles(counts, np.array(list(QUANTILES.values()))).astype(float)
        statistics = {
            "mean": float(mean),
            "std": float(std),
            **dict(zip(QUANTILES, percentiles, strict=True)),
            "scaled_mad": scaled_mad(counts),
            "n_pixels": int(counts.sum()),
        }
        rows.append(dict(zip(key, values, strict=True)) | statistics)
    return pd.DataFrame(rows, columns=[*key, *POOL_STATISTICS])


def _floored_scale(table: pd.DataFrame, name: str, scale_floor: float) -> pd.Series:
    """The named scale, raised to the floor where it is too small; the log says where."""
    scale = _statistic(table, name)
    too_small = scale == 0 if name == "std" else scale < scale_floor
    if too_small.any():
        row = table[too_small].iloc[0]
        logger.warning(
            "channel %s of plate %s/%s: %s is %.3g, raised to normalization.scale_floor = %s (%s such channels)",
            row["channel"], row["experiment"], row["plate"], name.replace("scaled_mad", "scaled MAD"),
            scale[too_small].iloc[0], scale_floor, int(too_small.sum()),
        )  # fmt: skip
    return scale.mask(too_small, scale_floor)


def _statistic(table: pd.DataFrame, name: str) -> pd.Series:
    """A column of the table, or the difference of two, as in ``p90 - p10``."""
    first, _, second = name.partition(" - ")
    return table[first] - table[second] if second else table[first]


def tier_of(
    strategy: str,
    reference: str,
    illumination: str = "none",
    withheld: bool = True,
    repeated: Collection[str] = (),
) -> str:
    """Tier (method: section 7) of images normalized this way: what the normalization was allowed to know.

    Args:
        strategy: Key of ``STRATEGIES``.
        reference: Key of ``REFERENCES``.
        illumination: A flat field is estimated from the plate's own unlabelled images, so the tier is at
            least T1.
        withheld: Whether pools across experiments exclude held-out experiments. A cross-validated screen has
            none, so such a pool contains images of plates that folds hold out.
        repeated: Units that repeat their contents, of :func:`deepnoise.ingestion.layouts.repeated_units`. The mean
            over the treatments of one tells which they are (:func:`deepnoise.tiers.over_unit`).
    """
    rule = STRATEGIES[strategy]
    if rule.pool is None or (rule.across_experiments and withheld):
        tier = "T0"
    elif reference != "all":
        tier = "T1c"
    else:
        tier = over_unit("T1", "plate" if "plate" in rule.pool else "experiment", repeated)
    return tier if illumination == "none" else over_unit(plain_tier(tier), "plate", repeated)


def statistics_of_plates(statistics: pd.DataFrame, plates: list[str]) -> pd.DataFrame:
    """Rows of ``plate_statistics`` for the plates given as ``<experiment>/<plate>``."""
    return statistics[(statistics["experiment"] + "/" + statistics["plate"]).isin(plates)].reset_index(drop=True)
