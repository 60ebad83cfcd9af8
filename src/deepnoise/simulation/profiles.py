"""Named settings of the simulation: how perturbations act, and how much technical noise there is."""

from __future__ import annotations

from dataclasses import dataclass, replace

from deepnoise.simulation.biology import Biology
from deepnoise.simulation.noise import NoiseLevels


@dataclass(frozen=True)
class Profile:
    """Biology and technical noise of a simulated screen."""

    biology: Biology
    noise: NoiseLevels


ADDITIVE = Profile(Biology(), NoiseLevels())
"""Every perturbation has its own effect on every cell, and noise is added to it. It was the default until 0.1."""

ADVERSARIAL = Profile(
    Biology(),
    replace(
        ADDITIVE.noise,
        blur=0.6,
        bleed_through=0.12,
        edge=1.0,
        density=0.45,
        penetrance=0.5,
        experiment_trait_shift=1.0,
        plate_trait_shift=0.35,
        well_trait_shift=0.30,
        density_interaction=0.6,
    ),
)
"""``additive`` with much of the noise that a correction of brightness cannot remove."""

DEFAULT = Profile(
    Biology(inactive=0.15, look_alikes=0.25, family_similarity=0.8, responding_cells=0.85, subpopulation=0.15),
    replace(
        ADDITIVE.noise,
        experiment_gain=0.38,
        plate_gain=0.06,
        experiment_offset=1.5,
        plate_offset=0.3,
        cell_type_gain=0.25,
        background=1.0,
        gain_correlation=0.6,
        effect_direction=0.3,
        trait_response=0.25,
        trait_limit=4.0,
        gain_drift=0.05,
        trait_drift=0.2,
        dead_wells=0.01,
        out_of_focus=0.02,
        debris=0.02,
    ),
)
"""What an expert expects of a real screen; its gains and offsets are fitted to RxRx1 (docs/simulation.md)."""

PROFILES = {"default": DEFAULT, "additive": ADDITIVE, "adversarial": ADVERSARIAL}
