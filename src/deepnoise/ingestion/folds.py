"""Folds: the plates on which each training run trains, validates and predicts.

Used by the ``ingestion`` pipeline; every later stage reads the table ``folds``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from deepnoise.errors import InputError
from deepnoise.ingestion.layouts import labelled_targets
from deepnoise.names import known_names

logger = logging.getLogger(__name__)

COLUMNS = ["fold", "experiment", "plate", "cell_type", "role", "unit"]


def make_folds(
    wells: pd.DataFrame,
    duplicates: list[dict[str, Any]],
    n_folds: int,
    run: list[int] | str,
    validation: bool | list[str],
    split: str = "separated",
) -> pd.DataFrame:
    """Split the screen into folds: the plates on which each training run trains, validates and predicts.

    Whole experiments are held out, or whole plates if there is only one experiment. Experiments of one cell
    type are dealt to the folds in turn, and experiments with duplicate layouts stay in the same fold.

    - If the screen has unlabelled wells, their plates are held out in every fold, and fold f validates on
      the experiments dealt to it.
    - A fully labelled screen is cross-validated: fold f holds out the experiments dealt to it, and validates
      on those of the next fold.
    - An experiment (or plate) whose target wells have only a single perturbation is always used for training.

    Args:
        wells: The table ``wells``.
        duplicates: Pairs of experiments from :func:`deepnoise.ingestion.layouts.duplicate_layouts`.
        n_folds: Number of folds to which the labelled experiments (or plates) are dealt.
        run: Numbers of the folds to keep, or ``all``.
        validation: Whether folds have validation plates, or the names of the experiments that validate in
            every fold.
        split: ``separated`` as above, or ``stratified``: some plates of every experiment train and some are
            held out, so that no held-out plate comes from an unseen batch. Fold f holds out plate
            (f + number of the experiment) modulo ``n_folds``. Sypetkowski et al. 2023 (arXiv 2301.05768)
            call the two batch-separated and batch-stratified.

    Returns:
        The table ``folds``: one row per fold and plate, with its role.

    Raises:
        InputError: There are too few experiments (or plates), or too few different layouts, for ``n_folds``;
            a fold would have nothing to train on; or ``run`` or ``validation`` lists what does not exist.
    """
    run = list(range(n_folds)) if isinstance(run, str) else run
    if not run or not all(0 <= fold < n_folds for fold in run):
        raise InputError(
            f"ingestion.folds.run is {run}; expected at least one fold, each between 0 and {n_folds - 1} (n_folds - 1)"
        )
    plates = (
        wells.groupby(["experiment", "plate"])
        .agg(cell_type=("cell_type", "first"), heldout=("split", lambda s: (s == "heldout").any()))
        .reset_index()
    )
    if split == "stratified":
        return _stratified(plates, duplicates, n_folds, run, validation)
    split_by = "experiment" if plates["experiment"].nunique() > 1 else "plate"
    validation_experiments = validation if isinstance(validation, list) else []
    _check_experiments(validation_experiments, plates)
    validation = bool(validation) and not validation_experiments
    cross_validated = not plates["heldout"].any()

    dealt = _plates_to_deal(plates, wells, split_by, validation_experiments)
    cell_type_of = dict(zip(dealt[split_by], dealt["cell_type"], strict=True))
    _check_n_folds(n_folds, len(cell_type_of), split_by, cross_validated, validation)
    clusters = _cluster_duplicates(list(cell_type_of), duplicates if split_by == "experiment" else [], n_folds)
    if (validation or cross_validated) and len(clusters) < n_folds:
        raise InputError(
            f"the {len(cell_type_of)} labelled experiments have only {len(clusters)} different plate layouts, and "
            f"experiments with the same layout stay in one fold; set ingestion.folds.n_folds to {len(clusters)} "
            f"(it is {n_folds})"
        )
    fold_of = _deal_clusters(clusters, cell_type_of, n_folds)
    _log_dealing(clusters, fold_of, n_folds, split_by)

    plates["dealt_to"] = plates[split_by].map(fold_of).fillna(-1).astype(int)
    plates["validates_always"] = plates["experiment"].isin(validation_experiments)
    folds = _assign_roles(plates, run, n_folds, validation).assign(unit=split_by)[COLUMNS]
    untrained = sorted(set(folds["fold"]) - set(folds.loc[folds["role"] == "train", "fold"]))
    if untrained:
        raise InputError(
            f"fold {untrained[0]} has no {split_by} left to train on: ingestion.folds.n_folds is {n_folds}, "
            f"validation {validation}; raise n_folds or set validation to false"
        )
    return folds


def _check_experiments(validation_experiments: Sequence[str], plates: pd.DataFrame) -> None:
    """Raise if a validation experiment is not a labelled experiment of the screen."""
    labelled = set(plates.loc[~plates["heldout"], "experiment"])
    known_names(validation_experiments, labelled, "labelled experiment", "ingestion.folds.validation")


def _check_n_folds(n_folds: int, n_dealt: int, split_by: str, cross_validated: bool, validation: bool) -> None:
    """Raise if ``n_dealt`` experiments (or plates) cannot give every fold what it needs."""
    if (validation or cross_validated) and n_dealt < n_folds:
        raise InputError(
            f"only {n_dealt} labelled {split_by}s have several perturbations; set ingestion.folds.n_folds to {n_dealt} "
            f"(it is {n_folds})"
        )
    if cross_validated and n_folds < 2:
        raise InputError(
            f"ingestion.folds.n_folds is {n_folds}; a fully labelled screen is cross-validated, set it to at least 2"
        )


def _plates_to_deal(
    plates: pd.DataFrame, wells: pd.DataFrame, split_by: str, validation_experiments: Sequence[str]
) -> pd.DataFrame:
    """The first plate of each experiment (or each plate) that is to be dealt to a fold.

    Not dealt, because their role is fixed: unlabelled plates, validation experiments, and experiments (or
    plates) with a single perturbation.
    """
    perturbations = labelled_targets(wells).groupby(split_by)["perturbation"].nunique()
    several = plates[split_by].map(perturbations).fillna(0) > 1
    validates_always = plates["experiment"].isin(validation_experiments)
    return plates[~plates["heldout"] & several & ~validates_always].drop_duplicates(split_by)


def _cluster_duplicates(names: Sequence[str], duplicates: list[dict[str, Any]], n_folds: int) -> list[list[str]]:
    """Cluster the experiments (or plates) that must stay in one fold.

    Experiments with duplicate layouts share a cluster, also if only a third one links them. If all of them
    end up in one cluster, nothing could be held out; each then gets a cluster of its own, with a warning.
    """
    first_of = {name: name for name in names}  # experiment -> first member of its cluster
    for pair in duplicates:
        first, second = (first_of.get(experiment) for experiment in pair["experiments"])
        if first is not None and second is not None:
            first_of = {name: first if member == second else member for name, member in first_of.items()}
    clusters: dict[str, list[str]] = {}
    for name, first in first_of.items():
        clusters.setdefault(first, []).append(name)
    if len(clusters) == 1 and n_folds > 1:
        logger.warning(
            "all experiments share one plate layout, so folds cannot keep duplicate layouts together: "
            "part of a score may come from well position (see design_audit)"
        )
        return [[name] for name in names]
    return list(clusters.values())


def _deal_clusters(clusters: Sequence[Sequence[str]], cell_type_of: Mapping[str, str], n_folds: int) -> dict[str, int]:
    """Deal clusters to folds so that folds have equal sizes and a similar mix of cell types.

    Returns:
        Experiment (or plate) -> number of its fold.
    """
    fold_of: dict[str, int] = {}
    size = [0] * n_folds
    of_cell_type: dict[tuple[str, int], int] = {}  # (cell type, fold) -> experiments dealt so far
    for members in clusters:
        cell_types = [cell_type_of[name] for name in members]

        # an empty fold first, then the one with the fewest experiments of these cell types, then the smallest
        def load(fold: int, cell_types: Sequence[str] = cell_types) -> tuple[bool, int, int, int]:
            return size[fold] > 0, sum(of_cell_type.get((c, fold), 0) for c in cell_types), size[fold], fold

        fold = min(range(n_folds), key=load)
        size[fold] += len(members)
        for name, cell_type in zip(members, cell_types, strict=True):
            fold_of[name] = fold
            of_cell_type[cell_type, fold] = of_cell_type.get((cell_type, fold), 0) + 1
    return fold_of


def _log_dealing(clusters: Sequence[Sequence[str]], fold_of: Mapping[str, int], n_folds: int, split_by: str) -> None:
    """Log the sizes of the folds and the duplicate layouts that stay together."""
    sizes = np.bincount(list(fold_of.values()), minlength=n_folds)
    together = "; ".join(" and ".join(sorted(members)) for members in clusters if len(members) > 1)
    logger.info(
        "folds: %s %ss dealt to %s folds by cell type, %s per fold%s", len(fold_of), split_by, n_folds,
        " to ".join(map(str, sorted({sizes.min(), sizes.max()}))),
        f"; duplicate layouts together: {together}" if together else "",
    )  # fmt: skip


def _assign_roles(plates: pd.DataFrame, run: Sequence[int], n_folds: int, validation: bool) -> pd.DataFrame:
    """The role of every plate in every fold that is run.

    Args:
        plates: One row per plate: experiment, plate, cell_type, ``heldout`` (the plate is unlabelled),
            ``dealt_to`` (number of a fold, -1 for none) and ``validates_always``.
        run: Numbers of the folds to keep.
        n_folds: Number of folds.
        validation: Whether plates dealt to a fold validate.
    """
    cross_validated = not plates["heldout"].any()
    folds = []
    for fold in run:
        heldout = plates["heldout"] | (cross_validated & (plates["dealt_to"] == fold))
        validation_fold = (fold + 1) % n_folds if cross_validated else fold
        validates = plates["validates_always"] | (validation & (plates["dealt_to"] == validation_fold))
        role = np.where(heldout, "heldout", np.where(validates, "validation", "train"))
        folds.append(plates[["experiment", "plate", "cell_type"]].assign(fold=fold, role=role))
    return pd.concat(folds, ignore_index=True)


def _stratified(
    plates: pd.DataFrame,
    duplicates: list[dict[str, Any]],
    n_folds: int,
    run: Sequence[int],
    validation: bool | list[str],
) -> pd.DataFrame:
    """Folds in which every experiment has training and held-out plates; see :func:`make_folds`."""
    if duplicates:
        logger.warning(
            "experiments %s share a plate layout: a stratified split has them on both sides, and part of a score may "
            "come from well position",
            " and ".join(duplicates[0]["experiments"]),
        )
    if plates["heldout"].any():
        name = plates.loc[plates["heldout"], "experiment"].iloc[0]
        raise InputError(
            f"ingestion.folds.split is stratified, but experiment {name} is unlabelled; "
            "a stratified split needs labels of every experiment, set it to separated"
        )
    if isinstance(validation, list):
        raise InputError(
            f"ingestion.folds.validation lists experiments {validation}, but a stratified split holds out plates; "
            "set it to true or false"
        )
    n_plates = plates.groupby("experiment").size()
    if n_folds > n_plates.min() or n_folds < 2 + bool(validation):
        raise InputError(
            f"ingestion.folds.n_folds is {n_folds}; a stratified split of experiments with {n_plates.min()} plates "
            f"({n_plates.idxmin()}) allows {2 + bool(validation)} to {n_plates.min()}"
        )
    number = plates.groupby("experiment", sort=True).ngroup() + plates.groupby("experiment").cumcount()
    folds = []
    for fold in run:
        turn = (number - fold) % n_folds
        role = np.where(turn == 0, "heldout", np.where(validation & (turn == 1), "validation", "train"))
        folds.append(plates[["experiment", "plate", "cell_type"]].assign(fold=fold, role=role, unit="plate"))
    return pd.concat(folds, ignore_index=True)[COLUMNS]
