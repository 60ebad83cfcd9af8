"""Evaluation's chapter of the report: right and confident calls, signal and technical noise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from deepnoise.drawing.figures import words
from deepnoise.evaluation.headline import no_better_than_chance
from deepnoise.evaluation.intervals import LEAST_EXPERIMENTS
from deepnoise.evaluation.score_table import baseline_name
from deepnoise.evaluation.score_types import PlateDesign, Scores, SignalLeakCard, StepScore
from deepnoise.report.chapter import (
    SHARES,
    Answer,
    Chapter,
    Section,
    figure,
    fraction_of,
    hardly_above_chance,
    listing,
    percent,
    table,
)
from deepnoise.tiers import NOT_EXCLUDED

FEW_CLASSES = 6
"""Up to this many perturbations, the verdict gives the recall of each."""


def write_chapter(
    scores: Scores,
    reliability: list[dict[str, Any]],
    card: SignalLeakCard,
    leaks: pd.DataFrame,
    perturbations: pd.DataFrame,
    suspects: pd.DataFrame,
    plots: dict[str, go.Figure],
) -> Chapter:
    """The chapter of evaluation.

    Args:
        scores: The entry ``scores``.
        reliability: The entry ``reliability_summary``.
        card: The entry ``signal_leak_card``.
        leaks: The table ``leak_probes``.
        perturbations: The table ``perturbation_scores``.
        suspects: The table ``suspect_wells``.
        plots: score_plot, reliability_plot, confusion_plot, signal_leak_plot, embedding_map.
    """
    flagged = suspects[suspects["flagged"]] if len(suspects) else suspects
    calls = Section(
        "Perturbation calls",
        "How many wells are identified, with what knowledge, and how confident the calls are.",
        [
            figure("Accuracy, step by step", plots["score_plot"], "score_plot",
                   "Bars: share of right calls (top-1), coloured by tier. Whiskers: 95 % interval over experiments, given from six "
                   "experiments on. Ticks: chance."),
            table("Scores", _score_rows(scores), "scores",
                  f"Scored by {scores['unit']}. Intervals resample whole experiments; with fewer than six, the exact sign-flip p is given instead."),
            table("Plate design in the plain calls", _plate_design(scores["plate_design"]), "scores",
                  "Dealt anew: held-out plates whose treatments changed places, all else equal. Same plate: wrong calls that name a perturbation "
                  "of the well's own plate, beside chance. One group: pairs of calls on a plate that are of one plate group, beside those under "
                  "BatchNorm statistics of a random part of the experiment."),
            table("Scores by experiment", _by_experiment(scores), "scores", f"The plain call of the model, beside hand features on the same {scores['unit']}s."),
            figure("Are confidences right?", plots["reliability_plot"], "reliability_plot",
                   "Above: on the diagonal, calls with a confidence of 80 % are right in 80 % of cases. Below: how much of the error goes "
                   "when the least confident calls are left out."),
            table("Confidence and accuracy",
                  pd.DataFrame(reliability).drop(columns=["ece_interval", "brier_interval"], errors="ignore"), "reliability_summary",
                  "One row per step. Confidence and accuracy should agree; ece is how far they differ on average, brier the squared error."),
            figure("Which perturbations are confused?", plots["confusion_plot"], "confusion_plot",
                   "Rows: the true perturbation; columns: the call. Similar perturbations are next to each other, so a block on the diagonal "
                   "is a group that the model mixes up."),
            table("Perturbations", perturbations.sort_values("top1", kind="stable"), "perturbation_scores",
                  "Worst first. Activity: how early the replicates of a perturbation rank before the negative controls."),
        ],
        scores["notes"],
    )  # fmt: skip
    if scores["pairs"]:
        pairs = pd.DataFrame([{**pair, "pair": " against ".join(pair["pair"])} for pair in scores["pairs"]])
        calls.exhibits.insert(
            3,
            table(
                "Pairs of perturbations alone",
                pairs.rename(columns={"macro_recall": "balanced_accuracy"}),
                "scores",
                "Calls between these two perturbations only, on their wells.",
            ),
        )
    noise = Section(
        "Signal and technical noise",
        "What embeddings and images reveal of the perturbation, and what of the experiment.",
        [
            figure("Signal and leak", plots["signal_leak_plot"], "signal_leak_plot",
                   "Signal: how early replicates find each other, beside chance. Leak: how well a linear probe predicts technical noise from "
                   "embeddings and from pixels; black lines span 95 % of the results with shuffled labels."),
            table("Leak probes",
                  leaks[["representation", "axis", "verdict", "balanced_accuracy", "chance", "p", "detectable", "wells", "reason", "tier"]], "leak_probes",
                  "“None seen” is stated only where a planted shift would have been found. Detectable: the size of that shift in standard deviations."),
            table("Corrections of the embeddings", _corrections(card), "embedding_corrections",
                  "What is left of signal and noise once the embeddings are corrected. map: how early replicates of held-out wells find each other "
                  "across experiments; plate, experiment: how well a probe tells them. The chosen one is best on validation plates.", {*SHARES, "plate", "experiment"}),
            figure("Map of the embeddings", plots["embedding_map"], "embedding_map",
                   "The first two principal components of wells on plates that the model has not seen. The map illustrates; only the probes measure."),
            table("Suspect wells", flagged[["rank", "experiment", "plate", "well", "kind", "partner", "evidence", "needed", "detail", "tier"]],
                  "suspect_wells", "Their image contradicts the plate map: a swapped, mislabelled or empty well, or a turned plate."),
        ],
        card["notes"],
    )  # fmt: skip
    answers = {"signal": _signal(scores), "design": _design(scores, reliability)}
    if (leak := _leak(card)) is not None:
        answers["leak"] = leak
    return Chapter([calls, noise], answers, _doubts(scores, reliability, card))


def certainty(score: Mapping[str, Any]) -> str:
    """The interval of a score, or why it has none."""
    experiments = score["experiments"]
    if score.get("interval"):
        low, high = score["interval"]
        return f"95 % interval {100 * low:.1f} to {percent(high)} over {experiments} experiments"
    number = "1 experiment" if experiments == 1 else f"{experiments} experiments"
    p = "" if score.get("sign_flip_p") is None else f", exact p {score['sign_flip_p']:.3f}"
    return f"no interval with {number}{p}"


def _evidence(score: Mapping[str, Any]) -> str:
    """What belongs in brackets behind a score: interval, chance and tier."""
    return f"({certainty(score)}, chance {percent(score['chance'])}, tier {score['tier']})"


def _signal(scores: Scores) -> Answer:
    """Are perturbations identified?"""
    main = scores["heldout"][scores["unit"]]
    if not main:
        return Answer(
            "Not shown: no held-out well has a known perturbation.",
            ["Nothing is scored, so the calls are unchecked."],
            True,
        )
    wells = f"{scores['unit']}s"
    sentences = [
        f"Choosing among {scores['classes']} perturbations, the model identifies {percent(main['top1'])} of {main['n']} {wells} "
        f"{_evidence(main)}."
    ]
    if len(main["by_perturbation"]) <= FEW_CLASSES:
        recalls = ", ".join(f"{name} {percent(score['recall'])}" for name, score in main["by_perturbation"].items())
        sentences.append(f"The balanced accuracy is {percent(main['macro_recall'])}, by perturbation: {recalls}.")
    if baseline := scores["baseline"]:
        name = baseline_name(baseline["name"])
        sentences.append(f"The best baseline ({name}) identifies {percent(baseline['top1'])} {_evidence(baseline)}.")
    sentences += _design_controls(scores["plate_design"])
    hardly = no_better_than_chance(main)
    result = f"the model identifies {fraction_of(main['top1'], wells)} {_unseen_plates(main['tier'])}"
    if hardly and main["interval"] and not hardly_above_chance(main["top1"], main["chance"]):
        lead = f"Not shown: {result}, but the interval includes chance."
    elif hardly:
        lead = f"No: {_unseen_plates(main['tier'])}, the model is hardly better than chance."
    elif main["interval"]:
        lead = f"Yes: {result}."
    elif main["experiments"] == 1:
        lead = f"Not shown beyond one experiment: in it, {result}."
    else:
        lead = f"Not shown beyond {main['experiments']} experiments: in these, {result}."
    return Answer(lead, sentences, hardly or not main["interval"])


def _design_controls(design: PlateDesign) -> list[str]:
    """What the three controls say of the plate design in the plain calls, one sentence each."""
    sentences = []
    for control in design["redealt"]:
        if control["of"] != "model":
            continue
        verdict = {
            None: "too few experiments to decide",
            True: "no loss",
            False: "so part of the score is plate design",
        }
        sentences.append(
            f"With the treatments dealt anew over the plates, it identifies {percent(control['redealt'])} instead of "
            f"{percent(control['designed'])}: {verdict[control['loses_nothing']]}."
        )
    if share := design["group_share"].get("heldout", design["group_share"].get("validation")):
        more = "more often than by chance" if share["above_chance"] else "as by chance"
        sentences.append(
            f"Of its wrong calls, {percent(share['share'])} name a perturbation of the same plate (chance {percent(share['chance'])}): {more}."
        )
    if calls := design["redrawn"].get("heldout", design["redrawn"].get("validation")):
        more = "more than by chance" if calls["above_chance"] else "no more than by chance"
        sentences.append(
            f"Of two calls on a plate, {percent(calls['together'])} are of one plate group; under the statistics of a random part of the "
            f"experiment, {percent(calls['redrawn'])} are, and {percent(calls['changed'])} of the calls change: {more}."
        )
    return sentences


def _unseen_plates(tier: str) -> str:
    """Which plates are scored, claiming no more than the tier allows."""
    if "unknown" in tier:
        return "on held-out plates"
    return "on plates whose labels it has not seen" if "T3" in tier else "on plates it was not trained on"


def _design(scores: Scores, reliability: list[dict[str, Any]]) -> Answer:
    """What does knowing the plate layout add?"""
    last = (reliability or [{}])[-1]
    confident = []
    if last.get("confident_precision") is not None:
        confident.append(
            f"{percent(last['confident_share'])} of the calls are confident, and {percent(last['confident_precision'])} of these are right."
        )
    steps = {step["step"]: step for step in scores["steps"]}
    plain = steps.pop("plain", None)
    if not steps:
        lead = "Nothing: the plate layout was not used."
        return Answer(lead, ["Every call rests on the well’s own images.", *confident], False)
    name, best = list(steps.items())[-1]
    without = f", against {percent(plain['top1'])} without it" if plain else ""
    sentences = [
        f"With the plate layout, {percent(best['top1'])} of {best['n']} wells are identified after {words(name)} {_evidence(best)}{without}.",
        "This is knowledge of the layout, not biology.",
    ]
    groups = scores["plate_groups"]
    if groups["plates"]:
        sentences.append(f"The plate group was decided on {groups['decided']} of {groups['plates']} plates.")
        if groups["checked"]:
            sentences.append(f"It is right on {groups['right']} of the {groups['checked']} that can be checked.")
    return Answer(_layout_gain(best), [*sentences, *confident], False)


def _layout_gain(step: StepScore) -> str:
    """The gain of a balancing step over the plain call of the same wells, in one sentence."""
    points = f"{100 * abs(step['gain']):.1f} percentage points"
    if step["gain"] <= 0:
        loss = f"{points} fewer wells are identified" if step["gain"] < 0 else "as many wells are identified"
        return f"No gain: with it, {loss}."
    if step["gain_interval"] is None:
        experiments = "one experiment" if step["experiments"] == 1 else f"{step['experiments']} experiments"
        return f"Not shown beyond {experiments}: there, it adds {points} (exact p {step['gain_sign_flip_p']:.3f})."
    low, high = (f"{100 * limit:.1f}" for limit in step["gain_interval"])
    interval = f"95 % interval {low} to {high}"
    if step["gain_interval"][0] <= 0:
        return f"No clear gain: it adds {points} ({interval})."
    return f"It adds {points} ({interval})."


def _leak(card: SignalLeakCard) -> Answer | None:
    """Is technical noise still visible?"""
    leaks = card["leaks"]
    raw, normalized = (leaks.get(name, {}).get("plate", {}) for name in ("raw_intensity", "normalized_intensity"))
    probes = leaks.get("embedding", {})
    compared = raw.get("verdict") in ("leak", "none seen") and normalized.get("balanced_accuracy") is not None
    if not compared and not probes:
        return None
    lead, sentences, warning = _embedding_leak(probes)
    if compared:
        sentences.insert(
            0,
            f"On {raw['wells']} wells of unseen plates, raw brightness predicts the plate in {percent(raw['balanced_accuracy'])} and "
            f"normalized brightness in {percent(normalized['balanced_accuracy'])} "
            f"(chance {percent(raw['chance'])}, verdicts: {raw['verdict']}, {normalized['verdict']}).",
        )
        if normalized["verdict"] == "leak" and not lead.startswith("Yes"):
            lead, warning = "Yes: normalized brightness still reveals the plate.", True
    return Answer(lead, sentences, warning)


def _embedding_leak(probes: dict[str, dict[str, Any]]) -> tuple[str, list[str], bool]:
    """Lead, evidence and warning on the leak probes of the embeddings, by axis."""
    leaking = {axis: probe for axis, probe in probes.items() if probe["verdict"] == "leak"}
    probed = [axis for axis, probe in probes.items() if probe["balanced_accuracy"] is not None]
    undecided = [axis for axis in probed if probes[axis]["verdict"] == "undecided"]
    if leaking:
        accuracies = [
            f"the {words(axis)} in {percent(probe['balanced_accuracy'])} (chance {percent(probe['chance'])})"
            for axis, probe in leaking.items()
        ]
        evidence = f"From the embeddings, a linear probe predicts {listing(accuracies)}."
        return f"Yes: the embeddings still reveal {_with_article(leaking)}.", [evidence], True
    if not probes:
        return "Not shown: there are no embeddings to probe.", [], True
    if not probed:
        evidence = "No leak probe can be run on the embeddings here."
        return "Not shown: the embeddings cannot be probed here.", [evidence], True
    doubt = f"; undecided: {listing([words(axis) for axis in undecided])}" if undecided else ""
    evidence = f"No leak is seen in the embeddings ({len(probed)} of {len(probes)} axes could be probed{doubt})."
    if len(undecided) == len(probed):
        return "Not shown: no probe of the embeddings could decide.", [evidence], True
    but = f", but undecided for {_with_article(undecided)}" if undecided else ""
    return f"Not seen in the embeddings{but}.", [evidence], False


def _with_article(axes: Iterable[str]) -> str:
    return listing([f"the {words(axis)}" for axis in axes])


def _doubts(scores: Scores, reliability: list[dict[str, Any]], card: SignalLeakCard) -> list[str]:
    """Reasons to distrust the scores, strongest first."""
    doubts = []
    if main := scores["heldout"][scores["unit"]]:
        if main["experiments"] < LEAST_EXPERIMENTS:
            are = "experiments are" if main["experiments"] > 1 else "experiment is"
            doubts.append(f"{main['experiments']} scored {are} too few to generalize from.")
        if main["tier"].endswith(NOT_EXCLUDED):
            doubts.append(
                "Plate design is not excluded: plates or experiments repeat their contents, and no control decides."
            )
        if len(main["by_experiment"]) > 1:
            weakest = min(main["by_experiment"], key=main["by_experiment"].__getitem__)
            doubts.append(f"The weakest experiment is {weakest} ({percent(main['by_experiment'][weakest])}).")
    doubts += [
        f"The pair {' against '.join(pair['pair'])}, taken alone, is predicted no better than chance "
        f"({percent(pair['macro_recall'])}, chance {percent(pair['chance'])})."
        for pair in scores["pairs"]
        if pair["of"] == "model" and pair["macro_recall"] <= pair["chance"]
    ]
    if reliability:
        last = reliability[-1]
        doubts.append(
            f"Confidences say {percent(last['confidence'])} where {percent(last['accuracy'])} of the calls are right "
            f"(calibration error {last['ece']:.3f})."
        )
    if card["suspects"]:
        number = sum(card["suspects"].values())
        suspects = "suspect wells or plates contradict" if number > 1 else "suspect well or plate contradicts"
        doubts.append(f"{number} {suspects} the plate map.")
    return doubts


def _score_rows(scores: Scores) -> pd.DataFrame:
    """One row per score of the printed score table."""
    named_scores: list[tuple[str, Any]] = [
        *((baseline_name(score["name"]), score) for score in scores["baselines"]),
        ("model, plates seen in training", scores["seen"]),
        ("model, validation plates", scores["validation"]),
        ("model, held-out plates", scores["heldout"][scores["unit"]]),
        *((f"after {words(step['step'])}", step) for step in scores["steps"] if step["step"] != "plain"),
    ]
    columns = [
        "calls of",
        "top1",
        "interval_low",
        "interval_high",
        "exact_p",
        "top5",
        "chance",
        "n",
        "experiments",
        "tier",
    ]
    rows = [
        (name, s["top1"], *(s["interval"] or (None, None)), s["sign_flip_p"], s.get("top5"), s["chance"], s["n"], s["experiments"], s["tier"])
        for name, s in named_scores
        if s
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _plate_design(design: PlateDesign) -> pd.DataFrame:
    """The three controls, one row per result."""
    rows: list[tuple[str, float, float, float, list[float] | None, int]] = [
        (f"dealt anew, {c['of']}", c["redealt"], c["designed"], c["gain"], c["gain_interval"], c["experiments"])
        for c in design["redealt"]
    ]
    rows += [
        (f"same plate, {role}", s["share"], s["chance"], s["excess"], s["excess_interval"], s["experiments"])
        for role, s in design["group_share"].items()
    ]
    rows += [
        (f"one group, {role}", c["together"], c["redrawn"], c["excess"], c["excess_interval"], c["experiments"])
        for role, c in design["redrawn"].items()
    ]
    columns = ["control", "value", "compared_with", "difference", "interval_low", "interval_high", "experiments"]
    return pd.DataFrame([(*row[:4], *(row[4] or (None, None)), row[5]) for row in rows], columns=columns)


def _corrections(card: SignalLeakCard) -> pd.DataFrame:
    """The table ``embedding_corrections``, without what the report has no room for."""
    columns = [
        "correction",
        "chosen",
        "map",
        "gain",
        "plate",
        "plate_verdict",
        "experiment",
        "experiment_verdict",
        "reason",
        "tier",
    ]
    return pd.DataFrame(card["corrections"], columns=columns)


def _by_experiment(scores: Scores) -> pd.DataFrame:
    """Top-1 of the model and of hand features in each experiment."""
    model = (scores["heldout"][scores["unit"]] or {"by_experiment": {}})["by_experiment"]
    hand_features = (scores["baseline"] or {"by_experiment": {}})["by_experiment"]
    rows = [(name, top1, hand_features.get(name)) for name, top1 in model.items()]
    return pd.DataFrame(rows, columns=["experiment", "top1", "hand_features"])
