"""The packed pictures of a screen: zarr v3, one array a plate, one chunk a site, in the source's dtype."""

from __future__ import annotations

import hashlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
import zarr.codecs
from kedro.io import AbstractDataset
from tqdm import tqdm

from deepnoise.datasets.files import read_json, write_json
from deepnoise.errors import InputError
from deepnoise.ingestion.packing import PackingComplete, PlateImages, plate_name, read_plate


class ImageStore:
    """Read access to packed pictures. Only opened once the store is complete."""

    def __init__(self, root: Path, manifest: dict[str, Any]) -> None:
        self._root = root
        self.channels: list[str] = manifest["channels"]
        self.plates: dict[str, dict[str, Any]] = manifest["plates"]
        self._open: dict[str, zarr.Array] = {}

    @property
    def unreadable(self) -> list[str]:
        """Messages on pictures that could not be read."""
        return [message for plate in self.plates.values() for message in plate["unreadable"]]

    def rows(self) -> pd.DataFrame:
        """One row a packed site: id_code, experiment, plate, well, site, store_row."""
        parts = []
        for plate in self.plates.values():
            part = pd.DataFrame(plate["rows"], columns=["id_code", "well", "site", "store_row"])
            parts.append(part.assign(experiment=plate["experiment"], plate=plate["plate"]))
        return pd.concat(parts, ignore_index=True)

    def _record(self, experiment: str, plate: str) -> dict[str, Any]:
        name = plate_name(experiment, plate)
        if name not in self.plates:
            raise InputError(f"plate {name} is not in the image store {self._root}; run ingestion")
        return self.plates[name]

    def checksum(self, experiment: str, plate: str) -> str:
        """Hash of the raw counts of a plate."""
        return str(self._record(experiment, plate)["checksum"])

    def array(self, experiment: str, plate: str) -> zarr.Array:
        """The (S, C, H, W) array of a plate."""
        folder = self._record(experiment, plate)["folder"]
        if folder not in self._open:
            self._open[folder] = zarr.open_array(self._root / folder, mode="r")
        return self._open[folder]

    def read(self, experiment: str, plate: str, store_rows: np.ndarray | None = None) -> np.ndarray:
        """Raw counts of a plate, or of some of its rows: (S, C, H, W) uint8 or uint16."""
        array = self.array(experiment, plate)
        picture = array[:] if store_rows is None else array.oindex[np.asarray(store_rows)]
        return np.asarray(picture)


class ImageStoreDataset(AbstractDataset[Any, ImageStore]):
    """Saves plate by plate; a plate appears whole or not at all, and one that is up to date is not read again.

    Not versioned by Kedro: the manifest, written last, carries the fingerprint of each plate's source files.

    Args:
        root: Folder of the store.
        compressor: zstd or lz4.
        workers: Threads that decode.
        metadata: For kedro-viz.
    """

    MANIFEST = "manifest.json"

    def __init__(
        self, *, root: str, compressor: str = "zstd", workers: int = 2, metadata: dict[str, Any] | None = None
    ) -> None:
        if compressor not in ("zstd", "lz4"):
            raise InputError(f"catalog: image store compressor {compressor!r}; allowed: zstd, lz4")
        self._root = Path(root)
        self._compressor = compressor
        self._workers = workers
        self._bar: tqdm | None = None
        self.metadata = metadata

    def _plate_file(self, name: str) -> Path:
        return self._root / f"{_folder(name)}.json"

    def save(self, data: PlateImages | PackingComplete) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        if isinstance(data, PackingComplete):
            self._finish(data)
            return
        (self._root / self.MANIFEST).unlink(missing_ok=True)
        if self._bar is None:
            self._bar = tqdm(desc="packing", unit=" sites", disable=None)
        name = plate_name(data.experiment, data.plate)
        record = self._plate_file(name)
        if record.is_file() and read_json(record)["fingerprint"] == data.fingerprint:
            return
        record.unlink(missing_ok=True)
        with ThreadPoolExecutor(self._workers) as pool:
            pictures, rows, unreadable = read_plate(data, pool.map)
        folder = self._root / _folder(name)
        staged = folder.with_name(folder.name + ".part")
        for old in (staged, folder):
            shutil.rmtree(old, ignore_errors=True)
        array = zarr.create_array(
            staged,
            shape=pictures.shape,
            dtype=pictures.dtype,
            chunks=(1, *pictures.shape[1:]),
            compressors=zarr.codecs.BloscCodec(
                cname=zarr.codecs.BloscCname(self._compressor), clevel=3, shuffle="shuffle"
            ),
        )
        array[:] = pictures
        os.replace(staged, folder)
        facts = {
            "experiment": data.experiment,
            "plate": data.plate,
            "folder": folder.name,
            "fingerprint": data.fingerprint,
            "channels": data.channels,
            "shape": list(pictures.shape),
            "dtype": str(pictures.dtype),
            "checksum": hashlib.blake2b(pictures.data, digest_size=16).hexdigest(),
            "rows": rows.to_numpy().tolist(),
            "unreadable": unreadable,
        }
        write_json(record, facts)
        self._bar.update(len(pictures))

    def _finish(self, done: PackingComplete) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        plates = {name: read_json(self._plate_file(name)) for name in done.plates}
        first, *others = plates.values()
        for other in others:
            if (other["shape"][1:], other["dtype"]) != (first["shape"][1:], first["dtype"]):
                raise InputError(
                    f"plate {plate_name(other['experiment'], other['plate'])} holds {other['dtype']} pictures of shape "
                    f"{other['shape'][1:]}, plate {plate_name(first['experiment'], first['plate'])} {first['dtype']} of shape "
                    f"{first['shape'][1:]}; a screen needs one size and dtype: convert or leave out the odd plates"
                )
        kept = (
            {self.MANIFEST} | {p["folder"] for p in plates.values()} | {f"{p['folder']}.json" for p in plates.values()}
        )
        for path in self._root.iterdir():
            if path.name not in kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        write_json(self._root / self.MANIFEST, {"channels": done.channels, "plates": plates})

    def load(self) -> ImageStore:
        manifest = self._root / self.MANIFEST
        if not manifest.is_file():
            raise InputError(f"image store {self._root} is absent or incomplete; run ingestion")
        return ImageStore(self._root, read_json(manifest))

    def _exists(self) -> bool:
        return (self._root / self.MANIFEST).is_file()

    def _describe(self) -> dict[str, Any]:
        return {"root": str(self._root), "compressor": self._compressor}


def _folder(name: str) -> str:
    return name.replace("/", "__")
