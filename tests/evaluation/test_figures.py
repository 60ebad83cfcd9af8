"""The figures of the evaluation show the numbers they are given, and so do the sentences of its chapter."""

import numpy as np
import pandas as pd
import pytest

from deepnoise.drawing.figures import TIER_COLOURS
from deepnoise.evaluation.chapter import _design, _doubts, _leak, _signal, certainty
from deepnoise.evaluation.figures import POINTS, draw_confusions, draw_embeddings, draw_scores
from deepnoise.evaluation.profiles import Profiles
from tests.evaluation.helpers import MAIN, leak, scores


def test_scores_are_drawn_with_their_intervals_and_tiers():
    figure = draw_scores(scores())
    bars = {t.name: t for t in figure.data if t.type == "bar"}
    assert list(bars["tier T1"].y) == ["z-scored by plate", "model"] and list(bars["tier T1"].x) == [
        0.3,
        0.8,
    ]
    assert bars["tier T2"].marker.color == TIER_COLOURS["T2"] and list(bars["tier T2"].x) == [0.85]
    assert list(bars["tier T1"].error_x.array) == pytest.approx([0.6, 0.1])
    assert list(bars["by experiment"].x) == [0.7, 0.9]  # drawn from below
    few = draw_scores(scores(heldout={"well": MAIN | {"interval": None}}, baselines=[], baseline=None, steps=[]))
    assert few.data[0].error_x.array == (None,)
    empty = draw_scores(scores(heldout={"well": None}, baselines=[], baseline=None, steps=[]))
    assert "nothing is scored" in empty.layout.annotations[0].text


def test_sentences_hold_the_numbers_and_ask_for_caution():
    answer = _signal(scores())
    assert "80.0 % of 40 wells (95 % interval 70.0 to 90.0 % over 6 experiments, chance 10.0 %, tier T1)" in answer.text
    assert (
        "p 100.0 %, q 25.0 %" in answer.text
        and "The best baseline (hand features, z-scored by plate) identifies 30.0 %" in answer.text
    )
    assert not answer.warning
    one = MAIN | {"interval": None, "experiments": 1, "sign_flip_p": 0.5, "by_experiment": {"A": 0.12}}
    assert certainty(one) == "no interval with 1 experiment, exact p 0.500"
    assert (
        _signal(scores(heldout={"well": one})).warning
        and "hardly better than chance" in _signal(scores(heldout={"well": one})).text
    )
    assert _signal(scores(heldout={"well": None})).warning
    assert "85.0 % of 40 wells are identified after matching (" in _design(scores(), []).text
    assert "tier T2), against 80.0 % without it." in _design(scores(), []).text
    assert "was not used" in _design(scores(steps=[]), [{"confident_share": 0.0, "confident_precision": None}]).text


def test_a_pair_that_is_predicted_no_better_than_chance_is_a_doubt():
    pair = {"of": "model", "pair": ["low", "high"], "macro_recall": 0.41, "chance": 0.5, "n": 640}
    doubts = _doubts(scores(pairs=[pair, pair | {"macro_recall": 0.7}]), [], {"suspects": {}})
    expected = "low against high, taken alone, is predicted no better than chance (41.0 %, chance 50.0 %)."
    assert sum(expected in doubt for doubt in doubts) == 1
    assert "The weakest experiment is B (70.0 %)." in doubts


def test_the_leak_is_given_before_and_after_normalization():
    leaks = {
        "embedding": {"plate": leak("leak", 0.77), "well_row": leak("none seen", 0.3)},
        "raw_intensity": {"plate": leak("leak", 0.91)},
        "normalized_intensity": {"plate": leak("none seen", 0.27)},
    }
    answer = _leak({"leaks": leaks})
    assert answer.lead == "Yes: the embeddings still reveal the plate." and answer.warning
    assert "the plate in 91.0 % and normalized brightness in 27.0 %" in answer.text
    assert "a linear probe predicts the plate in 77.0 % (chance 25.0 %)" in answer.text
    quiet = _leak({"leaks": {"embedding": {"plate": leak("none seen", 0.3), "experiment": leak("not asked", None)}}})
    assert "No leak is seen in the embeddings (1 of 2 axes could be probed)" in quiet.text and not quiet.warning
    assert _leak({"leaks": {}}) is None


def test_confused_perturbations_are_drawn_side_by_side():
    pairs = [("a", "x"), ("x", "a"), ("b", "y"), ("y", "b")]
    wrong = pd.DataFrame([{"perturbation": p, "call": c, "wells": 4, "share": 0.4, "tier": "T1"} for p, c in pairs])
    right = pd.DataFrame({"perturbation": list("abxyz"), "top1": [0.6, 0.6, 0.6, 0.6, 1.0], "wells": 10})
    drawn = draw_confusions(right, wrong).data[0]
    order = list(drawn.y)
    assert sorted(order) == list("abxyz") and list(drawn.x) == order
    assert abs(order.index("a") - order.index("x")) == abs(order.index("b") - order.index("y")) == 1
    grid = np.array(drawn.z)
    assert grid[order.index("a"), order.index("x")] == 0.4 and grid[order.index("z"), order.index("z")] == 1.0
    assert grid.sum() == pytest.approx(4 * 0.4 + 4 * 0.6 + 1)
    assert "no wrong call" in draw_confusions(right, wrong.head(0)).layout.annotations[0].text


def profiles_of(n: int) -> Profiles:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "fold": 0, "id_code": [f"w{i}" for i in range(n)], "experiment": [f"E{i % 3}" for i in range(n)], "plate": "1", "well": "B02",
            "cell_type": "X", "well_type": "treatment", "perturbation": [f"p{i % 20}" for i in range(n)], "role": "heldout",
            "plate_seen": [i % 5 == 0 for i in range(n)],
        }
    )  # fmt: skip
    values = rng.normal(size=(n, 6)).astype(np.float32)
    values[:, 0] += 9 * (np.arange(n) % 3)
    return Profiles(rows, values)


def test_embeddings_are_drawn_along_their_principal_components():
    figure = draw_embeddings(profiles_of(300))
    layers = [b.label for b in figure.layout.updatemenus[0].buttons]
    assert layers == ["by perturbation", "by experiment", "by plate", "by cell type"]
    sizes = [len(t.x) for t in figure.data if t.visible]
    assert sum(sizes) == 240  # wells on unseen plates, each once
    by_experiment = [
        t for t, on in zip(figure.data, figure.layout.updatemenus[0].buttons[1].args[1], strict=True) if on
    ]
    assert [t.name for t in by_experiment] == ["E0", "E1", "E2"]
    means = [np.mean(t.x) for t in by_experiment]
    assert abs(means[2] - means[0]) > 12  # the planted shift is the first component
    large = draw_embeddings(profiles_of(5000))
    assert sum(len(t.x) for t in large.data if t.visible) == POINTS
    assert "no embeddings" in draw_embeddings(profiles_of(2)).layout.annotations[0].text
