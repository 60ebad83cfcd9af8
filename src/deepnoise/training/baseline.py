"""The baseline: intensity features of the images and logistic regression, on the same folds."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from deepnoise.ingestion.layouts import visible_labels
from deepnoise.plate_balancing.scores import entropies
from deepnoise.tables import FEATURE, SCHEMAS, SCORE, natural_order, prefixed


def score_hand_features(features: pd.DataFrame, wells: pd.DataFrame, folds: pd.DataFrame, tier: str) -> pd.DataFrame:
    """Train on the labelled target sites of each fold; score its held-out and validation target sites.

    Args:
        features: The table ``normalized_features``.
        wells: The table ``wells``.
        folds: The table ``folds``.
        tier: Tier of the normalization.

    Returns:
        A table with the schema ``site_logits``.
    """
    feature_columns = [c for c in features.columns if str(c).startswith(FEATURE)]
    scores = []
    for fold, plates in folds.groupby("fold"):
        visible = visible_labels(wells, plates, "training")
        sites = features.merge(visible.loc[visible["target"], ["id_code", "perturbation"]], on="id_code")
        sites = sites.merge(plates[["experiment", "plate", "role"]], on=["experiment", "plate"])
        train = sites[(sites["role"] == "train") & sites["perturbation"].notna()]
        predicted = sites[sites["role"] != "train"].reset_index(drop=True)
        if predicted.empty or train["perturbation"].nunique() < 2:
            continue
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
        model.fit(train[feature_columns].to_numpy(), train["perturbation"].to_numpy(dtype=str))
        classes = list(model[-1].classes_)
        log_p = model.predict_log_proba(predicted[feature_columns].to_numpy())
        order = natural_order(classes)
        log_p = np.clip(log_p[:, [classes.index(name) for name in order]], -50, 0)
        meta = predicted[["role", "id_code", "experiment", "plate", "well", "site"]].assign(
            fold=fold, tier=tier, entropy=entropies(log_p)
        )
        scores.append(pd.concat([meta, prefixed(log_p.astype(np.float32), order, SCORE, meta.index)], axis=1))
    if not scores:
        return SCHEMAS["site_logits"].empty()
    return pd.concat(scores, ignore_index=True)
