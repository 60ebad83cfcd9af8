"""Real screens and real users through the command line: exit code, the one line, and what had been computed is still there.

One case for each kind of fault of docs/robustness.md.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from deepnoise.cli import in_project_root
from tests.conftest import PROJECT, kedro, latest, refused

RNG = np.random.default_rng(0)
CHANNELS = ("dna", "actin")


class LabScreen:
    """A screen of 2 plates x 4 wells x 2 sites as a lab has it: a csv and one tif per channel; environment long_table."""

    def __init__(self, root: Path) -> None:
        self.root, self.data = root / "raw", root / "data"
        self.root.mkdir()
        rows = []
        for plate in ("010", "011"):
            for well, name in (("A01", "DMSO"), ("A02", "taxol"), ("B01", "NA"), ("B02", "none")):
                for site in (1, 2):
                    files = [f"{plate}_{well}_{site}_{channel}.tif" for channel in CHANNELS]
                    for file in files:
                        tifffile.imwrite(self.root / file, RNG.integers(0, 4000, (8, 8)).astype(np.uint16))
                    rows.append((f"2016_05_0{plate[-1]}", plate, well, site, "U2OS", name, "negcon" if name == "DMSO" else "", *files))  # fmt: skip
        columns = [
            "experiment",
            "plate",
            "well",
            "site",
            "cell_type",
            "perturbation",
            "control_type",
            "file_dna",
            "file_actin",
        ]
        self.table = pd.DataFrame(rows, columns=columns)
        self.write(self.table)

    def write(self, table: pd.DataFrame, text: str | None = None) -> None:
        table.to_csv(self.root / "images.csv", index=False)
        if text is not None:
            (self.root / "images.csv").write_text(text)

    def arguments(self, params: str = "") -> list[str]:
        # two experiments are too few for five folds
        given = f"raw_root={self.root},data_root={self.data},ingestion.folds.n_folds=2,ingestion.folds.validation=false"
        return [
            "run",
            "--env",
            "long_table",
            "--pipelines",
            "ingestion",
            "--params",
            ",".join(filter(None, [given, params])),
        ]

    def ingest(self, params: str = "") -> str:
        return kedro(*self.arguments(params))

    def refused(self, params: str = "") -> str:
        return refused(*self.arguments(params))

    def findings(self) -> pd.DataFrame:
        return pd.read_parquet(latest(self.data, "ingestion_findings.parquet"))

    def files(self) -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in self.data.rglob("*") if p.is_file()}


@pytest.fixture
def lab(tmp_path) -> LabScreen:
    return LabScreen(tmp_path)


@pytest.fixture(scope="module")
def ingested(tmp_path_factory) -> LabScreen:
    screen = LabScreen(tmp_path_factory.mktemp("lab"))
    screen.output = screen.ingest()
    return screen


def test_names_that_look_like_nothing_or_like_numbers_are_names(ingested):
    wells = pd.read_parquet(latest(ingested.data, "wells.parquet"))
    assert set(wells["perturbation"]) == {"DMSO", "taxol", "NA", "none"} and set(wells["plate"]) == {"010", "011"}
    assert ingested.findings().empty


def palette(screen):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).convert("P").save(screen.root / "p.png")
    screen.write(screen.table.replace("010_A01_1_dna.tif", "p.png"))


def z_planes(screen):
    stack = np.ones((3, 8, 8), np.uint16)
    tifffile.imwrite(screen.root / "010_A01_1_dna.tif", stack, imagej=True, metadata={"axes": "ZYX"})


def same_file(screen):
    screen.write(screen.table.assign(file_actin=screen.table["file_dna"]))


def windows(screen):
    screen.write(screen.table.assign(file_dna="D:\\export\\" + screen.table["file_dna"]))


def repeated_header(screen):
    text = (screen.root / "images.csv").read_text()
    screen.write(screen.table, text + text)


def two_maps(screen):
    screen.write(pd.concat([screen.table, screen.table.assign(perturbation="other", control_type="")]))


def disagreeing_controls(screen):
    table = screen.table.copy()
    table.loc[0, "control_type"] = "poscon"
    screen.write(table)


def unknown_plate(screen):
    path = screen.data / "01_raw/excluded_wells/long_table.csv"
    path.parent.mkdir(parents=True)
    path.write_text("experiment,plate,well,site,reason\n2016_05_00,10,,,out of focus\n")


def unknown_site(screen):
    unknown_plate(screen)
    path = screen.data / "01_raw/excluded_wells/long_table.csv"
    path.write_text("experiment,plate,well,site,reason\n2016_05_00,010,A01,0,out of focus\n")


def one_id_code(screen):
    table = screen.table.copy()
    table["experiment"], table["plate"] = "2016_04", "01_1"
    other = table.assign(experiment="2016_04_01", plate="1")
    screen.write(pd.concat([table[:8], other[:8]]))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (palette, "wrong_dtype: 2016_05_00/010/A01 site 1 .*p.png: has a palette"),
        (z_planes, "wrong_shape: 2016_05_00/010/A01 site 1 .*010_A01_1_dna.tif: has 3 z planes, expected one; add 'z: max'"),
        (same_file, "images.csv line 2: channels DNA and actin name the same file, 010_A01_1_dna.tif"),
        (windows, "no complete image was found for any of the 8 wells .*no such file: D:/export/010_A01_1_dna.tif"),
        (repeated_header, "images.csv: line 18 repeats the header; if two files were joined, remove that line"),
        (two_maps, "8 of 8 wells have several values of perturbation, first 2016_05_00/010/A01: 'DMSO' .images.csv line 2. and 'other'"),
        (disagreeing_controls, "1 of 8 wells have several values of well_type, first 2016_05_00/010/A01: 'positive_control'"),
        (unknown_plate, "long_table.csv line 2: '10' is no plate of experiment 2016_05_00; there is 010. Did you mean '010'"),
        (unknown_site, "excluded_wells: 2016_05_00/010/A01 has no site 0; the sites of this screen are 1, 2"),
        (one_id_code, "wells 2016_04/01_1/A01 and 2016_04_01/1/A01 have the same id_code '2016_04_01_1_A01'"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_what_would_be_misread_is_refused_in_one_line_and_nothing_is_lost(ingested, tmp_path, break_it, message):
    import re

    shutil.copytree(ingested.root.parent, tmp_path, dirs_exist_ok=True)
    screen = LabScreen.__new__(LabScreen)
    screen.root, screen.data, screen.table = tmp_path / "raw", tmp_path / "data", ingested.table.copy()
    break_it(screen)
    before = {
        path: content
        for path, content in screen.files().items()
        if not {"image_store", "run_record.json"} & set(path.parts)
    }
    output = screen.refused()
    (line,) = [line for line in output.splitlines() if line.startswith("Error: ")]
    assert re.search(message, line), line
    after = screen.files()
    assert all(after[path] == content for path, content in before.items())  # of all versions that were there
    assert not [path for path in after if path.name.endswith((".part", "store.lock", ".holder"))]


def test_a_plate_that_is_excluded_or_lost_is_a_row_of_the_audit(lab):
    more = [lab.table.assign(plate="012", experiment=e) for e in ("2016_05_00", "2016_05_01")]
    lab.write(pd.concat([lab.table, *(m[:8] for m in more)]))
    excluded = lab.data / "01_raw/excluded_wells/long_table.csv"
    excluded.parent.mkdir(parents=True)
    excluded.write_text("experiment,plate,well,site,reason\n2016_05_00,012,,,out of focus\n")
    lab.ingest()
    audit = json.loads(latest(lab.data, "design_audit.json").read_text())
    assert audit["layouts_in_use"] is not None
    findings = lab.findings()
    assert (findings["finding"] == "excluded").sum() == 4


def test_empty_cells_and_names_in_other_spelling_are_findings(lab):
    table = lab.table.copy()
    table.loc[0, "file_dna"] = ""
    table.loc[table["plate"] == "011", "perturbation"] = table["perturbation"].replace("taxol", "Taxol ")
    lab.write(table)
    with (lab.root / "images.csv").open("a") as file:
        file.write(",,,,,,,,\n,,,,,,,,\n")
    output = lab.ingest()
    findings = lab.findings()
    assert "images.csv: 2 empty lines are skipped" in output
    missing = findings[findings["finding"] == "missing_image"].iloc[0]
    assert missing["detail"] == "the table names no file" and missing["channel"] == "DNA"
    similar = findings[findings["finding"] == "similar_names"].iloc[0]
    assert "perturbation 'Taxol' (1 wells) and 'taxol' (1 wells) are different names" in similar["detail"]


def test_a_chunk_that_is_gone_is_an_error_of_the_reader_and_repaired_by_ingestion(lab):
    lab.ingest()
    store = latest(lab.data, "wells.parquet").parents[2] / "image_store"
    (store / "2016_05_00__010" / "c" / "3" / "0" / "0" / "0").unlink()
    read = [argument if argument != "ingestion" else "normalization" for argument in lab.arguments()]
    line = "the image of plate 2016_05_00/010 well A02 site 2 is missing; run ingestion, which packs the plate again"
    assert line in refused(*read)
    assert (
        "plate 2016_05_00/010 is packed again, because 1 of its images are missing or damaged: A02 site 2"
        in lab.ingest()
    )
    kedro(*read)


def test_a_run_from_a_folder_below_reads_and_writes_the_same_data(lab):
    here = lab.root.parent
    relative = os.path.relpath(lab.root, PROJECT / "docs"), os.path.relpath(lab.data, PROJECT / "docs")
    arguments = lab.arguments()
    params = (
        f"raw_root={relative[0]},data_root={relative[1]},ingestion.folds.n_folds=2,ingestion.folds.validation=false"
    )
    arguments[-1] = params
    process = subprocess.run(
        [sys.executable, "-m", "kedro", *arguments], cwd=PROJECT / "docs", capture_output=True, text=True
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert (
        latest(lab.data, "wells.parquet").is_file() and (lab.data / "02_intermediate/long_table/image_store").is_dir()
    )
    assert not (PROJECT / "docs" / "data").exists() and sorted(p.name for p in here.iterdir()) == ["data", "raw"]


def test_paths_of_conf_are_of_the_project_and_those_of_the_command_line_of_the_current_folder(monkeypatch):
    given = {
        "raw_root": "raw", "data_root": "/abs/data", "scores": "s3://bucket/scores.csv", "study_url": "sqlite:///s.db",
        "training": {"pretrained_weights": "w.safetensors", "seed": 2},
    }  # fmt: skip
    monkeypatch.chdir(PROJECT)
    assert in_project_root(given) == given and Path.cwd() == PROJECT
    monkeypatch.chdir(PROJECT / "docs")
    here = PROJECT / "docs"
    assert in_project_root(given) == {
        "raw_root": str(here / "raw"), "data_root": "/abs/data", "scores": "s3://bucket/scores.csv",
        "study_url": f"sqlite:///{here / 's.db'}", "training": {"pretrained_weights": str(here / "w.safetensors"), "seed": 2},
    }  # fmt: skip
    assert Path.cwd() == PROJECT  # to which the relative paths of conf belong
    monkeypatch.chdir(PROJECT / "docs")
    timm = {"training": {"pretrained_weights": "timm"}}
    assert in_project_root(timm) == timm


HOLD = """
import sys, time
from deepnoise.datasets.locks import Lock
lock = Lock(sys.argv[1])
lock.acquire("image_store")
print("held", flush=True)
time.sleep(600)
"""


def test_the_second_run_that_would_write_an_entry_is_told_and_a_kill_leaves_no_lock(lab):
    store = lab.data / "02_intermediate/long_table/image_store"
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(store)], stdout=subprocess.PIPE, text=True, cwd=PROJECT)
    try:
        assert first.stdout.readline() == "held\n"
        output = lab.refused()
        assert f"the entry image_store ({store}) is being written by process {first.pid} on " in output
        assert not (lab.data / "02_intermediate/long_table/wells.parquet").exists()
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    time.sleep(0.1)
    lab.ingest()


def test_a_version_of_the_future_is_named_and_a_run_still_reads_its_own(lab):
    lab.ingest()
    future = latest(lab.data, "wells.parquet").parents[1] / "2099-01-01T00.00.00.000Z"
    shutil.copytree(latest(lab.data, "wells.parquet").parent, future)
    pd.read_parquet(future / "wells.parquet").assign(perturbation="planted").to_parquet(future / "wells.parquet")
    output = lab.ingest()
    assert "wells has the version 2099-01-01T00.00.00.000Z, which is dated in the future" in output
    audit = json.loads(latest(lab.data, "design_audit.json").read_text())
    assert audit["confounding"]["well"]["of"] == 3  # of its own three treatments, not of the planted one


def test_two_submissions_that_write_numbers_differently_agree(tmp_path):
    wells = [f"E-1_{plate}_{well}" for plate in (1, 2) for well in ("B02", "B03", "C02")]
    truth = ["12", "7", "30"] * 2
    (tmp_path / "votes").mkdir()
    for name, labels in (("a", truth), ("b", [f"{label}.0" for label in truth])):
        pd.DataFrame({"id_code": wells, "sirna": labels}).to_csv(tmp_path / "votes" / f"{name}.csv", index=False)
    pd.DataFrame({"id_code": wells, "perturbation": truth}).to_csv(tmp_path / "labels.csv", index=False)
    given = f"scores={tmp_path / 'votes'},labels={tmp_path / 'labels.csv'},data_root={tmp_path / 'data'}"
    command = ["run", "--env", "score_table", "--pipelines", "plate_balancing,evaluation", "--params"]
    kedro(*command, given)
    scores = json.loads(latest(tmp_path / "data", "scores.json").read_text())
    assert scores["classes"] == 3 and scores["heldout"]["well"]["top1"] == 1.0
    pd.DataFrame({"id_code": wells, "perturbation": [f"si{t}" for t in truth]}).to_csv(
        tmp_path / "labels.csv", index=False
    )
    output = refused(*command, given)
    assert (
        "heldout_labels and well_scores: none of the 3 perturbations with labels, such as 'si12', is among the 3"
        in output
    )


def test_contents_of_a_plate_that_does_not_exist_are_refused(tmp_path):
    votes = pd.DataFrame({"id_code": ["E-1_1_B02", "E-1_1_B03"], "perturbation": ["a", "b"], "score": [1.0, 2.0]})
    votes.to_csv(tmp_path / "s.csv", index=False)
    (tmp_path / "c.csv").write_text("experiment,plate,perturbation\nE-1,Plate1,a\n")
    given = f"scores={tmp_path / 's.csv'},contents={tmp_path / 'c.csv'},data_root={tmp_path / 'data'}"
    output = refused("run", "--env", "score_table", "--pipelines", "plate_balancing", "--params", given)
    assert "plate_contents: 'Plate1' is no plate of experiment E-1; there is 1" in output


@pytest.mark.slow
def test_profiles_with_an_index_and_a_row_number_show_no_leak_that_is_not_there(tmp_path):
    rng = np.random.default_rng(0)
    rows = [(f"E{e}", str(p), f"{r}{c:02d}", f"g{(4 * ord(r) + c) % 8}") for e in range(3) for p in (1, 2) for r in "BCDE" for c in range(2, 6)]  # fmt: skip
    table = pd.DataFrame(rows, columns=[f"Metadata_{name}" for name in ("Experiment", "Plate", "Well", "Perturbation")])
    features = rng.normal(size=(len(rows), 20)) + rng.normal(size=(8, 20))[[int(row[3][1]) for row in rows]]
    table = pd.concat([table, pd.DataFrame(features, columns=[f"f{i}" for i in range(20)])], axis=1)
    results = {}
    for name, index in (("plain", False), ("with_index", True)):
        given = table if not index else table.assign(ImageNumber=np.arange(len(table)) * 7)
        given.to_csv(tmp_path / f"{name}.csv", index=index)
        params = f"profiles={tmp_path / f'{name}.csv'},data_root={tmp_path / name}"
        output = kedro("run", "--env", "external_profiles", "--pipelines", "evaluation", "--params", params)
        assert ("columns are not taken as features" in output) == index
        results[name] = pd.read_parquet(latest(tmp_path / name, "leak_probes.parquet"))
    pd.testing.assert_frame_equal(results["plain"], results["with_index"])


@pytest.mark.slow
def test_the_whole_path_runs_in_several_processes(tmp_path):
    output = kedro(
        "run", "--env", "test", "--runner", "ParallelRunner", "--pipelines", "demo",
        "--params", f"raw_root={tmp_path / 'raw'},data_root={tmp_path / 'data'}",
    )  # fmt: skip
    assert "report, to be opened in a browser" in output


def test_a_backbone_with_weights_that_timm_does_not_have_is_refused():
    from deepnoise.errors import InputError
    from deepnoise.network.network import Network
    from deepnoise.network.trained_model import NetworkSpec

    spec = NetworkSpec("resnet18.nonsense", 3, 4, "linear", 1.0, 0.0)
    with pytest.raises(
        InputError, match="training.backbone is 'resnet18.nonsense'; timm has resnet18 with the weights a1_in1k"
    ):
        Network(spec)
