"""Figures of the scores and of the screen. Colours are told apart by colour-blind readers (Okabe and Ito)."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

TIER_COLOURS = {
    "T0": "#999999",
    "T1": "#0072B2",
    "T1c": "#56B4E9",
    "T2": "#E69F00",
    "T3": "#CC79A7",
    "T2+T3": "#D55E00",
}
CHANNEL_COLOURS = (
    (0.2, 0.4, 1.0),
    (0.1, 0.9, 0.2),
    (1.0, 0.2, 0.1),
    (0.1, 0.9, 0.9),
    (0.95, 0.2, 0.9),
    (0.95, 0.9, 0.1),
)


def draw_scores(scores: dict[str, Any]) -> Figure:
    """Accuracy step by step with tiers by colour, and T1 top-1 of every scored experiment."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    bars = []
    if scores["baseline"]:
        bars.append(("hand features", scores["baseline"]))
    if scores["t1"]:
        bars.append(("model", scores["t1"]))
    bars += [(step["step"].replace("_", " "), step) for step in scores["steps"] if step["step"] != "plain"]
    for place, (_, part) in enumerate(bars):
        left.bar(place, part["top1"], color=TIER_COLOURS.get(part["tier"], "#000000"), width=0.7)
        left.hlines(part["chance"], place - 0.35, place + 0.35, color="black", linestyle=":")
        left.annotate(
            f"{part['top1']:.1%}\n{part['tier']}", (place, part["top1"]), ha="center", va="bottom", fontsize=8
        )
    left.set_xticks(range(len(bars)), [name for name, _ in bars], rotation=20, ha="right")
    left.set_ylim(0, 1.15)
    left.set_ylabel(f"top-1 by {scores['unit']}, held-out plates")
    left.set_title(f"screen '{scores['screen']}' (dotted: chance)", fontsize=10)
    if scores["t1"]:
        by = scores["t1"]["by_experiment"]
        right.barh(list(by), list(by.values()), color=TIER_COLOURS.get(scores["t1"]["tier"], "#000000"))
        right.invert_yaxis()
        right.set_xlim(0, 1)
        right.set_xlabel(f"top-1, tier {scores['t1']['tier']}")
    else:
        right.set_axis_off()
    return figure


def draw_contact_sheet(tiles: list[tuple[str, np.ndarray]], channels: list[str]) -> Figure:
    """One row a site: a composite and every channel.

    Args:
        tiles: (title, (C, H, W) raw counts) pairs.
        channels: C names.
    """
    figure = Figure(figsize=(1.35 * (len(channels) + 1), 1.45 * len(tiles)), layout="constrained")
    axes = figure.subplots(len(tiles), len(channels) + 1, squeeze=False)
    # one grey scale a channel for the whole sheet, so that differences of gain are seen
    top = np.stack([np.quantile(tile, 0.997, axis=(1, 2)) for _, tile in tiles]).max(axis=0)
    for row, (title, tile) in zip(axes, tiles, strict=True):
        shown = np.clip(tile / np.maximum(top, 1)[:, None, None], 0, 1)
        own = np.clip(tile / np.maximum(np.quantile(tile, 0.997, axis=(1, 2)), 1)[:, None, None], 0, 1)
        colours = np.array(CHANNEL_COLOURS)[np.arange(len(channels)) % len(CHANNEL_COLOURS)]
        row[0].imshow(np.clip(np.einsum("chw,ck->hwk", own, colours) / 2, 0, 1))
        for axis, picture in zip(row[1:], shown, strict=True):
            axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
        row[0].set_ylabel(title, fontsize=7)
        for axis in row:
            axis.set_xticks([])
            axis.set_yticks([])
    for axis, name in zip(axes[0], ["composite", *channels], strict=True):
        axis.set_title(name, fontsize=8)
    return figure
