"""What plate balancing has to show in the report: how sure calls are, where the design changed them, and which groups were found."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from deepnoise.report.chapter import Chapter, Section, figure, percent, table


def write_chapter(
    call_maps: go.Figure, calls: pd.DataFrame, groups: pd.DataFrame, calibration: pd.DataFrame
) -> Chapter:
    """The chapter of plate balancing; without calls it is empty.

    Args:
        call_maps: The entry of that name.
        calls: The table ``calls``.
        groups: The table ``plate_groups``.
        calibration: The table of that name.
    """
    if calls.empty:
        return Chapter([])
    changed = calls[calls["changed"]].sort_values("design_confidence", ascending=False, kind="stable")
    shown = [
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
        figure("Calls on their plates", call_maps, "call_maps", "How sure each call is, from dark to bright; wells without a call are grey.", wide=True),
        table("Calls that the design changed", changed[shown], "calls",
              f"{len(changed)} of {len(calls)} wells ({percent(len(changed) / len(calls))}), surest first.", shares),
        table("Plate groups", groups, "plate_groups", "Posterior: that the experiment’s assignment is right and not its closest rival.", shares),
        table("Temperatures", calibration, "calibration", "What scores are divided by, so that confidences mean what they say."),
    ]  # fmt: skip
    doubts = [f"{undecided} of {len(groups)} plates whose group could not be decided"] if undecided else []
    return Chapter(
        [Section("Calls and plate design", "What knowing the design changes: knowledge, not biology.", exhibits)],
        {},
        doubts,
    )
