"""The unit of packing: one plate, described by its files, read only if the store lacks it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from deepnoise.errors import InputError
from deepnoise.fingerprint import fingerprint


@dataclass(frozen=True)
class PlateImages:
    """Pictures of one plate to be packed."""

    experiment: str
    plate: str
    channels: list[str]
    sites: pd.DataFrame  # id_code, well, site, files
    fingerprint: str  # of the source files and their order
    read: Callable[[tuple[str, ...]], np.ndarray] = field(repr=False)  # files -> (C, H, W)
    unreadable: str = "error"  # or report


@dataclass(frozen=True)
class PackingComplete:
    """Says that every plate was handed over; the store writes its manifest last."""

    plates: dict[str, str]  # name -> fingerprint
    channels: list[str]


def plate_name(experiment: str, plate: str) -> str:
    """Name of a plate in the store and in messages."""
    return f"{experiment}/{plate}"


def plan_packing(
    sites: pd.DataFrame,
    channels: list[str],
    stamp: Callable[[tuple[str, ...]], list],
    read: Callable[[tuple[str, ...]], np.ndarray],
    unreadable: str,
) -> Iterator[PlateImages | PackingComplete]:
    """Yield every plate of the site table, then the word that all are there.

    Args:
        sites: Complete sites: id_code, experiment, plate, well, site, files.
        channels: Channel names.
        stamp: Names, sizes and times of files, which a change of the sources changes.
        read: Reads the files of one site as (C, H, W).
        unreadable: ``error`` or ``report`` where a picture cannot be read.
    """
    done = {}
    for (experiment, plate), rows in sites.groupby(["experiment", "plate"], sort=True):
        stamps = [stamp(files) for files in rows["files"]]
        mark = fingerprint(rows[["id_code", "site"]], channels, stamps)
        done[plate_name(experiment, plate)] = mark
        yield PlateImages(experiment, plate, channels, rows.reset_index(drop=True), mark, read, unreadable)
    yield PackingComplete(done, channels)


def read_plate(plate: PlateImages, mapper: Callable = map) -> tuple[np.ndarray, pd.DataFrame, list[str]]:
    """Read all pictures of a plate.

    Args:
        plate: What to read.
        mapper: ``map`` or the map of a pool.

    Returns:
        (S, C, H, W) array in the source's dtype, the table of its rows (id_code, well, site, store_row) and
        the list of pictures that could not be read.

    Raises:
        InputError: A picture cannot be read or has another shape or dtype, and the policy is ``error``;
            or none could be read.
    """

    def attempt(files: tuple[str, ...]) -> np.ndarray | str:
        try:
            return plate.read(files)
        except InputError as error:
            return str(error)

    pictures = list(mapper(attempt, plate.sites["files"]))
    faults = [p for p in pictures if isinstance(p, str)]
    good = [i for i, p in enumerate(pictures) if not isinstance(p, str)]
    if good:
        first = pictures[good[0]]
        for i in list(good):
            if pictures[i].shape != first.shape or pictures[i].dtype != first.dtype:
                good.remove(i)
                faults.append(
                    f"{plate.sites['files'].iloc[i][0]}: {pictures[i].dtype} of shape {pictures[i].shape}, expected "
                    f"{first.dtype} of shape {first.shape} as in the first picture of the plate"
                )
    if faults and (plate.unreadable == "error" or not good):
        raise InputError(
            f"plate {plate_name(plate.experiment, plate.plate)}: {faults[0]}"
            + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else "")
            + "; mend the file or set ingestion.unreadable_images to 'report'"
        )
    rows = plate.sites.iloc[good][["id_code", "well", "site"]].reset_index(drop=True)
    rows["store_row"] = np.arange(len(rows))
    return np.stack([pictures[i] for i in good]), rows, faults
