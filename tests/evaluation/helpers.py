"""The entry ``scores`` and a probe as evaluation writes them, for the tests of its figures and of the sentences about them."""

from __future__ import annotations

SCORE = {
    "top1": 0.8, "chance": 0.1, "n": 40, "experiments": 6, "interval": [0.7, 0.9], "sign_flip_p": None, "tier": "T1",
}  # fmt: skip
MAIN = SCORE | {
    "by_experiment": {"A": 0.9, "B": 0.7},
    "by_perturbation": {"p": {"recall": 1.0, "n": 2}, "q": {"recall": 0.25, "n": 4}},
    "macro_recall": 0.625,
}
GAIN = {"gain": 0.05, "gain_interval": [0.01, 0.09], "gain_sign_flip_p": None}
STEPS = [SCORE | {"step": "plain"}, SCORE | GAIN | {"step": "matching", "top1": 0.85, "tier": "T2", "chance": 0.25}]


def scores(**changes) -> dict:
    entry = {
        "unit": "well",
        "classes": 10,
        "heldout": {"well": MAIN},
        "baselines": [SCORE | {"top1": 0.3, "name": "by plate"}],
        "baseline": SCORE | {"top1": 0.3, "name": "by plate"},
        "plate_design": {"redealt": [], "group_share": {}, "redrawn": {}},
        "steps": STEPS,
        "plate_groups": {"plates": 0, "decided": 0, "checked": 0, "right": 0},
        "pairs": [],
    }
    return entry | changes


def leak(verdict: str, accuracy: float | None) -> dict:
    """A probe of the entry ``leak_probes``."""
    return {"verdict": verdict, "balanced_accuracy": accuracy, "chance": 0.25, "wells": 40}
