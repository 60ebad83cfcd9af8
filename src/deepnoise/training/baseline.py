"""The baselines: intensity features of the images and logistic regression, on the same folds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from deepnoise.ingestion.layouts import repeated_units, visible_labels
from deepnoise.normalization.features import z_score
from deepnoise.plate_balancing.scores import entropies
from deepnoise.tables import BASELINES, FEATURE, SCHEMAS, SCORE, natural_order, prefixed
from deepnoise.tiers import over_unit, plain_tier

PLATE = ["experiment", "plate"]


def score_hand_features(
    features: pd.DataFrame, wells: pd.DataFrame, folds: pd.DataFrame, tier: str, redealt: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Train on the labelled target sites of each fold; score its held-out and validation target sites.

    It is done once per baseline: on features as they are, and z-scored over the sites of each experiment, of each plate
    (both are steps that the network has in BatchNorm), and by the control wells of each plate.

    Args:
        features: The table ``normalized_features``.
        wells: The table ``wells``.
        folds: The table ``folds``.
        tier: Tier of the normalization.
        redealt: The table ``redealt_features``: the held-out plates, dealt anew. Their scores have the role ``redealt``.

    Returns:
        The table ``baseline_logits``.
    """
    scores = [
        _score(table, table_of_redealt, wells, folds).assign(baseline=name, tier=tier_of_baseline)
        for name, table, table_of_redealt, tier_of_baseline in _baselines(features, redealt, wells, tier)
    ]
    scores = [table for table in scores if len(table)]
    if not scores:
        return SCHEMAS["baseline_logits"].empty()
    table = pd.concat(scores, ignore_index=True)
    last = [c for c in table.columns if c.startswith(SCORE)]
    return table[[c for c in table.columns if c not in last] + last]


def _baselines(
    features: pd.DataFrame, redealt: pd.DataFrame | None, wells: pd.DataFrame, tier: str
) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame | None, str]]:
    """Name, features, features of the re-dealt plates and tier of each baseline."""
    repeated = repeated_units(wells)
    controls = set(wells.loc[wells["well_type"] != "treatment", "id_code"])
    redealt = None if redealt is None or redealt.empty else redealt
    yield BASELINES[0], features, redealt, tier
    for name, unit, reference in (
        (BASELINES[1], ["experiment"], None),
        (BASELINES[2], PLATE, None),
        (BASELINES[3], PLATE, controls),
    ):
        if reference is not None and not set(features["id_code"]) & reference:
            continue  # a screen without controls
        of_unit = over_unit(tier, unit[-1], repeated)
        # a z-score on controls undoes what the statistics of the plate have done to its features
        tier_of_baseline = of_unit if reference is None else "T1c" if plain_tier(tier) in ("T0", "T1", "T1c") else tier
        scored = [None if table is None else z_score(table, unit, reference) for table in (features, redealt)]
        assert scored[0] is not None
        yield name, scored[0], scored[1], tier_of_baseline


def _score(
    features: pd.DataFrame, redealt: pd.DataFrame | None, wells: pd.DataFrame, folds: pd.DataFrame
) -> pd.DataFrame:
    """Site scores of one baseline, without its tier."""
    feature_columns = [c for c in features.columns if str(c).startswith(FEATURE)]
    targets = set(wells.loc[wells["target"], "id_code"])
    scores = []
    for fold, plates in folds.groupby("fold"):
        visible = visible_labels(wells, plates, "training")
        roles = plates[["experiment", "plate", "role"]]
        sites = features.merge(visible.loc[visible["target"], ["id_code", "perturbation"]], on="id_code")
        sites = sites.merge(roles, on=["experiment", "plate"])
        train = sites[(sites["role"] == "train") & sites["perturbation"].notna()]
        predicted = [sites[sites["role"] != "train"]]
        if redealt is not None:
            dealt = redealt[redealt["id_code"].isin(targets)].merge(roles, on=["experiment", "plate"])
            predicted.append(dealt[dealt["role"] == "heldout"].assign(role="redealt"))
        rows = pd.concat(predicted, ignore_index=True)
        if rows.empty or train["perturbation"].nunique() < 2:
            continue
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
        model.fit(train[feature_columns].to_numpy(), train["perturbation"].to_numpy(dtype=str))
        classes = list(model[-1].classes_)
        probability = model.predict_proba(rows[feature_columns].to_numpy())
        order = natural_order(classes)
        log_p = np.log(np.maximum(probability[:, [classes.index(name) for name in order]], np.exp(-50)))
        meta = rows[["role", "id_code", "experiment", "plate", "well", "site"]].assign(
            fold=fold, entropy=entropies(log_p)
        )
        scores.append(pd.concat([meta, prefixed(log_p.astype(np.float32), order, SCORE, meta.index)], axis=1))
    return pd.concat(scores, ignore_index=True) if scores else pd.DataFrame()
