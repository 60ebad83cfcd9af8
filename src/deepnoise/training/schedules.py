"""Schedules of learning rate, decay and loss weights. Each depends on the step or epoch alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from deepnoise.parameters import RatePhase


def learning_rate(step: int, steps: int, peak: float, phases: Sequence[RatePhase]) -> float:
    """Learning rate of a step. The phases follow one another, each along half a cosine from its start to its end.

    Warm-up, cosine, warm restarts (Loshchilov and Hutter, arXiv 1608.03983) and steps are all lists of phases.

    Args:
        step: Counted from 0.
        steps: Number of steps of the stage.
        peak: The phases' start and end are shares of it.
        phases: Their shares are relative lengths.
    """
    position = step / max(1, steps) * sum(phase.share for phase in phases)
    for phase in phases[:-1]:
        if position < phase.share:
            break
        position -= phase.share
    else:
        phase = phases[-1]
    done = min(1.0, position / phase.share)
    return peak * (phase.end + (phase.start - phase.end) * 0.5 * (1 + math.cos(math.pi * done)))


def ramp(epoch: float, length: float) -> float:
    """Sigmoid ramp exp(-5 (1 - min(t, T) / T)^2), t in fractional epochs (Laine and Aila, arXiv 1610.02242)."""
    if length <= 0:
        return 1.0
    return math.exp(-5 * (1 - min(epoch, length) / length) ** 2)


def pseudo_label_weight(epoch: float, start: int, ramp_epochs: float, weight: float) -> float:
    """Weight of the pseudo-labels: 0 before ``start``, then ``weight`` after a ramp."""
    return weight * ramp(epoch - start, ramp_epochs) if epoch >= start else 0.0


def ema_decay(step: int, epoch: int, decay: float | Mapping[int, float]) -> float:
    """Decay of the average at a step. It never exceeds 1 - 1/(step + 1), so the first update copies the student.

    Args:
        step: Steps before this one in the stage.
        epoch: Counted from 0.
        decay: One value for all epochs, or first epoch -> decay from then on.
    """
    if not isinstance(decay, float | int):
        decay = decay[max(first for first in decay if first <= epoch)]
    return min(decay, 1 - 1 / (step + 1))
