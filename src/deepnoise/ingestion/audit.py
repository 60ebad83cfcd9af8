"""Design audit: how much the plate layout reveals without any image. Used by the ``ingestion`` pipeline."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from deepnoise.ingestion.layouts import discover_groups, duplicate_layouts, labelled_targets, repeated_contents


def audit_design(wells: pd.DataFrame) -> dict[str, Any]:
    """Audit the design of a screen from its table of wells alone.

    Args:
        wells: The table ``wells``.

    Returns:
        JSON-like: duplicate layouts by labels, and by positive controls (held-out experiments too); sizes of
        the plate groups, how well the contents of plates and of experiments repeat, and layouts in use; accuracy of predicting the perturbation from well position, and
        from plate group and position, with chance; confounding of the perturbation with well, plate and
        experiment; perturbations tied to one well; negative controls; and possible uses of the controls.
    """
    targets = labelled_targets(wells)
    groups = discover_groups(wells)
    sizes = groups["group"].value_counts().sort_index()
    layouts: dict[str, int] = {}
    if len(sizes) > 1:
        group_on_plate = (
            targets.merge(groups, on="perturbation")
            .groupby(["experiment", "group"])["plate"]
            .agg(lambda p: p.mode()[0])
        )
        layouts = group_on_plate.unstack().fillna("none").astype(str).agg("-".join, axis=1).value_counts().to_dict()
    positions = targets.groupby("perturbation").agg(wells=("well", "nunique"), n=("well", "size"))
    repeated = positions[positions["n"] > 1]
    negative = wells[wells["well_type"] == "negative_control"]
    per_plate = negative.groupby(["experiment", "plate"]).size()
    plates_with = negative.groupby("well").size() if len(negative) else pd.Series(dtype=int)
    return {
        "duplicate_layouts": duplicate_layouts(targets),
        "duplicate_layouts_by_controls": duplicate_layouts(wells[wells["well_type"] == "positive_control"]),
        "plate_groups": [int(n) for n in sizes],
        "repeated_contents": repeated_contents(wells),
        "layouts_in_use": {str(k): int(v) for k, v in layouts.items()},
        "class_from_well_position": predict_from_place(targets, ["well"]),
        "class_from_group_and_position": predict_from_place(
            targets.merge(groups, on="perturbation"), ["group", "well"]
        ),
        "confounding": {column: confounding(targets, column) for column in ("well", "plate", "experiment")},
        "perturbations_tied_to_one_well": [str(p) for p in repeated.index[repeated["wells"] == 1]],
        "negative_control": {
            "well": str(plates_with.idxmax()) if len(plates_with) else None,
            "plates_with_it_there": int(plates_with.max()) if len(plates_with) else 0,
            "plates_with_more": int((per_plate > 1).sum()),
            "plates": int(wells.groupby(["experiment", "plate"]).ngroups),
        },
        "controls": {
            well_type: control_uses(wells, well_type) for well_type in ("negative_control", "positive_control")
        },
    }


def predict_from_place(targets: pd.DataFrame, position: list[str]) -> dict[str, float]:
    """Predict each well's perturbation as the most frequent one at its position elsewhere, without any image.

    Elsewhere means in the other experiments, or on the other plates if there is only one experiment.

    Args:
        targets: Labelled target wells; with a column ``group`` if ``position`` includes it.
        position: Columns that define a position: well, or group and well.

    Returns:
        ``accuracy``, and ``chance``: 1 over the number of perturbations still possible, averaged over wells.
    """
    held_out_by = "experiment" if targets["experiment"].nunique() > 1 else "plate"
    key = list(dict.fromkeys([*position, "perturbation"]))
    counts = targets.groupby(key).size().rename("n").reset_index()
    same_key = list(dict.fromkeys([*key, held_out_by]))
    same = targets.groupby(same_key).size().rename("same").reset_index()
    rows = targets[same_key].reset_index(drop=True).reset_index(names="row")
    candidates = (
        rows[list(dict.fromkeys(["row", *position, held_out_by]))]
        .merge(counts, on=position)
        .merge(same, on=same_key, how="left")
    )
    candidates["n"] -= candidates["same"].fillna(0)  # only wells elsewhere count
    best = candidates[candidates["n"] > 0].sort_values(["row", "n"], ascending=[True, False], kind="stable")
    best = best.drop_duplicates("row").set_index("row")["perturbation"]
    correct = rows.set_index("row")["perturbation"].reindex(best.index) == best
    groups = targets.groupby("group")["perturbation"].nunique() if "group" in position else None
    possible = (
        targets["group"].map(groups) if groups is not None else pd.Series([targets["perturbation"].nunique() or 1])
    )
    return {
        "accuracy": float(correct.sum() / max(len(rows), 1)),
        "chance": float((1 / possible).mean()) if len(possible) else 1.0,
    }


def confounding(targets: pd.DataFrame, factor: str) -> dict[str, float | int]:
    """Association of the perturbation with a technical factor: well position, plate or experiment.

    ``cramers_v`` is Cramér's V corrected for bias (Bergsma 2013, J. Korean Stat. Soc. 42, 323). It is 0 if
    perturbations are spread over the levels of the factor as by chance, and 1 if each level has perturbations
    of its own.

    Args:
        targets: Labelled target wells.
        factor: Column of the factor: well, plate (by its name) or experiment.

    Returns:
        ``cramers_v`` (None if there is only one level or one perturbation); ``of``, the number of
        perturbations that occur more than once; and ``tied``, how many of these occur at a single level.
    """
    levels = targets.groupby("perturbation")[factor].agg(["nunique", "size"])
    repeated = levels[levels["size"] > 1]
    table = pd.crosstab(targets["perturbation"], targets[factor]).to_numpy(np.float64)
    n, (rows, columns) = table.sum(), table.shape
    association: dict[str, Any] = {
        "cramers_v": None,
        "tied": int((repeated["nunique"] == 1).sum()),
        "of": len(repeated),
    }
    if min(rows, columns) > 1 and n > 1:
        expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True) / n
        phi2 = max(0.0, float(((table - expected) ** 2 / expected).sum() / n - (rows - 1) * (columns - 1) / (n - 1)))
        sides = [k - (k - 1) ** 2 / (n - 1) for k in (rows, columns)]
        association["cramers_v"] = float(np.sqrt(min(1.0, phi2 / (min(sides) - 1)))) if min(sides) > 1 else None
    return association


def control_uses(wells: pd.DataFrame, well_type: str) -> dict[str, Any]:
    """What the control wells of one type can be used for.

    Args:
        wells: The table ``wells``.
        well_type: negative_control or positive_control.

    Returns:
        Number of perturbations, fewest and most wells per plate, number of plates without such controls, and
        for each use ``yes``, or ``weak`` or ``no`` with the reason.
    """
    controls = wells[wells["well_type"] == well_type]
    plates = wells.groupby(["experiment", "plate"]).ngroups
    per_plate = controls.groupby(["experiment", "plate"]).size()
    fewest = int(per_plate.min()) if len(per_plate) == plates else 0
    names = controls["perturbation"].dropna().unique()
    everywhere = controls.groupby("perturbation").apply(lambda r: r.groupby(["experiment", "plate"]).ngroups == plates)
    shared = (
        controls[controls["perturbation"].isin(everywhere.index[everywhere.to_numpy(bool)])]
        if len(controls)
        else controls
    )
    moving = bool(len(shared)) and bool((shared.groupby("perturbation")["well"].nunique() > 1).any())
    return {
        "perturbations": len(names),
        "wells_a_plate": [fewest, int(per_plate.max()) if len(per_plate) else 0],
        "plates_without": plates - len(per_plate),
        "uses": {
            "normalization reference": "yes"
            if fewest >= 3
            else f"weak: as few as {fewest} per plate"
            if fewest
            else "no: some plates have none",
            "spread within a plate (Z', SSMD)": "yes"
            if fewest >= 3
            else f"no: as few as {fewest} per plate, at least 3 are needed",
            "same perturbation on every plate (leak probes)": "yes"
            if len(shared)
            else "no: no perturbation is on every plate",
            "well position apart from perturbation": "yes"
            if moving
            else "no: each perturbation is in the same well on every plate",
        },
    }
