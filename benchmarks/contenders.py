"""Which training recipe predicts most perturbations on held-out experiments, at equal compute.

    python benchmarks/contenders.py screens DATA --profile default --seeds 101 102        # simulates screens
    python benchmarks/contenders.py run DATA --screens default_101 --arms supervised published --seeds 1 --budget 20
    python benchmarks/contenders.py table DATA --base supervised

Every arm gets the same compute: that of ``--budget`` supervised epochs of the default backbone. It is counted
in forward passes (a backward pass counts as two) times the cost of the arm's backbone; CPU seconds are
recorded too. Scores are T1 top-1 by well on held-out experiments (all sites, eight views, no plate design),
unless the arm says otherwise. Results are appended to DATA/contenders.jsonl. What helped and what did not is
in docs/experiments.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

PROJECT = Path(__file__).resolve().parent.parent
PROBED = ("experiment", "plate", "well_edge")


def settings() -> dict[str, dict[str, Any]]:
    """Arm -> changes to conf/base: parameters by dotted name, stage 1's ``share`` of the budget, an ``idea`` of IDEAS."""
    import contender_arms

    return contender_arms.ARMS


def load_screen(folder: Path) -> tuple[dict[str, Any], Any]:
    """Load the parameters and the catalog of a simulated screen."""
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project

    bootstrap_project(PROJECT)
    roots = {"data_root": str(folder), "raw_root": str(folder / "raw")}
    with KedroSession.create(PROJECT, runtime_params=roots) as session:
        context = session.load_context()
        return context.config_loader["parameters"], context.catalog


def epochs_for(training: Any, budget: float, share: float) -> tuple[int, int]:
    """Epochs of both stages that cost as much as ``budget`` supervised epochs of the default backbone."""
    from contender_arms import COST

    from deepnoise.growth_chart.arms import BACKWARD, forward_passes

    def cost(pretrain_epochs: int, mean_teacher_epochs: int) -> float:
        stages = {
            "pretrain": training.pretrain.model_copy(update={"epochs": pretrain_epochs}),
            "mean_teacher": training.mean_teacher.model_copy(update={"epochs": mean_teacher_epochs}),
        }
        pass_cost = COST[training.backbone] * (0.5 if training.sites_per_epoch == "one" else 1.0)
        return pass_cost * forward_passes(training.model_copy(update=stages)) / (1 + BACKWARD)

    pretrain_epochs = max(1, round(budget * share / cost(1, 0)))
    return pretrain_epochs, round(budget * (1 - share) / cost(0, 1)) if share < 1 else 0


def train_and_score(folder: Path, arm: str, seed: int, budget: float) -> dict[str, Any]:
    """Train one arm on one screen, and score it."""
    import torch
    from contender_arms import IDEAS

    from deepnoise.evaluation.metrics import ranked_calls
    from deepnoise.growth_chart.arms import Settings, change
    from deepnoise.growth_chart.run import ChartScreen, Truth, signal_and_leak
    from deepnoise.inference.pooling import pool_wells
    from deepnoise.inference.predict import predict_sites
    from deepnoise.inference.selection import sites_to_predict
    from deepnoise.parameters import InferenceParameters, NormalizationParameters, TrainingParameters
    from deepnoise.screen import Screen
    from deepnoise.tables import EMBEDDING, SCORE, prefixed
    from deepnoise.training.loop import pretrain, train_mean_teacher
    from deepnoise.training.run_folds import view_of_fold
    from deepnoise.training.trainer import NoState, Trainer

    torch.set_num_threads(1)
    values, catalog = load_screen(folder)
    changes = dict(settings()[arm])
    share, idea, adabn = changes.pop("share", 1.0), changes.pop("idea", None), changes.pop("adabn", "none")
    environment = Settings(
        NormalizationParameters.model_validate(values["normalization"]),
        TrainingParameters.model_validate(values["training"]),
    )
    arm_settings = change(environment, environment, changes)
    store, sites, wells, folds, histograms = (
        catalog.load(name) for name in ("image_store", "sites", "wells", "folds", "plate_histograms")
    )
    chart_screen = ChartScreen(
        Screen(store, sites, wells, folds, pd.DataFrame()), histograms, pd.DataFrame({"group": []}), illumination="none"
    )
    screen = chart_screen.normalized(arm_settings)
    truth = Truth(wells, catalog.load("heldout_labels"), folds)
    training = arm_settings.training.model_copy(update={"seed": seed, "device": "cpu"})
    pretrain_epochs, mean_teacher_epochs = epochs_for(training, budget, share)
    stages = {
        "pretrain": training.pretrain.model_copy(update={"epochs": pretrain_epochs}),
        "mean_teacher": training.mean_teacher.model_copy(update={"epochs": mean_teacher_epochs}),
    }
    trainer_class = IDEAS[idea] if idea else Trainer
    started = time.process_time()
    training = training.model_copy(update=stages)
    trainer = trainer_class(view_of_fold(screen, chart_screen.fold, training), screen, training, NoState())
    model, history = pretrain(trainer)
    if mean_teacher_epochs:
        _, model, mean_teacher_history = train_mean_teacher(trainer, model)
        history += mean_teacher_history
    seconds = time.process_time() - started
    scored_sites = sites_to_predict(model.card, sites, wells, folds)
    scored_sites = scored_sites[scored_sites["role"] == truth.role].reset_index(drop=True)
    inference = InferenceParameters.model_validate(values["inference"]).model_copy(
        update={"views": "dihedral", "pooling": "logits", "batch_size": 256, "device": "cpu"}
    )
    logits, embeddings = predict_sites(model, store, scored_sites, screen.statistics, inference, adabn)
    tier = model.card.tier
    meta = scored_sites[["role", "id_code", "experiment", "plate", "well", "site", "plate_seen"]].assign(
        fold=0, tier=tier
    )
    dimensions = [f"{i:04d}" for i in range(embeddings.shape[1])]
    well_logits, well_embeddings = pool_wells(
        pd.concat([meta.drop(columns="plate_seen"), prefixed(logits, model.card.targets, SCORE, meta.index)], axis=1),
        pd.concat([meta, prefixed(embeddings, dimensions, EMBEDDING, meta.index)], axis=1),
    )
    targets = set(wells.loc[wells["target"], "id_code"]) & set(truth.labels.index)
    called = well_logits[well_logits["id_code"].isin(targets)]
    correct = (ranked_calls(called, called["id_code"].map(truth.labels))["rank"] == 0).to_numpy()
    by_experiment = pd.Series(correct).groupby(called["experiment"].to_numpy())
    unseen = well_embeddings.assign(plate_seen=False) if tier != "T1" else well_embeddings
    measured = signal_and_leak(unseen, wells, truth.labels)
    return {
        "arm": arm, "screen": folder.name, "seed": seed, "budget": budget, "tier": tier,
        "epochs": [pretrain_epochs, mean_teacher_epochs], "seconds": round(seconds, 1), "top1": float(correct.mean()), "n": len(correct),
        "right": {str(e): int(n) for e, n in by_experiment.sum().items()},
        "wells": {str(e): int(n) for e, n in by_experiment.size().items()},
        "validation": [history[-1]["student_top1"], history[-1]["teacher_top1"]], "map": measured["map"],
        "leak": {axis: value["balanced_accuracy"] for axis, value in measured["leaks"].items()},
    }  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Run every arm on every screen and seed, one process each, except those already in the results."""
    out = args.data / "contenders.jsonl"
    done = set()
    if out.is_file():
        done = {(r["arm"], r["screen"], r["seed"], r["budget"]) for r in map(json.loads, out.read_text().splitlines())}
    jobs = [
        (arm, screen, seed)
        for seed in args.seeds for screen in args.screens for arm in args.arms
        if (arm, screen, seed, args.budget) not in done
    ]  # fmt: skip

    def run_job(job: tuple[str, str, int]) -> None:
        arm, screen, seed = job
        code = (
            "import sys, json, pathlib, contenders; "
            f"print('RESULT' + json.dumps(contenders.train_and_score(pathlib.Path({str(args.data / screen)!r}), {arm!r}, {seed}, {args.budget})))"
        )
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
        process = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
        results = [line[6:] for line in process.stdout.splitlines() if line.startswith("RESULT")]
        if not results:
            print(f"{job} failed: {process.stderr.strip().splitlines()[-1:]}", flush=True)
            return
        with out.open("a") as file:
            file.write(results[0] + "\n")
        row = json.loads(results[0])
        print(
            f"{arm:34} {screen} {seed}: {row['top1']:.1%} experiment {row['leak'].get('experiment', np.nan):.1%} epochs {row['epochs']} {row['seconds']} s",
            flush=True,
        )

    with ThreadPoolExecutor(args.processes) as pool:
        list(pool.map(run_job, jobs))


def table(args: argparse.Namespace) -> None:
    """Print means over screens and seeds, and each arm's paired gain over a base arm.

    The p of a gain is one-sided, by sign flips over (screen, experiment).
    """
    from scipy.stats import permutation_test

    rows = pd.DataFrame([json.loads(line) for line in (args.data / "contenders.jsonl").read_text().splitlines()])
    if args.screens:
        rows = rows[rows["screen"].isin(args.screens)]
    rows = rows[rows["budget"] == args.budget] if args.budget else rows
    accuracy = {}
    for arm, arm_rows in rows.groupby("arm"):
        cells: dict[tuple[str, str], list[float]] = {}
        for _, row in arm_rows.iterrows():
            for experiment, right in row["right"].items():
                cells.setdefault((row["screen"], experiment), []).append(right / row["wells"][experiment])
        accuracy[arm] = {key: float(np.mean(values)) for key, values in cells.items()}
    print(
        "| arm | tier | runs | top-1 | range | gain | p | experiment predicted | epochs |\n|---|---|---|---|---|---|---|---|---|"
    )
    for arm, arm_rows in sorted(rows.groupby("arm"), key=lambda pair: -pair[1]["top1"].mean()):
        gain, p = "", ""
        if arm != args.base:
            common = accuracy[arm].keys() & accuracy[args.base].keys()
            gains = np.array([accuracy[arm][k] - accuracy[args.base][k] for k in sorted(common)])
            gain = f"{100 * gains.mean():+.1f}"
            flips = permutation_test((gains,), np.mean, permutation_type="samples", alternative="greater", rng=0)
            p = f"{flips.pvalue:.4f}"
        leak = np.mean([row.get("experiment", np.nan) for row in arm_rows["leak"]])
        print(
            f"| {arm} | {arm_rows['tier'].iloc[0]} | {len(arm_rows)} | {arm_rows['top1'].mean():.1%} | "
            f"{arm_rows['top1'].min():.1%}-{arm_rows['top1'].max():.1%} | {gain} | {p} | {leak:.0%} | {arm_rows['epochs'].iloc[0]} |"
        )


def costs(args: argparse.Namespace) -> None:
    """Print the milliseconds per image of a training step of each backbone, on one thread."""
    import torch
    from contender_arms import COST

    from deepnoise.network.network import Network
    from deepnoise.network.trained_model import NetworkSpec

    torch.set_num_threads(1)
    x = torch.randn(48, 6, 64, 64).contiguous(memory_format=torch.channels_last)
    for backbone in COST:
        network = Network(NetworkSpec(backbone, 6, 57, "softmax", 1.0, 0.0)).to(memory_format=torch.channels_last)
        seconds = []
        for _ in range(6):
            started = time.process_time()
            network.embed(x).sum().backward()
            seconds.append(time.process_time() - started)
        print(f"{backbone}: {1000 * np.median(seconds[1:]) / len(x):.1f} ms per image")


def screens(args: argparse.Namespace) -> None:
    """Simulate, ingest and normalize the screens."""
    for seed in args.seeds:
        root = args.data / f"{args.profile}_{seed}"
        subprocess.run(
            [
                str(Path(sys.executable).parent / "kedro"), "run", "--pipelines", "simulation,ingestion,normalization",
                "--params", f"data_root={root},raw_root={root}/raw,simulation.seed={seed},simulation.profile={args.profile}",
            ],
            cwd=PROJECT, check=True,
        )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["screens", "run", "table", "costs"])
    parser.add_argument("data", type=Path)
    parser.add_argument("--profile", default="default")
    parser.add_argument("--screens", nargs="*", default=[])
    parser.add_argument("--arms", nargs="*", default=[])
    parser.add_argument("--seeds", nargs="*", type=int, default=[1])
    parser.add_argument("--budget", type=float, default=20.0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--base", default="supervised")
    arguments = parser.parse_args()
    {"screens": screens, "run": run, "table": table, "costs": costs}[arguments.action](arguments)
