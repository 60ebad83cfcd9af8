"""Consistency and the moving average against sums and recursions computed by hand."""

import copy

import pytest
import torch

from deepnoise.training.losses import squared_error, update_ema


def test_consistency_of_equal_logits_is_zero_and_gradient_flows_to_the_student_only():
    student = torch.randn(5, 4, requires_grad=True)
    teacher = torch.randn(5, 4, requires_grad=True)
    assert float(squared_error(student, student).detach()) == pytest.approx(0.0, abs=1e-7)
    squared_error(student, teacher).backward()
    assert student.grad.abs().sum() > 0 and teacher.grad is None
    p, q = student.softmax(1).tolist(), teacher.softmax(1).tolist()
    pairs = [(a, b) for row in zip(p, q, strict=True) for a, b in zip(*row, strict=True)]
    by_hand = sum((a - b) ** 2 for a, b in pairs) / 20 * 4 / 1139
    assert float(squared_error(student, teacher).detach()) == pytest.approx(by_hand, rel=1e-4)


def small_network():
    return torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))


@pytest.mark.parametrize("decay", [0.0, 0.3, 1.0])
def test_ema_agrees_with_a_hand_recursion_buffers_included(decay):
    torch.manual_seed(0)
    teacher, student = small_network(), small_network()
    student[1].running_mean.fill_(3.0)
    student[1].num_batches_tracked.fill_(7)
    before = copy.deepcopy(teacher.state_dict())
    update_ema(teacher, student, decay)
    for name, value in teacher.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert value == 7
        else:
            torch.testing.assert_close(value, decay * before[name] + (1 - decay) * student.state_dict()[name])
