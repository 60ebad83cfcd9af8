"""Balancing of one plate against brute force, scipy and plainly written references."""

import re
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepnoise.plate_balancing import methods
from deepnoise.plate_balancing.greedy import GREEDY_STEPS, greedy_coefficients
from deepnoise.plate_balancing.methods import assign, match_marginals, sinkhorn
from deepnoise.plate_balancing.scores import log_probabilities, log_softmax
from deepnoise.plate_balancing.temperature import (
    _design_effect,
    _minimize,
    abstention_threshold,
    are_lists,
    fit_to_design,
    fit_to_labels,
)


def once(log_p):
    return np.ones(log_p.shape[1], int)


def random_plate(wells, classes, spread=1.0, seed=3):
    return log_softmax(np.random.default_rng(seed).normal(0, spread, (wells, classes)))


def exact_marginals(p, capacity):
    """Marginals and log partition function, summed over every assignment of the wells to slots of the layout."""
    slots = np.repeat(np.arange(len(capacity)), capacity)
    total, marginal = 0.0, np.zeros(p.shape)
    for order in permutations(range(len(slots)), len(p)):
        classes = slots[list(order)]
        weight = np.prod(p[np.arange(len(p)), classes])
        total += weight
        marginal[np.arange(len(p)), classes] += weight
    return marginal / total, np.log(total)


@pytest.mark.parametrize(("wells", "capacity"), [(6, [1] * 6), (4, [1] * 6), (4, [2, 1, 1]), (5, [2, 2, 2])])
def test_matching_is_closer_to_the_exact_marginals_than_sinkhorn(wells, capacity, monkeypatch):
    monkeypatch.setattr(methods, "EXACT_SLOTS", 0)
    capacity = np.array(capacity)
    matching_error, sinkhorn_error = [], []
    for seed in range(8):
        log_p = random_plate(wells, len(capacity), 1.0, seed)
        exact, total = exact_marginals(np.exp(log_p), capacity)
        log_b, evidence = match_marginals(log_p, capacity)
        np.testing.assert_allclose(np.exp(log_b).sum(axis=1), 1, atol=1e-6)
        matching_error.append(np.abs(np.exp(log_b) - exact).mean())
        sinkhorn_error.append(np.abs(np.exp(sinkhorn(log_p, capacity)) - exact).mean())
        # bounds of the Bethe permanent (Gurvits 2011)
        assert total - np.log(np.sqrt(2) ** wells) <= evidence <= total + 1e-3
    assert np.mean(matching_error) < 0.7 * np.mean(sinkhorn_error)


@pytest.mark.parametrize(
    ("wells", "capacity"), [(6, [1] * 6), (3, [1] * 6), (4, [2, 1, 1]), (5, [3, 2, 2]), (1, [1, 1])]
)
def test_small_plates_are_summed_exactly(wells, capacity):
    capacity = np.array(capacity)
    log_p = random_plate(wells, len(capacity), 2.0, 5)
    exact, total = exact_marginals(np.exp(log_p), capacity)
    log_b, evidence = match_marginals(log_p, capacity)
    if (np.minimum(capacity, wells) < wells).all():
        np.testing.assert_allclose(np.exp(log_b), exact, atol=1e-6)
        assert evidence == pytest.approx(total, abs=1e-5)


def test_matching_of_a_plate_without_constraint_changes_nothing():
    log_p = random_plate(5, 3)
    log_b, evidence = match_marginals(log_p, np.full(3, 5))
    np.testing.assert_allclose(log_b, log_p, atol=1e-5)
    assert evidence == pytest.approx(0, abs=1e-5)


def test_matching_keeps_capacities_and_surplus_wells_keep_their_best_class():
    capacity = np.array([3, 1, 1, 2])
    log_b, _ = match_marginals(random_plate(7, 4, 2.0), capacity, tolerance=1e-6)
    np.testing.assert_allclose(np.exp(log_b).sum(axis=0), capacity, atol=1e-3)
    log_p = np.log(np.array([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9], [0.9, 0.05, 0.05]]))
    assert match_marginals(log_p, once(log_p))[0].argmax(axis=1).tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize(("wells", "classes"), [(5, 5), (4, 6), (7, 5)])
def test_sinkhorn_reaches_its_marginals(wells, classes):
    log_p = random_plate(wells, classes)
    before = log_p.copy()
    balanced = np.exp(sinkhorn(log_p, once(log_p), 2000, 1e-9))
    np.testing.assert_array_equal(log_p, before)
    np.testing.assert_allclose(balanced.sum(axis=1), 1, atol=1e-9)
    used = balanced.sum(axis=0)
    if wells >= classes:
        np.testing.assert_allclose(used, wells / classes, atol=1e-6)
    else:
        assert (used <= 1 + 1e-6).all()


def test_sinkhorn_reaches_unequal_marginals():
    capacity = np.array([3, 1, 2])
    balanced = np.exp(sinkhorn(random_plate(6, 3), capacity, 2000, 1e-9))
    np.testing.assert_allclose(balanced.sum(axis=0), capacity, atol=1e-6)


def test_sinkhorn_agrees_with_plain_alternating_scaling():
    p = np.exp(random_plate(6, 6, 2.0, 11))
    slow = p.copy()
    for _ in range(3000):
        slow /= slow.sum(axis=0, keepdims=True)
        slow /= slow.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(sinkhorn(np.log(p), once(p), 3000, 1e-12)), slow, atol=1e-9)


def test_sinkhorn_says_how_far_off_it_stopped(caplog):
    used = np.exp(sinkhorn(random_plate(12, 12, 60.0, 4), np.ones(12, int), iterations=1)).sum(axis=0)
    said = float(re.search(r"is used (\S+) wells off its share", caplog.text)[1])
    assert said == pytest.approx(np.abs(used - 1).max(), rel=0.05)


def test_balancing_ignores_a_bias_towards_a_class():
    rng = np.random.default_rng(4)
    log_p = random_plate(6, 6, 1.0, 4)
    biased = log_softmax(log_p + rng.normal(0, 2, 6))
    balanced = sinkhorn(log_p, once(log_p), 5000, 1e-12)
    np.testing.assert_allclose(sinkhorn(balanced, once(log_p), 10, 1e-6), balanced, atol=1e-6)
    np.testing.assert_allclose(sinkhorn(biased, once(log_p), 5000, 1e-12), balanced, atol=1e-6)
    tight = {"iterations": 5000, "tolerance": 1e-7}
    np.testing.assert_allclose(
        np.exp(match_marginals(biased, once(log_p), **tight)[0]),
        np.exp(match_marginals(log_p, once(log_p), **tight)[0]),
        atol=1e-3,
    )


def test_assignment_is_the_best_of_all_permutations_and_uses_each_class_once():
    rng = np.random.default_rng(5)
    for _ in range(10):
        log_p = log_softmax(rng.normal(0, 1, (5, 5)))
        best = max(permutations(range(5)), key=lambda p: sum(log_p[i, p[i]] for i in range(5)))
        assert tuple(assign(log_p, once(log_p))) == best


def test_matching_approaches_the_assignment_as_scores_sharpen():
    for seed in range(10):
        scores = np.random.default_rng(seed).normal(0, 1, (6, 6))
        sharp = log_softmax(scores / 0.05)
        assert match_marginals(sharp, once(sharp))[0].argmax(axis=1).tolist() == assign(sharp, once(sharp)).tolist()


def recounted_coefficients(p):
    """The published greedy balancing, with all calls counted again after every step."""
    wells, classes = p.shape

    def score(counts):
        return int(np.minimum(counts * classes, wells).sum())

    def count(factors):
        return np.bincount((p * factors).argmax(axis=1), minlength=classes)

    best = np.ones(classes)
    best_score, rate = score(count(best)), 0.01
    while rate >= 0.0001:
        factors, start = best.copy(), best_score
        counts = count(factors)
        for _ in range(GREEDY_STEPS):
            factors[counts.argmax()] -= rate
            counts = count(factors)
            if score(counts) > best_score:
                best_score, best = score(counts), factors.copy()
        if best_score == start:
            rate /= 2
    return best


@pytest.mark.parametrize(("wells", "classes", "seed"), [(6, 6, 0), (8, 6, 1), (5, 7, 2), (12, 12, 3)])
def test_greedy_makes_the_same_calls_as_a_full_recount(wells, classes, seed):
    p = np.exp(log_softmax(random_plate(wells, classes, 2.0, seed).T).T)
    slow = recounted_coefficients(p)
    assert ((p * greedy_coefficients(p)).argmax(axis=1) == (p * slow).argmax(axis=1)).all()


@settings(max_examples=40, deadline=None)
@given(
    wells=st.integers(1, 9),
    classes=st.integers(1, 7),
    spread=st.sampled_from([0.1, 3, 300]),
    largest_capacity=st.integers(1, 3),
    seed=st.integers(0, 999),
)
def test_any_plate_gives_probabilities_and_calls(wells, classes, spread, largest_capacity, seed):
    log_p = random_plate(wells, classes, spread, seed)
    capacity = np.random.default_rng(seed).integers(1, largest_capacity + 1, classes)
    for balanced in (sinkhorn(log_p, capacity), match_marginals(log_p, capacity)[0]):
        assert np.isfinite(balanced).all()
        np.testing.assert_allclose(np.exp(balanced).sum(axis=1), 1, atol=1e-6)
    calls = assign(log_p, capacity)
    assert ((calls >= 0) & (calls < classes)).all()
    if wells <= capacity.sum():
        assert (np.bincount(calls, minlength=classes) <= capacity).all()


# temperature -------------------------------------------------------------------------------------------------------


def drawn_plates(temperature, seed, plates=6, size=40):
    """Scores that are calibrated at the temperature: log likelihoods of noisy class vectors times the temperature."""
    rng = np.random.default_rng(seed)
    scores, labels = [], []
    for _ in range(plates):
        centres = rng.normal(0, 0.55, (size, 12))
        label = rng.permutation(size)
        seen = centres[label] + rng.normal(0, 1, (size, 12))
        scores.append(temperature * -0.5 * ((seen[:, None] - centres[None]) ** 2).sum(axis=2))
        labels.append(label)
    return scores, labels


@pytest.mark.parametrize("temperature", [0.05, 1.0, 30.0])
def test_temperatures_are_recovered_with_and_without_labels(temperature):
    scores, labels = drawn_plates(temperature, 1)
    by_labels = fit_to_labels(np.vstack(scores), np.concatenate(labels), 0.0)
    by_design = fit_to_design(scores, [np.ones(40, int)] * len(scores), 0.0)
    assert by_labels == pytest.approx(temperature, rel=0.15) and by_design == pytest.approx(temperature, rel=0.35)


def test_models_that_agree_on_wrong_calls_are_not_taken_for_flat_scores():
    """Two optima: one between the ends, and the flat end, which is a little better where wells share their wrong entries."""
    scores = [np.array([[1.0, 0.0], [0.0, 1.0]])]  # a lead of 0.5: temperatures from 0.005 to 1.5

    def loss(temperature):
        valley = 10 * np.log(temperature / 0.1) ** 2
        return min(valley, 30 - 16 * max(np.log(temperature / 0.2), 0))

    assert loss(1.5) < loss(0.1)
    assert _minimize(loss, scores, 2.0) == 1.5 and _minimize(loss, scores, 2.0, local=True) == pytest.approx(
        0.1, rel=0.1
    )
    shallow = lambda temperature: loss(temperature) / 20  # noqa: E731 - a valley of 1.5 nats is none
    assert _minimize(shallow, scores, 2.0, local=True) == 1.5
    assert _minimize(lambda temperature: -np.log(temperature), scores, 2.0, local=True) == 1.5


def test_random_lists_stay_flat():
    rng = np.random.default_rng(0)
    lists = [np.where(rng.random((60, 60)) < 0.05, rng.integers(1, 4, (60, 60)), np.nan) for _ in range(3)]
    assert are_lists(lists) and not are_lists([np.where(np.eye(4) == 1, 1.0, np.nan)]) and not are_lists([np.eye(4)])
    temperature = fit_to_design(lists, [np.ones(60, int)] * 3, 2.0)
    assert max(log_probabilities(each, temperature, 2.0).max() for each in lists) < np.log(0.5)


@pytest.mark.parametrize(("wells", "classes"), [(5, 5), (4, 6), (7, 7)])
def test_strays_are_summed_exactly_and_approximated_alike(wells, classes, monkeypatch):
    """Against all injections of the wells that are no strays."""
    log_p = random_plate(wells, classes, 2.0, 3)
    p, stray = np.exp(log_p), np.linspace(0.01, 0.3, wells)
    marginal, total = np.zeros((wells, classes)), 0.0
    for places in product(range(classes + 1), repeat=wells):  # the last place: a stray
        taken = [c for c in places if c < classes]
        if len(set(taken)) == len(taken):
            weight = np.prod([stray[w] if c == classes else p[w, c] for w, c in enumerate(places)])
            total += weight
            for w, c in enumerate(places):
                if c < classes:
                    marginal[w, c] += weight
    exact, evidence = match_marginals(log_p, np.ones(classes, int), stray=np.log(stray))
    np.testing.assert_allclose(np.exp(exact), marginal / total, atol=1e-6)
    assert evidence == pytest.approx(np.log(total), abs=1e-5)
    monkeypatch.setattr(methods, "EXACT_SLOTS", 0)
    approximate, _ = match_marginals(log_p, np.ones(classes, int), stray=np.log(stray), tolerance=1e-6)
    assert np.abs(np.exp(approximate) - marginal / total).max() < 0.15


def test_random_scores_get_a_temperature_that_makes_them_flat():
    scores = [np.random.default_rng(s).normal(0, 1, (40, 40)) for s in range(6)]
    temperature = fit_to_design(scores, [np.ones(40, int)] * 6, 0.0)
    assert np.exp(log_softmax(scores[0] / temperature)).max() < 0.1


def test_abstention_trusts_confidence_only_without_labels():
    confidence = np.array([0.9, 0.8, 0.8, 0.4])
    none = np.zeros(4, bool), np.array([], bool)
    assert abstention_threshold(confidence, *none, 0.8) == 0.8
    assert abstention_threshold(confidence, *none, 0.95) == np.inf


def test_abstention_needs_a_bound_and_keeps_equal_confidences_together():
    labelled = np.ones(150, bool)
    confidence = np.repeat([0.99, 0.97, 0.96], 50)
    right = np.ones(150, bool)
    assert abstention_threshold(confidence, labelled, right, 0.95) == 0.96
    wrong_last = np.arange(150) < 140  # 50 right calls prove 95 %, 100 do; the ten wrong ones are all in the last 50
    assert abstention_threshold(confidence, labelled, wrong_last, 0.95) == 0.97
    one_wrong = np.arange(150) != 30  # 49 of 50 prove nothing
    assert abstention_threshold(confidence[:50], labelled[:50], one_wrong[:50], 0.95) == np.inf
    # right, but not confident enough on average: the labelled wells may have been lucky
    assert abstention_threshold(confidence - 0.1, labelled, right, 0.95) == np.inf


@pytest.mark.parametrize(("shape", "coverage"), [((8, 1), 0.1), ((20, 1), 0.5), ((2, 1), 0.0)])
def test_confident_calls_reach_their_precision_on_fresh_wells_in_most_samples(shape, coverage):
    """Perfectly calibrated, independent wells: touching the target on 143 of them would miss it in half of the samples."""
    rng = np.random.default_rng(0)
    missed, covered = [], []
    for _ in range(200):
        confidence = rng.beta(*shape, 143)
        correct = rng.random(143) < confidence
        threshold = abstention_threshold(confidence, np.ones(143, bool), correct, 0.95)
        fresh = rng.beta(*shape, 5000)
        confident = fresh >= threshold
        covered.append(confident.mean())
        missed.append(bool(confident.any()) and fresh[confident].mean() < 0.95)
    assert np.mean(missed) <= 0.1 and np.mean(covered) >= coverage


def test_wells_that_share_their_errors_count_for_fewer():
    """Whole experiments fail: as many right calls prove less than those of independent wells."""
    experiment = np.repeat(np.arange(6), 100)
    confidence = np.full(600, 0.97)
    clustered = (experiment > 0) | (np.arange(600) % 100 >= 20)
    spread = np.arange(600) % 30 != 0
    assert clustered.sum() == spread.sum() == 580
    enough = confidence, np.ones(600, bool)
    assert abstention_threshold(*enough, spread, 0.95, experiment) == 0.97
    assert abstention_threshold(*enough, clustered, 0.95, experiment) == np.inf
    assert abstention_threshold(*enough, clustered, 0.95) == 0.97


def test_plates_that_converge_are_not_reported(caplog):
    match_marginals(random_plate(30, 60), np.ones(60, int))
    match_marginals(random_plate(30, 60, spread=8.0), np.ones(60, int), iterations=6)  # asked for a few rounds
    assert not caplog.text


def test_the_best_temperature_is_found_wherever_it_lies():
    for seed, noise in enumerate((0.3, 0.6, 1.0, 1.5, 2.5, 4.0)):
        rng = np.random.default_rng(seed)
        label = rng.integers(0, 8, 400)
        scores = 3 * np.eye(8)[label] + noise * rng.normal(size=(400, 8))

        def loss(log_t, scores=scores, label=label):
            return -log_probabilities(scores, float(np.exp(log_t)), 2.0)[np.arange(400), label].mean()

        best = min(loss(log_t) for log_t in np.linspace(-4, 3, 1401))
        assert loss(np.log(fit_to_labels(scores, label, 2.0))) < best + 1e-3


def test_the_design_effect_is_that_of_a_plain_analysis_of_variance():
    wrong = np.array([1, 1, 1, 0, 0, 0, 0, 1, 0], float)
    experiment = np.array(list("aaabbbbcc"))
    groups = [wrong[experiment == e] for e in "abc"]
    between = sum(len(g) * (g.mean() - wrong.mean()) ** 2 for g in groups) / 2
    within = sum(((g - g.mean()) ** 2).sum() for g in groups) / (9 - 3)
    size = (9 - (9 + 16 + 4) / 9) / 2
    correlation = (between - within) / (between + (size - 1) * within)
    assert 0 < correlation < 1 and _design_effect(wrong, experiment) == pytest.approx(1 + (size - 1) * correlation)
    assert _design_effect(wrong, np.array(list("abcdefghi"))) == 1 == _design_effect(wrong, np.array(["a"] * 9))
    assert _design_effect(np.array([1.0, 0, 1, 0]), np.array(list("aabb"))) == 1  # less scatter than by chance


@pytest.mark.parametrize("spread", [3.0, 10.0, 20.0])
def test_sinkhorn_goes_on_from_where_it_was_until_the_end(spread):
    log_p = random_plate(40, 40, spread=spread)
    limit = np.exp(sinkhorn(log_p, once(log_p), iterations=200_000, tolerance=1e-9))
    np.testing.assert_allclose(np.exp(sinkhorn(log_p, once(log_p))), limit, atol=0.005)
