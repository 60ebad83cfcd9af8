"""What surrounds the pipelines: kedro viz, the wheel, the hook on stale entries."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from kedro.pipeline import Node, Pipeline

from deepnoise.cli import joined_stages
from deepnoise.errors import InputError
from deepnoise.hooks import NOW, ProjectHooks, stale_inputs
from deepnoise.pipeline_registry import register_pipelines
from tests.conftest import PROJECT


def same(x):
    return x


FULL = Pipeline([Node(same, "raw", "wells"), Node(same, "wells", "teacher"), Node(same, "teacher", "calls")])


def test_an_entry_older_than_what_it_is_made_from_is_named():
    balance = Pipeline([Node(same, "teacher", "calls")])
    assert stale_inputs(balance, FULL, {"wells": "2026-01-02", "teacher": "2026-01-01"}) == [
        "teacher (2026-01-01) is older than wells (2026-01-02), which it is made from"
    ]
    assert stale_inputs(balance, FULL, {"wells": "2026-01-01", "teacher": "2026-01-01"}) == []
    assert stale_inputs(balance, FULL, {"wells": "2026-01-01", "teacher": "2026-01-02"}) == []
    assert stale_inputs(balance, FULL, {}) == []


def test_an_entry_made_in_the_run_is_newer_than_any_version():
    partial = Pipeline([Node(same, "raw", "wells"), Node(same, "teacher", "calls")])
    assert stale_inputs(partial, FULL, {"teacher": "2026-01-02", "wells": NOW, "calls": NOW}) == [
        "teacher (2026-01-02) is older than wells (made in this run), which it is made from"
    ]
    assert stale_inputs(FULL, FULL, {"wells": NOW, "teacher": NOW, "calls": NOW}) == []


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
def test_stages_named_beside_inference_are_cut_out_of_the_whole_path(typed, pipelines, namespaces):
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
        ProjectHooks().before_pipeline_run({}, stages[first] + stages[second], DataCatalog())


@pytest.mark.slow
def test_kedro_viz_builds_offline_with_layers_and_one_box_a_stage():
    """Into the project's own folder ``build``, as the command does; it is ignored by git."""
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
    stages = {"ingestion", "normalization", "training", "inference", "plate_balancing", "evaluation"}
    assert stages <= {
        node["name"].lower().replace(" ", "_") for node in main["nodes"] if node["type"] == "modularPipeline"
    }
    assert {"tier_T1", "tier_T2", "tier_T3"} <= {tag["id"] for tag in main["tags"]}
    assert {p["id"] for p in main["pipelines"]} >= stages | {"__default__", "demo", "simulation"}


@pytest.mark.slow
def test_the_wheel_runs_with_a_conf_source(tmp_path):
    """Installed elsewhere, run from elsewhere: only the configuration comes from the project."""
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
