"""The layout of OME-Zarr screens: ``<root>/[<experiment>/]<plate>.zarr``, OME-NGFF 0.4 or 0.5 (extra ``ome-zarr``)."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pandas as pd
import zarr
import zarr.storage
from kedro.io import AbstractDataset
from pydantic import ValidationError

from deepnoise.datasets.files import Folder, SiteFiles, raw_counts, time_of
from deepnoise.errors import ImageError, InputError


def _metadata(group: zarr.Group, kind: str) -> Any:
    """The metadata of a plate (HCS), Well or Image group, checked by ome-zarr-models."""
    try:
        from ome_zarr_models import v04, v05
    except ImportError as error:
        raise InputError(
            "OME-Zarr plates need the package ome-zarr-models: pip install 'deepnoise[ome-zarr]'"
        ) from error
    attributes = dict(group.attrs)
    ngff: Any = v05 if "ome" in attributes else v04
    model = {"HCS": ngff.hcs.HCSAttrs, "Well": ngff.well.WellAttrs, "Image": ngff.image.ImageAttrs}[kind]
    return model.model_validate(attributes.get("ome", attributes))


class OmeZarrSites(SiteFiles):
    """Sites of OME-Zarr plates: the "file" of a site is its image group."""

    def _image(self, name: str) -> tuple[zarr.Array, list[str]]:
        image = _open(self.folder.sub(name))
        scales = _metadata(image, "Image").multiscales[0]
        array = image[scales.datasets[0].path]
        if not isinstance(array, zarr.Array):
            raise KeyError(scales.datasets[0].path)
        return array, [axis.name for axis in scales.axes]

    def stamp(self, files: tuple[str, ...], checksum: bool = False) -> list:
        """Number and size of the group's objects, and the newest time; with ``checksum`` a hash of their content."""
        objects = self.folder.fs.find(self.folder.join(files[0]), detail=True)
        if checksum:
            digest = hashlib.blake2b(digest_size=16)
            for name in sorted(objects):
                digest.update(self.folder.fs.cat_file(name))
            return [files[0], digest.hexdigest()]
        newest = max(map(time_of, objects.values()), default="")
        return [files[0], len(objects), sum(o["size"] or 0 for o in objects.values()), newest]

    def read(self, files: tuple[str, ...]) -> np.ndarray:
        """(C, H, W) of one site at full resolution.

        Raises:
            ImageError: The image is damaged, has time points or planes, or other channels than the screen.
        """
        try:
            array, axes = self._image(files[0])
            long = [f"{n} {a}" for a, n in zip(axes, array.shape, strict=True) if a not in ("c", "y", "x") and n > 1]
            if long:
                raise ImageError(
                    "wrong_shape", files[0], f"has {' and '.join(long)} planes, expected one; project them first"
                )
            image = raw_counts(np.asarray(array[:]), files[0])
        except ImageError:
            raise
        except Exception as error:  # whatever a codec or the metadata trips over
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ImageError("unreadable_image", files[0], f"cannot be read as an OME-Zarr image ({reason})") from error
        image = image.reshape([n for a, n in zip(axes, image.shape, strict=True) if a in ("c", "y", "x")])
        return self._all_channels(image if "c" in axes else image[None], files[0])


class OmeZarrImagesDataset(AbstractDataset[SiteFiles, SiteFiles]):
    """The images of OME-Zarr plates; loading reads their metadata, no image is opened.

    The plate's name is that of its folder without ``.zarr`` or ``.ome.zarr``; a well's images are its sites, from 1.

    Args:
        root: Folder of the plates, or of one folder an experiment: a path or an fsspec URL.
        channels: Channel names, in the order of the axis c.
        experiment: Name of the experiment where plates lie in the root itself.
        dtype: uint8 or uint16 where all images must be of it; else the commonest counts.
        metadata: For kedro-viz.
    """

    def __init__(
        self,
        *,
        root: str,
        channels: list[str],
        experiment: str | None = None,
        dtype: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._root, self._channels, self._experiment, self._dtype = root, channels, experiment, dtype
        self.metadata = metadata

    def load(self) -> SiteFiles:
        root = Folder(self._root)
        rows: list[tuple] = []
        for experiment, path in self._plates(root):
            rows += self._sites(root, experiment, path)
        if not rows:
            raise InputError(f"{self._root}: no plate <plate>.zarr or <experiment>/<plate>.zarr with an image found")
        found = pd.DataFrame(rows, columns=["experiment", "plate", "well", "site", "files", "missing"])
        return OmeZarrSites(root, self._channels, found, dtype=self._dtype)

    def _plates(self, root: Folder) -> list[tuple[str, str]]:
        plates = []
        for name in root.folders():
            if not name.endswith(".zarr"):
                plates += [(name, f"{name}/{plate}") for plate in root.folders(name) if plate.endswith(".zarr")]
            elif self._experiment is None:
                raise InputError(
                    f"{self._root}/{name} lies in no folder of an experiment; move it to <experiment>/{name}, or give "
                    "'experiment' in the catalog entry"
                )
            else:
                plates.append((self._experiment, name))
        return plates

    def _sites(self, root: Folder, experiment: str, path: str) -> list[tuple]:
        name = path.rsplit("/", 1)[-1].removesuffix(".zarr").removesuffix(".ome")
        sites = []
        try:
            plate = _open(root.sub(path))
            for well in _metadata(plate, "HCS").plate.wells:
                row, column = well.path.split("/")
                if well.path not in plate:
                    continue  # named in the metadata and never written: a well without images
                group: Any = plate[well.path]
                for site, image in enumerate(_metadata(group, "Well").well.images, start=1):
                    files = (f"{path}/{well.path}/{image.path}",)
                    sites.append((experiment, name, row + column, site, files, () if image.path in group else files))
        except (ValidationError, KeyError, FileNotFoundError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            reason = str(error).replace("\n", " ")
            raise InputError(
                f"{self._root}/{path}: cannot be read as an OME-Zarr plate of NGFF 0.4 or 0.5 ({reason})"
            ) from error
        return sites

    def save(self, data: SiteFiles) -> None:
        raise InputError("raw images are an input and are never written")

    def _describe(self) -> dict[str, Any]:
        return {"root": self._root, "channels": self._channels}


def _open(folder: Folder) -> zarr.Group:
    store: Any = folder.path if folder.local else zarr.storage.FsspecStore.from_url(folder.url, read_only=True)
    return zarr.open_group(store, mode="r")
