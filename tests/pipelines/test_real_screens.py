"""The real data, read in place, through the commands of the README; skipped where it is absent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from kedro.io import DatasetError
from PIL import Image

from deepnoise.datasets.external_profiles import ExternalProfileWellsDataset
from deepnoise.datasets.external_scores import ExternalScoresDataset
from deepnoise.datasets.rxrx1 import RxRx1WellsDataset
from deepnoise.ingestion.layouts import discover_groups, layouts_in_use
from deepnoise.plate_balancing.balancing import DesignKnowledge, balance
from deepnoise.plate_balancing.scores import pool_scores
from tests.conftest import kedro, latest, refused
from tests.plate_balancing.helpers import PARAMETERS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rxrx1(shared, tmp_path_factory):
    """The real tables, and the real images of B02 on 16 plates."""
    raw = tmp_path_factory.mktemp("rxrx1")
    for name in ("train", "test", "train_controls", "test_controls"):
        (raw / f"{name}.csv").symlink_to(shared / "rxrx1_metadata" / f"{name}.csv")
    (raw / "train").symlink_to(shared / "rxrx1_images" / "train")
    (raw / "test").mkdir()
    data = tmp_path_factory.mktemp("data")
    params = f"raw_root={raw},data_root={data}"
    output = kedro("run", "--env", "rxrx1", "--pipelines", "ingestion,normalization", "--params", params)
    return raw, data, params, output


def test_rxrx1_is_ingested_and_its_missing_images_are_reported(rxrx1):
    _, data, _, output = rxrx1
    assert "36,515 labelled, 19,897 held-out and 6,343 control wells on 204 plates" in output
    report = json.loads(latest(data, "ingestion_report.json").read_text())
    assert (
        report["store"]["sites"] == 16
        and report["store"]["dtype"] == "uint8"
        and report["store"]["image_size"] == [512, 512]
    )
    findings = pd.read_parquet(latest(data, "ingestion_findings.parquet"))
    missing = findings[findings["finding"] == "missing_image"]
    assert len(missing) == 32 and set(missing["channel"]) == {"mito", "golgi"} and set(missing["site"]) == {2}
    assert "train/HUVEC-01/Plate3/B02_s2_w6.png" in set(missing["file"])
    assert report["findings"]["metadata_without_images"]["count"] == 62_739
    qc = pd.read_parquet(latest(data, "plate_qc.parquet"))
    assert len(qc) == 16 * 6 and qc["focus"].between(-8, -1).all() and (qc["objects"] > 0).all()
    audit = json.loads(latest(data, "design_audit.json").read_text())
    assert audit["duplicate_layouts"] == [{"experiments": ["HUVEC-07", "RPE-03"], "wells": 1107}]
    third = [pair for pair in audit["duplicate_layouts_by_controls"] if "HUVEC-18" in pair["experiments"]]
    assert len(audit["duplicate_layouts_by_controls"]) == 3 and [pair["wells"] for pair in third] == [119, 119]
    assert audit["plate_groups"] == [277] * 4 and max(audit["layouts_in_use"].values()) == 22
    assert audit["class_from_well_position"]["accuracy"] < 0.002
    assert 0.003 < audit["class_from_group_and_position"]["accuracy"] < 0.01
    assert audit["confounding"]["well"]["cramers_v"] < 0.1 and audit["confounding"]["plate"]["cramers_v"] > 0.5
    assert audit["confounding"]["experiment"]["cramers_v"] == 0
    uses = {well_type: audit["controls"][well_type]["uses"] for well_type in ("negative_control", "positive_control")}
    assert uses["negative_control"]["normalization reference"] == "weak: as few as 1 per plate"
    assert uses["positive_control"]["spread within a plate (Z', SSMD)"] == "yes"
    assert audit["negative_control"] == {
        "well": "B02",
        "plates_with_it_there": 204,
        "plates_with_more": 32,
        "plates": 204,
    }
    folds = pd.read_parquet(latest(data, "folds.parquet")).drop_duplicates("experiment").set_index("experiment")["role"]
    assert folds["HUVEC-07"] == folds["RPE-03"] and folds.value_counts()["heldout"] == 18


def test_normalized_rxrx1_images_agree_with_a_direct_computation(rxrx1):
    raw, data, _, _ = rxrx1
    statistics = pd.read_parquet(latest(data, "plate_statistics.parquet")).set_index(["experiment", "plate", "channel"])
    for experiment in ("HEPG2-01", "U2OS-01"):
        for c, channel in enumerate(("nucleus", "er", "actin", "rna", "mito", "golgi"), start=1):
            file = raw / "train" / experiment / "Plate2" / f"B02_s1_w{c}.png"
            image = np.asarray(Image.open(file)).astype(np.float64)
            plate_row = statistics.loc[(experiment, "2", channel)]
            assert plate_row["mean"] == pytest.approx(image.mean(), rel=1e-6) and plate_row["std"] == pytest.approx(
                image.std(), rel=1e-6
            )
            normalized = (image - plate_row["mean"]) / plate_row["std"]
            assert abs(normalized.mean()) < 1e-6 and abs(normalized.std() - 1) < 1e-6


def test_missing_rxrx1_images_stop_ingestion_where_the_policy_is_error(rxrx1):
    params = rxrx1[2] + ",ingestion.findings.missing_image=error"
    output = refused("run", "--env", "rxrx1", "--pipelines", "ingestion", "--params", params)
    assert "missing_image: HEPG2-01/1/B02 site 2 mito train/HEPG2-01/Plate1/B02_s2_w5.png: no such file" in output
    assert "(and 29 more)" in output and "set ingestion.findings.missing_image to exclude" in output


def test_bbbc021_cells_pass_the_same_pipelines(shared, tmp_path):
    params = f"raw_root={shared / 'bbbc021_cells'},data_root={tmp_path},training.pretrain.epochs=1,training.mean_teacher.epochs=1"
    output = kedro("run", "--env", "bbbc021", "--pipelines", "__default__", "--params", params)
    scores = json.loads(latest(tmp_path, "scores.json").read_text())
    assert (
        scores["unit"] == "site"
        and scores["classes"] == 3
        and scores["heldout"]["site"]["tier"] == "T1c"
        and scores["heldout"]["site"]["n"] == 960
    )
    assert 0.5 < scores["baseline"]["macro_recall"] < 0.75  # the range of hand features in the source of the data
    assert [p["of"] for p in scores["pairs"]] == ["model", "baseline"] and scores["pairs"][0]["n"] == 640
    for note in (
        "class and well position are confounded",
        "portability check only: 4 plates",
        "T1c: the identity of the control wells",
        "points and exact sign-flip p, no intervals",
    ):
        assert note in output
    folds = pd.read_parquet(latest(tmp_path, "folds.parquet"))
    assert (
        folds[folds["role"] == "heldout"].groupby("fold").size().tolist() == [1, 1] and (folds["unit"] == "plate").all()
    )


def external(shared, tmp_path, scores: Path, tier: str = "unknown") -> dict:
    params = f"raw_root={shared / 'rxrx1_metadata'},data_root={tmp_path},scores={scores},scores_tier={tier}"
    kedro("run", "--env", "external_scores", "--pipelines", "plate_balancing,evaluation", "--params", params)
    return json.loads(latest(tmp_path, "scores.json").read_text())


def votes(shared, folder: Path, keep) -> Path:
    folder.mkdir()
    for file in (shared / "rcic_model_outputs" / "submissions").iterdir():
        if keep(file.name):
            (folder / file.name).symlink_to(file)
    return folder


BROKEN = "se_xresnet152fh"  # the one submission that is no better than chance


def test_a_vote_of_submissions_decides_the_groups_and_improves_with_each_step(shared, tmp_path):
    six = votes(shared, tmp_path / "votes", lambda name: BROKEN not in name and "_ct_pg_" not in name)
    assert len(list(six.iterdir())) == 6
    scores = external(shared, tmp_path / "data", six)
    assert scores["plate_groups"] == {"plates": 72, "decided": 68, "checked": 16, "right": 16, "checkable": 16}
    steps = {step["step"]: step for step in scores["steps"]}
    assert {step["tier"] for name, step in steps.items() if name != "plain"} == {"T2+unknown"}
    # at least the accuracy of a simple implementation; matching is above both assignment and Sinkhorn
    for name, least in (("plain", 0.319), ("group_filter", 0.394), ("assignment", 0.412), ("sinkhorn", 0.428)):
        assert steps[name]["top1"] >= least
    assert steps["matching"]["top1"] > max(0.428, steps["assignment"]["top1"], steps["sinkhorn"]["top1"])


def test_balancing_of_neighbours_votes_hard_calls_and_a_broken_model(shared, tmp_path):
    """Calls the library directly, which saves the evaluation of four runs."""
    wells = RxRx1WellsDataset(root=str(shared / "rxrx1_metadata")).load()
    truth = pd.read_csv(shared / "rxrx1_metadata" / "test_labels.csv", dtype="str").set_index("id_code")["sirna"]
    layout = discover_groups(wells)
    knowledge = DesignKnowledge(
        layout, layouts_in_use(wells, layout), cell_type=wells.set_index("id_code")["cell_type"]
    )
    parameters = PARAMETERS.model_copy(update={"compare": ["sinkhorn", "assignment"]})

    def balanced(path: Path):
        scores = ExternalScoresDataset(filepath=str(path)).load()
        result = balance(pool_scores(scores, wells), knowledge, parameters)
        labelled = result.steps[result.steps["id_code"].isin(truth.index)]
        correct = labelled["call"] == labelled["id_code"].map(truth)
        return correct.groupby(labelled["step"]).mean(), result.groups

    submissions = shared / "rcic_model_outputs" / "submissions"
    twelve, groups = balanced(votes(shared, tmp_path / "votes", lambda name: BROKEN not in name))
    assert twelve["plain"] < twelve["group_filter"] < min(twelve["assignment"], twelve["sinkhorn"])
    assert twelve["matching"] > max(0.599, twelve["assignment"], twelve["sinkhorn"]) and groups["decided"].all()
    # their author has already restricted them to the plate's group, so the filter changes nothing
    neighbours, groups = balanced(shared / "rcic_model_outputs" / "site_neighbours.csv.gz")
    assert neighbours["plain"] == pytest.approx(0.489, abs=0.004) and groups["decided"].all()
    assert neighbours["group_filter"] == pytest.approx(neighbours["plain"], abs=0.002)
    assert neighbours["plain"] < neighbours["assignment"] < neighbours["sinkhorn"] < neighbours["matching"]
    assert neighbours["matching"] > 0.52
    hard, _ = balanced(next(submissions.glob("*_class.csv.gz")))
    assert hard["matching"] > hard["plain"] - 0.005 and hard["assignment"] < hard["plain"] - 0.01
    broken, groups = balanced(next(submissions.glob(f"{BROKEN}*")))
    assert not groups["decided"].any() and broken.max() < 0.01


def profiles(path, data):
    given = f"profiles={path},data_root={data}"
    return ["run", "--env", "external_profiles", "--pipelines", "evaluation", "--params", given]


def test_real_positive_controls_of_jump_give_no_false_alarm(shared, tmp_path):
    """A leave-batch-out classifier finds every plate map right (SOURCE.md); eight controls stand in the same wells everywhere."""
    output = kedro(*profiles(shared / "profiles/jump_source3_poscon/derived/profiles.parquet", tmp_path))
    assert "suspect wells: 0 flagged" in output and "Warning" not in output
    probes = pd.read_parquet(latest(tmp_path, "leak_probes.parquet")).set_index("axis")
    assert probes.loc["experiment", "verdict"] == "leak" and 0.82 < probes.loc["experiment", "balanced_accuracy"] < 0.85
    for axis in ("well_row", "well_column"):
        assert probes.loc[axis, "verdict"] == "not asked" and probes.loc[axis, "reason"].startswith("cannot be tested")


def test_a_real_table_with_two_plate_maps_in_each_well_is_told_in_one_line(shared, tmp_path):
    folder = shared / "profiles/varchamp_alleles/two_maps_a_well"
    path = next(p for p in folder.iterdir() if p.name.endswith((".csv", ".csv.gz", ".parquet")))
    columns = pd.read_parquet(path).columns if path.suffix == ".parquet" else pd.read_csv(path, nrows=1).columns
    allele = next(c for c in columns if c.startswith("Metadata_") and "allele" in c.lower())
    entry = ExternalProfileWellsDataset(
        filepath=str(path),
        columns={
            "experiment": "B",
            "plate": "{Metadata_Plate}",
            "well": "{Metadata_Well}",
            "perturbation": f"{{{allele}}}",
        },
    )
    with pytest.raises(
        DatasetError, match=r"\d+ of 384 wells have several values of perturbation.*Were two plate maps joined"
    ):
        entry.load()
