"""Images of a screen: tiles before and after normalization, plates as heat maps, illumination fields."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL.Image import Image

from deepnoise.drawing.contact_sheet import draw_contact_sheet, rendered
from deepnoise.drawing.plate_maps import SHOWN, draw_plate_maps, spread
from deepnoise.normalization.illumination import field_of
from deepnoise.normalization.statistics import statistics_of_plates
from deepnoise.wells import PLATE_FORMATS, places, plate_format_of, row_name

FIELDS = 8
"""Plates in the image of illumination fields."""
TILES = 5
"""Sites in the sheet before and after normalization."""
NORMAL = (-1.0, 3.0)
"""Normalized values that are black and white there."""
GREY = -1.0
"""Stands for a well without images."""


def draw_plates(site_features: pd.DataFrame, plates: list[tuple[str, str, str]], title: str) -> Figure:
    """Heat maps of the mean intensity of wells, a row a plate and a column a channel.

    Colours (viridis: readable by the colour-blind) run from the 2 % to the 98 % quantile of each plate and channel; wells without
    images stay grey.

    Args:
        site_features: The table ``site_features``.
        plates: (experiment, plate, what to write beside it).
        title: Heading.
    """
    channels = list(dict.fromkeys(site_features["channel"]))
    rows, columns = PLATE_FORMATS[plate_format_of(site_features["well"].unique().tolist())]
    means = site_features.groupby(["experiment", "plate", "channel", "well"])["mean"].mean()
    step = (rows + 4, columns + 2)  # one image of all heat maps: hundreds of axes would take minutes to draw
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
            grid[places(own.index)] = np.clip((own.to_numpy() - low) / max(high - low, 1e-9), 0, 1)
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


def draw_flagged(site_features: pd.DataFrame, plate_qc: pd.DataFrame) -> go.Figure:
    """Maps of the mean intensity of each channel: the plates with most flags, then plates that lie far apart.

    Args:
        site_features: The table of that name.
        plate_qc: The table of that name.
    """
    means = site_features.groupby(["channel", "experiment", "plate", "well"], sort=False)["mean"].mean()
    layers = {channel: means.loc[channel] for channel in dict.fromkeys(site_features["channel"])}
    counts = (
        plate_qc[plate_qc["flags"] != ""]
        .groupby(["experiment", "plate"])
        .size()
        .sort_values(ascending=False, kind="stable")
    )
    flagged = [(str(e), str(p)) for e, p in counts.index[: SHOWN // 2]]
    everyone = list(site_features[["experiment", "plate"]].drop_duplicates().itertuples(index=False, name=None))
    rest = [plate for plate in everyone if plate not in flagged]
    return draw_plate_maps(layers, flagged + spread(rest, SHOWN - len(flagged)))


def draw_experiments(site_features: pd.DataFrame, plate_qc: pd.DataFrame) -> dict[str, Figure]:
    """Name of the image -> heat maps of all plates of one experiment."""
    flagged = plate_qc[plate_qc["flags"] != ""].groupby(["experiment", "plate"]).size()
    figures = {}
    for experiment, part in site_features.groupby("experiment"):
        plates = [
            (str(experiment), p, f"{flagged.get((experiment, p), 0)} channels flagged") for p in part["plate"].unique()
        ]
        figures[f"{experiment}.png"] = draw_plates(part, plates, f"{experiment}: mean intensity by well, grey levels")
    return figures


def draw_fields(fields: pd.DataFrame, channels: list[str]) -> Image:
    """The estimated illumination of up to ``FIELDS`` plates; a note where none was estimated."""
    plates = list(fields[["experiment", "plate"]].drop_duplicates().itertuples(index=False, name=None))
    if not plates:
        figure = Figure(figsize=(6, 1))
        figure.text(0.5, 0.5, "normalization.illumination is none: no field was estimated", ha="center", va="center")
        return rendered(figure)
    shown = [plates[i] for i in np.unique(np.linspace(0, len(plates) - 1, FIELDS).round().astype(int))]
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
    return rendered(figure)


def choose_sites(sites: pd.DataFrame, wells: pd.DataFrame, number: int = TILES) -> pd.DataFrame:
    """Sites of one perturbation on plates that lie far apart, so that what differs is technical.

    Args:
        sites: The table ``sites``.
        wells: The table ``wells``.
        number: How many, at most.

    Returns:
        Rows of ``sites``, the first site of the perturbation's first well on each chosen plate; the perturbation is the one that stands
        on most plates, controls before treatments.
    """
    known = wells.dropna(subset=["perturbation"])
    known = known[known["id_code"].isin(sites["id_code"])]
    if known.empty:
        known = wells.assign(perturbation="unknown")
    plates = known.drop_duplicates(["experiment", "plate", "perturbation"])
    spread = plates.groupby("perturbation").agg(
        n=("plate", "size"), treatment=("well_type", lambda k: (k == "treatment").all())
    )
    chosen = spread.sort_values(["n", "treatment"], ascending=[False, True], kind="stable").index[0]
    own = sites[sites["id_code"].isin(known.loc[known["perturbation"] == chosen, "id_code"])]
    first = own.sort_values(["experiment", "plate", "well", "site"]).drop_duplicates(["experiment", "plate"])
    of_experiment = first.groupby("experiment").cumcount()
    order = first.assign(turn=of_experiment).sort_values(["turn", "experiment"], kind="stable")
    places_taken = np.unique(np.linspace(0, len(order) - 1, number).round().astype(int))
    if order["turn"].eq(0).sum() >= number:  # enough experiments: one plate of each
        order = order[order["turn"] == 0]
        places_taken = np.unique(np.linspace(0, len(order) - 1, number).round().astype(int))
    return order.iloc[places_taken].drop(columns="turn").reset_index(drop=True)


def draw_normalization(store: Any, sites: pd.DataFrame, statistics: pd.DataFrame) -> Image:
    """Each site twice: as photographed, on one grey scale for all, and as the network sees it.

    Args:
        store: Images, corrected for illumination where the screen is: ``read(experiment, plate, rows)`` and ``channels``.
        sites: Rows of the table ``sites``.
        statistics: The table ``plate_statistics``.
    """
    channels: list[str] = list(store.channels)
    strategy = str(statistics["strategy"].iloc[0])
    before, after = [], []
    for row in sites.itertuples():
        image = np.asarray(store.read(row.experiment, row.plate, np.array([row.store_row]))[0], np.float32)
        own = statistics_of_plates(statistics, [f"{row.experiment}/{row.plate}"]).set_index("channel").loc[channels]
        location, scale = (own[c].to_numpy(np.float32)[:, None, None] for c in ("location", "scale"))
        if strategy == "site":
            location, scale = (
                image.mean(axis=(1, 2), keepdims=True),
                np.maximum(image.std(axis=(1, 2), keepdims=True), 1e-6),
            )
        title = f"{row.experiment}\n{row.plate} {row.well}"
        before.append((f"{title}\nraw", image))
        after.append((f"{title}\n{strategy}", (image - location) / scale))
    count, channel_count = len(before), len(channels)
    low, high = np.zeros((2 * count, channel_count)), np.empty((2 * count, channel_count))
    high[0::2] = np.maximum([np.quantile(tile, 0.997, axis=(1, 2)) for _, tile in before], 1).max(axis=0)
    if strategy == "none":
        high[1::2] = high[0::2]
    elif strategy == "percentile":
        high[1::2] = 1.0
    else:
        low[1::2], high[1::2] = NORMAL
    tiles = [tile for pair in zip(before, after, strict=True) for tile in pair]
    return draw_contact_sheet(tiles, channels, low, high)
