"""The packed images of a screen: zarr v3, one array per plate, one chunk per site, in the source dtype."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
import zarr.codecs
import zarr.storage
from kedro.io import AbstractDataset

from deepnoise.datasets.files import Folder
from deepnoise.datasets.json_files import read_json, write_json
from deepnoise.errors import ImageError, InputError
from deepnoise.ingestion.packing import (
    PackingPlan,
    PlateImages,
    check_form,
    describe_site,
    expected_form,
    plate_name,
    sample_sites,
)
from deepnoise.progress import progress

logger = logging.getLogger(__name__)


class ImageStore:
    """Read access to the images of a complete store."""

    def __init__(self, folder: Folder, manifest: dict[str, Any]) -> None:
        self._folder = folder
        self.channels: list[str] = manifest["channels"]
        self.shape: tuple[int, ...] = tuple(manifest["shape"])  # (C, H, W) of a site
        self.dtype: str = manifest["dtype"]
        self.plates: dict[str, dict[str, Any]] = manifest["plates"]
        self._open: dict[str, zarr.Array] = {}

    def records(self) -> Iterator[dict[str, Any]]:
        """The record of each plate: its rows, its unreadable images, and statistics of every image."""
        for plate in self.plates.values():
            yield read_json(f"{self._folder.url}/{plate['folder']}.json")

    def rows(self) -> pd.DataFrame:
        """One row per packed site: id_code, experiment, plate, well, site, store_row."""
        parts = []
        for record in self.records():
            sites = pd.DataFrame(record["rows"], columns=["id_code", "well", "site", "store_row"])
            parts.append(sites.assign(experiment=record["experiment"], plate=record["plate"]))
        return pd.concat(parts, ignore_index=True)

    def _plate(self, experiment: str, plate: str) -> dict[str, Any]:
        name = plate_name(experiment, plate)
        if name not in self.plates:
            raise InputError(f"plate {name} is not in the image store {self._folder.url}; run ingestion")
        return self.plates[name]

    def checksum(self, experiment: str, plate: str) -> str:
        """Hash of the raw counts of a plate."""
        return str(self._plate(experiment, plate)["checksum"])

    def array(self, experiment: str, plate: str) -> zarr.Array:
        """The (S, C, H, W) array of a plate.

        Sites that could not be read are zeros in the array and have no row in the tables.
        """
        folder = self._plate(experiment, plate)["folder"]
        if folder not in self._open:
            self._open[folder] = zarr.open_array(_zarr_store(self._folder.sub(folder), read_only=True), mode="r")
        return self._open[folder]

    def read(self, experiment: str, plate: str, store_rows: np.ndarray | None = None) -> np.ndarray:
        """Raw counts of a plate, or of the given rows: (S, C, H, W) uint8 or uint16."""
        array = self.array(experiment, plate)
        if store_rows is None:
            return np.asarray(array[:])
        images = np.empty((len(store_rows), *array.shape[1:]), array.dtype)
        for i, row in enumerate(np.asarray(store_rows)):
            images[i] = array[int(row)]  # one chunk at a time; zarr's fancy indexing takes three times as long
        return images


class ImageStoreDataset(AbstractDataset[PackingPlan, ImageStore]):
    """Packs a screen plate by plate, with a few sites in memory at a time.

    A plate that is up to date is not read again.

    Not versioned by Kedro. The record of a plate is written last; it has a fingerprint of the plate's source
    files and a checksum of its pixels. The manifest is written after all records. A plate without record, or
    a store without manifest, is incomplete. A killed run resumes at the plate that it had reached.

    Catalog::

        image_store:
          type: deepnoise.datasets.image_store.ImageStoreDataset
          root: data/02_intermediate/demo/image_store
          compressor: lz4

    Args:
        root: Folder of the store: a path or an fsspec URL.
        compressor: lz4 (fast) or zstd (about a quarter smaller, packs and reads more slowly).
        workers: Number of threads that decode, compress and write.
        metadata: For kedro-viz.
    """

    MANIFEST = "manifest.json"

    def __init__(
        self, *, root: str, compressor: str = "lz4", workers: int = 2, metadata: dict[str, Any] | None = None
    ) -> None:
        if compressor not in ("zstd", "lz4"):
            raise InputError(f"catalog: image store compressor {compressor!r}; allowed: zstd, lz4")
        self._root = root
        shuffle = zarr.codecs.BloscShuffle.bitshuffle if compressor == "lz4" else zarr.codecs.BloscShuffle.shuffle
        self._codec = zarr.codecs.BloscCodec(cname=zarr.codecs.BloscCname(compressor), clevel=3, shuffle=shuffle)
        self._compressor = compressor
        self._workers = workers
        self.metadata = metadata

    @cached_property
    def _folder(self) -> Folder:  # not in __init__: creating a catalog must not open the file system of every entry
        return Folder(self._root)

    def _file(self, name: str) -> str:
        return f"{self._folder.url}/{name}"

    def save(self, data: PackingPlan) -> None:
        self._folder.fs.makedirs(self._folder.path, exist_ok=True)
        forms = {p.name: self._packed_form(p) for p in data.plates}
        todo = [p for p in data.plates if forms[p.name] is None]
        ready = [form for form in forms.values() if form]
        if todo:
            samples = sample_sites(data, todo, needed=not ready)
            shape, dtype = ready[0] if ready else expected_form(samples, data.dtype)
            self._check_space(samples, sum(len(p.sites) for p in todo))
            if self._folder.fs.exists(self._folder.join(self.MANIFEST)):
                self._folder.fs.rm(self._folder.join(self.MANIFEST))
            logger.info("image store: %s of %s plates are up to date", len(ready), len(data.plates))
            total = sum(len(p.sites) for p in todo)
            with ThreadPoolExecutor(self._workers) as pool, progress("packing", total, "sites") as bar:
                for plate in todo:
                    self._pack(plate, data, shape, dtype, pool, bar)
        self._finish(data)

    def _packed_form(self, plate: PlateImages) -> tuple[tuple[int, ...], str] | None:
        """Shape and dtype of the sites of a plate that is up to date; None if the plate must be packed."""
        name = f"{_folder_name(plate.name)}.json"
        if not self._folder.fs.exists(self._folder.join(name)):
            return None
        record = read_json(self._file(name))
        return (tuple(record["shape"]), record["dtype"]) if record.get("fingerprint") == plate.fingerprint else None

    def _check_space(self, samples: list[np.ndarray], sites: int) -> None:
        """Refuse to start if the disk is too small, estimated from a few compressed sites."""
        if not self._folder.local or not samples:
            return
        bytes_per_site = sum(self._compressed_size(sample) for sample in samples) / len(samples)
        needed = 1.1 * bytes_per_site * sites
        free = shutil.disk_usage(self._folder.path).free
        if needed > free:
            raise InputError(
                f"the image store needs about {_size(needed)} in {self._root} ({sites:,} sites, "
                f"{_size(bytes_per_site)} each), {_size(free)} are free; free some space or choose another data_root"
            )

    def _compressed_size(self, image: np.ndarray) -> int:
        store = zarr.storage.MemoryStore()
        array = _create(store, (1, *image.shape), str(image.dtype), self._codec)
        array[0] = image
        return int(array.nbytes_stored())

    def _pack(
        self,
        plate: PlateImages,
        plan: PackingPlan,
        shape: tuple[int, ...],
        dtype: str,
        pool: ThreadPoolExecutor,
        bar: Any,
    ) -> None:
        name = _folder_name(plate.name)
        for old in (f"{name}.json", name):
            if self._folder.fs.exists(self._folder.join(old)):
                self._folder.fs.rm(self._folder.join(old), recursive=True)
        array = _create(_zarr_store(self._folder.sub(name)), (len(plate.sites), *shape), dtype, self._codec)

        def store_site(row: int) -> list | ImageError:
            files = plate.sites["files"].iloc[row]
            try:
                image = plan.read(files)
                check_form(image, files, shape, dtype)
            except ImageError as error:
                return error
            finally:
                bar.update(1)
            array[row] = image  # one chunk, one object, one writer
            return describe_site(image)

        results = list(pool.map(store_site, range(len(plate.sites))))
        packed = [i for i, result in enumerate(results) if not isinstance(result, ImageError)]
        rows = plate.sites[["id_code", "well", "site"]].assign(store_row=range(len(plate.sites))).iloc[packed]
        statistics = [results[i] for i in packed]
        record = {
            "experiment": plate.experiment,
            "plate": plate.plate,
            "fingerprint": plate.fingerprint,
            "channels": plan.channels,
            "shape": list(shape),
            "dtype": dtype,
            "checksum": hashlib.blake2b(repr([packed, statistics]).encode(), digest_size=16).hexdigest(),
            "rows": rows.to_numpy().tolist(),
            "files": [list(plate.sites["files"].iloc[i]) for i in packed],
            "facts": statistics,
            "faults": [
                {
                    "finding": result.finding, "file": result.file, "detail": result.detail,
                    "well": plate.sites["well"].iloc[i], "site": int(plate.sites["site"].iloc[i]),
                }
                for i, result in enumerate(results) if isinstance(result, ImageError)
            ],
        }  # fmt: skip
        write_json(self._file(f"{name}.json"), record, indent=None)

    def _finish(self, plan: PackingPlan) -> None:
        """Write the manifest, then delete the files of plates that are not in the plan."""
        plates: dict[str, dict[str, Any]] = {}
        shape, dtype = None, None
        for plate in plan.plates:
            record = read_json(self._file(f"{_folder_name(plate.name)}.json"))
            shape, dtype = record["shape"], record["dtype"]
            kept = {key: record[key] for key in ("experiment", "plate", "fingerprint", "checksum")}
            plates[plate.name] = {**kept, "folder": _folder_name(plate.name), "sites": len(record["rows"])}
        manifest = {"channels": plan.channels, "shape": shape, "dtype": dtype, "plates": plates}
        write_json(self._file(self.MANIFEST), manifest)
        expected = (
            {self.MANIFEST} | {p["folder"] for p in plates.values()} | {f"{p['folder']}.json" for p in plates.values()}
        )
        for path in self._folder.fs.ls(self._folder.path, detail=False):
            if path.rstrip("/").rsplit("/", 1)[-1] not in expected:
                self._folder.fs.rm(path, recursive=True)

    def load(self) -> ImageStore:
        if not self._exists():
            raise InputError(f"image store {self._root} is absent or incomplete; run ingestion")
        return ImageStore(self._folder, read_json(self._file(self.MANIFEST)))

    def _exists(self) -> bool:
        return bool(self._folder.fs.exists(self._folder.join(self.MANIFEST)))

    def _describe(self) -> dict[str, Any]:
        return {"root": self._root, "compressor": self._compressor}


def _zarr_store(folder: Folder, read_only: bool = False) -> Any:
    if folder.local:
        return zarr.storage.LocalStore(Path(folder.path), read_only=read_only)
    return zarr.storage.FsspecStore.from_url(folder.url, read_only=read_only)


def _create(store: Any, shape: tuple[int, ...], dtype: str, codec: Any) -> zarr.Array:
    return zarr.create_array(store, shape=shape, dtype=dtype, chunks=(1, *shape[1:]), compressors=codec, fill_value=0)


def _size(n: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB"


def _folder_name(plate: str) -> str:
    return plate.replace("/", "__")
