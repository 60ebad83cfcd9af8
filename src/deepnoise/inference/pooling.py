"""From sites to wells, and out to other tools."""

from __future__ import annotations

import numpy as np
import pandas as pd

from deepnoise.plate_balancing.scores import entropies, log_softmax
from deepnoise.tables import EMBEDDING, SCORE, class_names, matrix


def pool_wells(
    site_logits: pd.DataFrame, site_embeddings: pd.DataFrame, pooling: str = "logits"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Average the sites of each well, as many as there are.

    Args:
        site_logits: Of sites.
        site_embeddings: Of the same sites.
        pooling: ``logits``: their mean; ``probabilities``: the log of the mean softmax.

    Returns:
        ``well_logits`` (mean logits) and ``well_embeddings`` (mean, brought back to unit length).
    """
    key = ["fold", "role", "id_code", "experiment", "plate", "well", "tier"]
    scores = [c for c in site_logits.columns if c.startswith(SCORE)]
    if pooling == "probabilities":
        p = np.exp(log_softmax(site_logits[scores].to_numpy(np.float64)))
        site_logits = pd.concat([site_logits[key], pd.DataFrame(p, site_logits.index, scores)], axis=1)
    grouped = site_logits.groupby(key, sort=True)
    wells = pd.concat([grouped.size().rename("n_sites"), grouped[scores].mean()], axis=1).reset_index()
    if pooling == "probabilities":
        wells[scores] = np.log(np.maximum(wells[scores], 1e-30))
    wells.insert(wells.columns.get_loc("n_sites") + 1, "entropy", entropies(matrix(wells, SCORE)))
    axes = [c for c in site_embeddings.columns if c.startswith(EMBEDDING)]
    pooled = site_embeddings.groupby([*key, "plate_seen"], sort=True)[axes].mean().reset_index()
    values = matrix(pooled, EMBEDDING)
    values = values / np.clip(np.linalg.norm(values, axis=1, keepdims=True), 1e-12, None)
    meta = pooled.drop(columns=axes)
    return wells, pd.concat([meta, pd.DataFrame(values, columns=axes, index=meta.index)], axis=1)


def best_calls(well_logits: pd.DataFrame, most: int = 3) -> list[str]:
    """A line a well: its likeliest perturbations, with uncalibrated probabilities."""
    names = np.array(class_names(well_logits))
    p = np.exp(log_softmax(matrix(well_logits, SCORE).astype(np.float64)))
    order = np.argsort(-p, axis=1)[:, :most]
    return [
        f"{row.experiment}/{row.plate}/{row.well}: " + ", ".join(f"{names[c]} ({p[i, c]:.2f})" for c in order[i])
        for i, row in enumerate(well_logits.itertuples())
    ]


def profiles_table(site_embeddings: pd.DataFrame, wells: pd.DataFrame) -> pd.DataFrame:
    """The table ``profiles``: embeddings of sites under the column names that pycytominer and copairs know.

    Args:
        site_embeddings: Of sites.
        wells: The table ``wells``; a withheld perturbation stays empty.
    """
    axes = [c for c in site_embeddings.columns if c.startswith(EMBEDDING)]
    known = wells.set_index("id_code")
    place = site_embeddings
    meta = pd.DataFrame(
        {
            "Metadata_Experiment": place["experiment"],
            "Metadata_Plate": place["plate"],
            "Metadata_Well": place["well"],
            "Metadata_Site": place["site"],
            "Metadata_Perturbation": place["id_code"].map(known["perturbation"]),
            "Metadata_Control": place["id_code"].map(known["well_type"]),
            "Metadata_CellType": place["id_code"].map(known["cell_type"]),
            "Metadata_Fold": place["fold"],
            "Metadata_PlateSeen": place["plate_seen"],
            "Metadata_Tier": place["tier"],
        }
    )
    return pd.concat([meta, place[axes]], axis=1)
