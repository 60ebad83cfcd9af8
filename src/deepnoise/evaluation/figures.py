"""Figures of the evaluation: scores, signal and leak, reliability, embeddings, confusions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from deepnoise.drawing.figures import COLOURS, REST, new_figure, say, tier_colour, words
from deepnoise.evaluation.profiles import Profiles

POINTS = 2000
"""Wells that are drawn in the map of embeddings, at most."""
MIXED_UP = 40
"""Perturbations in the figure of confusions, at most."""
REPRESENTATION_COLOURS = {"embedding": "#0072B2", "raw_intensity": "#999999", "normalized_intensity": "#009E73"}


def draw_scores(scores: dict[str, Any]) -> go.Figure:
    """Accuracy step by step, and plain top-1 of every scored experiment; tiers by colour.

    Args:
        scores: The entry ``scores``.
    """
    main = scores["heldout"][scores["unit"]]
    bars = [("hand features", scores["baseline"])] if scores["baseline"] else []
    bars += [("model", main)] if main else []
    bars += [(words(step["step"]), step) for step in scores["steps"] if step["step"] != "plain"]
    if not bars:
        return say("no held-out well has a known perturbation: nothing is scored")
    by = main["by_experiment"] if main else {}
    heights = [40 * len(bars) + 60, 22 * len(by) + 60] if by else [1]
    titles = [f"top-1 by {scores['unit']}, held-out plates", "by experiment"] if by else ["top-1, held-out plates"]
    figure = new_figure(40 * len(bars) + 22 * len(by) + 190, titles, [h / sum(heights) for h in heights])
    for tier in dict.fromkeys(part["tier"] for _, part in bars):
        own = [(name, part) for name, part in bars if part["tier"] == tier]
        figure.add_bar(
            y=[name for name, _ in own],
            x=[part["top1"] for _, part in own],
            orientation="h",
            name=f"tier {tier}",
            marker_color=tier_colour(tier),
            error_x=_whiskers([(part["top1"], part["interval"]) for _, part in own]),
            text=[f"{part['top1']:.1%}" for _, part in own],
            textposition="inside",
            insidetextanchor="middle",
            row=1,
            col=1,
        )
    _chance(figure, [name for name, _ in bars], [part["chance"] for _, part in bars])
    figure.update_yaxes(categoryorder="array", categoryarray=[name for name, _ in bars][::-1], row=1, col=1)
    if by:
        figure.add_bar(
            y=list(by)[::-1],
            x=list(by.values())[::-1],
            orientation="h",
            name="by experiment",
            showlegend=False,
            marker_color=tier_colour(main["tier"]),
            row=2,
            col=1,
        )
    figure.update_xaxes(range=[0, 1], tickformat=".0%")
    return figure


def draw_card(card: dict[str, Any]) -> go.Figure:
    """Replicates found above, leak probes of every representation below, each with its chance and what shuffled labels give.

    Args:
        card: The entry ``signal_leak_card``.
    """
    known = list(next(iter(card["leaks"].values()), {}))
    axes = [a for a in known if any(found[a]["balanced_accuracy"] is not None for found in card["leaks"].values())]
    if not card["signal"] and not axes:
        return say("neither signal nor leak can be measured here")
    panels = {"leak: accuracy of the probe": 110 * len(axes) + 60} if axes else {}
    if card["signal"]:
        panels = {"signal: replicate mAP": 240, **panels}
    figure = new_figure(sum(panels.values()) + 100, list(panels), [h / sum(panels.values()) for h in panels.values()])
    for (kind, levels), colour in zip(card["signal"].items(), COLOURS, strict=False):
        names = [words(level).replace("not same experiment nor", "not same experiment<br>nor") for level in levels]
        figure.add_scatter(
            y=names,
            x=[part["map"] for part in levels.values()],
            error_x=_whiskers([(part["map"], part["interval"]) for part in levels.values()]),
            mode="markers",
            name=f"{words(kind)}s",
            marker={"size": 11, "color": colour},
            row=1,
            col=1,
        )
        _chance(figure, names, [part["chance"] for part in levels.values()])
    for place, (name, found) in enumerate(card["leaks"].items()):
        told = {axis: part for axis, part in found.items() if part["balanced_accuracy"] is not None}
        where = [axes.index(axis) + 0.27 * (place - (len(card["leaks"]) - 1) / 2) for axis in told]
        figure.add_bar(
            y=where,
            x=[part["balanced_accuracy"] for part in told.values()],
            orientation="h",
            width=0.24,
            name=words(name),
            marker_color=REPRESENTATION_COLOURS.get(name, "#000000"),
            customdata=[[words(axis), part["verdict"], part["p"]] for axis, part in told.items()],
            hovertemplate="%{customdata[0]}: %{x:.1%}, %{customdata[1]} (p %{customdata[2]:.3f})",
            text=[f"{part['balanced_accuracy']:.0%} {part['verdict']}" for part in told.values()],
            textposition="inside",
            insidetextanchor="start",
            constraintext="none",
            row=len(panels),
            col=1,
        )
        for y, part in zip(where, told.values(), strict=True):
            figure.add_scatter(
                x=[part["null_low"], part["null_high"]],
                y=[y, y],
                mode="lines",
                line={"color": "black", "width": 3},
                name="95 % of shuffled labels",
                showlegend=False,
                hoverinfo="name",
                row=len(panels),
                col=1,
            )
    figure.add_scatter(
        x=[None], y=[None], mode="lines", line={"color": "black", "width": 3}, name="95 % of shuffled labels"
    )
    figure.update_xaxes(range=[0, 1])
    if axes:
        ticks = {"tickvals": list(range(len(axes))), "ticktext": [words(axis) for axis in axes]}
        figure.update_yaxes(**ticks, range=[len(axes) - 0.5, -0.5], row=len(panels))
    figure.update_layout(legend_y=-0.06)
    return figure


def draw_reliability(table: pd.DataFrame) -> go.Figure:
    """Calibration above; below the risk that is left when the least sure calls are abstained from.

    Args:
        table: The table ``reliability``.
    """
    if table.empty:
        return say("no call of a known perturbation: no confidence can be checked")
    figure = new_figure(720, ["reliability: share right against confidence", "risk and coverage"])
    line = {"color": "#AAAAAA", "dash": "dot"}
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line=line, name="perfect", row=1, col=1)
    for number, (name, own) in enumerate(table.groupby("step", sort=False)):
        colour = COLOURS[number % len(COLOURS)]
        bins = own[own["curve"] == "calibration"]
        kept = own[own["curve"] == "coverage"]
        label = f"{words(str(name))} ({own['tier'].iloc[0]})"
        share = kept["wells"] / max(kept["wells"].max(), 1)
        group = {"name": label, "legendgroup": label, "line": {"color": colour}}
        figure.add_scatter(
            x=bins["confidence"].tolist(), y=bins["accuracy"].tolist(), mode="lines+markers", **group, row=1, col=1
        )
        figure.add_scatter(
            x=share.tolist(), y=(1 - kept["accuracy"]).tolist(), mode="lines", showlegend=False, **group, row=2, col=1
        )
    figure.update_xaxes(title_text="confidence", range=[0, 1], row=1)
    figure.update_yaxes(title_text="share right", range=[0, 1], row=1)
    figure.update_xaxes(title_text="coverage: share of wells that are called", range=[0, 1], row=2)
    figure.update_yaxes(title_text="risk: share wrong", rangemode="tozero", row=2)
    return figure


def draw_embeddings(profiles: Profiles, seed: int = 0) -> go.Figure:
    """The two first principal components of the embeddings of unseen plates, coloured by one of three things at a time.

    What is common is named and coloured, the rest is grey. A map shows two of many dimensions: measure with the probes, look here.

    Args:
        profiles: All wells with an embedding; those of the first fold's unseen plates are drawn, at most ``POINTS`` by chance.
        seed: Of the choice.
    """
    unseen = ~profiles.rows["plate_seen"].to_numpy(bool)
    shown = profiles.take(unseen if unseen.any() else np.ones(len(unseen), bool))
    if len(shown.rows) < 3:
        return say("no embeddings to draw")
    shown = shown.take((shown.rows["fold"] == shown.rows["fold"].min()).to_numpy())
    total = len(shown.rows)
    if total > POINTS:
        shown = shown.take(np.sort(np.random.default_rng(seed).choice(total, POINTS, replace=False)))
    centred = shown.values.astype(np.float64) - shown.values.mean(axis=0)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    share = size**2 / max(float((size**2).sum()), 1e-12)
    points = left[:, :2] * size[:2]
    if points.shape[1] < 2:
        points = np.pad(points, ((0, 0), (0, 1)))
        share = np.pad(share, (0, 1))
    rows = shown.rows
    hover = (
        rows["experiment"] + "/" + rows["plate"] + " " + rows["well"] + ": " + rows["perturbation"].fillna("?")
    ).tolist()
    colourings = {
        "perturbation": rows["perturbation"].fillna("unknown"),
        "experiment": rows["experiment"],
        "plate": "plate " + rows["plate"],
        "cell type": rows["cell_type"],
    }
    figure = new_figure(560)
    owners: list[str] = []
    for what, values in colourings.items():
        common = values.value_counts().index[: len(COLOURS) - 1].tolist()
        groups = [(REST, "others", ~values.isin(common))] if not values.isin(common).all() else []
        groups += [(c, str(v), values == v) for c, v in zip(COLOURS, sorted(common), strict=False)]
        for colour, name, own in groups:
            mask = own.to_numpy()
            figure.add_scatter(
                x=points[mask, 0].round(4).tolist(),
                y=points[mask, 1].round(4).tolist(),
                mode="markers",
                name=name,
                marker={"color": colour, "size": 6 if colour != REST else 4},
                text=[hover[i] for i in np.flatnonzero(mask)],
                hovertemplate="%{text}<extra></extra>",
                visible=what == "perturbation",
            )
            owners.append(what)
    buttons = [
        {"label": f"by {what}", "method": "restyle", "args": ["visible", [owner == what for owner in owners]]}
        for what in colourings
    ]
    figure.update_layout(
        updatemenus=[{"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}],
        margin_t=60,
    )
    figure.update_xaxes(title_text=f"component 1 ({share[0]:.0%} of the variance)")
    figure.update_yaxes(title_text=f"component 2 ({share[1]:.0%})")
    return figure


def draw_confusions(perturbation_scores: pd.DataFrame, confusions: pd.DataFrame) -> go.Figure:
    """What is taken for what, similar perturbations side by side, so that blocks are groups that the model mixes up.

    The perturbations with most wrong calls are drawn, at most ``MIXED_UP``.

    Args:
        perturbation_scores: The table of that name.
        confusions: The table of that name: wrong calls only.
    """
    if confusions.empty:
        return say("no wrong call of a known perturbation")
    wrong = confusions.groupby("perturbation")["wells"].sum()
    involved = wrong.add(confusions.groupby("call")["wells"].sum(), fill_value=0)
    everyone = sorted({*involved.index, *perturbation_scores["perturbation"]})
    if len(everyone) <= MIXED_UP:
        involved = involved.reindex(everyone, fill_value=0)
    chosen = sorted(involved.sort_values(ascending=False, kind="stable").index[:MIXED_UP])
    share = confusions.pivot_table(index="perturbation", columns="call", values="share", aggfunc="sum", fill_value=0)
    grid = share.reindex(index=chosen, columns=chosen, fill_value=0).to_numpy(float, copy=True)
    told = perturbation_scores.dropna(subset=["top1"])
    right = (told["top1"] * told["wells"]).groupby(told["perturbation"]).sum() / told.groupby("perturbation")[
        "wells"
    ].sum()
    np.fill_diagonal(grid, right.reindex(chosen).fillna(0))
    if len(chosen) > 2:
        similarity_to_perturbations = np.clip((grid + grid.T) / 2, 0, 1)
        distance = 1 - similarity_to_perturbations
        np.fill_diagonal(distance, 0)
        order = leaves_list(linkage(squareform(distance, checks=False), "average", optimal_ordering=True))
        grid, chosen = grid[np.ix_(order, order)], [chosen[i] for i in order]
    figure = new_figure(max(300, 16 * len(chosen) + 140))
    figure.add_heatmap(
        z=grid.round(4).tolist(),
        x=[str(c) for c in chosen],
        y=[str(c) for c in chosen],
        colorscale="Cividis",
        zmin=0,
        zmax=1,
        colorbar={"title": "share", "thickness": 12},
        hovertemplate="%{y} called %{x}: %{z:.0%}<extra></extra>",
    )
    figure.update_xaxes(title_text="called", type="category", tickfont_size=9)
    figure.update_yaxes(title_text="truth", type="category", autorange="reversed", tickfont_size=9)
    return figure


def _whiskers(parts: list[tuple[float, list[float] | None]]) -> dict[str, Any]:
    """Error bars from intervals; none where there is no interval."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [interval[1] - value if interval else None for value, interval in parts],
        "arrayminus": [value - interval[0] if interval else None for value, interval in parts],
        "color": "#333333",
    }


def _chance(figure: go.Figure, names: list[str], chances: list[float]) -> None:
    known = any(trace.name == "chance" for trace in figure.data)
    figure.add_scatter(
        y=names,
        x=chances,
        mode="markers",
        name="chance",
        showlegend=not known,
        legendgroup="chance",
        marker={"symbol": "line-ns", "size": 18, "line": {"width": 2, "color": "black"}},
        row=1,
        col=1,
    )
