"""Profiles as AnnData (.h5ad), for scanpy and its relatives; the extra ``h5ad``.

Written by h5py after AnnData's on-disk format (anndata.readthedocs.io, "On-disk format"): the package anndata holds pandas below 3.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from kedro.io import AbstractVersionedDataset, Version

from deepnoise.errors import InputError
from deepnoise.tables import EMBEDDING, SCHEMAS, validate_table

PLACE = [f"Metadata_{part}" for part in ("Fold", "Experiment", "Plate", "Well", "Site")]


class H5ADDataset(AbstractVersionedDataset[pd.DataFrame, pd.DataFrame]):
    """The table ``profiles`` as an .h5ad file: embeddings in X, ``Metadata_`` columns in obs, texts as categories.

    Args:
        filepath: A path that ends in .h5ad.
        version: Kedro's version, given by ``versioned: true``.
        metadata: For kedro-viz.
    """

    def __init__(
        self, *, filepath: str, version: Version | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        super().__init__(PurePosixPath(filepath), version, lambda p: Path(p).exists(), _glob)
        self.metadata = metadata

    def save(self, data: pd.DataFrame) -> None:
        h5py = _h5py()
        table = validate_table(data, "profiles", str(self._filepath))
        axes = [c for c in table.columns if c.startswith(EMBEDDING)]
        meta = table[list(SCHEMAS["profiles"].columns)]
        names = table[PLACE].astype("str").agg("_".join, axis=1).to_list()
        path = Path(self._get_save_path())
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        with h5py.File(unfinished, "w") as file:
            _mark(file, "anndata", "0.1.0")
            _mark(file.create_dataset("X", data=table[axes].to_numpy(np.float32)), "array", "0.2.0")
            obs = _frame(file, "obs", names, list(meta.columns))
            for column in meta.columns:
                if meta[column].dtype == "str":
                    codes, categories = pd.factorize(meta[column], sort=True)  # -1 where it is missing
                    group = obs.create_group(column)
                    _mark(group, "categorical", "0.2.0")
                    group.attrs["ordered"] = False
                    _texts(group, "categories", list(categories))
                    _mark(group.create_dataset("codes", data=codes.astype(np.int32)), "array", "0.2.0")
                else:
                    _mark(obs.create_dataset(column, data=meta[column].to_numpy()), "array", "0.2.0")
            _frame(file, "var", axes, [])
            for empty in ("layers", "obsm", "varm", "obsp", "varp", "uns"):
                _mark(file.create_group(empty), "dict", "0.1.0")
        unfinished.replace(path)

    def load(self) -> pd.DataFrame:
        path = str(self._get_load_path())
        with _h5py().File(path, "r") as file:
            meta = {}
            for column in SCHEMAS["profiles"].columns:
                stored = file["obs"][column]
                if "categories" in stored:
                    categories = np.array([*stored["categories"].asstr()[:], None], dtype=object)
                    meta[column] = pd.Series(categories[stored["codes"][:]], dtype="str")
                else:
                    meta[column] = pd.Series(stored[:])
            axes = list(file["var"]["_index"].asstr()[:])
            features = pd.DataFrame(file["X"][:], columns=axes)
        return validate_table(pd.concat([pd.DataFrame(meta), features], axis=1), "profiles", path)

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "version": self._version}


def _mark(stored: Any, kind: str, version: str) -> None:
    stored.attrs["encoding-type"], stored.attrs["encoding-version"] = kind, version


def _texts(group: Any, name: str, values: list[str]) -> None:
    _mark(group.create_dataset(name, data=values, dtype=_h5py().string_dtype()), "string-array", "0.2.0")


def _frame(file: Any, name: str, index: list[str], columns: list[str]) -> Any:
    group = file.create_group(name)
    _mark(group, "dataframe", "0.2.0")
    group.attrs["_index"] = "_index"
    group.attrs.create("column-order", columns, dtype=_h5py().string_dtype())
    _texts(group, "_index", index)
    return group


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise InputError("AnnData files (.h5ad) need the package h5py: pip install 'deepnoise[h5ad]'") from error
    return h5py


def _glob(pattern: str) -> list[str]:
    from glob import glob

    return glob(pattern)
