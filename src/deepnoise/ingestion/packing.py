"""Packing of raw images: the plates to pack, the shape and dtype expected, and findings on the pixels.

A plate is packed as a whole, and read only if the store lacks it. Used by the ``ingestion`` pipeline and the
image store.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd

from deepnoise.errors import ImageError, InputError
from deepnoise.fingerprint import fingerprint

SAMPLES = 5
"""Number of sites read before packing; their most frequent shape and dtype are expected of all sites."""
CEILINGS = {"uint8": (255,), "uint16": (255, 1023, 4095, 16383, 65535)}
"""Dtype -> highest grey levels of 8, 10, 12, 14 and 16-bit cameras; pixels at that level are saturated."""
SATURATED_SHARE = 0.05
"""An image counts as saturated if at least this share of its pixels is at the highest grey level."""


class RawImages(Protocol):
    """Interface to the raw images of a screen, whatever their file layout.

    ``found`` has one row per site: experiment, plate, well, site, ``files`` (one name per channel, or one for
    all channels) and ``missing`` (those of them that do not exist). ``strays`` are images of no known site.
    ``dtype`` is that of all images, if the file layout declares one. ``numbered_sites`` says if sites are
    numbered, so that a missing one can be noticed.
    """

    channels: list[str]
    found: pd.DataFrame
    strays: list[str]
    dtype: str | None
    numbered_sites: bool

    def stamp(self, files: tuple[str, ...], checksum: bool = False) -> list:
        """Values that change whenever the files change (their content, if ``checksum``)."""

    def read(self, files: tuple[str, ...]) -> np.ndarray:
        """Read one site, (C, H, W)."""


@dataclass(frozen=True)
class PlateImages:
    """The images of one plate that is to be packed."""

    experiment: str
    plate: str
    sites: pd.DataFrame  # id_code, well, site, files; the position of a row is its store_row
    fingerprint: str  # of the source files and their order

    @property
    def name(self) -> str:
        """Name of the plate in the store and in messages."""
        return plate_name(self.experiment, self.plate)


@dataclass(frozen=True)
class PackingPlan:
    """All plates of a screen, and the function that reads one of their sites."""

    channels: list[str]
    plates: list[PlateImages]
    read: Callable[[tuple[str, ...]], np.ndarray] = field(repr=False)  # files -> (C, H, W)
    dtype: str | None = None  # if the file layout declares one
    verify: bool = False  # compare the pixels of packed plates with those that were packed


def plate_name(experiment: str, plate: str) -> str:
    """Name of a plate in the store and in messages."""
    return f"{experiment}/{plate}"


def plan_packing(sites: pd.DataFrame, images: RawImages, checksum: bool, verify: bool = False) -> PackingPlan:
    """Plan the packing of every plate with complete sites; no image is decoded.

    Args:
        sites: Complete sites: id_code, experiment, plate, well, site, files.
        images: The raw images.
        checksum: Recognize changed files by a hash of their content (reads them all), not by their time.
        verify: Compare the pixels of packed plates with those that were packed.

    Raises:
        InputError: Two plates have the same name.
    """
    plates = []
    for (experiment, plate), rows in sites.groupby(["experiment", "plate"], sort=True):
        rows = rows.sort_values(["well", "site"], ignore_index=True)[["id_code", "well", "site", "files"]]
        stamps = [images.stamp(files, checksum) for files in rows["files"]]
        source = fingerprint(rows[["id_code", "site"]], images.channels, images.dtype, stamps)
        plates.append(PlateImages(str(experiment), str(plate), rows, source))
    counts = Counter(plate.name for plate in plates)
    same = [plate for plate in plates if counts[plate.name] > 1]
    if same:
        first, second = (f"experiment {p.experiment!r} plate {p.plate!r}" for p in same[:2])
        raise InputError(f"{first} and {second} are both called {same[0].name}; rename one of them")
    return PackingPlan(images.channels, plates, images.read, images.dtype, verify)


def sample_sites(plan: PackingPlan, plates: Sequence[PlateImages], needed: bool = True) -> list[np.ndarray]:
    """Read a few random sites of the given plates, to learn which shape, dtype and size on disk to expect.

    Args:
        plan: The packing plan.
        plates: Plates to sample from.
        needed: Whether at least one readable site is required.

    Returns:
        Up to ``SAMPLES`` readable sites, each (C, H, W).

    Raises:
        InputError: ``needed``, but none of the sampled sites can be read.
    """
    site_files = [files for plate in plates for files in plate.sites["files"]]
    order = np.random.default_rng(0).permutation(len(site_files))
    samples, errors = [], []
    for i in order[: 20 * SAMPLES]:
        try:
            samples.append(plan.read(site_files[i]))
        except ImageError as error:
            errors.append(error)
        if len(samples) == SAMPLES:
            break
    if not samples and needed:
        raise InputError(f"none of {len(errors)} sampled images can be read; the first: {errors[0]}") from errors[0]
    return samples


def expected_form(samples: Sequence[np.ndarray], dtype: str | None) -> tuple[tuple[int, ...], str]:
    """The (C, H, W) and dtype expected of all sites: the most frequent ones, or the declared dtype."""
    shape, commonest = Counter((s.shape, str(s.dtype)) for s in samples).most_common(1)[0][0]
    return shape, dtype or commonest


def check_form(image: np.ndarray, files: tuple[str, ...], shape: tuple[int, ...], dtype: str) -> None:
    """Check that a site has the shape and dtype of the screen.

    Raises:
        ImageError: The shape or dtype differs; names the first file, its value and the expected one.
    """
    if str(image.dtype) != dtype:
        raise ImageError("wrong_dtype", files[0], f"{image.dtype}, expected {dtype}")
    if image.shape != tuple(shape):
        size, expected = ("x".join(map(str, s[1:])) for s in (image.shape, shape))
        raise ImageError("wrong_shape", files[0], f"{size} px, expected {expected} px")


def describe_site(image: np.ndarray) -> list[list[Any]]:
    """Summarize the pixels of each channel of a (C, H, W) site.

    Returns:
        For each channel [lowest value, highest value, share of saturated pixels, hash of the pixels]. If the
        highest value is one of ``CEILINGS``, pixels of that value are saturated; otherwise the share is 0.
    """
    summaries = []
    for plane in image:
        low, high = int(plane.min()), int(plane.max())
        ceiling = high in CEILINGS[str(plane.dtype)]
        share = float(np.count_nonzero(plane == high) / plane.size) if ceiling else 0.0
        digest = hashlib.blake2b(np.ascontiguousarray(plane).data, digest_size=8).hexdigest()
        summaries.append([low, high, share, digest])
    return summaries


def pixel_findings(records: Iterable[dict[str, Any]], channels: list[str]) -> list[dict[str, Any]]:
    """Find black, saturated and duplicate images, and collect the faults met in packing.

    Args:
        records: One record per plate, as the image store keeps it: experiment, plate, ``rows`` of (id_code,
            well, site, store_row), ``facts`` (:func:`describe_site` of each row), ``files`` of each row, and
            ``faults``.
        channels: Channel names.

    Returns:
        Rows of :func:`deepnoise.ingestion.findings.findings_table`.
    """
    findings: list[dict[str, Any]] = []
    first_with: dict[str, str] = {}
    for record in records:
        plate_key = {"experiment": record["experiment"], "plate": record["plate"]}
        findings += [{**plate_key, **fault} for fault in record["faults"]]
        for (_, well, site, _), summaries, files in zip(record["rows"], record["facts"], record["files"], strict=True):
            for c, (low, high, share, digest) in enumerate(summaries):
                file = files[c] if len(files) == len(channels) else files[0]
                image = {**plate_key, "well": well, "site": site, "channel": channels[c], "file": file}
                if low == high:
                    findings.append({**image, "finding": "black_image", "detail": f"every pixel is {low}"})
                    continue
                if share >= SATURATED_SHARE:
                    text = f"{share:.0%} of the pixels are {high}"
                    findings.append({**image, "finding": "saturated_image", "detail": text})
                if digest in first_with:
                    text = f"the same pixels as {first_with[digest]}"
                    findings.append({**image, "finding": "duplicate_image", "detail": text})
                first_with.setdefault(digest, file + (f" channel {channels[c]}" if len(files) < len(channels) else ""))
    return findings
