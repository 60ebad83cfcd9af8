"""Fixtures shared by all tests: a small simulated screen, its folds, the base parameters, and the real data where available."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

os.environ.setdefault("DO_NOT_TRACK", "1")
PROJECT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("DEEPNOISE_SHARED", PROJECT.parent / "shared" / "data"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest file first, so that parallel workers end together."""
    items.sort(key=lambda item: item.path.name != "test_run.py")


def kedro(*arguments: str) -> str:
    """Output of a ``kedro`` command, run as a user would type it; it must succeed."""
    process = subprocess.run(
        [sys.executable, "-m", "kedro", *arguments], cwd=PROJECT, capture_output=True, text=True,
        env=os.environ | {"DO_NOT_TRACK": "1", "COLUMNS": "200"},
    )  # fmt: skip
    text = process.stdout + process.stderr
    assert process.returncode == 0, text
    assert "Traceback" not in text, text
    return text


def refused(*arguments: str) -> str:
    """Output of a ``kedro`` command that must end in one clear error; run in this process, which is faster."""
    from click.testing import CliRunner
    from kedro.framework.startup import bootstrap_project

    bootstrap_project(PROJECT)
    from deepnoise.cli import cli

    with contextlib.chdir(PROJECT):
        result = CliRunner().invoke(cli, list(arguments), env={"COLUMNS": "200"})
    assert result.exit_code != 0 and isinstance(result.exception, SystemExit), (result.output, result.exception)
    assert "Error: " in result.output and "Traceback" not in result.output, result.output
    return result.output


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of the real data; without it the test is skipped."""
    if not SHARED.is_dir():
        pytest.skip(f"real data not found at {SHARED}; set DEEPNOISE_SHARED to its folder")
    return SHARED


DESIGN = dict(
    treatments=8, positive_controls=2, negative_wells=2, cell_types=2, labelled_experiments=3, heldout_experiments=1,
    plates=4, missing_wells=0.0, duplicate_layout=False, seed=3,
)  # fmt: skip


@pytest.fixture(scope="session")
def design() -> pd.DataFrame:
    from deepnoise.simulation.design import design_screen

    return design_screen(**DESIGN)


@pytest.fixture(scope="session")
def wells(design: pd.DataFrame) -> pd.DataFrame:
    """The table ``wells`` of the small screen."""
    from deepnoise.ingestion.validation import validate_wells

    raw = design.rename(columns={"sirna": "perturbation"}).assign(
        plate=design["plate"].astype(str),
        perturbation=design["sirna"].astype(str),
        split=design["split"].map({"train": "labelled", "test": "heldout"}),
        source="design",
    )
    hidden = (raw["split"] == "heldout") & (raw["well_type"] == "treatment")
    raw.loc[hidden, "perturbation"] = None
    return validate_wells(raw, ["treatment"])[0]


@pytest.fixture(scope="session")
def folds(wells: pd.DataFrame) -> pd.DataFrame:
    """The table ``folds`` of the small screen: fold 0 of three, with validation plates."""
    from deepnoise.ingestion.folds import make_folds

    return make_folds(wells, [], 3, [0], True)


@pytest.fixture
def parameters() -> dict[str, Any]:
    """The parameters of conf/base, as Kedro merges them."""
    merged: dict[str, Any] = {}
    for file in (PROJECT / "conf" / "base").glob("parameters*.yml"):
        merged |= yaml.safe_load(file.read_text())
    return merged


def latest(root: Path, entry: str) -> Path:
    """The newest version of an entry of the only screen below a data folder."""
    return sorted(root.glob(f"0*/*/{entry}/*/{entry}"))[-1]


class MemoryStore:
    """Images in memory with the interface of an image store; counts the images that are read."""

    def __init__(self, images: dict[tuple[str, str], np.ndarray], channels: list[str]) -> None:
        self.images, self.channels, self.reads = images, channels, 0
        self.shape = next(iter(images.values())).shape[1:]

    def read(self, experiment: str, plate: str, store_rows: np.ndarray | None = None) -> np.ndarray:
        array = self.images[(experiment, plate)]
        rows = np.arange(len(array)) if store_rows is None else store_rows
        self.reads += len(rows)
        return array[rows]

    def checksum(self, experiment: str, plate: str) -> str:
        return str(zlib.crc32(self.images[(experiment, plate)].tobytes()))


@pytest.fixture(scope="session")
def screen(design, wells):
    """The small screen: 24 px, one site per well; without folds."""
    from deepnoise.normalization.statistics import add_histograms, histogram_table, histograms, plate_statistics
    from deepnoise.simulation.cells import CHANNELS
    from deepnoise.simulation.noise import NoiseLevels
    from deepnoise.simulation.screen import render_screen

    plates = render_screen(
        design, effect_strength=2.0, traits_changed=4, sites=1, image_size=24, noise=NoiseLevels(), seed=3
    )
    images, rows, histogram_tables = {}, [], []
    for plate in plates:
        key = (plate.experiment, str(plate.plate))
        images[key] = plate.tiles[:, 0]
        table = pd.DataFrame({"experiment": key[0], "plate": key[1], "well": plate.wells, "site": 1})
        table["id_code"] = key[0] + "_" + key[1] + "_" + table["well"]
        table["store_row"] = np.arange(len(table))
        rows.append(table)
        well_rows = wells.set_index("id_code").loc[table["id_code"]]
        total: dict[str, np.ndarray] = {}
        add_histograms(total, histograms(images[key]), well_rows["well_type"].to_numpy())
        plate_key = {"experiment": key[0], "plate": key[1], "cell_type": well_rows["cell_type"].iloc[0]}
        histogram_tables.append(histogram_table(total, plate_key, list(CHANNELS)))
    sites = pd.concat(rows, ignore_index=True)[["id_code", "experiment", "plate", "well", "site", "store_row"]]
    levels = pd.concat(histogram_tables, ignore_index=True)
    return MemoryStore(images, list(CHANNELS)), sites, plate_statistics(levels, wells, "plate", "all")


@pytest.fixture(scope="session")
def raw(design, tmp_path_factory):
    """The small screen in the file layout of RxRx1: 6 plates, 2 sites per well, 24 px."""
    from kedro.io import DatasetError

    from deepnoise.datasets.simulated import SimulatedImagesDataset, SimulatedTablesDataset
    from deepnoise.simulation.noise import NoiseLevels
    from deepnoise.simulation.screen import render_screen

    root = tmp_path_factory.mktemp("raw") / "screen"
    small = design[design["experiment"].isin(["ALPHA-01", "ALPHA-04", "BETA-02"]) & (design["plate"] <= 2)]
    SimulatedTablesDataset(root=str(root)).save(small)
    images = SimulatedImagesDataset(root=str(root))
    assert not images._exists()
    with pytest.raises(DatasetError, match="absent or incomplete"):
        images.load()
    for plate in render_screen(
        small, effect_strength=1.0, traits_changed=3, sites=2, image_size=24, noise=NoiseLevels(), seed=1
    ):
        images.save(plate)
    images.save({"seed": 1})
    return root, small
