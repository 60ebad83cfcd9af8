"""Whether confidences can be believed: calibration error, Brier score, and accuracy against coverage."""

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
    """Expected calibration error over BINS bins of equally many wells (Nixon et al. 2019, arXiv 1904.01685).

    Args:
        confidence: (W,) confidence of each call, 0 to 1.
        right: (W,) 1 where the call is correct.

    Returns:
        Mean absolute difference between confidence and share of correct calls, weighted by wells.
    """
    gaps = [abs(confidence[members].sum() - right[members].sum()) for members in _bins(confidence)]
    return float(sum(gaps) / len(confidence))


def _bins(confidence: np.ndarray) -> list[np.ndarray]:
    """Row numbers of each bin; equal confidences stay in one bin."""
    quantile = (rankdata(confidence) - 0.5) / len(confidence)
    number = (quantile * BINS).astype(int)
    return [np.flatnonzero(number == i) for i in np.unique(number)]


def measure_reliability(
    steps: pd.DataFrame, calls: pd.DataFrame, truth: pd.Series
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Compare the confidence of each step with the truth, on held-out wells.

    Args:
        steps: ``balancing_steps``.
        calls: ``calls``, for the wells that are called confidently.
        truth: id_code -> perturbation of held-out wells.

    Returns:
        The table ``reliability`` (calibration bins; accuracy against coverage), and a summary of each step:
        ``accuracy``, mean ``confidence``, ``ece`` and ``brier`` (mean squared difference between confidence
        and 1 or 0 for correct or wrong). Both errors have an interval over experiments, None with fewer than
        LEAST_EXPERIMENTS. The plain and the last step also have ``confident_share`` and
        ``confident_precision``: the share of confident calls, and how many of these are correct.
    """
    heldout = steps[(steps["role"] == "heldout") & steps["id_code"].isin(truth.index)]
    curves: list[dict[str, Any]] = []
    summary: list[dict[str, Any]] = []
    names = list(dict.fromkeys(heldout["step"]))
    confident_column = {names[0]: "plain_confident", names[-1]: "design_confident"} if names else {}
    for name in names:
        step_rows = heldout[heldout["step"] == name]
        correct = (step_rows["call"] == step_rows["id_code"].map(truth)).to_numpy(float)
        curves += _curves(step_rows, correct)
        step_summary = _summarize_step(step_rows, correct)
        if name in confident_column:
            is_confident = calls.set_index("id_code")[confident_column[name]]
            confident = step_rows["id_code"].map(is_confident).to_numpy(bool)
            step_summary["confident_share"] = float(confident.mean())
            step_summary["confident_precision"] = float(correct[confident].mean()) if confident.any() else None
        summary.append(step_summary)
    return pd.DataFrame(curves) if curves else SCHEMAS["reliability"].empty(), summary


def _curves(step_rows: pd.DataFrame, correct: np.ndarray) -> list[dict[str, Any]]:
    """Rows of the table ``reliability`` for one step: calibration bins, then accuracy against coverage."""
    step, tier = step_rows["step"].iloc[0], str(step_rows["tier"].iloc[0])
    confidence = step_rows["confidence"].to_numpy()
    rows = [
        _row(step, "calibration", confidence[members].mean(), correct[members].mean(), len(members), tier)
        for members in _bins(confidence)
    ]
    order = np.argsort(-confidence, kind="stable")
    for coverage in COVERAGES:
        kept = order[: max(int(round(coverage * len(order))), 1)]
        rows.append(_row(step, "coverage", confidence[kept].min(), correct[kept].mean(), len(kept), tier))
    return rows


def _row(step: str, curve: str, confidence: float, accuracy: float, wells: int, tier: str) -> dict[str, Any]:
    return {"step": step, "curve": curve, "confidence": confidence, "accuracy": accuracy, "wells": wells, "tier": tier}


def _summarize_step(step_rows: pd.DataFrame, correct: np.ndarray) -> dict[str, Any]:
    """Accuracy, mean confidence, calibration error and Brier score of one step."""
    confidence, experiment = step_rows["confidence"].to_numpy(), step_rows["experiment"].to_numpy(str)
    brier = summarize((confidence - correct) ** 2, experiment)
    return {
        "step": step_rows["step"].iloc[0],
        "tier": str(step_rows["tier"].iloc[0]),
        "n": len(step_rows),
        "accuracy": float(correct.mean()),
        "confidence": float(confidence.mean()),
        "ece": calibration_error(confidence, correct),
        "ece_interval": _ece_interval(confidence, correct, experiment),
        "brier": brier["mean"],
        "brier_interval": brier["interval"],
    }


def _ece_interval(
    confidence: np.ndarray, right: np.ndarray, experiment: np.ndarray, seed: int = 0
) -> list[float] | None:
    """Percentile interval of the calibration error when whole experiments are resampled.

    A resampled calibration error is biased upwards, so the low end is cautious.
    """
    names, code = np.unique(experiment, return_inverse=True)
    if len(names) < LEAST_EXPERIMENTS:
        return None
    members = [np.flatnonzero(code == i) for i in range(len(names))]
    rng = np.random.default_rng(seed)
    errors = []
    for _ in range(DRAWS // 10):
        rows = np.concatenate([members[i] for i in rng.integers(0, len(names), len(names))])
        errors.append(calibration_error(confidence[rows], right[rows]))
    tail = (1 - LEVEL) / 2
    return [float(v) for v in np.quantile(errors, [tail, 1 - tail])]
