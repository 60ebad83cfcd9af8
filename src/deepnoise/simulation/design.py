"""The design of a simulated screen: which perturbation stands in which well of which plate.

Follows RxRx1: several experiments a cell type, four plates an experiment, treatments in plate groups
that travel together, every treatment once an experiment, positive and negative controls on every plate.
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
) -> pd.DataFrame:
    """Draw the plate layouts of a whole screen.

    Args:
        treatments: Number of treatment perturbations K; a multiple of ``plates``.
        positive_controls: Number of positive-control perturbations, each once on every plate.
        negative_wells: Untreated wells on every plate; the first stands at B02, as in RxRx1.
        cell_types: Number of cell types (at most 6).
        labelled_experiments: Experiments with known labels, for each cell type.
        heldout_experiments: Experiments whose labels are withheld, for each cell type.
        plates: Plates P of an experiment, which is also the number of plate groups G.
        missing_wells: Chance in [0, 1) that a treatment well is absent from the screen.
        duplicate_layout: Give the second labelled experiment of the second cell type (of the first one,
            where there is only one) the well layout of the very first experiment, plates rotated by one.
        seed: Seed of the layout; the same seed gives the same table.

    Returns:
        One row a well: ``experiment`` (str), ``cell_type`` (str), ``plate`` (int, 1..P), ``well`` (str),
        ``sirna`` (int; 0..K-1 treatments, then positive controls, then the negative one),
        ``well_type`` (str) and ``split`` ("train" or "test").

    Raises:
        InputError: If the numbers do not make a screen.
    """
    if treatments % plates:
        raise InputError(f"simulation.treatments is {treatments}, expected a multiple of simulation.plates = {plates}")
    if not 1 <= cell_types <= len(CELL_TYPES):
        raise InputError(f"simulation.cell_types is {cell_types}, allowed are 1 to {len(CELL_TYPES)}")
    wells_a_plate = treatments // plates + positive_controls + negative_wells
    format_size = next((size for size in PLATE_FORMATS if size >= wells_a_plate), None)
    if format_size is None:
        raise InputError(
            f"a plate would carry {wells_a_plate} wells, at most {max(PLATE_FORMATS)} fit; "
            "lower simulation.treatments or simulation.positive_controls"
        )
    rng = np.random.default_rng([seed, 1])
    positions = [well for well in all_wells(format_size) if well != "B02"]
    groups = rng.permutation(treatments).reshape(plates, -1)  # (G, K/G)
    positives = treatments + np.arange(positive_controls)
    negative = treatments + positive_controls
    common_order = rng.permutation(plates)  # most experiments put the groups on the plates in this order

    def draw_layout() -> list[dict[str, int]]:
        order = common_order if rng.random() < 0.6 else rng.permutation(plates)
        layout = []
        for group in order:
            members = np.concatenate([groups[group], positives, np.full(negative_wells - 1, negative)])
            places = rng.choice(len(positions), size=len(members), replace=False)
            layout.append({"B02": int(negative)} | {positions[p]: int(m) for p, m in zip(places, members, strict=True)})
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
