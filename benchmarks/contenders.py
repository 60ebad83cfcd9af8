"""Which mean teacher is worth its compute: contenders beside the strongest supervised training, on simulated screens.

    python benchmarks/contenders.py screens DATA --profile default --seeds 301 302 303
    python benchmarks/contenders.py run DATA --screens default_301 --arms all --seeds 1 2
    python benchmarks/contenders.py table benchmarks/results/contenders.jsonl --base supervised

A run trains an arm of contender_arms.py on the demo-sized screen within the compute of the shipped supervised training, and scores it as
inference does (eight views, AdaBN by experiment) on held-out experiments, as designed and with their treatments dealt anew. Each appends one
line to benchmarks/results/contenders.jsonl; a finished one is not repeated, so a study can be stopped and resumed. Screens 301 to
303 are for tuning, 9001 to 9006 for one confirmation. What helped and what did not is in docs/experiments.md.
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
RESULTS = PROJECT / "benchmarks/results/contenders.jsonl"


def load_screen(folder: Path) -> tuple[dict[str, Any], Any]:
    """Load the parameters and the catalog of a simulated screen."""
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project

    bootstrap_project(PROJECT)
    roots = {"data_root": str(folder), "raw_root": str(folder / "raw")}
    with KedroSession.create(PROJECT, runtime_params=roots) as session:
        context = session.load_context()
        return context.config_loader["parameters"], context.catalog


def train_and_score(folder: Path, arm_name: str, seed: int) -> dict[str, Any]:
    """Train one arm on one screen, and score it."""
    import torch
    from contender_arms import ARMS, StudyTrainer, adapt, distill, fit, train_stages, use_neck

    from deepnoise.parameters import InferenceParameters, NormalizationParameters, TrainingParameters, replace_values
    from deepnoise.screen import Screen
    from deepnoise.training.run_folds import view_of_fold
    from deepnoise.training.trainer import NoState

    torch.set_num_threads(1)
    values, catalog = load_screen(folder)
    arm = ARMS[arm_name]
    if arm.neck:
        use_neck()
    training = TrainingParameters.model_validate(values["training"]).model_copy(update={"seed": seed, "device": "cpu"})
    training = replace_values(training, "training", arm.changes, "contender_arms")
    if arm.stages:
        names = ("pretrain", "mean_teacher")
        of_stage = zip(names, arm.stages, strict=True)
        training = training.model_copy(
            update={name: getattr(training, name).model_copy(update={"epochs": epochs}) for name, epochs in of_stage}
        )
    if arm.adapted:
        training = training.model_copy(update={"unlabelled_source": "heldout"})
    strategy = NormalizationParameters.model_validate(values["normalization"]).strategy
    tables = [catalog.load(name) for name in ("sites", "wells", "folds", "plate_statistics")]
    screen = Screen(catalog.load("image_store"), *tables)
    view = view_of_fold(screen, screen.fold_numbers[0], training)
    if arm.labels < 1:
        view = with_few_labels(view, arm.labels)
    trainer = StudyTrainer(view, screen, training, NoState())
    started = time.process_time()
    if arm.ensemble > 1:
        models = {f"fold_{i}": load_model(folder, seed + i) for i in range(arm.ensemble)}
    elif arm.stages:
        model = train_stages(trainer)
    elif arm.distilled:
        model = distill(trainer, screen)
    elif arm.adapted:
        model = adapt(trainer, load_model(folder, seed), **arm.adapted)
    else:
        model = fit(trainer, arm.loss(), arm.budget(), arm.ema, arm.beside)
        if arm_name == "supervised":
            save_model(folder, seed, model)
    if arm.ensemble == 1:
        models = {"fold_0": model}
    seconds = time.process_time() - started
    inference = InferenceParameters.model_validate(values["inference"]).model_copy(
        update={"batch_size": 256, "device": "cpu"}
    )
    return {
        "arm": arm_name, "screen": folder.name, "seed": seed, "tier": arm.tier, "epochs": arm.stages or (arm.adapted["epochs"] if arm.adapted else arm.budget()),
        "seconds": round(seconds, 1), "normalization": strategy, "profile": values["simulation"]["profile"],
        "commit": subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout.strip(),
        **score(models, screen, catalog, inference, values["plate_balancing"]),
    }  # fmt: skip


def with_few_labels(view: Any, share: float) -> Any:
    """A view in which only a share of the treated wells of each experiment has labels; the same wells for every arm."""
    from dataclasses import replace

    is_target = view.labelled["target"].to_numpy(bool)
    wells = view.labelled.loc[is_target, ["experiment", "id_code"]].drop_duplicates()
    kept = wells.groupby("experiment", group_keys=False).sample(frac=share, random_state=0)["id_code"]
    hidden = is_target & ~view.labelled["id_code"].isin(kept).to_numpy()
    return replace(
        view,
        labelled=view.labelled[~hidden].reset_index(drop=True),
        unlabelled=view.labelled[hidden].drop(columns="label").reset_index(drop=True),
    )


def score(
    models: dict[str, Any], screen: Any, catalog: Any, inference: Any, balancing: dict[str, Any]
) -> dict[str, Any]:
    """Top-1 as designed and dealt anew by experiment, top-1 after plate balancing, replicate mAP and leaks.

    The scores of several models are averaged; their embeddings are those of the first.
    """
    from deepnoise.evaluation.metrics import mean_over_sites, ranked_calls
    from deepnoise.growth_chart.run import Truth, signal_and_leak
    from deepnoise.inference.pooling import pool_wells
    from deepnoise.inference.predict import predict_folds, predict_redealt
    from deepnoise.parameters import PlateBalancingParameters
    from deepnoise.pipelines.plate_balancing import nodes
    from deepnoise.screen import Screen
    from deepnoise.tables import SCORE

    truth = Truth(screen.wells, catalog.load("heldout_labels"), screen.folds)
    well_logits, well_embeddings = pool_wells(*predict_folds({"fold_0": models["fold_0"]}, screen, inference)[:2])
    columns = [name for name in well_logits if name.startswith(SCORE)]
    for model in list(models.values())[1:]:
        other = pool_wells(*predict_folds({"fold_0": model}, screen, inference)[:2])[0]
        assert well_logits["id_code"].equals(other["id_code"])
        well_logits[columns] += other[columns]
    well_logits[columns] /= len(models)
    targets = set(screen.wells.loc[screen.wells["target"], "id_code"]) & set(truth.labels.index)
    called = well_logits[(well_logits["role"] == truth.role) & well_logits["id_code"].isin(targets)]
    if well_embeddings.loc[well_embeddings["role"] == truth.role, "plate_seen"].all():  # a model adapted to them
        well_embeddings = well_embeddings.assign(plate_seen=False)
    measured = signal_and_leak(well_embeddings, screen.wells, truth.labels)

    def by_experiment(table: pd.DataFrame, labels: pd.Series) -> dict[str, list[int]]:
        correct = ranked_calls(table, table["id_code"].map(labels))["rank"] == 0
        counted = correct.groupby(table["experiment"]).agg(["sum", "size"])
        return {str(e): [int(row["sum"]), int(row["size"])] for e, row in counted.iterrows()}

    designed = by_experiment(called, truth.labels)
    parameters = PlateBalancingParameters.model_validate(balancing)
    design = nodes.discover_layout(screen.wells, screen.folds)
    pooled = nodes.pool_scores(well_logits, screen.wells, parameters)
    calls = nodes.balance_plates(
        pooled, screen.wells, screen.folds, *design, catalog.load("plate_contents"), parameters
    )[4].set_index("id_code")["design_call"]  # fmt: skip
    known = truth.labels.reindex(called["id_code"])
    balanced = calls.reindex(called["id_code"]) == known
    dealt_screen = Screen.from_store(
        catalog.load("redealt_images"), catalog.load("redealt_fields"), catalog.load("redealt_sites"), screen.wells, screen.folds,
        catalog.load("redealt_statistics"),
    )  # fmt: skip
    labels = catalog.load("redealt_labels").set_index("id_code")["perturbation"]
    dealt = mean_over_sites(predict_redealt({"": models["fold_0"]}, dealt_screen, inference))
    redealt = by_experiment(dealt[dealt["id_code"].isin(labels.index)], labels)
    return {
        "top1": total(designed), "redealt_top1": total(redealt), "designed": designed, "redealt": redealt, "map": measured["map"],
        "balanced_top1": float(balanced.mean()),
        "leak": {axis: value["balanced_accuracy"] for axis, value in measured["leaks"].items()},
    }  # fmt: skip


def total(by_experiment: dict[str, list[int]]) -> float:
    """Share of right calls over all experiments."""
    right, wells = np.sum(list(by_experiment.values()), axis=0)
    return float(right / wells)


def save_model(folder: Path, seed: int, model: Any) -> None:
    """Keep a supervised model, which the arms that adapt start from."""
    from safetensors.torch import save_file

    path = folder / "study" / f"supervised_{seed}"
    path.parent.mkdir(exist_ok=True)
    save_file(model.weights, path.with_suffix(".safetensors"))
    path.with_suffix(".json").write_text(json.dumps(model.card.to_json()))


def load_model(folder: Path, seed: int) -> Any:
    """The supervised model of a screen and seed."""
    from safetensors.torch import load_file

    from deepnoise.network.trained_model import ModelCard, TrainedModel

    path = folder / "study" / f"supervised_{seed}"
    if not path.with_suffix(".json").is_file():
        raise SystemExit(f"run the arm 'supervised' on {folder.name} with seed {seed} first")
    card = ModelCard.from_json(json.loads(path.with_suffix(".json").read_text()))
    return TrainedModel(load_file(path.with_suffix(".safetensors")), card)


def run(args: argparse.Namespace) -> None:
    """Run every arm on every screen and seed, one process each, except those already in the results."""
    from contender_arms import ARMS

    done = set()
    if args.results.is_file():
        done = {(r["arm"], r["screen"], r["seed"]) for r in map(json.loads, args.results.read_text().splitlines())}
    arms = list(ARMS) if args.arms == ["all"] else args.arms
    jobs = [
        (arm, screen, seed)
        for arm in arms for screen in args.screens for seed in args.seeds if (arm, screen, seed) not in done
    ]  # fmt: skip
    started = time.monotonic()
    finished: list[str] = []

    def run_job(job: tuple[str, str, int]) -> None:
        arm, screen, seed = job
        code = (
            "import json, pathlib, contenders; "
            f"print('RESULT' + json.dumps(contenders.train_and_score(pathlib.Path({str(args.data / screen)!r}), {arm!r}, {seed})))"
        )
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{Path(__file__).parent}:{PROJECT / 'src'}"}
        process = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
        results = [line[6:] for line in process.stdout.splitlines() if line.startswith("RESULT")]
        finished.append(arm)
        left = (time.monotonic() - started) / len(finished) * (len(jobs) - len(finished)) / 60
        if not results:
            print(f"{job} failed: {process.stderr.strip()[-600:]}", flush=True)
            return
        with args.results.open("a") as file:
            file.write(results[0] + "\n")
        row = json.loads(results[0])
        print(
            f"{arm:36} {screen} {seed}: {row['top1']:.1%}, dealt anew {row['redealt_top1']:.1%}, experiment {row['leak'].get('experiment', np.nan):.1%}, "
            f"mAP {row['map']:.3f}, {row['epochs']} epochs, {row['seconds']:.0f} s; {len(finished)} of {len(jobs)}, {left:.0f} min left",
            flush=True,
        )

    with ThreadPoolExecutor(args.processes) as pool:
        list(pool.map(run_job, jobs))


def table(args: argparse.Namespace) -> None:
    """Print the means of each arm and its gain over a base arm on the same screens and seeds.

    Gains are paired by experiment; the interval resamples screens (with one screen its experiments), p is one-sided, by sign flips over
    the experiments of all screens.
    """
    from scipy.stats import permutation_test

    rows = pd.DataFrame([json.loads(line) for line in args.data.read_text().splitlines()])
    rows = rows.drop_duplicates(["arm", "screen", "seed"], keep="last")  # of a run that was repeated, the later one
    rows = rows[rows["screen"].isin(args.screens)] if args.screens else rows
    rng = np.random.default_rng(0)

    def cells(arm: str) -> pd.Series:
        """(screen, seed, experiment) -> top-1."""
        found = {
            (r.screen, r.seed, e): right / wells
            for r in rows[rows["arm"] == arm].itertuples() for e, (right, wells) in r.designed.items()
        }  # fmt: skip
        return pd.Series(found)

    base = cells(args.base)
    print(
        "| arm | tier | runs | top-1 | dealt anew | gain | 95 % | p | balanced (T2) | experiment | mAP | epochs | s |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    )
    for arm, of_arm in sorted(rows.groupby("arm"), key=lambda pair: -pair[1]["top1"].mean()):
        gain = interval = p = ""
        difference = (cells(str(arm)) - base).dropna()
        if arm != args.base and len(difference):
            by_experiment = difference.groupby(level=[0, 2]).mean()
            units = (
                by_experiment.groupby(level=0).mean()
                if by_experiment.index.get_level_values(0).nunique() > 1
                else by_experiment
            )
            draws = rng.choice(units.to_numpy(), (5000, len(units))).mean(axis=1)
            low, high = np.quantile(draws, [0.025, 0.975])
            flips = permutation_test(
                (by_experiment.to_numpy(),), np.mean, permutation_type="samples", alternative="greater", rng=0
            )
            gain, interval, p = (
                f"{100 * by_experiment.mean():+.1f}",
                f"{100 * low:+.1f} to {100 * high:+.1f}",
                f"{flips.pvalue:.3f}",
            )
        leak = np.mean([leak["experiment"] for leak in of_arm["leak"]])
        balanced = of_arm["balanced_top1"].mean()
        print(
            f"| {arm} | {of_arm['tier'].iloc[0]} | {len(of_arm)} | {of_arm['top1'].mean():.1%} | {of_arm['redealt_top1'].mean():.1%} | {gain} | {interval} | "
            f"{p} | {'' if np.isnan(balanced) else f'{balanced:.1%}'} | {leak:.0%} | {of_arm['map'].mean():.3f} | {of_arm['epochs'].iloc[0]} | {of_arm['seconds'].mean():.0f} |"
        )


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
    parser.add_argument("action", choices=["screens", "run", "table"])
    parser.add_argument("data", type=lambda text: Path(text).resolve())
    parser.add_argument("--profile", default="default")
    parser.add_argument("--screens", nargs="*", default=[])
    parser.add_argument("--arms", nargs="*", default=["all"])
    parser.add_argument("--seeds", nargs="*", type=int, default=[1])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--base", default="supervised")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    {"screens": screens, "run": run, "table": table}[arguments.action](arguments)
