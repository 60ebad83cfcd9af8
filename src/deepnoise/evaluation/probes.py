"""Linear probes: how well can the experiment still be read from features that should show biology?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def probe_experiment(
    features: np.ndarray, experiment: pd.Series, cell_type: pd.Series, seed: int = 0
) -> dict[str, Any]:
    """Balanced accuracy of naming a well's experiment within its cell type.

    A cell type is biology, so experiments of different cell types are never asked apart. A shrunken linear
    discriminant is trained on four fifths of the wells and asked on the rest, five times. Every treatment stands
    once in an experiment, so the perturbation says nothing about the experiment.

    Args:
        features: (W, F) float, one row a well.
        experiment: W names.
        cell_type: W names.
        seed: Seed of the five parts.

    Returns:
        ``balanced_accuracy`` and ``chance`` as means over cell types, ``by_cell_type``; both None where no cell
        type has two experiments.
    """
    scores, chances = {}, []
    for kind in sorted(set(cell_type)):
        member = (cell_type == kind).to_numpy()
        names = experiment[member].to_numpy()
        labels, counts = np.unique(names, return_counts=True)
        if len(labels) < 2 or counts.min() < 5:
            continue
        probe = make_pipeline(StandardScaler(), LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"))
        parts = StratifiedKFold(5, shuffle=True, random_state=seed)
        called = cross_val_predict(probe, features[member], names, cv=parts)
        scores[kind] = float(balanced_accuracy_score(names, called))
        chances.append(1 / len(labels))
    return {
        "balanced_accuracy": float(np.mean(list(scores.values()))) if scores else None,
        "chance": float(np.mean(chances)) if chances else None,
        "by_cell_type": scores,
    }
