"""Nodes of ``simulation``: adapters of ``deepnoise.simulation``."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from PIL.Image import Image
from tqdm import tqdm

from deepnoise.drawing.contact_sheet import draw_contact_sheet
from deepnoise.fingerprint import fingerprint
from deepnoise.parameters import SimulationParameters
from deepnoise.simulation.design import design_screen
from deepnoise.simulation.noise import ADVERSARIAL, NoiseLevels
from deepnoise.simulation.screen import RenderedPlate, render_screen

logger = logging.getLogger(__name__)


def design_plates(parameters: SimulationParameters) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Draw the layouts; the same table is written as csv files and handed on with its truth."""
    names = (
        "treatments", "positive_controls", "negative_wells", "cell_types", "labelled_experiments", "heldout_experiments",
        "plates", "missing_wells", "duplicate_layout", "seed",
    )  # fmt: skip
    design = design_screen(**{name: getattr(parameters, name) for name in names})
    return design, design


def noise_levels(parameters: SimulationParameters) -> NoiseLevels:
    """The profile's dials, with those changed that the parameters name."""
    profile = {"default": NoiseLevels(), "adversarial": ADVERSARIAL}[parameters.profile]
    return replace(profile, **parameters.noise.model_dump(exclude_none=True))


def render_plates(design: pd.DataFrame, parameters: SimulationParameters) -> Iterator[RenderedPlate | dict[str, Any]]:
    """Photograph plate after plate; the facts come last and mark the screen as complete."""
    plates = render_screen(
        design,
        effect_strength=parameters.effect_strength,
        traits_changed=parameters.traits_changed,
        sites=parameters.sites,
        image_size=parameters.image_size,
        noise=noise_levels(parameters),
        seed=parameters.seed,
    )
    total = design.groupby(["experiment", "plate"]).ngroups
    started = time.monotonic()
    yield from tqdm(plates, total=total, unit=" plates", desc="simulating", disable=None)
    logger.info(
        "simulated %s wells on %s plates of %s experiments in %.0f s",
        len(design), total, design["experiment"].nunique(), time.monotonic() - started,
    )  # fmt: skip
    yield {"parameters": fingerprint(parameters.model_dump()), "wells": len(design), "seed": parameters.seed}


def draw_sheet(images: Any) -> Image:
    """The untreated well B02 of eight experiments, every channel on one grey scale: what differs is technical noise."""
    untreated = images.found[images.found["well"] == "B02"].drop_duplicates("experiment")
    chosen = untreated.iloc[np.unique(np.linspace(0, len(untreated) - 1, 8).round().astype(int))]
    tiles = [(f"{row.experiment}\nplate {row.plate} {row.well}", images.read(row.files)) for row in chosen.itertuples()]
    return draw_contact_sheet(tiles, images.channels)
