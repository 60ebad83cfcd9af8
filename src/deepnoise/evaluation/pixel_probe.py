"""How well intensity features alone identify the experiment or plate, before and after normalization."""

from __future__ import annotations

import logging
from typing import Any

import pandas as pd

from deepnoise.evaluation.probe import probe_batch
from deepnoise.normalization.features import normalize_features
from deepnoise.tables import FEATURE

logger = logging.getLogger(__name__)


def probe_pixels(
    site_features: pd.DataFrame, normalized_features: pd.DataFrame, plate_statistics: pd.DataFrame, wells: pd.DataFrame
) -> dict[str, Any]:
    """The entry ``pixel_probe``: probes of the experiment; of the plate where each cell type has one experiment.

    Plates are probed on single sites of perturbations that are on every plate, so that no perturbation reveals the plate.

    Args:
        site_features: The table of that name.
        normalized_features: The table of that name.
        plate_statistics: The table of that name.
        wells: The table ``wells``.

    Returns:
        ``axis`` (experiment or plate), ``strategy`` and ``tier`` of the normalization, and results of
        :func:`deepnoise.evaluation.probe.probe_batch`: ``raw`` and ``normalized`` (brightness and contrast),
        ``raw_with_texture`` and ``normalized_with_texture`` (all features).
    """
    unnormalized = plate_statistics.assign(location=0.0, scale=1.0, strategy="none")
    raw_features = normalize_features(site_features, unnormalized)
    several_experiments = wells.groupby("cell_type")["experiment"].nunique().max() > 1
    axis = "experiment" if several_experiments else "plate"
    result: dict[str, Any] = {"axis": axis}
    for name, table in (("raw", raw_features), ("normalized", normalized_features)):
        rows, batch, group = _batches(table, wells, axis)
        all_columns = [c for c in rows.columns if c.startswith(FEATURE)]
        brightness = [c for c in all_columns if c.startswith((f"{FEATURE}mean_", f"{FEATURE}std_"))]
        result[name] = probe_batch(rows[brightness].to_numpy(), batch, group)
        result[f"{name}_with_texture"] = probe_batch(rows[all_columns].to_numpy(), batch, group)
    result["strategy"] = str(plate_statistics["strategy"].iloc[0])
    result["tier"] = str(plate_statistics["tier"].iloc[0])
    return result


def _batches(table: pd.DataFrame, wells: pd.DataFrame, axis: str) -> tuple[pd.DataFrame, pd.Series, pd.Series]:
    """Rows of features, the experiment or plate of each, and the cell type or experiment within which it is probed."""
    if axis == "experiment":
        columns = table.drop(columns=["plate", "well", "site"])
        rows = columns.groupby(["id_code", "experiment"]).mean().reset_index()
        return rows, rows["experiment"], rows["id_code"].map(wells.set_index("id_code")["cell_type"])
    plates_with_it = wells.groupby(["experiment", "perturbation"])["plate"].transform("nunique")
    on_every_plate = plates_with_it == wells.groupby("experiment")["plate"].transform("nunique")
    rows = table[table["id_code"].isin(wells.loc[on_every_plate, "id_code"])].reset_index(drop=True)
    return rows, rows["plate"], rows["experiment"]


def log_pixel_probe(result: dict[str, Any]) -> None:
    """Log the result of :func:`probe_pixels`."""
    raw, normalized = result["raw"], result["normalized"]
    if raw["chance"] is None:
        logger.info("pixel probe: too few experiments of one cell type, and too few plates, to tell apart")
        return
    chance = 100 * raw["chance"]
    logger.info(
        "raw images: brightness and contrast identify the %s in %.0f %% (chance %.0f %%)",
        result["axis"], 100 * raw["balanced_accuracy"], chance,
    )  # fmt: skip
    logger.info(
        "after %s normalization: %.0f %%; with texture and quantiles %.0f %% (chance %.0f %%), tier %s",
        result["strategy"], 100 * normalized["balanced_accuracy"],
        100 * result["normalized_with_texture"]["balanced_accuracy"], chance, result["tier"],
    )  # fmt: skip
