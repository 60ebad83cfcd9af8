"""Folds: what each training run trains on, validates on and predicts."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd

from deepnoise.errors import InputError, closest
from deepnoise.ingestion.layouts import labelled_targets

logger = logging.getLogger(__name__)


def make_folds(
    wells: pd.DataFrame,
    duplicates: list[dict[str, Any]],
    n_folds: int,
    run: list[int] | str,
    validation: bool | list[str],
    split: str = "separated",
) -> pd.DataFrame:
    """Split the screen into folds: what each training run trains on, validates on and predicts.

    Whole experiments are left out (whole plates where there is one experiment); experiments of one cell
    type are dealt over the folds in turn, and duplicates of a layout stay together. Where the screen has
    unlabelled wells, those plates are held out in every fold and fold f validates on its own experiments.
    A fully labelled screen is cross-validated: fold f holds out its own units, and validates on those of the
    next fold. An experiment (a plate, where plates are left out) whose target wells hold a single perturbation
    only trains.

    Args:
        wells: The table ``wells``.
        duplicates: Pairs found by :func:`duplicate_layouts`.
        n_folds: Number of folds the labelled units are dealt into.
        run: The folds to keep, or ``all``.
        validation: Whether a fold has validation units; or the names of the experiments that validate every fold.
        split: ``separated``, as above, or ``stratified``: every experiment gives some of its plates to training and some to the
            held-out side, so that nothing about a batch is new (Sypetkowski et al. 2023, arXiv 2301.05768, call the two
            batch-separated and batch-stratified). Fold f holds out plate (f + number of the experiment) modulo ``n_folds``.

    Returns:
        The table ``folds``.

    Raises:
        InputError: Too few units, or too few different layouts, for the folds asked for; or a fold in ``run`` that
            does not exist.
    """
    run = list(range(n_folds)) if isinstance(run, str) else run
    wrong = [f for f in run if not 0 <= f < n_folds]
    if wrong or not run:
        raise InputError(f"ingestion.folds.run has {wrong or run}, allowed are 0 to {n_folds - 1} (n_folds - 1)")
    plates = (
        wells.groupby(["experiment", "plate"])
        .agg(cell_type=("cell_type", "first"), heldout=("split", lambda s: (s == "heldout").any()))
        .reset_index()
    )
    if split == "stratified":
        if duplicates:
            logger.warning(
                "experiments %s share a well layout: a stratified split has them on both sides, and a score may owe to well position",
                " and ".join(duplicates[0]["experiments"]),
            )
        return _stratified(plates, n_folds, run, validation)
    unit = "experiment" if plates["experiment"].nunique() > 1 else "plate"
    named = validation if isinstance(validation, list) else []
    labelled = set(plates.loc[~plates["heldout"], "experiment"])
    for name in named:
        if name not in labelled:
            raise InputError(
                f"ingestion.folds.validation names {name!r}, which is no labelled experiment.{closest(name, labelled)}"
            )
    validation = bool(validation) and not named
    variety = labelled_targets(wells).groupby(unit)["perturbation"].nunique()
    plates["movable"] = (
        ~plates["heldout"] & (plates[unit].map(variety).fillna(0) > 1) & ~plates["experiment"].isin(named)
    )
    units = plates[plates["movable"]].drop_duplicates(unit)[[unit, "cell_type"]]
    cross_validated = not plates["heldout"].any()
    if (validation or cross_validated) and len(units) < n_folds:
        raise InputError(
            f"{len(units)} labelled {unit}s carry several perturbations, too few for ingestion.folds.n_folds = {n_folds}; "
            f"at most {len(units)} works"
        )
    if cross_validated and n_folds < 2:
        raise InputError(
            f"ingestion.folds.n_folds is {n_folds}; a fully labelled screen is cross-validated and needs at least 2"
        )
    cluster = {u: u for u in units[unit]}  # unit -> the first member of its cluster of duplicates
    if unit == "experiment":
        for pair in duplicates:
            first, second = (cluster.get(e) for e in pair["experiments"])
            if first is not None and second is not None:
                cluster = {u: first if c == second else c for u, c in cluster.items()}
    clusters = list(dict.fromkeys(cluster.values()))
    if len(clusters) == 1 and n_folds > 1:
        logger.warning(
            "all experiments share one well layout: folds cannot keep duplicates of a layout apart, and a score may owe "
            "to well position (see design_audit)"
        )
        cluster = {u: u for u in cluster}
        clusters = list(cluster)
    if (validation or cross_validated) and len(clusters) < n_folds:
        raise InputError(
            f"the {len(units)} labelled experiments have {len(clusters)} different well layouts, and experiments of one layout "
            f"stay in one fold: ingestion.folds.n_folds is {n_folds}, at most {len(clusters)} works"
        )
    turn: dict[str, int] = {}
    load: dict[tuple[str, int], int] = {}
    total = [0] * n_folds
    for name in clusters:
        members = [u for u in cluster if cluster[u] == name]
        kinds = units.set_index(unit).loc[members, "cell_type"]
        # an empty fold first, then the one with the fewest experiments of these cell types, then the smallest
        fold = min(range(n_folds), key=lambda f: (total[f] > 0, sum(load.get((k, f), 0) for k in kinds), total[f], f))
        total[fold] += len(members)
        for member, kind in kinds.items():
            turn[member] = fold
            load[(kind, fold)] = load.get((kind, fold), 0) + 1
    shared = [sorted(u for u in cluster if cluster[u] == name) for name in clusters]
    told = "; ".join(" and ".join(members) for members in shared if len(members) > 1)
    logger.info(
        "folds: %s %ss dealt into %s folds by cell type, %s a fold%s", len(turn), unit, n_folds,
        " to ".join(map(str, sorted({min(total), max(total)}))), f"; duplicate layouts together: {told}" if told else "",
    )  # fmt: skip
    rows = []
    for fold in run:
        left_out = {fold} if cross_validated else set()
        validates = {(fold + 1) % n_folds if cross_validated else fold} if validation else set()
        for plate in plates.itertuples():
            own = turn.get(getattr(plate, unit), -1)
            role = (
                "heldout"
                if plate.heldout or own in left_out
                else "validation"
                if plate.experiment in named or own in validates - left_out
                else "train"
            )
            rows.append((fold, plate.experiment, plate.plate, plate.cell_type, role, unit))
    folds = pd.DataFrame(rows, columns=["fold", "experiment", "plate", "cell_type", "role", "unit"])
    idle = sorted(set(folds["fold"]) - set(folds.loc[folds["role"] == "train", "fold"]))
    if idle:
        raise InputError(
            f"fold {idle[0]} has no {unit} left to train on: ingestion.folds.n_folds is {n_folds}, validation {validation}; "
            "raise n_folds or set validation to false"
        )
    return folds


def _stratified(plates: pd.DataFrame, n_folds: int, run: list[int], validation: bool | list[str]) -> pd.DataFrame:
    """Folds in which every experiment stands on both sides; see :func:`make_folds`."""
    if plates["heldout"].any():
        name = plates.loc[plates["heldout"], "experiment"].iloc[0]
        raise InputError(
            f"ingestion.folds.split is stratified, but experiment {name} is unlabelled; a stratified split needs labels of every experiment"
        )
    if isinstance(validation, list):
        raise InputError(
            "ingestion.folds.validation names experiments, but a stratified split holds out plates; set it to true or false"
        )
    fewest = plates.groupby("experiment").size()
    if n_folds > fewest.min() or n_folds < 2 + bool(validation):
        raise InputError(
            f"ingestion.folds.n_folds is {n_folds}; a stratified split of experiments with {fewest.min()} plates ({fewest.idxmin()}) allows "
            f"{2 + bool(validation)} to {fewest.min()}"
        )
    number = plates.groupby("experiment", sort=True).ngroup() + plates.groupby("experiment").cumcount()
    rows = []
    for fold in run:
        place = (number - fold) % n_folds
        role = np.where(place == 0, "heldout", np.where(validation & (place == 1), "validation", "train"))
        rows.append(plates[["experiment", "plate", "cell_type"]].assign(fold=fold, role=role, unit="plate"))
    return pd.concat(rows, ignore_index=True)[["fold", "experiment", "plate", "cell_type", "role", "unit"]]
