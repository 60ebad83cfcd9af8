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

    The default gains follow RxRx1, where the standard deviation of the log channel mean was measured as
    0.33-0.58 between experiments of a cell type, and 0.04-0.10 between plates of an experiment.
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


ADVERSARIAL = NoiseLevels(
    blur=0.6,
    bleed_through=0.12,
    edge=1.0,
    density=0.45,
    penetrance=0.5,
    experiment_trait_shift=1.0,
    plate_trait_shift=0.35,
    well_trait_shift=0.30,
    density_interaction=0.6,
)
"""A profile with much of the noise that gain correction cannot remove."""


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


@dataclass(frozen=True)
class PlateConditions:
    """Effects of handling on the cells of a plate."""

    trait_shift: np.ndarray  # (traits,)
    log_density: float
    edge_shift: np.ndarray  # (traits,) added to trait_shift in outer wells
    edge_loss: float  # relative loss of cells in outer wells


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
    gain = rng.normal(0, levels.experiment_gain, channels)
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
        optics = PlateOptics(
            gain=np.exp(gain + rng.normal(0, levels.plate_gain, channels)),
            offset=np.clip(offset + rng.normal(0, levels.plate_offset, channels), 0, 40),
            blur=blur,
            mixing=mixing.astype(np.float32),
            field=field.astype(np.float32),
            slope=rng.normal(0, levels.position_gain, (2, channels)),
            sensor=levels.sensor,
        )
        conditions = PlateConditions(
            trait_shift=shift + rng.normal(0, levels.plate_trait_shift, n),
            log_density=log_density + rng.normal(0, levels.density / 4),
            edge_shift=edge_shift,
            edge_loss=levels.edge / 3,
        )
        drawn.append((conditions, optics))
    return drawn


def expose(cells: np.ndarray, optics: PlateOptics, position: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn clean tiles into images: blur, bleed-through, gain, illumination, offset, shot and sensor noise.

    Args:
        cells: (T, C, H, W) float32 fluorescence.
        optics: The plate's optics.
        position: (T, 2) row and column of each tile's well on the plate, scaled to [-0.5, 0.5].
        rng: Source of the pixel noise.

    Returns:
        (T, C, H, W) uint8 grey levels.
    """
    tiles, channels, height, width = cells.shape
    if optics.blur > 0.15:
        cells = gaussian_filter(cells, sigma=(0, 0, optics.blur, optics.blur), truncate=3.0)
    light = optics.mixing @ cells.reshape(tiles, channels, -1)  # (T, C, H*W)
    light = light.reshape(tiles, channels, height, width)
    gain = 48.0 * optics.gain * (1 + position @ optics.slope)  # (T, C)
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
