"""Normalization's chapter of the report: images before and after, quality flags, leak of pixels."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go
from PIL.Image import Image

from deepnoise.report.chapter import (
    Answer,
    Chapter,
    Exhibit,
    Section,
    figure,
    hardly_above_chance,
    image,
    percent,
    table,
)

PROBED = ("raw", "raw_with_texture", "normalized", "normalized_with_texture")
"""Keys of the entry ``pixel_probe`` that hold a probe."""


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
        plate_maps: The entry ``plate_maps``.
        illumination: The entry ``illumination_plot``.
        plate_qc: The table ``plate_qc``.
        probe: The entry ``pixel_probe``.
        corrected: Whether images are corrected for uneven illumination.
    """
    plates = plate_qc.groupby(["experiment", "plate"])["flags"].agg(lambda flags: (flags != "").any())
    flagged = plate_qc.loc[
        plate_qc["flags"] != "",
        ["experiment", "plate", "channel", "flags", "wells", "focus", "saturated", "background", "intensity"],
    ]
    exhibits = [
        image("Before and after normalization", sheet, "normalization_sheet",
              "One perturbation on plates that are far apart: differences between the raw rows are technical. Each channel has one grey "
              "scale for all raw rows and one for all normalized rows."),
        figure("Plates", plate_maps, "plate_maps",
               "Mean intensity of each well before normalization, in the geometry of the plate; wells without an image are grey. Choose the channel "
               "in the menu; hover over a well for its value. The entry plate_heatmaps holds every plate of a large screen.", wide=True),
        table("Quality flags", flagged, "plate_qc",
              f"Flags are raised on {int(plates.sum())} of {len(plates)} plates. One row per flagged plate and channel."),
    ]  # fmt: skip
    if corrected:
        exhibits.append(image("Illumination", illumination, "illumination_plot", "Images are divided by these fields."))
    answers = {}
    if probe["raw"]["chance"] is not None:
        exhibits.insert(0, _probe_table(probe))
        answers["leak"] = _leak(probe)
    doubts = [f"Quality flags are raised on {int(plates.sum())} of {len(plates)} plates."] if plates.any() else []
    section = Section("Images and plates", "What the microscope recorded, and how normalization changes it.", exhibits)
    return Chapter([section], answers, doubts)


def _leak(probe: dict[str, Any]) -> Answer:
    """Is technical noise still visible in the pixels?"""
    accuracy = {name: probe[name]["balanced_accuracy"] for name in PROBED}
    chance, axis, normalized = probe["raw"]["chance"], probe["axis"], _normalized(probe["strategy"])
    if not hardly_above_chance(accuracy["normalized"], chance):
        lead = f"Yes: {normalized}, brightness and contrast still reveal the {axis}."
    elif not hardly_above_chance(accuracy["normalized_with_texture"], chance):
        lead = f"Yes: {normalized}, texture and quantiles still reveal the {axis}."
    else:
        lead = f"Not clearly: {normalized}, pixels predict the {axis} hardly better than chance."
    sentences = [
        f"Raw brightness and contrast predict the {axis} with a balanced accuracy of {percent(accuracy['raw'])}, {normalized} of "
        f"{percent(accuracy['normalized'])} (chance {percent(chance)}).",
        f"With texture and quantiles too, it is {percent(accuracy['raw_with_texture'])} before and "
        f"{percent(accuracy['normalized_with_texture'])} after.",
    ]
    return Answer(lead, sentences, lead.startswith("Yes"))


def _normalized(strategy: str) -> str:
    return "without normalization" if strategy == "none" else f"after {strategy} normalization"


def _probe_table(probe: dict[str, Any]) -> Exhibit:
    rows = [
        (f"{images}: {features}", probe[name]["balanced_accuracy"], probe[name]["chance"], tier)
        for features, suffix in (("brightness and contrast", ""), ("texture and quantiles too", "_with_texture"))
        for images, name, tier in (
            ("raw", f"raw{suffix}", "T0"),
            (_normalized(probe["strategy"]), f"normalized{suffix}", probe["tier"]),
        )
    ]
    return table(
        f"How well pixels predict the {probe['axis']}, before and after normalization",
        pd.DataFrame(rows, columns=["images and features", "balanced_accuracy", "chance", "tier"]),
        "pixel_probe",
        "A linear probe on hand features. What it can read, a network can use instead of biology.",
    )
