"""Group inference against brute force, under plate bias, on random scores, with layouts in use."""

from itertools import permutations

import numpy as np
import pytest

from deepnoise.plate_balancing.groups import PROBABILITY_FLOOR, _members, infer_groups
from deepnoise.plate_balancing.scores import log_softmax

PLATE, GROUP = np.repeat(np.arange(4), 60), np.repeat(np.arange(4), 60)


def experiment(signal, seed, bias=None, strength=0.0, groups=(2, 0, 3, 1)):
    """(240, 240) log probabilities of four plates of 60 wells; each class of a plate's group is in one well."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 1, (240, 240))
    for i, g in enumerate(groups):
        scores[np.arange(60 * i, 60 * i + 60), 60 * g + rng.permutation(60)] += signal
    if bias == "class":  # a plate favours some classes
        scores += strength * rng.normal(size=(4, 240))[PLATE]
    if bias == "group":  # a plate favours a whole group
        scores += strength * rng.normal(size=(4, 4))[PLATE][:, GROUP]
    if bias == "well":  # some wells have far larger scores than others
        scores *= np.exp(strength * rng.normal(size=(240, 1)))
    if bias == "wild":  # a few scores are far off
        scores += strength * rng.standard_t(1.5, size=scores.shape)
    return log_softmax(scores)


def test_group_inference_is_the_best_of_all_permutations():
    rng = np.random.default_rng(0)
    for _ in range(20):
        log_p = log_softmax(rng.normal(0, 2, (16, 12)))
        plate, group_of_class = np.repeat(np.arange(4), 4), np.repeat(np.arange(4), 3)
        inferred = infer_groups(log_p, plate, group_of_class, 0.95, "raw")
        mass = np.stack([np.exp(log_p)[:, group_of_class == g].sum(1) for g in range(4)], 1)
        score = np.log(np.clip(mass, PROBABILITY_FLOOR, None))
        totals = {p: sum(score[i, p[plate[i]]] for i in range(16)) for p in permutations(range(4))}
        ranked = sorted(totals, key=totals.get, reverse=True)
        assert tuple(inferred.groups) == ranked[0]
        assert inferred.margin * 16 == pytest.approx(totals[ranked[0]] - totals[ranked[1]], abs=1e-4)


@pytest.mark.parametrize(
    ("bias", "strength"), [(None, 0.0), ("class", 1.0), ("group", 1.0), ("well", 1.0), ("wild", 0.3)]
)
def test_auto_finds_the_groups_under_every_bias(bias, strength):
    for seed in range(3):
        inferred = infer_groups(experiment(3.0, seed, bias, strength), PLATE, GROUP, 0.95)
        assert inferred.groups == [2, 0, 3, 1] and (inferred.decided or bias == "wild"), (seed, inferred)


def test_the_raw_statistic_mistakes_bias_for_groups():
    inferences = [infer_groups(experiment(3.0, s, "group", 2.0), PLATE, GROUP, 0.95, "raw") for s in range(5)]
    assert any(inferred.decided and inferred.groups != [2, 0, 3, 1] for inferred in inferences)


@pytest.mark.parametrize(
    ("bias", "strength"), [(None, 0.0), ("class", 1.5), ("group", 1.0), ("well", 1.0), ("wild", 0.3)]
)
def test_random_scores_are_undecided_in_95_of_100_experiments(bias, strength):
    layouts = {} if bias == "class" else {(1, 2, 3, 0): 22, (3, 0, 1, 2): 7, (2, 3, 0, 1): 4}
    decided = [
        infer_groups(experiment(0.0, s, bias, strength), PLATE, GROUP, 0.95, "auto", layouts).decided for s in range(40)
    ]
    assert np.mean(decided) <= 0.05


def test_a_layout_in_use_needs_less_evidence_and_a_new_layout_can_still_be_inferred():
    weak = [s for s in range(40) if 0.8 < infer_groups(experiment(1.1, s), PLATE, GROUP, 0.95).posterior < 0.95]
    right = [s for s in weak if infer_groups(experiment(1.1, s), PLATE, GROUP, 0.95).groups == [2, 0, 3, 1]]
    assert right, "no experiment is weak enough to be a test"
    assert infer_groups(experiment(1.1, right[0]), PLATE, GROUP, 0.95, "auto", {(2, 0, 3, 1): 10}).decided
    strong = infer_groups(experiment(3.0, 1), PLATE, GROUP, 0.95, "auto", {(0, 1, 2, 3): 30})
    assert strong.groups == [2, 0, 3, 1] and strong.decided


def test_equal_scores_decide_nothing():
    flat = np.full((16, 12), np.log(1 / 12))
    inferred = infer_groups(flat, np.repeat(np.arange(4), 4), np.repeat(np.arange(4), 3), 0.95)
    assert not inferred.decided and inferred.posterior == 0.5


def test_plates_in_excess_of_the_groups_get_no_group():
    log_p = log_softmax(np.random.default_rng(2).normal(0, 1, (20, 6)))
    inferred = infer_groups(log_p, np.repeat(np.arange(5), 4), np.repeat(np.arange(2), 3), 0.95)
    assert sorted(inferred.groups)[:3] == [-1, -1, -1] and set(inferred.groups) >= {0, 1}


@pytest.mark.parametrize("signal", [3.0, 8.0])
@pytest.mark.parametrize("kept", [0.0, 0.25])
def test_plates_dealt_anew_hold_none_of_the_groups(signal, kept):
    """A few wells that happen to be of one group must not filter the others away; before, such plates were decided in 9 of 10 cases."""
    decided = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        classes = np.concatenate([60 * group + rng.permutation(60) for group in (2, 0, 3, 1)])
        moved = np.flatnonzero(rng.random(240) >= kept)
        classes[moved] = classes[rng.permutation(moved)]
        scores = rng.normal(size=(240, 240))
        scores[np.arange(240), classes] += signal
        decided.append(infer_groups(log_softmax(3 * scores), PLATE, GROUP, 0.95).decided)
    assert np.mean(decided) <= (0.0 if kept == 0 else 0.6)
    assert infer_groups(3 * experiment(signal, 0), PLATE, GROUP, 0.95).decided


def test_the_share_of_members_is_that_of_wells_of_the_assigned_groups():
    rng = np.random.default_rng(0)
    group = np.where(rng.random(240) < 0.6, np.array([2, 0, 3, 1])[PLATE], rng.integers(0, 4, 240))
    per_well = np.log(np.where(group[:, None] == np.arange(4), 0.97, 0.01))
    assert _members(per_well, PLATE, np.array([2, 0, 3, 1])) == pytest.approx(0.6, abs=0.06)
    assert _members(per_well, PLATE, np.array([0, 2, 1, 3])) < 0.05


def test_one_imagined_experiment_votes_for_all_unused_layouts_together():
    """Two plates have two layouts: if one experiment uses the other one, the vote is one against one, and nothing changes."""
    scores = np.random.default_rng(0).normal(0, 1, (40, 40))
    scores[np.arange(40), np.arange(40)] += 1.0
    plate = np.repeat([0, 1], 20)
    alone = infer_groups(log_softmax(scores), plate, plate, 0.95, "centred")
    tied = infer_groups(log_softmax(scores), plate, plate, 0.95, "centred", {(1, 0): 1})
    outvoted = infer_groups(log_softmax(scores), plate, plate, 0.95, "centred", {(1, 0): 3})
    assert alone.groups == [0, 1] and 0.5 < alone.posterior < 1 and tied.posterior == pytest.approx(alone.posterior)
    odds = [i.posterior / (1 - i.posterior) for i in (alone, outvoted)]
    assert odds[0] / odds[1] == pytest.approx(3)
