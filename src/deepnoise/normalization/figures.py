"""Pictures of a screen's plates: heat maps in the plate's geometry, and illumination fields."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure

from deepnoise.normalization.illumination import field_of
from deepnoise.normalization.position import places
from deepnoise.wells import PLATE_FORMATS, plate_format_of, row_name

SHOWN = 8
"""Plates in the overview."""
GREY = -1.0
"""Stands for a well without pictures."""


def draw_plates(site_features: pd.DataFrame, plates: list[tuple[str, str, str]], title: str) -> Figure:
    """Heat maps of the mean intensity of wells, a row a plate and a column a channel.

    Colours (viridis: readable by the colour-blind) run from the 2 % to the 98 % quantile of each plate and channel; wells without
    pictures stay grey.

    Args:
        site_features: The table ``site_features``.
        plates: (experiment, plate, what to write beside it).
        title: Heading.
    """
    channels = list(dict.fromkeys(site_features["channel"]))
    rows, columns = PLATE_FORMATS[plate_format_of(site_features["well"].unique().tolist())]
    means = site_features.groupby(["experiment", "plate", "channel", "well"])["mean"].mean()
    step = (rows + 4, columns + 2)  # one picture of all heat maps: hundreds of axes would take minutes to draw
    canvas = np.full((len(plates) * step[0], len(channels) * step[1]), np.nan)
    width, height = 0.08 * canvas.shape[1], 0.08 * canvas.shape[0]  # inches
    figure = Figure(figsize=(width + 1.7, height + 0.5))
    axis = figure.add_axes((1.6 / (width + 1.7), 0.1 / (height + 0.5), width / (width + 1.7), height / (height + 0.5)))
    for i, (experiment, plate, note) in enumerate(plates):
        for c, channel in enumerate(channels):
            own = means.loc[experiment, plate, channel]
            y, x = i * step[0] + 3, c * step[1]
            low, high = np.quantile(own, [0.02, 0.98])
            grid = np.full((rows, columns), GREY)
            grid[places(pd.Series(own.index))] = np.clip((own.to_numpy() - low) / max(high - low, 1e-9), 0, 1)
            canvas[y : y + rows, x : x + columns] = grid
            axis.text(x, y - 1, f"{channel}  {low:.0f} to {high:.0f}", fontsize=6, va="bottom")
        axis.text(-3, y + rows / 2, f"{experiment}/{plate}\n{note}", fontsize=7, ha="right", va="center")
        for text, at in (("A", 0), (row_name(rows - 1), rows - 1)):
            axis.text(-1, y + at, text, fontsize=5, ha="center", va="center")
    colours = colormaps["viridis"].with_extremes(under="0.85", bad="white")
    axis.imshow(canvas, cmap=colours, vmin=0, vmax=1, interpolation="nearest")
    axis.set_axis_off()
    axis.set_title(title, fontsize=9)
    return figure


def draw_overview(site_features: pd.DataFrame, plate_qc: pd.DataFrame) -> Figure:
    """Heat maps of the plates with most flags; the first plates where none has any."""
    reasons = plate_qc.groupby(["experiment", "plate"], sort=False)["flags"].agg(
        lambda f: {t for x in f for t in x.split("; ") if t}
    )
    order = reasons.map(len).sort_values(ascending=False, kind="stable")
    shown = [(e, p, f"{n} flags" if n else "no flag") for (e, p), n in order.head(SHOWN).items()]
    title = f"mean intensity by well: the {len(shown)} plates with most flags, of {len(order)} ({int((order > 0).sum())} have any)"
    return draw_plates(site_features, shown, title)


def draw_experiments(site_features: pd.DataFrame, plate_qc: pd.DataFrame) -> dict[str, Figure]:
    """Name of the picture -> heat maps of all plates of one experiment."""
    flagged = plate_qc[plate_qc["flags"] != ""].groupby(["experiment", "plate"]).size()
    figures = {}
    for experiment, part in site_features.groupby("experiment"):
        plates = [
            (str(experiment), p, f"{flagged.get((experiment, p), 0)} channels flagged") for p in part["plate"].unique()
        ]
        figures[f"{experiment}.png"] = draw_plates(part, plates, f"{experiment}: mean intensity by well, grey levels")
    return figures


def draw_fields(fields: pd.DataFrame, channels: list[str]) -> Figure:
    """The estimated illumination of up to ``SHOWN`` plates; a note where none was estimated."""
    plates = list(fields[["experiment", "plate"]].drop_duplicates().itertuples(index=False, name=None))
    if not plates:
        figure = Figure(figsize=(6, 1))
        figure.text(0.5, 0.5, "normalization.illumination is none: no field was estimated", ha="center", va="center")
        return figure
    shown = [plates[i] for i in np.unique(np.linspace(0, len(plates) - 1, SHOWN).round().astype(int))]
    figure = Figure(figsize=(1.5 * len(channels) + 2.5, 1.5 * len(shown) + 0.6), layout="constrained")
    axes = figure.subplots(len(shown), len(channels), squeeze=False)
    for i, (experiment, plate) in enumerate(shown):
        own = field_of(fields[(fields["experiment"] == experiment) & (fields["plate"] == plate)], channels)
        for c, channel in enumerate(channels):
            image = axes[i, c].imshow(own[c], cmap="viridis", vmin=0.8, vmax=1.2)
            axes[i, c].set_xticks([])
            axes[i, c].set_yticks([])
            axes[i, c].set_title(f"{channel} {own[c].min():.2f} to {own[c].max():.2f}", fontsize=6)
        axes[i, 0].set_ylabel(f"{experiment}/{plate}", fontsize=7, rotation=0, ha="right", va="center")
    figure.colorbar(image, ax=axes, shrink=0.5, label="relative illumination")
    return figure
