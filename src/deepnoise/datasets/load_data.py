"""The load_data tables of CellProfiler, as the Cell Painting Gallery and JUMP keep them, and nf-core's samplesheet."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from deepnoise.datasets.files import SiteFiles
from deepnoise.datasets.long_table import (
    LongTableDataset,
    LongTableImagesDataset,
    LongTableLabelsDataset,
    matching_paths,
)
from deepnoise.datasets.read_only import ReadOnlyDataset
from deepnoise.datasets.text_tables import column_names
from deepnoise.errors import InputError, first_few

_CHANNEL = re.compile(r"(?:URL|FileName)_Orig(.+)")
BELOW_BUCKET = r"(?:^s3://[^/]+|^/.*?/bucket|cellpainting-gallery)/(.*?)/*$"
"""The part of a path below the bucket that the tables were written for."""
SOURCE = r"([^/]+)/(?:images/)?[^/]+/images/[^/]+/Images"
BATCH = r"([^/]+)/images/[^/]+/Images"
"""The folders of the gallery: <source>/images/<batch>/images/<plate>/Images."""


class _LoadData(ReadOnlyDataset[Any]):
    """Maps the columns of a load_data table by their names.

    Read are tables with ``URL_Orig<channel>``, or ``PathName_Orig<channel>`` and ``FileName_Orig<channel>``, one row
    per site; and sheets with one row per image (channel, path, plate, well, site).

    Args:
        filepath: The csv (or .csv.gz): a path or an fsspec URL. With ``*``, all files that match are concatenated.
        perturbation: Template, or list of templates, of the perturbation (see
            :class:`deepnoise.datasets.long_table.LongTableDataset`); its columns usually come from ``join``.
        cell_type: Template of the cell type.
        experiment: Template of the experiment. If not given, ``<source>-<batch>``: from the columns of the table, or
            else from the folders of its first channel.
        channels: Channel names. If not given, all of the table but brightfield.
        root: Folder that the paths of images, without the name of their bucket, and ``join`` are relative to.
        more: Other arguments of :class:`deepnoise.datasets.long_table.LongTableDataset`, such as join, heldout,
            exclude, negative_controls and z.
        metadata: For kedro-viz.
    """

    read_only = "raw data is an input and is never written"

    def __init__(
        self,
        *,
        filepath: str,
        perturbation: str | list[str],
        cell_type: str,
        experiment: str | list[str] | None = None,
        channels: list[str] | None = None,
        root: str | None = None,
        metadata: dict[str, Any] | None = None,
        **more: Any,
    ) -> None:
        self._path, self._channels, self._root, self._more = filepath, channels, root, more
        self._templates = {"perturbation": perturbation, "cell_type": cell_type}
        self._experiment = experiment
        self.metadata = metadata

    def mapping(self) -> dict[str, Any]:
        """The arguments of the reader of long tables.

        Raises:
            InputError: The table has no column of images.
        """
        path = matching_paths(self._path)[0]
        columns = column_names(path)
        given = {"filepath": self._path, "root": self._root, **self._more}
        if {"channel", "path", "plate", "well", "site"} <= set(columns):
            names = {"plate": "{plate}", "well": "{well}", "site": "{site}", "channel": "{channel}"}
            experiment = ["{source}-{batch}", "{batch}", f"{{path:{SOURCE}}}-{{path:{BATCH}}}"]
            files: Any = [f"{{path:{BELOW_BUCKET}}}", "{path}"]
            if not self._channels:
                raise InputError(f"catalog: {path} has one row per image; list its 'channels' in their order")
            given["channels"] = self._channels
        else:
            found = dict.fromkeys(match[1] for column in columns if (match := _CHANNEL.fullmatch(column)))
            channels = self._channels or [c for c in found if not c.startswith("Brightfield")]
            if not channels:
                raise InputError(
                    f"{path}: has no column URL_Orig<channel> or FileName_Orig<channel>, nor the columns channel and "
                    f"path; it has {first_few(columns, 12)}"
                )
            names = {"plate": "{Metadata_Plate}", "well": "{Metadata_Well}", "site": "{Metadata_Site}"}
            experiment = ["{Metadata_Source}-{Metadata_Batch}"] + [
                f"{{{column}:{SOURCE}}}-{{{column}:{BATCH}}}"
                for column in (f"URL_Orig{channels[0]}", f"PathName_Orig{channels[0]}")
            ]
            files = {
                channel: [
                    f"{{URL_Orig{channel}:{BELOW_BUCKET}}}",
                    f"{{PathName_Orig{channel}:{BELOW_BUCKET}}}/{{FileName_Orig{channel}}}",
                    f"{{URL_Orig{channel}}}",
                    f"{{PathName_Orig{channel}}}/{{FileName_Orig{channel}}}",
                ]
                for channel in channels
            }
        columns_of = {"experiment": self._experiment or experiment, **names, **self._templates}
        return {**given, "columns": columns_of, "files": files}

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._path}


class LoadDataDataset(_LoadData):
    """The wells of load_data tables as a raw table.

    Catalog::

        raw_wells:
          type: deepnoise.datasets.load_data.LoadDataDataset
          filepath: data/01_raw/jump/load_data_csv/*/*/load_data.csv.gz
          root: data/01_raw/jump
          cell_type: U2OS
          perturbation: "{Metadata_JCP2022}"
          join: [metadata/well.csv.gz]
          negative_controls: [JCP2022_033924]
    """

    def load(self) -> pd.DataFrame:
        return LongTableDataset(**self.mapping()).load()


class LoadDataLabelsDataset(_LoadData):
    """The table ``heldout_labels`` from load_data tables and their plate maps.

    Catalog::

        heldout_labels:
          type: deepnoise.datasets.load_data.LoadDataLabelsDataset
          filepath: data/01_raw/jump/load_data_csv/*/*/load_data.csv.gz
          root: data/01_raw/jump
          cell_type: U2OS
          perturbation: "{Metadata_JCP2022}"
          join: [metadata/well.csv.gz]
    """

    def load(self) -> pd.DataFrame:
        return LongTableLabelsDataset(**self.mapping()).load()


class LoadDataImagesDataset(_LoadData):
    """The images of load_data tables. Loading lists their folders and opens no image.

    Catalog::

        raw_images:
          type: deepnoise.datasets.load_data.LoadDataImagesDataset
          filepath: data/01_raw/jump/load_data_csv/*/*/load_data.csv.gz
          root: data/01_raw/jump
          channels: [DNA, ER, RNA, AGP, Mito]
          cell_type: U2OS
          perturbation: "{Metadata_JCP2022}"
          join: [metadata/well.csv.gz]
    """

    def load(self) -> SiteFiles:
        return LongTableImagesDataset(**self.mapping()).load()
