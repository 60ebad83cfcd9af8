"""Design of a simulated screen: which perturbation is in which well of which plate.

It follows RxRx1: several experiments per cell type, four plates per experiment, treatments in plate groups
that stay together, every treatment once per experiment, and positive and negative controls on every plate.
Used by the ``simulation`` pipeline and by tests.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from deepnoise.errors import InputError
from deepnoise.wells import PLATE_FORMATS, all_wells

CELL_TYPES = ("ALPHA", "BETA", "GAMMA", "DELTA", "EPSILON", "ZETA")


def design_screen(
    *,
    treatments: int,
    positive_controls: int,
    negative_wells: int,
    cell_types: int,
    labelled_experiments: int,
    heldout_experiments: int,
    plates: int,
    missing_wells: float,
    duplicate_layout: bool,
    seed: int,
    fixed_layout: bool = False,
) -> pd.DataFrame:
    """Draw the plate layouts of a whole screen.

    Args:
        treatments: Number of treatments K; a multiple of ``plates``.
        positive_controls: Number of positive controls, each in one well of every plate.
        negative_wells: Number of untreated wells per plate; the first is B02, as in RxRx1.
        cell_types: Number of cell types (at most 6).
        labelled_experiments: Number of experiments with known labels, per cell type.
        heldout_experiments: Number of experiments whose labels are withheld, per cell type.
        plates: Number of plates per experiment P, also the number of plate groups G.
        missing_wells: Probability in [0, 1) that a treatment well is missing.
        duplicate_layout: Whether the second labelled experiment of the second cell type (of the first, if
            there is only one) has the plate layout of the very first experiment, with plates rotated by one.
        seed: Random seed; the same seed gives the same table.
        fixed_layout: Whether every perturbation is at one well position in all experiments, as where a library is
            stamped from source plates. The plates still change their order.

    Returns:
        One row per well: ``experiment`` (str), ``cell_type`` (str), ``plate`` (int, 1..P), ``well`` (str),
        ``sirna`` (int; 0..K-1 are the treatments, then the positive controls, then the negative control),
        ``well_type`` (str) and ``split`` ("train" or "test").

    Raises:
        InputError: The numbers do not make a screen.
    """
    if treatments % plates:
        raise InputError(f"simulation.treatments is {treatments}; expected a multiple of simulation.plates = {plates}")
    if not 1 <= cell_types <= len(CELL_TYPES):
        raise InputError(f"simulation.cell_types is {cell_types}; allowed are 1 to {len(CELL_TYPES)}")
    wells_per_plate = treatments // plates + positive_controls + negative_wells
    format_size = next((size for size in PLATE_FORMATS if size >= wells_per_plate), None)
    if format_size is None:
        raise InputError(
            f"a plate would have {wells_per_plate} wells, but at most {max(PLATE_FORMATS)} fit; "
            "lower simulation.treatments or simulation.positive_controls"
        )
    rng = np.random.default_rng([seed, 1])
    positions = [well for well in all_wells(format_size) if well != "B02"]
    groups = rng.permutation(treatments).reshape(plates, -1)  # (G, K/G)
    positives = treatments + np.arange(positive_controls)
    negative = treatments + positive_controls
    fixed_slots: dict[int, np.ndarray] = {}  # plate group -> positions of its members
    common_order = rng.permutation(plates)  # order of the groups on the plates of most experiments

    def draw_layout() -> list[dict[str, int]]:
        order = common_order if rng.random() < 0.6 else rng.permutation(plates)
        layout = []
        for group in order:
            members = np.concatenate([groups[group], positives, np.full(negative_wells - 1, negative)])
            slots = rng.choice(len(positions), size=len(members), replace=False)
            slots = fixed_slots.setdefault(int(group), slots) if fixed_layout else slots
            layout.append({"B02": int(negative)} | {positions[p]: int(m) for p, m in zip(slots, members, strict=True)})
        return layout

    rows = []
    first_layout: list[dict[str, int]] = []
    twin = (min(1, cell_types - 1), 1)
    for c in range(cell_types):
        for e in range(labelled_experiments + heldout_experiments):
            layout = draw_layout()
            first_layout = first_layout or layout
            if duplicate_layout and (c, e) == twin:
                layout = first_layout[1:] + first_layout[:1]
            for p, plate_layout in enumerate(layout, start=1):
                for well, sirna in plate_layout.items():
                    if sirna < treatments and rng.random() < missing_wells:
                        continue
                    rows.append(
                        (
                            f"{CELL_TYPES[c]}-{e + 1:02d}",
                            CELL_TYPES[c],
                            p,
                            well,
                            sirna,
                            "treatment"
                            if sirna < treatments
                            else "positive_control"
                            if sirna < negative
                            else "negative_control",
                            "train" if e < labelled_experiments else "test",
                        )
                    )
    columns = ["experiment", "cell_type", "plate", "well", "sirna", "well_type", "split"]
    return pd.DataFrame(rows, columns=columns).sort_values(["experiment", "plate", "well"], ignore_index=True)


def redeal(design: pd.DataFrame, which: str, seed: int) -> pd.DataFrame:
    """Deal the treatments of experiments anew to their treatment wells, at random over all plates.

    The plate groups are gone, and nothing else changes: wells, controls, cells and technical conditions stay, since
    :func:`deepnoise.simulation.screen.render_screen` draws them by plate and well. A score that owes something to
    the plate design falls on such a screen.

    Args:
        design: Table of :func:`design_screen`.
        which: ``none``, ``heldout`` (the experiments whose labels are withheld) or ``all``.
        seed: Random seed of the deal.

    Returns:
        The design with other values of ``sirna`` in treatment wells.
    """
    if which == "none":
        return design
    dealt = design.copy()
    is_dealt = (design["well_type"] == "treatment") & ((design["split"] == "test") | (which == "all"))
    # held-out experiments come first, so that they get the same deal whether the others are dealt or not
    order = design[is_dealt].assign(labelled=design["split"] != "test").groupby(["labelled", "experiment"], sort=True)
    for index, (_, rows) in enumerate(order):
        rng = np.random.default_rng([seed, 9, index])
        dealt.loc[rows.index, "sirna"] = rng.permutation(rows["sirna"].to_numpy())
    return dealt
