"""Profiles as AnnData (.h5ad), for scanpy and related tools. Needs the extra ``h5ad``.

Written with h5py after AnnData's specification (anndata.readthedocs.io, "On-disk format"). The package anndata
works with pandas 3 from version 0.13 on, which needs Python 3.12.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from kedro.io import AbstractVersionedDataset, Version

from deepnoise.datasets.json_files import write_atomically
from deepnoise.errors import InputError
from deepnoise.tables import EMBEDDING, SCHEMAS, validate_table

INDEX_COLUMNS = [f"Metadata_{name}" for name in ("Fold", "Experiment", "Plate", "Well", "Site")]
"""Columns that together identify a row; joined, they are the names of the observations."""


class H5ADDataset(AbstractVersionedDataset[pd.DataFrame, pd.DataFrame]):
    """The table ``profiles`` as an .h5ad file: embeddings in X, ``Metadata_`` columns in obs.

    Checks the table itself, so its entry needs no ``validator:``.

    Catalog::

        profiles:
          type: deepnoise.datasets.h5ad.H5ADDataset
          filepath: data/07_model_output/demo/profiles.h5ad
          versioned: true

    Args:
        filepath: A path that ends in .h5ad.
        version: Kedro's version, given by ``versioned: true``.
        metadata: For kedro-viz.
    """

    def __init__(
        self, *, filepath: str, version: Version | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        super().__init__(PurePosixPath(filepath), version, os.path.exists, _glob)
        self.metadata = metadata

    def save(self, data: pd.DataFrame) -> None:
        h5py = _h5py()
        table = validate_table(data, "profiles", str(self._filepath))
        dimensions = [c for c in table.columns if c.startswith(EMBEDDING)]
        metadata = table[list(SCHEMAS["profiles"].columns)]
        names = table[INDEX_COLUMNS].astype("str").agg("_".join, axis=1).to_list()
        path = Path(self._get_save_path())
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as staged, h5py.File(staged, "w") as file:
            _set_encoding(file, "anndata", "0.1.0")
            embeddings = file.create_dataset("X", data=table[dimensions].to_numpy(np.float32))
            _set_encoding(embeddings, "array", "0.2.0")
            obs = _write_frame(file, "obs", names, list(metadata.columns))
            for column in metadata.columns:
                _write_column(obs, column, metadata[column])
            _write_frame(file, "var", dimensions, [])
            for name in ("layers", "obsm", "varm", "obsp", "varp", "uns"):
                _set_encoding(file.create_group(name), "dict", "0.1.0")

    def load(self) -> pd.DataFrame:
        path = str(self._get_load_path())
        with _h5py().File(path, "r") as file:
            metadata = {}
            for column in SCHEMAS["profiles"].columns:
                stored = file["obs"][column]
                if "categories" in stored:  # code -1, a missing value, picks the None at the end
                    categories = np.array([*stored["categories"].asstr()[:], None], dtype=object)
                    metadata[column] = pd.Series(categories[stored["codes"][:]], dtype="str")
                else:
                    metadata[column] = pd.Series(stored[:])
            dimensions = list(file["var"]["_index"].asstr()[:])
            embeddings = pd.DataFrame(file["X"][:], columns=dimensions)
        return validate_table(pd.concat([pd.DataFrame(metadata), embeddings], axis=1), "profiles", path)

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "version": self._version}


def _set_encoding(element: Any, encoding: str, version: str) -> None:
    element.attrs["encoding-type"], element.attrs["encoding-version"] = encoding, version


def _write_texts(group: Any, name: str, values: list[str]) -> None:
    _set_encoding(group.create_dataset(name, data=values, dtype=_h5py().string_dtype()), "string-array", "0.2.0")


def _write_frame(file: Any, name: str, index: list[str], columns: list[str]) -> Any:
    group = file.create_group(name)
    _set_encoding(group, "dataframe", "0.2.0")
    group.attrs["_index"] = "_index"
    group.attrs.create("column-order", columns, dtype=_h5py().string_dtype())
    _write_texts(group, "_index", index)
    return group


def _write_column(frame: Any, name: str, values: pd.Series) -> None:
    if values.dtype == "str":
        codes, categories = pd.factorize(values, sort=True)  # -1 where a value is missing
        group = frame.create_group(name)
        _set_encoding(group, "categorical", "0.2.0")
        group.attrs["ordered"] = False
        _write_texts(group, "categories", list(categories))
        _set_encoding(group.create_dataset("codes", data=codes.astype(np.int32)), "array", "0.2.0")
    else:
        _set_encoding(frame.create_dataset(name, data=values.to_numpy()), "array", "0.2.0")


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise InputError('AnnData files (.h5ad) need the package h5py: pip install -e ".[h5ad]"') from error
    return h5py


def _glob(pattern: str) -> list[str]:
    from glob import glob

    return glob(pattern)
