"""Corrections of the embeddings side by side: chosen on validation plates, measured on held-out ones (method: section 8)."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd

from deepnoise.evaluation.embedding_correction import CorrectionError, correct_profiles, tier_of_correction
from deepnoise.evaluation.intervals import summarize
from deepnoise.evaluation.probe_tasks import probe_leaks
from deepnoise.evaluation.profiles import Profiles, join_profiles, tier_of_profiles, true_labels
from deepnoise.evaluation.retrieval import average_precisions
from deepnoise.ingestion.layouts import repeated_units
from deepnoise.parameters import EvaluationParameters
from deepnoise.tables import EMBEDDING, LEVELS, SCHEMAS, prefixed

logger = logging.getLogger(__name__)

FOLD_AND_WELL = ["fold", "id_code"]
AXES = ("plate", "experiment")
"""Leak probes of each correction."""


def choose_correction(
    well_embeddings: pd.DataFrame, wells: pd.DataFrame, parameters: EvaluationParameters
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Correct the embeddings by the correction with the greatest mAP of validation wells; no withheld label is read.

    Validation wells are queried among themselves and training wells, all corrected together, since they are compared. Without
    validation wells whose perturbation is in two experiments or on two plates, the first of ``corrections`` is taken.

    Args:
        well_embeddings: The table of that name.
        wells: The table ``wells``.
        parameters: The block ``evaluation``.

    Returns:
        The table ``corrected_embeddings``, and the choice: ``chosen``, and ``validation_map`` by correction, None where there is none.
    """
    if well_embeddings.empty:
        return SCHEMAS["corrected_embeddings"].empty(), {"chosen": None, "validation_map": {}}
    profiles = join_profiles(well_embeddings, wells, true_labels(wells, wells.head(0)))
    known = profiles.take(profiles.rows["role"].isin(["train", "validation"]).to_numpy())
    known = Profiles(known.rows.assign(plate_seen=False), known.values)
    queried = known.rows[known.rows["role"] == "validation"][FOLD_AND_WELL]
    found: dict[str, float | None] = {}
    chosen, best = "", profiles
    for correction in parameters.corrections:
        try:
            corrected = correct_profiles(profiles, correction)
            precisions = _precisions(correct_profiles(known, correction)) if len(queried) else pd.DataFrame()
        except CorrectionError as error:
            if len(parameters.corrections) == 1:
                raise
            logger.info("embedding correction %s is not possible: %s", correction, error)
            continue
        if len(precisions):
            precisions = precisions.merge(queried, on=FOLD_AND_WELL)
        found[correction] = float(precisions["average_precision"].mean()) if len(precisions) else None
        if not chosen or (found[correction] or 0.0) > (found[chosen] or 0.0):  # of equal ones the first
            chosen, best = correction, corrected
    if not chosen:
        raise CorrectionError(
            f"evaluation.corrections: none of {', '.join(parameters.corrections)} is possible here; add none"
        )
    logger.info("embedding correction: %s%s", chosen, "" if found[chosen] is None else f", mAP {found[chosen]:.3f} on validation plates")  # fmt: skip
    names = [f"{i:04d}" for i in range(best.values.shape[1])]
    columns = [c for c in SCHEMAS["corrected_embeddings"].columns if c in best.rows]
    tier = tier_of_correction(chosen, tier_of_profiles(well_embeddings), repeated_units(wells))
    table = best.rows[columns].assign(correction=chosen, tier=tier)
    table = pd.concat([table, prefixed(best.values, names, EMBEDDING, table.index)], axis=1)
    return table, {"chosen": chosen, "validation_map": found}


def compare_corrections(
    well_embeddings: pd.DataFrame,
    wells: pd.DataFrame,
    heldout_labels: pd.DataFrame,
    leak_probes: pd.DataFrame,
    choice: dict[str, Any],
    parameters: EvaluationParameters,
) -> pd.DataFrame:
    """The table ``embedding_corrections``: signal of held-out wells and leaks of all unseen plates after each correction.

    Args:
        well_embeddings: The table of that name.
        wells: The table ``wells``.
        heldout_labels: The withheld labels.
        leak_probes: The table of that name, for the embeddings as they are.
        choice: Second result of :func:`choose_correction`.
        parameters: The block ``evaluation``.
    """
    if well_embeddings.empty or well_embeddings["plate_seen"].all():
        return SCHEMAS["embedding_corrections"].empty()
    profiles = join_profiles(well_embeddings, wells, true_labels(wells, heldout_labels))
    profiles = profiles.take(~profiles.rows["plate_seen"].to_numpy(bool))
    tier, repeated = tier_of_profiles(well_embeddings), repeated_units(wells)
    rows: list[dict[str, Any]] = []
    uncorrected = pd.DataFrame()
    for correction in dict.fromkeys(["none", *parameters.corrections]):
        row: dict[str, Any] = {
            "correction": correction, "chosen": correction == choice["chosen"], "reason": "",
            "tier": tier_of_correction(correction, tier, repeated), "validation_map": choice["validation_map"].get(correction),
        }  # fmt: skip
        rows.append(row)
        try:
            corrected = correct_profiles(profiles, correction)
        except CorrectionError as error:
            row["reason"] = str(error)
            continue
        precisions = _precisions(corrected.take((corrected.rows["role"] != "validation").to_numpy()))
        uncorrected = precisions if correction == "none" else uncorrected
        row |= _signal(precisions, uncorrected)
        if correction == "none":
            of_embedding = leak_probes[leak_probes["representation"] == "embedding"]
            probes = of_embedding[of_embedding["axis"].isin(AXES)].to_dict("records")
        else:
            probes = probe_leaks(
                corrected, pd.DataFrame(), parameters.permutations, parameters.smallest_leak, axes=AXES
            )
        row |= {name: value for probe in probes for name, value in _leak(probe).items()}
    table = pd.DataFrame(rows).reindex(columns=list(SCHEMAS["embedding_corrections"].columns))
    text = [c for c in table if str(c).endswith(("_verdict", "_reason"))]
    return table.fillna({**dict.fromkeys([*text, "level"], ""), "wells": 0, "experiments": 0})


def _precisions(profiles: Profiles) -> pd.DataFrame:
    """Average precision of the treatments, or of the positive controls where there are none, at the strictest level that compares plates.

    Positions are not asked for: where a perturbation keeps its well, no well would be left.
    """
    table, _ = average_precisions(profiles, 0)
    well_types = set(table["well_type"])
    table = table[table["well_type"] == ("treatment" if "treatment" in well_types else "positive_control")]
    for level in reversed(LEVELS[:3]):
        if (table["level"] == level).any():
            return table[table["level"] == level]
    return table


def _signal(precisions: pd.DataFrame, uncorrected: pd.DataFrame) -> dict[str, Any]:
    """mAP of the wells, and its gain over that of the uncorrected ones, paired by well."""
    if precisions.empty:
        return {}
    before = uncorrected.set_index(FOLD_AND_WELL)["average_precision"].reindex(
        pd.MultiIndex.from_frame(precisions[FOLD_AND_WELL])
    )
    gain = summarize(
        precisions["average_precision"].to_numpy() - before.to_numpy(), precisions["experiment"].to_numpy(str)
    )
    low, high = gain["interval"] or (None, None)
    return {
        "level": precisions["level"].iloc[0], "wells": len(precisions), "experiments": gain["experiments"],
        "map": float(precisions["average_precision"].mean()), "map_chance": float(precisions["chance"].mean()),
        "gain": gain["mean"], "gain_low": low, "gain_high": high, "gain_p": gain["sign_flip_p"],
    }  # fmt: skip


def _leak(probe: dict[str, Any]) -> dict[str, Any]:
    """The columns of one probe."""
    axis = probe["axis"]
    return {
        axis: probe.get("balanced_accuracy", np.nan), f"{axis}_chance": probe.get("chance", np.nan),
        f"{axis}_verdict": probe["verdict"], f"{axis}_reason": probe["reason"],
    }  # fmt: skip
