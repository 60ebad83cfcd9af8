"""Figures of normalization: sites before and after, heat maps of plates, illumination fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL.Image import Image

from deepnoise.drawing.contact_sheet import draw_contact_sheet, rendered
from deepnoise.drawing.plate_maps import MAX_PLATES, draw_plate_maps, spread
from deepnoise.normalization.illumination import field_of
from deepnoise.normalization.statistics import statistics_of_plates
from deepnoise.wells import PLATE_FORMATS, places, plate_format_of, row_name

if TYPE_CHECKING:  # the module needs torch
    from deepnoise.network.site_images import ImageSource

MAX_FIELDS = 8
"""Most plates in the figure of illumination fields."""
MAX_TILES = 5
"""Most sites in the sheet before and after normalization."""
NORMALIZED_RANGE = (-1.0, 3.0)
"""Normalized values drawn black and white."""
NO_WELL = -1.0
"""Value of a well without images; below the range of the colour map, so drawn grey."""


def draw_plates(site_features: pd.DataFrame, plates: list[tuple[str, str, str]], title: str) -> Figure:
    """Heat maps of the mean intensity of wells, one row per plate and one column per channel.

    Colours (viridis, readable by colour-blind people) run from the 2 % to the 98 % quantile of each plate and
    channel; wells without images are grey.

    Args:
        site_features: The table ``site_features``.
        plates: (experiment, plate, note to write beside it).
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
            plate_means = means.loc[experiment, plate, channel]
            y, x = i * step[0] + 3, c * step[1]
            low, high = np.quantile(plate_means, [0.02, 0.98])
            grid = np.full((rows, columns), NO_WELL)
            grid[places(plate_means.index)] = np.clip((plate_means.to_numpy() - low) / max(high - low, 1e-9), 0, 1)
            canvas[y : y + rows, x : x + columns] = grid
            axis.text(x, y - 1, f"{channel}  {low:.0f} to {high:.0f}", fontsize=6, va="bottom")
        axis.text(-3, y + rows / 2, f"{experiment}/{plate}\n{note}", fontsize=7, ha="right", va="center")
        for name, row in (("A", 0), (row_name(rows - 1), rows - 1)):
            axis.text(-1, y + row, name, fontsize=5, ha="center", va="center")
    colours = colormaps["viridis"].with_extremes(under="0.85", bad="white")
    axis.imshow(canvas, cmap=colours, vmin=0, vmax=1, interpolation="nearest")
    axis.set_axis_off()
    axis.set_title(title, fontsize=9)
    return figure


def draw_flagged(site_features: pd.DataFrame, plate_qc: pd.DataFrame) -> go.Figure:
    """Maps of each channel's mean intensity: the plates with most flags, then others across the screen.

    Args:
        site_features: The table ``site_features``.
        plate_qc: The table ``plate_qc``.
    """
    means = site_features.groupby(["channel", "experiment", "plate", "well"], sort=False)["mean"].mean()
    layers = {channel: means.loc[channel] for channel in dict.fromkeys(site_features["channel"])}
    counts = (
        plate_qc[plate_qc["flags"] != ""]
        .groupby(["experiment", "plate"])
        .size()
        .sort_values(ascending=False, kind="stable")
    )
    flagged = [(str(e), str(p)) for e, p in counts.index[: MAX_PLATES // 2]]
    plates = list(site_features[["experiment", "plate"]].drop_duplicates().itertuples(index=False, name=None))
    not_flagged = [plate for plate in plates if plate not in flagged]
    return draw_plate_maps(layers, flagged + spread(not_flagged, MAX_PLATES - len(flagged)))


def draw_experiments(site_features: pd.DataFrame, plate_qc: pd.DataFrame) -> dict[str, Figure]:
    """File name -> heat maps of all plates of one experiment."""
    n_flagged = plate_qc[plate_qc["flags"] != ""].groupby(["experiment", "plate"]).size()
    figures = {}
    for experiment, features in site_features.groupby("experiment"):
        plates = [
            (str(experiment), plate, f"{n_flagged.get((experiment, plate), 0)} channels flagged")
            for plate in features["plate"].unique()
        ]
        title = f"{experiment}: mean intensity by well, grey levels"
        figures[f"{experiment}.png"] = draw_plates(features, plates, title)
    return figures


def draw_fields(fields: pd.DataFrame, channels: list[str]) -> Image:
    """The estimated illumination of at most ``MAX_FIELDS`` plates, or a note if none was estimated."""
    plates = list(fields[["experiment", "plate"]].drop_duplicates().itertuples(index=False, name=None))
    if not plates:
        figure = Figure(figsize=(6, 1))
        figure.text(0.5, 0.5, "normalization.illumination is none: no field was estimated", ha="center", va="center")
        return rendered(figure)
    drawn = [plates[i] for i in np.unique(np.linspace(0, len(plates) - 1, MAX_FIELDS).round().astype(int))]
    figure = Figure(figsize=(1.5 * len(channels) + 2.5, 1.5 * len(drawn) + 0.6), layout="constrained")
    axes = figure.subplots(len(drawn), len(channels), squeeze=False)
    for i, (experiment, plate) in enumerate(drawn):
        field = field_of(fields[(fields["experiment"] == experiment) & (fields["plate"] == plate)], channels)
        for c, channel in enumerate(channels):
            image = axes[i, c].imshow(field[c], cmap="viridis", vmin=0.8, vmax=1.2)
            axes[i, c].set_xticks([])
            axes[i, c].set_yticks([])
            axes[i, c].set_title(f"{channel} {field[c].min():.2f} to {field[c].max():.2f}", fontsize=6)
        axes[i, 0].set_ylabel(f"{experiment}/{plate}", fontsize=7, rotation=0, ha="right", va="center")
    figure.colorbar(image, ax=axes, shrink=0.5, label="relative illumination")
    return rendered(figure)


def choose_sites(sites: pd.DataFrame, wells: pd.DataFrame, number: int = MAX_TILES) -> pd.DataFrame:
    """Choose sites of one perturbation on plates across the screen, so that their differences are technical.

    The perturbation is the one on most plates; controls come before treatments.

    Args:
        sites: The table ``sites``.
        wells: The table ``wells``.
        number: Most sites to choose.

    Returns:
        Rows of ``sites``: on each chosen plate the first site of the perturbation's first well.
    """
    labelled = wells.dropna(subset=["perturbation"])
    labelled = labelled[labelled["id_code"].isin(sites["id_code"])]
    if labelled.empty:
        labelled = wells.assign(perturbation="unknown")
    plates = labelled.drop_duplicates(["experiment", "plate", "perturbation"])
    occurrence = plates.groupby("perturbation").agg(
        n=("plate", "size"), treatment=("well_type", lambda well_types: (well_types == "treatment").all())
    )
    perturbation = occurrence.sort_values(["n", "treatment"], ascending=[False, True], kind="stable").index[0]
    candidates = sites[sites["id_code"].isin(labelled.loc[labelled["perturbation"] == perturbation, "id_code"])]
    first = candidates.sort_values(["experiment", "plate", "well", "site"]).drop_duplicates(["experiment", "plate"])
    turn = first.groupby("experiment").cumcount()  # first plates of all experiments, then second ones, ...
    order = first.assign(turn=turn).sort_values(["turn", "experiment"], kind="stable")
    if order["turn"].eq(0).sum() >= number:  # enough experiments: one plate of each
        order = order[order["turn"] == 0]
    rows = np.unique(np.linspace(0, len(order) - 1, number).round().astype(int))
    return order.iloc[rows].drop(columns="turn").reset_index(drop=True)


def draw_normalization(store: ImageSource, sites: pd.DataFrame, statistics: pd.DataFrame) -> Image:
    """Draw each site twice: raw, on one grey scale for all sites, and normalized, as the network gets it.

    Args:
        store: Images, corrected for illumination if the screen is.
        sites: Rows of the table ``sites``.
        statistics: The table ``plate_statistics``.
    """
    channels: list[str] = list(store.channels)
    strategy = str(statistics["strategy"].iloc[0])
    raw, tiles = [], []
    for row in sites.itertuples():
        image = np.asarray(store.read(row.experiment, row.plate, np.array([row.store_row]))[0], np.float32)
        plate_rows = statistics_of_plates(statistics, [f"{row.experiment}/{row.plate}"])
        normalized = _normalize(image, plate_rows.set_index("channel").loc[channels], strategy)
        raw.append(image)
        title = f"{row.experiment}\n{row.plate} {row.well}"
        tiles += [(f"{title}\nraw", image), (f"{title}\n{strategy}", normalized)]
    low, high = _grey_limits(raw, len(channels), strategy)
    return draw_contact_sheet(tiles, channels, low, high)


def _normalize(image: np.ndarray, plate_rows: pd.DataFrame, strategy: str) -> np.ndarray:
    """A (C, H, W) float32 image, normalized.

    Args:
        image: (C, H, W) float32 raw counts.
        plate_rows: C rows of ``plate_statistics``, in the order of the channels.
        strategy: With ``site``, the image's own mean and std replace the plate's.
    """
    if strategy == "site":
        location = image.mean(axis=(1, 2), keepdims=True)
        scale = np.maximum(image.std(axis=(1, 2), keepdims=True), 1e-6)
    else:
        location, scale = (plate_rows[c].to_numpy(np.float32)[:, None, None] for c in ("location", "scale"))
    return (image - location) / scale


def _grey_limits(raw: list[np.ndarray], channels: int, strategy: str) -> tuple[np.ndarray, np.ndarray]:
    """(T, C) values drawn black and white, for rows that are raw and normalized in turn."""
    low, high = np.zeros((2 * len(raw), channels)), np.empty((2 * len(raw), channels))
    high[0::2] = np.maximum([np.quantile(image, 0.997, axis=(1, 2)) for image in raw], 1).max(axis=0)
    if strategy == "none":
        high[1::2] = high[0::2]
    elif strategy == "percentile":
        high[1::2] = 1.0
    else:
        low[1::2], high[1::2] = NORMALIZED_RANGE
    return low, high
