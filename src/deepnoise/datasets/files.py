"""The image files of a screen: their list, and a reader of one site at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from deepnoise.datasets.folder import Folder, modification_stamp
from deepnoise.datasets.pixels import in_order, known_projection, read_planes
from deepnoise.errors import ImageError

IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".npy")


class SiteFiles:
    """The image files of a screen: their list, and a reader of one site at a time.

    Args:
        folder: The folder that file names are relative to.
        channels: Names of the C channels.
        found: One row per site: experiment, plate, well, site, ``files`` (tuple of file names: one per
            channel, or a single one with all channels) and ``missing`` (those of them that do not exist).
        strays: Names of image files that belong to no known site.
        dtype: uint8 or uint16 if all images must have it.
        numbered_sites: Whether the file layout numbers sites, so that a missing site can be detected.
        z: Projection of images with several z planes, see :func:`deepnoise.datasets.pixels.read_planes`.
    """

    def __init__(
        self,
        folder: Folder,
        channels: list[str],
        found: pd.DataFrame,
        strays: Sequence[str] = (),
        dtype: str | None = None,
        numbered_sites: bool = True,
        z: str | None = None,
    ) -> None:
        self.folder, self.channels, self.found = folder, channels, found
        self.strays, self.dtype, self.numbered_sites = list(strays), dtype, numbered_sites
        self.z = known_projection(z)

    def stamp(self, files: tuple[str, ...], checksum: bool = False) -> list:
        """Name, size and modification time of each file.

        With ``checksum`` a hash of the content takes the place of the time.
        """
        stamps = []
        for name in files:
            info = self.folder.info(name) or {}
            stamp = modification_stamp(info)
            if checksum:
                stamp = hashlib.blake2b(self.folder.read(name), digest_size=16).hexdigest()
            stamps.append([name, info.get("size"), stamp])
        return stamps

    def read(self, files: tuple[str, ...]) -> np.ndarray:
        """The (C, H, W) image of one site.

        Raises:
            ImageError: A file cannot be read, differs in shape or dtype from the others, or the number of
                channels is not that of the screen.
        """
        planes = [read_planes(self.folder, name, self.z) for name in files]
        first = planes[0][0]
        if len(files) == 1:
            stack, labels = first if first.ndim == 3 else first[None], planes[0][1]
            return self._all_channels(stack, labels, self.folder.join(files[0]))
        self._check_number(len(files), self.folder.join(files[0]))
        for channel, name, (image, labels) in zip(self.channels, files, planes, strict=True):
            finding = (
                "unequal_channels" if image.ndim == 3
                else "wrong_dtype" if image.dtype != first.dtype
                else "wrong_shape" if image.shape != first.shape
                else None
            )  # fmt: skip
            if finding:
                raise ImageError(
                    finding,
                    self.folder.join(name),
                    f"{image.dtype} of shape {image.shape}, expected one channel of {first.dtype} and shape "
                    f"{first.shape[-2:]} as in {files[0]}",
                )
            others = {other.casefold() for other in self.channels} - {channel.casefold()}
            if labels and labels[0].strip().casefold() in others:
                raise ImageError(
                    "unequal_channels",
                    self.folder.join(name),
                    f"calls itself {labels[0]!r}, but is listed as {channel!r}",
                )
        stack = np.stack([image for image, _ in planes])
        return stack

    def _all_channels(self, image: np.ndarray, labels: Sequence[str], name: str) -> np.ndarray:
        """The (C, H, W) image in the order of the screen's channels, after a check that it has all of them."""
        image = in_order(image, labels, self.channels, name)
        self._check_number(len(image), name)
        return np.ascontiguousarray(image)

    def _check_number(self, channels: int, name: str) -> None:
        if channels != len(self.channels):
            raise ImageError(
                "unequal_channels",
                name,
                f"{channels} channels, expected {len(self.channels)} ({', '.join(self.channels)})",
            )
