"""Exact statistics of raw counts from histograms, and the strategies made from them."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd

from deepnoise.errors import InputError

logger = logging.getLogger(__name__)

QUANTILES = {"p01": 0.01, "p10": 0.10, "p25": 0.25, "p50": 0.50, "p75": 0.75, "p90": 0.90, "p99": 0.99}
MAD_TO_STD = 1.482602218505602
"""1 / the third quartile of the standard normal distribution: scaled MAD of a normal distribution is its std."""


@dataclass(frozen=True)
class Strategy:
    """How an image is normalized: (x - location) / scale.

    ``location`` and ``scale`` are columns of the table ``plate_statistics`` (mean, std, p01 to p99, scaled_mad), or the difference of
    two: ``p90 - p10``.
    """

    pool: tuple[str, ...] | None  # columns within which pixels are pooled; None: no pooled statistic is used
    location: str = "mean"
    scale: str = "std"

    @property
    def across_experiments(self) -> bool:
        """Whether the pool reaches beyond the experiment of a plate."""
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
    """How often each grey level occurs.

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
    """Mean and standard deviation (divisor n) of histograms; exact until the last division.

    n * sum(x^2) - sum(x)^2 is formed in whole numbers of any size, so nothing cancels.

    Args:
        counts: (..., L) int64 counts of the levels 0 to L - 1, together below 2^47 pixels.

    Returns:
        Two (...) float64 arrays; nan where there is no pixel.
    """
    level = np.arange(counts.shape[-1], dtype=np.int64)
    n, total = counts.sum(axis=-1), counts @ level
    high, low = np.divmod(level * level, 1 << 16)  # squares in two parts, so that no sum passes 2^63
    whole_n, whole_total, upper, lower = (np.asarray(v).astype(object) for v in (n, total, counts @ high, counts @ low))
    spread = np.asarray((upper * (1 << 16) + lower) * whole_n - whole_total * whole_total, dtype=object).astype(
        np.float64
    )
    count = np.asarray(n, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / count, np.sqrt(spread) / count


def quantiles(counts: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Quantiles of histograms by nearest rank: the value at place round(q (n - 1)) of the sorted pixels.

    Args:
        counts: (..., L) int64.
        shares: (Q,) in 0 to 1.

    Returns:
        (..., Q) int64 levels.
    """
    reached = np.cumsum(counts, axis=-1).reshape(-1, counts.shape[-1])
    ranks = np.round(shares[None] * (reached[:, -1:] - 1)).astype(np.int64)
    levels = np.stack([np.searchsorted(row, rank, side="right") for row, rank in zip(reached, ranks, strict=True)])
    return levels.reshape(*counts.shape[:-1], len(shares))


def scaled_mad(counts: np.ndarray) -> float:
    """Median absolute deviation from the median (both by nearest rank) of one (L,) histogram, times ``MAD_TO_STD``."""
    middle = int(quantiles(counts, np.array([0.5]))[0])
    away = np.bincount(np.abs(np.arange(len(counts)) - middle), weights=counts).astype(np.int64)
    return MAD_TO_STD * float(quantiles(away, np.array([0.5]))[0])


def add_histograms(total: dict[str, np.ndarray], counts: np.ndarray, well_types: np.ndarray) -> None:
    """Add sites to the histograms of their plate, in place.

    Args:
        total: Well type -> (C, L) int64, as long as the highest level so far.
        counts: (S, C, L) of :func:`histograms`.
        well_types: (S,) names.
    """
    for kind in sorted(set(well_types)):
        new = counts[well_types == kind].sum(axis=0)
        old = total.get(kind, np.zeros((new.shape[0], 0), np.int64))
        if old.shape[1] > new.shape[1]:
            old, new = new, old
        new[:, : old.shape[1]] += old
        total[kind] = new


def histogram_table(total: dict[str, np.ndarray], key: dict[str, str], channels: list[str]) -> pd.DataFrame:
    """The rows of ``plate_histograms`` of one plate.

    Args:
        total: Well type -> (C, L) of :func:`add_histograms`.
        key: experiment, plate and cell_type.
        channels: C names.

    Returns:
        One row a well type and channel; ``levels`` are those that occur, ``counts`` how often.
    """
    rows = []
    for kind, pooled in total.items():
        for c, channel in enumerate(channels):
            levels = np.flatnonzero(pooled[c])
            rows.append({**key, "well_type": kind, "channel": channel, "levels": levels, "counts": pooled[c, levels]})
    return pd.DataFrame(rows)


def _dense(rows: pd.DataFrame) -> np.ndarray:
    """(L,) sum of the histograms of some rows."""
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
        strategy: Key of ``STRATEGIES``. ``none`` gives location 0 and scale 1; ``site`` keeps the plate's statistics
            for information, the images being normalized by their own.
        reference: Key of ``REFERENCES``: the wells the statistics are taken from.
        scale_floor: Grey levels: the least scale of ``percentile`` and ``robust``, and the scale of a constant channel.
        illumination: How the images behind the histograms were corrected; written into the table.

    Returns:
        One row a plate and channel, whatever the strategy, so that a new plate brings its own rows: mean, std,
        quantiles and scaled MAD of the pool, and the location and scale that normalize.

    Raises:
        InputError: A pool (plate, experiment, cell type) holds no reference well with images.
    """
    chosen = STRATEGIES[strategy]
    within = ["experiment", "plate"] if chosen.pool is None else list(chosen.pool)
    used = plate_histograms[plate_histograms["well_type"].isin(REFERENCES[reference])]
    if chosen.across_experiments:
        # held-out plates do not decide the statistics that training sees
        labelled = wells.loc[wells["split"] == "labelled", ["experiment", "plate"]].drop_duplicates()
        used = used.merge(labelled, on=["experiment", "plate"])
    rows = []
    for names, group in used.groupby([*within, "channel"], sort=True):
        counts = _dense(group)
        mean, std = moments(counts)
        at = dict(zip(QUANTILES, quantiles(counts, np.array(list(QUANTILES.values()))).astype(float), strict=True))
        pool = {
            "mean": float(mean),
            "std": float(std),
            **at,
            "scaled_mad": scaled_mad(counts),
            "n_pixels": int(counts.sum()),
        }
        rows.append(dict(zip([*within, "channel"], names, strict=True)) | pool)
    measured = ["mean", "std", *QUANTILES, "scaled_mad", "n_pixels"]
    pooled = pd.DataFrame(rows, columns=[*within, "channel", *measured])
    plates = plate_histograms[["experiment", "plate", "cell_type", "channel"]].drop_duplicates()
    table = plates.merge(pooled, on=[*within, "channel"], how="left")
    lacking = table["mean"].isna()
    if lacking.any():
        row = table[lacking].iloc[0]
        raise InputError(
            f"plate {row['experiment']}/{row['plate']} has no images of reference wells ({reference}) in its pool ({strategy}); "
            "set normalization.reference to 'all', normalization.strategy to 'plate', or leave the plate out"
        )
    scale = _statistic(table, chosen.scale)
    low = scale == 0 if chosen.scale == "std" else scale < scale_floor
    if low.any():
        row = table[low].iloc[0]
        logger.warning(
            "channel %s of plate %s/%s: its %s is %.3g, raised to normalization.scale_floor = %s (%s such channels)",
            row["channel"], row["experiment"], row["plate"], chosen.scale.replace("scaled_mad", "scaled MAD"), scale[low].iloc[0], scale_floor, int(low.sum()),
        )  # fmt: skip
    table["location"], table["scale"] = _statistic(table, chosen.location), scale.mask(low, scale_floor)
    if strategy == "none":
        table["location"], table["scale"] = 0.0, 1.0
    table["strategy"], table["reference"], table["illumination"] = strategy, reference, illumination
    table["tier"] = tier_of(strategy, reference, illumination, bool((wells["split"] == "heldout").any()))
    order = ["experiment", "plate", "channel", "location", "scale", *measured]
    order += ["strategy", "reference", "illumination", "tier"]
    return table[order].sort_values(["experiment", "plate"], kind="stable", ignore_index=True)


def _statistic(table: pd.DataFrame, name: str) -> pd.Series:
    first, _, second = name.partition(" - ")
    return table[first] - table[second] if second else table[first]


def tier_of(strategy: str, reference: str, illumination: str = "none", withheld: bool = True) -> str:
    """Tier of knowledge (method: section 7) of an image normalized this way.

    Args:
        strategy: Key of ``STRATEGIES``.
        reference: Key of ``REFERENCES``.
        illumination: A flat field is estimated from the plate's own unlabelled images: at least T1.
        withheld: Whether held-out experiments are kept out of the pools across experiments. On a cross-validated screen there
            are none, and such a pool holds images of plates that folds leave out.
    """
    chosen = STRATEGIES[strategy]
    if chosen.pool is None or (chosen.across_experiments and withheld):
        return "T0" if illumination == "none" else "T1"
    return "T1" if reference == "all" else "T1c"


def statistics_of_plates(statistics: pd.DataFrame, plates: list[str]) -> pd.DataFrame:
    """The rows of ``plate_statistics`` of some plates, named ``<experiment>/<plate>``."""
    return statistics[(statistics["experiment"] + "/" + statistics["plate"]).isin(plates)].reset_index(drop=True)
