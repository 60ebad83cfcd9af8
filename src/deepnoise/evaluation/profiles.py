"""Profiles of wells with what is known of them, and what is left of a profile when its perturbation is taken out.

A profile is a well's embedding, from our network or anybody's, or its hand features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from deepnoise.tables import EMBEDDING, matrix

GROUP = ["fold", "cell_type"]
"""Profiles are compared within these alone: axes of different fold models have nothing to do with each other, and what a
cell type looks like is biology."""


@dataclass(frozen=True)
class Profiles:
    """W wells: ``rows`` (fold, id_code, experiment, plate, well, cell_type, well_type, perturbation, role, plate_seen) and ``values``.

    ``values`` is (W, D) float32 in the order of ``rows``, whose index is 0..W-1.
    """

    rows: pd.DataFrame
    values: np.ndarray

    def take(self, chosen: np.ndarray) -> Profiles:
        """The profiles of a boolean mask or of positions."""
        return Profiles(
            self.rows[chosen] if chosen.dtype == bool else self.rows.iloc[chosen], self.values[chosen]
        ).renumbered()

    def renumbered(self) -> Profiles:
        """The same with an index 0..W-1."""
        return Profiles(self.rows.reset_index(drop=True), self.values)


def true_labels(wells: pd.DataFrame, heldout_labels: pd.DataFrame) -> pd.Series:
    """id_code -> perturbation: those of ``wells``, and the withheld ones. For evaluation alone."""
    known = wells.dropna(subset=["perturbation"]).set_index("id_code")["perturbation"]
    held = heldout_labels.set_index("id_code")["perturbation"]
    return pd.concat([known[~known.index.isin(held.index)], held])


def tier_of_profiles(well_embeddings: pd.DataFrame) -> str:
    """The tier of a table of embeddings; ``unknown`` if it mixes several."""
    tiers = sorted(well_embeddings["tier"].unique())
    return str(tiers[0]) if len(tiers) == 1 else "unknown"


def join_profiles(embeddings: pd.DataFrame, wells: pd.DataFrame, labels: pd.Series) -> Profiles:
    """Embeddings with what ``wells`` and the labels say of them.

    Args:
        embeddings: The table ``well_embeddings``.
        wells: The table ``wells``.
        labels: Result of :func:`true_labels`.
    """
    facts = wells.set_index("id_code")[["cell_type", "well_type"]]
    rows = embeddings[["fold", "id_code", "experiment", "plate", "well", "role", "plate_seen"]].join(
        facts, on="id_code"
    )
    rows = rows.assign(perturbation=rows["id_code"].map(labels))
    known = rows["cell_type"].notna().to_numpy()
    values = matrix(embeddings, EMBEDDING).astype(np.float32) if len(embeddings) else np.empty((0, 1), np.float32)
    return Profiles(rows, values).take(known)


def class_residuals(profiles: Profiles) -> Profiles:
    """What is left of each profile when the mean of its perturbation elsewhere is taken out (method: section 8).

    Elsewhere: in the other experiments of its fold and cell type, or on the other plates where there is one experiment. A well's
    own unit never enters what is subtracted from it, so a leak stays and cannot be made by the subtraction.

    Returns:
        The wells whose perturbation is known and stands elsewhere too; fewer rows than given.
    """
    rows = profiles.rows
    labelled = profiles.take(rows["perturbation"].notna().to_numpy())
    rows, values = labelled.rows, labelled.values.astype(np.float64)
    if rows.empty:
        return labelled
    alone = rows.groupby(GROUP)["experiment"].transform("nunique") == 1
    unit = rows["experiment"].where(~alone, rows["experiment"] + "/" + rows["plate"])
    everywhere = rows.groupby([*GROUP, "perturbation"]).ngroup().to_numpy()
    here = rows.assign(unit=unit).groupby([*GROUP, "perturbation", "unit"]).ngroup().to_numpy()
    total, count = _sums(values, everywhere)
    own_total, own_count = _sums(values, here)
    others = count[everywhere] - own_count[here]
    keep = others > 0
    mean = (total[everywhere[keep]] - own_total[here[keep]]) / others[keep, None]
    return Profiles(rows[keep], (values[keep] - mean).astype(np.float32)).renumbered()


def _sums(values: np.ndarray, code: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(code, kind="stable")
    first = np.flatnonzero(np.diff(code[order], prepend=-1))
    return np.add.reduceat(values[order], first, axis=0), np.bincount(code)


def unit_length(values: np.ndarray) -> np.ndarray:
    """(W, D) profiles of length 1, so that their products are cosines; a profile of zeros stays one."""
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


def centred(values: np.ndarray, code: np.ndarray) -> np.ndarray:
    """(W, D) values without the mean of each group."""
    total, count = _sums(values, code)
    return values - (total / count[:, None])[code]


def effective_rank(values: np.ndarray) -> float:
    """exp of the entropy of the normalized singular values of the centred profiles (Roy and Vetterli 2007, EUSIPCO).

    Args:
        values: (W, D).

    Returns:
        1 where all profiles lie on a line or are equal, at most min(W - 1, D).
    """
    residual = values - values.mean(axis=0)
    gram = residual.T @ residual if values.shape[0] > values.shape[1] else residual @ residual.T
    singular = np.sqrt(np.clip(np.linalg.eigvalsh(gram.astype(np.float64)), 0, None))
    if singular.sum() <= 1e-12:
        return 1.0
    share = singular[singular > 1e-12 * singular.max()] / singular.sum()
    return float(np.exp(-(share * np.log(share)).sum()))
