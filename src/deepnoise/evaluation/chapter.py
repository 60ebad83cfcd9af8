"""What evaluation has to show in the report: what is called right and how sure that is; signal beside leak."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from deepnoise.drawing.figures import words
from deepnoise.evaluation.headline import no_better_than_chance
from deepnoise.evaluation.intervals import LEAST_EXPERIMENTS
from deepnoise.report.chapter import Answer, Chapter, Section, figure, percent, table

FEW_CLASSES = 6
"""Up to so many perturbations the recall of each is named."""


def write_chapter(
    scores: dict[str, Any],
    reliability: list[dict[str, Any]],
    card: dict[str, Any],
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
        "Calls",
        "How many wells are named right, by what knowledge, and how sure.",
        [
            figure("Accuracy, step by step", plots["score_plot"], "score_plot",
                   "Bars: top-1; whiskers: 95 % interval over experiments, where there are six; ticks: chance; colours: tiers of knowledge."),
            table("Scores", _score_rows(scores), "scores",
                  f"By {scores['unit']}. Intervals draw whole experiments; under six experiments the exact p of sign flips stands instead."),
            table("Scores by experiment", _by_experiment(scores), "scores", "The plain call of the model, beside hand features on the same rows."),
            figure("Do confidences mean what they say?", plots["reliability_plot"], "reliability_plot",
                   "Above: on the diagonal, 80 % sure is right in 80 %. Below: how much of the error goes when the least sure calls are left out."),
            table("Confidence against the truth",
                  pd.DataFrame(reliability).drop(columns=["ece_interval", "brier_interval"], errors="ignore"), "reliability_summary"),
            figure("What is taken for what", plots["confusion_plot"], "confusion_plot",
                   "Similar perturbations stand together: a block on the diagonal is a group that the model mixes up."),
            table("Perturbations", perturbations.sort_values("top1", kind="stable"), "perturbation_scores",
                  "Worst first. Activity: how early its replicates come before the negative controls."),
        ],
        scores["notes"],
    )  # fmt: skip
    if scores["pairs"]:
        told = pd.DataFrame([{**pair, "pair": " against ".join(pair["pair"])} for pair in scores["pairs"]])
        calls.exhibits.insert(
            3,
            table("Pairs of perturbations alone", told.rename(columns={"macro_recall": "balanced_accuracy"}), "scores"),
        )
    noise = Section(
        "Signal and leak",
        "What embeddings and images tell of the perturbation, and what of the experiment.",
        [
            figure("Signal and leak", plots["signal_leak_plot"], "signal_leak_plot",
                   "Signal: how early replicates find each other, beside chance. Leak: what a linear probe names from embeddings and from pixels; "
                   "black: where 95 % of shuffled labels lie."),
            table("Leak probes",
                  leaks[["representation", "axis", "verdict", "balanced_accuracy", "chance", "p", "detectable", "wells", "reason", "tier"]], "leak_probes",
                  "“None seen” is said only where a planted shift would have been found; detectable: its size in standard deviations."),
            figure("Map of the embeddings", plots["embedding_map"], "embedding_map",
                   "The first two principal components of wells on plates that the model has not seen. An image, no measurement: the probes measure."),
            table("Suspect wells", flagged[["rank", "experiment", "plate", "well", "kind", "partner", "evidence", "needed", "detail", "tier"]],
                  "suspect_wells", "Their image contradicts the plate map: swapped, mislabelled, empty, or a turned plate."),
        ],
        card["notes"],
    )  # fmt: skip
    answers = {"signal": _signal(scores), "design": _design(scores, reliability)}
    if (leak := _leak(card)) is not None:
        answers["leak"] = leak
    return Chapter([calls, noise], answers, _doubts(scores, reliability, card))


def certainty(part: dict[str, Any]) -> str:
    """The interval of a figure, or why it has none."""
    number = part["experiments"]
    if part.get("interval"):
        low, high = part["interval"]
        return f"95 % interval {100 * low:.1f} to {percent(high)} over {number} experiments"
    unit = "experiment" if number == 1 else "experiments"
    p = "" if part.get("sign_flip_p") is None else f", exact p {part['sign_flip_p']:.3f}"
    return f"{number} {unit}: too few for an interval{p}"


def _signal(scores: dict[str, Any]) -> Answer:
    main = scores["heldout"][scores["unit"]]
    if not main:
        return Answer(
            "no held-out well has a known perturbation, so nothing is scored and the calls stand unchecked", True
        )
    text = (
        f"on plates it was not trained on the model names the right one of {scores['classes']} perturbations in "
        f"{percent(main['top1'])} of {main['n']} {scores['unit']}s ({certainty(main)}; chance {percent(main['chance'])}; tier {main['tier']})"
    )
    if len(main["by_perturbation"]) <= FEW_CLASSES:
        each = ", ".join(f"{name} {percent(part['recall'])}" for name, part in main["by_perturbation"].items())
        text += f", balanced accuracy {percent(main['macro_recall'])}: {each}"
    if base := scores["baseline"]:
        text += f"; hand features alone reach {percent(base['top1'])}"
    hardly = no_better_than_chance(main)
    if hardly:
        text += "; that is hardly better than chance"
    return Answer(text, hardly or not main["interval"])


def _design(scores: dict[str, Any], reliability: list[dict[str, Any]]) -> Answer:
    last = (reliability or [{}])[-1]
    sure = ""
    if last.get("confident_precision") is not None:
        sure = f"; {percent(last['confident_share'])} of the calls are sure enough, and {percent(last['confident_precision'])} of these are right"
    steps = {step["step"]: step for step in scores["steps"]}
    plain = steps.pop("plain", None)
    if not steps:
        return Answer(f"the plate design was not used: every call stands on its own images{sure}", False)
    name, best = list(steps.items())[-1]
    start = f", from {percent(plain['top1'])} without it" if plain else ""
    found = scores["plate_groups"]
    groups = (
        f"; the plate group was decided on {found['decided']} of {found['plates']} plates" if found["plates"] else ""
    )
    if groups and found["checked"]:
        groups += f", right on {found['right']} of the {found['checked']} that can be checked"
    return Answer(
        f"with the plate design, which is knowledge and not biology, {percent(best['top1'])} are right after {words(name)}{start} "
        f"({certainty(best)}; chance {percent(best['chance'])}; tier {best['tier']}){groups}{sure}",
        False,
    )


def _leak(card: dict[str, Any]) -> Answer | None:
    parts = []
    leaks = card["leaks"]
    before, after = (leaks.get(name, {}).get("plate", {}) for name in ("raw_intensity", "normalized_intensity"))
    if before.get("verdict") in ("leak", "none seen") and after.get("balanced_accuracy") is not None:
        parts.append(
            f"on {before['wells']} wells of unseen plates the raw brightness names the plate in {percent(before['balanced_accuracy'])}, the "
            f"normalized in {percent(after['balanced_accuracy'])} (chance {percent(before['chance'])}; verdicts: {before['verdict']}, {after['verdict']})"
        )
    own = leaks.get("embedding", {})
    found = {axis: part for axis, part in own.items() if part["verdict"] == "leak"}
    asked = [axis for axis, part in own.items() if part["balanced_accuracy"] is not None]
    if found:
        told = ", ".join(
            f"{words(axis)} {percent(p['balanced_accuracy'])} (chance {percent(p['chance'])})"
            for axis, p in found.items()
        )
        parts.append(f"the embeddings still tell {told}")
    elif asked:
        parts.append(f"in the embeddings no leak is seen ({len(asked)} of {len(own)} axes could be asked)")
    elif own:
        parts.append("of the embeddings no leak probe can be asked here")
    return Answer("; ".join(parts), bool(found) or not asked) if parts else None


def _doubts(scores: dict[str, Any], reliability: list[dict[str, Any]], card: dict[str, Any]) -> list[str]:
    doubts = []
    if main := scores["heldout"][scores["unit"]]:
        if main["experiments"] < LEAST_EXPERIMENTS:
            many = "s are" if main["experiments"] > 1 else " is"
            doubts.append(f"{main['experiments']} scored experiment{many} too few to generalize from")
        if len(main["by_experiment"]) > 1:
            weakest = min(main["by_experiment"], key=main["by_experiment"].__getitem__)
            doubts.append(f"{weakest}, the weakest experiment ({percent(main['by_experiment'][weakest])})")
    doubts += [
        f"{' against '.join(pair['pair'])} alone, named no better than chance ({percent(pair['macro_recall'])}, chance {percent(pair['chance'])})"
        for pair in scores["pairs"]
        if pair["of"] == "model" and pair["macro_recall"] <= pair["chance"]
    ]
    if reliability:
        last = reliability[-1]
        doubts.append(
            f"confidences, which say {percent(last['confidence'])} where {percent(last['accuracy'])} are right (calibration error {last['ece']:.3f})"
        )
    if card["suspects"]:
        doubts.append(f"{sum(card['suspects'].values())} suspect wells or plates that contradict the plate map")
    return doubts


def _score_rows(scores: dict[str, Any]) -> pd.DataFrame:
    parts = [
        ("hand features", scores["baseline"]),
        ("model, plates seen in training", scores["seen"]),
        ("model, validation plates", scores["validation"]),
        ("model, held-out plates", scores["heldout"][scores["unit"]]),
        *((f"after {words(step['step'])}", step) for step in scores["steps"] if step["step"] != "plain"),
    ]
    columns = ["what", "top1", "low", "high", "exact_p", "top5", "chance", "n", "experiments", "tier"]
    rows = [
        (name, p["top1"], *(p["interval"] or (None, None)), p["sign_flip_p"], p.get("top5"), p["chance"], p["n"], p["experiments"], p["tier"])
        for name, p in parts
        if p
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _by_experiment(scores: dict[str, Any]) -> pd.DataFrame:
    main = scores["heldout"][scores["unit"]] or {"by_experiment": {}}
    reference = (scores["baseline"] or {"by_experiment": {}})["by_experiment"]
    rows = [(name, value, reference.get(name)) for name, value in main["by_experiment"].items()]
    return pd.DataFrame(rows, columns=["experiment", "top1", "hand_features"])
