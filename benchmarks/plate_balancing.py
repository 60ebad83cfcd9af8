"""Speed and accuracy of plate balancing, and speed of reading for test-time augmentation, on simulated data.

    export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
    python benchmarks/plate_balancing.py speed      # 204 plates of 277 wells, 1,108 perturbations
    python benchmarks/plate_balancing.py greedy     # against a full recount after every step
    python benchmarks/plate_balancing.py accuracy   # each method, at plain accuracies of 60 to 95 %
    python benchmarks/plate_balancing.py tta        # against decoding for each view and site

Scores are cosines between noisy embeddings and the vectors of 1,108 perturbations in 250 families, with a
bias per plate. The layout is that of RxRx1: four groups of 277, on other plates in each experiment, with 2.6
% of the wells missing.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from deepnoise.parameters import PlateBalancingParameters
from deepnoise.plate_balancing.balancing import DesignKnowledge, balance
from deepnoise.plate_balancing.greedy import GREEDY_STEPS, greedy_coefficients
from deepnoise.plate_balancing.scores import log_softmax
from deepnoise.tables import SCORE

GROUPS, SIZE, DIMENSIONS, FAMILIES = 4, 277, 64, 250
K = GROUPS * SIZE
PARAMETERS = PlateBalancingParameters(
    pooling="logits", temperature=1.0, unlisted=2.0, group_inference="infer", group_statistic="auto", group_posterior=0.95,
    method="auto", compare=[], precision=0.95,
)  # fmt: skip


def simulate(experiments: int, noise: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray, np.ndarray]:
    """Pooled scores, layout, the true class of each well, and the true group of its plate."""
    rng = np.random.default_rng(seed)
    family = rng.integers(0, FAMILIES, K)
    vectors = rng.normal(size=(FAMILIES, DIMENSIONS))[family] + 0.9 * rng.normal(size=(K, DIMENSIONS))
    vectors *= np.exp(rng.normal(0, 0.5, K))[:, None]  # strong and weak perturbations
    rows, labels, groups, scores = [], [], [], []
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for e in range(experiments):
        for plate, group in enumerate(rng.permutation(GROUPS)):
            label = group * SIZE + rng.permutation(SIZE)
            label = label[rng.random(SIZE) > 0.026]
            spread = noise * np.exp(0.5 * rng.normal(size=len(label)))[:, None]
            seen = (
                vectors[label] + 0.3 * rng.normal(size=DIMENSIONS) + spread * rng.normal(size=(len(label), DIMENSIONS))
            )
            scores.append(20 * (seen / np.linalg.norm(seen, axis=1, keepdims=True)) @ unit.T)
            rows += [(f"E{e:02d}_{plate}_{w:03d}", f"E{e:02d}", str(plate), f"{w:03d}") for w in range(len(label))]
            labels.append(label)
            groups.append(np.full(len(label), group))
    table = pd.DataFrame(rows, columns=["id_code", "experiment", "plate", "well"]).assign(role="heldout", tier="T1")
    wide = pd.DataFrame(np.vstack(scores), columns=[f"{SCORE}{c}" for c in range(K)])
    layout = pd.DataFrame({"perturbation": [str(c) for c in range(K)], "group": np.arange(K) // SIZE, "per_plate": 1})
    return pd.concat([table, wide], axis=1), layout, np.concatenate(labels), np.concatenate(groups)


def timed(run: Callable[[], object], rounds: int) -> list[float]:
    """Seconds of each round."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds


def report_time(name: str, seconds: list[float]) -> float:
    """Print the median and the range of some seconds; return the median."""
    print(f"{name:58} {np.median(seconds):7.2f} s ({min(seconds):.2f} to {max(seconds):.2f})", flush=True)
    return float(np.median(seconds))


def speed(rounds: int, seed: int) -> None:
    """Time all of plate balancing against its bare kernels."""
    table, layout, _, group = simulate(51, 2.0, seed)
    scores = table[[f"{SCORE}{c}" for c in range(K)]].to_numpy()
    plates = list(table.groupby(["experiment", "plate"]).indices.values())

    def kernels() -> None:
        for rows in plates:
            log_p = log_softmax(scores[rows][:, group[rows[0]] * SIZE : (group[rows[0]] + 1) * SIZE])
            p = np.vstack([np.exp(log_p), np.ones((1, SIZE))])
            mass = np.append(np.ones(len(rows)), max(SIZE - len(rows), 1e-9))
            a = np.ones(len(p))
            for _ in range(200):
                b = 1 / (a @ p)
                a = mass / (p @ b)
            linear_sum_assignment(log_p, maximize=True)

    design = DesignKnowledge(layout)
    bare = report_time("softmax, 200 rounds of Sinkhorn, assignment: bare", timed(kernels, rounds))
    fixed = report_time(
        "all of balance(), temperature fixed", timed(lambda: balance(table, design, PARAMETERS), rounds)
    )
    auto = PARAMETERS.model_copy(update={"temperature": "auto"})
    report_time("all of balance(), temperature from the design", timed(lambda: balance(table, design, auto), rounds))
    print(
        f"balance() with groups takes {fixed / bare:.2f} times as long as the bare kernels "
        f"({len(plates)} plates, {len(table)} wells, {K} perturbations)"
    )


def recounted(p: np.ndarray) -> np.ndarray:
    """The greedy coefficients, counting all calls again after every step."""
    wells, classes = p.shape
    best = np.ones(classes)
    calls = (p * best).argmax(axis=1)
    best_score = np.minimum(np.bincount(calls, minlength=classes) * classes, wells).sum()
    even, more = divmod(wells, classes)
    perfect = more * min((even + 1) * classes, wells) + (classes - more) * min(even * classes, wells)
    rate = 0.01
    while rate >= 0.0001 and best_score < perfect:
        factors, start = best.copy(), best_score
        calls = (p * factors).argmax(axis=1)
        for _ in range(GREEDY_STEPS):
            factors[np.bincount(calls, minlength=classes).argmax()] -= rate
            calls = (p * factors).argmax(axis=1)
            score = np.minimum(np.bincount(calls, minlength=classes) * classes, wells).sum()
            if score > best_score:
                best_score, best = score, factors.copy()
        if best_score == start:
            rate /= 2
    return best


def greedy(plates: int, seed: int) -> None:
    """Time the greedy coefficients against a full recount, and compare their calls."""
    table, _, _, group = simulate(plates // GROUPS, 2.0, seed)
    scores = table[[f"{SCORE}{c}" for c in range(K)]].to_numpy()
    our_seconds = recount_seconds = 0.0
    for rows in table.groupby(["experiment", "plate"]).indices.values():
        log_p = log_softmax(scores[rows][:, group[rows[0]] * SIZE : (group[rows[0]] + 1) * SIZE])
        p = np.exp(log_softmax(log_p.T).T)
        start = time.perf_counter()
        fast = greedy_coefficients(p)
        our_seconds += time.perf_counter() - start
        start = time.perf_counter()
        slow = recounted(p)
        recount_seconds += time.perf_counter() - start
        same = ((p * fast).argmax(axis=1) == (p * slow).argmax(axis=1)).all()
        print(f"plate of {len(rows)} wells, same calls: {same}", flush=True)
    print(
        f"greedy coefficients: {our_seconds:.2f} s, full recount {recount_seconds:.2f} s: {recount_seconds / our_seconds:.0f} times as fast"
    )


def accuracy(seeds: list[int]) -> None:
    """Print the accuracy of each method at several noise levels, on 204 plates each, with inferred groups."""
    print("simulated; accuracy in %, groups inferred, temperature estimated without labels")
    print(
        f"{'seed':>5} {'noise':>6} {'plain':>7} {'filter':>7} {'sinkhorn':>9} {'assignment':>11} {'matching':>9} {'groups right':>13}"
    )
    parameters = PARAMETERS.model_copy(update={"temperature": "auto", "compare": ["sinkhorn", "assignment"]})
    for seed in seeds:
        for noise in (0.8, 1.2, 1.5, 2.0, 2.5):
            table, layout, label, group = simulate(51, noise, seed)
            balanced = balance(table, DesignKnowledge(layout), parameters)
            accuracy_of = {
                step: float((rows["call"].to_numpy() == label.astype(str)).mean())
                for step, rows in balanced.steps.groupby("step")
            }
            true_groups = table.assign(group=group).drop_duplicates(["experiment", "plate"])["group"].to_numpy()
            correct_groups = int((balanced.groups["group"].to_numpy() == true_groups).sum())
            print(
                f"{seed:5d} {noise:6.1f} {100 * accuracy_of['plain']:7.2f} {100 * accuracy_of['group_filter']:7.2f} {100 * accuracy_of['sinkhorn']:9.2f} "
                f"{100 * accuracy_of['assignment']:11.2f} {100 * accuracy_of['matching']:9.2f} {correct_groups:9d}/{len(true_groups)}",
                flush=True,
            )


def tta(rounds: int, seed: int) -> None:
    """Time eight views of two sites per well: read once from the image store and turned, or decoded for each view."""
    import torch
    from PIL import Image

    from deepnoise.datasets.files import SiteFiles
    from deepnoise.datasets.folder import Folder
    from deepnoise.datasets.image_store import ImageStoreDataset
    from deepnoise.inference.views import VIEWS
    from deepnoise.ingestion.packing import plan_packing
    from deepnoise.network.network import Network
    from deepnoise.network.trained_model import NetworkSpec

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = Network(NetworkSpec("test_resnet", 6, 50, "arcface", 30.0, 0.1)).eval()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        sites = pd.DataFrame(
            {"id_code": "E_1_B02", "experiment": "E", "plate": "1", "well": "B02", "site": range(1, 17)}
        )
        sites["files"] = [tuple(f"{i}_w{c}.png" for c in range(6)) for i in range(16)]
        for files in sites["files"]:
            for name in files:
                smooth = np.cumsum(rng.normal(size=(512, 512)), axis=1)
                noisy = 255 * (smooth - smooth.min()) / np.ptp(smooth) + rng.normal(0, 3, smooth.shape)
                Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(root / name)
        dataset = ImageStoreDataset(root=str(root / "store"))
        dataset.save(plan_packing(sites, SiteFiles(Folder(root), list("abcdef"), sites), checksum=False))
        store = dataset.load()
        order = rng.permutation(16)

        def read_once() -> list[torch.Tensor]:
            """All views in raw counts; normalization takes the same time for both."""
            raw = torch.from_numpy(np.concatenate([store.read("E", "1", np.array([row])) for row in order]))
            return [view(raw) for view in VIEWS["dihedral"]]

        def decode_each_view() -> list[torch.Tensor]:
            views = []
            for view in VIEWS["dihedral"]:
                sites_read = [
                    np.stack([np.asarray(Image.open(root / name)) for name in sites["files"][row]]) for row in order
                ]
                views.append(view(torch.from_numpy(np.stack(sites_read))))
            return views

        def logits(views: list[torch.Tensor]) -> torch.Tensor:
            logits_of_views = [
                network.classify(network.embed((v[:4].float() - 120) / 40), torch.zeros(4, dtype=torch.long))
                for v in views
            ]
            return torch.stack(logits_of_views).mean(dim=0)

        with torch.inference_mode():
            print(
                f"largest difference in logits: {float((logits(read_once()) - logits(decode_each_view())).abs().max()):.1e}"
            )
            fast = report_time("each site read once from the image store", timed(read_once, rounds))
            slow = report_time("decoded sixteen times (8 views x 2 sites)", timed(decode_each_view, rounds))
    print(f"{slow / fast:.1f} times as fast (16 sites of 6 x 512 x 512)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["speed", "greedy", "accuracy", "tta"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    arguments = parser.parse_args()
    if arguments.part == "speed":
        speed(arguments.rounds, arguments.seeds[0])
    elif arguments.part == "greedy":
        greedy(4, arguments.seeds[0])
    elif arguments.part == "accuracy":
        accuracy(arguments.seeds)
    else:
        tta(arguments.rounds, arguments.seeds[0])
