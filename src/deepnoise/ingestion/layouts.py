"""Plate layouts: plate groups, duplicate layouts, and the labels that each consumer may see.

Used by ingestion, training, plate balancing and the growth chart.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.optimize import linear_sum_assignment

REPEATED = 0.6
"""From this on, contents count as repeated; 0.5 is chance, see :func:`repeated_contents`."""
COMPLETE = 0.9
"""A unit with this share of all perturbations holds the whole library: knowing the unit says nothing of a well."""
VISIBLE_PLATES = {"training": ("train",), "validation": ("train", "validation")}
"""Role of a consumer within one fold -> roles of the plates whose labels it may see."""


def labelled_targets(wells: pd.DataFrame) -> pd.DataFrame:
    """The target wells (those whose perturbation is to be called) whose perturbation is known."""
    return wells[wells["target"] & wells["perturbation"].notna()]


def duplicate_layouts(labelled: pd.DataFrame, share: float = 0.5) -> list[dict[str, Any]]:
    """Pairs of experiments with the same plate layout, up to the order of the plates.

    The plates of the two experiments are matched one to one so that as many wells as possible have the same
    perturbation.

    Args:
        labelled: Rows of ``wells`` with a known perturbation: labelled targets, or positive controls, which
            reveal the layout of unlabelled experiments too.
        share: Share of the smaller experiment's wells that must agree, in [0, 1].

    Returns:
        One entry per pair, largest first: the two experiments and the number of agreeing wells.
    """
    content = labelled.dropna(subset=["perturbation"])
    content = content.assign(key=content["well"] + "=" + content["perturbation"])
    plates = {e: [set(keys) for _, keys in rows.groupby("plate")["key"]] for e, rows in content.groupby("experiment")}
    all_keys = {e: set().union(*parts) for e, parts in plates.items()}
    sizes = content.groupby("experiment").size()
    pairs = []
    for first, second in combinations(sorted(plates), 2):
        if len(all_keys[first] & all_keys[second]) < share * min(len(all_keys[first]), len(all_keys[second])):
            continue  # too few in common, whatever the order of the plates
        common = np.array([[len(a & b) for b in plates[second]] for a in plates[first]])
        agreeing = int(common[linear_sum_assignment(common, maximize=True)].sum())
        if agreeing >= share * min(sizes[first], sizes[second]):
            pairs.append({"experiments": [first, second], "wells": agreeing})
    return sorted(pairs, key=lambda pair: -pair["wells"])


def discover_groups(wells: pd.DataFrame) -> pd.DataFrame:
    """Discover plate groups: sets of perturbations that share a plate in every labelled experiment.

    Two perturbations are in one group if no labelled experiment that has both puts them on different plates.

    Args:
        wells: The table ``wells``.

    Returns:
        The table ``plate_layout``: perturbation, group, and per_plate (the largest number of wells that the
        perturbation has on one plate). There is a single group if perturbations do not travel together; the
        table is empty if nothing is labelled.
    """
    targets = labelled_targets(wells)
    plate_range = targets.groupby(["perturbation", "experiment"])["plate"].agg(["min", "max"])
    plate_of = plate_range["min"].where(plate_range["min"] == plate_range["max"], "several").unstack()
    seen = plate_of.notna().to_numpy()
    codes = np.full(plate_of.shape, -1)
    for j, column in enumerate(plate_of.columns):
        codes[seen[:, j], j] = pd.factorize(plate_of[column].dropna())[0]
    group = np.full(len(plate_of), -1)
    prototypes: list[np.ndarray] = []
    # perturbations seen in most experiments come first: they have the fullest record of their group
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
    # number groups by their first member, so that the numbers do not depend on missing wells
    order = {g: n for n, g in enumerate(dict.fromkeys(group))}
    counts = targets.groupby(["perturbation", "experiment", "plate"]).size().groupby(level="perturbation").max()
    return pd.DataFrame(
        {
            "perturbation": plate_of.index.astype(str),
            "group": np.array([order[g] for g in group], dtype=int),
            "per_plate": counts.reindex(plate_of.index).to_numpy(int),
        }
    )


def repeated_contents(wells: pd.DataFrame) -> dict[str, float | None]:
    """How well the contents of a plate or experiment can be predicted from those of others.

    For each unit, a perturbation k that is in it is compared with one that is not: which of the two has, elsewhere, the
    larger share of its companions in the unit (without k)? The result is the probability that it is k, ties counting
    half, averaged over units. If contents are dealt at random, the two are exchangeable, so it is 0.5 at any size.
    Elsewhere means in other experiments, or on other plates if there is only one experiment.

    Args:
        wells: The table ``wells``; only labelled target wells are read.

    Returns:
        ``plate`` and ``experiment`` -> 0.5 if contents are dealt at random, 1 if the same perturbations always
        stand together; None if no unit can be compared, as where each holds the whole library (COMPLETE).
    """
    targets = labelled_targets(wells)
    return {
        unit: _contents_predicted(targets, columns)
        for unit, columns in (("plate", ["experiment", "plate"]), ("experiment", ["experiment"]))
    }


def repeated_units(wells: pd.DataFrame) -> frozenset[str]:
    """Units, of ``plate`` and ``experiment``, that repeat their contents: a statistic over one carries plate design."""
    predicted = repeated_contents(wells)
    return frozenset(unit for unit, value in predicted.items() if value is not None and value >= REPEATED)


def _contents_predicted(targets: pd.DataFrame, columns: list[str]) -> float | None:
    if targets.empty:
        return None
    unit = targets.groupby(columns, sort=True).ngroup().to_numpy()
    perturbation, names = pd.factorize(targets["perturbation"])
    contents = sparse.csr_array((np.ones(len(unit)), (unit, perturbation)), shape=(unit.max() + 1, len(names))).astype(
        bool
    )
    contents = contents.astype(np.float64)  # (U, K) 1 where the unit holds the perturbation
    size = np.asarray(contents.sum(axis=1))
    block = targets["experiment" if targets["experiment"].nunique() > 1 else "plate"].to_numpy()
    block_of_unit = pd.Series(block).groupby(unit).first().to_numpy()
    areas = []
    for u in np.flatnonzero((size < COMPLETE * len(names)) & (size > 0)):
        elsewhere = contents[np.flatnonzero(block_of_unit != block_of_unit[u])]
        found = np.asarray(elsewhere.sum(axis=0))  # (K,) units elsewhere that hold the perturbation
        here = contents[[u]].toarray()[0]
        inside, outside = (np.flatnonzero((here == member) & (found > 0)) for member in (1, 0))
        if not len(inside) or not len(outside):
            continue
        shared = np.asarray(elsewhere @ here)  # (V,) perturbations in common with this unit
        weight = 1 / np.maximum(np.asarray(elsewhere.sum(axis=1)) - 1, 1)  # 1 / companions
        total = np.asarray(elsewhere.T @ (shared * weight))  # (K,)
        together = (elsewhere[:, inside].T @ sparse.diags_array(weight) @ elsewhere[:, [*inside, *outside]]).toarray()
        # (I,) companions of each one inside that are in the unit; (I, O) the same of those outside, without that one
        of_inside = (total[inside] - np.diagonal(together)) / found[inside]
        of_outside = (total[outside] - together[:, len(inside) :]) / found[outside]
        difference = np.round(of_inside[:, None] - of_outside, 9)
        areas.append(float((difference > 0).mean() + (difference == 0).mean() / 2))
    return float(np.mean(areas)) if areas else None


def layouts_in_use(wells: pd.DataFrame, layout: pd.DataFrame) -> pd.DataFrame:
    """The plate group of each labelled plate: experiment, plate, and group of most of its perturbations."""
    targets = labelled_targets(wells).merge(layout, on="perturbation")
    return targets.groupby(["experiment", "plate"])["group"].agg(lambda g: g.mode()[0]).reset_index()


def visible_labels(wells: pd.DataFrame, folds: pd.DataFrame, role: str) -> pd.DataFrame:
    """Hide the perturbations of the target wells whose labels a consumer may not see.

    Control wells keep their perturbation.

    Args:
        wells: The table ``wells``.
        folds: The table ``folds``: the rows of one fold, or for ``design`` of any number of folds.
        role: The role of the consumer that will read the labels.

            - ``training``: anything that learns from labels in one fold, such as the classification loss.
              It sees the labels of the fold's training plates.
            - ``validation``: anything that selects or calibrates a model of one fold, such as the validation
              score. It also sees the labels of the fold's validation plates.
            - ``design``: anything derived once for all folds, such as the plate groups. It sees the labels
              of all plates that no fold in ``folds`` holds out: none at all if each is held out in a fold.

    Returns:
        A copy of ``wells`` in which hidden perturbations are missing. A plate that is not in ``folds`` is
        hidden for ``training`` and ``validation``, and visible for ``design``.

    Raises:
        ValueError: The role is unknown, or ``folds`` is not of exactly one fold for ``training`` or
            ``validation``.
    """
    if role == "design":
        hidden = _on_plates(wells, folds[folds["role"] == "heldout"])
    elif role in VISIBLE_PLATES:
        numbers = sorted(folds["fold"].unique().tolist())
        if len(numbers) != 1:
            raise ValueError(
                f"folds has rows of folds {numbers}, but role {role!r} expects those of exactly one fold; "
                "select the rows of the fold first"
            )
        hidden = ~_on_plates(wells, folds[folds["role"].isin(VISIBLE_PLATES[role])])
    else:
        raise ValueError(f"unknown role {role!r}; allowed: {', '.join([*VISIBLE_PLATES, 'design'])}")
    visible = wells.copy()
    visible.loc[hidden & visible["target"].to_numpy(), "perturbation"] = None
    return visible


def _on_plates(wells: pd.DataFrame, plates: pd.DataFrame) -> np.ndarray:
    """Whether each well is on one of the given plates, (W,) bool."""
    key = ["experiment", "plate"]
    joined = wells.merge(plates[key].drop_duplicates(), on=key, how="left", indicator=True)
    return joined["_merge"].eq("both").to_numpy()


def validation_labels(wells: pd.DataFrame, folds: pd.DataFrame) -> pd.Series:
    """id_code -> perturbation of the target wells on plates that validate a fold: labels that may calibrate its model.

    Args:
        wells: The table ``wells``.
        folds: The table ``folds``.
    """
    labels = [pd.Series(dtype="str")]
    for _, fold in folds.groupby("fold"):
        visible = visible_labels(wells, fold, "validation")
        validates = _on_plates(visible, fold[fold["role"] == "validation"])
        targets = visible[validates & visible["target"].to_numpy()].dropna(subset=["perturbation"])
        labels.append(targets.set_index("id_code")["perturbation"])
    joined = pd.concat(labels)
    return joined[~joined.index.duplicated()]
