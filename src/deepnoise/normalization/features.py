"""Intensity, texture and quality of single images, raw and as they would be after normalization."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd
from scipy import fft, ndimage, sparse

from deepnoise.errors import InputError
from deepnoise.ingestion.packing import CEILINGS
from deepnoise.normalization.statistics import QUANTILES, moments, quantiles
from deepnoise.tables import FEATURE

SCALE_FEATURES = ("std", "gradient", "laplace")
"""Features that scale with a gain and ignore an offset; the mean and the quantiles follow both."""
QUALITY_SIZE = 256
"""Largest side, in px, of the images on which focus and objects are measured."""
RINGS = 12
"""Number of rings of spatial frequency over which a power spectrum is averaged."""


def measure_sites(images: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Measure intensity, texture and quality of every image.

    Args:
        images: (S, C, H, W) uint8 or uint16 raw counts.
        counts: (S, C, L) from :func:`deepnoise.normalization.statistics.histograms`.

    Returns:
        Feature -> (S, C) float64: mean, std, quantiles (nearest rank), ``gradient`` and ``laplace`` (mean
        absolute first and second difference along both axes, grey levels), ``focus`` (:func:`power_slope`),
        ``saturated`` (share of pixels at the highest level, if that is the highest level of an 8, 10, 12, 14
        or 16 bit camera) and ``objects`` (:func:`count_objects`).
    """
    sites, channels, height, width = images.shape
    measured: dict[str, np.ndarray] = {}
    measured["mean"], measured["std"] = moments(counts)
    percentiles = quantiles(counts, np.array(list(QUANTILES.values()))).astype(np.float64)
    measured |= {name: percentiles[..., i] for i, name in enumerate(QUANTILES)}
    highest = counts.shape[-1] - 1 - np.argmax(counts[..., ::-1] > 0, axis=-1)
    is_ceiling = np.isin(highest, CEILINGS[str(images.dtype)])
    pixels_at_highest = np.take_along_axis(counts, highest[..., None], axis=-1)[..., 0]
    measured["saturated"] = np.where(is_ceiling, pixels_at_highest / (height * width), 0.0)
    measured["gradient"], measured["laplace"] = np.empty((sites, channels)), np.empty((sites, channels))
    signed = np.int16 if images.dtype == np.uint8 else np.int32
    for s in range(sites):  # one site at a time, to bound the working memory
        planes = images[s].astype(signed)
        down, across = planes[:, 1:] - planes[:, :-1], planes[:, :, 1:] - planes[:, :, :-1]
        measured["gradient"][s] = (_mean_absolute(down) + _mean_absolute(across)) / 2
        second = down[:, 1:] - down[:, :-1], across[:, :, 1:] - across[:, :, :-1]
        measured["laplace"][s] = (_mean_absolute(second[0]) + _mean_absolute(second[1])) / 2
    shrunk = shrink(images.reshape(-1, height, width))
    measured["focus"] = power_slope(shrunk).reshape(sites, channels)
    half_way = (measured["p10"] + measured["p99"]) / 2
    above_noise = measured["p50"] + 0.5 * measured["laplace"]
    measured["objects"] = count_objects(shrunk, np.maximum(half_way, above_noise).ravel()).reshape(sites, channels)
    return measured


def _mean_absolute(values: np.ndarray) -> np.ndarray:
    """(C,) mean absolute value of (C, ...) integers."""
    return np.asarray(np.abs(values).reshape(len(values), -1).sum(axis=1, dtype=np.int64) / (values[0].size or 1))


def shrink(images: np.ndarray, size: int = QUALITY_SIZE) -> np.ndarray:
    """(N, h, w) float32 block means of (N, H, W) images, at most ``size`` px per side."""
    count, height, width = images.shape
    step = -(-max(height, width) // size)
    total = np.zeros((count, height // step, width // step), np.float32)
    for y in range(step):
        for x in range(step):
            total += images[:, y : height // step * step : step, x : width // step * step : step]
    return total / np.float32(step * step)


def power_slope(images: np.ndarray) -> np.ndarray:
    """Slope of log power against log spatial frequency; lower means more blurred.

    Source: Bray et al. 2012, J. Biomol. Screen. 17, 266.

    Args:
        images: (N, H, W) float32.

    Returns:
        (N,) float64; 0 for a constant image.
    """
    count, height, width = images.shape
    centred = images - images.mean(axis=(1, 2), keepdims=True)
    window = np.hanning(height + 2)[1:-1, None] * np.hanning(width + 2)[None, 1:-1]
    spectrum = fft.rfft2(centred * window.astype(np.float32))
    power = (spectrum.real**2 + spectrum.imag**2).reshape(count, -1)
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    # rings of equal width in log frequency, from two periods per image to the Nyquist limit
    edges = np.geomspace(2 / min(height, width), 0.5, RINGS + 1)
    ring = np.digitize(radius, edges).ravel() - 1
    in_ring = (ring >= 0) & (ring < RINGS)
    membership = sparse.csr_array(
        (np.ones(in_ring.sum()), (np.flatnonzero(in_ring), ring[in_ring])), shape=(len(ring), RINGS)
    )
    size = np.bincount(ring[in_ring], minlength=RINGS)
    mean_power = np.asarray(power @ membership)[:, size > 0] / size[size > 0]
    log_frequency = np.log(np.sqrt(edges[1:] * edges[:-1]))[size > 0]
    log_frequency -= log_frequency.mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = np.log(mean_power) @ log_frequency / (log_frequency @ log_frequency)
    return np.where(mean_power.min(axis=1) > 0, slopes, 0.0)


def count_objects(images: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    """Count bright connected objects: a proxy for the number of cells, best in a channel of nuclei.

    The image is smoothed with a Gaussian of 1.5 px; objects smaller than 9 px are ignored.

    Args:
        images: (N, H, W) float32.
        threshold: (N,) grey levels above which a smoothed pixel is bright. :func:`measure_sites` uses the
            level half-way between the 10 % and the 99 % quantile, but at least half of ``laplace`` above the
            median. For white noise of standard deviation s, smoothed to 0.19 s, that is five of its standard
            deviations.

    Returns:
        (N,) float64 counts.
    """
    smooth = ndimage.gaussian_filter(images, (0, 1.5, 1.5))
    within_image = np.zeros((3, 3, 3), bool)
    within_image[1] = True  # objects of different images are never connected
    labels, count = ndimage.label(smooth > threshold[:, None, None], structure=within_image)
    image_of_label = np.zeros(count + 1, np.int64)
    for n, plane in enumerate(labels):
        image_of_label[plane.ravel()] = n
    large = np.flatnonzero(np.bincount(labels.ravel(), minlength=count + 1) >= 9)
    return np.bincount(image_of_label[large[large > 0]], minlength=len(images)).astype(np.float64)


def site_table(rows: pd.DataFrame, channels: list[str], measured: dict[str, np.ndarray]) -> pd.DataFrame:
    """Measurements of some sites as rows of the table ``site_features``, one row per site and channel.

    Args:
        rows: S rows of the table ``sites``, in the order of the images.
        channels: C channel names.
        measured: Result of :func:`measure_sites`.
    """
    n_sites, n_channels = measured["mean"].shape
    table = rows.loc[rows.index.repeat(n_channels), ["id_code", "experiment", "plate", "well", "site"]].reset_index(
        drop=True
    )
    table["channel"] = np.tile(channels, n_sites)
    for name, values in measured.items():
        table[name] = values.reshape(-1)
    return table


def normalize_features(features: pd.DataFrame, statistics: pd.DataFrame) -> pd.DataFrame:
    """Intensity features as they would be measured on normalized images.

    The result is exact: (x - location) / scale transforms means and quantiles alike, and divides spreads by
    the scale.

    Args:
        features: The table ``site_features``.
        statistics: The table ``plate_statistics``.

    Returns:
        A wide table, one row per site: id_code, experiment, plate, well, site, then
        ``feature_<feature>_<channel>``.
    """
    normalized_per_site = bool((statistics["strategy"] == "site").any())
    joined = features.merge(
        statistics[["experiment", "plate", "channel", "location", "scale"]],
        on=["experiment", "plate", "channel"],
        how="left",
    )
    if joined["scale"].isna().any():
        row = joined[joined["scale"].isna()].iloc[0]
        raise InputError(f"plate {row['experiment']}/{row['plate']} has no statistics; run the pipeline normalization")
    location = (joined["mean"] if normalized_per_site else joined["location"]).to_numpy(copy=True)
    scale = (joined["std"].replace(0, 1) if normalized_per_site else joined["scale"]).to_numpy(copy=True)
    values = {name: (joined[name].to_numpy() - location) / scale for name in ("mean", *QUANTILES)}
    values |= {name: joined[name].to_numpy() / scale for name in SCALE_FEATURES}
    site_key = ["id_code", "experiment", "plate", "well", "site"]
    long = joined[[*site_key, "channel"]].assign(**values)
    wide = long.pivot(index=site_key, columns="channel", values=list(values))
    wide.columns = [f"{FEATURE}{feature}_{channel}" for feature, channel in wide.columns]
    return wide.reset_index()


def z_score(features: pd.DataFrame, unit: list[str], reference: Collection[str] | None = None) -> pd.DataFrame:
    """Centre and scale every feature over the sites of each unit, the field's default step for hand features.

    Args:
        features: A wide table of :func:`normalize_features`.
        unit: Columns that define a unit, such as experiment and plate.
        reference: id_codes of the wells from which mean and standard deviation are computed; None: all.

    Returns:
        The table with (value - mean) / std; a feature that is constant over the reference is only centred, and a unit
        with fewer than two reference sites keeps its values.
    """
    columns = [c for c in features.columns if str(c).startswith(FEATURE)]
    values = features[columns].to_numpy(np.float64, copy=True)
    is_reference = np.ones(len(features), bool) if reference is None else features["id_code"].isin(reference).to_numpy()
    for rows in features.reset_index(drop=True).groupby(unit).indices.values():
        of_reference = values[rows[is_reference[rows]]]
        if len(of_reference) < 2:
            continue
        spread = of_reference.std(axis=0)
        values[rows] = (values[rows] - of_reference.mean(axis=0)) / np.where(spread > 0, spread, 1)
    return pd.concat([features.drop(columns=columns), pd.DataFrame(values, features.index, columns)], axis=1)
