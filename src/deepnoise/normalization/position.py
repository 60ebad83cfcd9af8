"""Row and column effects of a plate, by Tukey's median polish."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pandas as pd

from deepnoise.errors import first_few
from deepnoise.tables import FEATURE
from deepnoise.wells import places

logger = logging.getLogger(__name__)

MIN_WELLS = 2
"""Fewest wells per row and column in use; with fewer, the effects would absorb the wells' own values."""
ROUNDS = 20
TOLERANCE = 1e-8


def plate_grid(values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Place (W, F) values of wells on an (R, Q, F) grid; nan where there is no well."""
    grid = np.full((rows.max() + 1, columns.max() + 1, values.shape[1]), np.nan)
    grid[rows, columns] = values
    return grid


def median_polish(grid: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two-way fit by medians: value = overall + row + column + residual.

    Source: Tukey 1977, Exploratory Data Analysis, ch. 11.

    Args:
        grid: (R, Q, F) float; nan where there is no well.

    Returns:
        Row effects (R, F), column effects (Q, F) and residuals (R, Q, F). The effects have median 0 over the
        rows or columns with wells, and are 0 in empty ones.
    """
    residual = grid.copy()
    row_effect = np.zeros((grid.shape[0], grid.shape[2]))
    column_effect = np.zeros(grid.shape[1:])
    for _ in range(ROUNDS):
        row_median = _median(residual, axis=1)
        residual -= row_median[:, None]
        column_median = _median(residual, axis=0)
        residual -= column_median[None]
        row_effect, column_effect = row_effect + row_median, column_effect + column_median
        if max(np.abs(row_median).max(), np.abs(column_median).max()) < TOLERANCE:
            break
    used_row, used_column = np.isfinite(grid).any(axis=(1, 2)), np.isfinite(grid).any(axis=(0, 2))
    row_effect = np.where(used_row[:, None], row_effect - np.median(row_effect[used_row], axis=0), 0.0)
    column_effect = np.where(used_column[:, None], column_effect - np.median(column_effect[used_column], axis=0), 0.0)
    return row_effect, column_effect, residual


def _median(values: np.ndarray, axis: int) -> np.ndarray:
    """Median over the wells present; 0 in a row or column without wells."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nan_to_num(np.nanmedian(values, axis=axis))


def enough_wells(rows: np.ndarray, columns: np.ndarray) -> bool:
    """Whether a plate has at least ``MIN_WELLS`` wells per row and column in use."""
    return len(rows) >= MIN_WELLS * (len(np.unique(rows)) + len(np.unique(columns)))


def correct_positions(features: pd.DataFrame) -> pd.DataFrame:
    """Subtract each plate's row and column effects from its features, without using labels.

    The effects are fitted to well means, so that all sites of a well shift together. Plates without enough
    wells (:func:`enough_wells`) are left uncorrected; the log says how many.

    Args:
        features: The table ``normalized_features``.

    Returns:
        A table of the same shape.
    """
    feature_columns = [c for c in features.columns if str(c).startswith(FEATURE)]
    corrected = features.copy()
    uncorrected = []
    for (experiment, plate), plate_features in features.groupby(["experiment", "plate"]):
        well_means = plate_features.groupby("well")[feature_columns].mean()
        rows, columns = places(well_means.index)
        if not enough_wells(rows, columns):
            uncorrected.append(f"{experiment}/{plate}")
            continue
        row_effect, column_effect, _ = median_polish(plate_grid(well_means.to_numpy(), rows, columns))
        effect = pd.DataFrame(row_effect[rows] + column_effect[columns], index=well_means.index)
        corrected.loc[plate_features.index, feature_columns] = (
            plate_features[feature_columns].to_numpy() - effect.loc[plate_features["well"]].to_numpy()
        )
    if uncorrected:
        logger.warning(
            "position_correction: %s of %s plates have fewer than %s wells for each row and column in use and are left uncorrected (%s)",
            len(uncorrected), features.groupby(["experiment", "plate"]).ngroups, MIN_WELLS, first_few(uncorrected, 3),
        )  # fmt: skip
    return corrected
