"""A simulated screen, written in the layout of RxRx1; refuses a folder that is not its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
from kedro.io import AbstractDataset
from PIL import Image

from deepnoise.datasets.files import SiteFiles, read_json, write_json
from deepnoise.datasets.rxrx1 import SPLITS, RxRx1ImagesDataset, RxRx1TablesDataset
from deepnoise.errors import InputError, first_few
from deepnoise.simulation.cells import CHANNELS
from deepnoise.simulation.screen import RenderedPlate

MARK = "simulated_screen.json"
"""Written first (incomplete) by the tables and last (complete) by the images."""


class SimulatedTablesDataset(AbstractDataset[pd.DataFrame, pd.DataFrame]):
    """Saves a design as the four csv tables, and the withheld truth as ``test_labels.csv``; loads as raw wells.

    Saving empties the folder, if it is one of the simulation's.

    Args:
        root: Folder of the screen.
        metadata: For kedro-viz.
    """

    def __init__(self, *, root: str, metadata: dict[str, Any] | None = None) -> None:
        self._root = Path(root)
        self.metadata = metadata

    def save(self, data: pd.DataFrame) -> None:
        self._claim_folder()
        place = ["experiment", "plate", "well"]
        design = data.copy()
        design.insert(0, "id_code", design["experiment"] + "_" + design["plate"].astype(str) + "_" + design["well"])
        treated = design["well_type"] == "treatment"
        for split in SPLITS:
            member = design["split"] == split
            columns = ["id_code", *place, "sirna"]
            design.loc[treated & member, columns if split == "train" else columns[:-1]].to_csv(
                self._root / f"{split}.csv", index=False
            )
            design.loc[~treated & member, [*columns, "well_type"]].to_csv(
                self._root / f"{split}_controls.csv", index=False
            )
        truth = design.loc[treated & (design["split"] == "test"), ["id_code", *place, "sirna"]]
        truth.to_csv(self._root / "test_labels.csv", index=False)

    def _claim_folder(self) -> None:
        if self._root.exists() and not self._root.is_dir():
            raise InputError(f"{self._root} is a file; the simulated screen needs a folder")
        if self._root.is_dir():
            there = sorted(path.name for path in self._root.iterdir())
            if there and MARK not in there:
                raise InputError(
                    f"{self._root} holds {first_few(there, 3)} and no {MARK}: not a folder of the simulation, "
                    "nothing was written; choose another raw_root or empty the folder"
                )
            shutil.rmtree(self._root)
        self._root.mkdir(parents=True)
        write_json(self._root / MARK, {"complete": False})

    def load(self) -> pd.DataFrame:
        return RxRx1TablesDataset(root=str(self._root)).load()

    def _exists(self) -> bool:
        return (self._root / "test_controls.csv").is_file()

    def _describe(self) -> dict[str, Any]:
        return {"root": str(self._root)}


class SimulatedImagesDataset(AbstractDataset[Any, SiteFiles]):
    """Saves plates of images one by one, then a dict of facts that marks the screen as complete.

    Args:
        root: Folder of the screen.
        metadata: For kedro-viz.
    """

    def __init__(self, *, root: str, metadata: dict[str, Any] | None = None) -> None:
        self._root = Path(root)
        self.metadata = metadata

    def save(self, data: RenderedPlate | dict[str, Any]) -> None:
        if isinstance(data, dict):
            write_json(self._root / MARK, {"complete": True, **data})
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
        mark = self._root / MARK
        return mark.is_file() and bool(read_json(mark).get("complete"))

    def _describe(self) -> dict[str, Any]:
        return {"root": str(self._root)}
