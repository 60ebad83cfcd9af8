"""Which perturbations travel together, which layouts repeat, and which labels may be seen."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment


def labelled_targets(wells: pd.DataFrame) -> pd.DataFrame:
    """The wells whose perturbation is to be called and is known."""
    return wells[wells["target"] & wells["perturbation"].notna()]


def duplicate_layouts(placed: pd.DataFrame, share: float = 0.5) -> list[dict[str, Any]]:
    """Pairs of experiments with the same well layout, up to a rotation of the plates.

    The plates of two experiments are matched one to one, so that most wells carry the same perturbation.

    Args:
        placed: Rows of ``wells`` with a known perturbation: labelled targets, or positive controls, which betray the
            layout of an unlabelled experiment too.
        share: Share of the smaller experiment's wells that must agree.

    Returns:
        One entry a pair, largest first: the two experiments and the number of agreeing wells.
    """
    content = placed.assign(key=placed["well"] + "=" + placed["perturbation"])
    plates = {e: [set(keys) for _, keys in rows.groupby("plate")["key"]] for e, rows in content.groupby("experiment")}
    every = {e: set().union(*parts) for e, parts in plates.items()}
    sizes = content.groupby("experiment").size()
    pairs = []
    for first, second in combinations(sorted(plates), 2):
        if len(every[first] & every[second]) < share * min(len(every[first]), len(every[second])):
            continue
        common = np.array([[len(one & other) for other in plates[second]] for one in plates[first]])
        agreeing = int(common[linear_sum_assignment(common, maximize=True)].sum())
        if agreeing >= share * min(sizes[first], sizes[second]):
            pairs.append({"experiments": [first, second], "wells": agreeing})
    return sorted(pairs, key=lambda pair: -pair["wells"])


def discover_groups(wells: pd.DataFrame) -> pd.DataFrame:
    """Plate groups: perturbations that stand on the same plate in every labelled experiment.

    Two perturbations belong together if no labelled experiment that has both puts them on different plates.

    Args:
        wells: The table ``wells``.

    Returns:
        The table ``plate_layout`` (perturbation, group, and per_plate: in how many wells of a plate it stands at the most). One single
        group where perturbations do not travel together, or where nothing is labelled.
    """
    targets = labelled_targets(wells)
    at = targets.groupby(["perturbation", "experiment"])["plate"].agg(["min", "max"])
    table = at["min"].where(at["min"] == at["max"], "several").unstack()
    seen = table.notna().to_numpy()
    codes = np.full(table.shape, -1)
    for j, column in enumerate(table.columns):
        codes[seen[:, j], j] = pd.factorize(table[column].dropna())[0]
    group = np.full(len(table), -1)
    prototypes: list[np.ndarray] = []
    # those seen most often first: they carry the fullest record of their group
    for i in np.argsort(-seen.sum(axis=1), kind="stable"):
        for g, prototype in enumerate(prototypes):
            both = (codes[i] >= 0) & (prototype >= 0)
            if both.any() and (codes[i][both] == prototype[both]).all():
                group[i] = g
                prototypes[g] = np.where(prototype >= 0, prototype, codes[i])
                break
        else:
            group[i] = len(prototypes)
            prototypes.append(codes[i].copy())
    plates = int(targets.groupby("experiment")["plate"].nunique().max()) if len(targets) else 1
    if len(prototypes) > plates or targets["experiment"].nunique() < 2:
        group[:] = 0
    # number the groups by their first member, so that the names do not depend on missing wells
    order = {g: n for n, g in enumerate(dict.fromkeys(group))}
    counts = targets.groupby(["perturbation", "experiment", "plate"]).size().groupby(level="perturbation").max()
    return pd.DataFrame(
        {
            "perturbation": table.index.astype(str),
            "group": np.array([order[g] for g in group], dtype=int),
            "per_plate": counts.reindex(table.index).to_numpy(int),
        }
    )


def layouts_in_use(wells: pd.DataFrame, layout: pd.DataFrame) -> pd.DataFrame:
    """The plate group of each labelled plate: experiment, plate, group; that of most of its perturbations."""
    targets = labelled_targets(wells).merge(layout, on="perturbation")
    return targets.groupby(["experiment", "plate"])["group"].agg(lambda g: g.mode()[0]).reset_index()


def without_heldout_labels(wells: pd.DataFrame, folds: pd.DataFrame) -> pd.DataFrame:
    """``wells`` without the labels of plates that any fold holds out: what may be known when these are called.

    Of a screen that is cross-validated over all its plates no label remains.
    """
    held = folds.loc[folds["role"] == "heldout", ["experiment", "plate"]].drop_duplicates()
    hidden = wells.merge(held, on=["experiment", "plate"], how="left", indicator=True)["_merge"].eq("both").to_numpy()
    known = wells.copy()
    known.loc[hidden & known["target"].to_numpy(), "perturbation"] = None
    return known
