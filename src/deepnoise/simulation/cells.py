"""Images of cells with six channels, drawn in numpy from latent traits. Used by ``simulation.screen``.

A cell is drawn on a small patch as products of smooth ellipses and plane waves, without a function call per
pixel, and added to its tile. All structure follows from the traits below, so a perturbation is a vector of
trait changes. Callers draw a few tiles at a time, so that the arrays fit the processor's cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CHANNELS = ("nucleus", "er", "actin", "rna", "mito", "golgi")
TRAITS = (
    "cell_count",
    "clumping",
    "cell_size",
    "cell_elongation",
    "nuclear_size",
    "nuclear_eccentricity",
    "nuclear_intensity",
    "nuclear_texture",
    "nuclear_grain",
    "er_amount",
    "er_granularity",
    "er_grain",
    "er_spread",
    "er_polarity",
    "actin_amount",
    "actin_fibres",
    "actin_grain",
    "actin_cortex",
    "nucleoli_amount",
    "nucleoli_size",
    "nucleoli_spacing",
    "rna_cytoplasm",
    "mito_amount",
    "mito_granularity",
    "mito_grain",
    "mito_spread",
    "mito_polarity",
    "golgi_amount",
    "golgi_size",
    "golgi_distance",
    "membrane_amount",
    "membrane_ruffle",
)
"""Latent traits, in units of their standard deviation between perturbations; 0 is the untreated cell."""

INDEX = {name: i for i, name in enumerate(TRAITS)}
PATCH = 32  # px; an average cell has a diameter of about 18 px
_HALF = PATCH // 2


@dataclass(frozen=True)
class CellShift:
    """Trait changes that only some cells of a field of view have: those that respond, or those of another kind."""

    traits: np.ndarray  # (T, traits) in trait units
    share: np.ndarray  # (T,) probability that a cell has it


def _waves(dx: np.ndarray, dy: np.ndarray, period: np.ndarray, angle: np.ndarray, phase: np.ndarray) -> np.ndarray:
    """cos(2 pi (x cos a + y sin a) / period + phase) on every patch, as products of 1-d tables.

    ``dx`` and ``dy`` are (n, PATCH) px; ``period``, ``angle`` and ``phase`` are (n,).
    Returns (n, PATCH, PATCH).
    """
    k = (2 * np.pi / period)[:, None]
    along_x = k * np.cos(angle)[:, None] * dx + phase[:, None]
    along_y = k * np.sin(angle)[:, None] * dy
    wave = np.cos(along_y)[:, :, None] * np.cos(along_x)[:, None, :]
    wave -= np.sin(along_y)[:, :, None] * np.sin(along_x)[:, None, :]
    return wave


def _ellipse(
    xx: np.ndarray, xy: np.ndarray, yy: np.ndarray, radius: np.ndarray, ratio: np.ndarray, angle: np.ndarray
) -> np.ndarray:
    """Squared elliptic distance, 1 on the outline: (n, PATCH, PATCH), from the monomials xx, xy and yy."""
    a2, b2 = (radius * ratio) ** -2, (radius / ratio) ** -2
    c, s = np.cos(angle), np.sin(angle)
    q = (a2 * c * c + b2 * s * s)[:, None, None] * xx[:, None, :]
    q = q + (a2 * s * s + b2 * c * c)[:, None, None] * yy[:, :, None]
    q += (2 * (a2 - b2) * c * s)[:, None, None] * xy
    return q


def _spot(dx: np.ndarray, dy: np.ndarray, x0: np.ndarray, y0: np.ndarray, size: np.ndarray) -> np.ndarray:
    """A round Gaussian spot of height 1, separable: (n, PATCH, PATCH)."""
    scale = (0.5 / size**2)[:, None]
    gx = np.exp(-scale * (dx - x0[:, None]) ** 2)
    gy = np.exp(-scale * (dy - y0[:, None]) ** 2)
    return gy[:, :, None] * gx[:, None, :]


def render_cells(
    traits: np.ndarray, density: np.ndarray, size: int, rng: np.random.Generator, shifts: Sequence[CellShift] = ()
) -> np.ndarray:
    """Draw one field of view per row of traits.

    Args:
        traits: (T, len(TRAITS)) float, traits of the well of each of T tiles, in standard deviations.
        density: (T,) float, factor on the expected number of cells; 1 is average.
        size: Height and width H = W of a tile in px.
        rng: Source of all randomness.
        shifts: Trait changes of a share of the cells each, added to ``traits``.

    Returns:
        (T, 6, H, W) float32 fluorescence: 0 without cells, about 1 in a bright structure.
    """
    tiles = len(traits)
    area = (size / 64) ** 2
    cell_count = traits[:, INDEX["cell_count"]]
    for shift in shifts:
        cell_count = cell_count + shift.share * shift.traits[:, INDEX["cell_count"]]
    expected = 9.0 * area * density * np.exp(0.28 * cell_count)
    counts = np.clip(rng.poisson(expected), 1, int(40 * area))
    tile_of = np.repeat(np.arange(tiles), counts)  # (n,) cells
    n = len(tile_of)

    # uniform positions, moved towards one of three centres if cells clump
    clump = (0.35 / (1 + np.exp(-1.2 * traits[:, INDEX["clumping"]])))[tile_of]
    centres = rng.uniform(0, size, (tiles, 3, 2))
    home = centres[tile_of, rng.integers(0, 3, n)]
    position = (1 - clump)[:, None] * rng.uniform(-4, size + 4, (n, 2)) + clump[:, None] * home
    position += rng.normal(0, 3, (n, 2)) * clump[:, None]
    corner = np.clip(np.floor(position).astype(int), -_HALF + 1, size + _HALF - 1)

    z = traits[tile_of] + rng.normal(0, 0.45, (n, len(TRAITS)))
    for shift in shifts:
        z += shift.traits[tile_of] * (rng.random(n) < shift.share[tile_of])[:, None]
    z = np.clip(z, -4, 4).astype(np.float32)

    def level(name: str, base: float, spread: float) -> np.ndarray:
        return (base * np.exp(spread * z[:, INDEX[name]])).astype(np.float32)

    grid = np.arange(PATCH, dtype=np.float32) - _HALF
    offset = (position - corner).astype(np.float32)
    dx = grid[None] - offset[:, 1:]  # (n, PATCH)
    dy = grid[None] - offset[:, :1]
    xx, yy = dx * dx, dy * dy
    xy = dy[:, :, None] * dx[:, None, :]
    turn = rng.uniform(0, np.pi, (6, n)).astype(np.float32)
    phase = rng.uniform(0, 2 * np.pi, (6, n)).astype(np.float32)

    radius = np.minimum(level("cell_size", 9.0, 0.10), 12.5)
    body = _ellipse(xx, xy, yy, radius, level("cell_elongation", 1.15, 0.09), turn[0])
    far = body.copy()  # squared distance in cell radii
    np.square(body, out=body)
    np.square(body, out=body)
    body += 1
    np.reciprocal(body, out=body)
    body *= _WINDOW
    nuclear_radius = np.minimum(level("nuclear_size", 4.4, 0.10), 7.0)
    nucleus = _ellipse(xx, xy, yy, nuclear_radius, level("nuclear_eccentricity", 1.12, 0.08), turn[1])
    np.square(nucleus, out=nucleus)
    np.square(nucleus, out=nucleus)
    nucleus += 1
    np.reciprocal(nucleus, out=nucleus)
    cytoplasm = body * (1 - 0.85 * nucleus)
    cortex = body * (1 - body)

    def weight(values: np.ndarray) -> np.ndarray:
        return values[:, None, None]

    out = np.empty((n, 6, PATCH, PATCH), np.float32)
    wave = _waves(dx, dy, level("nuclear_grain", 4.2, 0.18), turn[2], phase[0])
    wave *= weight(level("nuclear_texture", 0.22, 0.45))
    wave += 1
    np.multiply(nucleus, wave, out=out[:, 0])
    out[:, 0] *= weight(level("nuclear_intensity", 0.75, 0.18))

    grain = level("er_grain", 5.0, 0.18)
    wave = _waves(dx, dy, grain, turn[3], phase[1])
    wave *= _waves(dx, dy, grain, turn[3] + 1.4, phase[2])
    wave *= weight(level("er_granularity", 0.40, 0.35))
    wave += 1
    shade = 1 / (1 + far * weight(level("er_spread", 1.3, 0.35)))
    tilt = weight(np.clip(0.25 + 0.25 * z[:, INDEX["er_polarity"]], -0.9, 0.9) / radius)
    lean = np.cos(turn[4])[:, None, None] * dx[:, None, :] + np.sin(turn[4])[:, None, None] * dy[:, :, None]
    wave *= shade
    wave *= 1 + tilt * np.clip(lean, -12, 12)
    np.multiply(cytoplasm, wave, out=out[:, 1])
    out[:, 1] *= weight(level("er_amount", 0.95, 0.20))

    wave = _waves(dx, dy, level("actin_grain", 3.8, 0.18), turn[0], phase[3])
    wave *= weight(np.clip(0.45 + 0.22 * z[:, INDEX["actin_fibres"]], 0.0, 0.95))
    wave += 1
    wave *= body
    wave *= 0.35
    wave += cortex * weight(level("actin_cortex", 1.5, 0.30))
    np.multiply(wave, weight(level("actin_amount", 0.9, 0.20)), out=out[:, 2])

    spacing = level("nucleoli_spacing", 0.42, 0.25) * nuclear_radius
    spot_size = level("nucleoli_size", 1.15, 0.18)
    cx, cy = np.cos(turn[5]) * spacing, np.sin(turn[5]) * spacing
    spots = _spot(dx, dy, cx, cy, spot_size)
    spots += _spot(dx, dy, -cx, -cy, spot_size)
    spots *= weight(level("nucleoli_amount", 0.95, 0.30))
    spots *= nucleus
    spots += cytoplasm * weight(level("rna_cytoplasm", 0.38, 0.25))
    out[:, 3] = spots

    grain = level("mito_grain", 3.4, 0.18)
    wave = _waves(dx, dy, grain, turn[1], phase[4])
    wave *= _waves(dx, dy, grain * 1.3, turn[1] + 1.1, phase[5])
    wave *= weight(level("mito_granularity", 0.65, 0.30))
    wave += 1
    np.square(wave, out=wave)
    wave *= cytoplasm
    wave /= 1 + np.square(far) * weight(level("mito_spread", 1.2, 0.45))
    tilt = weight(np.clip(0.25 + 0.25 * z[:, INDEX["mito_polarity"]], -0.9, 0.9) / radius)
    wave *= 1 - tilt * np.clip(lean, -12, 12)
    np.multiply(wave, weight(level("mito_amount", 0.75, 0.20)), out=out[:, 4])

    distance = nuclear_radius * level("golgi_distance", 1.15, 0.15)
    golgi = _spot(dx, dy, np.cos(turn[4]) * distance, np.sin(turn[4]) * distance, level("golgi_size", 1.8, 0.22))
    golgi *= weight(level("golgi_amount", 0.95, 0.25))
    ruffle = _waves(dx, dy, np.float32(3.0) + np.zeros(n, np.float32), turn[2], phase[0])
    ruffle *= weight(np.clip(0.25 + 0.2 * z[:, INDEX["membrane_ruffle"]], 0.0, 0.9))
    ruffle += 1
    ruffle *= cortex
    ruffle *= weight(level("membrane_amount", 1.3, 0.25))
    np.add(golgi, ruffle, out=out[:, 5])

    canvas = np.zeros((tiles, 6, size + 2 * PATCH, size + 2 * PATCH), np.float32)
    for cell, (tile, (y, x)) in enumerate(zip(tile_of, corner + _HALF, strict=True)):
        canvas[tile, :, y : y + PATCH, x : x + PATCH] += out[cell]
    return canvas[:, :, PATCH:-PATCH, PATCH:-PATCH]


def _window() -> np.ndarray:
    """Weight 1 inside, falling to 0 at the rim, so that no patch shows its square outline; (PATCH, PATCH)."""
    axis = (np.arange(PATCH, dtype=np.float32) - _HALF) / _HALF
    return np.clip(2.0 * (1 - (axis[:, None] ** 2 + axis[None] ** 2) ** 2), 0, 1).astype(np.float32)


_WINDOW = _window()
