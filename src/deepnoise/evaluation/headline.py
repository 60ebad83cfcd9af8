"""Which score may be quoted as the headline, and whether it is better than chance."""

from __future__ import annotations

from deepnoise.evaluation.score_types import Headline, Score
from deepnoise.report.chapter import hardly_above_chance
from deepnoise.tiers import HEADLINE_TIERS


def headline(score: Score | None, unit: str) -> Headline | None:
    """The one figure to quote: top-1 of the plain call.

    None if the tier is not in HEADLINE_TIERS: such a score may owe something to the plate design or to held-out
    images.
    """
    if score is None or score["tier"] not in HEADLINE_TIERS:
        return None
    return {
        "top1": score["top1"],
        "skill": score["skill"],
        "chance": score["chance"],
        "n": score["n"],
        "experiments": score["experiments"],
        "interval": score["interval"],
        "sign_flip_p": score["sign_flip_p"],
        "tier": score["tier"],
        "unit": unit,
    }


def no_better_than_chance(score: Score) -> bool:
    """Whether the interval of top-1 includes chance or is below it.

    Without an interval: whether at least half of the experiments are `hardly_above_chance`.
    """
    chance = score["chance"]
    if score["interval"] is not None:
        return score["interval"][0] <= chance
    hardly = [hardly_above_chance(top1, chance) for top1 in score["by_experiment"].values()]
    return sum(hardly) >= len(hardly) / 2
