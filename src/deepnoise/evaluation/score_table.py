"""Scores, confidences and the signal/leak card as text, and the notes that a reader needs with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from deepnoise.errors import first_few
from deepnoise.evaluation.headline import no_better_than_chance
from deepnoise.evaluation.intervals import LEAST_EXPERIMENTS, uncertainty
from deepnoise.evaluation.score_types import Collapse, PlateDesign, Score, Scores, SignalLeakCard, TieredAccuracy
from deepnoise.tiers import HEADLINE_TIERS, NOT_EXCLUDED, short_tier

REPRESENTATIONS = {
    "embedding": "embeddings",
    "raw_intensity": "raw brightness and contrast",
    "normalized_intensity": "the same, normalized",
}
"""Name in the table ``leak_probes`` -> name in the text."""


def score_notes(wells: pd.DataFrame, score: Score | None, unit: str, external: bool) -> list[str]:
    """What a reader must know to read the scores.

    Args:
        wells: The table ``wells``.
        score: Plain calls on held-out plates, or None.
        unit: Scored by ``well`` or by ``site``.
        external: Whether the scores came from an external model.
    """
    notes = []
    if score is None:
        notes.append("no held-out labels: nothing was scored")
    elif score["experiments"] < LEAST_EXPERIMENTS:
        notes.append(
            f"fewer than six scored experiments ({score['experiments']}): points and exact sign-flip p, no intervals"
        )
    if score is not None and no_better_than_chance(score):
        notes.append("the plain calls are no better than chance: these scores say nothing about this screen")
    notes += _design_notes(wells)
    if score is not None and score["tier"] == "T1c":
        notes.append("T1c: the identity of the control wells was used for normalization, also on the scored plates")
    if score is not None and score["tier"] not in HEADLINE_TIERS:
        notes.append(
            f"tier {score['tier']}: no headline; only T0, T1 and T1c use neither the plate design nor held-out images"
        )
    if unit == "site":
        notes.append("scored by site (here: single cells), not by well; cells of one well are not independent")
    if external and score is not None:
        notes.append("the scores came from an external model")
    return notes


def _design_notes(wells: pd.DataFrame) -> list[str]:
    """Too few plates, or perturbations confounded with well position."""
    notes = []
    plates = wells.groupby(["experiment", "plate"]).ngroups
    if plates < 8:
        notes.append(f"portability check only: {plates} plates are too few to separate biology from plate effects")
    targets = wells[wells["target"] & wells["perturbation"].notna()]
    positions = targets.groupby("perturbation")["well"].nunique()
    replicated = targets.groupby("perturbation").size() > 1
    tied = int((positions[replicated] == 1).sum())
    if tied and tied == int(replicated.sum()):
        notes.append(
            f"class and well position are confounded: each of the {tied} perturbations is at one well position "
            "on every plate, so part of any score may be position"
        )
    return notes


def design_notes(score: Score | None, design: PlateDesign) -> list[str]:
    """What the controls of the plate design leave open, or have found.

    Args:
        score: Plain calls on held-out plates, with the tier that the controls leave; or None.
        design: The controls.
    """
    notes = []
    model = next((control for control in design["redealt"] if control["of"] == "model"), None)
    if score is not None and score["tier"].endswith(NOT_EXCLUDED):
        reason = (
            "the re-dealt control has too few experiments to decide"
            if model
            else "statistics are taken over units that repeat their contents, and nothing can be dealt anew here"
        )
        notes.append(f"tier {score['tier']}: {reason}")
    if model and model["loses_nothing"] is False:
        notes.append(
            f"dealt anew, {-100 * model['gain']:.1f} points are lost: the plain calls owe something to the plate design, so their tier "
            f"is {score['tier'] if score else 'T2'}"
        )
    notes += [
        f"{share['share']:.1%} of the wrong calls on {role} plates name a perturbation of the well's own plate "
        f"(chance {share['chance']:.1%}): the model knows something of what is on a plate"
        for role, share in design["group_share"].items()
        if share["above_chance"]
    ]
    return notes


def unscorable_label_notes(truth: list[str], classes: list[str]) -> list[str]:
    """A note if held-out wells have a perturbation that the model cannot call.

    Args:
        truth: Perturbations of the held-out wells that are scored.
        classes: Perturbations that can be called.
    """
    callable_names = set(classes)
    unscorable = [name for name in truth if name not in callable_names]
    if not unscorable:
        return []
    return [
        f"{len(unscorable)} held-out wells have a perturbation that cannot be called "
        f"({first_few(sorted(set(unscorable)))}): they count as wrong"
    ]


def card_notes(
    rows: pd.DataFrame, signal: dict[str, Any], leaks: pd.DataFrame, collapse: dict[str, Collapse]
) -> list[str]:
    """What a reader must know to read the signal/leak card.

    Args:
        rows: Rows of the profiles.
        signal: Result of :func:`deepnoise.evaluation.retrieval.summarize_retrieval`.
        leaks: The table ``leak_probes``.
        collapse: Fold -> effective rank.
    """
    if rows.empty:
        return ["no embeddings: nothing can be said about signal or technical noise in them"]
    notes = []
    if rows["perturbation"].isna().all():
        notes.append("no well has a known perturbation: no signal can be measured")
    elif not signal:
        notes.append("no perturbation is in two wells of one cell type: no signal can be measured")
    if rows["plate_seen"].any() and not rows["plate_seen"].all():
        notes.append(f"{int(rows['plate_seen'].sum())} wells of plates that the model was trained on are left out")
    if rows["plate_seen"].all():
        notes.append(
            "the model was trained on every plate: the signal is that of seen experiments, and every leak probe is void"
        )
    if rows["fold"].nunique() > 1:
        notes.append(
            f"{rows['fold'].nunique()} fold models: each is measured alone, then the results are averaged; "
            "their embeddings are never pooled"
        )
    embedding = leaks[leaks["representation"] == "embedding"] if len(leaks) else leaks
    reasons = zip(embedding.get("axis", []), embedding.get("reason", []), strict=True)
    notes += [f"{axis}: {reason}" for axis, reason in reasons if reason]
    collapsed = [fold for fold, rank in collapse.items() if rank["effective_rank"] < 3 and rank["dimensions"] > 3]
    if collapsed:
        notes.append(
            f"the embeddings of fold {collapsed[0]} have collapsed, or one feature outweighs all others: "
            f"effective rank {collapse[collapsed[0]]['effective_rank']:.1f}"
        )
    return notes


def format_scores(scores: Scores) -> str:
    """The scores as a table, step by step, with their notes."""
    main = scores["heldout"][scores["unit"]]
    main_tiers = [score["tier"] for score in (main, *scores["baselines"]) if score]
    legend = ["?: plate design not excluded", ""] if any(t.endswith(NOT_EXCLUDED) for t in main_tiers) else []
    lines = [
        f"Scores of the screen '{scores['screen']}' (scored by {scores['unit']}, {scores['classes']} perturbations)",
        "",
        f"{'':46} {'top-1':>7} {'top-5':>7} {'chance':>7} {'n':>6}  tier   95 % interval, or exact p",
        *_score_lines(scores, main),
        *legend,
        *(_heldout_lines(scores, main) if main else []),
    ]
    lines += [
        f"   {pair['pair'][0]} against {pair['pair'][1]} alone, {pair['of']}: balanced accuracy {pair['macro_recall']:.3f} "
        f"(chance 0.500, n {pair['n']})"
        for pair in scores["pairs"]
    ]
    groups = scores["plate_groups"]
    if groups["plates"]:
        lines.append(
            f"   plate groups: decided on {groups['decided']} of {groups['plates']} plates; {groups['checkable']} plates "
            f"have labels, {groups['checked']} of these are decided, {groups['right']} correctly"
        )
    lines += [""] + [f"note: {note}" for note in scores["notes"]]
    if scores["validation"]:
        lines.append("note: validation plates also chose epoch, temperatures and thresholds; their score is no result")
    return "\n".join(lines).rstrip() + "\n"


def _score_lines(scores: Scores, main: Score | None) -> list[str]:
    """One line per set of plain calls, then one per step of plate balancing."""
    other_unit = "site" if scores["unit"] == "well" else "well"
    redealt = {control["of"]: control for control in scores["plate_design"]["redealt"]}
    plain = [
        *((baseline_name(score["name"]), score) for score in scores["baselines"]),
        ("model, plates seen in training", scores["seen"]),
        ("model, validation plates", scores["validation"]),
        ("model, held-out plates", main),
        (f"  the same by {other_unit}", scores["heldout"][other_unit] if main else None),
    ]
    lines = [_score_line(name, score, score["top5"]) for name, score in plain if score]
    lines += [
        f"{'  dealt anew: ' + (baseline_name(name) if name != 'model' else name):46} {control['redealt']:7.1%} {'':7} {'':7} "
        f"{control['n']:6d}         {_change(control)}"
        for name, control in redealt.items()
    ]
    return lines + [_score_line("  after " + step["step"], step) for step in scores["steps"] if step["step"] != "plain"]


def baseline_name(name: str) -> str:
    """A baseline as it is called in the text."""
    return "hand features" if name == "hand features" else f"hand features, z-scored {name}"


def _change(control: Mapping[str, Any]) -> str:
    """The change of top-1 in the re-dealt control, with its interval and verdict."""
    interval = control["gain_interval"]
    certainty = "{:+.1%} to {:+.1%}".format(*interval) if interval else f"p {control['gain_sign_flip_p']:.3f}"
    verdict = {None: "undecided", True: "no loss", False: "a loss"}[control["loses_nothing"]]
    return f"{control['gain']:+.1%} ({certainty}): {verdict}"


def _score_line(name: str, score: TieredAccuracy, top5: float | None = None) -> str:
    top5_text = "-" if top5 is None else f"{top5:.1%}"
    interval = uncertainty(score) if score["interval"] is None else "{:.1%} to {:.1%}".format(*score["interval"])
    return f"{name:46} {score['top1']:7.1%} {top5_text:>7} {score['chance']:7.1%} {score['n']:6d}  {short_tier(score['tier']):5}  {interval}"


def _heldout_lines(scores: Scores, main: Score) -> list[str]:
    """Details of the plain calls on held-out plates."""
    tier = "" if main["tier"] == "T1" else f"   (tier {main['tier']})"
    lines = ["", f"balanced accuracy (macro recall): {main['macro_recall']:.3f}{tier}"]
    if baseline := scores["baseline"]:
        lines.append(
            f"   {baseline_name(baseline['name'])}, balanced accuracy: {baseline['macro_recall']:.3f} ({baseline['tier']})"
        )
    if gain := scores["against_baseline"]:
        interval = gain["gain_interval"]
        certainty = "{:+.1%} to {:+.1%}".format(*interval) if interval else f"p {gain['gain_sign_flip_p']:.3f}"
        best = baseline_name(baseline["name"]) if baseline else "hand features"
        lines.append(
            f"   gain over the best baseline ({best}): {gain['gain']:+.1%} ({certainty}, paired by experiment)"
        )
    if gap := scores["gap"]:
        lines.append(f"   seen less unseen plates: {gap['top1']:+.1%}")
    if len(main["by_cell_type"]) > 1:
        by_cell_type = ", ".join(f"{name} {accuracy['top1']:.1%}" for name, accuracy in main["by_cell_type"].items())
        lines.append(f"   top-1 by cell type: {by_cell_type}")
    return lines


def format_reliability(summary: list[dict[str, Any]]) -> str:
    """Confidence and accuracy after each step, as lines of the score table.

    Args:
        summary: Second result of :func:`deepnoise.evaluation.reliability.measure_reliability`.
    """
    if not summary:
        return ""
    lines = [
        "Confidence against the truth (ECE: mean gap between confidence and accuracy; Brier: lower is better, 0 at best)",
        "",
        f"{'':28} {'correct':>7} {'claimed':>7} {'ECE':>6} {'Brier':>6}   confident calls: share, of these correct",
    ]
    for step in summary:
        confident = ""
        if step.get("confident_share") is not None:
            precision = "-" if step["confident_precision"] is None else f"{step['confident_precision']:.1%}"
            confident = f"{step['confident_share']:.1%}, {precision}"
        lines.append(
            f"  {step['step']:26} {step['accuracy']:7.1%} {step['confidence']:7.1%} {step['ece']:6.3f} {step['brier']:6.3f}   "
            f"{confident}  ({step['tier']})"
        )
    return "\n".join(lines) + "\n"


def format_card(card: SignalLeakCard) -> str:
    """The signal/leak card as text."""
    size = card["profiles"]
    if not size["wells"]:
        return "Signal and leak: no embeddings\n"
    lines = [
        f"Signal and leak of the screen '{card['screen']}' ({size['unseen_wells']} of {size['wells']} wells are on plates that the "
        f"model was not trained on, {size['dimensions']} dimensions, tier {card['tier']})",
        "",
        *_signal_lines(card["signal"]),
        *_design_lines(card["plate_design"]),
    ]
    for name in REPRESENTATIONS:
        if name in card["leaks"]:
            lines += ["", *_leak_lines(name, card["leaks"][name])]
    lines += ["", *_correction_lines(card["corrections"]), *_profile_lines(card)]
    lines += [f"note: {note}" for note in card["notes"]]
    return "\n".join(lines) + "\n"


def _signal_lines(signal: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """Replicate retrieval, one block per well type and one line per level; the null shuffles labels within plates."""
    lines = []
    for well_type, levels in signal.items():
        title = f"replicate retrieval, {well_type.replace('_', ' ')}s"
        lines.append(f"{title:44} {'mAP':>6} {'null':>7} {'n':>6}   p and interval")
        for level, score in levels.items():
            interval = f"; {uncertainty(score)} over experiments" if score["interval"] else ""
            lines.append(
                f"  {level.replace('_', ' '):42} {score['map']:6.3f} {score['null']:7.3f} {score['n']:6d}   "
                f"p {score['p']:.3f} (smallest {score['smallest_p']:.3f}){interval}"
            )
    return lines


def _design_lines(design: PlateDesign) -> list[str]:
    """The controls of the plate design, one line each."""
    lines = [
        f"  {control['of'] + ', treatments dealt anew':42} {control['designed']:.1%} as designed, {control['redealt']:.1%} dealt anew: {_change(control)}"
        for control in design["redealt"]
        if control["of"] == "model"
    ]
    lines += [
        f"  {'wrong calls inside the plate, ' + role:42} {share['share']:.1%} (chance {share['chance']:.1%}, n {share['n']}): {_excess(share)}"
        for role, share in design["group_share"].items()
    ]
    lines += [
        f"  {'calls of one group, ' + role:42} {calls['together']:.1%} of the pairs on a plate ({calls['redrawn']:.1%} under random parts, "
        f"where {calls['changed']:.1%} of the calls change): {_excess(calls)}"
        for role, calls in design["redrawn"].items()
    ]
    return ["", "plate design in the plain calls", *lines] if lines else []


def _excess(share: Mapping[str, Any]) -> str:
    interval = share["excess_interval"]
    certainty = "{:+.1%} to {:+.1%}".format(*interval) if interval else f"p {share['excess_sign_flip_p']:.3f}"
    return f"{'more than chance' if share['above_chance'] else 'as by chance'} ({share['excess']:+.1%}, {certainty})"


def _leak_lines(representation: str, probes: dict[str, dict[str, Any]]) -> list[str]:
    """Leak probes of one representation, one line per axis."""
    title = f"leak probes, {REPRESENTATIONS[representation]}"
    lines = [f"{title:44} {'bal.ac':>6} {'chance':>7} {'null 95 %':>15}   verdict"]
    for axis, probe in probes.items():
        name = axis.replace("_", " ")
        if probe["balanced_accuracy"] is None:
            lines.append(f"  {name:42} {'-':>6} {'-':>7} {'-':>15}   {probe['verdict']}: {probe['reason']}")
            continue
        null = f"{probe['null_low']:.3f} to {probe['null_high']:.3f}"
        power = (
            "no planted shift was detected"
            if probe["detectable"] is None
            else f"could see a shift of {probe['detectable']:g} sd"
        )
        lines.append(
            f"  {name:42} {probe['balanced_accuracy']:6.3f} {probe['chance']:7.3f} {null:>15}   {probe['verdict']} "
            f"(p {probe['p']:.3f}, smallest {probe['smallest_p']:.3f}; {power}{'; ' + probe['reason'] if probe['reason'] else ''})"
        )
    return lines


def _correction_lines(corrections: list[dict[str, Any]]) -> list[str]:
    """Signal and leak of the embeddings after each correction, one line each; the chosen one has a star."""
    if len(corrections) < 2:
        return []
    lines = [
        f"{'embeddings after a correction':26} {'mAP':>6} {'validation':>10} {'plate':>6} {'experiment':>10}  tier   gain in mAP; verdicts"
    ]
    for row in corrections:
        name = f"  {row['correction'].replace('_', ' ')}{' *' if row['chosen'] else ''}"
        if row["reason"]:
            lines.append(f"{name:26} not possible: {row['reason']}")
            continue
        figures = [
            f"{'-' if row[column] is None else format(row[column], '.3f'):>{width}}"
            for column, width in (("map", 6), ("validation_map", 10), ("plate", 6), ("experiment", 10))
        ]
        interval = [row["gain_low"], row["gain_high"]] if row["gain_low"] is not None else None
        score = {"interval": interval, "sign_flip_p": row["gain_p"], "experiments": row["experiments"]}
        gain = (
            "" if row["gain"] is None or row["correction"] == "none" else f"{row['gain']:+.3f} ({uncertainty(score)}); "
        )
        verdicts = f"plate {row['plate_verdict']}, experiment {row['experiment_verdict']}"
        lines.append(f"{name:26} {' '.join(figures)}  {short_tier(row['tier']):5}  {gain}{verdicts}")
        reasons = {axis: row[f"{axis}_reason"] for axis in ("plate", "experiment") if row["correction"] != "none"}
        lines += [f"    {axis}: {reason}" for axis, reason in reasons.items() if reason]
    chosen_on = (
        "on validation plates" if any(row["validation_map"] is not None for row in corrections) else "as the first"
    )
    return [*lines, f"  (* chosen {chosen_on}: corrected_embeddings)", ""]


def _profile_lines(card: SignalLeakCard) -> list[str]:
    """Activity, effective rank and suspect wells."""
    lines = []
    activity = card["activity"]
    if activity["perturbations"]:
        lines.append(
            f"   distinguished from the negative controls (q < 0.05): {activity['active']} of {activity['perturbations']} "
            "perturbations, by cell type and fold"
        )
    lines += [
        f"   effective rank, fold {fold}: {rank['effective_rank']:.1f} of {rank['dimensions']} dimensions"
        for fold, rank in card["collapse"].items()
    ]
    faults = ", ".join(f"{count} {fault}" for fault, count in card["suspects"].items())
    lines.append(f"   suspect wells: {faults} (suspect_wells)" if faults else "   suspect wells: none flagged")
    return lines


def format_all(scores: Scores, reliability_summary: list[dict[str, Any]], signal_leak_card: SignalLeakCard) -> str:
    """The score table: scores, then confidences against the labels, then signal and leak."""
    parts = (format_scores(scores), format_reliability(reliability_summary), format_card(signal_leak_card))
    return "\n".join(part for part in parts if part)
