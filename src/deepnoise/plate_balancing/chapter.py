"""Plate balancing's chapter of the report: confidence of calls, changed calls, plate groups."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from deepnoise.report.chapter import Chapter, Section, figure, percent, table


def write_chapter(
    call_maps: go.Figure, calls: pd.DataFrame, groups: pd.DataFrame, calibration: pd.DataFrame
) -> Chapter:
    """The chapter of plate balancing. It is empty where there are no calls.

    Args:
        call_maps: The entry ``call_maps``.
        calls: The table ``calls``.
        groups: The table ``plate_groups``.
        calibration: The table ``calibration``.
    """
    if calls.empty:
        return Chapter([])
    changed = calls[calls["changed"]].sort_values("design_confidence", ascending=False, kind="stable")
    columns = [
        "experiment",
        "plate",
        "well",
        "plain_call",
        "plain_confidence",
        "design_call",
        "design_confidence",
        "design_confident",
        "reason",
    ]
    shares = {"plain_confidence", "design_confidence", "posterior"}
    undecided = int((~groups["decided"]).sum()) if len(groups) else 0
    exhibits = [
        figure("Calls on their plates", call_maps, "call_maps",
               "Confidence of each call, from dark (0) to bright (1); wells without a call are grey. The menu also shows confidences without "
               "the layout, and the calls that it changed.", wide=True),
        table("Calls changed by the plate layout", changed[columns], "calls",
              f"{len(changed)} of {len(calls)} wells ({percent(len(changed) / len(calls))}), most confident first. Plain: from the well’s own images; "
              "design: knowing the layout too.", shares),
        table("Plate groups", groups, "plate_groups",
              "Posterior: probability that the experiment’s assignment is right, rather than its closest rival.", shares),
        table("Temperatures", calibration, "calibration", "Scores are divided by the temperature, so that confidences mean what they say."),
    ]  # fmt: skip
    doubts = [f"The plate group is undecided on {undecided} of {len(groups)} plates."] if undecided else []
    return Chapter(
        [
            Section(
                "Calls with the plate layout",
                "How knowing the plate layout changes the calls: knowledge of the layout, not biology.",
                exhibits,
            )
        ],
        {},
        doubts,
    )
