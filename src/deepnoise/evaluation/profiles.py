"""Profiles of wells with their metadata, and residual profiles without the effect of the perturbation.

A profile is the embedding of a well, from our network or any other, or its hand features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from deepnoise.tables import EMBEDDING, matrix

FOLD_AND_CELL_TYPE = ["fold", "cell_type"]
"""Profiles are compared only within a fold and cell type: the axes of different fold models are unrelated,
and the appearance of a cell type is biology."""


@dataclass(frozen=True)
class Profiles:
    """Metadata and feature vectors of W wells.

    ``rows`` has fold, id_code, experiment, plate, well, cell_type, well_type, perturbation, role, plate_seen
    and the index 0..W-1. ``values`` is (W, D) float32 in the order of ``rows``.
    """

    rows: pd.DataFrame
    values: np.ndarray

    def take(self, selection: np.ndarray) -> Profiles:
        """Select profiles by a boolean mask or by row numbers."""
        return Profiles(
            self.rows[selection] if selection.dtype == bool else self.rows.iloc[selection], self.values[selection]
        ).renumbered()

    def renumbered(self) -> Profiles:
        """The same profiles with the index 0..W-1."""
        return Profiles(self.rows.reset_index(drop=True), self.values)


def true_labels(wells: pd.DataFrame, heldout_labels: pd.DataFrame) -> pd.Series:
    """id_code -> perturbation: the labels of ``wells`` and the withheld ones. Only for evaluation."""
    visible = wells.dropna(subset=["perturbation"]).set_index("id_code")["perturbation"]
    withheld = heldout_labels.set_index("id_code")["perturbation"]
    return pd.concat([visible[~visible.index.isin(withheld.index)], withheld])


def tier_of_profiles(well_embeddings: pd.DataFrame) -> str:
    """The tier of a table of embeddings; ``unknown`` if it mixes several."""
    tiers = sorted(well_embeddings["tier"].unique())
    return str(tiers[0]) if len(tiers) == 1 else "unknown"


def join_profiles(embeddings: pd.DataFrame, wells: pd.DataFrame, labels: pd.Series) -> Profiles:
    """Join embeddings with cell type, well type and perturbation; drop wells missing from ``wells``.

    Args:
        embeddings: The table ``well_embeddings``.
        wells: The table ``wells``.
        labels: Result of :func:`true_labels`.
    """
    well_types = wells.set_index("id_code")[["cell_type", "well_type"]]
    rows = embeddings[["fold", "id_code", "experiment", "plate", "well", "role", "plate_seen"]].join(
        well_types, on="id_code"
    )
    rows = rows.assign(perturbation=rows["id_code"].map(labels))
    listed = rows["cell_type"].notna().to_numpy()
    values = matrix(embeddings, EMBEDDING).astype(np.float32) if len(embeddings) else np.empty((0, 1), np.float32)
    return Profiles(rows, values).take(listed)


def class_residuals(profiles: Profiles) -> Profiles:
    """Subtract from each profile the mean of its perturbation in other batches (method: section 8).

    A batch is an experiment, or a plate where a fold and cell type has only one experiment. The mean comes
    from the other batches of the same fold and cell type. The well's own batch never enters it, so the
    subtraction neither removes a leak nor creates one.

    Returns:
        The labelled wells whose perturbation is also in another batch; possibly fewer than the given wells.
    """
    rows = profiles.rows
    labelled = profiles.take(rows["perturbation"].notna().to_numpy())
    rows, values = labelled.rows, labelled.values.astype(np.float64)
    if rows.empty:
        return labelled
    one_experiment = rows.groupby(FOLD_AND_CELL_TYPE)["experiment"].transform("nunique") == 1
    batch = rows["experiment"].where(~one_experiment, rows["experiment"] + "/" + rows["plate"])
    perturbation = rows.groupby([*FOLD_AND_CELL_TYPE, "perturbation"]).ngroup().to_numpy()
    in_batch = rows.assign(batch=batch).groupby([*FOLD_AND_CELL_TYPE, "perturbation", "batch"]).ngroup().to_numpy()
    total, count = _sums(values, perturbation)
    batch_total, batch_count = _sums(values, in_batch)
    elsewhere_count = count[perturbation] - batch_count[in_batch]
    keep = elsewhere_count > 0
    mean = (total[perturbation[keep]] - batch_total[in_batch[keep]]) / elsewhere_count[keep, None]
    return Profiles(rows[keep], (values[keep] - mean).astype(np.float32)).renumbered()


def _sums(values: np.ndarray, code: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(G, D) sums and (G,) sizes of the groups that ``code`` numbers 0..G-1."""
    order = np.argsort(code, kind="stable")
    first = np.flatnonzero(np.diff(code[order], prepend=-1))
    return np.add.reduceat(values[order], first, axis=0), np.bincount(code)


def unit_length(values: np.ndarray) -> np.ndarray:
    """(W, D) profiles of length 1, so that their products are cosines; a profile of zeros stays zero."""
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


def centred(values: np.ndarray, code: np.ndarray) -> np.ndarray:
    """Subtract from each row of the (W, D) values the mean of its group."""
    total, count = _sums(values, code)
    return values - (total / count[:, None])[code]


def effective_rank(values: np.ndarray) -> float:
    """Effective rank of centred profiles: exp of the entropy of their normalized singular values.

    Source: Roy and Vetterli 2007, EUSIPCO.

    Args:
        values: (W, D).

    Returns:
        From 1 (all profiles are equal or lie on a line) to at most min(W - 1, D).
    """
    residual = values - values.mean(axis=0)
    gram = residual.T @ residual if values.shape[0] > values.shape[1] else residual @ residual.T
    singular = np.sqrt(np.clip(np.linalg.eigvalsh(gram.astype(np.float64)), 0, None))
    if singular.sum() <= 1e-12:
        return 1.0
    share = singular[singular > 1e-12 * singular.max()] / singular.sum()
    return float(np.exp(-(share * np.log(share)).sum()))
