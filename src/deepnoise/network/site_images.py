"""Batches of raw images with the statistics that normalize them. Each image of a batch is read once."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
import torch

from deepnoise.errors import InputError
from deepnoise.network.device import send


class ImageSource(Protocol):
    """Interface to the images of a screen: an image store, or one whose images are corrected for illumination."""

    @property
    def channels(self) -> list[str]:
        """Names of the C channels."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of a site."""

    def read(self, experiment: str, plate: str, store_rows: np.ndarray | None = None) -> np.ndarray:
        """(S, C, H, W) raw counts of a plate, or of some of its rows."""

    def checksum(self, experiment: str, plate: str) -> str:
        """Hash of a plate's raw counts."""


@dataclass
class Batch:
    """Raw images of B sites with their statistics."""

    index: np.ndarray  # (B,) rows of the site table
    images: torch.Tensor  # (B, C, H, W) uint8 or int32 raw counts
    location: torch.Tensor  # (B, C) float32
    scale: torch.Tensor  # (B, C) float32

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        return Batch(self.index, *(send(tensor, device) for tensor in self._tensors()))

    def pinned(self) -> Batch:
        """The batch in pinned memory, from which a GPU copies it while it computes; the batch itself where there is no GPU."""
        if not torch.cuda.is_available():
            return self
        return Batch(self.index, *(tensor.pin_memory() for tensor in self._tensors()))

    def _tensors(self) -> tuple[torch.Tensor, ...]:
        return self.images, self.location, self.scale


class SiteImages:
    """The images of a site table: cached in memory if they fit, else read batch by batch.

    Args:
        source: The images of the screen.
        sites: Rows of the table ``sites``. Batches name sites by their position in this table.
        statistics: The table ``plate_statistics``.
        cache_gigabytes: Largest cache.

    Raises:
        InputError: A plate has no statistics.
    """

    def __init__(
        self, source: ImageSource, sites: pd.DataFrame, statistics: pd.DataFrame, cache_gigabytes: float
    ) -> None:
        self.source = source
        self.sites = sites.reset_index(drop=True)
        self.strategy = str(statistics["strategy"].iloc[0])
        self.seconds_waited = 0.0  # that readers of batches waited for images
        plate_key = ["experiment", "plate"]
        self._store_row = self.sites["store_row"].to_numpy()
        self._plate_of_site = self.sites.groupby(plate_key, sort=True).ngroup().to_numpy()
        self._plates = [
            (str(e), str(p)) for e, p in sorted(set(zip(self.sites["experiment"], self.sites["plate"], strict=True)))
        ]
        by_channel = statistics.set_index([*plate_key, "channel"]).sort_index()
        try:
            keys = [(e, p, channel) for e, p in self._plates for channel in source.channels]
            values = by_channel.loc[keys, ["location", "scale"]].to_numpy(np.float32)
        except KeyError as error:
            raise InputError(f"plate_statistics lacks {error}; run normalization on this screen") from error
        self._statistics = values.reshape(len(self._plates), len(source.channels), 2)
        self._cache: np.ndarray | None = None
        self._cache_bytes = cache_gigabytes * 1e9

    def _fill_cache(self) -> None:
        """Read all images into memory if they fit; called when the first batches are requested."""
        if self._cache is not None or not len(self.sites) or not self._cache_bytes:
            return
        first = self._read(np.array([0]))
        if first.nbytes * len(self.sites) > self._cache_bytes:
            self._cache_bytes = 0.0
            return
        cache = np.empty((len(self.sites), *first.shape[1:]), first.dtype)
        for plate in range(len(self._plates)):
            rows = np.flatnonzero(self._plate_of_site == plate)
            cache[rows] = self._read(rows)
        self._cache = cache

    def _read(self, index: np.ndarray) -> np.ndarray:
        """(B, C, H, W) raw counts of some rows, read plate by plate."""
        image_at: dict[int, np.ndarray] = {}
        for plate in np.unique(self._plate_of_site[index]):
            positions = np.flatnonzero(self._plate_of_site[index] == plate)
            experiment, name = self._plates[plate]
            images = self.source.read(experiment, name, self._store_row[index[positions]])
            for position, image in zip(positions, images, strict=True):
                image_at[int(position)] = image
        return np.stack([image_at[i] for i in range(len(index))])

    def batch(self, index: np.ndarray) -> Batch:
        """Images and statistics of some rows."""
        images = self._read(index) if self._cache is None else self._cache[index]
        if images.dtype == np.uint16:
            images = images.astype(np.int32)  # torch lacks most operations on uint16
        statistics = torch.from_numpy(self._statistics[self._plate_of_site[index]])
        return Batch(index, torch.from_numpy(images), statistics[..., 0], statistics[..., 1])

    def _pinned_batch(self, index: np.ndarray) -> Batch:
        return self.batch(index).pinned()

    def batches(self, order: Iterable[np.ndarray]) -> Iterator[Batch]:
        """Batches in the given order; the next one is read while the current one is used."""
        self._fill_cache()
        with ThreadPoolExecutor(1) as reader:
            current: Future[Batch] | None = None
            for index in order:
                following = reader.submit(self._pinned_batch, index)
                if current is not None:
                    yield self._wait_for(current)
                current = following
            if current is not None:
                yield self._wait_for(current)

    def _wait_for(self, pending: Future[Batch]) -> Batch:
        started = time.perf_counter()
        batch = pending.result()
        self.seconds_waited += time.perf_counter() - started
        return batch


def checksums(source: ImageSource, sites: pd.DataFrame) -> list[str]:
    """Hashes of the raw counts of all plates in a site table, by experiment and plate."""
    plates = sites[["experiment", "plate"]].drop_duplicates().sort_values(["experiment", "plate"])
    return [source.checksum(experiment, plate) for experiment, plate in plates.itertuples(index=False)]


def normalize(
    batch: Batch, strategy: str, jitter: float = 0.0, generator: torch.Generator | None = None
) -> torch.Tensor:
    """(x - location) / scale per image and channel, on the batch's device (method: section 2).

    Args:
        batch: Raw counts and statistics.
        strategy: With ``site``, an image's own mean and standard deviation replace the plate's.
        jitter: Location and scale are each multiplied by an independent U(1 - jitter, 1 + jitter).
        generator: CPU source of the jitter.

    Returns:
        (B, C, H, W) float32.
    """
    images = batch.images.float()
    location, scale = batch.location, batch.scale
    if strategy == "site":
        scale, location = torch.std_mean(images, dim=(2, 3), correction=0)
        scale = scale.clamp_min(1e-6)
    if jitter > 0:
        factor = send(1 + jitter * (2 * torch.rand(2, *location.shape, generator=generator) - 1), images.device)
        location, scale = location * factor[0], scale * factor[1]
    return (images - location[..., None, None]) / scale[..., None, None]
