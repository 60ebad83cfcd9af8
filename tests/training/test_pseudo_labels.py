"""Pseudo-labels of unlabelled wells from the teacher's logits."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from deepnoise.datasets.model import TrainingState
from deepnoise.parameters import PseudoLabelParameters
from deepnoise.training.fold_view import fold_view
from deepnoise.training.pseudo_labels import PseudoLabels
from tests.training.helpers import MEAN_TEACHER, PSEUDO, train


@pytest.fixture(scope="module")
def view(screen, wells, folds):
    return fold_view(screen[1], wells, folds, 0, "heldout")


def labels(view, **changes) -> PseudoLabels:
    return PseudoLabels(view, PseudoLabelParameters.model_validate(PSEUDO | {"method": "plain"} | changes))


@pytest.mark.parametrize("method", ["plain", "balanced"])
def test_training_with_pseudo_labels_changes_the_tier(screen, wells, folds, tmp_path, method):
    pseudo = PSEUDO | dict(method=method, groups=method == "balanced", views=2, memory=0.1, refresh="improved")
    stage = MEAN_TEACHER | dict(epochs=1, views="two", pseudo_labels=pseudo)
    _, teacher, history = train(
        screen, wells, folds, TrainingState(tmp_path), unlabelled_source="heldout", mean_teacher=stage
    )
    assert teacher.card.tier == ("T2+T3" if method == "balanced" else "T3") and np.isfinite(history[-1]["loss"])


def test_treated_wells_get_targets_and_controls_get_controls(view):
    logits = np.random.default_rng(0).normal(0, 1, (len(view.unlabelled), len(view.classes)))
    pseudo_labels = labels(view)
    pseudo_labels.refresh(logits)
    called = pseudo_labels.target_of_site.numpy()
    assert ((called < len(view.targets)) == view.unlabelled["target"].to_numpy()).all()
    allowed = np.where(
        (np.arange(len(view.classes)) < len(view.targets))[None] == view.unlabelled["target"].to_numpy()[:, None],
        logits,
        -np.inf,
    )
    np.testing.assert_array_equal(called, allowed.argmax(axis=1))  # this screen has one site per well


def test_balanced_labels_spread_over_the_classes_of_a_plate(view):
    wells = [(plate, f"W{i}", i < 8) for plate in ("1", "2") for i in range(10)]
    plates = pd.DataFrame(wells, columns=["plate", "well", "target"]).assign(experiment="NEW-01")
    plates["id_code"] = plates["experiment"] + "_" + plates["plate"] + "_" + plates["well"]
    full_plates = replace(view, unlabelled=plates)  # each of the 8 targets once per plate
    treated = plates["target"].to_numpy()
    logits = np.random.default_rng(1).normal(0, 1, (len(treated), len(view.classes)))
    logits[:, 0] += 3  # every well resembles class 0
    called = {}
    for method in ("plain", "balanced"):
        pseudo_labels = labels(full_plates, method=method)
        pseudo_labels.refresh(logits)
        called[method] = pseudo_labels.target_of_site
    share = {m: np.mean(called[m].numpy()[treated] == 0) for m in ("plain", "balanced")}
    assert share["plain"] > 0.6 and share["balanced"] < 0.3


def test_with_groups_only_classes_of_the_plate_are_assigned(view, wells, design):
    grouped = labels(view, method="balanced", groups=True)
    layout = grouped._layout.set_index("perturbation")["group"]
    assert layout.nunique() == 4
    true_design = design.assign(id_code=design["experiment"] + "_" + design["plate"].astype(str) + "_" + design["well"])
    number = {name: i for i, name in enumerate(view.classes)}
    names = true_design.set_index("id_code").loc[view.unlabelled["id_code"], "sirna"].astype(str)
    treated = np.flatnonzero(view.unlabelled["target"])
    logits = np.random.default_rng(2).normal(0, 1, (len(names), len(view.classes)))
    logits[np.arange(len(names)), [number.get(n, 0) for n in names]] += 8
    # a well with flat logits, slightly in favour of a class that is never on its plate
    true_name = names.iloc[treated[0]]
    logits[treated[0]] = 0.0
    logits[treated[0], next(number[n] for n in view.targets if layout[n] != layout[true_name])] = 1.0
    grouped.refresh(logits)
    called = [view.targets[k] for k in grouped.target_of_site.numpy()[treated]]
    assert [layout[c] for c in called] == [layout[n] for n in names.iloc[treated]]
    ungrouped = labels(view, method="balanced")
    ungrouped.refresh(logits)
    assert layout[view.targets[ungrouped.target_of_site.numpy()[treated[0]]]] != layout[true_name]


def test_logits_are_averaged_with_earlier_ones_and_refreshed_on_schedule(view):
    rng = np.random.default_rng(3)
    first, second = rng.normal(0, 1, (2, len(view.unlabelled), len(view.classes)))
    averaged = labels(view, memory=0.25)
    averaged.refresh(first)
    averaged_logits = averaged.refresh(second)
    np.testing.assert_allclose(averaged_logits, 0.75 * second + 0.25 * first, atol=1e-5)
    loaded = labels(view, memory=0.25)
    loaded.set_logits(averaged_logits)
    assert torch.equal(loaded.target_of_site, averaged.target_of_site)
    assert not labels(view, start=2).needs_refresh(1, True) and labels(view, start=2).needs_refresh(2, False)
    assert [averaged.needs_refresh(e, False) for e in (0, 1)] == [True, True]
    every_third = labels(view, refresh=3)
    every_third.refresh(first)
    assert [every_third.needs_refresh(e, True) for e in range(5)] == [True, False, False, True, False]
    improved = labels(view, refresh="improved")
    improved.refresh(first)
    assert improved.needs_refresh(1, True) and not improved.needs_refresh(1, False)
    assert not labels(view, method="none").needs_refresh(5, True) and labels(view).weight(5.0) == 0
