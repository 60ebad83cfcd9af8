"""What the design alone gives away: duplicate layouts, plate groups, predictors that need no picture."""

from __future__ import annotations

import logging
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from deepnoise.errors import InputError, closest

logger = logging.getLogger(__name__)


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


def audit_design(wells: pd.DataFrame) -> dict[str, Any]:
    """Findings on the design, without looking at a picture (method: section 8, "Audit without images").

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
    """Accuracy of naming a well's perturbation by the commonest one at its place elsewhere: no picture is looked at.

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
