"""What perturbations do to the cells of a simulated screen: effects, look-alikes, and cells that do not respond.

Used by ``simulation.screen``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepnoise.simulation.cells import TRAITS

FAMILY_SIZE = 3
"""Perturbations in a family of look-alikes, such as siRNAs against one pathway."""


@dataclass(frozen=True)
class Biology:
    """How perturbations act; the defaults give every one its own effect on every cell."""

    inactive: float = 0.0  # share of the treatments that do nothing
    look_alikes: float = 0.0  # share of the active treatments that belong to a family
    family_similarity: float = 0.8  # correlation of the effects within a family
    responding_cells: float = 1.0  # mean share of a well's cells that respond; it differs between perturbations
    subpopulation: float = 0.0  # mean share of the cells that are of a second kind, with a baseline of its own


@dataclass(frozen=True)
class Effects:
    """What each perturbation does in each cell type."""

    shift: np.ndarray  # (cell types, perturbations, traits) in trait units
    responding: np.ndarray  # (perturbations,) share of the cells that respond
    active: np.ndarray  # (perturbations,) bool
    family: np.ndarray  # (perturbations,) number of the family, -1 for none


def draw_effects(
    perturbations: int, cell_types: int, strength: float, traits_changed: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw sparse trait changes per perturbation and cell type; the last perturbation (untreated) has none.

    Args:
        perturbations: Number of perturbations, the untreated control last.
        cell_types: Number of cell types.
        strength: Standard deviation of a changed trait, in trait units.
        traits_changed: Mean number of changed traits.
        rng: Source of randomness.

    Returns:
        (cell types, perturbations, traits) float64. About nine tenths of the variance of an effect is shared
        by the cell types.
    """
    chance = traits_changed / len(TRAITS)
    changed = rng.random((perturbations, len(TRAITS))) < chance
    empty = ~changed.any(axis=1)
    changed[empty, rng.integers(0, len(TRAITS), empty.sum())] = True
    shared = rng.normal(0, strength, changed.shape)
    specific = rng.normal(0, strength * 0.35, (cell_types, *changed.shape))
    effects = (shared[None] + specific) * changed[None]
    effects[:, -1] = 0
    return effects


def apply_biology(shift: np.ndarray, treatments: int, biology: Biology, rng: np.random.Generator) -> Effects:
    """Silence some treatments, make others alike, and draw how many cells respond to each.

    The members of a family keep the size of their effects. Their direction is
    sqrt(similarity) times that of the family's first member, plus sqrt(1 - similarity) times their own.

    Args:
        shift: (cell types, perturbations, traits) of :func:`draw_effects`: treatments first, then the controls.
        treatments: Number of treatments; controls are always active and never in a family.
        biology: The dials.
        rng: Source of randomness, apart from that of the effects, so that a dial at 0 changes nothing else.
    """
    count = shift.shape[1]
    shift = shift.copy()
    order = rng.permutation(treatments)
    inactive = order[: round(biology.inactive * treatments)]
    active = np.ones(count, bool)
    active[inactive] = False
    active[-1] = False  # untreated
    candidates = order[len(inactive) :]
    families = round(biology.look_alikes * len(candidates)) // FAMILY_SIZE
    family = np.full(count, -1)
    for number, members in enumerate(candidates[: families * FAMILY_SIZE].reshape(families, FAMILY_SIZE)):
        family[members] = number
        size = np.linalg.norm(shift[:, members], axis=2, keepdims=True)  # (cell types, members, 1)
        direction = shift[:, members] / np.maximum(size, 1e-12)
        similar = np.sqrt(biology.family_similarity) * direction[:, :1] + np.sqrt(1 - biology.family_similarity) * direction  # fmt: skip
        similar[:, 0] = direction[:, 0]
        shift[:, members] = size * similar / np.linalg.norm(similar, axis=2, keepdims=True)
    shift[:, ~active] = 0
    mean = biology.responding_cells
    responding = np.full(count, float(mean))
    if 0 < mean < 1:
        responding = np.asarray(rng.beta(8 * mean, 8 * (1 - mean), count))
    return Effects(shift, responding, active, family)
