"""OME-Zarr screens, ``<root>/[<experiment>/]<plate>.zarr``, in OME-NGFF 0.4 or 0.5 (extra ``ome-zarr``)."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pandas as pd
import zarr
import zarr.storage
from pydantic import ValidationError

from deepnoise.datasets.files import SiteFiles
from deepnoise.datasets.folder import Folder, modification_stamp
from deepnoise.datasets.pixels import project, raw_counts
from deepnoise.datasets.read_only import ReadOnlyDataset
from deepnoise.errors import ImageError, InputError


def _metadata(group: zarr.Group, group_type: str) -> Any:
    """The metadata of a plate (HCS), Well or Image group, validated by ome-zarr-models."""
    try:
        from ome_zarr_models import v04, v05
    except ImportError as error:
        raise InputError('OME-Zarr plates need the package ome-zarr-models: pip install -e ".[ome-zarr]"') from error
    attributes = dict(group.attrs)
    ngff: Any = v05 if "ome" in attributes else v04
    model = {"HCS": ngff.hcs.HCSAttrs, "Well": ngff.well.WellAttrs, "Image": ngff.image.ImageAttrs}[group_type]
    return model.model_validate(attributes.get("ome", attributes))


class OmeZarrSites(SiteFiles):
    """Sites of OME-Zarr plates. The only "file" of a site is its image group."""

    def _image(self, name: str) -> tuple[zarr.Array, list[str], list[str]]:
        """The array of full resolution, its axes, and the names of its channels where it has some."""
        image = _open(self.folder.sub(name))
        scales = _metadata(image, "Image").multiscales[0]
        array = image[scales.datasets[0].path]
        if not isinstance(array, zarr.Array):
            raise KeyError(scales.datasets[0].path)
        attributes: Any = dict(image.attrs)
        omero = attributes.get("ome", attributes).get("omero") or {}
        labels = [str(channel.get("label") or "") for channel in omero.get("channels", [])]
        return array, [axis.name for axis in scales.axes], labels if all(labels) else []

    def stamp(self, files: tuple[str, ...], checksum: bool = False) -> list:
        """Number, total size and newest change of the group's objects; with ``checksum`` a content hash."""
        objects = self.folder.fs.find(self.folder.join(files[0]), detail=True)
        if checksum:
            digest = hashlib.blake2b(digest_size=16)
            for name in sorted(objects):
                digest.update(self.folder.fs.cat_file(name))
            return [files[0], digest.hexdigest()]
        newest = max(map(modification_stamp, objects.values()), default="")
        return [files[0], len(objects), sum(o["size"] or 0 for o in objects.values()), newest]

    def read(self, files: tuple[str, ...]) -> np.ndarray:
        """The (C, H, W) image of one site at full resolution.

        Raises:
            ImageError: The image is damaged, has several time points or planes, or its channels are not the
                screen's.
        """
        try:
            array, axes, labels = self._image(files[0])
            long = [
                f"{n} {a}" for a, n in zip(axes, array.shape, strict=True) if a not in ("c", "z", "y", "x") and n > 1
            ]
            if long:
                raise ImageError("wrong_shape", files[0], f"has {' and '.join(long)} planes, expected one")
            image = raw_counts(np.asarray(array[:]), files[0])
            if (
                image.any() and not image.all() and array.nchunks_initialized < array.nchunks
            ):  # zarr reads zeros for them
                missing = array.nchunks - array.nchunks_initialized
                raise ImageError("unreadable_image", files[0], f"{missing} of its {array.nchunks} chunks are missing")
            if "z" in axes:
                image = project(np.moveaxis(image, axes.index("z"), 0), self.z, files[0])
                axes.remove("z")
        except ImageError:
            raise
        except Exception as error:  # codecs and damaged metadata raise many types of error
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ImageError("unreadable_image", files[0], f"cannot be read as an OME-Zarr image ({reason})") from error
        image = image.reshape([n for a, n in zip(axes, image.shape, strict=True) if a in ("c", "y", "x")])
        return self._all_channels(image if "c" in axes else image[None], labels, files[0])


class OmeZarrImagesDataset(ReadOnlyDataset[SiteFiles]):
    """The images of OME-Zarr plates. Loading reads their metadata and opens no image.

    A plate is named after its folder, without ``.zarr`` or ``.ome.zarr``. The images of a well are its sites,
    numbered from 1.

    Catalog::

        raw_images:
          type: deepnoise.datasets.ome_zarr.OmeZarrImagesDataset
          root: data/01_raw/my_screen
          channels: [DNA, actin]

    Args:
        root: Folder of the plates, or of one folder per experiment: a path or an fsspec URL.
        channels: Channel names, in the order of the axis c unless the images name their channels themselves.
        experiment: Name of the experiment, if the plates are in the root itself.
        dtype: uint8 or uint16 if all images must have it; otherwise the most common dtype is used.
        z: Which plane of an image with several z planes is read: ``max`` (of each pixel) or ``middle``. If not given,
            such an image is a finding.
        metadata: For kedro-viz.
    """

    read_only = "raw images are an input and are never written"

    def __init__(
        self,
        *,
        root: str,
        channels: list[str],
        experiment: str | None = None,
        dtype: str | None = None,
        z: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._root, self._channels, self._experiment, self._dtype, self._z = root, channels, experiment, dtype, z
        self.metadata = metadata

    def load(self) -> SiteFiles:
        root = Folder(self._root)
        rows: list[tuple] = []
        for experiment, path in self._plates(root):
            rows += self._sites(root, experiment, path)
        if not rows:
            raise InputError(
                f"{self._root}: no plate <plate>.zarr or <experiment>/<plate>.zarr with an image. Check raw_root"
            )
        sites = pd.DataFrame(rows, columns=["experiment", "plate", "well", "site", "files", "missing"])
        return OmeZarrSites(root, self._channels, sites, dtype=self._dtype, z=self._z)

    def _plates(self, root: Folder) -> list[tuple[str, str]]:
        plates = []
        for name in root.folders():
            if not name.endswith(".zarr"):
                plates += [(name, f"{name}/{plate}") for plate in root.folders(name) if plate.endswith(".zarr")]
            elif self._experiment is None:
                raise InputError(
                    f"{self._root}/{name} is not in the folder of an experiment; move it to <experiment>/{name}, or "
                    "add 'experiment' to the catalog entry"
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
                    continue  # listed in the metadata and never written: a well without images
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

    def _describe(self) -> dict[str, Any]:
        return {"root": self._root, "channels": self._channels}


def _open(folder: Folder) -> zarr.Group:
    store: Any = folder.path if folder.local else zarr.storage.FsspecStore.from_url(folder.url, read_only=True)
    return zarr.open_group(store, mode="r")
