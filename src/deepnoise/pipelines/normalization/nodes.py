"""Nodes of ``normalization``: adapters of ``deepnoise.normalization``."""

from __future__ import annotations

import logging
from typing import Any

from deepnoise.parameters import NormalizationParameters
from deepnoise.pipelines.types import DataFrame, Drawing, Figure, Image, ImageStore, RedealtImages

logger = logging.getLogger(__name__)


def estimate_illumination(
    image_store: ImageStore, sites: DataFrame, parameters: NormalizationParameters
) -> tuple[DataFrame, Image]:
    """The flat field of each plate and channel, if requested."""
    from deepnoise.normalization import figures, measure
    from deepnoise.tables import SCHEMAS

    fields = SCHEMAS["illumination_fields"].empty()
    if parameters.illumination == "flat_field":
        fields = measure.estimate_fields(image_store, sites)
    return fields, figures.draw_fields(fields, image_store.channels)


def measure_sites(
    image_store: ImageStore, illumination_fields: DataFrame, sites: DataFrame, wells: DataFrame
) -> tuple[DataFrame, DataFrame]:
    """One pass over the store: features of every site and channel, and the exact histograms of every plate."""
    from deepnoise.normalization.illumination import corrected_store
    from deepnoise.normalization.measure import measure_screen

    return measure_screen(corrected_store(image_store, illumination_fields), sites, wells)


def compute_statistics(plate_histograms: DataFrame, wells: DataFrame, parameters: NormalizationParameters) -> DataFrame:
    """The statistics of the chosen strategy, one row per plate and channel."""
    from deepnoise.normalization.statistics import plate_statistics

    return plate_statistics(
        plate_histograms,
        wells,
        parameters.strategy,
        parameters.reference,
        parameters.scale_floor,
        parameters.illumination,
    )


def normalize_features(
    site_features: DataFrame, plate_statistics: DataFrame, parameters: NormalizationParameters
) -> DataFrame:
    """Hand features as if measured on normalized images; without row and column effects, if requested."""
    from deepnoise.normalization import features, position

    normalized = features.normalize_features(site_features, plate_statistics)
    if parameters.position_correction == "median_polish":
        normalized = position.correct_positions(normalized)
    return normalized


def measure_redealt(
    redealt_images: RedealtImages,
    sites: DataFrame,
    wells: DataFrame,
    plate_histograms: DataFrame,
    parameters: NormalizationParameters,
) -> tuple[DataFrame, DataFrame, DataFrame, DataFrame, DataFrame]:
    """Sites, illumination fields, histograms, statistics and hand features of the re-dealt plates; no rows where nothing can be dealt anew."""
    import pandas as pd

    from deepnoise.normalization import measure
    from deepnoise.normalization.illumination import corrected_store
    from deepnoise.tables import SCHEMAS

    dealt = redealt_images.sites(sites)
    if dealt.empty:
        names = ("illumination_fields", "plate_histograms", "plate_statistics", "normalized_features")
        fields, histograms, statistics, features = (SCHEMAS[name].empty() for name in names)
        return dealt, fields, histograms, statistics, features
    fields = SCHEMAS["illumination_fields"].empty()
    if parameters.illumination == "flat_field":
        fields = measure.estimate_fields(redealt_images, dealt)
    features, histograms = measure.measure_screen(corrected_store(redealt_images, fields), dealt, wells)
    plate = ["experiment", "plate"]
    is_dealt = pd.MultiIndex.from_frame(plate_histograms[plate]).isin(pd.MultiIndex.from_frame(histograms[plate]))
    histograms = pd.concat([plate_histograms[~is_dealt], histograms], ignore_index=True)
    statistics = compute_statistics(histograms, wells, parameters).merge(dealt[plate].drop_duplicates(), on=plate)
    return dealt, fields, histograms, statistics, normalize_features(features, statistics, parameters)


def check_plates(site_features: DataFrame, wells: DataFrame) -> tuple[DataFrame, Figure, dict[str, Drawing]]:
    """Quality of every plate and channel, and heat maps."""
    from deepnoise.normalization import figures, quality

    table = quality.check_plates(site_features, wells)
    flagged = table[table["flags"] != ""]
    plate = ["experiment", "plate"]
    logger.info(
        "plate QC: %s of %s plates have flags, see plate_qc%s", flagged.groupby(plate).ngroups, table.groupby(plate).ngroups,
        "".join(f"; {r.experiment}/{r.plate} {r.channel}: {r.flags}" for r in flagged.head(1).itertuples()),
    )  # fmt: skip
    return table, figures.draw_flagged(site_features, table), figures.draw_experiments(site_features, table)


def probe_pixels(
    site_features: DataFrame, normalized_features: DataFrame, plate_statistics: DataFrame, wells: DataFrame
) -> dict[str, Any]:
    """How well intensity features identify the experiment or plate, before and after normalization."""
    from deepnoise.evaluation import pixel_probe

    result = pixel_probe.probe_pixels(site_features, normalized_features, plate_statistics, wells)
    pixel_probe.log_pixel_probe(result)
    return result


def draw_normalization(
    image_store: ImageStore,
    illumination_fields: DataFrame,
    plate_statistics: DataFrame,
    sites: DataFrame,
    wells: DataFrame,
) -> Image:
    """Tiles before and after normalization."""
    from deepnoise.normalization import figures
    from deepnoise.normalization.illumination import corrected_store

    images = corrected_store(image_store, illumination_fields)
    return figures.draw_normalization(images, figures.choose_sites(sites, wells), plate_statistics)


def write_chapter(
    normalization_sheet: Image,
    plate_maps: Figure,
    illumination_plot: Image,
    plate_qc: DataFrame,
    pixel_probe: dict[str, Any],
    illumination_fields: DataFrame,
) -> dict[str, Any]:
    """What the report shows of normalization."""
    from deepnoise.normalization import chapter

    return chapter.write_chapter(
        normalization_sheet, plate_maps, illumination_plot, plate_qc, pixel_probe, len(illumination_fields) > 0
    ).as_json()
