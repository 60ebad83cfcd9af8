"""Tiers of knowledge: what was known for a value, and what a statistic over wells adds to that (docs/method.md).

A statistic over a unit (the mean and standard deviation of a plate, BatchNorm over an experiment) subtracts what its
wells have in common. Where units repeat their contents between training and test, that tells which perturbations can be
there: plate design, through the back door. Such a value is of tier T1 only if a control shows that nothing is lost
when the contents are dealt anew; until then plate design is not excluded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

NOT_EXCLUDED = ", plate design not excluded"
"""Suffix of a tier whose value may owe something to the plate design."""
TIERS = (
    "T0", "T1", f"T1{NOT_EXCLUDED}", "T1c", f"T1c{NOT_EXCLUDED}", "T2", "T3", f"T3{NOT_EXCLUDED}", "T2+T3", "unknown", "T2+unknown",
)  # fmt: skip
HEADLINE_TIERS = ("T0", "T1", f"T1{NOT_EXCLUDED}", "T1c", f"T1c{NOT_EXCLUDED}")
"""Tiers of a score that may be quoted as the headline."""
LARGEST_LOSS = 0.04
"""Loss of top-1, once contents are dealt anew, that still counts as none."""


def over_unit(tier: str, unit: str, repeated: Collection[str]) -> str:
    """Tier of a value that owes something to a statistic over the treatments of each unit.

    Args:
        tier: Tier of the value without the statistic.
        unit: What the statistic is over: ``plate`` or ``experiment``.
        repeated: Units that repeat their contents, of :func:`deepnoise.ingestion.layouts.repeated_units`.
    """
    tier = "T1" if tier == "T0" else tier
    doubtful = unit in repeated and tier in ("T1", "T1c", "T3")
    return tier + NOT_EXCLUDED if doubtful else tier


def plain_tier(tier: str) -> str:
    """The tier without the doubt about the plate design."""
    return tier.removesuffix(NOT_EXCLUDED)


def short_tier(tier: str) -> str:
    """The tier in few characters; a question mark stands for plate design that is not excluded."""
    return plain_tier(tier) + ("?" if tier.endswith(NOT_EXCLUDED) else "")


def with_design(tier: str) -> str:
    """Tier of a value of this tier that also owes something to the plate design."""
    tier = plain_tier(tier)
    return tier if "T2" in tier else {"T3": "T2+T3", "unknown": "T2+unknown"}.get(tier, "T2")


def with_controls(tier: str) -> str:
    """Tier of a value of this tier that also owes something to which wells are controls."""
    plain = plain_tier(tier)
    return "T1c" + tier.removeprefix(plain) if plain in ("T0", "T1") else tier


def with_heldout_images(tier: str) -> str:
    """Tier of a value of this tier that also owes something to a fit to the images of all held-out experiments."""
    plain = plain_tier(tier)
    if plain == "T2":
        return "T2+T3"
    return "T3" + tier.removeprefix(plain) if plain in ("T0", "T1", "T1c") else tier


def loses_nothing(gain: Mapping[str, Any]) -> bool | None:
    """Whether a re-dealt control shows no loss: its interval includes 0 or lies above -LARGEST_LOSS.

    Args:
        gain: Top-1 of the re-dealt wells less that of the wells as designed, with ``gain_interval``.

    Returns:
        None without an interval, that is with fewer than six experiments: then the control decides nothing.
    """
    if gain["gain_interval"] is None:
        return None
    low, high = gain["gain_interval"]
    return bool(low <= 0 <= high or low > -LARGEST_LOSS)


def after_control(tier: str, gain: Mapping[str, Any] | None) -> str:
    """The tier once the re-dealt control is known; unchanged without a control that decides, or without a doubt.

    Args:
        tier: Tier of the value.
        gain: See :func:`loses_nothing`; None where nothing could be dealt anew.
    """
    verdict = None if gain is None else loses_nothing(gain)
    if verdict is None or not tier.endswith(NOT_EXCLUDED):
        return tier
    return plain_tier(tier) if verdict else with_design(tier)
