"""Learning rates, ramps and decays against the schedules of torch and values computed by hand."""

import math

import pytest
import torch

from deepnoise.parameters import RatePhase
from deepnoise.training.schedules import ema_decay, learning_rate, pseudo_label_weight, ramp


def phases(*parts):
    return [RatePhase(share=share, start=start, end=end) for share, start, end in parts]


def by_torch(make, steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedule, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_warm_restarts_are_those_of_torch():
    ours = [learning_rate(step, 160, 0.1, phases(*[(40.0, 1.0, 0.01)] * 4)) for step in range(160)]
    theirs = by_torch(lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 40, eta_min=0.001), 160)
    assert ours == pytest.approx(theirs)


def test_step_schedules_are_those_of_torch():
    ours = [learning_rate(step, 160, 0.1, phases((100.0, 1.0, 1.0), (60.0, 0.1, 0.1))) for step in range(160)]
    theirs = by_torch(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [100], gamma=0.1), 160)
    assert ours == pytest.approx(theirs)


def test_the_rate_begins_with_the_first_phase_and_ends_with_the_last():
    schedule = phases((0.1, 0.0, 1.0), (0.9, 1.0, 0.01))
    rates = [learning_rate(step, 100, 0.1, schedule) for step in range(101)]
    assert rates[0] == 0 and rates[10] == pytest.approx(0.1) == max(rates) and rates[100] == pytest.approx(0.001)
    assert learning_rate(0, 0, 0.1, schedule) == 0


def test_the_ramp_is_sigmoid():
    assert ramp(0, 5) == pytest.approx(math.exp(-5)) and ramp(5, 5) == 1 and ramp(9, 5) == 1 and ramp(0, 0) == 1
    assert ramp(2.5, 5) == pytest.approx(math.exp(-1.25))


def test_pseudo_labels_have_weight_from_their_start_epoch():
    assert pseudo_label_weight(1.9, 2, 0.0, 0.05) == 0 and pseudo_label_weight(2, 2, 0.0, 0.05) == 0.05
    assert (
        pseudo_label_weight(2, 2, 4.0, 0.05) == pytest.approx(0.05 * math.exp(-5))
        and pseudo_label_weight(6, 2, 4.0, 0.05) == 0.05
    )


def test_the_first_update_copies_and_the_decay_follows_its_schedule():
    assert ema_decay(0, 0, 0.999) == 0 and ema_decay(1, 0, 0.999) == 0.5 and ema_decay(10**6, 0, 0.999) == 0.999
    published = {0: 0.5, 2: 0.9, 11: 0.99, 21: 0.999}
    assert [ema_decay(10**6, e, published) for e in (0, 1, 2, 10, 11, 20, 21, 99)] == [
        0.5,
        0.5,
        0.9,
        0.9,
        0.99,
        0.99,
        0.999,
        0.999,
    ]
