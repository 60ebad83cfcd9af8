"""What surrounds the pipelines: kedro viz, the wheel, and the hooks."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from kedro.pipeline import Node, Pipeline

from deepnoise.cli import joined_stages
from deepnoise.errors import InputError
from deepnoise.hooks import NEW, InputHooks, TimingHooks, missing_chapters, outdated_inputs, replace_missing_chapters
from deepnoise.pipeline_registry import register_pipelines
from tests.conftest import PROJECT


def same(x):
    return x


FULL = Pipeline([Node(same, "raw", "wells"), Node(same, "wells", "teacher"), Node(same, "teacher", "calls")])


def test_an_entry_older_than_its_sources_is_reported():
    balance = Pipeline([Node(same, "teacher", "calls")])
    assert outdated_inputs(balance, FULL, {"wells": "2026-01-02", "teacher": "2026-01-01"}) == [
        "teacher (2026-01-01) is older than wells (2026-01-02), which it is made from"
    ]
    assert outdated_inputs(balance, FULL, {"wells": "2026-01-01", "teacher": "2026-01-01"}) == []
    assert outdated_inputs(balance, FULL, {"wells": "2026-01-01", "teacher": "2026-01-02"}) == []
    assert outdated_inputs(balance, FULL, {}) == []


def test_an_entry_made_in_the_run_is_newer_than_any_version():
    partial = Pipeline([Node(same, "raw", "wells"), Node(same, "teacher", "calls")])
    assert outdated_inputs(partial, FULL, {"teacher": "2026-01-02", "wells": NEW, "calls": NEW}) == [
        "teacher (2026-01-02) is older than wells (made in this run), which it is made from"
    ]
    assert outdated_inputs(FULL, FULL, {"wells": NEW, "teacher": NEW, "calls": NEW}) == []


@pytest.mark.parametrize(
    ("typed", "pipelines", "namespaces"),
    [
        (["inference", "plate_balancing"], ["__default__"], ["inference", "plate_balancing"]),
        (["simulation", "inference"], ["demo"], ["simulation", "inference"]),
        (["plate_balancing", "evaluation"], ["plate_balancing", "evaluation"], []),
        (["simulation", "ingestion"], ["demo"], ["simulation", "ingestion"]),
        (["inference"], ["inference"], []),
        (["inference", "no_such_stage"], ["inference", "no_such_stage"], []),
        (["inference", "demo"], ["inference", "demo"], []),
        ([], [], []),
    ],
)
def test_stages_requested_with_inference_run_as_parts_of_the_whole_path(typed, pipelines, namespaces):
    assert joined_stages(typed) == (pipelines, namespaces)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("inference", "plate_balancing", "an old well_scores beside the well_logits that it makes"),
        ("simulation", "ingestion", "an old raw_.* beside the simulated_.* that it makes"),
    ],
)
def test_a_run_that_would_read_an_old_entry_beside_a_new_one_is_refused(first, second, message):
    from kedro.io import DataCatalog

    stages = register_pipelines()
    with pytest.raises(InputError, match=message):
        InputHooks().before_pipeline_run({}, stages[first] + stages[second], DataCatalog())


def test_the_report_is_written_without_chapters_that_were_never_written(tmp_path):
    """Missing chapters load as None and are listed; existing chapters and all other entries stay as they are."""
    from kedro.io import DataCatalog

    from deepnoise.datasets.atomic import AtomicJSONDataset
    from deepnoise.datasets.run_record import AbsentDataset, RunRecordDataset

    report = register_pipelines()["report"]
    names = sorted(name for name in report.inputs() if name.endswith("_chapter"))
    catalog = DataCatalog({name: AtomicJSONDataset(filepath=str(tmp_path / f"{name}.json")) for name in names})
    catalog["run_record"] = RunRecordDataset(filepath=str(tmp_path / "run_record.json"))
    catalog.save("ingestion_chapter", {"sections": []})
    assert missing_chapters(report, catalog) == [name for name in names if name != "ingestion_chapter"]
    replace_missing_chapters(report, catalog)
    assert isinstance(catalog.get("training_chapter"), AbsentDataset) and catalog.load("training_chapter") is None
    assert catalog.load("ingestion_chapter") == {"sections": []}
    # evaluation writes its chapter and reads none
    assert missing_chapters(register_pipelines()["evaluation"], catalog) == []


def test_time_is_recorded_for_the_node_that_saved_last(monkeypatch, tmp_path):
    from kedro.io import DataCatalog

    from deepnoise import hooks as module
    from deepnoise.datasets.run_record import RunRecordDataset

    clock = iter([10.0, 13.0, 13.0, 20.0, 20.5])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    hooks = TimingHooks()
    hooks.after_dataset_saved(Node(same, "raw", "wells", name="first"))  # a worker of a parallel run records nothing
    hooks._catalog = DataCatalog({"run_record": RunRecordDataset(filepath=str(tmp_path / "r.json"))})
    hooks._catalog.save("run_record", {"gone": {"seconds": 1}})
    hooks._nodes, hooks._run, hooks._last_saved = {"first", "second"}, {"run": "r", "environment": "base"}, 10.0
    next(clock)
    hooks.after_dataset_saved(Node(same, "raw", "wells", name="first"))
    hooks.after_dataset_saved(Node(same, "wells", "calls", name="second"))
    record = hooks._catalog.load("run_record")
    assert {name: entry["seconds"] for name, entry in record.items()} == {"first": 3.0, "second": 7.0}
    assert record["first"]["run"] == "r" and record["first"]["stage"] == ""


@pytest.mark.slow
def test_kedro_viz_builds_offline_with_layers_and_one_box_per_stage():
    """The command writes into the project's folder ``build``, which git ignores."""
    subprocess.run(
        [sys.executable, "-m", "kedro", "viz", "build"], cwd=PROJECT, check=True, capture_output=True, text=True,
        env=os.environ | {"DO_NOT_TRACK": "1"},
    )  # fmt: skip
    main = json.loads((PROJECT / "build" / "api" / "main").read_text())
    assert main["layers"] == [
        "raw",
        "intermediate",
        "primary",
        "feature",
        "model_input",
        "models",
        "model_output",
        "reporting",
    ]
    stages = {"ingestion", "normalization", "training", "inference", "plate_balancing", "evaluation", "report"}
    assert stages <= {
        node["name"].lower().replace(" ", "_") for node in main["nodes"] if node["type"] == "modularPipeline"
    }
    assert {"tier_T1", "tier_T2", "tier_T3"} <= {tag["id"] for tag in main["tags"]}
    assert {p["id"] for p in main["pipelines"]} >= stages | {"__default__", "demo", "simulation"}


@pytest.mark.slow
def test_the_wheel_runs_with_a_conf_source(tmp_path):
    """The wheel is installed and run outside the project; only the configuration comes from it."""
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", "--no-deps", "-q", "-w", tmp_path, PROJECT], check=True)
    subprocess.run(
        [*pip, "install", "--no-deps", "-q", "--target", tmp_path / "site", *tmp_path.glob("*.whl")], check=True
    )
    work = tmp_path / "work"
    work.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "deepnoise", "--conf-source", PROJECT / "conf", "--env", "test", "--pipelines", "simulation"],
        cwd=work, env=os.environ | {"PYTHONPATH": str(tmp_path / "site"), "DO_NOT_TRACK": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (work / "data" / "01_raw" / "smoke" / "simulated_screen.json").is_file()
