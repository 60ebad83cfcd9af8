"""The unit of packing: one plate, described by its files, read only if the store lacks it."""

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
"""Sites that are read ahead: their commonest shape and dtype are the screen's."""
CEILINGS = {"uint8": (255,), "uint16": (255, 1023, 4095, 16383, 65535)}
"""Highest values of cameras of 8, 10, 12, 14 and 16 bits: pixels there are saturated."""
SATURATED_SHARE = 0.05
"""Share of pixels at the highest value from which on an image counts as saturated."""


class RawImages(Protocol):
    """What is needed of a layout's images."""

    channels: list[str]
    found: pd.DataFrame
    strays: list[str]
    dtype: str | None
    numbered_sites: bool

    def stamp(self, files: tuple[str, ...], checksum: bool = False) -> list:
        """What a change of the files changes."""

    def read(self, files: tuple[str, ...]) -> np.ndarray:
        """(C, H, W) of one site."""


@dataclass(frozen=True)
class PlateImages:
    """Images of one plate to be packed."""

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
    """All plates of a screen, and how one of their sites is read."""

    channels: list[str]
    plates: list[PlateImages]
    read: Callable[[tuple[str, ...]], np.ndarray] = field(repr=False)  # files -> (C, H, W)
    dtype: str | None = None  # where the layout promises one


def plate_name(experiment: str, plate: str) -> str:
    """Name of a plate in the store and in messages."""
    return f"{experiment}/{plate}"


def plan_packing(sites: pd.DataFrame, images: RawImages, checksum: bool) -> PackingPlan:
    """Describe every plate of the site table; nothing is read but, on request, the content of the files.

    Args:
        sites: Complete sites: id_code, experiment, plate, well, site, files.
        images: The raw images.
        checksum: Tell changed files by their content instead of by their time.
    """
    plates = []
    for (experiment, plate), rows in sites.groupby(["experiment", "plate"], sort=True):
        rows = rows.sort_values(["well", "site"], ignore_index=True)[["id_code", "well", "site", "files"]]
        stamps = [images.stamp(files, checksum) for files in rows["files"]]
        mark = fingerprint(rows[["id_code", "site"]], images.channels, images.dtype, stamps)
        plates.append(PlateImages(str(experiment), str(plate), rows, mark))
    return PackingPlan(images.channels, plates, images.read, images.dtype)


def sample_sites(plan: PackingPlan, plates: Sequence[PlateImages], needed: bool = True) -> list[np.ndarray]:
    """A few readable sites, spread over the given plates: what shape, dtype and size on disk are to be expected of all.

    Raises:
        InputError: Not one of them can be read, and one is ``needed``.
    """
    everything = [files for plate in plates for files in plate.sites["files"]]
    order = np.random.default_rng(0).permutation(len(everything))
    found, faults = [], []
    for i in order[: 20 * SAMPLES]:
        try:
            found.append(plan.read(everything[i]))
        except ImageError as error:
            faults.append(error)
        if len(found) == SAMPLES:
            break
    if not found and needed:
        raise InputError(f"none of {len(faults)} sampled images can be read; the first: {faults[0]}") from faults[0]
    return found


def expected_form(samples: Sequence[np.ndarray], dtype: str | None) -> tuple[tuple[int, ...], str]:
    """(C, H, W) and dtype that all sites of the screen must have: the promised dtype, else the commonest."""
    shape, found = Counter((s.shape, str(s.dtype)) for s in samples).most_common(1)[0][0]
    return shape, dtype or found


def check_form(image: np.ndarray, files: tuple[str, ...], shape: tuple[int, ...], dtype: str) -> None:
    """Refuse a site of another shape or dtype than the screen's.

    Raises:
        ImageError: Names the first file, what it holds and what was expected.
    """
    if str(image.dtype) != dtype:
        raise ImageError("wrong_dtype", files[0], f"{image.dtype}, expected {dtype}")
    if image.shape != tuple(shape):
        size, wanted = ("x".join(map(str, s[1:])) for s in (image.shape, shape))
        raise ImageError("wrong_shape", files[0], f"{size} px, expected {wanted} px")


def describe_site(image: np.ndarray) -> list[list[Any]]:
    """Facts of each channel of a (C, H, W) site: lowest and highest value, share of pixels at one of ``CEILINGS``, hash of the pixels."""
    facts = []
    for plane in image:
        low, high = int(plane.min()), int(plane.max())
        ceiling = high in CEILINGS[str(plane.dtype)]
        share = float(np.count_nonzero(plane == high) / plane.size) if ceiling else 0.0
        digest = hashlib.blake2b(np.ascontiguousarray(plane).data, digest_size=8).hexdigest()
        facts.append([low, high, share, digest])
    return facts


def pixel_findings(records: Iterable[dict[str, Any]], channels: list[str]) -> list[dict[str, Any]]:
    """Findings on the pixels of packed plates.

    Args:
        records: One record a plate, as the image store keeps it: experiment, plate, ``rows`` of (id_code, well, site,
            store_row), ``facts`` (:func:`describe_site` of each row), ``files`` of each row and ``faults``.
        channels: Channel names.
    """
    found: list[dict[str, Any]] = []
    first_with: dict[str, str] = {}
    for record in records:
        place = {"experiment": record["experiment"], "plate": record["plate"]}
        found += [{**place, **fault} for fault in record["faults"]]
        for (_, well, site, _), facts, files in zip(record["rows"], record["facts"], record["files"], strict=True):
            for c, (low, high, share, digest) in enumerate(facts):
                file = files[c] if len(files) == len(channels) else files[0]
                own = {**place, "well": well, "site": site, "channel": channels[c], "file": file}
                if low == high:
                    found.append({**own, "finding": "black_image", "detail": f"every pixel is {low}"})
                    continue
                if share >= SATURATED_SHARE:
                    text = f"{share:.0%} of the pixels are {high}"
                    found.append({**own, "finding": "saturated_image", "detail": text})
                if digest in first_with:
                    text = f"the same pixels as {first_with[digest]}"
                    found.append({**own, "finding": "duplicate_image", "detail": text})
                first_with.setdefault(digest, file + (f" channel {channels[c]}" if len(files) < len(channels) else ""))
    return found
