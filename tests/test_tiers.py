"""The rule of plate design in a tier, one test per case (docs/method.md, section 7)."""

import pytest

from deepnoise.evaluation.headline import headline
from deepnoise.inference.compatibility import tier_of_prediction
from deepnoise.ingestion.layouts import repeated_units
from deepnoise.network.trained_model import ModelCard
from deepnoise.normalization.statistics import tier_of
from deepnoise.simulation.design import redeal
from deepnoise.tiers import LARGEST_LOSS, TIERS, after_control, loses_nothing, over_unit, plain_tier, with_design

DOUBT = "T1, plate design not excluded"
PLATE, NONE = frozenset({"plate"}), frozenset()


@pytest.mark.parametrize(
    ("strategy", "reference", "illumination", "repeated", "tier"),
    [
        ("plate", "all", "none", PLATE, DOUBT),
        ("robust", "all", "none", PLATE, DOUBT),
        ("percentile", "all", "none", PLATE, DOUBT),
        ("plate", "all", "none", NONE, "T1"),  # contents do not repeat
        ("plate", "all", "none", frozenset({"experiment"}), "T1"),
        ("experiment", "all", "none", PLATE, "T1"),  # an experiment holds all plate groups
        ("experiment", "all", "none", frozenset({"experiment"}), DOUBT),
        ("plate", "controls", "none", PLATE, "T1c"),  # controls are the same on every plate
        ("global", "all", "none", PLATE, "T0"),
        ("none", "all", "none", PLATE, "T0"),
        ("site", "all", "none", PLATE, "T0"),
        ("none", "all", "flat_field", PLATE, DOUBT),  # the field of a plate is of all its wells
        ("plate", "controls", "flat_field", PLATE, "T1c, plate design not excluded"),
        ("experiment", "all", "flat_field", NONE, "T1"),
    ],
)
def test_normalization(strategy, reference, illumination, repeated, tier):
    assert tier_of(strategy, reference, illumination, True, repeated) == tier


@pytest.mark.parametrize(
    ("model", "unit", "repeated", "tier"),
    [
        ("T0", "plate", PLATE, DOUBT),
        ("T0", "plate", NONE, "T1"),
        ("T0", "experiment", PLATE, "T1"),
        ("T1c", "plate", PLATE, "T1c, plate design not excluded"),
        ("T1c", "experiment", PLATE, "T1c"),
        ("T3", "plate", PLATE, "T3, plate design not excluded"),
        ("T2", "plate", PLATE, "T2"),  # it knows the plate design anyway
        ("T2+T3", "plate", PLATE, "T2+T3"),
        ("unknown", "plate", PLATE, "unknown"),
    ],
)
def test_batch_statistics(model, unit, repeated, tier):
    assert over_unit(model, unit, repeated) == tier and tier in TIERS


CONTROLS = {
    "the interval includes 0": ([-0.20, 0.01], True),
    "a loss, but a small one": ([-0.035, -0.005], True),
    "a loss of up to 5 points": ([-0.05, -0.005], False),
    "a gain": ([0.02, 0.06], True),
    "few experiments": (None, None),
}


@pytest.mark.parametrize(("interval", "verdict"), CONTROLS.values(), ids=CONTROLS)
def test_the_re_dealt_control_decides(interval, verdict):
    control = {"gain_interval": interval}
    assert loses_nothing(control) is verdict
    decided = {True: "T1", False: "T2", None: DOUBT}[verdict]
    assert after_control(DOUBT, control) == decided
    assert after_control("T3, plate design not excluded", control) == decided.replace("T1", "T3").replace("T2", "T2+T3")
    assert after_control("T2", control) == "T2" and after_control("unknown", control) == "unknown"


def test_a_loss_of_exactly_the_limit_is_one():
    assert loses_nothing({"gain_interval": [-LARGEST_LOSS, -0.01]}) is False


def test_without_a_control_the_doubt_stays():
    assert after_control(DOUBT, None) == DOUBT and plain_tier(DOUBT) == "T1"


def test_a_score_without_a_doubt_is_not_changed_by_the_control():
    assert after_control("T1", {"gain_interval": [-0.5, -0.4]}) == "T1"


def test_design_on_top_of_a_tier():
    tiers = ("T1", DOUBT, "T1c", "T3", "unknown", "T2", "T2+T3", "T2+unknown")
    assert [with_design(t) for t in tiers] == ["T2", "T2", "T2", "T2+T3", "T2+unknown", "T2", "T2+T3", "T2+unknown"]


def test_the_headline_keeps_its_doubt():
    score = dict(top1=0.5, chance=0.1, n=9, experiments=1, interval=None, sign_flip_p=0.5, top5=0.6, macro_recall=0.5,
                 skill=0.4, by_experiment={}, by_perturbation={}, by_cell_type={})  # fmt: skip
    assert headline(score | {"tier": DOUBT}, "well")["tier"] == DOUBT
    assert headline(score | {"tier": "T2"}, "well") is None


def card_of(tier, strategy, reference="all"):
    card = {
        "fold": 0, "network": dict(backbone="resnet10t", channels=6, classes=11, head="arcface", scale=20.0, margin=0.1), "tier": tier,
        "channels": [], "image_size": [24, 24], "targets": [], "classes": [], "parameters": {}, "training_plates": [], "fingerprints": {},
        "normalization": {"strategy": strategy, "reference": reference, "illumination": "none"},
    }  # fmt: skip
    return ModelCard.from_json(card)


def test_the_tier_of_a_prediction_follows_from_design_and_parameters(wells):
    """Plate groups repeat in the small screen; once they are dealt anew, nothing does."""
    labelled = wells[wells["split"] == "labelled"]
    assert repeated_units(wells) == {"plate"}
    raw = labelled.assign(sirna=labelled["perturbation"], split="train")
    dealt = redeal(raw, "all", 1)
    anew = labelled.assign(perturbation=dealt["sirna"].to_numpy())
    assert repeated_units(anew) == NONE
    card = card_of("T1", "experiment")
    assert tier_of_prediction(card, "plate", wells) == DOUBT
    assert tier_of_prediction(card, "plate", anew) == "T1"
    assert tier_of_prediction(card, "experiment", wells) == "T1"
    # the model may come from a screen where nothing repeats
    assert tier_of_prediction(card_of("T1", "plate"), "none", wells) == DOUBT
    assert tier_of_prediction(card_of("T1c", "plate", "controls"), "none", wells) == "T1c"
    assert tier_of_prediction(card_of("T0", "global"), "none", wells) == "T0"
