"""What ingestion has to show in the report: what was read, what is wrong with it, and what the design gives away."""

from __future__ import annotations

from typing import Any

import pandas as pd

from deepnoise.drawing.figures import words
from deepnoise.fingerprint import fingerprint
from deepnoise.report.chapter import Answer, Chapter, Section, facts, flatten, percent, table, told_by_design


def write_chapter(
    wells: pd.DataFrame, plates: dict[str, Any], report: dict[str, Any], findings: pd.DataFrame, audit: dict[str, Any]
) -> Chapter:
    """The chapter of ingestion.

    Args:
        wells: The table ``wells``.
        plates: Plate -> facts of its images, as the image store keeps them.
        report: The entry ``ingestion_report``.
        findings: The table ``ingestion_findings``.
        audit: The entry ``design_audit``.
    """
    read = flatten({key: report[key] for key in ("tables", "images", "store") if key in report})
    read["fingerprint of the table of wells"] = fingerprint(wells)
    read["fingerprint of the images"] = fingerprint(sorted(plates.items()))
    doubts = []
    if len(findings):
        kinds = findings["finding"].value_counts()
        doubts.append(
            f"{len(findings)} findings of ingestion, mostly {words(str(kinds.index[0]))} ({int(kinds.iloc[0])})"
        )
    exhibits = [
        table("Design audit", _audit_rows(audit), "design_audit", "What the design gives away without any image."),
        table("Findings of ingestion", findings, "ingestion_findings"),
        facts("What was read", read, "ingestion_report", "The same fingerprint means the same content."),
    ]
    section = Section(
        "Design and data", "What was photographed, what is wrong with it, and what its design gives away.", exhibits
    )
    return Chapter([section], {"audit": _answer(audit)}, doubts)


def _answer(audit: dict[str, Any]) -> Answer:
    place, group = audit["class_from_well_position"], audit["class_from_group_and_position"]
    well = audit["confounding"]["well"]
    doubles = audit["duplicate_layouts"]
    confounded, leaky = told_by_design(place), told_by_design(group)
    if confounded:
        strength = "" if well["cramers_v"] is None else f", Cramér’s V {well['cramers_v']:.2f}"
        text = (
            f"yes, class and well position are confounded: the position alone, without any image, names {percent(place['accuracy'])} "
            f"of the wells (chance {percent(place['chance'])}; {well['tied']} of {well['of']} perturbations keep one well{strength}), "
            "so any part of a score may be position"
        )
    else:
        text = (
            f"position alone, without any image, names {percent(place['accuracy'])} of the wells (chance {percent(place['chance'])}), "
            f"plate group and position {percent(group['accuracy'])} (chance {percent(group['chance'])})"
        )
        if leaky:
            text += ", since layouts repeat: together they are an answer sheet"
    if doubles:
        text += f"; {len(doubles)} pair{'s' if len(doubles) > 1 else ''} of experiments share a layout and must stay in one fold"
    return Answer(text, confounded or leaky)


def _audit_rows(audit: dict[str, Any]) -> pd.DataFrame:
    """One row a question of the audit, its answer in words."""
    pairs = [", ".join(map(str, p.values())) if isinstance(p, dict) else str(p) for p in audit["duplicate_layouts"]]
    layouts = ", ".join(f"{name}: {n}" for name, n in audit["layouts_in_use"].items())
    rows: list[tuple[str, float | None, str]] = [
        ("class from well position", *_against_chance(audit["class_from_well_position"])),
        ("class from plate group and position", *_against_chance(audit["class_from_group_and_position"])),
    ]
    rows += [
        (f"perturbation and {place}: Cramér’s V (1: each has its own)", part["cramers_v"], f"{part['tied']} of {part['of']} perturbations tied to one")
        for place, part in audit["confounding"].items()
    ]  # fmt: skip
    rows += [
        ("pairs of experiments with the same layout", len(pairs), "; ".join(pairs) or "none"),
        (
            "plate groups",
            len(audit["plate_groups"]),
            "perturbations in each: " + ", ".join(map(str, audit["plate_groups"])),
        ),
        ("layouts in use", len(audit["layouts_in_use"]), layouts or "none told apart"),
    ]
    for kind, part in audit["controls"].items():
        rows += [(f"{words(kind)}s for {use}", None, answer) for use, answer in part["uses"].items()]
    return pd.DataFrame(rows, columns=["question", "figure", "answer"])


def _against_chance(part: dict[str, float]) -> tuple[float, str]:
    told = "the design gives it away" if told_by_design(part) else "no more than chance"
    return part["accuracy"], f"{percent(part['accuracy'])}, chance {percent(part['chance'])}: {told}"
