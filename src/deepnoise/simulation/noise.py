"""Technical noise of a simulated screen, by level: experiment, plate, well position, image.

Part of it is a gain and an offset a plate, which plate normalization inverts; the rest (blur, illumination,
bleed-through, penetrance, shifts of the very traits that perturbations move) it cannot.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from deepnoise.simulation.cells import TRAITS


@dataclass(frozen=True)
class NoiseLevels:
    """Dials of the technical noise; 0 switches one off. ``log-sd`` is the standard deviation of a log factor.

    Defaults of the gains follow RxRx1, measured as the sd of the log channel mean: 0.33-0.58 for experiments
    within a cell type, 0.04-0.10 for plates within an experiment.
    """

    experiment_gain: float = 0.45  # log-sd, per channel
    plate_gain: float = 0.07  # log-sd, per channel
    experiment_offset: float = 3.0  # grey levels, sd, per channel
    plate_offset: float = 0.8  # grey levels, sd, per channel
    blur: float = 0.35  # px, sd between experiments of the width of the blur
    illumination: float = 0.12  # relative fall-off from centre to corner
    bleed_through: float = 0.06  # share of a channel seen in its neighbour
    position_gain: float = 0.05  # relative brightness gradient across the plate
    edge: float = 0.5  # standard deviations of trait shift, and relative cell loss / 3, in outer wells
    density: float = 0.25  # log-sd of cell number between experiments; half of it between wells
    sensor: float = 2.0  # grey levels, sd of read noise; shot noise comes on top
    penetrance: float = 0.20  # log-sd of the strength of a perturbation, per experiment and perturbation
    experiment_trait_shift: float = 0.40  # standard deviations, per trait
    plate_trait_shift: float = 0.12  # standard deviations, per trait
    well_trait_shift: float = 0.20  # standard deviations, per trait
    density_interaction: float = 0.20  # relative loss of effect at one log unit of density


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
"""Much of the noise that no gain correction removes."""


@dataclass(frozen=True)
class PlateOptics:
    """What a plate's microscope and stain do to its images."""

    gain: np.ndarray  # (C,)
    offset: np.ndarray  # (C,) grey levels
    blur: float  # px
    mixing: np.ndarray  # (C, C), rows receive
    field: np.ndarray  # (C, H, W) illumination, mean 1
    slope: np.ndarray  # (2, C) relative brightness per plate height and width
    sensor: float  # grey levels


@dataclass(frozen=True)
class PlateConditions:
    """What a plate's handling does to its cells."""

    trait_shift: np.ndarray  # (traits,)
    log_density: float
    edge_shift: np.ndarray  # (traits,) added in outer wells
    edge_loss: float  # relative loss of cells in outer wells


def draw_conditions(
    levels: NoiseLevels, plates: int, size: int, channels: int, rng: np.random.Generator
) -> list[tuple[PlateConditions, PlateOptics]]:
    """Draw the technical state of the plates of one experiment.

    Args:
        levels: The dials.
        plates: Number of plates P.
        size: H = W in px.
        channels: Number of channels C.
        rng: The experiment's own source of randomness.

    Returns:
        One (conditions, optics) pair a plate.
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


def expose(cells: np.ndarray, optics: PlateOptics, place: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Photograph clean tiles: blur, bleed-through, illumination, gain, offset, shot and sensor noise.

    Args:
        cells: (T, C, H, W) float32 fluorescence.
        optics: The plate's optics.
        place: (T, 2) position of each tile's well on the plate, rows and columns, both in [-0.5, 0.5].
        rng: Source of the pixel noise.

    Returns:
        (T, C, H, W) uint8 grey levels.
    """
    tiles, channels, height, width = cells.shape
    if optics.blur > 0.15:
        cells = gaussian_filter(cells, sigma=(0, 0, optics.blur, optics.blur), truncate=3.0)
    light = optics.mixing @ cells.reshape(tiles, channels, -1)  # (T, C, H*W)
    light = light.reshape(tiles, channels, height, width)
    gain = 48.0 * optics.gain * (1 + place @ optics.slope)  # (T, C)
    light *= gain.astype(np.float32)[:, :, None, None]
    light *= optics.field
    light += optics.offset.astype(np.float32)[:, None, None]
    if optics.sensor > 0:
        variance = np.maximum(light, 0)
        variance *= 0.25  # shot noise: four photo-electrons a grey level
        variance += np.float32(optics.sensor**2)
        np.sqrt(variance, out=variance)
        variance *= rng.standard_normal(light.shape, dtype=np.float32)
        light += variance
    light += 0.5
    return np.clip(light, 0, 255).astype(np.uint8)
