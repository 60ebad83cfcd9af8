"""Nodes of ``normalization``: adapters of ``deepnoise.normalization``."""

from __future__ import annotations

import logging
from typing import Any

import pandas as pd
from tqdm import tqdm

from deepnoise.evaluation.probes import probe_experiment
from deepnoise.normalization import statistics
from deepnoise.parameters import NormalizationParameters

logger = logging.getLogger(__name__)


def measure_sites(image_store: Any, sites: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One pass over the store: exact sums, and intensity features, of every site and channel."""
    parts = []
    for (experiment, plate), rows in tqdm(
        sites.groupby(["experiment", "plate"]), unit=" plates", desc="measuring", disable=None
    ):
        measured = statistics.measure_sites(image_store.read(experiment, plate, rows["store_row"].to_numpy()))
        parts.append(statistics.site_table(rows, image_store.channels, measured))
    table = pd.concat(parts, ignore_index=True)
    sums = ["total", "total_of_squares", "n_pixels"]
    return table.drop(columns=sums), table[["id_code", "experiment", "plate", "channel", *sums]]


def compute_statistics(
    site_sums: pd.DataFrame, wells: pd.DataFrame, parameters: NormalizationParameters
) -> pd.DataFrame:
    """The statistics of the chosen strategy, a row a plate and channel."""
    return statistics.plate_statistics(site_sums, wells, parameters.strategy, parameters.reference)


def probe_pixels(site_features: pd.DataFrame, plate_statistics: pd.DataFrame, wells: pd.DataFrame) -> dict[str, Any]:
    """How well intensity features name the experiment, before and after normalization."""
    raw_like = plate_statistics.assign(mean=0.0, std=1.0, strategy="none")
    kind = wells.set_index("id_code")["cell_type"]
    found: dict[str, Any] = {}
    for name, table in (("raw", raw_like), ("normalized", plate_statistics)):
        features = statistics.normalise_features(site_features, table).drop(columns=["plate", "well", "site"])
        pooled = features.groupby(["id_code", "experiment"]).mean().reset_index()
        everything = [c for c in pooled.columns if c not in ("id_code", "experiment")]
        brightness = [c for c in everything if c.startswith(("mean_", "std_"))]
        for part, columns in ((name, brightness), (f"{name}_with_texture", everything)):
            found[part] = probe_experiment(
                pooled[columns].to_numpy(), pooled["experiment"], pooled["id_code"].map(kind)
            )
    strategy = str(plate_statistics["strategy"].iloc[0])
    found["strategy"], found["tier"] = strategy, str(plate_statistics["tier"].iloc[0])
    if found["raw"]["chance"] is None:
        logger.info("pixel probe: too few experiments of one cell type to tell apart")
        return found
    chance = 100 * found["raw"]["chance"]
    logger.info(
        "raw pixels: experiment named %.0f %% by brightness and contrast (chance %.0f %%)",
        100 * found["raw"]["balanced_accuracy"],
        chance,
    )
    logger.info(
        "after %s normalization: %.0f %%; %.0f %% where texture and quantiles are read too (chance %.0f %%), tier %s",
        strategy, 100 * found["normalized"]["balanced_accuracy"],
        100 * found["normalized_with_texture"]["balanced_accuracy"], chance, found["tier"],
    )  # fmt: skip
    return found
