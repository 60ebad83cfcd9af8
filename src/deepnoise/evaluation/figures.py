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
    """Accuracy step by step with tiers by colour, and plain top-1 of every scored experiment."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    main = scores["heldout"][scores["unit"]]
    bars = []
    if scores["baseline"]:
        bars.append(("hand features", scores["baseline"]))
    if main:
        bars.append(("model", main))
    bars += [(step["step"].replace("_", " "), step) for step in scores["steps"] if step["step"] != "plain"]
    for place, (_, part) in enumerate(bars):
        left.bar(place, part["top1"], color=TIER_COLOURS.get(part["tier"], "#000000"), width=0.7)
        left.hlines(part["chance"], place - 0.35, place + 0.35, color="black", linestyle=":")
        if part["interval"]:
            left.vlines(place + 0.25, *part["interval"], color="black", linewidth=1.2)
        left.annotate(
            f"{part['top1']:.1%}\n{part['tier']}", (place, part["top1"]), ha="center", va="bottom", fontsize=8
        )
    left.set_xticks(range(len(bars)), [name for name, _ in bars], rotation=20, ha="right")
    left.set_ylim(0, 1.15)
    left.set_ylabel(f"top-1 by {scores['unit']}, held-out plates")
    left.set_title(f"screen '{scores['screen']}' (dotted: chance; line: 95 % interval over experiments)", fontsize=9)
    if main:
        by = main["by_experiment"]
        right.barh(list(by), list(by.values()), color=TIER_COLOURS.get(main["tier"], "#000000"))
        right.invert_yaxis()
        right.set_xlim(0, 1)
        right.set_xlabel(f"top-1, tier {main['tier']}")
    else:
        right.set_axis_off()
    return figure


def draw_card(card: dict[str, Any]) -> Figure:
    """Signal on the left, leak probes of every representation on the right, each with its chance and what shuffled labels give."""
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.7])
    figure.suptitle(f"signal and leak, screen '{card['screen']}', tier {card['tier']}", fontsize=11)
    colour = TIER_COLOURS.get(card["tier"], "#000000")
    for kind, marker in (("treatment", "o"), ("positive_control", "s")):
        levels = card["signal"].get(kind, {})
        names = [level.replace("_", " ").replace("experiment nor", "experiment\nnor") for level in levels]
        left.plot(
            names,
            [part["map"] for part in levels.values()],
            marker=marker,
            color=colour,
            label=kind.replace("_", " ") + "s",
        )
        for name, part in zip(names, levels.values(), strict=True):
            if part["interval"]:
                left.vlines(name, *part["interval"], color=colour, linewidth=1)
        left.plot(
            names, [part["chance"] for part in levels.values()], marker=marker, color="black", linestyle=":", alpha=0.6
        )
    left.set_ylim(0, 1.02)
    left.set_ylabel("replicate mAP (dotted: chance)")
    left.tick_params(axis="x", rotation=25, labelsize=8)
    if card["signal"]:
        left.legend(fontsize=8)
    else:
        left.text(0.5, 0.5, "no signal can be measured", ha="center", transform=left.transAxes)
    palette = {"embedding": colour, "raw_intensity": "#999999", "normalized_intensity": "#009E73"}
    axes = list(next(iter(card["leaks"].values()), {}))
    for place, (name, found) in enumerate(card["leaks"].items()):
        label: str | None = name.replace("_", " ")
        for number, part in enumerate(found.values()):
            x = number + 0.27 * (place - (len(card["leaks"]) - 1) / 2)
            if part["balanced_accuracy"] is None:
                right.text(
                    x, 0.02, part["verdict"], rotation=90, fontsize=7, ha="center", va="bottom", color=palette.get(name)
                )
                continue
            right.bar(x, part["balanced_accuracy"], width=0.25, color=palette.get(name, "black"), label=label)
            right.vlines(x, part["null_low"], part["null_high"], color="black", linewidth=2)
            right.hlines(part["chance"], x - 0.12, x + 0.12, color="black", linestyle=":")
            right.text(
                x, max(part["balanced_accuracy"], part["null_high"]) + 0.015, part["verdict"],
                fontsize=7, ha="center", va="bottom", rotation=90,
            )  # fmt: skip
            label = None
    right.set_xticks(range(len(axes)), [axis.replace("_", " ") for axis in axes], fontsize=8)
    right.set_ylim(0, 1.25)
    right.set_ylabel("balanced accuracy of the probe")
    right.set_title("leaks (black line: 95 % of shuffled labels; dotted: chance)", fontsize=9)
    handles, labels = right.get_legend_handles_labels()
    if labels:
        right.legend(handles, labels, fontsize=8, loc="upper right")
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
