"""Nodes of ``normalization``: adapters of ``deepnoise.normalization``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL.Image import Image
from plotly.graph_objects import Figure as PlotlyFigure

from deepnoise.evaluation.probe import probe_batch
from deepnoise.normalization import chapter, features, figures, illumination, position, quality, statistics
from deepnoise.parameters import NormalizationParameters
from deepnoise.progress import progress
from deepnoise.tables import FEATURE, SCHEMAS

logger = logging.getLogger(__name__)
BLOCK_BYTES = 32_000_000
"""Raw counts, or their histograms, that are held at a time."""


def read_blocks(store: Any, rows: pd.DataFrame, bar: Any) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    """The images of one plate's sites, in blocks that bound the memory."""
    start, size = 0, 1
    while start < len(rows):
        block = rows.iloc[start : start + size]
        images = store.read(rows["experiment"].iloc[0], rows["plate"].iloc[0], block["store_row"].to_numpy())
        yield block, images
        start += len(block)
        levels = 8 * np.iinfo(images.dtype).max * len(images[0])  # bytes of a site's histograms
        size = max(1, BLOCK_BYTES // max(images[0].nbytes, levels))
        bar.update(len(block))


def estimate_illumination(
    image_store: Any, sites: pd.DataFrame, parameters: NormalizationParameters
) -> tuple[pd.DataFrame, Image]:
    """The flat field of each plate and channel, where it is asked for."""
    channels = image_store.channels
    table = SCHEMAS["illumination_fields"].empty()
    if parameters.illumination == "flat_field":
        parts = []
        with progress("illumination", len(sites), "sites") as bar:
            for (experiment, plate), rows in sites.groupby(["experiment", "plate"]):
                blocks = [illumination.block_means(images) for _, images in read_blocks(image_store, rows, bar)]
                field = illumination.estimate_field(np.concatenate(blocks))
                parts.append(illumination.field_table(field, experiment, plate, channels))
        table = pd.concat(parts, ignore_index=True)
        logger.info(
            "illumination: fields of %s plates, %.2f to %.2f", len(parts), table["gain"].min(), table["gain"].max()
        )
    return table, figures.draw_fields(table, channels)


def measure_sites(
    image_store: Any, illumination_fields: pd.DataFrame, sites: pd.DataFrame, wells: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One pass over the store: features of every site and channel, and the exact histograms of every plate."""
    store = illumination.corrected_store(image_store, illumination_fields)
    kinds = wells.set_index("id_code")[["well_type", "cell_type"]]
    parts, levels = [], []
    with progress("measuring", len(sites), "sites") as bar:
        for (experiment, plate), rows in sites.groupby(["experiment", "plate"]):
            total: dict[str, np.ndarray] = {}
            for block, images in read_blocks(store, rows, bar):
                counts = statistics.histograms(images)
                parts.append(features.site_table(block, store.channels, features.measure_sites(images, counts)))
                statistics.add_histograms(total, counts, kinds.loc[block["id_code"], "well_type"].to_numpy())
            key = {
                "experiment": experiment,
                "plate": plate,
                "cell_type": kinds.loc[rows["id_code"].iloc[0], "cell_type"],
            }
            levels.append(statistics.histogram_table(total, key, store.channels))
    return pd.concat(parts, ignore_index=True), pd.concat(levels, ignore_index=True)


def compute_statistics(
    plate_histograms: pd.DataFrame, wells: pd.DataFrame, parameters: NormalizationParameters
) -> pd.DataFrame:
    """The statistics of the chosen strategy, a row a plate and channel."""
    return statistics.plate_statistics(
        plate_histograms,
        wells,
        parameters.strategy,
        parameters.reference,
        parameters.scale_floor,
        parameters.illumination,
    )


def normalize_features(
    site_features: pd.DataFrame, plate_statistics: pd.DataFrame, parameters: NormalizationParameters
) -> pd.DataFrame:
    """Hand features as normalized images would give them; without row and column effects where that is asked for."""
    normalized = features.normalize_features(site_features, plate_statistics)
    if parameters.position_correction == "median_polish":
        normalized = position.correct_positions(normalized)
    return normalized


def check_plates(
    site_features: pd.DataFrame, wells: pd.DataFrame
) -> tuple[pd.DataFrame, PlotlyFigure, dict[str, Figure]]:
    """Quality of every plate and channel, and heat maps."""
    table = quality.check_plates(site_features, wells)
    flagged = table[table["flags"] != ""]
    plates = flagged.groupby(["experiment", "plate"]).ngroups
    logger.info(
        "plate QC: %s of %s plates have flags, see plate_qc%s", plates, table.groupby(["experiment", "plate"]).ngroups,
        "".join(f"; {r.experiment}/{r.plate} {r.channel}: {r.flags}" for r in flagged.head(1).itertuples()),
    )  # fmt: skip
    return table, figures.draw_flagged(site_features, table), figures.draw_experiments(site_features, table)


def probe_pixels(
    site_features: pd.DataFrame, normalized_features: pd.DataFrame, plate_statistics: pd.DataFrame, wells: pd.DataFrame
) -> dict[str, Any]:
    """How well intensity features name the experiment, before and after normalization; with one experiment alone, the plate.

    Plates are named from single sites of the perturbations that stand on every plate, so that no perturbation gives a plate away.
    """
    raw = features.normalize_features(site_features, plate_statistics.assign(location=0.0, scale=1.0, strategy="none"))
    facts = wells.set_index("id_code")
    axis = "experiment" if facts.groupby("cell_type")["experiment"].nunique().max() > 1 else "plate"
    everywhere = wells.groupby(["experiment", "perturbation"])["plate"].transform("nunique") == wells.groupby(
        "experiment"
    )["plate"].transform("nunique")
    found: dict[str, Any] = {"axis": axis}
    for name, table in (("raw", raw), ("normalized", normalized_features)):
        if axis == "experiment":
            rows = table.drop(columns=["plate", "well", "site"]).groupby(["id_code", "experiment"]).mean().reset_index()
            batch, group = rows["experiment"], rows["id_code"].map(facts["cell_type"])
        else:
            rows = table[table["id_code"].isin(wells.loc[everywhere, "id_code"])].reset_index(drop=True)
            batch, group = rows["plate"], rows["experiment"]
        everything = [c for c in rows.columns if c.startswith(FEATURE)]
        brightness = [c for c in everything if c.startswith((f"{FEATURE}mean_", f"{FEATURE}std_"))]
        for part, columns in ((name, brightness), (f"{name}_with_texture", everything)):
            found[part] = probe_batch(rows[columns].to_numpy(), batch, group)
    strategy = str(plate_statistics["strategy"].iloc[0])
    found["strategy"], found["tier"] = strategy, str(plate_statistics["tier"].iloc[0])
    if found["raw"]["chance"] is None:
        logger.info("pixel probe: too few experiments of one cell type, and too few plates, to tell apart")
        return found
    chance = 100 * found["raw"]["chance"]
    logger.info(
        "raw pixels: %s named %.0f %% by brightness and contrast (chance %.0f %%)",
        axis, 100 * found["raw"]["balanced_accuracy"], chance,
    )  # fmt: skip
    logger.info(
        "after %s normalization: %.0f %%; %.0f %% where texture and quantiles are read too (chance %.0f %%), tier %s",
        strategy, 100 * found["normalized"]["balanced_accuracy"],
        100 * found["normalized_with_texture"]["balanced_accuracy"], chance, found["tier"],
    )  # fmt: skip
    return found


def draw_normalization(
    image_store: Any,
    illumination_fields: pd.DataFrame,
    plate_statistics: pd.DataFrame,
    sites: pd.DataFrame,
    wells: pd.DataFrame,
) -> Image:
    """Tiles before and after normalization."""
    store = illumination.corrected_store(image_store, illumination_fields)
    return figures.draw_normalization(store, figures.choose_sites(sites, wells), plate_statistics)


def write_chapter(
    normalization_sheet: Image,
    plate_maps: PlotlyFigure,
    illumination_plot: Image,
    plate_qc: pd.DataFrame,
    pixel_probe: dict[str, Any],
    illumination_fields: pd.DataFrame,
) -> dict[str, Any]:
    """What the report shows of normalization."""
    return chapter.write_chapter(
        normalization_sheet, plate_maps, illumination_plot, plate_qc, pixel_probe, len(illumination_fields) > 0
    ).as_json()
