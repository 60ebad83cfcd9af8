"""From sites to wells, and to the tables of other tools."""

from __future__ import annotations

import numpy as np
import pandas as pd

from deepnoise.plate_balancing.scores import entropies, log_softmax
from deepnoise.tables import EMBEDDING, SCORE, class_names, matrix


def pool_wells(
    site_logits: pd.DataFrame, site_embeddings: pd.DataFrame, pooling: str = "logits"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Average the sites of each well, however many there are.

    Args:
        site_logits: The table of that name.
        site_embeddings: Embeddings of the same sites.
        pooling: ``logits``: the mean logits; ``probabilities``: the log of the mean softmax.

    Returns:
        The tables ``well_logits`` and ``well_embeddings`` (mean embeddings, scaled back to unit length).
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
    dimensions = [c for c in site_embeddings.columns if c.startswith(EMBEDDING)]
    pooled = site_embeddings.groupby([*key, "plate_seen"], sort=True)[dimensions].mean().reset_index()
    values = matrix(pooled, EMBEDDING)
    values = values / np.clip(np.linalg.norm(values, axis=1, keepdims=True), 1e-12, None)
    meta = pooled.drop(columns=dimensions)
    return wells, pd.concat([meta, pd.DataFrame(values, columns=dimensions, index=meta.index)], axis=1)


def best_calls(well_logits: pd.DataFrame, limit: int = 3) -> list[str]:
    """One line per well: its most likely perturbations, with uncalibrated probabilities."""
    names = np.array(class_names(well_logits))
    p = np.exp(log_softmax(matrix(well_logits, SCORE).astype(np.float64)))
    order = np.argsort(-p, axis=1)[:, :limit]
    return [
        f"{row.experiment}/{row.plate}/{row.well}: " + ", ".join(f"{names[c]} ({p[i, c]:.2f})" for c in order[i])
        for i, row in enumerate(well_logits.itertuples())
    ]


def profiles_table(site_embeddings: pd.DataFrame, wells: pd.DataFrame) -> pd.DataFrame:
    """The table ``profiles``: site embeddings under the column names of pycytominer and copairs.

    Args:
        site_embeddings: Embeddings of sites.
        wells: The table ``wells``; withheld perturbations stay empty.
    """
    dimensions = [c for c in site_embeddings.columns if c.startswith(EMBEDDING)]
    sites = site_embeddings
    of_well = wells.set_index("id_code")
    meta = pd.DataFrame(
        {
            "Metadata_Experiment": sites["experiment"],
            "Metadata_Plate": sites["plate"],
            "Metadata_Well": sites["well"],
            "Metadata_Site": sites["site"],
            "Metadata_Perturbation": sites["id_code"].map(of_well["perturbation"]),
            "Metadata_Control": sites["id_code"].map(of_well["well_type"]),
            "Metadata_CellType": sites["id_code"].map(of_well["cell_type"]),
            "Metadata_Fold": sites["fold"],
            "Metadata_PlateSeen": sites["plate_seen"],
            "Metadata_Tier": sites["tier"],
        }
    )
    return pd.concat([meta, sites[dimensions]], axis=1)
