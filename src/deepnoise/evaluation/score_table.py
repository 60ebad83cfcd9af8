"""The score table as text, and the notes a reader needs."""

from __future__ import annotations

from typing import Any

import pandas as pd

from deepnoise.errors import first_few
from deepnoise.evaluation.headline import HEADLINE_TIERS, no_better_than_chance
from deepnoise.evaluation.intervals import LEAST_EXPERIMENTS, uncertainty
from deepnoise.evaluation.reliability import format_reliability
from deepnoise.evaluation.signal_leak_card import format_card


def _notes(wells: pd.DataFrame, score: dict[str, Any] | None, unit: str, external: bool) -> list[str]:
    notes = []
    if score is None:
        notes.append("no held-out labels: nothing was scored")
    elif score["experiments"] < LEAST_EXPERIMENTS:
        notes.append(
            f"fewer than six scored experiments ({score['experiments']}): points and exact sign-flip p, no intervals"
        )
    if score is not None and no_better_than_chance(score):
        notes.append("the plain calls are no better than chance: these scores tell nothing of this screen")
    plates = wells.groupby(["experiment", "plate"]).ngroups
    if plates < 8:
        notes.append(f"portability check only: {plates} plates are too few to tell biology from plate")
    targets = wells[wells["target"] & wells["perturbation"].notna()]
    places = targets.groupby("perturbation")["well"].nunique()
    repeated = targets.groupby("perturbation").size() > 1
    tied = int((places[repeated] == 1).sum())
    if tied and tied == int(repeated.sum()):
        notes.append(
            f"class and well position are confounded: each of the {tied} perturbations stands at one well position "
            "on every plate, so part of any score may be position"
        )
    if score is not None and score["tier"] == "T1c":
        notes.append("T1c: the identity of the control wells was used for normalization, also on the scored plates")
    if score is not None and score["tier"] not in HEADLINE_TIERS:
        notes.append(
            f"tier {score['tier']}: no headline; only T0, T1 and T1c owe nothing to plate design or to held-out images"
        )
    if unit == "site":
        notes.append("scored by site (here: single cells), not by well; cells of one well are not independent")
    if external and score is not None:
        notes.append("scores came from another model")
    return notes


def _strange_labels(truth: list[str], names: list[str]) -> list[str]:
    callable_names = set(names)
    strange = [name for name in truth if name not in callable_names]
    if not strange:
        return []
    return [
        f"{len(strange)} held-out wells carry a perturbation that cannot be called ({first_few(sorted(set(strange)))}): "
        "they count as wrong"
    ]


def format_scores(scores: dict[str, Any]) -> str:
    """The printed score table."""
    lines = [
        f"Scores of the screen '{scores['screen']}' (unit: {scores['unit']}, {scores['classes']} perturbations)",
        "",
    ]
    lines.append(f"{'':36} {'top-1':>7} {'top-5':>7} {'chance':>7} {'n':>6}  tier   95 % interval, or exact p")

    def row(name: str, part: dict[str, Any]) -> str:
        top5 = "-" if part.get("top5") is None else f"{part['top5']:.1%}"
        sure = uncertainty(part) if part["interval"] is None else "{:.1%} to {:.1%}".format(*part["interval"])
        return f"{name:36} {part['top1']:7.1%} {top5:>7} {part['chance']:7.1%} {part['n']:6d}  {part['tier']:5}  {sure}"

    main = scores["heldout"][scores["unit"]]
    other = "site" if scores["unit"] == "well" else "well"
    if scores["baseline"]:
        lines.append(row("hand features + logistic regression", scores["baseline"]))
    if scores["seen"]:
        lines.append(row("model, plates seen in training", scores["seen"]))
    if scores["validation"]:
        lines.append(row("model, validation plates", scores["validation"]))
    if main:
        lines.append(row("model, held-out plates", main))
    if main and scores["heldout"][other]:
        lines.append(row(f"  the same by {other}", scores["heldout"][other]))
    lines += [row("  after " + step["step"], step) for step in scores["steps"] if step["step"] != "plain"]
    if main:
        by = main["by_cell_type"] if len(main["by_cell_type"]) > 1 else {}
        mark = "" if main["tier"] == "T1" else f"   (tier {main['tier']})"
        lines += ["", f"balanced accuracy (macro recall): {main['macro_recall']:.3f}{mark}"]
        if scores["baseline"]:
            lines.append(
                f"   hand features, balanced accuracy: {scores['baseline']['macro_recall']:.3f} ({scores['baseline']['tier']})"
            )
        if scores["against_baseline"]:
            gain = scores["against_baseline"]
            sure = (
                "{:+.1%} to {:+.1%}".format(*gain["gain_interval"])
                if gain["gain_interval"]
                else f"p {gain['gain_sign_flip_p']:.3f}"
            )
            lines.append(f"   gain over hand features: {gain['gain']:+.1%} ({sure}, paired by experiment)")
        if scores["gap"]:
            lines.append(f"   seen less unseen plates: {scores['gap']['top1']:+.1%}")
        if by:
            lines.append("   top-1 by cell type: " + ", ".join(f"{k} {v['top1']:.1%}" for k, v in by.items()))
    for pair in scores["pairs"]:
        lines.append(
            f"   {pair['pair'][0]} against {pair['pair'][1]} alone, {pair['of']}: balanced accuracy {pair['macro_recall']:.3f} "
            f"(chance 0.500, n {pair['n']})"
        )
    groups = scores["plate_groups"]
    if groups["plates"]:
        lines.append(
            f"   plate groups: decided on {groups['decided']} of {groups['plates']} plates; "
            f"{groups['right']} right of {groups['checked']} decided among the {groups['checkable']} with labels"
        )
    lines += [""] + [f"note: {note}" for note in scores["notes"]]
    return "\n".join(lines).rstrip() + "\n"


def format_all(
    scores: dict[str, Any], reliability_summary: list[dict[str, Any]], signal_leak_card: dict[str, Any]
) -> str:
    """The score table: scores, then confidences against the labels, then signal and leak."""
    parts = (format_scores(scores), format_reliability(reliability_summary), format_card(signal_leak_card))
    return "\n".join(part for part in parts if part)
