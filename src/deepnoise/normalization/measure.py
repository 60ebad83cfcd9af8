"""One pass over the images of a screen: illumination fields, or features and histograms."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepnoise.normalization import features, illumination, statistics
from deepnoise.progress import progress

if TYPE_CHECKING:
    from deepnoise.network.site_images import ImageSource

logger = logging.getLogger(__name__)
BLOCK_BYTES = 32_000_000
"""Raw counts, or their histograms, in memory at a time."""


def read_blocks(images: ImageSource, rows: pd.DataFrame, bar: Any) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    """The images of one plate's sites in blocks, so that memory stays bounded.

    Args:
        images: The images of the screen.
        rows: Rows of the table ``sites``, of one plate.
        bar: Progress bar, in sites.

    Yields:
        Some of the rows, and their (S, C, H, W) raw counts.
    """
    start, size = 0, 1
    while start < len(rows):
        block = rows.iloc[start : start + size]
        counts = images.read(rows["experiment"].iloc[0], rows["plate"].iloc[0], block["store_row"].to_numpy())
        yield block, counts
        start += len(block)
        histogram_bytes = 8 * np.iinfo(counts.dtype).max * len(counts[0])  # of one site
        size = max(1, BLOCK_BYTES // max(counts[0].nbytes, histogram_bytes))
        bar.update(len(block))


def estimate_fields(images: ImageSource, sites: pd.DataFrame) -> pd.DataFrame:
    """The table ``illumination_fields``: the flat field of each plate and channel."""
    tables = []
    with progress("illumination", len(sites), "sites") as bar:
        for (experiment, plate), rows in sites.groupby(["experiment", "plate"]):
            blocks = [illumination.block_means(counts) for _, counts in read_blocks(images, rows, bar)]
            field = illumination.estimate_field(np.concatenate(blocks))
            tables.append(illumination.field_table(field, experiment, plate, images.channels))
    table = pd.concat(tables, ignore_index=True)
    logger.info(
        "illumination: fields of %s plates, %.2f to %.2f", len(tables), table["gain"].min(), table["gain"].max()
    )
    return table


def measure_screen(images: ImageSource, sites: pd.DataFrame, wells: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables ``site_features`` and ``plate_histograms`` from one pass over the images.

    Args:
        images: The images of the screen.
        sites: The table ``sites``.
        wells: The table ``wells``.
    """
    of_well = wells.set_index("id_code")[["well_type", "cell_type"]]
    feature_tables, histogram_tables = [], []
    with progress("measuring", len(sites), "sites") as bar:
        for (experiment, plate), rows in sites.groupby(["experiment", "plate"]):
            total: dict[str, np.ndarray] = {}
            for block, counts in read_blocks(images, rows, bar):
                histograms = statistics.histograms(counts)
                measured = features.measure_sites(counts, histograms)
                feature_tables.append(features.site_table(block, images.channels, measured))
                well_types = of_well.loc[block["id_code"], "well_type"].to_numpy()
                statistics.add_histograms(total, histograms, well_types)
            cell_type = of_well.loc[rows["id_code"].iloc[0], "cell_type"]
            key = {"experiment": experiment, "plate": plate, "cell_type": cell_type}
            histogram_tables.append(statistics.histogram_table(total, key, images.channels))
    return pd.concat(feature_tables, ignore_index=True), pd.concat(histogram_tables, ignore_index=True)
