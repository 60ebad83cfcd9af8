"""Technical noise of a simulated screen at four levels: experiment, plate, well position and image.

Plate normalization can invert the gain and offset of each plate. It cannot remove the rest: blur,
illumination, bleed-through, penetrance, and shifts of the same traits that perturbations change.
Used by ``simulation.screen``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from deepnoise.simulation.cells import TRAITS


@dataclass(frozen=True)
class NoiseLevels:
    """Strengths of the technical noise; 0 switches one off. ``log-sd``: standard deviation of a log factor.

    The defaults are the profile ``additive`` of :mod:`deepnoise.simulation.profiles`: experiments and plates shift
    traits, whatever the perturbation.
    """

    experiment_gain: float = 0.45  # log-sd, per channel
    plate_gain: float = 0.07  # log-sd, per channel
    experiment_offset: float = 3.0  # grey levels, sd, per channel
    plate_offset: float = 0.8  # grey levels, sd, per channel
    blur: float = 0.35  # px, sd between experiments of the blur width
    illumination: float = 0.12  # relative fall-off from centre to corner
    bleed_through: float = 0.06  # share of a channel that appears in its neighbour
    position_gain: float = 0.05  # relative brightness gradient across the plate
    edge: float = 0.5  # in outer wells: sd of trait shifts, and three times the relative cell loss
    density: float = 0.25  # log-sd of cell number between experiments; half as large between wells
    sensor: float = 2.0  # grey levels, sd of read noise; shot noise is added to it
    penetrance: float = 0.20  # log-sd of the effect strength, per experiment and perturbation
    experiment_trait_shift: float = 0.40  # standard deviations, per trait
    plate_trait_shift: float = 0.12  # standard deviations, per trait
    well_trait_shift: float = 0.20  # standard deviations, per trait
    density_interaction: float = 0.20  # relative loss of effect per log unit of density
    cell_type_gain: float = 0.0  # log-sd between cell types, per channel
    background: float = 0.0  # 1: the background is as much brighter as the gain; 0: it does not follow the gain
    gain_correlation: float = 0.0  # correlation of the log gains of two channels, of experiments and of plates
    effect_direction: float = (
        0.0  # change of an effect's direction, per experiment and perturbation; 1: as large as the effect
    )
    trait_response: float = 0.0  # log-sd of a factor on all effects, per experiment and trait
    trait_limit: float = 0.0  # standard deviations that no trait exceeds: z becomes limit * tanh(z / limit)
    gain_drift: float = 0.0  # log-sd, per plate and channel, from the first imaged well to the last
    trait_drift: float = 0.0  # standard deviations, per plate and trait, from the first imaged well to the last
    dead_wells: float = 0.0  # probability that a well has lost nine tenths of its cells
    out_of_focus: float = 0.0  # probability that a site is out of focus
    debris: float = 0.0  # probability that a site shows bright debris


@dataclass(frozen=True)
class PlateOptics:
    """Effects of the microscope and the staining on the images of a plate."""

    gain: np.ndarray  # (C,)
    offset: np.ndarray  # (C,) grey levels
    blur: float  # px
    mixing: np.ndarray  # (C, C); row i mixes the channels seen in channel i
    field: np.ndarray  # (C, H, W) illumination, mean 1
    slope: np.ndarray  # (2, C) relative brightness change over the plate's height and width
    sensor: float  # grey levels
    drift: np.ndarray  # (C,) log change of brightness from the first imaged well to the last
    out_of_focus: float  # probability per site
    debris: float  # probability per site


@dataclass(frozen=True)
class PlateConditions:
    """Effects of handling on the cells of a plate."""

    trait_shift: np.ndarray  # (traits,)
    log_density: float
    edge_shift: np.ndarray  # (traits,) added to trait_shift in outer wells
    edge_loss: float  # relative loss of cells in outer wells
    drift: np.ndarray  # (traits,) shift from the first imaged well to the last


def draw_conditions(
    levels: NoiseLevels, plates: int, size: int, channels: int, rng: np.random.Generator
) -> list[tuple[PlateConditions, PlateOptics]]:
    """Draw the technical conditions of the plates of one experiment.

    Args:
        levels: Strengths of the noise.
        plates: Number of plates P.
        size: H = W in px.
        channels: Number of channels C.
        rng: Source of randomness, one per experiment.

    Returns:
        One (conditions, optics) pair per plate.
    """
    n = len(TRAITS)
    more = rng.spawn(1)[0]  # what profile "additive" lacks is drawn apart, so that its screens stay the same
    gain = _correlated(rng.normal(0, levels.experiment_gain, channels), levels.experiment_gain, levels, more)
    offset = 6.0 + rng.normal(0, levels.experiment_offset, channels)
    blur = abs(rng.normal(0, levels.blur))
    mixing = np.eye(channels) + levels.bleed_through * np.eye(channels, k=-1) * rng.uniform(0.5, 1.5, (channels, 1))
    centre = rng.normal(0, 0.25, 2)
    shift = rng.normal(0, levels.experiment_trait_shift, n)
    log_density = rng.normal(0, levels.density)
    edge_shift = rng.normal(0, levels.edge, n) * (rng.random(n) < 0.3)
    axis = np.linspace(-1, 1, size)
    drawn = []
    for _ in range(plates):
        cy, cx = centre + rng.normal(0, 0.08, 2)
        fall = 1 - levels.illumination * ((axis[:, None] - cy) ** 2 + (axis[None] - cx) ** 2) / 2
        strength = rng.uniform(0.6, 1.4, (channels, 1, 1))
        field = 1 + (fall / fall.mean() - 1)[None] * strength
        log_gain = gain + _correlated(rng.normal(0, levels.plate_gain, channels), levels.plate_gain, levels, more)
        background = offset + rng.normal(0, levels.plate_offset, channels)
        optics = PlateOptics(
            gain=np.exp(log_gain),
            offset=np.clip(background * np.exp(levels.background * log_gain), 0, 40),
            blur=blur,
            mixing=mixing.astype(np.float32),
            field=field.astype(np.float32),
            slope=rng.normal(0, levels.position_gain, (2, channels)),
            sensor=levels.sensor,
            drift=more.normal(0, levels.gain_drift, channels),
            out_of_focus=levels.out_of_focus,
            debris=levels.debris,
        )
        conditions = PlateConditions(
            trait_shift=shift + rng.normal(0, levels.plate_trait_shift, n),
            log_density=log_density + rng.normal(0, levels.density / 4),
            edge_shift=edge_shift,
            edge_loss=levels.edge / 3,
            drift=more.normal(0, levels.trait_drift, n),
        )
        drawn.append((conditions, optics))
    return drawn


def _correlated(own: np.ndarray, spread: float, levels: NoiseLevels, rng: np.random.Generator) -> np.ndarray:
    """(C,) normal values of standard deviation ``spread`` whose pairs correlate by ``gain_correlation``."""
    shared = rng.normal(0, spread)
    return np.sqrt(levels.gain_correlation) * shared + np.sqrt(1 - levels.gain_correlation) * own


def expose(
    cells: np.ndarray,
    optics: PlateOptics,
    position: np.ndarray,
    imaged: np.ndarray,
    rng: np.random.Generator,
    faults: np.random.Generator,
) -> np.ndarray:
    """Turn clean tiles into images: debris, blur, bleed-through, gain, illumination, offset, shot and sensor noise.

    Args:
        cells: (T, C, H, W) float32 fluorescence.
        optics: The plate's optics.
        position: (T, 2) row and column of each tile's well on the plate, scaled to [-0.5, 0.5].
        imaged: (T,) when each tile's well was imaged: -0.5 the first of the plate, 0.5 the last.
        rng: Source of the pixel noise.
        faults: Source of debris and lost focus.

    Returns:
        (T, C, H, W) uint8 grey levels.
    """
    tiles, channels, height, width = cells.shape
    for tile in np.flatnonzero(faults.random(tiles) < optics.debris):
        cells[tile] += _debris(channels, height, width, faults)
    for tile in np.flatnonzero(faults.random(tiles) < optics.out_of_focus):
        lost = faults.uniform(1.5, 3.0)
        cells[tile] = gaussian_filter(cells[tile], sigma=(0, lost, lost), truncate=3.0)
    if optics.blur > 0.15:
        cells = gaussian_filter(cells, sigma=(0, 0, optics.blur, optics.blur), truncate=3.0)
    light = optics.mixing @ cells.reshape(tiles, channels, -1)  # (T, C, H*W)
    light = light.reshape(tiles, channels, height, width)
    gain = 48.0 * optics.gain * (1 + position @ optics.slope)  # (T, C)
    gain *= np.exp(imaged[:, None] * optics.drift)
    light *= gain.astype(np.float32)[:, :, None, None]
    light *= optics.field
    light += optics.offset.astype(np.float32)[:, None, None]
    if optics.sensor > 0:
        variance = np.maximum(light, 0)
        variance *= 0.25  # shot noise: four photo-electrons per grey level
        variance += np.float32(optics.sensor**2)
        np.sqrt(variance, out=variance)
        variance *= rng.standard_normal(light.shape, dtype=np.float32)
        light += variance
    light += 0.5
    return np.clip(light, 0, 255).astype(np.uint8)


def _debris(channels: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(C, H, W) one to three bright specks, each seen in every channel at a brightness of its own."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    specks = np.zeros((channels, height, width), np.float32)
    for _ in range(rng.integers(1, 4)):
        size, brightness = rng.uniform(1.5, 5.0), rng.uniform(0.5, 4.0, channels).astype(np.float32)
        squared = (y - rng.uniform(0, height)) ** 2 + (x - rng.uniform(0, width)) ** 2
        specks += brightness[:, None, None] * np.exp(-squared / np.float32(2 * size**2))
    return specks
