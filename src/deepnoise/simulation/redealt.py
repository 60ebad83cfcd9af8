"""The held-out plates of a simulated screen, photographed again with their treatments dealt anew.

Cells, conditions and random numbers are those of the screen; only the treatments change their wells. What a score loses
here it owed to the plate design.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from deepnoise.parameters import SimulationParameters
from deepnoise.simulation.biology import Biology
from deepnoise.simulation.cells import CHANNELS
from deepnoise.simulation.design import redeal
from deepnoise.simulation.noise import NoiseLevels
from deepnoise.simulation.profiles import PROFILES
from deepnoise.simulation.screen import render_screen

KEPT_PLATES = 4
"""Rendered plates kept in memory; any other is rendered again when it is read."""
ANOTHER_DEAL = 1_000_003
"""Added to the seed of the deal, so that a screen whose held-out experiments are dealt anew gets a second deal."""


@dataclass(frozen=True)
class Rendering:
    """How the images of a design are rendered; see :func:`deepnoise.simulation.screen.render_screen`."""

    effect_strength: float
    traits_changed: int
    sites: int
    image_size: int
    noise: NoiseLevels
    biology: Biology
    seed: int

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of :func:`deepnoise.simulation.screen.render_screen`."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def rendering_of(parameters: SimulationParameters) -> Rendering:
    """How the parameters ask for images: a profile, with the values that differ from it."""
    profile = PROFILES[parameters.profile]
    return Rendering(
        parameters.effect_strength,
        parameters.traits_changed,
        parameters.sites,
        parameters.image_size,
        replace(profile.noise, **parameters.noise.model_dump(exclude_none=True)),
        replace(profile.biology, **parameters.biology.model_dump(exclude_none=True)),
        parameters.seed,
    )


def recorded_rendering(parameters: dict[str, Any]) -> Rendering:
    """How a simulated screen was rendered, from the block ``simulation`` that its folder keeps.

    Raises:
        ValueError: The block is not one of this version.
    """
    return rendering_of(SimulationParameters.model_validate(parameters))


class RedealtImages:
    """The re-dealt control of a simulated screen, as a source of images; plates are rendered when they are read.

    Args:
        design: Table of :func:`deepnoise.simulation.design.design_screen` of the whole screen, its held-out treatments dealt
            anew; or no rows, for a screen that cannot be dealt anew.
        rendering: How its images were rendered; None without a design.
    """

    channels = list(CHANNELS)

    def __init__(self, design: pd.DataFrame, rendering: Rendering | None) -> None:
        self._rendering, self._design = rendering, design
        self._plates: OrderedDict[tuple[str, str], np.ndarray] = OrderedDict()

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of a site."""
        size = self._rendering.image_size if self._rendering else 0
        return (len(CHANNELS), size, size)

    def read(self, experiment: str, plate: str, store_rows: np.ndarray | None = None) -> np.ndarray:
        """(S, C, H, W) uint8 grey levels of a plate, or of some of its rows."""
        assert self._rendering is not None
        key = (experiment, plate)
        if key not in self._plates:
            only = [(experiment, int(plate))]
            rendered = next(render_screen(self._design, only=only, **self._rendering.options))
            self._plates[key] = rendered.tiles.reshape(-1, *rendered.tiles.shape[2:])
            if len(self._plates) > KEPT_PLATES:
                self._plates.popitem(last=False)
        images = self._plates[key]
        return images if store_rows is None else images[store_rows]

    def checksum(self, experiment: str, plate: str) -> str:
        """Hash of a plate's grey levels."""
        return hashlib.blake2b(self.read(experiment, plate).tobytes(), digest_size=16).hexdigest()

    def sites(self, sites: pd.DataFrame) -> pd.DataFrame:
        """The re-dealt ones among the usable sites of the screen, with the rows by which they are read here.

        Args:
            sites: The table ``sites`` of the screen as designed.
        """
        if self._rendering is None:
            return sites.iloc[:0]
        heldout = self._design[self._design["split"] == "test"]
        row = heldout.groupby(["experiment", "plate"]).cumcount() * self._rendering.sites
        rows = dict(zip(_id_codes(heldout), row, strict=True))
        dealt = sites[sites["id_code"].isin(rows.keys())].reset_index(drop=True)
        return dealt.assign(store_row=dealt["id_code"].map(rows).astype(int) + dealt["site"] - 1)

    def labels(self) -> pd.DataFrame:
        """``id_code`` and ``perturbation`` of the re-dealt treatment wells; read by evaluation alone."""
        if self._rendering is None:
            return pd.DataFrame({"id_code": pd.Series(dtype="str"), "perturbation": pd.Series(dtype="str")})
        dealt = self._design[(self._design["split"] == "test") & (self._design["well_type"] == "treatment")]
        labels = {"id_code": _id_codes(dealt), "perturbation": dealt["sirna"].astype(str)}
        return pd.DataFrame(labels).reset_index(drop=True)


def deal_heldout(design: pd.DataFrame, rendering: Rendering) -> RedealtImages:
    """The re-dealt control of a screen: its held-out treatments dealt anew over the plates of their experiment."""
    return RedealtImages(redeal(design, "heldout", rendering.seed + ANOTHER_DEAL), rendering)


def _id_codes(design: pd.DataFrame) -> pd.Series:
    return design["experiment"] + "_" + design["plate"].astype(str) + "_" + design["well"]
