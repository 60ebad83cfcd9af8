"""The table of the demo in README and docs/results.md: several screens, each trained with several seeds.

    python benchmarks/demo.py run DATA --screens 7 8 9 --seeds 1 2 3
    python benchmarks/demo.py table benchmarks/results/demo.jsonl

A run is `kedro run --pipelines demo` with `simulation.seed` and `training.seed`; from the second seed of a screen on, only training
and what follows it is run. Each appends one line to DATA/demo.jsonl, and a finished one is not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deepnoise.evaluation.intervals import summarize
from deepnoise.tables import BASELINES

PROJECT = Path(__file__).resolve().parent.parent
AFTER_THE_FIRST = "training,inference,plate_balancing,evaluation"


def newest(folder: Path, entry: str) -> Any:
    """The newest version of a JSON entry."""
    return json.loads(sorted(folder.glob(f"data/08_reporting/*/{entry}.json/*/{entry}.json"))[-1].read_text())


def row_of(scores: dict[str, Any], card: dict[str, Any], screen: int, seed: int) -> dict[str, Any]:
    """What the table needs of one run."""
    main, design = scores["heldout"]["well"], scores["plate_design"]
    return {
        "screen": screen, "seed": seed, "n": main["n"], "tier": main["tier"], "model": main["by_experiment"],
        "interval": main["interval"], "seen": scores["seen"]["top1"],
        "baselines": {score["name"]: score["by_experiment"] for score in scores["baselines"]},
        "best": scores["baseline"]["name"], "gain_interval": scores["against_baseline"]["gain_interval"],
        "redealt": {c["of"]: [c["designed"], c["redealt"], c["gain_interval"]] for c in design["redealt"]},
        "same_plate": {role: [share["share"], share["chance"]] for role, share in design["group_share"].items()},
        "one_group": {role: [calls["together"], calls["redrawn"]] for role, calls in design["redrawn"].items()},
        "steps": {step["step"]: step["top1"] for step in scores["steps"]},
        "map": card["signal"]["treatment"]["not_same_experiment"]["map"],
        "leaks": {axis: probe["balanced_accuracy"] for axis, probe in card["leaks"]["embedding"].items()},
        "corrections": {
            c["correction"]: {key: c[key] for key in ("chosen", "validation_map", "map", "gain", "gain_low", "gain_high", "plate", "experiment")}
            for c in card["corrections"]
        },
    }  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Every seed on every screen, one after the other."""
    args.data.mkdir(parents=True, exist_ok=True)
    out = args.data / "demo.jsonl"
    done = {(r["screen"], r["seed"]) for r in map(json.loads, out.read_text().splitlines())} if out.is_file() else set()
    for screen in args.screens:
        folder = args.data / str(screen)
        for seed in args.seeds:
            if (screen, seed) in done:
                continue
            pipelines = AFTER_THE_FIRST if (folder / "data" / "06_models").is_dir() else "demo"
            roots = f"raw_root={folder / 'raw'},data_root={folder / 'data'}"
            params = f"{roots},simulation.seed={screen},training.seed={seed}"
            command = [sys.executable, "-m", "kedro", "run", "--pipelines", pipelines, "--params", params]
            subprocess.run(command, cwd=PROJECT, env=os.environ | {"DO_NOT_TRACK": "1"}, check=True)
            row = row_of(newest(folder, "scores"), newest(folder, "signal_leak_card"), screen, seed)
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")


def table(args: argparse.Namespace) -> None:
    """Print each score by screen and over all screens, and the gain over each baseline."""
    rows = [json.loads(line) for line in args.results.read_text().splitlines()]
    screens = sorted({row["screen"] for row in rows})
    print(f"| | {' | '.join(f'screen {s}' for s in screens)} | all |\n|{'---|' * (len(screens) + 2)}")

    def by_experiment(values: list[dict[str, float]]) -> pd.Series:
        """Mean over the training seeds of a screen."""
        return pd.DataFrame(values).mean()

    model = {s: by_experiment([r["model"] for r in rows if r["screen"] == s]) for s in screens}
    for name in BASELINES:
        top1 = {s: pd.Series(next(r for r in rows if r["screen"] == s)["baselines"][name]) for s in screens}
        print_line("hand features" if name == BASELINES[0] else f"hand features, z-scored {name}", screens, top1)
    print_line("model", screens, model, [r["model"] for r in rows], rows)
    for name in BASELINES:
        gain = {s: model[s] - pd.Series(next(r for r in rows if r["screen"] == s)["baselines"][name]) for s in screens}
        print_line(f"gain over {name}", screens, gain, sign="+")
    for of in ("model", *BASELINES):
        change = {
            s: pd.Series([r["redealt"][of][1] - r["redealt"][of][0] for r in rows if r["screen"] == s]) for s in screens
        }
        print_means(f"{of}, dealt anew less as designed", screens, change, sign="+")
    for name, key in (("same plate", "same_plate"), ("one group", "one_group")):
        for role in ("validation", "heldout"):
            for part, index in (("", 0), (" chance" if key == "same_plate" else ", random parts", 1)):
                values = {s: pd.Series([r[key][role][index] for r in rows if r["screen"] == s]) for s in screens}
                print_means(f"{name}, {role}{part}", screens, values)
    for step in rows[0]["steps"]:
        print_means(
            f"after {step}",
            screens,
            {s: pd.Series([r["steps"][step] for r in rows if r["screen"] == s]) for s in screens},
        )
    for axis in ("experiment", "plate", "well_edge"):
        print_means(
            f"{axis} predicted",
            screens,
            {s: pd.Series([r["leaks"][axis] for r in rows if r["screen"] == s]) for s in screens},
        )
    print_corrections(rows, screens)
    for key in ("map", "seen"):
        print_means(key, screens, {s: pd.Series([r[key] for r in rows if r["screen"] == s]) for s in screens})


def print_corrections(rows: list[dict[str, Any]], screens: list[int]) -> None:
    """Lines of each correction of the embeddings: mAP, leaks, and in how many runs it was chosen."""
    of_correction = [row["corrections"] for row in rows if "corrections" in row]
    for name in of_correction[0] if of_correction else []:
        for key in ("map", "plate", "experiment", "chosen"):
            values = {
                s: pd.Series([row["corrections"][name][key] for row in rows if row["screen"] == s]).astype(float)
                for s in screens
            }
            print_means(f"embeddings, {name.replace('_', ' ')}: {key}", screens, values)


def print_line(
    name: str,
    screens: list[int],
    values: dict[int, pd.Series],
    runs: list[Any] | None = None,
    rows: list[Any] | None = None,
    sign: str = "",
) -> None:
    """A line with an interval over all experiments of all screens, and for a model the range over training seeds."""
    cells = []
    for screen in screens:
        cell = f"{100 * values[screen].mean():{sign}.1f} %"
        if runs and rows:
            seeds = [
                100 * np.mean(list(r.values())) for r, row in zip(runs, rows, strict=True) if row["screen"] == screen
            ]
            cell += f" ({min(seeds):.1f} to {max(seeds):.1f})"
        cells.append(cell)
    everything = np.concatenate([values[s].to_numpy(float) for s in screens])
    names = np.concatenate([[f"{s}/{e}" for e in values[s].index] for s in screens])
    summary = summarize(everything, names)
    low, high = summary["interval"]
    cells.append(f"{100 * summary['mean']:{sign}.1f} % ({100 * low:{sign}.1f} to {100 * high:{sign}.1f})")
    print(f"| {name} | {' | '.join(cells)} |")


def print_means(name: str, screens: list[int], values: dict[int, pd.Series], sign: str = "") -> None:
    """A line of means, with the range over all runs."""
    everything = pd.concat([values[s] for s in screens])
    cells = [f"{100 * values[s].mean():{sign}.1f} %" for s in screens]
    cells.append(
        f"{100 * everything.mean():{sign}.1f} % ({100 * everything.min():{sign}.1f} to {100 * everything.max():{sign}.1f})"
    )
    print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run")
    command.set_defaults(function=run)
    command.add_argument("data", type=lambda text: Path(text).resolve())
    command.add_argument("--screens", type=int, nargs="+", default=[7, 8, 9])
    command.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    command = commands.add_parser("table")
    command.set_defaults(function=table)
    command.add_argument("results", type=Path)
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
