"""Contact sheets: a composite and every channel of several sites, in one image."""

from __future__ import annotations

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

CHANNEL_COLOURS = (
    (0.2, 0.4, 1.0),
    (0.1, 0.9, 0.2),
    (1.0, 0.2, 0.1),
    (0.1, 0.9, 0.9),
    (0.95, 0.2, 0.9),
    (0.95, 0.9, 0.1),
)
DPI = 110


def draw_contact_sheet(
    tiles: list[tuple[str, np.ndarray]],
    channels: list[str],
    low: np.ndarray | None = None,
    high: np.ndarray | None = None,
) -> Image.Image:
    """Draw one row per tile: a composite, then every channel.

    By default each channel has one grey scale for the whole sheet.

    Args:
        tiles: (title, (C, H, W) values) pairs.
        channels: C names.
        low: Values drawn black, (C,) for all T tiles or (T, C) for each; None: 0.
        high: Values drawn white, of the same shapes; None: the highest 99.7 % quantile of any tile, which
            keeps differences in gain visible.

    Returns:
        An RGB image.
    """
    count = (len(tiles), len(channels))
    black = np.broadcast_to(np.zeros(count) if low is None else low, count)
    if high is None:
        high = np.maximum([np.quantile(tile, 0.997, axis=(1, 2)) for _, tile in tiles], 1).max(axis=0)
    white = np.broadcast_to(high, count)
    figure = Figure(figsize=(1.35 * (len(channels) + 1) + 1.3, 1.4 * len(tiles) + 0.3), layout="constrained", dpi=DPI)
    axes = figure.subplots(len(tiles), len(channels) + 1, squeeze=False)
    colours = np.array(CHANNEL_COLOURS)[np.arange(len(channels)) % len(CHANNEL_COLOURS)]
    for row, (title, tile), dark, bright in zip(axes, tiles, black, white, strict=True):
        span = np.maximum(bright - dark, 1e-6)
        brightness = np.clip((tile - dark[:, None, None]) / span[:, None, None], 0, 1)
        row[0].imshow(np.clip(np.einsum("chw,ck->hwk", brightness, colours) / 2, 0, 1))
        for axis, image in zip(row[1:], brightness, strict=True):
            axis.imshow(image, cmap="gray", vmin=0, vmax=1)
        row[0].set_ylabel(title, fontsize=8, rotation=0, ha="right", va="center")
        for axis in row:
            axis.set_xticks([])
            axis.set_yticks([])
    for axis, name in zip(axes[0], ["composite", *channels], strict=True):
        axis.set_title(name, fontsize=8)
    return rendered(figure)


def rendered(figure: Figure) -> Image.Image:
    """Render a matplotlib figure as an image."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
