"""Ingestion's chapter of the report: the data read, its faults, and what the design alone reveals."""

from __future__ import annotations

from typing import Any

import pandas as pd

from deepnoise.drawing.figures import words
from deepnoise.fingerprint import fingerprint
from deepnoise.report.chapter import (
    Answer,
    Chapter,
    Section,
    flatten,
    given_away_by_design,
    hardly_above_chance,
    name_value_table,
    percent,
    table,
)


def write_chapter(
    wells: pd.DataFrame, plates: dict[str, Any], report: dict[str, Any], findings: pd.DataFrame, audit: dict[str, Any]
) -> Chapter:
    """The chapter of ingestion.

    Args:
        wells: The table ``wells``.
        plates: Plate -> description of its images, as the image store keeps it.
        report: The entry ``ingestion_report``.
        findings: The table ``ingestion_findings``.
        audit: The entry ``design_audit``.
    """
    contents = flatten({key: report[key] for key in ("tables", "images", "store") if key in report})
    contents["fingerprint of the table of wells"] = fingerprint(wells)
    contents["fingerprint of the images"] = fingerprint(sorted(plates.items()))
    doubts = []
    if len(findings):
        counts = findings["finding"].value_counts()
        number = "1 finding" if len(findings) == 1 else f"{len(findings)} findings"
        doubts.append(f"Ingestion has {number}, mostly {words(str(counts.index[0]))} ({int(counts.iloc[0])}).")
    exhibits = [
        table("Design audit", _audit_rows(audit), "design_audit", "What the design gives away without looking at any image."),
        table("Ingestion findings", findings, "ingestion_findings", "One row per fault in the tables or images, with what was done about it."),
        name_value_table("What was read", contents, "ingestion_report", "Equal fingerprints mean equal content."),
    ]  # fmt: skip
    section = Section(
        "Design and data", "What was imaged, what is wrong with it, and what its design gives away.", exhibits
    )
    return Chapter([section], {"audit": _answer(audit)}, doubts)


def _answer(audit: dict[str, Any]) -> Answer:
    """Can the design alone give answers away?"""
    position, group = audit["class_from_well_position"], audit["class_from_group_and_position"]
    confounded, leaky = given_away_by_design(position), given_away_by_design(group)
    position_text = f"{percent(position['accuracy'])} of the wells (chance {percent(position['chance'])})"
    group_text = f"{percent(group['accuracy'])} (chance {percent(group['chance'])})"
    if confounded:
        well = audit["confounding"]["well"]
        strength = "" if well["cramers_v"] is None else f" (Cramér’s V {well['cramers_v']:.2f})"
        lead = "Yes: perturbation and well position are confounded."
        sentences = [
            f"Well position alone, without any image, predicts {position_text}.",
            f"{well['tied']} of {well['of']} perturbations are always in one well position{strength}.",
            "So any part of a score may come from position.",
        ]
    else:
        predictions = [position, group]
        if leaky:
            lead = "Yes: layouts repeat, so that plate group and well position together are an answer sheet."
        elif all(hardly_above_chance(p["accuracy"], p["chance"]) for p in predictions):
            lead = (
                "No: well position predicts perturbations hardly better than chance, with the plate group or without."
            )
        else:
            lead = "In part: well position predicts perturbations better than chance, but not clearly."
        sentences = [
            f"Well position alone, without any image, predicts {position_text}.",
            f"Plate group and well position together predict {group_text}.",
        ]
    if doubles := len(audit["duplicate_layouts"]):
        pairs = "1 pair of experiments shares" if doubles == 1 else f"{doubles} pairs of experiments share"
        sentences.append(f"{pairs} a layout and must stay in one fold.")
    return Answer(lead, sentences, confounded or leaky or lead.startswith("In part"))


def _audit_rows(audit: dict[str, Any]) -> pd.DataFrame:
    """One row per question of the audit, with the answer in words."""
    pairs = [", ".join(map(str, p.values())) if isinstance(p, dict) else str(p) for p in audit["duplicate_layouts"]]
    layouts = ", ".join(f"{name}: {n}" for name, n in audit["layouts_in_use"].items())
    group_sizes = ", ".join(map(str, audit["plate_groups"]))
    rows: list[tuple[str, float | None, str]] = [
        ("perturbation predicted from well position", *_against_chance(audit["class_from_well_position"])),
        ("perturbation predicted from plate group and well position", *_against_chance(audit["class_from_group_and_position"])),
    ]  # fmt: skip
    rows += [
        (f"perturbation and {axis}: Cramér’s V (1: each {axis} has its own perturbations)", c["cramers_v"],
         f"{c['tied']} of {c['of']} perturbations always in the same {axis}")
        for axis, c in audit["confounding"].items()
    ]  # fmt: skip
    rows += [
        ("pairs of experiments with the same layout", len(pairs), "; ".join(pairs) or "none"),
        ("plate groups", len(audit["plate_groups"]), f"perturbations in each: {group_sizes}"),
        ("layouts in use", len(audit["layouts_in_use"]), layouts or "none distinguished"),
    ]
    for well_type, controls in audit["controls"].items():
        rows += [(f"use of {words(well_type)}s: {use}", None, answer) for use, answer in controls["uses"].items()]
    return pd.DataFrame(rows, columns=["question", "value", "answer"])


def _against_chance(prediction: dict[str, float]) -> tuple[float, str]:
    """An accuracy, and the same in words."""
    judgement = "the design gives it away" if given_away_by_design(prediction) else "not clearly above chance"
    return prediction[
        "accuracy"
    ], f"{percent(prediction['accuracy'])}, chance {percent(prediction['chance'])}: {judgement}"
