"""Do probabilities mean what they say: calibration, Brier score, and what is gained by abstaining."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from deepnoise.evaluation.intervals import DRAWS, LEAST_EXPERIMENTS, LEVEL, summarize
from deepnoise.tables import SCHEMAS

BINS = 10
COVERAGES = np.arange(0.05, 1.0001, 0.05)


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error: mean distance of confidence and share of right calls over BINS bins of equally many wells
    (Nixon et al. 2019, arXiv 1904.01685)."""
    return float(sum(abs(confidence[own].sum() - right[own].sum()) for own in _bins(confidence)) / len(confidence))


def _bins(confidence: np.ndarray) -> list[np.ndarray]:
    """Rows of each bin; equal confidences stay together."""
    place = (rankdata(confidence) - 0.5) / len(confidence)
    number = (place * BINS).astype(int)
    return [np.flatnonzero(number == i) for i in np.unique(number)]


def measure_reliability(
    steps: pd.DataFrame, calls: pd.DataFrame, truth: pd.Series
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Reliability of each step's confidence on held-out wells.

    Args:
        steps: ``balancing_steps``.
        calls: ``calls``, for the wells that are sure enough.
        truth: id_code -> perturbation of held-out wells.

    Returns:
        The table ``reliability`` (calibration bins; coverage against precision), and for each step: ``ece`` with an interval over
        experiments (none under LEAST_EXPERIMENTS), ``brier`` (mean squared distance of confidence and right or wrong) likewise,
        ``accuracy``, ``confidence``, and for the plain and the last step what the sure calls are worth: ``confident_share``, ``confident_precision``.
    """
    heldout = steps[(steps["role"] == "heldout") & steps["id_code"].isin(truth.index)]
    rows: list[dict[str, Any]] = []
    summary: list[dict[str, Any]] = []
    names = list(dict.fromkeys(heldout["step"]))
    for name in names:
        own = heldout[heldout["step"] == name]
        right = (own["call"] == own["id_code"].map(truth)).to_numpy(float)
        confidence, experiment = own["confidence"].to_numpy(), own["experiment"].to_numpy(str)
        tier = str(own["tier"].iloc[0])
        for members in _bins(confidence):
            rows.append(
                _row(name, "calibration", confidence[members].mean(), right[members].mean(), len(members), tier)
            )
        order = np.argsort(-confidence, kind="stable")
        for share in COVERAGES:
            kept = order[: max(int(round(share * len(order))), 1)]
            rows.append(_row(name, "coverage", confidence[kept].min(), right[kept].mean(), len(kept), tier))
        brier = summarize((confidence - right) ** 2, experiment)
        part = {
            "step": name,
            "tier": tier,
            "n": len(own),
            "accuracy": float(right.mean()),
            "confidence": float(confidence.mean()),
            "ece": calibration_error(confidence, right),
            "ece_interval": _ece_interval(confidence, right, experiment),
            "brier": brier["mean"],
            "brier_interval": brier["interval"],
        }
        mark = {names[0]: "plain_confident", names[-1]: "design_confident"}.get(name)
        if mark:
            sure = own["id_code"].map(calls.set_index("id_code")[mark]).to_numpy(bool)
            part |= {
                "confident_share": float(sure.mean()),
                "confident_precision": float(right[sure].mean()) if sure.any() else None,
            }
        summary.append(part)
    return pd.DataFrame(rows) if rows else SCHEMAS["reliability"].empty(), summary


def _row(step: str, curve: str, confidence: float, accuracy: float, wells: int, tier: str) -> dict[str, Any]:
    return {"step": step, "curve": curve, "confidence": confidence, "accuracy": accuracy, "wells": wells, "tier": tier}


def _ece_interval(
    confidence: np.ndarray, right: np.ndarray, experiment: np.ndarray, seed: int = 0
) -> list[float] | None:
    """Percentile interval under resampling of whole experiments; a resampled ECE is biased upwards, so its low end is cautious."""
    names, code = np.unique(experiment, return_inverse=True)
    if len(names) < LEAST_EXPERIMENTS:
        return None
    members = [np.flatnonzero(code == i) for i in range(len(names))]
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(DRAWS // 10):
        rows = np.concatenate([members[i] for i in rng.integers(0, len(names), len(names))])
        drawn.append(calibration_error(confidence[rows], right[rows]))
    tail = (1 - LEVEL) / 2
    return [float(v) for v in np.quantile(drawn, [tail, 1 - tail])]


def format_reliability(summary: list[dict[str, Any]]) -> str:
    """Lines for the score table."""
    if not summary:
        return ""
    lines = ["Confidence against the truth (ECE: how far off on average; Brier: lower is better, 0 at best)", ""]
    lines.append(f"{'':28} {'right':>7} {'says':>7} {'ECE':>6} {'Brier':>6}   sure calls: share, right")
    for part in summary:
        sure = ""
        if part.get("confident_share") is not None:
            good = "-" if part["confident_precision"] is None else f"{part['confident_precision']:.1%}"
            sure = f"{part['confident_share']:.1%}, {good}"
        lines.append(
            f"  {part['step']:26} {part['accuracy']:7.1%} {part['confidence']:7.1%} {part['ece']:6.3f} {part['brier']:6.3f}   {sure}  ({part['tier']})"
        )
    return "\n".join(lines) + "\n"
