"""The published protocols of RxRx1, one environment each, on simulated screens arranged like the real files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from deepnoise.simulation.design import design_screen
from deepnoise.simulation.noise import NoiseLevels
from deepnoise.simulation.screen import render_screen
from tests.conftest import kedro, latest

pytestmark = pytest.mark.slow

# four experiments per cell type: two for training, one validation and one test experiment of WILDS
NAMES = {
    "ALPHA": ["HEPG2-01", "HEPG2-02", "HEPG2-08", "HEPG2-09"],
    "BETA": ["HUVEC-01", "HUVEC-02", "HUVEC-17", "HUVEC-18"],
    "GAMMA": ["RPE-01", "RPE-02", "RPE-08", "RPE-09"],
    "DELTA": ["U2OS-01", "U2OS-02", "U2OS-04", "U2OS-05"],
}
SHORT = "training.backbone=test_resnet,training.pretrain.epochs=1,training.batch_size=16,training.pretrain.learning_rate=0.003"


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> tuple[Path, Path]:
    """A small screen in the form of the public release (six files per site) and in that of WILDS (one image of three channels)."""
    design = design_screen(
        treatments=8, positive_controls=1, negative_wells=1, cell_types=4, labelled_experiments=4, heldout_experiments=0, plates=4,
        missing_wells=0.0, duplicate_layout=False, seed=5,
    )  # fmt: skip
    roots = tmp_path_factory.mktemp("release"), tmp_path_factory.mktemp("wilds")
    plates = render_screen(
        design, effect_strength=2.0, traits_changed=4, sites=2, image_size=24, noise=NoiseLevels(), seed=5
    )
    sirna = design.set_index(["experiment", "plate", "well"])[["sirna", "well_type"]]
    rows = []
    for plate in plates:
        cell_type, number = plate.experiment.split("-")
        experiment = NAMES[cell_type][int(number) - 1]
        folders = [root / "images" / experiment / f"Plate{plate.plate}" for root in roots]
        for folder in folders:
            folder.mkdir(parents=True)
        for well, sites in zip(plate.wells, plate.tiles, strict=True):
            code, well_type = sirna.loc[(plate.experiment, plate.plate, well)]
            for site, tile in enumerate(sites, start=1):
                for channel, image in enumerate(tile, start=1):
                    Image.fromarray(image).save(folders[0] / f"{well}_s{site}_w{channel}.png")
                Image.fromarray(np.moveaxis(tile[:3], 0, -1)).save(folders[1] / f"{well}_s{site}.png")
                rows.append((experiment, cell_type, plate.plate, well, site, well_type, code, int(number)))
    table = pd.DataFrame(
        rows, columns=["experiment", "simulated_cell_type", "plate", "well", "site", "well_type", "sirna_id", "number"]
    )
    table["cell_type"] = table["experiment"].str.split("-").str[0]
    table["well_id"] = table["experiment"] + "_" + table["plate"].astype(str) + "_" + table["well"]
    table["site_id"] = table["well_id"] + "_" + table["site"].astype(str)
    table["sirna"] = "s" + table["sirna_id"].astype(str)
    columns = [
        "site_id",
        "well_id",
        "cell_type",
        "dataset",
        "experiment",
        "plate",
        "well",
        "site",
        "well_type",
        "sirna",
        "sirna_id",
    ]
    both = (
        table["number"].map({1: "train", 2: "train", 3: "test", 4: "test"}),
        table["number"].map({1: "train", 2: "train", 3: "val", 4: "test"}),
    )
    for root, dataset in zip(roots, both, strict=True):
        table.assign(dataset=dataset)[columns].to_csv(root / "metadata.csv", index=False)
    return roots


def run(env: str, root: Path, data: Path) -> tuple[dict, pd.DataFrame, pd.DataFrame, str]:
    output = kedro(
        "run",
        "--env",
        env,
        "--pipelines",
        "__default__",
        "--params",
        f"raw_root={root},data_root={data},evaluation.permutations=5,{SHORT}",
    )
    return (
        json.loads(latest(data, "scores.json").read_text()),
        pd.read_parquet(latest(data, "folds.parquet")),
        pd.read_parquet(latest(data, "site_logits.parquet")),
        output,
    )


def test_the_batch_separated_protocol_holds_out_whole_experiments(release, tmp_path):
    scores, folds, _, _ = run("rxrx1_separated", release[0], tmp_path)
    roles = folds.groupby("experiment")["role"].agg(lambda r: "+".join(sorted(set(r))))
    assert set(roles[[n for names in NAMES.values() for n in names[:2]]]) == {"train"}
    assert set(roles[[n for names in NAMES.values() for n in names[2:]]]) == {"heldout"}
    score = scores["heldout"]["well"]
    assert score["n"] == 8 * 8 and score["experiments"] == 8 and score["interval"] and scores["steps"][1:] == []
    assert score["tier"] == "T1"  # AdaBN
    assert set(score["by_cell_type"]) == {"HEPG2", "HUVEC", "RPE", "U2OS"}


def test_the_batch_stratified_protocol_holds_out_one_plate_per_experiment(release, tmp_path):
    scores, folds, _, _ = run("rxrx1_stratified", release[0], tmp_path)
    assert set(folds.groupby("experiment")["role"].agg(lambda r: "+".join(sorted(r)))) == {"heldout+train+train+train"}
    assert scores["heldout"]["well"]["experiments"] == 16 and scores["heldout"]["well"]["n"] == 16 * 2


def test_the_wilds_protocol_scores_single_sites_and_a_second_site_of_training_wells(release, tmp_path):
    scores, folds, logits, output = run("rxrx1_wilds", release[1], tmp_path)
    roles = folds.groupby("role")["experiment"].agg(lambda e: sorted(set(e)))
    assert roles["validation"] == ["HEPG2-08", "HUVEC-17", "RPE-08", "U2OS-04"]
    assert roles["heldout"] == ["HEPG2-09", "HUVEC-18", "RPE-09", "U2OS-05"]
    assert scores["unit"] == "site" and scores["classes"] == 10  # controls are classes
    wells = 4 * 4  # of one experiment
    assert scores["heldout"]["site"]["n"] == 4 * wells * 2 and scores["headline"]["unit"] == "site"
    assert scores["heldout"]["site"]["tier"] == "T0"
    assert scores["seen"]["n"] == 8 * wells  # id_test: only site 2 of all training experiments
    assert set(logits.loc[logits["role"] == "train", "site"]) == {2} and set(
        logits.loc[logits["role"] == "heldout", "site"]
    ) == {1, 2}
    assert "model, plates seen in training" in output
