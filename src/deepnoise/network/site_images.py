"""Batches of raw images and the statistics that normalize them, each image read once a batch."""

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


class ImageSource(Protocol):
    """What is needed of an image store."""

    channels: list[str]

    def read(self, experiment: str, plate: str, store_rows: np.ndarray | None = None) -> np.ndarray:
        """(S, C, H, W) raw counts."""

    def checksum(self, experiment: str, plate: str) -> str:
        """Hash of a plate's raw counts."""


@dataclass
class Batch:
    """Raw images of B sites with their statistics."""

    index: np.ndarray  # (B,) rows of the site table
    images: torch.Tensor  # (B, C, H, W) uint8 or int32 raw counts
    location: torch.Tensor  # (B, C) float32
    scale: torch.Tensor  # (B, C) float32
    cell_type: torch.Tensor  # (B,) int64 number of the cell type; 0 where the site table has none

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        tensors = (self.images, self.location, self.scale, self.cell_type)
        return Batch(self.index, *(t.to(device, non_blocking=True) for t in tensors))


class SiteImages:
    """The images of a site table. Kept in memory where they fit, read batch by batch where not.

    Args:
        store: The image store.
        sites: Rows of the table ``sites``, with ``cell_type`` numbers where the network is told; batches are named by position in it.
        statistics: The table ``plate_statistics``.
        cache_gigabytes: Most memory to keep images in.

    Raises:
        InputError: A plate without statistics.
    """

    def __init__(
        self, store: ImageSource, sites: pd.DataFrame, statistics: pd.DataFrame, cache_gigabytes: float
    ) -> None:
        self.store = store
        self.sites = sites.reset_index(drop=True)
        self.strategy = str(statistics["strategy"].iloc[0])
        key = ["experiment", "plate"]
        self.waited = 0.0  # seconds that a reader of batches had to wait for images
        self._row = self.sites["store_row"].to_numpy()
        self._cell_type = self.sites.get("cell_type", pd.Series(0, index=self.sites.index)).to_numpy(np.int64)
        self._plate = self.sites.groupby(key, sort=True).ngroup().to_numpy()
        self._plates = [
            (str(e), str(p)) for e, p in sorted(set(zip(self.sites["experiment"], self.sites["plate"], strict=True)))
        ]
        indexed = statistics.set_index([*key, "channel"]).sort_index()
        try:
            wanted = [(e, p, c) for e, p in self._plates for c in store.channels]
            values = indexed.loc[wanted, ["location", "scale"]].to_numpy(np.float32)
        except KeyError as error:
            raise InputError(f"plate_statistics lacks {error}; run normalization on this screen") from error
        self._statistics = values.reshape(len(self._plates), len(store.channels), 2)
        self._cache: np.ndarray | None = None
        self._bytes = cache_gigabytes * 1e9

    def _fill_cache(self) -> None:
        """Keep all images in memory if they fit; done when the first batches are asked for."""
        if self._cache is not None or not len(self.sites) or not self._bytes:
            return
        first = self._read(np.array([0]))
        if first.nbytes * len(self.sites) <= self._bytes:
            cache = np.empty((len(self.sites), *first.shape[1:]), first.dtype)
            for plate in range(len(self._plates)):
                members = np.flatnonzero(self._plate == plate)
                cache[members] = self._read(members)
            self._cache = cache
        else:
            self._bytes = 0.0

    def _read(self, index: np.ndarray) -> np.ndarray:
        parts: dict[int, np.ndarray] = {}
        for plate in np.unique(self._plate[index]):
            places = np.flatnonzero(self._plate[index] == plate)
            experiment, name = self._plates[plate]
            images = self.store.read(experiment, name, self._row[index[places]])
            for place, image in zip(places, images, strict=True):
                parts[int(place)] = image
        return np.stack([parts[i] for i in range(len(index))])

    def batch(self, index: np.ndarray) -> Batch:
        """Images and statistics of the named rows."""
        images = self._read(index) if self._cache is None else self._cache[index]
        if images.dtype == np.uint16:
            images = images.astype(np.int32)  # torch lacks most operations on uint16
        statistics = torch.from_numpy(self._statistics[self._plate[index]])
        cell_type = torch.from_numpy(self._cell_type[index])
        return Batch(index, torch.from_numpy(images), statistics[..., 0], statistics[..., 1], cell_type)

    def batches(self, order: Iterable[np.ndarray]) -> Iterator[Batch]:
        """Batches in the given order; the next one is read while the present one is used."""
        self._fill_cache()
        with ThreadPoolExecutor(1) as reader:
            waiting = None
            for index in order:
                coming = reader.submit(self.batch, index)
                if waiting is not None:
                    yield self._result(waiting)
                waiting = coming
            if waiting is not None:
                yield self._result(waiting)

    def _result(self, waiting: Future[Batch]) -> Batch:
        started = time.perf_counter()
        batch = waiting.result()
        self.waited += time.perf_counter() - started
        return batch


def checksums(store: ImageSource, sites: pd.DataFrame) -> list[str]:
    """Hashes of the raw counts of all plates in a site table, by experiment and plate."""
    plates = sites[["experiment", "plate"]].drop_duplicates().sort_values(["experiment", "plate"])
    return [store.checksum(e, p) for e, p in plates.itertuples(index=False)]


def normalize(
    batch: Batch, strategy: str, jitter: float = 0.0, generator: torch.Generator | None = None
) -> torch.Tensor:
    """(x - location) / scale per image and channel, on the batch's device (method: section 2).

    Args:
        batch: Raw counts and statistics.
        strategy: With ``site`` an image's own mean and std replace the plate's.
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
        factor = 1 + jitter * (2 * torch.rand(2, *location.shape, generator=generator) - 1).to(images.device)
        location, scale = location * factor[0], scale * factor[1]
    return (images - location[..., None, None]) / scale[..., None, None]
