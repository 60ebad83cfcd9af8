"""What normalization has to show in the report: images before and after, plates, flags, and what pixels still tell."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go
from PIL.Image import Image

from deepnoise.report.chapter import Answer, Chapter, Section, figure, image, percent, table


def write_chapter(
    sheet: Image,
    plate_maps: go.Figure,
    illumination: Image,
    plate_qc: pd.DataFrame,
    probe: dict[str, Any],
    corrected: bool,
) -> Chapter:
    """The chapter of normalization.

    Args:
        sheet: The entry ``normalization_sheet``.
        plate_maps: The entry of that name.
        illumination: The entry ``illumination_plot``.
        plate_qc: The table of that name.
        probe: The entry ``pixel_probe``.
        corrected: Whether images are corrected for illumination.
    """
    plates = plate_qc.groupby(["experiment", "plate"])["flags"].agg(lambda flags: (flags != "").any())
    flagged = plate_qc.loc[
        plate_qc["flags"] != "",
        ["experiment", "plate", "channel", "flags", "wells", "focus", "saturated", "background", "intensity"],
    ]
    exhibits = [
        image("Before and after normalization", sheet, "normalization_sheet",
                "One perturbation on plates that lie far apart: what differs between the raw rows is technical. Each channel has one grey scale for "
                "all raw rows, and one for all normalized rows."),
        figure("Plates", plate_maps, "plate_maps", "Mean intensity, before normalization, in the plate’s own geometry; wells without an image are grey. "
               "Choose the channel; the value stands in each well’s label. Every plate of a large screen: entry plate_heatmaps.", wide=True),
        table("Quality flags", flagged, "plate_qc", f"Of {len(plates)} plates, {int(plates.sum())} have a flag."),
    ]  # fmt: skip
    if corrected:
        exhibits.append(image("Illumination", illumination, "illumination_plot", "What the images are divided by."))
    answers = {}
    if probe["raw"]["chance"] is not None:
        exhibits.insert(0, _probe_table(probe))
        raw, after = probe["raw"], probe["normalized"]
        answers["leak"] = Answer(
            f"raw brightness and contrast name the {probe['axis']} in {percent(raw['balanced_accuracy'])}, after {probe['strategy']} "
            f"normalization in {percent(after['balanced_accuracy'])} (chance {percent(raw['chance'])})",
            after["balanced_accuracy"] > 2 * after["chance"],
        )
    doubts = [f"{int(plates.sum())} of {len(plates)} plates with a quality flag"] if plates.any() else []
    section = Section("Images and plates", "What the cameras recorded, and what normalization makes of it.", exhibits)
    return Chapter([section], answers, doubts)


def _probe_table(probe: dict[str, Any]) -> Any:
    rows = [
        (f"{what}: {read}", probe[name]["balanced_accuracy"], probe[name]["chance"], tier)
        for read, suffix in (("brightness and contrast", ""), ("texture and quantiles too", "_with_texture"))
        for what, name, tier in (
            ("raw", f"raw{suffix}", "T0"),
            (f"after {probe['strategy']} normalization", f"normalized{suffix}", probe["tier"]),
        )
    ]
    return table(
        f"How well pixels name the {probe['axis']}, before and after normalization",
        pd.DataFrame(rows, columns=["what is read", "balanced_accuracy", "chance", "tier"]),
        "pixel_probe",
        "A linear probe on hand features. What it can read, a network can use instead of biology.",
    )
