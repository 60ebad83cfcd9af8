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
"""Wells for each row and column in use, from which on their effects can be told: with fewer, the fit takes the wells' own values."""
ROUNDS = 20
TOLERANCE = 1e-8


def plate_grid(values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(R, Q, F) grid of (W, F) values of wells at the given rows and columns; nan where there is no well."""
    grid = np.full((rows.max() + 1, columns.max() + 1, values.shape[1]), np.nan)
    grid[rows, columns] = values
    return grid


def median_polish(grid: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two-way fit by medians: value = overall + row + column + residual (Tukey 1977, Exploratory Data Analysis, ch. 11).

    Args:
        grid: (R, Q, F) float; nan where there is no well.

    Returns:
        Row effects (R, F), column effects (Q, F), both with median 0 over the rows and columns that have wells (0 for the
        others), and residuals (R, Q, F).
    """
    residual = grid.copy()
    row = np.zeros((grid.shape[0], grid.shape[2]))
    column = np.zeros(grid.shape[1:])
    for _ in range(ROUNDS):
        by_row = _median(residual, axis=1)
        residual -= by_row[:, None]
        by_column = _median(residual, axis=0)
        residual -= by_column[None]
        row, column = row + by_row, column + by_column
        if max(np.abs(by_row).max(), np.abs(by_column).max()) < TOLERANCE:
            break
    used_row, used_column = np.isfinite(grid).any(axis=(1, 2)), np.isfinite(grid).any(axis=(0, 2))
    row = np.where(used_row[:, None], row - np.median(row[used_row], axis=0), 0.0)
    column = np.where(used_column[:, None], column - np.median(column[used_column], axis=0), 0.0)
    return row, column, residual


def _median(values: np.ndarray, axis: int) -> np.ndarray:
    """Median of the wells that are there; 0 in a row or column without wells."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nan_to_num(np.nanmedian(values, axis=axis))


def enough_wells(rows: np.ndarray, columns: np.ndarray) -> bool:
    """Whether a plate has ``MIN_WELLS`` wells for each row and column in use."""
    return len(rows) >= MIN_WELLS * (len(np.unique(rows)) + len(np.unique(columns)))


def correct_positions(features: pd.DataFrame) -> pd.DataFrame:
    """Take each plate's row and column effects out of its features; label-free.

    The effects are fitted to the means of wells, so that sites of one well move together. Plates without enough wells
    (:func:`enough_wells`) stay as they are; the log says how many.

    Args:
        features: The table ``normalized_features``.

    Returns:
        A table of the same shape.
    """
    names = [c for c in features.columns if str(c).startswith(FEATURE)]
    corrected = features.copy()
    left = []
    for (experiment, name), plate in features.groupby(["experiment", "plate"]):
        wells = plate.groupby("well")[names].mean()
        rows, columns = places(wells.index)
        if not enough_wells(rows, columns):
            left.append(f"{experiment}/{name}")
            continue
        row, column, _ = median_polish(plate_grid(wells.to_numpy(), rows, columns))
        effect = pd.DataFrame(row[rows] + column[columns], index=wells.index)
        corrected.loc[plate.index, names] = plate[names].to_numpy() - effect.loc[plate["well"]].to_numpy()
    if left:
        logger.warning(
            "position_correction: %s of %s plates have fewer than %s wells for each row and column in use and stay as they are (%s)",
            len(left), features.groupby(["experiment", "plate"]).ngroups, MIN_WELLS, first_few(left, 3),
        )  # fmt: skip
    return corrected
