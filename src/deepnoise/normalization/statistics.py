"""Exact statistics of raw counts, one pass over the store, and the strategies made from them."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd

from deepnoise.errors import InputError

logger = logging.getLogger(__name__)

QUANTILES = {"p01": 0.01, "p10": 0.10, "p25": 0.25, "p50": 0.50, "p75": 0.75, "p90": 0.90, "p99": 0.99}
SCALE_FEATURES = ("std", "gradient", "laplace")
"""Features that a gain multiplies and an offset leaves alone; all others shift with the offset too."""

STRATEGIES: dict[str, tuple[str, ...] | None] = {
    "none": None,
    "global": (),
    "experiment": ("experiment",),
    "plate": ("experiment", "plate"),
    "site": None,
}
"""Strategy -> the columns within which statistics are pooled; None: no pooled statistic is used."""

REFERENCES = {
    "all": ("treatment", "positive_control", "negative_control"),
    "controls": ("positive_control", "negative_control"),
    "negative_controls": ("negative_control",),
}


def measure_sites(pictures: np.ndarray) -> dict[str, np.ndarray]:
    """Exact sums and intensity features of every picture.

    Args:
        pictures: (S, C, H, W) uint8 or uint16 raw counts.

    Returns:
        ``total`` and ``total_of_squares`` as (S, C) uint64 (exact: a sum of squares of 16-bit counts fits 2^32
        pixels), ``n_pixels`` (S, C) int64, and float64 (S, C) features: mean, std, quantiles (nearest rank),
        ``gradient`` and ``laplace`` (mean absolute first and second difference along both axes, grey levels).
    """
    sites, channels, height, width = pictures.shape
    flat = pictures.reshape(sites, channels, -1)
    n = height * width
    measured: dict[str, np.ndarray] = {
        "total": flat.sum(axis=2, dtype=np.uint64),
        "total_of_squares": np.empty((sites, channels), np.uint64),
        "n_pixels": np.full((sites, channels), n, np.int64),
    }
    quantiles = np.empty((len(QUANTILES), sites, channels))
    gradient = np.empty((sites, channels))
    laplace = np.empty((sites, channels))
    ranks = [round(q * (n - 1)) for q in QUANTILES.values()]
    for s in range(sites):  # one site at a time: the working memory is that of one site
        wide = flat[s].astype(np.uint64)
        measured["total_of_squares"][s] = (wide * wide).sum(axis=1)
        ordered = np.sort(flat[s], axis=1)
        quantiles[:, s] = ordered[:, ranks].T
        signed = pictures[s].astype(np.int32)
        down, along = np.diff(signed, axis=1), np.diff(signed, axis=2)
        gradient[s] = (np.abs(down).mean(axis=(1, 2)) + np.abs(along).mean(axis=(1, 2))) / 2
        laplace[s] = (
            np.abs(np.diff(down, axis=1)).mean(axis=(1, 2)) + np.abs(np.diff(along, axis=2)).mean(axis=(1, 2))
        ) / 2
    measured["mean"], measured["std"] = moments(measured["total"], measured["total_of_squares"], n)
    measured |= dict(zip(QUANTILES, quantiles, strict=True))
    measured["gradient"], measured["laplace"] = gradient, laplace
    return measured


def moments(total: np.ndarray, total_of_squares: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (divisor n) from exact integer sums; exact until the last division.

    n * sum(x^2) - sum(x)^2 is formed in whole numbers of any size, so nothing cancels.
    """
    whole_total = np.asarray(total).astype(object)
    whole_squares = np.asarray(total_of_squares).astype(object)
    variance = (whole_squares * n - whole_total * whole_total).astype(np.float64) / (float(n) * float(n))
    return (np.asarray(total).astype(np.float64) / n), np.sqrt(variance)


def site_table(rows: pd.DataFrame, channels: list[str], measured: dict[str, np.ndarray]) -> pd.DataFrame:
    """Measurements of one plate as a table, one row a site and channel.

    Args:
        rows: The S rows of ``sites``, in the order of the pictures.
        channels: C channel names.
        measured: Result of :func:`measure_sites`.
    """
    sites, count = measured["mean"].shape
    table = rows.loc[rows.index.repeat(count), ["id_code", "experiment", "plate", "well", "site"]].reset_index(
        drop=True
    )
    table["channel"] = np.tile(channels, sites)
    for name, values in measured.items():
        table[name] = values.reshape(-1)
    return table


def plate_statistics(measured: pd.DataFrame, wells: pd.DataFrame, strategy: str, reference: str) -> pd.DataFrame:
    """The table ``plate_statistics`` of one strategy (method: section 2).

    Args:
        measured: Rows of :func:`site_table` of all plates.
        wells: The table ``wells``.
        strategy: Key of ``STRATEGIES``. ``none`` gives mean 0 and std 1; ``site`` keeps the plate's statistics
            for information, the pictures being normalized by their own.
        reference: Key of ``REFERENCES``: the wells the statistics are taken from.

    Returns:
        One row a plate and channel, whatever the strategy, so that a new plate brings its own rows.

    Raises:
        InputError: A pool (plate, experiment) holds no reference well with pictures.
    """
    members = wells.loc[wells["well_type"].isin(REFERENCES[reference]), "id_code"]
    used = measured[measured["id_code"].isin(members)]
    pooled_by = STRATEGIES[strategy]
    within = ["experiment", "plate"] if pooled_by is None else list(pooled_by)
    sums = ["total", "total_of_squares", "n_pixels"]
    if strategy == "global":
        # held-out plates do not decide the statistics that training sees
        labelled = set(wells.loc[wells["split"] == "labelled", "id_code"])
        used = used[used["id_code"].isin(labelled)]
    used = used.astype(dict.fromkeys(sums, object))  # whole numbers of any size: sums over a screen exceed 64 bits
    pooled = used.groupby([*within, "channel"], sort=True)[sums].sum().reset_index()
    mean, std = [], []
    for row in pooled.itertuples():
        m, s = moments(np.array([row.total], object), np.array([row.total_of_squares], object), row.n_pixels)
        mean.append(m[0])
        std.append(s[0])
    pooled["mean"], pooled["std"] = mean, std
    plates = measured[["experiment", "plate", "channel"]].drop_duplicates()
    table = plates.merge(pooled, on=[*within, "channel"], how="left")
    lacking = table["mean"].isna()
    if lacking.any():
        row = table[lacking].iloc[0]
        raise InputError(
            f"plate {row['experiment']}/{row['plate']} has no pictures of reference wells ({reference}); "
            "set normalization.reference to 'all' or leave the plate out"
        )
    flat = table["std"] == 0
    if flat.any():
        row = table[flat].iloc[0]
        logger.warning(
            "channel %s of plate %s/%s is constant (%s such channels): it is only shifted, not scaled",
            row["channel"], row["experiment"], row["plate"], int(flat.sum()),
        )  # fmt: skip
        table.loc[flat, "std"] = 1.0
    if strategy == "none":
        table["mean"], table["std"] = 0.0, 1.0
    table["strategy"], table["reference"] = strategy, reference
    # where no experiment is withheld, the pool of "global" holds pictures of plates that folds leave out
    transductive = strategy == "global" and not (wells["split"] == "heldout").any()
    table["tier"] = "T1" if transductive and reference == "all" else tier_of(strategy, reference)
    columns = ["experiment", "plate", "channel", "mean", "std", "n_pixels", "strategy", "reference", "tier"]
    return table[columns].sort_values(["experiment", "plate"], kind="stable", ignore_index=True)


def tier_of(strategy: str, reference: str) -> str:
    """Tier of knowledge (method: section 7) of a picture normalized this way."""
    if STRATEGIES[strategy] in (None, ()):
        return "T0"
    return "T1" if reference == "all" else "T1c"


def statistics_of_plates(statistics: pd.DataFrame, plates: list[str]) -> pd.DataFrame:
    """The rows of ``plate_statistics`` of some plates, named ``<experiment>/<plate>``."""
    return statistics[(statistics["experiment"] + "/" + statistics["plate"]).isin(plates)].reset_index(drop=True)


def normalise_features(features: pd.DataFrame, statistics: pd.DataFrame) -> pd.DataFrame:
    """Intensity features as they would be measured on normalized pictures.

    Exact, since (x - mean) / std moves means and quantiles alike and divides spreads.

    Args:
        features: The table ``site_features``.
        statistics: The table ``plate_statistics``.

    Returns:
        A wide table, one row a site: id_code, experiment, plate, well, site, then ``<feature>_<channel>``.
    """
    per_site = bool((statistics["strategy"] == "site").any())
    joined = features.merge(
        statistics[["experiment", "plate", "channel", "mean", "std"]],
        on=["experiment", "plate", "channel"],
        how="left",
        suffixes=("", "_reference"),
    )
    if joined["std_reference"].isna().any():
        row = joined[joined["std_reference"].isna()].iloc[0]
        raise InputError(f"plate {row['experiment']}/{row['plate']} has no statistics; run normalization")
    mean = (joined["mean"] if per_site else joined["mean_reference"]).to_numpy(copy=True)
    std = (joined["std"].replace(0, 1) if per_site else joined["std_reference"]).to_numpy(copy=True)
    values = {name: (joined[name].to_numpy() - mean) / std for name in ("mean", *QUANTILES)}
    values |= {name: joined[name].to_numpy() / std for name in SCALE_FEATURES}
    key = ["id_code", "experiment", "plate", "well", "site"]
    long = joined[[*key, "channel"]].assign(**values)
    wide = long.pivot(index=key, columns="channel", values=list(values))
    wide.columns = [f"{feature}_{channel}" for feature, channel in wide.columns]
    return wide.reset_index()
