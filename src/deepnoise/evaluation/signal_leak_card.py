"""The signal/leak card: what profiles say about perturbations, beside what they say about the experiment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from deepnoise.evaluation.profiles import Profiles, effective_rank
from deepnoise.evaluation.score_table import card_notes
from deepnoise.evaluation.score_types import Collapse, PlateDesign, SignalLeakCard


def leak_table(answers: dict[str, list[dict[str, Any]]], tiers: dict[str, str]) -> pd.DataFrame:
    """Collect the probes of all representations: the table ``leak_probes``.

    Args:
        answers: Representation -> result of :func:`deepnoise.evaluation.probe_tasks.probe_leaks`.
        tiers: Representation -> its tier.
    """
    rows = [
        {"representation": name, "tier": tiers[name], **probe} for name, probes in answers.items() for probe in probes
    ]
    table = pd.DataFrame(rows)
    for column in ("balanced_accuracy", "chance", "null_low", "null_high", "p", "smallest_p", "detectable"):
        table[column] = pd.to_numeric(table.get(column, pd.Series(np.nan, index=table.index)))
    for column, default in (("planted_found", False), ("probes", 0), ("wells", 0)):
        values = table.get(column, pd.Series(default, index=table.index))
        table[column] = [default if pd.isna(value) else value for value in values]
    return table.astype({"planted_found": bool, "probes": "int64", "wells": "int64"})


def make_card(
    *,
    screen: str,
    tier: str,
    plate_design: PlateDesign,
    profiles: Profiles,
    signal: dict[str, dict[str, dict[str, Any]]],
    leaks: pd.DataFrame,
    corrections: pd.DataFrame,
    activity: pd.DataFrame,
    suspects: pd.DataFrame,
) -> SignalLeakCard:
    """Collect signal, leaks, activity, collapse and suspect wells in one card.

    Args:
        screen: Name of the screen.
        tier: Tier of the embeddings.
        plate_design: The controls of the plate design, of the scores.
        profiles: All wells with an embedding.
        signal: Result of :func:`deepnoise.evaluation.retrieval.summarize_retrieval`.
        leaks: The table ``leak_probes``.
        corrections: The table ``embedding_corrections``.
        activity: Result of :func:`deepnoise.evaluation.retrieval.activity`.
        suspects: The table ``suspect_wells``.
    """
    rows = profiles.rows
    flagged = suspects[suspects["flagged"]] if len(suspects) else suspects
    collapse = _collapse_by_fold(profiles)
    return {
        "screen": screen,
        "tier": tier,
        "profiles": {
            "wells": len(rows),
            "unseen_wells": int((~rows["plate_seen"]).sum()),
            "experiments": int(rows["experiment"].nunique()),
            "plates": int(rows.groupby(["experiment", "plate"]).ngroups),
            "dimensions": int(profiles.values.shape[1]) if len(rows) else 0,
        },
        "plate_design": plate_design,
        "signal": signal,
        "leaks": _probes_by_representation(leaks),
        "corrections": _records(corrections),
        "activity": {
            "perturbations": len(activity),
            "active": int((activity["q"] < 0.05).sum()),
            "share": float((activity["q"] < 0.05).mean()) if len(activity) else None,
        },
        "collapse": collapse,
        "suspects": {str(fault): int(count) for fault, count in flagged.groupby("kind").size().items()},
        "notes": card_notes(rows, signal, leaks, collapse),
    }


def _collapse_by_fold(profiles: Profiles) -> dict[str, Collapse]:
    """Effective rank of the profiles of each fold, on plates that its model was not trained on."""
    unseen = profiles.rows[~profiles.rows["plate_seen"]]
    return {
        str(fold): {
            "effective_rank": effective_rank(profiles.values[members]),
            "dimensions": int(profiles.values.shape[1]),
            "wells": len(members),
        }
        for fold, members in unseen.groupby("fold").groups.items()
    }


def _probes_by_representation(leaks: pd.DataFrame) -> dict[str, dict[str, dict[str, Any]]]:
    """The table ``leak_probes`` as representation -> axis -> row, with None for missing numbers."""
    probes: dict[str, dict[str, dict[str, Any]]] = {}
    for row in _records(leaks):
        probes.setdefault(row.pop("representation"), {})[row.pop("axis")] = row
    return probes


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a table, with None for missing numbers."""
    return table.replace({np.nan: None}).to_dict("records") if len(table) else []
