"""Is the difference between a screen as designed and dealt anew more than the luck of one deal?

    python benchmarks/deals.py DATA RAW --deals 5     # folders of the results and of the images of a finished demo

The newest teacher predicts the held-out plates photographed again, their treatments dealt several times: within their own plate, which
keeps the plate groups and changes the wells alone, and over all plates of the experiment, which removes the groups.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from deepnoise.datasets.json_files import read_json
from deepnoise.datasets.simulated import COMPLETION_FILE, read_design
from deepnoise.evaluation.metrics import mean_over_sites, ranked_calls
from deepnoise.inference.predict import predict_redealt
from deepnoise.parameters import validate_parameters
from deepnoise.pipelines.normalization.nodes import measure_redealt
from deepnoise.screen import Screen
from deepnoise.simulation.redealt import RedealtImages, recorded_rendering

PROJECT = Path(__file__).resolve().parent.parent
TABLES = ("sites", "wells", "folds", "plate_histograms", "teacher")


def deal(design: pd.DataFrame, unit: list[str], seed: int) -> pd.DataFrame:
    """The held-out treatments dealt anew within each unit."""
    dealt = design.copy()
    heldout = design[(design["well_type"] == "treatment") & (design["split"] == "test")]
    for number, (_, rows) in enumerate(heldout.groupby(unit, sort=True)):
        rng = np.random.default_rng([seed, len(unit), number])
        dealt.loc[rows.index, "sirna"] = rng.permutation(rows["sirna"].to_numpy())
    return dealt


def top1(images: RedealtImages, entries: dict[str, Any], parameters: Any) -> float:
    """Top-1 by well of the teacher on dealt plates."""
    sites, wells, folds, histograms, teacher = (entries[name] for name in TABLES)
    dealt, _, _, statistics, _ = measure_redealt(images, sites, wells, histograms, parameters.normalization)
    screen = Screen(images, dealt, wells, folds, statistics)
    logits = mean_over_sites(predict_redealt(teacher, screen, parameters.inference))
    truth = images.labels().set_index("id_code")["perturbation"]
    logits = logits[logits["id_code"].isin(truth.index)]
    return float((ranked_calls(logits, logits["id_code"].map(truth))["rank"] == 0).mean())


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--deals", type=int, default=5)
    args = parser.parse_args()
    bootstrap_project(PROJECT)
    roots = {"data_root": str(args.data.resolve()), "raw_root": str(args.raw.resolve())}
    with KedroSession.create(PROJECT, runtime_params=roots) as session:
        context = session.load_context()
        entries = {name: context.catalog.load(name) for name in TABLES}
        parameters = validate_parameters(context.config_loader["parameters"])
    logging.disable(logging.INFO)
    design = read_design(args.raw)
    rendering = recorded_rendering(read_json(args.raw / COMPLETION_FILE)["simulation"])
    print(f"as designed: {100 * top1(RedealtImages(design, rendering), entries, parameters):.1f} %", flush=True)
    for name, unit in (("within plates", ["experiment", "plate"]), ("over plates", ["experiment"])):
        values = []
        for seed in range(args.deals):
            values.append(100 * top1(RedealtImages(deal(design, unit, seed), rendering), entries, parameters))
        error = np.std(values, ddof=1) / np.sqrt(len(values))
        print(
            f"{name}: {' '.join(f'{v:.1f}' for v in values)} %, mean {np.mean(values):.1f}, standard error {error:.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
