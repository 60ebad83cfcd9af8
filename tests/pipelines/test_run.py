"""``kedro run`` as a user types it, on the smoke profile: the whole path once, then parts of it and bad input."""

from __future__ import annotations

import contextlib
import html
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from deepnoise.tables import CARD_KEYS
from tests.browser import visit
from tests.conftest import PROJECT, kedro, refused

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


class Run:
    """A folder of results of the smoke profile."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.params = f"raw_root={root / 'raw'},data_root={root / 'data'}"

    def __call__(self, pipelines: str, *arguments: str, flag: str = "--pipelines", params: str = "") -> str:
        return kedro(*self._command(pipelines, params, flag), *arguments)

    def refused(self, pipelines: str, params: str = "") -> str:
        return refused(*self._command(pipelines, params))

    def _command(self, pipelines: str, params: str, flag: str = "--pipelines") -> list[str]:
        joined = ",".join(filter(None, [self.params, params]))
        return ["run", "--env", "test", flag, pipelines, "--params", joined]

    def versions(self, entry: str) -> list[Path]:
        paths = sorted(self.root.glob(f"data/0*/smoke/{entry}/*/{entry}"))
        assert paths, entry
        return paths

    def table(self, entry: str) -> pd.DataFrame:
        return pd.read_parquet(self.versions(f"{entry}.parquet")[-1])

    def json(self, entry: str) -> dict:
        return json.loads(self.versions(f"{entry}.json")[-1].read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """The whole path, once."""
    run = Run(tmp_path_factory.mktemp("smoke"))
    run.output = run("demo")
    return run


def test_the_whole_path_recovers_biology_above_the_baseline_and_logs_each_stage(run):
    scores = run.json("scores")
    assert scores["screen"] == "smoke" and scores["classes"] == 16
    main = scores["heldout"]["well"]
    assert main["tier"] == "T1" and main["chance"] == 1 / 16
    assert main["top1"] > 4 / 16
    assert main["top1"] > scores["baseline"]["top1"] - 0.1
    steps = {step["step"]: step for step in scores["steps"]}
    assert set(steps) == {"plain", "group_filter", "sinkhorn", "assignment", "matching"}
    assert steps["matching"]["tier"] == "T2" and steps["matching"]["top1"] >= main["top1"]
    log_lines = [
        "contact sheet:",
        "raw images: brightness and contrast identify the experiment",
        "after experiment normalization:",
        "teacher fold_0",
        "T1: perturbation identified",
        "with plate design",
        "balanced accuracy (macro recall):",
        "Signal and leak of the screen",
        "report, to be opened in a browser:",
    ]
    positions = [run.output.index(line) for line in log_lines]
    assert positions == sorted(positions)


def test_the_report_agrees_with_the_entries(run):
    page = run.versions("report.html")[-1].read_text()
    main, verdict = run.json("scores")["heldout"]["well"], run.json("verdict")
    assert len(verdict) == 5 and all(item["answer"] in html.unescape(page) for item in verdict)
    assert f"{100 * main['top1']:.1f} % of {main['n']} wells" in verdict[0]["answer"]
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles == [
        "Perturbation calls", "Signal and technical noise", "Calls with the plate layout", "Training", "Images and plates", "Design and data", "The run",
    ]  # fmt: skip
    assert "kedro run --pipelines growth_chart,report" in page
    record = json.loads((run.root / "data/08_reporting/smoke/run_record.json").read_text())
    stages = {entry["stage"] for entry in record.values()}
    assert stages == {
        "simulation", "ingestion", "normalization", "training", "inference", "plate_balancing", "evaluation", "report",
    }  # fmt: skip
    total = sum(entry["seconds"] for entry in record.values())
    logged_seconds = float(re.search(r"done in (\d+) s", run.output)[1])
    # the nodes account for the whole time
    assert total == pytest.approx(logged_seconds, abs=max(2.0, 0.1 * logged_seconds))


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_reads_well_in_a_browser(run, width, tmp_path):
    """No error, no network, every figure drawn, nothing wider than the window, text of readable size, tables sort."""
    path = run.versions("report.html")[-1]
    with visit(path.as_uri(), width) as opened:
        page = opened.page
        figures = opened.count(".plot")
        page.wait_for_function(f"document.querySelectorAll('.plot .main-svg .subplot').length >= {figures}")
        page.screenshot(path=tmp_path / f"report_{width}.png", full_page=True)
        assert opened.errors == []
        assert {url.split(":")[0] for url in opened.requests} <= {"file", "data", "blob"}
        assert figures >= 8 and opened.count("img") >= 1
        drawn = page.evaluate(
            "[...document.querySelectorAll('.plot')].map(p => p.querySelectorAll('path, image, text').length)"
        )
        assert min(drawn) > 10, drawn
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        sizes = page.evaluate(
            "[...document.querySelectorAll('p, td, li, h3')].map(e => parseFloat(getComputedStyle(e).fontSize))"
        )
        assert min(sizes) >= 12
        labels = page.evaluate(
            "[...document.querySelectorAll('.plot:not(.wide) .legendtext, .plot:not(.wide) .xtick text')].map(e => parseFloat(getComputedStyle(e).fontSize))"
        )
        assert min(labels) >= 9
        assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 300)")
        table = page.locator("table", has=page.get_by_role("button", name="top1")).nth(1)  # by experiment
        table.get_by_role("button", name="top1").click()
        values = [float(text.rstrip(" %")) for text in table.locator("tbody tr td:nth-child(2)").all_inner_texts()]
        assert values == sorted(values) and len(set(values)) > 1
        table.get_by_role("button", name="top1").click()
        turned = [float(text.rstrip(" %")) for text in table.locator("tbody tr td:nth-child(2)").all_inner_texts()]
        assert turned == values[::-1]
        assert table.locator("th").nth(1).get_attribute("aria-sort") == "descending"


@pytest.mark.slow
def test_kedro_viz_shows_the_flow_previews_and_the_last_run(run, tmp_path):
    """One box per stage, layers, tier tags, drawn previews, and status and duration after a run."""
    import socket
    import time
    import urllib.request

    kedro("run", "--env", "test", "--params", run.params)
    port = 20000 + os.getpid() % 20000  # kedro viz takes none above 49151
    with socket.socket() as probe_socket:
        while probe_socket.connect_ex(("localhost", port)) == 0:
            port += 1
    command = [
        sys.executable,
        "-m",
        "kedro",
        "viz",
        "run",
        "--no-browser",
        "--env",
        "test",
        "--port",
        str(port),
        "--params",
        run.params,
    ]
    log = tmp_path / "server.log"
    with log.open("w") as lines:
        server = subprocess.Popen(
            command, cwd=PROJECT, env=os.environ | {"DO_NOT_TRACK": "1"}, stdout=lines, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    base = f"http://localhost:{port}"

    def get_json(path: str) -> dict:
        with urllib.request.urlopen(base + path) as response:
            return json.load(response)

    try:
        main = None
        for _ in range(180):
            try:
                main = get_json("/api/main")
                break
            except OSError as error:
                last = error
                time.sleep(0.5)
        if main is None:
            pytest.fail(f"the server of kedro viz did not answer ({last}): {log.read_text()[-500:]}")
        boxes = {node["name"] for node in main["nodes"] if node["type"] == "modularPipeline"}
        assert boxes == {
            "ingestion",
            "normalization",
            "training",
            "inference",
            "plate_balancing",
            "evaluation",
            "report",
        }
        previews = {}
        for node in main["nodes"]:
            if node["type"] == "data":
                previews[node["name"]] = get_json(f"/api/nodes/{node['id']}")
            elif node["type"] == "task":
                assert '"""' in get_json(f"/api/nodes/{node['id']}")["code"], node["name"]  # its description
        preview_types = {
            name: preview.get("preview_type") for name, preview in previews.items() if preview.get("preview")
        }
        assert (
            preview_types["wells"] == "TablePreview"
            and preview_types["score_plot"] == "PlotlyPreview"
            and preview_types["scores"] == "JSONPreview"
        )
        assert preview_types["normalization_sheet"] == "ImagePreview" and len(preview_types) > 40
        quiet = "localStorage.setItem('KedroViz', JSON.stringify({showFeatureHints: false, theme: 'light'}))"
        identity = next(node["id"] for node in main["nodes"] if node["name"] == "score_plot")
        with visit(base, 1440, storage=quiet) as opened:
            page = opened.page
            page.wait_for_selector(".pipeline-node__text")
            page.wait_for_timeout(1500)
            page.screenshot(path=tmp_path / "flow.png")
            node_texts = page.locator(".pipeline-node__text").all_text_contents()
            assert boxes <= set(node_texts) and len(node_texts) <= 54 and max(map(len, node_texts)) <= 24
            assert page.locator(".pipeline-layer-name").count() == len(main["layers"]) == 8
            assert {"Tier T1", "Tier T2", "Tier T3"} <= set(page.locator(".row-text__label").all_inner_texts())
            page.goto(f"{base}/?pid=evaluation&sid={identity}")
            page.wait_for_selector(".plot-container .main-svg")
            page.screenshot(path=tmp_path / "preview.png")
            page.goto(f"{base}/workflow")
            page.wait_for_selector("text=completed successfully")
            page.screenshot(path=tmp_path / "workflow.png")
    finally:
        os.killpg(server.pid, 15)


def test_normalization_removes_the_experiment_from_the_brightness(run):
    probe = run.json("pixel_probe")
    assert probe["raw"]["balanced_accuracy"] > 0.6
    assert probe["normalized"]["balanced_accuracy"] < probe["raw"]["balanced_accuracy"] - 0.2


def test_the_card_has_signal_and_leak_each_with_its_null(run):
    card = run.json("signal_leak_card")
    assert set(card) == set(CARD_KEYS) and card["tier"] == "T1"
    across = card["signal"]["treatment"]["not_same_experiment"]
    assert across["map"] > 2 * across["chance"] and across["p"] == across["smallest_p"] == pytest.approx(1 / 41)
    assert set(card["leaks"]) == {"embedding", "raw_intensity", "normalized_intensity"}
    raw, normalized = (card["leaks"][name]["experiment"] for name in ("raw_intensity", "normalized_intensity"))
    assert raw["verdict"] == "leak" and raw["balanced_accuracy"] > normalized["balanced_accuracy"] + 0.2
    assert all(probe["planted_found"] for probe in card["leaks"]["raw_intensity"].values())
    assert card["collapse"]["0"]["effective_rank"] > 5
    embeddings = run.table("well_embeddings")
    assert (
        set(embeddings.loc[embeddings["plate_seen"], "role"]) == {"train"}
        and not embeddings.loc[embeddings["role"] != "train", "plate_seen"].any()
    )
    assert card["profiles"]["unseen_wells"] == int((~embeddings["plate_seen"]).sum()) < len(embeddings)
    scores = run.json("scores")
    assert scores["seen"]["top1"] > scores["heldout"]["well"]["top1"]


@pytest.mark.slow
def test_external_profiles_give_the_same_card(run, tmp_path):
    """The embeddings of the screen, given as external profiles with Metadata_ columns, show the same signal without training."""
    embeddings, wells = run.table("well_embeddings"), run.table("wells")
    embeddings = embeddings[~embeddings["plate_seen"]].merge(
        wells[["id_code", "cell_type", "perturbation", "well_type"]], on="id_code"
    )
    embeddings = embeddings.dropna(subset=["perturbation"])
    features = [c for c in embeddings.columns if c.startswith("embedding_")]
    table = embeddings[features].rename(columns=lambda c: c.replace("embedding_", "Cells_"))
    names = {
        "Metadata_Experiment": "experiment",
        "Metadata_Plate": "plate",
        "Metadata_Well": "well",
        "Metadata_Perturbation": "perturbation",
    }
    table = table.assign(**{new: embeddings[old] for new, old in names.items()}).drop_duplicates()
    table["Metadata_Perturbation"] = table["Metadata_Perturbation"].where(
        embeddings["well_type"] != "negative_control", "DMSO"
    )
    table.to_parquet(tmp_path / "profiles.parquet")
    output = kedro(
        "run", "--env", "external_profiles", "--pipelines", "evaluation", "--params",
        f"profiles={tmp_path / 'profiles.parquet'},data_root={tmp_path / 'data'},evaluation.permutations=20",
    )  # fmt: skip
    card = json.loads(sorted(tmp_path.glob("data/08_reporting/*/signal_leak_card.json/*/*.json"))[-1].read_text())
    assert set(card) == set(CARD_KEYS) and card["tier"] == "unknown"
    assert card["signal"]["treatment"]["any"]["skill"] > 0.3
    assert card["leaks"]["embedding"]["raw_intensity"]["verdict"] == "not asked"
    assert "Signal and leak of the screen 'external_profiles'" in output
    assert list(tmp_path.glob("data/08_reporting/*/signal_leak_plot.json/*/*.json"))


def test_every_heldout_well_is_called_with_a_probability_and_a_tier(run):
    calls, wells = run.table("calls"), run.table("wells")
    heldout = wells[wells["target"] & (wells["split"] == "heldout")]
    assert set(heldout["id_code"]) <= set(calls["id_code"])
    assert calls["design_confidence"].between(0, 1).all() and set(calls["tier"]) == {"T2"}
    assert heldout["perturbation"].isna().all()
    np.testing.assert_allclose(run.table("design_probabilities").filter(like="score_").sum(axis=1), 1, atol=1e-4)


def test_the_card_of_a_model_says_what_it_was_trained_on(run):
    card = json.loads((run.versions("teacher")[-1] / "fold_0.json").read_text())
    assert card["channels"] == ["nucleus", "er", "actin", "rna", "mito", "golgi"] and card["image_size"] == [48, 48]
    assert card["normalization"] == {"strategy": "experiment", "reference": "all", "illumination": "none"}
    assert len(card["targets"]) == 16 and set(card["fingerprints"]) == {
        "folds",
        "parameters",
        "statistics",
        "data",
        "pixels",
    }


@pytest.mark.slow
def test_stages_run_alone_give_the_same_scores(run):
    before = run.json("scores")
    output = run("inference,plate_balancing,evaluation")
    assert "older than" not in output
    again = run.json("scores")
    assert again == before
    assert "older than" not in run("plate_balancing", flag="--pipeline")


@pytest.mark.slow
def test_packed_plates_are_not_read_again_and_mixed_versions_are_reported(run):
    stores = sorted((run.root / "data/02_intermediate/smoke/image_store").glob("*.json"))
    before = {p.name: p.stat().st_mtime_ns for p in stores if p.name != "manifest.json"}
    run("ingestion,normalization")
    assert {p.name: p.stat().st_mtime_ns for p in stores if p.name != "manifest.json"} == before
    output = run("inference")
    assert "teacher (" in output and "which it is made from; run the stages between them again" in output


@pytest.mark.slow
def test_a_model_is_refused_on_images_with_another_normalization(run):
    output = run.refused("normalization,inference", params="normalization.strategy=plate")
    assert (
        "the model does not fit this screen: the normalization strategy of the model is experiment, of the screen plate"
        in output
    )


@contextlib.contextmanager
def ipython_shell(folder: Path) -> Iterator[InteractiveShell]:
    """A fresh IPython shell in a folder, as Jupyter starts one.

    Kedro's extension imports the package again. The earlier modules are restored afterwards, so that other tests see one version of
    each class.
    """
    import matplotlib
    from IPython.core.interactiveshell import InteractiveShell
    from kedro.framework.project import configure_project
    from traitlets.config import Config

    matplotlib.use("Agg")
    before = dict(sys.modules)
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    try:
        with contextlib.chdir(folder):
            yield shell
    finally:
        InteractiveShell.clear_instance()
        for name in [name for name in sys.modules if name.split(".")[0] == "deepnoise"]:
            del sys.modules[name]
        sys.modules.update(before)
        configure_project("deepnoise")


def run_notebook(name: str, values: dict) -> dict:
    """Run the code cells in order, with the parameter cell overridden by ``values``; returns all variables."""
    path = PROJECT / "notebooks" / name
    with ipython_shell(path.parent) as shell:
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] != "code":
                continue
            assert cell["outputs"] == [] and cell["execution_count"] is None, "notebooks are stored without outputs"
            shell.run_cell("".join(cell["source"])).raise_error()
            if "parameters" in cell["metadata"].get("tags", []):
                assert set(values) <= set(shell.user_ns), "the cell does not have these parameters"
                shell.user_ns.update(values)
        return dict(shell.user_ns)


def smoke(run) -> dict:
    return {"environment": "test", "parameters": run.params}


def test_the_notebooks_run(run):
    variables = run_notebook("1_explore_a_screen.ipynb", smoke(run))
    assert variables["context"].env == "test" and str(variables["calls"]["experiment"].iloc[0]).startswith("ALPHA")
    assert variables["calls"]["plain_call"].notna().all() and abs(variables["normalized"].mean()) < 3
    variables = run_notebook("3_read_the_evaluation.ipynb", smoke(run))
    assert variables["main"]["tier"] == "T1" and len(variables["figure"].data) > 10 and len(variables["weak"]) == 8
    variables = run_notebook("4_plate_balancing.ipynb", smoke(run))
    assert len(variables["figure"].axes) == len(variables["step_names"]) + 1  # a map per step, and the colour bar


def test_a_notebook_that_fails_fails_the_test(tmp_path):
    with ipython_shell(tmp_path) as shell, pytest.raises(NameError, match="catalog"):
        shell.run_cell("catalog.load('wells')").raise_error()


@pytest.mark.slow
def test_the_notebook_leads_from_a_folder_of_tiffs_to_calls(run, tmp_path):
    folder = PROJECT / "conf" / "notebook_test"
    short = (
        "training.pretrain.epochs=6,training.mean_teacher.epochs=0,training.batch_size=32,evaluation.permutations=20"
    )
    new = {"screen": folder.name, "data_root": str(tmp_path / "data"), "more_parameters": short}
    try:
        variables = run_notebook("2_bring_your_own_screen.ipynb", smoke(run) | new)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    calls, plate_map = variables["calls"], variables["plate_map"]
    truth = plate_map.assign(id_code=plate_map["experiment"] + "_" + plate_map["plate"] + "_" + plate_map["well"])
    truth = truth.set_index("id_code")["perturbation"].reindex(calls["id_code"])
    assert truth.notna().all() and (calls.set_index("id_code")["plain_call"] == truth).mean() > 2 / 16
    files = variables["files"]
    assert variables["report"].is_file()
    assert len(files) == 6 * files.groupby(["experiment", "plate", "well", "site"]).ngroups


@pytest.mark.parametrize(
    ("pipelines", "params", "message"),
    [
        ("trainning", "", "Failed to find the pipeline named 'trainning'.*Did you mean.*training"),
        ("training", "training.batch_sise=3", "unknown parameter 'training.batch_sise'.*Did you mean 'batch_size'"),
        (
            "plate_balancing",
            "scores=nosuch.csv",
            "environment 'test' does not read 'scores'.*use --env external_scores",
        ),
        ("evaluation", "profiles=nosuch.parquet", "does not read 'profiles'.*use --env external_profiles"),
    ],
)
def test_a_bad_command_ends_in_one_clear_error(run, pipelines, params, message):
    output = run.refused(pipelines, params)
    assert re.search(message, output, re.S), output


@pytest.mark.slow
def test_an_unknown_environment_or_node_ends_in_one_clear_error():
    assert "does not exist" in refused("run", "--env", "nope")
    assert "does not contain nodes named ['nope']" in refused("run", "--env", "test", "--nodes", "nope")


def test_the_simulation_refuses_a_folder_that_it_did_not_write(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "thesis.txt").write_text("precious")
    output = Run(tmp_path).refused("simulation")
    assert (
        "holds thesis.txt and no simulated_screen.json: not a folder of the simulation, nothing was written" in output
    )
    assert [p.name for p in (tmp_path / "raw").iterdir()] == ["thesis.txt"]


def test_a_missing_screen_names_the_file_and_writes_nothing(tmp_path):
    output = Run(tmp_path).refused("__default__")
    assert "train.csv: no such file; expected a csv" in output and "Check raw_root" in output
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_and_a_killed_run_continues(run, tmp_path):
    """A run in another folder, killed while it trains and started again, gives the same teacher and the same scores."""
    import time

    killed = Run(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "kedro", "run", "--env", "test", "--pipelines", "demo", "--params", killed.params],
        cwd=PROJECT, env=os.environ | {"DO_NOT_TRACK": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    states = tmp_path / "data/06_models/smoke/training_state"
    while process.poll() is None and not list(states.glob("fold_0_pretrain.json")):
        time.sleep(0.2)
    assert process.poll() is None, "the run ended before it could be killed"
    process.kill()
    process.wait()
    assert not list(tmp_path.glob("data/06_models/smoke/teacher/*/teacher/model.json"))
    output = killed("__default__")
    assert "pretrain continues after epoch" in output
    first, second = run.versions("teacher")[0], killed.versions("teacher")[0]
    assert (first / "fold_0.safetensors").read_bytes() == (second / "fold_0.safetensors").read_bytes()
    first, second = (json.loads(r.versions("scores.json")[0].read_text()) for r in (run, killed))
    assert first == second


SHORT = "training.pretrain.epochs=1,training.mean_teacher.epochs=1"


@pytest.mark.slow
def test_heldout_images_in_training_mark_every_later_score(run, tmp_path):
    transductive = Run(tmp_path)
    transductive.params = f"raw_root={run.root / 'raw'},data_root={tmp_path / 'data'},{SHORT}"
    transductive(
        "__default__",
        params="training.unlabelled_source=heldout,training.mean_teacher.pseudo_labels.method=balanced,training.mean_teacher.pseudo_labels.start=0",
    )
    scores = transductive.json("scores")
    assert {scores["heldout"]["well"]["tier"], *(step["tier"] for step in scores["steps"])} == {"T2+T3"}
    assert set(transductive.table("calls")["tier"]) == {"T2+T3"}


@pytest.mark.slow
def test_an_experiment_added_later_is_called_without_training(run, tmp_path):
    growing = Run(tmp_path)
    growing.params += f",{SHORT}"
    shutil.copytree(run.root / "raw", tmp_path / "raw")
    tables = [tmp_path / "raw" / name for name in ("test.csv", "test_controls.csv", "test_labels.csv")]
    whole = [pd.read_csv(table, dtype=str) for table in tables]
    for path, table in zip(tables, whole, strict=True):
        table[table["experiment"] != "BETA-06"].to_csv(path, index=False)
    output = growing("__default__")
    assert "BETA-06" not in set(growing.table("calls")["experiment"])
    for path, table in zip(tables, whole, strict=True):
        table.to_csv(path, index=False)
    output = growing("ingestion,normalization,inference,plate_balancing,evaluation")
    assert "BETA-06" in set(growing.table("calls")["experiment"]) and len(growing.versions("teacher")) == 1
    # the log says that the teacher was not trained again
    assert "teacher (" in output and "which it is made from" in output
    assert growing.json("scores")["heldout"]["well"]["by_experiment"].keys() >= {"BETA-05", "BETA-06"}


@pytest.mark.slow
def test_a_csv_of_scores_is_enough_for_plate_balancing(tmp_path):
    rng = np.random.default_rng(0)
    rows, contents = [], []
    for experiment in "XY":
        for plate in "12":
            on_plate = np.arange(24) + 24 * (plate == "2")
            contents += [(experiment, plate, f"p{c}") for c in on_plate]
            for w, c in enumerate(rng.permutation(on_plate)[:20]):
                score = rng.normal(0, 1, 48)
                score[c] += 2.5
                rows.append((f"{experiment}_{plate}_{'ABCD'[w // 6]}{w % 6 + 1:02d}", f"p{c}", *score))
    table = pd.DataFrame(rows, columns=["id_code", "sirna", *[f"score_p{c}" for c in range(48)]])
    table.drop(columns="sirna").to_csv(tmp_path / "scores.csv", index=False)
    table[["id_code", "sirna"]].to_csv(tmp_path / "labels.csv", index=False)
    pd.DataFrame(contents, columns=["experiment", "plate", "perturbation"]).to_csv(
        tmp_path / "contents.csv", index=False
    )
    params = f"data_root={tmp_path}/data,scores={tmp_path}/scores.csv"
    command = ("run", "--env", "score_table", "--pipelines", "plate_balancing,evaluation", "--params")
    kedro(*command, f"{params},labels={tmp_path}/labels.csv,contents={tmp_path}/contents.csv")
    calls_path = next((tmp_path / "data").glob("07*/*/calls.parquet/*/calls.parquet"))
    calls = pd.read_parquet(calls_path).set_index("id_code")
    truth = table.set_index("id_code")["sirna"]
    assert (calls["design_call"] == truth[calls.index]).mean() > (
        calls["plain_call"] == truth[calls.index]
    ).mean() + 0.05
    assert set(calls["tier"]) == {"T2+unknown"} and calls.loc[calls["changed"], "reason"].str.len().min() > 0
