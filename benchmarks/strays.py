"""Calibration of matching on plates that are not as designed: python benchmarks/strays.py

Simulated plates with exact log posteriors. Designed: each well holds one perturbation of the plate. Damaged: one well in twelve holds any
perturbation. Junk: one in twelve shows none. Re-dealt: all wells hold any perturbation. Prints accuracy, mean confidence, Brier score and
calibration error of matching without and with strays (their share: 0.001 on designed plates, 0.01 on damaged ones, else 0.1), and of Sinkhorn,
over 40 plates. The figures go into docs.
"""

from __future__ import annotations

import numpy as np

from deepnoise.evaluation.reliability import calibration_error
from deepnoise.plate_balancing.balancing import STRAY_SHARE, balance_plate
from deepnoise.plate_balancing.scores import log_softmax

SHARES = {"designed": STRAY_SHARE, "damaged": 0.01, "junk": 0.1, "re-dealt": 0.1}
SIGNAL = 4.0
"""Lead of the true perturbation over the others, in standard deviations of the scores."""


def plates(kind: str, wells: int, classes: int, count: int = 40) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Log posteriors (wells, classes), capacities and true class of each well (-1: of none) of some plates."""
    rng, made = np.random.default_rng(1), []
    for _ in range(count):
        on_plate = rng.choice(classes, wells, replace=False)
        truth = rng.permutation(on_plate)
        capacity = np.zeros(classes, int)
        capacity[on_plate] = 1
        bad = rng.choice(wells, max(1, wells // 12), replace=False)
        if kind == "re-dealt":
            truth = rng.permutation(classes)[:wells]
        if kind == "damaged":
            truth[bad] = rng.integers(0, classes, len(bad))
        scores = rng.normal(size=(wells, classes))
        scores[np.arange(wells), truth] += SIGNAL
        if kind == "junk":
            scores[bad], truth[bad] = rng.normal(size=(len(bad), classes)), -1
        made.append((log_softmax(SIGNAL * scores), capacity, truth))
    return made


def main() -> None:
    """Print one line per kind of plate and method."""
    for wells, classes in ((12, 48), (60, 240), (48, 48)):
        for kind, share in SHARES.items():
            if kind == "re-dealt" and wells == classes:
                continue
            for name, method, strays in (
                ("matching", "matching", 0.0),
                ("with strays", "matching", share),
                ("Sinkhorn", "sinkhorn", 0.0),
            ):
                confidence, correct = [], []
                for log_p, capacity, truth in plates(kind, wells, classes):
                    columns, log_q, picked = balance_plate(method, log_p, capacity, strays)
                    confidence.append(np.exp(log_q[np.arange(wells), picked]))
                    correct.append((columns[picked] == truth).astype(float))
                claimed, right = np.concatenate(confidence), np.concatenate(correct)
                print(
                    f"{wells:3d} of {classes:3d} {kind:9} {name:12} accuracy {right.mean():.3f} confidence {claimed.mean():.3f} "
                    f"Brier {((claimed - right) ** 2).mean():.3f} calibration error {calibration_error(claimed, right):.3f}"
                )


if __name__ == "__main__":
    main()
