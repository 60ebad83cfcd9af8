"""Temperature and balancing without labels: python benchmarks/label_free.py [simulated | real TABLES OUTPUTS]

``real``: votes of RxRx1 submissions, single ones, and neighbours, on 4 labelled held-out experiments, by experiment. TABLES: folder of RxRx1's
csv files with test_labels.csv. OUTPUTS: folder with submissions/ and site_neighbours.csv.gz. ``simulated``: votes of 6, 12 and 40 models in
families that share errors, and scores of single models, on fresh seeds. Prints top-1 of plain, assignment, Sinkhorn and matching at the temperature
found without a label, with and without the sharpening of lists. The figures go into docs/results.md.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from deepnoise.datasets.rxrx1 import RxRx1WellsDataset
from deepnoise.ingestion.layouts import discover_groups, layouts_in_use
from deepnoise.parameters import PlateBalancingParameters
from deepnoise.plate_balancing import balancing
from deepnoise.plate_balancing.balancing import DesignKnowledge, balance
from deepnoise.plate_balancing.scores import pool_scores
from deepnoise.tables import SCORE

PARAMETERS = PlateBalancingParameters(
    pooling="logits", temperature="auto", unlisted=2.0, group_inference="infer", group_statistic="auto", group_posterior=0.95,
    method="matching", compare=["assignment", "sinkhorn"], precision=0.95,
)  # fmt: skip
SHARPNESS = balancing.LIST_SHARPNESS


def report(name: str, table: pd.DataFrame, knowledge: DesignKnowledge, truth: pd.Series) -> None:
    """Print the share of correct calls after each step, over all wells and by experiment."""
    for sharpness in (1.0, SHARPNESS):
        balancing.LIST_SHARPNESS = sharpness
        steps = balance(table, knowledge, PARAMETERS).steps
        steps = steps[steps["id_code"].isin(truth.index)]
        correct = steps.assign(correct=steps["call"] == steps["id_code"].map(truth))
        top1 = correct.groupby("step", sort=False)["correct"].mean()
        by_experiment = correct[correct["step"] == "matching"].groupby("experiment")["correct"].mean()
        shares = "  ".join(f"{step} {share:.4f}" for step, share in top1.items())
        each = " ".join(f"{share:.3f}" for share in by_experiment) if len(by_experiment) < 5 else ""
        print(f"{name:22} / {sharpness:g}: {shares}   matching by experiment {each}", flush=True)


def real(tables: Path, outputs: Path) -> None:
    """Votes, single submissions and neighbours of models by others."""
    wells = RxRx1WellsDataset(root=str(tables)).load()
    labelled = wells.dropna(subset=["perturbation"])
    layout = discover_groups(labelled)
    knowledge = DesignKnowledge(layout, layouts_in_use(labelled, layout))
    truth = pd.read_csv(tables / "test_labels.csv", dtype=str).set_index("id_code")["sirna"]
    experiments = set(truth.index.str.rsplit("_", n=2).str[0])
    files = sorted((outputs / "submissions").glob("*.csv.gz"))
    calls = [pd.read_csv(file, dtype=str).set_axis(["id_code", "perturbation"], axis=1) for file in files]
    without_groups = [i for i, file in enumerate(files) if "_pg" not in file.name]
    chosen = {
        "13 models": range(len(files)),
        "7 without groups": without_groups,
        "6 with groups": set(range(len(files))) - set(without_groups),
    }
    chosen |= {"3 models": range(3)} | {f"model {i}": [i] for i in (3, 8, 10)}

    def pooled(long: pd.DataFrame) -> pd.DataFrame:
        known = long["id_code"].isin(wells["id_code"]) & long["id_code"].str.rsplit("_", n=2).str[0].isin(experiments)
        summed = long[known].groupby(["id_code", "perturbation"], as_index=False)["score"].sum()
        return pool_scores(summed.assign(tier="unknown"), wells, "logits")

    for name, members in chosen.items():
        votes = pd.concat([calls[i] for i in sorted(members)]).assign(score=1.0)
        report(name, pooled(votes), knowledge, truth)
    sites = pd.read_csv(outputs / "site_neighbours.csv.gz")
    pairs = [
        sites[["id_code", f"label{i}", f"sim{i}"]].set_axis(["id_code", "perturbation", "score"], axis=1)
        for i in range(1, 6)
    ]
    neighbours = pd.concat(pairs).query("perturbation >= 0")
    neighbours["perturbation"] = neighbours["perturbation"].astype(int).astype(str)
    report(
        "neighbours", pooled(neighbours[neighbours["perturbation"].isin(labelled["perturbation"])]), knowledge, truth
    )


def simulated() -> None:
    """Plates of 100 perturbations on which models see noisy points in 12 dimensions, and share part of their noise."""
    for voters, family in ((6, 3), (12, 4), (40, 8)):
        for noise in (0.5, 0.8, 1.1, 1.5):
            for shared in (0.5, 0.8, 0.95):
                plates = [_votes(voters, family, noise, shared, seed) for seed in range(12)]
                report(f"{voters} votes {noise} {shared}", *_screen(plates))
    for strength in (2.0, 3.0, 5.0, 10.0):
        report(f"single {strength:g}", *_screen([_single(strength, seed) for seed in range(12)]))


def _votes(voters: int, family: int, noise: float, shared: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, voters, int(100 * noise), int(100 * shared)])
    centres, truth = rng.normal(size=(100, 12)), rng.permutation(100)
    spread = noise * rng.gamma(4.0, 0.25, 100)[:, None]  # some wells are harder than others
    common, votes = rng.normal(size=(100, 12)), np.zeros((100, 100))
    of_family = rng.normal(size=(-(-voters // family), 100, 12))
    for voter in range(voters):
        error = np.sqrt(shared) * (0.8 * common + 0.6 * of_family[voter // family])
        seen = centres[truth] + spread * (error + np.sqrt(1 - shared) * rng.normal(size=(100, 12)))
        votes[np.arange(100), ((seen[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)] += 1
    return np.where(votes == 0, np.nan, votes), truth


def _single(strength: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, int(strength)])
    scores, truth = rng.normal(size=(100, 100)), rng.permutation(100)
    scores[np.arange(100), truth] += strength * rng.gamma(2.0, 0.5, 100)
    return scores, truth


def _screen(plates: list[tuple[np.ndarray, np.ndarray]]) -> tuple[pd.DataFrame, DesignKnowledge, pd.Series]:
    """Table, knowledge and truth of plates that each hold the same 100 perturbations once."""

    def rows() -> Iterator[tuple[str, str, str, str, str, str, str]]:
        for plate, (_, truth) in enumerate(plates):
            for well, label in enumerate(truth):
                code = f"{'ABCDEFGHIJ'[well // 10]}{well % 10 + 1:02d}"
                yield f"E{plate}_1_{code}", f"E{plate}", "1", code, "heldout", "T1", str(label)

    meta = pd.DataFrame(rows(), columns=["id_code", "experiment", "plate", "well", "role", "tier", "truth"])
    scores = pd.DataFrame(np.concatenate([scores for scores, _ in plates])).add_prefix(SCORE)
    layout = pd.DataFrame({"perturbation": [str(c) for c in range(100)], "group": 0, "per_plate": 1})
    return meta.drop(columns="truth").join(scores), DesignKnowledge(layout), meta.set_index("id_code")["truth"]


if __name__ == "__main__":
    if sys.argv[1:2] == ["real"]:
        real(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        simulated()
