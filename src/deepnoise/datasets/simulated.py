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
from deepnoise.datasets.read_only import ReadOnlyDataset
from deepnoise.datasets.rxrx1 import SPLITS, RxRx1ImagesDataset, RxRx1TablesDataset
from deepnoise.datasets.text_tables import read_csv
from deepnoise.errors import InputError, first_few
from deepnoise.simulation.cells import CHANNELS
from deepnoise.simulation.redealt import RedealtImages, deal_heldout, recorded_rendering
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


def read_design(root: Path) -> pd.DataFrame:
    """The design of a simulated screen, from the tables of its folder, with its withheld labels."""
    tables = []
    for split in SPLITS:
        treated = "train.csv" if split == "train" else "test_labels.csv"
        for name, more in ((treated, []), (f"{split}_controls.csv", ["well_type"])):
            table = read_csv(str(root / name), ["experiment", "plate", "well", "sirna", *more])
            tables.append(table.assign(well_type=table["well_type"] if more else "treatment", split=split))
    design = pd.concat(tables, ignore_index=True)
    design["cell_type"] = design["experiment"].str.rsplit("-", n=1).str[0]
    design[["plate", "sirna"]] = design[["plate", "sirna"]].astype(int)
    columns = ["experiment", "cell_type", "plate", "well", "sirna", "well_type", "split"]
    return design[columns].sort_values(["experiment", "plate", "well"], ignore_index=True)


class RedealtImagesDataset(ReadOnlyDataset[RedealtImages]):
    """The held-out plates of a simulated screen with their treatments dealt anew; no plates for any other screen.

    Nothing is stored: the folder of the screen says how it was simulated, and its plates are rendered when read.

    Catalog::

        redealt_images:
          type: deepnoise.datasets.simulated.RedealtImagesDataset
          root: data/01_raw/demo

    Args:
        root: Folder of the raw screen.
        metadata: For kedro-viz.
    """

    read_only = "the re-dealt plates are derived from the simulated screen and never written"

    def __init__(self, *, root: str, metadata: dict[str, Any] | None = None) -> None:
        self._root = Path(root)
        self.metadata = metadata

    def load(self) -> RedealtImages:
        return self._redealt()

    def _redealt(self) -> RedealtImages:
        path = self._root / COMPLETION_FILE
        record = read_json(path) if path.is_file() else {}
        if not record.get("complete") or "simulation" not in record:
            return RedealtImages(pd.DataFrame(), None)
        try:
            rendering = recorded_rendering(record["simulation"])
        except ValueError as error:
            raise InputError(
                f"{path} does not say how the screen was simulated ({error}); run simulation again"
            ) from error
        return deal_heldout(read_design(self._root), rendering)

    def _describe(self) -> dict[str, Any]:
        return {"root": str(self._root)}


class RedealtLabelsDataset(RedealtImagesDataset):  # shares the reading of the screen
    """The labels of the re-dealt plates: ``id_code`` and ``perturbation``; no rows for any other screen. Read by evaluation alone.

    Catalog::

        redealt_labels:
          type: deepnoise.datasets.simulated.RedealtLabelsDataset
          root: data/01_raw/demo
    """

    def load(self) -> pd.DataFrame:  # type: ignore[override]
        return self._redealt().labels()
