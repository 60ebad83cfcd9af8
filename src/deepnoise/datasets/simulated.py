"""A simulated screen in the file layout of RxRx1. A folder with other files is never overwritten."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
from kedro.io import AbstractDataset
from PIL import Image

from deepnoise.datasets.files import SiteFiles
from deepnoise.datasets.json_files import read_json, write_json
from deepnoise.datasets.rxrx1 import SPLITS, RxRx1ImagesDataset, RxRx1TablesDataset
from deepnoise.errors import InputError, first_few
from deepnoise.simulation.cells import CHANNELS
from deepnoise.simulation.screen import RenderedPlate

COMPLETION_FILE = "simulated_screen.json"
"""Says whether the screen is complete. The tables write it first (false), the images write it last (true)."""


class SimulatedTablesDataset(AbstractDataset[pd.DataFrame, pd.DataFrame]):
    """The design of a simulated screen: four csv tables, and the held-out labels in ``test_labels.csv``.

    Loads as raw wells. Saving deletes an older simulated screen in the same folder, and refuses any other
    folder that is not empty.

    Catalog::

        simulated_wells:
          type: deepnoise.datasets.simulated.SimulatedTablesDataset
          root: data/01_raw/demo

    Args:
        root: Folder of the screen.
        metadata: For kedro-viz.
    """

    def __init__(self, *, root: str, metadata: dict[str, Any] | None = None) -> None:
        self._root = Path(root)
        self.metadata = metadata

    def save(self, data: pd.DataFrame) -> None:
        self._claim_folder()
        well_key = ["experiment", "plate", "well"]
        design = data.copy()
        design.insert(0, "id_code", design["experiment"] + "_" + design["plate"].astype(str) + "_" + design["well"])
        treated = design["well_type"] == "treatment"
        for split in SPLITS:
            in_split = design["split"] == split
            columns = ["id_code", *well_key, "sirna"]
            design.loc[treated & in_split, columns if split == "train" else columns[:-1]].to_csv(
                self._root / f"{split}.csv", index=False
            )
            design.loc[~treated & in_split, [*columns, "well_type"]].to_csv(
                self._root / f"{split}_controls.csv", index=False
            )
        labels = design.loc[treated & (design["split"] == "test"), ["id_code", *well_key, "sirna"]]
        labels.to_csv(self._root / "test_labels.csv", index=False)

    def _claim_folder(self) -> None:
        if self._root.exists() and not self._root.is_dir():
            raise InputError(f"{self._root} is a file; the simulated screen needs a folder")
        if self._root.is_dir():
            names = sorted(path.name for path in self._root.iterdir())
            if names and COMPLETION_FILE not in names:
                raise InputError(
                    f"{self._root} holds {first_few(names, 3)} and no {COMPLETION_FILE}: not a folder of the "
                    "simulation, nothing was written; choose another raw_root or empty the folder"
                )
            shutil.rmtree(self._root)
        self._root.mkdir(parents=True)
        write_json(self._root / COMPLETION_FILE, {"complete": False})

    def load(self) -> pd.DataFrame:
        return RxRx1TablesDataset(root=str(self._root)).load()

    def _exists(self) -> bool:
        return (self._root / "test_controls.csv").is_file()

    def _describe(self) -> dict[str, Any]:
        return {"root": str(self._root)}


class SimulatedImagesDataset(AbstractDataset[Any, SiteFiles]):
    """The images of a simulated screen, saved plate by plate; a dict saved last marks the screen as complete.

    Catalog::

        simulated_images:
          type: deepnoise.datasets.simulated.SimulatedImagesDataset
          root: data/01_raw/demo

    Args:
        root: Folder of the screen.
        metadata: For kedro-viz.
    """

    def __init__(self, *, root: str, metadata: dict[str, Any] | None = None) -> None:
        self._root = Path(root)
        self.metadata = metadata

    def save(self, data: RenderedPlate | dict[str, Any]) -> None:
        if isinstance(data, dict):
            write_json(self._root / COMPLETION_FILE, {"complete": True, **data})
            return
        folder = self._root / data.split / data.experiment / f"Plate{data.plate}"
        folder.mkdir(parents=True, exist_ok=True)
        for well, sites in zip(data.wells, data.tiles, strict=True):
            for s, site in enumerate(sites, start=1):
                for c, image in enumerate(site, start=1):
                    Image.fromarray(image).save(folder / f"{well}_s{s}_w{c}.png", compress_level=1)

    def load(self) -> SiteFiles:
        if not self._exists():
            raise InputError(f"the simulated screen in {self._root} is absent or incomplete; run simulation")
        return RxRx1ImagesDataset(root=str(self._root), channels=list(CHANNELS), dtype="uint8").load()

    def _exists(self) -> bool:
        path = self._root / COMPLETION_FILE
        return path.is_file() and bool(read_json(path).get("complete"))

    def _describe(self) -> dict[str, Any]:
        return {"root": str(self._root)}
