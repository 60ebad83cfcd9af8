"""The answers of the verdict: no lead claims more than its evidence shows, and no number of the evidence is lost."""

from __future__ import annotations

import pytest

from deepnoise.evaluation.chapter import _design, _doubts, _leak, _signal
from deepnoise.ingestion import chapter as ingestion
from deepnoise.normalization import chapter as normalization
from tests.evaluation.helpers import MAIN, STEPS, leak, scores

FEW = {"interval": None, "experiments": 4, "sign_flip_p": 0.0625}


@pytest.mark.parametrize(
    ("changes", "lead"),
    [
        ({}, "Yes: the model identifies 4 of 5 wells on plates it was not trained on."),
        ({"top1": 0.799}, "Yes: the model identifies about 4 of 5 wells on plates it was not trained on."),
        ({"tier": "T3"}, "Yes: the model identifies 4 of 5 wells on plates whose labels it has not seen."),
        ({"tier": "unknown"}, "Yes: the model identifies 4 of 5 wells on held-out plates."),
        (FEW, "Not shown beyond 4 experiments: in these, the model identifies 4 of 5 wells on plates it was not trained on."),
        (FEW | {"experiments": 1},
         "Not shown beyond one experiment: in it, the model identifies 4 of 5 wells on plates it was not trained on."),
        ({"interval": [0.05, 0.95]},
         "Not shown: the model identifies 4 of 5 wells on plates it was not trained on, but the interval includes chance."),
        ({"top1": 0.12, "interval": [0.05, 0.2]}, "No: on plates it was not trained on, the model is hardly better than chance."),
        (FEW | {"by_experiment": {"A": 0.1, "B": 0.12}}, "No: on plates it was not trained on, the model is hardly better than chance."),
    ],
)  # fmt: skip
def test_yes_needs_an_interval_above_chance(changes, lead):
    answer = _signal(scores(heldout={"well": MAIN | changes}))
    assert answer.lead == lead and answer.warning == (not lead.startswith("Yes"))
    assert "tier" in answer.sentences[0] and "chance 10.0 %" in answer.sentences[0]


def test_without_known_perturbations_nothing_is_shown():
    answer = _signal(scores(heldout={"well": None}))
    assert answer.lead.startswith("Not shown") and "unchecked" in answer.text and answer.warning


@pytest.mark.parametrize(
    ("changes", "lead"),
    [
        ({}, "It adds 5.0 percentage points (95 % interval 1.0 to 9.0)."),
        ({"gain_interval": [-0.01, 0.11]}, "No clear gain: it adds 5.0 percentage points (95 % interval -1.0 to 11.0)."),
        (FEW | {"gain_interval": None, "gain_sign_flip_p": 0.0625}, "Not shown beyond 4 experiments: there, it adds 5.0 percentage points (exact p 0.062)."),
        ({"gain": 0.0}, "No gain: with it, as many wells are identified."),
        ({"gain": -0.02}, "No gain: with it, 2.0 percentage points fewer wells are identified."),
    ],
)  # fmt: skip
def test_the_gain_from_the_plate_layout_comes_with_its_uncertainty(changes, lead):
    answer = _design(scores(steps=[STEPS[0], STEPS[1] | changes]), [])
    assert answer.lead == lead and "not biology" in answer.text


def test_groups_and_confident_calls_follow_the_gain():
    groups = {"plates": 24, "decided": 16, "checked": 8, "right": 7}
    last = {"confident_share": 0.77, "confident_precision": 0.894}
    text = _design(scores(plate_groups=groups), [last]).text
    assert "decided on 16 of 24 plates. It is right on 7 of the 8 that can be checked." in text
    assert text.endswith("77.0 % of the calls are confident, and 89.4 % of these are right.")


def test_technical_noise_is_unseen_only_where_a_probe_could_see_it():
    undecided, unseen = leak("undecided", 0.3), leak("none seen", 0.26)
    mixed = _leak({"leaks": {"embedding": {"plate": undecided, "well_row": unseen}}})
    assert mixed.lead == "Not seen in the embeddings, but undecided for the plate." and not mixed.warning
    assert "(2 of 2 axes could be probed; undecided: plate)" in mixed.text
    powerless = _leak({"leaks": {"embedding": {"plate": undecided}}})
    assert powerless.lead.startswith("Not shown") and powerless.warning
    closed = _leak({"leaks": {"embedding": {"plate": leak("void", None)}}})
    assert closed.lead.startswith("Not shown") and closed.warning


def test_a_leak_in_normalized_brightness_is_an_answer_too():
    pixels = {"raw_intensity": {"plate": leak("leak", 0.9)}, "normalized_intensity": {"plate": leak("leak", 0.6)}}
    answer = _leak({"leaks": pixels | {"embedding": {"plate": leak("none seen", 0.26)}}})
    assert answer.lead == "Yes: normalized brightness still reveals the plate." and answer.warning
    assert "60.0 %" in answer.text and "No leak is seen in the embeddings" in answer.text


def test_doubts_are_sentences_with_their_numbers():
    reliability = [{"confidence": 0.829, "accuracy": 0.77, "ece": 0.08}]
    few = scores(heldout={"well": MAIN | FEW})
    assert _doubts(few, reliability, {"suspects": {"swapped": 2, "empty": 1}}) == [
        "4 scored experiments are too few to generalize from.",
        "The weakest experiment is B (70.0 %).",
        "Confidences say 82.9 % where 77.0 % of the calls are right (calibration error 0.080).",
        "3 suspect wells or plates contradict the plate map.",
    ]


def audit(position: float, group: float, chance: float = 0.1, **changes) -> dict:
    design = {
        "class_from_well_position": {"accuracy": position, "chance": chance},
        "class_from_group_and_position": {"accuracy": group, "chance": chance},
        "confounding": {"well": {"cramers_v": 1.0, "tied": 3, "of": 3}},
        "duplicate_layouts": [],
        "plate_groups": [3],
        "layouts_in_use": {},
        "controls": {},
    }
    return design | changes


@pytest.mark.parametrize(
    ("position", "group", "chance", "lead"),
    [
        (1.0, 1.0, 1 / 3, "Yes: perturbation and well position are confounded."),
        (0.1, 0.9, 0.1, "Yes: layouts repeat, so that plate group and well position together are an answer sheet."),
        (0.04, 0.06, 0.1, "No: well position predicts perturbations hardly better than chance, with the plate group or without."),
        (1.0, 1.0, 0.5, "In part: well position predicts perturbations better than chance, but not clearly."),
    ],
)  # fmt: skip
def test_no_is_said_only_where_position_predicts_hardly_more_than_chance(position, group, chance, lead):
    answer = ingestion._answer(audit(position, group, chance))
    assert answer.lead == lead and answer.warning == (not lead.startswith("No"))


def test_the_answer_keeps_every_number_of_the_audit():
    text = ingestion._answer(audit(1.0, 1.0, 1 / 3, duplicate_layouts=[["A", "B"], ["A", "C"]])).text
    assert (
        "predicts 100.0 % of the wells (chance 33.3 %)" in text and "any part of a score may come from position" in text
    )
    assert "3 of 3 perturbations are always in one well position (Cramér’s V 1.00)" in text
    assert "2 pairs of experiments share a layout and must stay in one fold." in text


def test_the_audit_is_a_table_of_questions_and_answers():
    rows = ingestion._audit_rows(audit(0.04, 0.9)).set_index("question")
    assert rows.loc["perturbation predicted from well position", "answer"].endswith("not clearly above chance")
    assert rows.loc["perturbation predicted from plate group and well position", "answer"].endswith("gives it away")


def probe(raw: float, normalized: float, texture: float, strategy: str = "plate") -> dict:
    accuracies = dict(zip(normalization.PROBED, (raw, raw, normalized, texture), strict=True))
    parts = {name: {"balanced_accuracy": accuracy, "chance": 0.25} for name, accuracy in accuracies.items()}
    return parts | {"axis": "experiment", "strategy": strategy, "tier": "T1"}


@pytest.mark.parametrize(
    ("normalized", "texture", "lead"),
    [
        (0.9, 0.9, "Yes: after plate normalization, brightness and contrast still reveal the experiment."),
        (0.27, 0.9, "Yes: after plate normalization, texture and quantiles still reveal the experiment."),
        (0.27, 0.3, "Not clearly: after plate normalization, pixels predict the experiment hardly better than chance."),
    ],
)  # fmt: skip
def test_texture_counts_as_visible_noise(normalized, texture, lead):
    answer = normalization._leak(probe(0.99, normalized, texture))
    assert answer.lead == lead and answer.warning == lead.startswith("Yes")
    assert "99.0 %, after plate normalization of" in answer.text and "(chance 25.0 %)" in answer.text


def test_without_normalization_the_answer_does_not_claim_one():
    assert normalization._leak(probe(0.9, 0.9, 0.9, "none")).lead.startswith("Yes: without normalization, brightness")
