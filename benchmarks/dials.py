"""What makes the simulated screen hard: one dial of profile `default` at a time, on top of profile `additive`.

    python benchmarks/dials.py run DATA --screens 7 8 --processes 2
    python benchmarks/dials.py table DATA

Each run simulates a screen of the demo's size, trains the default model and scores it beside hand features. `none` is
`additive` alone, `all` is `default`. A run appends one line to DATA/dials.jsonl, and a finished one is not repeated. The
table gives top-1 on held-out experiments, and what a dial costs against `none`, in points.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deepnoise.simulation.profiles import ADDITIVE, DEFAULT
from deepnoise.tables import BASELINES

PROJECT = Path(__file__).resolve().parent.parent
TOGETHER = {
    "look_alikes": ("biology", ("look_alikes", "family_similarity")),
    "dead wells, focus, debris": ("noise", ("dead_wells", "out_of_focus", "debris")),
    "drift": ("noise", ("gain_drift", "trait_drift")),
    "gains and background": (
        "noise",
        ("experiment_gain", "plate_gain", "experiment_offset", "plate_offset", "cell_type_gain", "background", "gain_correlation"),
    ),
}  # fmt: skip
"""Dials that make one change together."""


def dials() -> dict[str, dict[str, Any]]:
    """Name -> parameters of the simulation: each difference between the two profiles, alone."""
    arms: dict[str, dict[str, Any]] = {"none": {}}
    grouped = {name for _, names in TOGETHER.values() for name in names}
    for part, additive, default in (
        ("biology", ADDITIVE.biology, DEFAULT.biology),
        ("noise", ADDITIVE.noise, DEFAULT.noise),
    ):
        values = {f.name: getattr(default, f.name) for f in fields(default)}
        changed = {name: value for name, value in values.items() if value != getattr(additive, name)}
        arms |= {name: {part: {name: value}} for name, value in changed.items() if name not in grouped}
        for label, (of, names) in TOGETHER.items():
            if of == part:
                arms[label] = {part: {name: values[name] for name in names}}
    return arms | {"all": {"profile": "default"}}


def run_one(data: Path, dial: str, changes: dict[str, Any], seed: int, device: str) -> dict[str, Any]:
    """Simulate, train and score one screen with one dial."""
    folder = data / f"{dial.replace(' ', '_').replace(',', '')}_{seed}"
    simulation = {"profile": "additive", "seed": seed} | changes
    config = folder / "dial.yml"
    folder.mkdir(parents=True, exist_ok=True)
    parameters = {
        "raw_root": str(folder / "raw"), "data_root": str(folder / "data"), "simulation": simulation,
        "training": {"device": device}, "inference": {"device": device},
    }  # fmt: skip
    pipelines = "simulation,ingestion,normalization,training,inference,plate_balancing,evaluation"
    config.write_text(json.dumps({"run": {"pipelines": pipelines, "to_outputs": "scores", "params": parameters}}))
    command = [sys.executable, "-m", "kedro", "run", "--config", str(config)]
    done = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, env=os.environ | {"DO_NOT_TRACK": "1"}, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{dial}, screen {seed}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    path = sorted(folder.glob("data/08_reporting/*/scores.json/*/scores.json"))[-1]
    scores = json.loads(path.read_text())
    top1 = {score["name"]: score["top1"] for score in scores["baselines"]}
    top1["model"] = scores["heldout"]["well"]["top1"]
    redealt = next(c for c in scores["plate_design"]["redealt"] if c["of"] == "model")
    shutil.rmtree(folder)
    return {
        "dial": dial,
        "screen": seed,
        "device": device,
        "top1": top1,
        "redealt": redealt["redealt"],
        "n": redealt["n"],
    }


def run(args: argparse.Namespace) -> None:
    """Every dial on every screen, several at a time."""
    out = args.data / "dials.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    done = {(r["dial"], r["screen"]) for r in map(json.loads, out.read_text().splitlines())} if out.is_file() else set()
    chosen = {d: c for d, c in dials().items() if not args.dials or d in args.dials}
    jobs = [(d, c, s) for s in args.screens for d, c in chosen.items() if (d, s) not in done]

    def job(arguments: tuple[str, dict[str, Any], int]) -> None:
        try:
            row = run_one(args.data, *arguments, args.device)
        except RuntimeError as error:
            print(error, flush=True)
            return
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row["dial"], row["screen"], {k: round(100 * v, 1) for k, v in row["top1"].items()}, flush=True)

    with ThreadPoolExecutor(args.processes) as pool:
        list(pool.map(job, jobs))


def table(args: argparse.Namespace) -> None:
    """Print top-1 with each dial, and its cost: the difference to the same screen without any."""
    rows = pd.DataFrame([json.loads(line) for line in (args.data / "dials.jsonl").read_text().splitlines()])
    top1 = pd.concat([rows[["dial", "screen"]], pd.DataFrame(list(rows["top1"]))], axis=1).set_index(["dial", "screen"])
    names = [*BASELINES, "model"]
    without = top1.loc["none"]
    print(
        f"| dial | {' | '.join(names)} | cost by screen: hand features by plate | model |\n|{'---|' * (len(names) + 3)}"
    )
    for dial in dials():
        of_dial = top1.loc[dial] if dial in top1.index else pd.DataFrame()
        if of_dial.empty:
            continue
        cost = 100 * (of_dial - without.loc[of_dial.index])
        means = " | ".join(f"{100 * of_dial[name].mean():.1f} %" for name in names)
        costs = [" ".join(f"{c:+.1f}" for c in np.asarray(cost[name])) for name in ("by plate", "model")]
        print(f"| {dial} | {means} | {' | '.join(costs)} |")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, function in (("run", run), ("table", table)):
        command = commands.add_parser(name)
        command.set_defaults(function=function)
        command.add_argument("data", type=Path)
        if name == "run":
            command.add_argument("--screens", type=int, nargs="+", default=[7, 8])
            command.add_argument("--dials", nargs="+", default=[], choices=list(dials()), help="all, unless given")
            command.add_argument("--processes", type=int, default=1)
            command.add_argument("--device", default="auto")
    args = parser.parse_args()
    args.data = args.data.resolve()
    args.function(args)


if __name__ == "__main__":
    main()
