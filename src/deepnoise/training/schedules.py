"""What changes in the course of training: rates, decays and weights, each a function of the step or epoch alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from deepnoise.parameters import RatePhase


def learning_rate(step: int, steps: int, peak: float, phases: Sequence[RatePhase]) -> float:
    """The rate of a step: the phases follow one another, each along half a cosine from its start to its end.

    Warm-up, cosine, warm restarts (Loshchilov and Hutter, arXiv 1608.03983) and steps are all lists of phases.

    Args:
        step: Counted from 0.
        steps: Number of steps of the stage.
        peak: What the phases' start and end are shares of.
        phases: Their shares are relative lengths.
    """
    left = step / max(1, steps) * sum(phase.share for phase in phases)
    for phase in phases[:-1]:
        if left < phase.share:
            break
        left -= phase.share
    else:
        phase = phases[-1]
    done = min(1.0, left / phase.share)
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
    """Decay of the average at a step counted from 0: never above 1 - 1/(step + 1), so that the first update copies.

    Args:
        step: Steps before this one in the stage.
        epoch: Counted from 0.
        decay: One for all epochs, or first epoch -> decay from there on.
    """
    if not isinstance(decay, float | int):
        decay = decay[max(first for first in decay if first <= epoch)]
    return min(decay, 1 - 1 / (step + 1))
