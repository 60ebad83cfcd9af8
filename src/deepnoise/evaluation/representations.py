"""Leak probes on embeddings, and on the same wells' raw and normalized intensities for comparison."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd

from deepnoise.evaluation.probe_tasks import normalized_wells, probe_leaks, well_features
from deepnoise.evaluation.profiles import Profiles, join_profiles, tier_of_profiles, true_labels
from deepnoise.evaluation.signal_leak_card import leak_table
from deepnoise.parameters import EvaluationParameters
from deepnoise.tables import SCHEMAS

logger = logging.getLogger(__name__)


def probe_representations(
    well_embeddings: pd.DataFrame,
    wells: pd.DataFrame,
    heldout_labels: pd.DataFrame,
    site_features: pd.DataFrame,
    normalized_features: pd.DataFrame,
    plate_statistics: pd.DataFrame,
    parameters: EvaluationParameters,
) -> pd.DataFrame:
    """The table ``leak_probes``: what a linear probe predicts of technical noise from each representation.

    Args:
        well_embeddings: The table of that name; may have no rows.
        wells: The table ``wells``.
        heldout_labels: The withheld labels.
        site_features: The table of that name; without rows, intensities are not probed.
        normalized_features: The table of that name.
        plate_statistics: The table of that name.
        parameters: The block ``evaluation``.
    """
    labels = true_labels(wells, heldout_labels)
    embeddings = join_profiles(well_embeddings, wells, labels)
    representations = {"embedding": embeddings} if len(embeddings.rows) else {}
    tiers = {"embedding": tier_of_profiles(well_embeddings), "raw_intensity": "T0"}
    if len(site_features):
        tiers["normalized_intensity"] = str(plate_statistics["tier"].iloc[0])
        rows = _rows_to_compare(embeddings, wells)
        for name, features in (
            ("raw_intensity", well_features(site_features)),
            ("normalized_intensity", normalized_wells(normalized_features)),
        ):
            measured = rows[rows["id_code"].isin(features.index)].reset_index(drop=True)
            measured = measured.assign(perturbation=measured["id_code"].map(labels))
            representations[name] = Profiles(measured, features.loc[measured["id_code"]].to_numpy(np.float32))
    intensity = well_features(site_features, ("mean",))
    results = {
        name: probe_leaks(profiles, intensity, parameters.permutations, parameters.smallest_leak)
        for name, profiles in representations.items()
    }
    for result in results.get("embedding", []):
        if result["verdict"] in ("leak", "none seen", "undecided"):
            logger.info(
                "leak probe %s: %.1f %% (chance %.1f %%), %s", result["axis"].replace("_", " "),
                100 * result["balanced_accuracy"], 100 * result["chance"], result["verdict"],
            )  # fmt: skip
        else:
            logger.info("leak probe %s: %s, %s", result["axis"], result["verdict"], result["reason"])
    return leak_table(results, tiers) if results else SCHEMAS["leak_probes"].empty()


def _rows_to_compare(embeddings: Profiles, wells: pd.DataFrame) -> pd.DataFrame:
    """The wells whose embeddings are probed; all wells if there are no embeddings."""
    rows = embeddings.rows[~embeddings.rows["plate_seen"]].drop_duplicates("id_code").assign(fold=0)
    return rows if len(rows) else wells.assign(fold=0, role="", plate_seen=False)
