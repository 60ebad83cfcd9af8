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
from deepnoise.evaluation.score_table import baseline_name
from deepnoise.evaluation.score_types import Score, Scores, SignalLeakCard, TieredAccuracy

POINTS = 2000
"""At most so many wells are drawn in the map of embeddings."""
MIXED_UP = 40
"""At most so many perturbations are drawn in the figure of confusions."""
REPRESENTATION_COLOURS = {"embedding": "#0072B2", "raw_intensity": "#999999", "normalized_intensity": "#009E73"}


def draw_scores(scores: Scores) -> go.Figure:
    """Draw accuracy step by step, coloured by tier, and plain top-1 of every scored experiment.

    Args:
        scores: The entry ``scores``.
    """
    main = scores["heldout"][scores["unit"]]
    bars = _score_bars(scores, main)
    if not bars:
        return say("no held-out well has a known perturbation: nothing is scored")
    by_experiment = main["by_experiment"] if main else {}
    heights = [40 * len(bars) + 60, 22 * len(by_experiment) + 60] if by_experiment else [1]
    titles = ["top-1, held-out plates"]
    if by_experiment:
        titles = [f"top-1 by {scores['unit']}, held-out plates", "by experiment"]
    figure = new_figure(
        40 * len(bars) + 22 * len(by_experiment) + 190, titles, [height / sum(heights) for height in heights]
    )
    for tier in dict.fromkeys(score["tier"] for _, score in bars):
        tier_bars = [(name, score) for name, score in bars if score["tier"] == tier]
        figure.add_bar(
            y=[name for name, _ in tier_bars],
            x=[score["top1"] for _, score in tier_bars],
            orientation="h",
            name=f"tier {tier}",
            marker_color=tier_colour(tier),
            error_x=_whiskers([(score["top1"], score["interval"]) for _, score in tier_bars]),
            text=[f"{score['top1']:.1%}" for _, score in tier_bars],
            textposition="inside",
            insidetextanchor="middle",
            row=1,
            col=1,
        )
    _add_chance(figure, [name for name, _ in bars], [score["chance"] for _, score in bars])
    figure.update_yaxes(categoryorder="array", categoryarray=[name for name, _ in bars][::-1], row=1, col=1)
    if main and by_experiment:
        figure.add_bar(
            y=list(by_experiment)[::-1],
            x=list(by_experiment.values())[::-1],
            orientation="h",
            name="by experiment",
            showlegend=False,
            marker_color=tier_colour(main["tier"]),
            row=2,
            col=1,
        )
    figure.update_xaxes(range=[0, 1], tickformat=".0%")
    return figure


def _score_bars(scores: Scores, main: Score | None) -> list[tuple[str, TieredAccuracy]]:
    """Name and score of each bar: hand features, the model, then the steps of plate balancing."""
    bars: list[tuple[str, TieredAccuracy]] = []
    # short names, which fit beside the bars: the first baseline says that these are hand features
    bars += [(baseline_name(score["name"]).removeprefix("hand features, "), score) for score in scores["baselines"]]
    if main:
        bars.append(("model", main))
    return bars + [(words(step["step"]), step) for step in scores["steps"] if step["step"] != "plain"]


def draw_card(card: SignalLeakCard) -> go.Figure:
    """Draw replicate retrieval above and the leak probes of every representation below.

    Retrieval is shown with its chance level, the probes with the range of shuffled labels.

    Args:
        card: The entry ``signal_leak_card``.
    """
    axes = [
        axis
        for axis in next(iter(card["leaks"].values()), {})
        if any(probes[axis]["balanced_accuracy"] is not None for probes in card["leaks"].values())
    ]
    if not card["signal"] and not axes:
        return say("neither signal nor leak can be measured here")
    panels = {"leak: accuracy of the probe": 110 * len(axes) + 60} if axes else {}
    if card["signal"]:
        panels = {"signal: replicate mAP": 240, **panels}
    total = sum(panels.values())
    figure = new_figure(total + 100, list(panels), [height / total for height in panels.values()])
    _add_signal(figure, card)
    _add_leaks(figure, card, axes, row=len(panels))
    figure.add_scatter(
        x=[None], y=[None], mode="lines", line={"color": "black", "width": 3}, name="95 % of shuffled labels"
    )
    figure.update_xaxes(range=[0, 1])
    if axes:
        ticks = {"tickvals": list(range(len(axes))), "ticktext": [words(axis) for axis in axes]}
        figure.update_yaxes(**ticks, range=[len(axes) - 0.5, -0.5], row=len(panels))
    figure.update_layout(legend_y=-0.06)
    return figure


def _add_signal(figure: go.Figure, card: SignalLeakCard) -> None:
    """Add mean average precision by level to the first panel, one colour per well type."""
    for (well_type, levels), colour in zip(card["signal"].items(), COLOURS, strict=False):
        names = [words(level).replace("not same experiment nor", "not same experiment<br>nor") for level in levels]
        figure.add_scatter(
            y=names,
            x=[score["map"] for score in levels.values()],
            error_x=_whiskers([(score["map"], score["interval"]) for score in levels.values()]),
            mode="markers",
            name=f"{words(well_type)}s",
            marker={"size": 11, "color": colour},
            row=1,
            col=1,
        )
        _add_chance(figure, names, [score["null"] for score in levels.values()])


def _add_leaks(figure: go.Figure, card: SignalLeakCard, axes: list[str], row: int) -> None:
    """Add the probes of each representation to a panel, with the range of shuffled labels over each bar."""
    for number, (representation, probes) in enumerate(card["leaks"].items()):
        measured = {axis: probe for axis, probe in probes.items() if probe["balanced_accuracy"] is not None}
        offset = 0.27 * (number - (len(card["leaks"]) - 1) / 2)
        heights = [axes.index(axis) + offset for axis in measured]
        figure.add_bar(
            y=heights,
            x=[probe["balanced_accuracy"] for probe in measured.values()],
            orientation="h",
            width=0.24,
            name=words(representation),
            marker_color=REPRESENTATION_COLOURS.get(representation, "#000000"),
            customdata=[[words(axis), probe["verdict"], probe["p"]] for axis, probe in measured.items()],
            hovertemplate="%{customdata[0]}: %{x:.1%}, %{customdata[1]} (p %{customdata[2]:.3f})",
            text=[f"{probe['balanced_accuracy']:.0%} {probe['verdict']}" for probe in measured.values()],
            textposition="inside",
            insidetextanchor="start",
            constraintext="none",
            row=row,
            col=1,
        )
        for height, probe in zip(heights, measured.values(), strict=True):
            figure.add_scatter(
                x=[probe["null_low"], probe["null_high"]],
                y=[height, height],
                mode="lines",
                line={"color": "black", "width": 3},
                name="95 % of shuffled labels",
                showlegend=False,
                hoverinfo="name",
                row=row,
                col=1,
            )


def draw_reliability(table: pd.DataFrame) -> go.Figure:
    """Draw calibration above, and below the risk that remains if the least confident wells are left uncalled.

    Args:
        table: The table ``reliability``.
    """
    if table.empty:
        return say("no call of a known perturbation: no confidence can be checked")
    figure = new_figure(720, ["reliability: share correct against confidence", "risk and coverage"])
    line = {"color": "#AAAAAA", "dash": "dot"}
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line=line, name="perfect", row=1, col=1)
    for number, (step, step_rows) in enumerate(table.groupby("step", sort=False)):
        colour = COLOURS[number % len(COLOURS)]
        bins = step_rows[step_rows["curve"] == "calibration"]
        kept = step_rows[step_rows["curve"] == "coverage"]
        label = f"{words(str(step))} ({step_rows['tier'].iloc[0]})"
        coverage = kept["wells"] / max(kept["wells"].max(), 1)
        style = {"name": label, "legendgroup": label, "line": {"color": colour}}
        figure.add_scatter(
            x=bins["confidence"].tolist(), y=bins["accuracy"].tolist(), mode="lines+markers", **style, row=1, col=1
        )
        figure.add_scatter(
            x=coverage.tolist(),
            y=(1 - kept["accuracy"]).tolist(),
            mode="lines",
            showlegend=False,
            **style,
            row=2,
            col=1,
        )
    figure.update_xaxes(title_text="confidence", range=[0, 1], row=1)
    figure.update_yaxes(title_text="share correct", range=[0, 1], row=1)
    figure.update_xaxes(title_text="coverage: share of wells that are called", range=[0, 1], row=2)
    figure.update_yaxes(title_text="risk: share wrong", rangemode="tozero", row=2)
    return figure


def draw_embeddings(profiles: Profiles, seed: int = 0) -> go.Figure:
    """Draw the first two principal components of the embeddings on unseen plates, in four colourings.

    The most common values have a colour, the rest are grey. The map shows two of many dimensions: it is for
    looking, the probes are for measuring.

    Args:
        profiles: All wells with an embedding. At most ``POINTS`` random wells of the first fold are drawn, on
            unseen plates if there are any.
        seed: Seed of that selection.
    """
    unseen = ~profiles.rows["plate_seen"].to_numpy(bool)
    candidates = profiles.take(unseen if unseen.any() else np.ones(len(unseen), bool))
    if len(candidates.rows) < 3:
        return say("no embeddings to draw")
    drawn = _sample_first_fold(candidates, seed)
    points, share = _principal_components(drawn.values.astype(np.float64))
    rows = drawn.rows
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
    trace_colourings: list[str] = []
    for colouring, values in colourings.items():
        traces = _add_points(figure, points, hover, values, visible=colouring == "perturbation")
        trace_colourings += [colouring] * traces
    buttons = [
        {
            "label": f"by {colouring}",
            "method": "restyle",
            "args": ["visible", [trace == colouring for trace in trace_colourings]],
        }
        for colouring in colourings
    ]
    figure.update_layout(
        updatemenus=[{"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}],
        margin_t=60,
    )
    figure.update_xaxes(title_text=f"component 1 ({share[0]:.0%} of the variance)")
    figure.update_yaxes(title_text=f"component 2 ({share[1]:.0%})")
    return figure


def _sample_first_fold(profiles: Profiles, seed: int) -> Profiles:
    """Profiles of the first fold, at most ``POINTS`` of them."""
    first = profiles.take((profiles.rows["fold"] == profiles.rows["fold"].min()).to_numpy())
    total = len(first.rows)
    if total <= POINTS:
        return first
    return first.take(np.sort(np.random.default_rng(seed).choice(total, POINTS, replace=False)))


def _principal_components(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(W, 2) first two principal components of (W, D) values, and every component's share of the variance."""
    left, size, _ = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
    share = size**2 / max(float((size**2).sum()), 1e-12)
    points = left[:, :2] * size[:2]
    if points.shape[1] < 2:
        points = np.pad(points, ((0, 0), (0, 1)))
        share = np.pad(share, (0, 1))
    return points, share


def _add_points(figure: go.Figure, points: np.ndarray, hover: list[str], values: pd.Series, visible: bool) -> int:
    """Add one trace per common value and a grey one for the rest; the number of traces."""
    common = values.value_counts().index[: len(COLOURS) - 1].tolist()
    groups = [(REST, "others", ~values.isin(common))] if not values.isin(common).all() else []
    groups += [(colour, str(v), values == v) for colour, v in zip(COLOURS, sorted(common), strict=False)]
    for colour, name, members in groups:
        mask = members.to_numpy()
        figure.add_scatter(
            x=points[mask, 0].round(4).tolist(),
            y=points[mask, 1].round(4).tolist(),
            mode="markers",
            name=name,
            marker={"color": colour, "size": 6 if colour != REST else 4},
            text=[hover[i] for i in np.flatnonzero(mask)],
            hovertemplate="%{text}<extra></extra>",
            visible=visible,
        )
    return len(groups)


def draw_confusions(perturbation_scores: pd.DataFrame, confusions: pd.DataFrame) -> go.Figure:
    """Draw how often each perturbation is called as each other one.

    Perturbations that are confused with each other are side by side, so blocks are groups that the model
    mixes up. At most ``MIXED_UP`` perturbations are drawn, those with the most wrong calls.

    Args:
        perturbation_scores: The table of that name.
        confusions: The table of that name: wrong calls only.
    """
    if confusions.empty:
        return say("no wrong call of a known perturbation")
    names = _most_confused(perturbation_scores, confusions)
    share = confusions.pivot_table(index="perturbation", columns="call", values="share", aggfunc="sum", fill_value=0)
    grid = share.reindex(index=names, columns=names, fill_value=0).to_numpy(float, copy=True)
    np.fill_diagonal(grid, _recall(perturbation_scores).reindex(names).fillna(0))
    if len(names) > 2:
        distance = 1 - np.clip((grid + grid.T) / 2, 0, 1)
        np.fill_diagonal(distance, 0)
        order = leaves_list(linkage(squareform(distance, checks=False), "average", optimal_ordering=True))
        grid, names = grid[np.ix_(order, order)], [names[i] for i in order]
    figure = new_figure(max(300, 16 * len(names) + 140))
    figure.add_heatmap(
        z=grid.round(4).tolist(),
        x=[str(name) for name in names],
        y=[str(name) for name in names],
        colorscale="Cividis",
        zmin=0,
        zmax=1,
        colorbar={"title": "share", "thickness": 12},
        hovertemplate="%{y} called %{x}: %{z:.0%}<extra></extra>",
    )
    figure.update_xaxes(title_text="called", type="category", tickfont_size=9)
    figure.update_yaxes(title_text="truth", type="category", autorange="reversed", tickfont_size=9)
    return figure


def _most_confused(perturbation_scores: pd.DataFrame, confusions: pd.DataFrame) -> list[str]:
    """Perturbations with the most wrong calls, as truth or as call, sorted by name; all if they fit."""
    wrong = confusions.groupby("perturbation")["wells"].sum()
    wrong = wrong.add(confusions.groupby("call")["wells"].sum(), fill_value=0)
    perturbations = sorted({*wrong.index, *perturbation_scores["perturbation"]})
    if len(perturbations) <= MIXED_UP:
        wrong = wrong.reindex(perturbations, fill_value=0)
    return sorted(wrong.sort_values(ascending=False, kind="stable").index[:MIXED_UP])


def _recall(perturbation_scores: pd.DataFrame) -> pd.Series:
    """Share of correct calls of each perturbation, over its cell types."""
    called = perturbation_scores.dropna(subset=["top1"])
    correct = (called["top1"] * called["wells"]).groupby(called["perturbation"]).sum()
    return correct / called.groupby("perturbation")["wells"].sum()


def _whiskers(values: list[tuple[float, list[float] | None]]) -> dict[str, Any]:
    """Error bars from values and their intervals; none where there is no interval."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [interval[1] - value if interval else None for value, interval in values],
        "arrayminus": [value - interval[0] if interval else None for value, interval in values],
        "color": "#333333",
    }


def _add_chance(figure: go.Figure, names: list[str], chances: list[float]) -> None:
    """Add a tick at the chance level of each name; the first call also adds the legend entry."""
    in_legend = any(trace.name == "chance" for trace in figure.data)
    figure.add_scatter(
        y=names,
        x=chances,
        mode="markers",
        name="chance",
        showlegend=not in_legend,
        legendgroup="chance",
        marker={"symbol": "line-ns", "size": 18, "line": {"width": 2, "color": "black"}},
        row=1,
        col=1,
    )
