"""Calibration error, Brier score, coverage, and precision of confident calls."""

import numpy as np
import pandas as pd
import pytest

from deepnoise.evaluation.figures import draw_reliability
from deepnoise.evaluation.reliability import calibration_error, measure_reliability
from deepnoise.evaluation.score_table import format_reliability
from deepnoise.tables import validate_table


def steps_of(confidence, right, experiments=8):
    rng = np.random.default_rng(0)
    codes = [f"w{i}" for i in range(len(confidence))]
    truth = pd.Series(rng.choice(list("abcd"), len(codes)), index=codes)
    call = np.where(right, truth, "none")
    table = pd.DataFrame(
        {"id_code": codes, "step": "plain", "call": call, "confidence": confidence, "role": "heldout", "tier": "T1"}
    )
    table["experiment"] = [f"E{i % experiments}" for i in range(len(codes))]
    calls = pd.DataFrame(
        {"id_code": codes, "plain_confident": confidence >= 0.8, "design_confident": confidence >= 0.8}
    )
    return table, calls, truth


def test_calibration_error_is_zero_for_calibrated_confidence_and_large_for_overconfidence():
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.2, 1.0, 20_000)
    right = (rng.random(20_000) < confidence).astype(float)
    assert calibration_error(confidence, right) < 0.015
    assert calibration_error(np.minimum(confidence + 0.2, 1), right) > 0.1
    assert calibration_error(np.full(10, 0.9), np.array([1.0] * 5 + [0.0] * 5)) == pytest.approx(0.4)


def test_reliability_is_measured_on_held_out_wells_with_intervals_over_experiments():
    rng = np.random.default_rng(2)
    confidence = rng.uniform(0.2, 1.0, 4000)
    steps, calls, truth = steps_of(confidence, rng.random(4000) < confidence)
    matching = steps.assign(step="matching", tier="T2", confidence=np.minimum(steps["confidence"] + 0.1, 1))
    matching.loc[:9, "role"] = "validation"
    table, summary = measure_reliability(pd.concat([steps, matching]), calls, truth)
    validate_table(table, "reliability", "x")
    plain, last = summary
    right = (steps["call"] == steps["id_code"].map(truth)).to_numpy(float)
    assert plain["brier"] == pytest.approx(((confidence - right) ** 2).mean()) and last["n"] == 3990
    assert plain["brier_interval"][0] < plain["brier"] < plain["brier_interval"][1]
    assert plain["ece"] < 0.04 < last["ece"] and plain["ece_interval"][0] <= plain["ece"] + 0.02
    assert plain["confident_share"] == pytest.approx((confidence >= 0.8).mean())
    assert plain["confident_precision"] == pytest.approx(right[confidence >= 0.8].mean())
    coverage = table[(table["step"] == "plain") & (table["curve"] == "coverage")]
    assert coverage["wells"].iloc[-1] == 4000 and coverage["accuracy"].iloc[-1] == pytest.approx(right.mean())
    assert coverage["accuracy"].iloc[0] > coverage["accuracy"].iloc[-1] + 0.2
    assert "matching" in format_reliability(summary) and len(draw_reliability(table).data) == 1 + 2 * len(summary)


def test_few_experiments_give_no_interval_and_no_labels_give_no_reliability():
    confidence = np.linspace(0.1, 0.9, 40)
    steps, calls, truth = steps_of(confidence, confidence > 0.5, experiments=3)
    _, summary = measure_reliability(steps, calls, truth)
    assert summary[0]["ece_interval"] is None and summary[0]["brier_interval"] is None
    table, summary = measure_reliability(steps, calls, truth.iloc[:0])
    assert table.empty and summary == [] and format_reliability(summary) == ""
    assert (
        "no confidence can be checked"
        in draw_reliability(validate_table(table, "reliability", "x")).layout.annotations[0].text
    )
