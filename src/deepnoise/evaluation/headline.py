"""Which score may be quoted as the headline, and whether it is better than chance."""

from __future__ import annotations

from typing import Any

HEADLINE_TIERS = ("T0", "T1", "T1c")


def headline(score: dict[str, Any] | None, unit: str) -> dict[str, Any] | None:
    """The one figure to quote: top-1 of the plain call, where it owes nothing to plate design or to held-out images in training."""
    if score is None or score["tier"] not in HEADLINE_TIERS:
        return None
    return {k: score[k] for k in ("top1", "skill", "chance", "n", "experiments", "interval", "sign_flip_p", "tier")} | {
        "unit": unit
    }


def no_better_than_chance(score: dict[str, Any]) -> bool:
    """Whether the interval of a top-1 holds chance or lies below it; with few experiments, whether most of them are hardly above it.

    Hardly: at most twice chance, or a tenth of the way from chance to 1 where there are few classes.
    """
    chance = score["chance"]
    if score["interval"] is not None:
        return score["interval"][0] <= chance
    enough = chance + min(chance, 0.1 * (1 - chance))
    above = [top1 > enough for top1 in score["by_experiment"].values()]
    return sum(above) <= len(above) / 2
