"""The design audit: what the plate layout gives away without any image (method: section 8)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from deepnoise.ingestion.layouts import discover_groups, duplicate_layouts, labelled_targets


def audit_design(wells: pd.DataFrame) -> dict[str, Any]:
    """Findings on the design, without looking at an image (method: section 8, "Audit without images").

    Returns:
        JSON-like: duplicate layouts, by labels and (held-out experiments too) by positive controls; plate groups, layouts in use,
        class from well position, and from plate group with position, against chance; confounding with well, plate and experiment;
        perturbations tied to one well position; negative controls; what the controls can serve for.
    """
    targets = labelled_targets(wells)
    groups = discover_groups(wells)
    sizes = groups["group"].value_counts().sort_index()
    layouts: dict[str, int] = {}
    if len(sizes) > 1:
        on = (
            targets.merge(groups, on="perturbation")
            .groupby(["experiment", "group"])["plate"]
            .agg(lambda p: p.mode()[0])
        )
        layouts = on.unstack().astype(str).agg("-".join, axis=1).value_counts().to_dict()
    places = targets.groupby("perturbation").agg(wells=("well", "nunique"), n=("well", "size"))
    repeated = places[places["n"] > 1]
    negative = wells[wells["well_type"] == "negative_control"]
    per_plate = negative.groupby(["experiment", "plate"]).size()
    common = negative.groupby("well").size() if len(negative) else pd.Series(dtype=int)
    return {
        "duplicate_layouts": duplicate_layouts(targets),
        "duplicate_layouts_by_controls": duplicate_layouts(wells[wells["well_type"] == "positive_control"]),
        "plate_groups": [int(n) for n in sizes],
        "layouts_in_use": {str(k): int(v) for k, v in layouts.items()},
        "class_from_well_position": predict_from_place(targets, ["well"]),
        "class_from_group_and_position": predict_from_place(
            targets.merge(groups, on="perturbation"), ["group", "well"]
        ),
        "confounding": {place: confounding(targets, place) for place in ("well", "plate", "experiment")},
        "perturbations_tied_to_one_well": [str(p) for p in repeated.index[repeated["wells"] == 1]],
        "negative_control": {
            "well": str(common.idxmax()) if len(common) else None,
            "plates_with_it_there": int(common.max()) if len(common) else 0,
            "plates_with_more": int((per_plate > 1).sum()),
            "plates": int(wells.groupby(["experiment", "plate"]).ngroups),
        },
        "controls": {kind: control_uses(wells, kind) for kind in ("negative_control", "positive_control")},
    }


def predict_from_place(targets: pd.DataFrame, place: list[str]) -> dict[str, float]:
    """Accuracy of naming a well's perturbation by the commonest one at its place elsewhere: no image is looked at.

    Elsewhere: in the other experiments, or on the other plates where there is one experiment.

    Args:
        targets: Labelled target wells; with a column ``group`` where the place names it.
        place: Columns that make the place: well, or group and well.

    Returns:
        ``accuracy``, and ``chance``: 1 over the number of perturbations still possible, averaged over wells.
    """
    unit = "experiment" if targets["experiment"].nunique() > 1 else "plate"
    key = list(dict.fromkeys([*place, "perturbation"]))
    counts = targets.groupby(key).size().rename("n").reset_index()
    owned = list(dict.fromkeys([*key, unit]))
    own = targets.groupby(owned).size().rename("own").reset_index()
    rows = targets[owned].reset_index(drop=True).reset_index(names="row")
    candidates = (
        rows[list(dict.fromkeys(["row", *place, unit]))].merge(counts, on=place).merge(own, on=owned, how="left")
    )
    candidates["n"] -= candidates["own"].fillna(0)
    best = candidates[candidates["n"] > 0].sort_values(["row", "n"], ascending=[True, False], kind="stable")
    best = best.drop_duplicates("row").set_index("row")["perturbation"]
    right = rows.set_index("row")["perturbation"].reindex(best.index) == best
    groups = targets.groupby("group")["perturbation"].nunique() if "group" in place else None
    possible = (
        targets["group"].map(groups) if groups is not None else pd.Series([targets["perturbation"].nunique() or 1])
    )
    return {
        "accuracy": float(right.sum() / max(len(rows), 1)),
        "chance": float((1 / possible).mean()) if len(possible) else 1.0,
    }


def confounding(targets: pd.DataFrame, place: str) -> dict[str, float | int]:
    """How far a place decides which perturbation stands there.

    ``cramers_v`` is corrected for bias (Bergsma 2013, J. Korean Stat. Soc. 42, 323): 0 where perturbations are spread over the
    places as by chance, 1 where each place has perturbations of its own.

    Args:
        targets: Labelled target wells.
        place: well, plate (by its name) or experiment.

    Returns:
        ``cramers_v`` (None where there is one place or one perturbation only), and how many perturbations of those that occur more
        than once stand in a single such place (``tied``, ``of``).
    """
    seen = targets.groupby("perturbation")[place].agg(["nunique", "size"])
    repeated = seen[seen["size"] > 1]
    table = pd.crosstab(targets["perturbation"], targets[place]).to_numpy(np.float64)
    n, (rows, columns) = table.sum(), table.shape
    found: dict[str, Any] = {"cramers_v": None, "tied": int((repeated["nunique"] == 1).sum()), "of": len(repeated)}
    if min(rows, columns) > 1 and n > 1:
        expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True) / n
        phi2 = max(0.0, float(((table - expected) ** 2 / expected).sum() / n - (rows - 1) * (columns - 1) / (n - 1)))
        sides = [k - (k - 1) ** 2 / (n - 1) for k in (rows, columns)]
        found["cramers_v"] = float(np.sqrt(min(1.0, phi2 / (min(sides) - 1)))) if min(sides) > 1 else None
    return found


def control_uses(wells: pd.DataFrame, kind: str) -> dict[str, Any]:
    """What the control wells of one kind can serve for.

    Args:
        wells: The table ``wells``.
        kind: negative_control or positive_control.

    Returns:
        Perturbations, wells a plate (least and most), whether every plate has some, and for each use yes, or no with the reason.
    """
    own = wells[wells["well_type"] == kind]
    plates = wells.groupby(["experiment", "plate"]).ngroups
    per_plate = own.groupby(["experiment", "plate"]).size()
    least = int(per_plate.min()) if len(per_plate) == plates else 0
    names = own["perturbation"].dropna().unique()
    everywhere = own.groupby("perturbation").apply(lambda r: r.groupby(["experiment", "plate"]).ngroups == plates)
    placed = own[own["perturbation"].isin(everywhere.index[everywhere.to_numpy(bool)])] if len(own) else own
    moving = bool(len(placed)) and bool((placed.groupby("perturbation")["well"].nunique() > 1).any())
    return {
        "perturbations": len(names),
        "wells_a_plate": [least, int(per_plate.max()) if len(per_plate) else 0],
        "plates_without": plates - len(per_plate),
        "uses": {
            "normalization reference": "yes"
            if least >= 3
            else f"weak: a plate has {least} wells"
            if least
            else "no: a plate has none",
            "spread within a plate (Z', SSMD)": "yes" if least >= 3 else f"no: a plate has {least} wells, needed are 3",
            "same perturbation on every plate (leak probes)": "yes"
            if len(placed)
            else "no: none stands on every plate",
            "well position apart from perturbation": "yes" if moving else "no: each keeps its well on every plate",
        },
    }
