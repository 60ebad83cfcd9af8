"""Retrospective flat-field correction: a plate's illumination per channel, estimated from its own images.

BaSiCPy, the maintained library for this, pins scipy < 1.13 and cannot be installed alongside this project's
scipy. The field is therefore the smoothed median over the plate's sites, as in CellProfiler's
CorrectIlluminationCalculate over all images.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter

from deepnoise.errors import InputError

if TYPE_CHECKING:  # the module needs torch
    from deepnoise.network.site_images import ImageSource

GRID = 16
"""Knots per side of a field; it is interpolated between them, because illumination is smooth."""
MIN_SITES = 96
"""Plates with fewer sites keep a flat field."""
PLAUSIBLE = (0.4, 2.5)
"""Range of plausible illumination; the channel of a field that leaves it keeps a flat field."""


def block_means(images: np.ndarray, grid: int = GRID) -> np.ndarray:
    """(S, C, grid, grid) float32 block means of (S, C, H, W) images; fewer blocks of smaller images."""
    height, width = images.shape[2:]
    row_edges, column_edges = (np.linspace(0, n, min(grid, n) + 1).round().astype(int) for n in (height, width))
    row_sums = np.add.reduceat(images, row_edges[:-1], axis=2, dtype=np.float32)
    sums = np.add.reduceat(row_sums, column_edges[:-1], axis=3)
    return np.asarray(sums / (np.diff(row_edges)[:, None] * np.diff(column_edges)[None]), np.float32)


def estimate_field(blocks: np.ndarray) -> np.ndarray:
    """Relative illumination of a plate.

    Each site's blocks are divided by the site's mean, and their median over sites is taken. A quadratic
    surface is fitted to it, and the residual is smoothed with a Gaussian of an eighth of the field. (The
    Gaussian alone would flatten the corners.)

    A channel keeps a flat field, 1 everywhere, in three cases:

    - The estimate mostly reflects where cells happen to be: the variance of half the difference between the
      fields of even and odd sites exceeds a quarter of the field's own variance. This is an F test of about
      5 % for the few degrees of freedom of so smooth a field.
    - The field leaves the range ``PLAUSIBLE``.
    - The plate has fewer than ``MIN_SITES`` sites.

    Args:
        blocks: (S, C, h, w) from :func:`block_means` over all sites of the plate.

    Returns:
        (C, h, w) float64, positive, with mean 1.
    """
    flat = np.ones(blocks.shape[1:])
    if len(blocks) < MIN_SITES:
        return flat
    site_mean = blocks.mean(axis=(2, 3), keepdims=True, dtype=np.float64)
    relative = np.divide(blocks, site_mean, out=np.ones_like(blocks, np.float64), where=site_mean > 0)
    field, even, odd = (_smooth(np.median(sites, axis=0)) for sites in (relative, relative[::2], relative[1::2]))
    noise = ((even - odd) / 2).var(axis=(1, 2))
    reliable = (
        (noise < field.var(axis=(1, 2)) / 4)
        & (field.min(axis=(1, 2)) > PLAUSIBLE[0])
        & (field.max(axis=(1, 2)) < PLAUSIBLE[1])
    )
    return np.where(reliable[:, None, None], field, flat)


def _smooth(field: np.ndarray) -> np.ndarray:
    """Quadratic surface plus smoothed residual of a (C, h, w) field, scaled to mean 1."""
    channels, height, width = field.shape
    y, x = (v.ravel() for v in np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij"))
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
    surface = (terms @ np.linalg.lstsq(terms, field.reshape(channels, -1).T, rcond=None)[0]).T.reshape(field.shape)
    smooth = surface + gaussian_filter(field - surface, (0, height / 8, width / 8), mode="nearest")
    return np.asarray(smooth / smooth.mean(axis=(1, 2), keepdims=True))


def field_table(field: np.ndarray, experiment: str, plate: str, channels: list[str]) -> pd.DataFrame:
    """A (C, h, w) field as rows of the table ``illumination_fields``."""
    c, y, x = np.indices(field.shape).reshape(3, -1)
    names = np.array(channels, dtype=object)[c]
    return pd.DataFrame(
        {
            "experiment": experiment,
            "plate": plate,
            "channel": names,
            "grid_row": y,
            "grid_column": x,
            "gain": field.ravel(),
        }
    )


def field_of(table: pd.DataFrame, channels: list[str]) -> np.ndarray:
    """The (C, h, w) field of a plate, from its rows of ``illumination_fields``."""
    size = (int(table["grid_row"].max()) + 1, int(table["grid_column"].max()) + 1)
    field = np.empty((len(channels), *size))
    for c, channel in enumerate(channels):
        knots = table[table["channel"] == channel]
        field[c][knots["grid_row"], knots["grid_column"]] = knots["gain"]
    return field


def full_field(field: np.ndarray, height: int, width: int) -> np.ndarray:
    """The (C, H, W) float32 field with mean 1, interpolated bilinearly between block centres."""
    for axis, size in ((1, height), (2, width)):
        knots = np.arange(field.shape[axis]) + 0.5
        pixels = (np.arange(size) + 0.5) * field.shape[axis] / size
        low = np.clip(np.searchsorted(knots, pixels) - 1, 0, max(len(knots) - 2, 0))
        high = np.minimum(low + 1, len(knots) - 1)
        weight = np.clip(pixels - knots[low], 0, 1).reshape([-1 if a == axis else 1 for a in range(3)])
        field = np.take(field, low, axis) * (1 - weight) + np.take(field, high, axis) * weight
    return (field / field.mean(axis=(1, 2), keepdims=True)).astype(np.float32)


class FlatFieldStore:
    """An image store that divides images by their plate's field and rounds them to their own dtype.

    Args:
        store: The image store to wrap.
        fields: The table ``illumination_fields``, not empty.
    """

    def __init__(self, store: ImageSource, fields: pd.DataFrame) -> None:
        self._store = store
        self.channels: list[str] = store.channels
        self._fields = {
            (str(e), str(p)): field_of(rows, store.channels) for (e, p), rows in fields.groupby(["experiment", "plate"])
        }

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of a site."""
        return self._store.shape

    def read(self, experiment: str, plate: str, store_rows: np.ndarray | None = None) -> np.ndarray:
        """Corrected counts, (S, C, H, W) in the dtype of the wrapped store."""
        images = self._store.read(experiment, plate, store_rows)
        if (experiment, plate) not in self._fields:
            raise InputError(f"plate {experiment}/{plate} has no illumination field; run the pipeline normalization")
        field = full_field(self._fields[experiment, plate], *images.shape[2:])
        highest = np.iinfo(images.dtype).max
        corrected = np.empty_like(images)
        for s, image in enumerate(images):  # one site at a time: float32 takes four times the memory
            corrected[s] = np.clip(np.rint(image / field), 0, highest)
        return corrected

    def checksum(self, experiment: str, plate: str) -> str:
        """Hash of a plate's raw counts and its field."""
        field = self._fields[experiment, plate]
        return self._store.checksum(experiment, plate) + hashlib.blake2b(field.tobytes(), digest_size=8).hexdigest()


def corrected_store(store: ImageSource, fields: pd.DataFrame) -> ImageSource:
    """The store with its images divided by their fields, or the store itself if no field was estimated."""
    return FlatFieldStore(store, fields) if len(fields) else store
