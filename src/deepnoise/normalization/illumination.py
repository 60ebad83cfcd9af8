"""Retrospective flat field: the illumination of a plate and channel, estimated from its own images.

BaSiCPy, the kept library for this, pins numpy < 2 and cannot be installed beside this project's numpy; so the field is the
smoothed median over the plate's sites, in the manner of CellProfiler's CorrectIlluminationCalculate over all images.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter

from deepnoise.errors import InputError

GRID = 16
"""Knots a side of a field; between them it is interpolated, as illumination is smooth."""
MIN_SITES = 96
"""Plates with fewer sites keep a flat field."""
PLAUSIBLE = (0.4, 2.5)
"""A field that leaves this range is no illumination of a microscope; its channel keeps a flat one."""


def block_means(images: np.ndarray, grid: int = GRID) -> np.ndarray:
    """(S, C, grid, grid) float32 means of the blocks of (S, C, H, W) images; fewer blocks where H or W is below the grid."""
    height, width = images.shape[2:]
    down, along = (np.linspace(0, n, min(grid, n) + 1).round().astype(int) for n in (height, width))
    sums = np.add.reduceat(np.add.reduceat(images, down[:-1], axis=2, dtype=np.float32), along[:-1], axis=3)
    return np.asarray(sums / (np.diff(down)[:, None] * np.diff(along)[None]), np.float32)


def estimate_field(blocks: np.ndarray) -> np.ndarray:
    """Relative illumination of a plate.

    The median over sites of each site's blocks over its own mean; then a quadratic surface, and the rest smoothed by a Gaussian of
    an eighth of the field (alone it would flatten the corners).

    A channel keeps a flat field, 1 everywhere, where the estimate is mostly the chance of where cells lie: where the variance of
    half the difference between the fields of even and odd sites is above a quarter of the field's own variance (an F test of about
    5 % for the few degrees of freedom of so smooth a field); where it leaves ``PLAUSIBLE``; and with fewer than ``MIN_SITES``
    sites.

    Args:
        blocks: (S, C, h, w) of :func:`block_means` over all sites of the plate.

    Returns:
        (C, h, w) float64, mean 1, and positive.
    """
    flat = np.ones(blocks.shape[1:])
    if len(blocks) < MIN_SITES:
        return flat
    own = blocks.mean(axis=(2, 3), keepdims=True, dtype=np.float64)
    relative = np.divide(blocks, own, out=np.ones_like(blocks, np.float64), where=own > 0)
    field, even, odd = (_smooth(np.median(part, axis=0)) for part in (relative, relative[::2], relative[1::2]))
    noise = ((even - odd) / 2).var(axis=(1, 2))
    sure = (
        (noise < field.var(axis=(1, 2)) / 4)
        & (field.min(axis=(1, 2)) > PLAUSIBLE[0])
        & (field.max(axis=(1, 2)) < PLAUSIBLE[1])
    )
    return np.where(sure[:, None, None], field, flat)


def _smooth(field: np.ndarray) -> np.ndarray:
    """Quadratic surface plus smoothed rest of a (C, h, w) field, scaled to mean 1."""
    channels, height, width = field.shape
    y, x = (v.ravel() for v in np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij"))
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
    surface = (terms @ np.linalg.lstsq(terms, field.reshape(channels, -1).T, rcond=None)[0]).T.reshape(field.shape)
    smooth = surface + gaussian_filter(field - surface, (0, height / 8, width / 8), mode="nearest")
    return np.asarray(smooth / smooth.mean(axis=(1, 2), keepdims=True))


def field_table(field: np.ndarray, experiment: str, plate: str, channels: list[str]) -> pd.DataFrame:
    """A (C, h, w) field as rows of the table ``illumination_fields``."""
    count, height, width = field.shape
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
    """The (C, h, w) field of one plate's rows of ``illumination_fields``."""
    size = (int(table["grid_row"].max()) + 1, int(table["grid_column"].max()) + 1)
    field = np.empty((len(channels), *size))
    for c, channel in enumerate(channels):
        own = table[table["channel"] == channel]
        field[c][own["grid_row"], own["grid_column"]] = own["gain"]
    return field


def full_field(field: np.ndarray, height: int, width: int) -> np.ndarray:
    """The (C, H, W) float32 field, bilinear between the centres of the blocks, mean 1."""
    for axis, size in ((1, height), (2, width)):
        knots = np.arange(field.shape[axis]) + 0.5
        at = (np.arange(size) + 0.5) * field.shape[axis] / size
        low = np.clip(np.searchsorted(knots, at) - 1, 0, max(len(knots) - 2, 0))
        high = np.minimum(low + 1, len(knots) - 1)
        share = np.clip(at - knots[low], 0, 1).reshape([-1 if a == axis else 1 for a in range(3)])
        field = np.take(field, low, axis) * (1 - share) + np.take(field, high, axis) * share
    return (field / field.mean(axis=(1, 2), keepdims=True)).astype(np.float32)


class FlatFieldStore:
    """An image store whose images are divided by their plate's field, rounded to the store's own dtype.

    Args:
        store: The image store.
        fields: The table ``illumination_fields``, not empty.
    """

    def __init__(self, store: Any, fields: pd.DataFrame) -> None:
        self._store = store
        self.channels: list[str] = store.channels
        self._fields = {
            (str(e), str(p)): field_of(rows, store.channels) for (e, p), rows in fields.groupby(["experiment", "plate"])
        }

    def read(self, experiment: str, plate: str, store_rows: np.ndarray | None = None) -> np.ndarray:
        """Corrected counts, (S, C, H, W) in the dtype of the store."""
        images = self._store.read(experiment, plate, store_rows)
        if (experiment, plate) not in self._fields:
            raise InputError(f"plate {experiment}/{plate} has no illumination field; run normalization")
        field = full_field(self._fields[experiment, plate], *images.shape[2:])
        top = np.iinfo(images.dtype).max
        corrected = np.empty_like(images)
        for s, image in enumerate(images):  # one site at a time: float32 of a whole plate would be four times the plate
            corrected[s] = np.clip(np.rint(image / field), 0, top)
        return corrected

    def checksum(self, experiment: str, plate: str) -> str:
        """Hash of a plate's raw counts and of its field."""
        field = self._fields[experiment, plate]
        return self._store.checksum(experiment, plate) + hashlib.blake2b(field.tobytes(), digest_size=8).hexdigest()


def corrected_store(store: Any, fields: pd.DataFrame) -> Any:
    """The store itself where no field was estimated, else the same images divided by their fields."""
    return FlatFieldStore(store, fields) if len(fields) else store
