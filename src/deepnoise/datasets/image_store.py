"""The packed images of a screen: zarr v3, one array per plate, one chunk per site, in the source dtype."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
import zarr.codecs
import zarr.storage
from kedro.io import AbstractDataset

from deepnoise.datasets.folder import Folder
from deepnoise.datasets.json_files import read_json, write_json
from deepnoise.errors import ImageError, InputError, first_few
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
        """Raw counts of a plate, or of the given rows: (S, C, H, W) uint8 or uint16.

        Raises:
            InputError: A chunk is missing or damaged; names the plate and the site.
        """
        array = self.array(experiment, plate)
        rows = np.arange(array.shape[0]) if store_rows is None else np.asarray(store_rows)
        if store_rows is None:
            try:
                images = np.asarray(array[:])
            except Exception:  # which image it is shows when they are read one by one
                images = self._one_by_one(array, experiment, plate, rows)
        else:
            images = self._one_by_one(array, experiment, plate, rows)
        black = [int(row) for row, image in zip(rows, images, strict=True) if not image.any()]
        if black:  # zarr reads zeros where a chunk is missing
            record = self._record(experiment, plate)
            packed_black = {
                row[3]: all(high == 0 for _, high, *_ in facts)
                for row, facts in zip(record["rows"], record["facts"], strict=True)
            }
            for row in black:  # an image that could not be packed has no row in the record
                if not packed_black.get(row, True) and not self._has_chunk(experiment, plate, row):
                    raise self._broken(experiment, plate, row, "missing")
        return images

    def _one_by_one(self, array: zarr.Array, experiment: str, plate: str, rows: np.ndarray) -> np.ndarray:
        images = np.empty((len(rows), *array.shape[1:]), array.dtype)
        for i, row in enumerate(rows):
            try:
                images[i] = array[int(row)]  # one chunk at a time; zarr's fancy indexing takes three times as long
            except Exception as error:  # codecs raise many types of error
                raise self._broken(experiment, plate, int(row), f"damaged ({type(error).__name__})") from error
        return images

    def _record(self, experiment: str, plate: str) -> dict[str, Any]:
        record: dict[str, Any] = read_json(f"{self._folder.url}/{self._plate(experiment, plate)['folder']}.json")
        return record

    def _has_chunk(self, experiment: str, plate: str, row: int) -> bool:
        name = f"{self._plate(experiment, plate)['folder']}/{_chunk(row)}"
        return bool(self._folder.fs.exists(self._folder.join(name)))

    def _broken(self, experiment: str, plate: str, row: int, problem: str) -> InputError:
        sites = {r[3]: f"well {r[1]} site {r[2]}" for r in self._record(experiment, plate)["rows"]}
        verify = "" if problem == "missing" else " with --params ingestion.verify=true"
        return InputError(
            f"image store {self._folder.url}: the image of plate {plate_name(experiment, plate)} "
            f"{sites.get(row, f'row {row}')} is {problem}; run ingestion{verify}, which packs the plate again"
        )


class ImageStoreDataset(AbstractDataset[PackingPlan, ImageStore]):
    """Packs a screen plate by plate, with a few sites in memory at a time.

    A plate that is up to date is not read again. It is packed again if an image is missing in the store or has not the
    size that it was written with; with ``ingestion.verify`` also if its pixels are not those that were packed.

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
        blosc = zarr.codecs.BloscCodec(cname=zarr.codecs.BloscCname(compressor), clevel=3, shuffle=shuffle)
        self._codec = [blosc, zarr.codecs.Crc32cCodec()]  # a changed byte is an error, not another image
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
        with progress("verifying", len(data.plates), "plates") if data.verify else nullcontext() as bar:
            forms = {p.name: self._packed_form(p, data.verify, bar) for p in data.plates}
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

    def _packed_form(self, plate: PlateImages, verify: bool, bar: Any) -> tuple[tuple[int, ...], str] | None:
        """Shape and dtype of the sites of a plate that is up to date; None if the plate must be packed."""
        if bar is not None:
            bar.update(1)
        name = f"{_folder_name(plate)}.json"
        if not self._folder.fs.exists(self._folder.join(name)):
            return None
        record = read_json(self._file(name))
        if record.get("fingerprint") != plate.fingerprint:
            return None
        broken = self._broken_sites(plate, record, verify)
        if broken:
            logger.warning(
                "image store: plate %s is packed again, because %s of its images are missing or damaged: %s",
                plate.name, len(broken), first_few(broken),
            )  # fmt: skip
            return None
        return tuple(record["shape"]), record["dtype"]

    def _broken_sites(self, plate: PlateImages, record: dict[str, Any], verify: bool) -> list[str]:
        """Packed sites of a plate whose chunk is absent, has another size than when written, or (``verify``) other pixels."""
        folder = _folder_name(plate)
        sizes = self._sizes(folder)
        array = zarr.open_array(_zarr_store(self._folder.sub(folder), read_only=True), mode="r") if verify else None
        written = record.get("bytes") or [None] * len(record["rows"])  # earlier versions kept no sizes
        broken = []
        for (_, well, site, row), size, facts in zip(record["rows"], written, record["facts"], strict=True):
            found = sizes.get(_chunk(row))
            if found is None and size is None and all(high == 0 for _, high, *_ in facts):
                continue  # earlier versions wrote no chunk of zeros
            whole = found is not None and size in (None, found)
            if whole and array is not None:
                try:
                    whole = describe_site(np.asarray(array[int(row)])) == facts
                except Exception:  # codecs raise many types of error
                    whole = False
            if not whole:
                broken.append(f"{well} site {site}")
        return broken

    def _sizes(self, folder: str) -> dict[str, int | None]:
        """Name of each file in the folder of a plate -> its size in bytes."""
        path = self._folder.join(folder)
        found = self._folder.fs.find(path, detail=True)
        return {name.removeprefix(path).lstrip("/"): info.get("size") for name, info in found.items()}

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
        name = _folder_name(plate)
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
        sizes = self._sizes(name)
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
            "bytes": [sizes[_chunk(i)] for i in packed],
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
            record = read_json(self._file(f"{_folder_name(plate)}.json"))
            shape, dtype = record["shape"], record["dtype"]
            kept = {key: record[key] for key in ("experiment", "plate", "fingerprint", "checksum")}
            plates[plate.name] = {**kept, "folder": _folder_name(plate), "sites": len(record["rows"])}
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
    """An array with one chunk per site, also where a site is black, so that a missing chunk is always a fault."""
    return zarr.create_array(
        store,
        shape=shape,
        dtype=dtype,
        chunks=(1, *shape[1:]),
        compressors=codec,
        fill_value=0,
        config={"write_empty_chunks": True},
    )


def _size(n: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB"


def _folder_name(plate: PlateImages) -> str:
    """Folder of a plate, ``<experiment>__<plate>``; no two plates share one.

    Names that could be read in two ways, and those with a slash, have it and their underscores percent-encoded.
    """
    joined = f"{plate.experiment}__{plate.plate}"
    if joined.count("__") == 1 and "___" not in joined and not set(joined) & {"/", "%"}:
        return joined
    experiment, name = (
        text.replace("%", "%25").replace("_", "%5F").replace("/", "%2F") for text in (plate.experiment, plate.plate)
    )
    return f"{experiment}__{name}"


def _chunk(row: int) -> str:
    """Name of the chunk of a row in the folder of its plate (zarr v3, default key encoding)."""
    return f"c/{row}/0/0/0"
