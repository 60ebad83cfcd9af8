"""The signal / leak card: what profiles tell of the perturbations beside what they still tell of the experiment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from deepnoise.evaluation.intervals import uncertainty
from deepnoise.evaluation.profiles import Profiles, effective_rank

REPRESENTATIONS = {
    "embedding": "embeddings",
    "raw_intensity": "raw brightness and contrast",
    "normalized_intensity": "the same, normalized",
}
"""Name in the table ``leak_probes`` -> what to call it."""


def leak_table(answers: dict[str, list[dict[str, Any]]], tiers: dict[str, str]) -> pd.DataFrame:
    """The table ``leak_probes``.

    Args:
        answers: Representation -> result of :func:`deepnoise.evaluation.probe_tasks.probe_leaks`.
        tiers: Representation -> tier of knowledge.
    """
    rows = [
        {"representation": name, "tier": tiers[name], **answer} for name, found in answers.items() for answer in found
    ]
    table = pd.DataFrame(rows)
    for column in ("balanced_accuracy", "chance", "null_low", "null_high", "p", "smallest_p", "detectable"):
        table[column] = pd.to_numeric(table.get(column, pd.Series(np.nan, index=table.index)))
    for column, nothing in (("planted_found", False), ("probes", 0), ("wells", 0)):
        table[column] = [nothing if pd.isna(v) else v for v in table.get(column, pd.Series(nothing, index=table.index))]
    return table.astype({"planted_found": bool, "probes": "int64", "wells": "int64"})


def make_card(
    *,
    screen: str,
    tier: str,
    profiles: Profiles,
    signal: dict[str, dict[str, dict[str, Any]]],
    leaks: pd.DataFrame,
    activity: pd.DataFrame,
    suspects: pd.DataFrame,
) -> dict[str, Any]:
    """The card as JSON; see ``deepnoise.tables.CARD_KEYS``.

    Args:
        screen: Name of the screen.
        tier: Tier of the embeddings.
        profiles: All wells with an embedding.
        signal: Result of :func:`deepnoise.evaluation.retrieval.summarize_retrieval`.
        leaks: The table ``leak_probes``.
        activity: Result of :func:`deepnoise.evaluation.retrieval.activity`.
        suspects: The table ``suspect_wells``.
    """
    rows = profiles.rows
    flagged = suspects[suspects["flagged"]] if len(suspects) else suspects
    collapse = {
        str(fold): {
            "effective_rank": effective_rank(profiles.values[own]),
            "dimensions": int(profiles.values.shape[1]),
            "wells": len(own),
        }
        for fold, own in rows[~rows["plate_seen"]].groupby("fold").groups.items()
    }
    asked = leaks.replace({np.nan: None}) if len(leaks) else leaks
    found: dict[str, dict[str, Any]] = {}
    for row in asked.to_dict("records"):
        found.setdefault(row.pop("representation"), {})[row.pop("axis")] = row
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
        "signal": signal,
        "leaks": found,
        "activity": {
            "perturbations": len(activity),
            "active": int((activity["q"] < 0.05).sum()),
            "share": float((activity["q"] < 0.05).mean()) if len(activity) else None,
        },
        "collapse": collapse,
        "suspects": {str(k): int(v) for k, v in flagged.groupby("kind").size().items()},
        "notes": _notes(rows, signal, leaks, collapse),
    }


def _notes(rows: pd.DataFrame, signal: dict, leaks: pd.DataFrame, collapse: dict[str, Any]) -> list[str]:
    notes = []
    if rows.empty:
        return ["no embeddings: nothing is said about signal or technical noise in them"]
    if rows["perturbation"].isna().all():
        notes.append("no perturbation of any well is known: no signal can be measured")
    elif not signal:
        notes.append("no perturbation stands in two wells of one cell type: no signal can be measured")
    if rows["plate_seen"].any() and not rows["plate_seen"].all():
        notes.append(f"{int(rows['plate_seen'].sum())} wells of plates that the model was trained on are left out")
    if rows["plate_seen"].all():
        notes.append(
            "the model was trained on every plate: signal is that of seen experiments, and every leak probe is void"
        )
    if rows["fold"].nunique() > 1:
        notes.append(
            f"{rows['fold'].nunique()} fold models: measured one by one, then averaged; their embeddings are never pooled"
        )
    own = leaks[leaks["representation"] == "embedding"] if len(leaks) else leaks
    notes += [
        f"{axis}: {reason}" for axis, reason in zip(own.get("axis", []), own.get("reason", []), strict=True) if reason
    ]
    small = [fold for fold, part in collapse.items() if part["effective_rank"] < 3 and part["dimensions"] > 3]
    if small:
        notes.append(
            f"the embeddings of fold {small[0]} have collapsed, or one feature outweighs all others: effective rank {collapse[small[0]]['effective_rank']:.1f}"
        )
    return notes


def format_card(card: dict[str, Any]) -> str:
    """The card as text."""
    size = card["profiles"]
    if not size["wells"]:
        return "Signal and leak: no embeddings\n"
    lines = [
        f"Signal and leak of the screen '{card['screen']}' ({size['unseen_wells']} of {size['wells']} wells are of plates that the model "
        f"did not see, {size['dimensions']} dimensions, tier {card['tier']})",
        "",
    ]
    for kind, levels in card["signal"].items():
        lines.append(
            f"{'replicates found, ' + kind.replace('_', ' ') + 's':44} {'mAP':>6} {'chance':>7} {'n':>6}   interval or p"
        )
        for level, part in levels.items():
            sure = uncertainty(part)
            lines.append(
                f"  {level.replace('_', ' '):42} {part['map']:6.3f} {part['chance']:7.3f} {part['n']:6d}   {sure}; labels shuffled "
                f"within plates: p {part['p']:.3f} (smallest {part['smallest_p']:.3f})"
            )
    names = [name for name in REPRESENTATIONS if name in card["leaks"]]
    for name in names:
        lines += [
            "",
            f"{'leak probes, ' + REPRESENTATIONS[name]:44} {'bal.ac':>6} {'chance':>7} {'null 95 %':>15}   verdict",
        ]
        for axis, part in card["leaks"][name].items():
            if part["balanced_accuracy"] is None:
                lines.append(
                    f"  {axis.replace('_', ' '):42} {'-':>6} {'-':>7} {'-':>15}   {part['verdict']}: {part['reason']}"
                )
                continue
            null = f"{part['null_low']:.3f} to {part['null_high']:.3f}"
            could = (
                "no planted shift was found"
                if part["detectable"] is None
                else f"could see a shift of {part['detectable']:g} sd"
            )
            lines.append(
                f"  {axis.replace('_', ' '):42} {part['balanced_accuracy']:6.3f} {part['chance']:7.3f} {null:>15}   {part['verdict']} "
                f"(p {part['p']:.3f}, smallest {part['smallest_p']:.3f}; {could})"
            )
    lines.append("")
    if card["activity"]["perturbations"]:
        lines.append(
            f"   told from the negative controls (q < 0.05): {card['activity']['active']} of {card['activity']['perturbations']} "
            "perturbations, by cell type and fold"
        )
    for fold, part in card["collapse"].items():
        lines.append(f"   effective rank, fold {fold}: {part['effective_rank']:.1f} of {part['dimensions']} dimensions")
    if card["suspects"]:
        lines.append(
            "   suspect wells: " + ", ".join(f"{n} {kind}" for kind, n in card["suspects"].items()) + " (suspect_wells)"
        )
    else:
        lines.append("   suspect wells: none flagged")
    lines += [f"note: {note}" for note in card["notes"]]
    return "\n".join(lines) + "\n"
