"""Embeddings without what plates and experiments add to them: corrections that read no perturbation of a treatment (method: section 8)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from sklearn.covariance import ledoit_wolf

from deepnoise.errors import InputError
from deepnoise.evaluation.profiles import FOLD_AND_CELL_TYPE, Profiles, centred
from deepnoise.tiers import over_unit, with_controls, with_heldout_images

ALIKE = ["plate_seen", *FOLD_AND_CELL_TYPE]
"""Profiles are corrected only together with their like: on plates that a model was trained on, they collapse."""


class CorrectionError(InputError):
    """A correction that the screen does not allow."""


def correct_profiles(profiles: Profiles, correction: str) -> Profiles:
    """Profiles after a correction, each fold and cell type by itself, seen and unseen plates apart.

    Args:
        profiles: Wells; perturbations are read of controls alone.
        correction: ``none``; ``plate_centred`` or ``experiment_centred``: minus the mean of the plate or experiment; ``sphered``: see
            :func:`_sphered`; ``harmony``: see :func:`_harmony`.

    Returns:
        The same wells in the same order.

    Raises:
        CorrectionError: The screen does not allow it, or harmonypy is not installed.
    """
    return Profiles(profiles.rows, CORRECTIONS[correction](profiles).astype(np.float32))


def tier_of_correction(correction: str, tier: str, repeated: frozenset[str]) -> str:
    """Tier of corrected profiles.

    Args:
        correction: See :func:`correct_profiles`.
        tier: Tier of the profiles.
        repeated: Units that repeat their contents, of :func:`deepnoise.ingestion.layouts.repeated_units`.
    """
    if correction == "none":
        return tier
    if correction == "sphered":
        return with_controls(tier)
    if correction == "harmony":
        tier = with_heldout_images(tier)  # one fit to the images of all experiments
    return over_unit(tier, "plate" if correction == "plate_centred" else "experiment", repeated)


def _uncorrected(profiles: Profiles) -> np.ndarray:
    return profiles.values


def _plate_centred(profiles: Profiles) -> np.ndarray:
    return centred(profiles.values.astype(np.float64), _code(profiles.rows, [*ALIKE, "experiment", "plate"]))


def _experiment_centred(profiles: Profiles) -> np.ndarray:
    return centred(profiles.values.astype(np.float64), _code(profiles.rows, [*ALIKE, "experiment"]))


def _sphered(profiles: Profiles) -> np.ndarray:
    """Profiles in units of the technical noise of controls (after Ando et al. 2017, bioRxiv 161422, typical variation normalization).

    From each profile, the mean of the controls in its experiment is subtracted. Then all are multiplied by the inverse square root of the
    controls' covariance, shrunken after Ledoit and Wolf 2004, around the mean of their perturbation in their experiment. Controls are the
    control perturbations that are in every experiment of the fold and cell type; each counts the same for the mean.
    """
    values, rows = profiles.values.astype(np.float64), profiles.rows
    common = _common_controls(rows)
    for members in rows.groupby([*ALIKE, "experiment"]).indices.values():
        controls = members[common[members]]
        perturbation = rows["perturbation"].iloc[controls].to_numpy()
        values[members] -= pd.DataFrame(values[controls]).groupby(perturbation).mean().to_numpy().mean(axis=0)
    for members in rows.groupby(ALIKE).indices.values():
        noise = values[members[common[members]]]
        of_perturbation = _code(rows.iloc[members[common[members]]], ["experiment", "perturbation"])
        noise = centred(noise, of_perturbation)[np.bincount(of_perturbation)[of_perturbation] > 1]
        if len(noise) < 2:
            raise CorrectionError("no control perturbation is in two wells of one experiment")
        spread = noise.std(axis=0)
        spread = np.where(spread > 1e-12, spread, 1.0)
        covariance, _ = ledoit_wolf(noise / spread, assume_centered=True)
        variance, axes = np.linalg.eigh(covariance)
        values[members] = values[members] / spread @ (axes / np.sqrt(np.maximum(variance, 1e-12))) @ axes.T
    return values


def _common_controls(rows: pd.DataFrame) -> np.ndarray:
    """(W,) bool: wells of the controls that are in every experiment of their fold and cell type."""
    is_control = (rows["well_type"] != "treatment") & rows["perturbation"].notna()
    experiments = rows.groupby(ALIKE)["experiment"].transform("nunique")
    experiments_of = rows[is_control].groupby([*ALIKE, "perturbation"])["experiment"].transform("nunique")
    common = np.zeros(len(rows), bool)
    common[is_control] = (experiments_of == experiments[is_control]).to_numpy()
    if not len(rows) or not pd.Series(common).groupby(_code(rows, ALIKE)).any().all():
        raise CorrectionError("there is no control that is in every experiment of a cell type")
    return common


def _harmony(profiles: Profiles) -> np.ndarray:
    """Harmony (Korsunsky et al. 2019, Nat. Methods 16, 1289) over the experiments, or over the plates where there is one experiment."""
    try:
        from harmonypy import run_harmony
    except ImportError as error:
        raise CorrectionError("harmonypy is not installed: pip install 'deepnoise[harmony]'") from error
    values, rows = profiles.values.astype(np.float64), profiles.rows
    for members in rows.groupby(ALIKE).indices.values():
        batch = rows["experiment"].iloc[members]
        if batch.nunique() == 1:
            batch = rows["plate"].iloc[members]
        if batch.nunique() > 1:
            fitted = run_harmony(values[members], pd.DataFrame({"batch": batch.to_numpy(str)}), "batch", verbose=False)
            values[members] = np.asarray(fitted.Z_corr).reshape(values[members].shape)
    return values


def _code(rows: pd.DataFrame, columns: list[str]) -> np.ndarray:
    return rows.groupby(columns).ngroup().to_numpy()


CORRECTIONS: dict[str, Callable[[Profiles], np.ndarray]] = {
    "none": _uncorrected,
    "plate_centred": _plate_centred,
    "experiment_centred": _experiment_centred,
    "sphered": _sphered,
    "harmony": _harmony,
}
