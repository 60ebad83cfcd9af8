"""Simulated screens, plate by plate: design + biology + technical noise -> raw images.

Used by the ``simulation`` pipeline and by tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from deepnoise.simulation.cells import CHANNELS, INDEX, TRAITS, render_cells
from deepnoise.simulation.noise import NoiseLevels, draw_conditions, expose
from deepnoise.wells import PLATE_FORMATS, parse_well, plate_format_of

BLOCK = 6  # tiles drawn at a time, so that they fit the processor's cache


@dataclass(frozen=True)
class RenderedPlate:
    """All images of one plate."""

    split: str
    experiment: str
    plate: int
    wells: list[str]  # W names
    tiles: np.ndarray  # (W, S, C, H, W) uint8


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


def render_screen(
    design: pd.DataFrame,
    *,
    effect_strength: float,
    traits_changed: int,
    sites: int,
    image_size: int,
    noise: NoiseLevels,
    seed: int,
) -> Iterator[RenderedPlate]:
    """Render the images of every well of a design.

    Args:
        design: Table of :func:`deepnoise.simulation.design.design_screen`.
        effect_strength: See :func:`draw_effects`.
        traits_changed: See :func:`draw_effects`.
        sites: Fields of view per well S.
        image_size: H = W in px.
        noise: Strengths of the technical noise.
        seed: Random seed; the pixels of a plate do not depend on the order of drawing.

    Yields:
        One plate at a time, by experiment and plate.
    """
    biology = np.random.default_rng([seed, 2])
    cell_types = list(dict.fromkeys(design["cell_type"]))
    count = int(design["sirna"].max()) + 1
    effects = draw_effects(count, len(cell_types), effect_strength, traits_changed, biology)
    baseline = biology.normal(0, 1.0, (len(cell_types), len(TRAITS)))  # baseline traits of each cell type
    plate_rows, plate_columns = PLATE_FORMATS[plate_format_of(list(design["well"].unique()))]

    for index, (experiment, rows) in enumerate(design.groupby("experiment", sort=True)):
        chance = np.random.default_rng([seed, 3, index])
        penetrance = np.exp(chance.normal(0, noise.penetrance, count))
        plates = sorted(rows["plate"].unique())
        conditions = draw_conditions(noise, len(plates), image_size, len(CHANNELS), chance)
        cell_type = cell_types.index(rows["cell_type"].iloc[0])
        for plate, (handling, optics) in zip(plates, conditions, strict=True):
            rng = np.random.default_rng([seed, 4, index, int(plate)])
            wells = rows[rows["plate"] == plate]
            position = np.array([parse_well(well) for well in wells["well"]])  # (W, 2)
            outer = (position == 0).any(axis=1) | (position == [plate_rows - 1, plate_columns - 1]).any(axis=1)
            position = position / [plate_rows - 1, plate_columns - 1] - 0.5
            log_density = handling.log_density + rng.normal(0, noise.density / 2, len(wells))
            log_density = log_density + np.where(outer, np.log1p(-min(handling.edge_loss, 0.9)), 0)
            interaction = np.clip(1 - noise.density_interaction * log_density, 0.2, 1.8)
            sirna = wells["sirna"].to_numpy()
            effect = effects[cell_type, sirna] * (penetrance[sirna] * interaction)[:, None]
            traits = baseline[cell_type] + handling.trait_shift + effect  # (W, traits)
            traits = traits + rng.normal(0, noise.well_trait_shift, traits.shape)
            traits[outer] += handling.edge_shift
            traits[:, INDEX["cell_size"]] -= 0.5 * log_density  # crowded cells are smaller
            per_tile = np.repeat(np.arange(len(wells)), sites)
            tiles = [
                expose(
                    render_cells(traits[block], np.exp(log_density[block]), image_size, rng),
                    optics,
                    position[block],
                    rng,
                )
                for block in np.array_split(per_tile, max(1, round(len(per_tile) / BLOCK)))
            ]
            yield RenderedPlate(
                split=wells["split"].iloc[0],
                experiment=str(experiment),
                plate=int(plate),
                wells=list(wells["well"]),
                tiles=np.concatenate(tiles).reshape(len(wells), sites, len(CHANNELS), image_size, image_size),
            )
