"""Simulated screens, plate by plate: design + biology + technical noise -> raw images.

Used by the ``simulation`` pipeline and by tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from deepnoise.simulation.biology import Biology, Effects, apply_biology, draw_effects
from deepnoise.simulation.cells import CHANNELS, INDEX, TRAITS, CellShift, render_cells
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


@dataclass(frozen=True)
class _Population:
    """The cells of a screen before any technical noise."""

    baseline: np.ndarray  # (cell types, traits) of each cell type
    effects: Effects
    second_kind: np.ndarray  # (cell types, traits) by which the second kind of cells differs
    brightness: np.ndarray  # (cell types, C) standard normal
    cell_types: list[str]


def draw_biology(
    design: pd.DataFrame, effect_strength: float, traits_changed: int, biology: Biology, seed: int
) -> Effects:
    """The effects of every perturbation of a design, as :func:`render_screen` draws them."""
    return _draw_population(design, effect_strength, traits_changed, biology, seed).effects


def _draw_population(
    design: pd.DataFrame, effect_strength: float, traits_changed: int, biology: Biology, seed: int
) -> _Population:
    rng = np.random.default_rng([seed, 2])
    cell_types = list(dict.fromkeys(design["cell_type"]))
    count = int(design["sirna"].max()) + 1
    treatments = int(design.loc[design["well_type"] == "treatment", "sirna"].max()) + 1
    shift = draw_effects(count, len(cell_types), effect_strength, traits_changed, rng)
    baseline = rng.normal(0, 1.0, (len(cell_types), len(TRAITS)))
    apart = np.random.default_rng([seed, 5])
    effects = apply_biology(shift, treatments, biology, apart)
    second_kind = apart.normal(0, 1.0, baseline.shape)
    brightness = apart.normal(0, 1.0, (len(cell_types), len(CHANNELS)))
    return _Population(baseline, effects, second_kind, brightness, cell_types)


def render_screen(
    design: pd.DataFrame,
    *,
    effect_strength: float,
    traits_changed: int,
    sites: int,
    image_size: int,
    noise: NoiseLevels,
    seed: int,
    biology: Biology | None = None,
    only: list[tuple[str, int]] | None = None,
) -> Iterator[RenderedPlate]:
    """Render the images of every well of a design.

    Args:
        design: Table of :func:`deepnoise.simulation.design.design_screen`.
        effect_strength: See :func:`deepnoise.simulation.biology.draw_effects`.
        traits_changed: See :func:`deepnoise.simulation.biology.draw_effects`.
        sites: Fields of view per well S.
        image_size: H = W in px.
        noise: Strengths of the technical noise.
        seed: Random seed; the pixels of a plate do not depend on the order of drawing.
        biology: How perturbations act; None: every one has its own effect on every cell.
        only: Experiment and plate of the plates to render; None: all.

    Yields:
        One plate at a time, by experiment and plate.
    """
    biology = biology or Biology()
    population = _draw_population(design, effect_strength, traits_changed, biology, seed)
    effects = population.effects
    count = effects.shift.shape[1]
    plate_shape = PLATE_FORMATS[plate_format_of(list(design["well"].unique()))]
    for index, (experiment, rows) in enumerate(design.groupby("experiment", sort=True)):
        chance = np.random.default_rng([seed, 3, index])
        penetrance = np.exp(chance.normal(0, noise.penetrance, count))
        plates = sorted(rows["plate"].unique())
        conditions = draw_conditions(noise, len(plates), image_size, len(CHANNELS), chance)
        cell_type = population.cell_types.index(rows["cell_type"].iloc[0])
        shift = _effects_in_experiment(effects.shift[cell_type], noise, np.random.default_rng([seed, 6, index]))
        brightness = np.exp(noise.cell_type_gain * population.brightness[cell_type])
        for plate, (handling, optics) in zip(plates, conditions, strict=True):
            if only is not None and (str(experiment), int(plate)) not in only:
                continue
            rng = np.random.default_rng([seed, 4, index, int(plate)])
            apart, faults = (np.random.default_rng([seed, stream, index, int(plate)]) for stream in (7, 8))
            wells = rows[rows["plate"] == plate]
            position = np.array([parse_well(well) for well in wells["well"]])  # (W, 2)
            outer = (position == 0).any(axis=1) | (position == np.array(plate_shape) - 1).any(axis=1)
            imaged = _time_of_imaging(position, plate_shape)
            position = position / (np.array(plate_shape) - 1) - 0.5
            log_density = handling.log_density + rng.normal(0, noise.density / 2, len(wells))
            log_density = log_density + np.where(outer, np.log1p(-min(handling.edge_loss, 0.9)), 0)
            log_density = log_density + np.where(apart.random(len(wells)) < noise.dead_wells, np.log(0.1), 0)
            interaction = np.clip(1 - noise.density_interaction * log_density, 0.2, 1.8)
            sirna = wells["sirna"].to_numpy()
            effect = shift[sirna] * (penetrance[sirna] * interaction)[:, None]
            responding = effects.responding[sirna]
            traits = population.baseline[cell_type] + handling.trait_shift
            traits = traits + np.where(responding[:, None] == 1, effect, 0)  # (W, traits)
            traits = traits + rng.normal(0, noise.well_trait_shift, (len(wells), len(TRAITS)))
            traits[outer] += handling.edge_shift
            traits[:, INDEX["cell_size"]] -= 0.5 * log_density  # crowded cells are smaller
            traits += imaged[:, None] * handling.drift
            if noise.trait_limit:
                untreated = traits
                traits = _limited(traits, noise.trait_limit)
                effect = _limited(untreated + effect, noise.trait_limit) - traits
            second_kind = np.clip(apart.normal(biology.subpopulation, biology.subpopulation / 3, len(wells)), 0, 1)
            per_tile = np.repeat(np.arange(len(wells)), sites)
            tiles = []
            for block in np.array_split(per_tile, max(1, round(len(per_tile) / BLOCK))):
                shifts = []
                if biology.responding_cells < 1:
                    shifts.append(CellShift(effect[block], responding[block]))
                if biology.subpopulation:
                    kind = np.broadcast_to(population.second_kind[cell_type], (len(block), len(TRAITS)))
                    shifts.append(CellShift(kind, second_kind[block]))
                cells = render_cells(traits[block], np.exp(log_density[block]), image_size, rng, shifts)
                cells *= brightness.astype(np.float32)[:, None, None]
                tiles.append(expose(cells, optics, position[block], imaged[block], rng, faults))
            yield RenderedPlate(
                split=wells["split"].iloc[0],
                experiment=str(experiment),
                plate=int(plate),
                wells=list(wells["well"]),
                tiles=np.concatenate(tiles).reshape(len(wells), sites, len(CHANNELS), image_size, image_size),
            )


def _effects_in_experiment(shift: np.ndarray, noise: NoiseLevels, rng: np.random.Generator) -> np.ndarray:
    """(perturbations, traits) effects as one experiment shows them: in other directions, and weaker or stronger by trait."""
    size = np.linalg.norm(shift, axis=1, keepdims=True)
    direction = rng.normal(0, 1 / np.sqrt(shift.shape[1]), shift.shape)
    response = np.exp(rng.normal(0, noise.trait_response, shift.shape[1]))
    return (shift + noise.effect_direction * size * direction) * response


def _time_of_imaging(position: np.ndarray, plate_shape: tuple[int, int]) -> np.ndarray:
    """(W,) from -0.5, the first well of a plate, to 0.5, the last, row by row in alternating directions."""
    row, column = position.T
    column = np.where(row % 2 == 0, column, plate_shape[1] - 1 - column)
    return (row * plate_shape[1] + column) / (plate_shape[0] * plate_shape[1] - 1) - 0.5


def _limited(traits: np.ndarray, limit: float) -> np.ndarray:
    """Traits that approach ``limit`` standard deviations and do not exceed it."""
    return limit * np.tanh(traits / limit)
