"""Nodes of ``simulation``: adapters of ``deepnoise.simulation``."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

from deepnoise.parameters import SimulationParameters
from deepnoise.pipelines.types import DataFrame, Image

logger = logging.getLogger(__name__)


def design_plates(parameters: SimulationParameters) -> tuple[DataFrame, DataFrame]:
    """Draw the plate layouts. The table is written as csv files, and passed on together with its labels."""
    from deepnoise.simulation.design import design_screen, redeal

    names = (
        "treatments", "positive_controls", "negative_wells", "cell_types", "labelled_experiments", "heldout_experiments",
        "plates", "missing_wells", "duplicate_layout", "fixed_layout", "seed",
    )  # fmt: skip
    design = design_screen(**{name: getattr(parameters, name) for name in names})
    design = redeal(design, parameters.redeal, parameters.seed)
    return design, design


def render_plates(design: DataFrame, parameters: SimulationParameters) -> Iterator[Any]:
    """Render one plate after another; a final record marks the screen as complete."""
    from tqdm import tqdm

    from deepnoise.fingerprint import fingerprint
    from deepnoise.simulation.redealt import rendering_of
    from deepnoise.simulation.screen import render_screen

    plates = render_screen(design, **rendering_of(parameters).options)
    total = design.groupby(["experiment", "plate"]).ngroups
    started = time.monotonic()
    yield from tqdm(plates, total=total, unit=" plates", desc="simulating", disable=None)
    logger.info(
        "simulated %s wells on %s plates of %s experiments in %.0f s",
        len(design), total, design["experiment"].nunique(), time.monotonic() - started,
    )  # fmt: skip
    yield {
        "parameters": fingerprint(parameters.model_dump()), "wells": len(design), "seed": parameters.seed,
        "simulation": parameters.model_dump(mode="json"),
    }  # fmt: skip


def draw_sheet(images: Any) -> Image:
    """The untreated well B02 of eight experiments, each channel on one grey scale: all differences are technical noise."""
    import numpy as np

    from deepnoise.drawing.contact_sheet import draw_contact_sheet

    untreated = images.found[images.found["well"] == "B02"].drop_duplicates("experiment")
    evenly_spread = untreated.iloc[np.unique(np.linspace(0, len(untreated) - 1, 8).round().astype(int))]
    tiles = [
        (f"{row.experiment}\nplate {row.plate} {row.well}", images.read(row.files))
        for row in evenly_spread.itertuples()
    ]
    return draw_contact_sheet(tiles, images.channels)
