"""Scores of calls, each with its tier of knowledge and its chance level (method: sections 7 and 8)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import recall_score

from deepnoise.errors import InputError, closest, first_few
from deepnoise.ingestion.design import unequal_plate
from deepnoise.tables import SCORE, class_names, matrix


def skill(accuracy: float, chance: float) -> float:
    """(accuracy - chance) / (1 - chance): 0 at chance, 1 when all is right."""
    return (accuracy - chance) / (1 - chance) if chance < 1 else 0.0


def macro_recall(truth: np.ndarray, called: np.ndarray) -> float:
    """Balanced accuracy: the mean over true classes of the share called right."""
    return float(recall_score(truth, called, labels=np.unique(truth), average="macro", zero_division=0))


def score_table(scores: pd.DataFrame, truth: pd.Series, cell_type: pd.Series) -> dict[str, Any]:
    """Plain scores of a wide table.

    Args:
        scores: One row a well or site: experiment, tier and ``score_<perturbation>`` columns.
        truth: (W,) perturbation of each row.
        cell_type: (W,) cell type of each row.

    Returns:
        top1, top5, macro_recall, skill, chance (1/K), n, tier, by_experiment and by_cell_type (top1).
    """
    names = np.array(class_names(scores), dtype=object)
    values = matrix(scores, SCORE)
    ranked = np.argsort(-values, axis=1, kind="stable")[:, :5]
    answer = truth.to_numpy(dtype=object)
    right = names[ranked] == answer[:, None]
    chance = 1 / len(names)
    top1 = float(right[:, 0].mean())
    return {
        "top1": top1,
        "top5": float(right.any(axis=1).mean()) if len(names) > 5 else None,
        "macro_recall": macro_recall(answer.astype(str), names[ranked[:, 0]].astype(str)),
        "skill": skill(top1, chance),
        "chance": chance,
        "n": int(len(scores)),
        "tier": str(scores["tier"].iloc[0]),
        "by_experiment": _means(right[:, 0], scores["experiment"]),
        "by_cell_type": _means(right[:, 0], cell_type),
    }


def _means(right: np.ndarray, by: pd.Series) -> dict[str, float]:
    return {str(k): float(v) for k, v in pd.Series(right).groupby(by.to_numpy()).mean().items()}


def pair_recall(scores: pd.DataFrame, truth: pd.Series, pair: list[str]) -> dict[str, Any] | None:
    """Macro recall between two perturbations alone: rows of other truths are left out, other columns ignored.

    None where no row carries either of them.
    """
    member = truth.isin(pair).to_numpy()
    if not member.any():
        return None
    values = scores.loc[member, [SCORE + name for name in pair]].to_numpy()
    called = np.array(pair)[values.argmax(axis=1)]
    return {
        "pair": pair,
        "macro_recall": macro_recall(truth[member].to_numpy(dtype=str), called),
        "chance": 0.5,
        "n": int(member.sum()),
    }


def score_steps(steps: pd.DataFrame, truth: dict[str, str]) -> list[dict[str, Any]]:
    """Accuracy after each step of plate balancing.

    Chance is the mean of 1 / (classes that the step still allows in a well): 1/K for the plain call, G/K where
    the plate group is decided.

    Args:
        steps: ``balancing_steps``, held-out rows.
        truth: id_code -> perturbation.
    """
    scored = []
    for step, rows in steps.groupby("step", sort=False):
        known = rows[rows["id_code"].isin(truth)]
        right = known["call"].to_numpy(dtype=object) == known["id_code"].map(truth).to_numpy(dtype=object)
        chance = float((1 / known["candidates"]).mean())
        accuracy = float(right.mean())
        scored.append(
            {
                "step": str(step),
                "top1": accuracy,
                "skill": skill(accuracy, chance),
                "chance": chance,
                "n": int(len(known)),
                "tier": str(rows["tier"].iloc[0]),
            }
        )
    return scored


def score_groups(
    found: pd.DataFrame, layout: pd.DataFrame, wells: pd.DataFrame, truth: dict[str, str]
) -> dict[str, Any]:
    """How many plate groups were decided, and how many of those that can be checked are right.

    The true group of a plate is that of most of its held-out labels.
    """
    answer = wells[wells["id_code"].isin(truth)].copy()
    answer["true_group"] = answer["id_code"].map(truth).map(layout.set_index("perturbation")["group"])
    true = (
        answer.dropna(subset=["true_group"]).groupby(["experiment", "plate"])["true_group"].agg(lambda g: g.mode()[0])
    )
    decided = found[found["decided"].astype(bool)]
    checked = decided.merge(true.reset_index(), on=["experiment", "plate"])
    return {
        "plates": int(len(found)),
        "decided": int(len(decided)),
        "checked": int(len(checked)),
        "right": int((checked["group"] == checked["true_group"]).sum()),
        "checkable": int(found.merge(true.reset_index(), on=["experiment", "plate"]).shape[0]),
    }


def evaluate(
    *,
    screen: str,
    well_scores: pd.DataFrame,
    site_logits: pd.DataFrame,
    baseline_logits: pd.DataFrame,
    steps: pd.DataFrame,
    groups_found: pd.DataFrame,
    layout: pd.DataFrame,
    wells: pd.DataFrame,
    heldout_labels: pd.DataFrame,
    unit: str,
    pairs: list[list[str]],
) -> dict[str, Any]:
    """All scores of a screen; see ``deepnoise.tables.SCORES_KEYS``.

    Args:
        screen: Name of the screen.
        well_scores: Pooled wide scores with a ``role``.
        site_logits: The table ``site_logits``; no rows where the scores came from elsewhere.
        baseline_logits: Site scores of the hand-feature baseline, or no rows.
        steps: ``balancing_steps``.
        groups_found: The table ``plate_groups``.
        layout: The table ``plate_layout``.
        wells: The table ``wells``.
        heldout_labels: The withheld truth; no rows where nobody has it.
        unit: ``well`` or ``site``.
        pairs: Pairs of perturbations to be scored alone.

    Raises:
        InputError: The held-out labels belong to another screen, or a pair names no perturbation of the scores.
    """
    held = dict(zip(heldout_labels["id_code"], heldout_labels["perturbation"], strict=True))
    labelled = wells.dropna(subset=["perturbation"])
    known = dict(zip(labelled["id_code"], labelled["perturbation"], strict=True))
    kind = wells.set_index("id_code")["cell_type"]
    targets = set(wells.loc[wells["target"], "id_code"])
    if held and not targets & held.keys():
        raise InputError(
            f"heldout_labels names {len(held)} wells such as {next(iter(held))!r}, none of which is a target well of screen "
            f"{screen!r}; expected id_codes such as {min(targets, default='')!r}"
        )

    def plain(table: pd.DataFrame, role: str, truth: dict[str, str]) -> dict[str, Any] | None:
        if table.empty:
            return None
        rows = table[(table["role"] == role) & table["id_code"].isin(truth) & table["id_code"].isin(targets)]
        if rows.empty:
            return None
        return score_table(rows, rows["id_code"].map(truth), rows["id_code"].map(kind))

    main = site_logits if unit == "site" else well_scores
    for name in (name for pair in pairs for name in pair):
        if name not in class_names(main):
            raise InputError(f"evaluation.pairs names {name!r}, which is not scored.{closest(name, class_names(main))}")
    if unit == "well" and len(baseline_logits):
        score_columns = [c for c in baseline_logits.columns if c.startswith(SCORE)]
        by_well = ["id_code", "experiment", "plate", "well", "role", "tier"]
        baseline_logits = baseline_logits.groupby(by_well)[score_columns].mean().reset_index()
    heldout = steps[steps["role"] == "heldout"]
    t1 = plain(main, "heldout", held)
    pair_scores = []
    if t1 is not None:
        for label, table in (("model", main), ("baseline", baseline_logits)):
            rows = table[(table["role"] == "heldout") & table["id_code"].isin(held)] if len(table) else table
            if len(rows):
                found = [pair_recall(rows, rows["id_code"].map(held), pair) for pair in pairs]
                pair_scores += [{"of": label, **part} for part in found if part is not None]
    score_now = heldout["id_code"].isin(held).any() and unit == "well"
    return {
        "screen": screen,
        "unit": unit,
        "classes": len(class_names(main)),
        "t1": t1,
        "steps": score_steps(heldout, held) if score_now else [],
        "validation": plain(main, "validation", known),
        "baseline": plain(baseline_logits, "heldout", held),
        "pairs": pair_scores,
        "plate_groups": score_groups(groups_found, layout, wells, held),
        "notes": _notes(wells, t1, unit, len(site_logits) == 0, bool(set(steps["step"]) & {"sinkhorn", "assignment"}))
        + _strange_labels([held[code] for code in targets & held.keys() & set(main["id_code"])], class_names(main)),
    }


def _notes(wells: pd.DataFrame, t1: dict[str, Any] | None, unit: str, external: bool, balanced: bool) -> list[str]:
    notes = []
    if t1 is None:
        notes.append("no held-out labels: nothing was scored")
    elif len(t1["by_experiment"]) < 6:
        notes.append(f"fewer than six scored experiments ({len(t1['by_experiment'])}): points only, no intervals")
    plates = wells.groupby(["experiment", "plate"]).ngroups
    if plates < 8:
        notes.append(f"portability check only: {plates} plates are too few to tell biology from plate")
    targets = wells[wells["target"] & wells["perturbation"].notna()]
    places = targets.groupby("perturbation")["well"].nunique()
    repeated = targets.groupby("perturbation").size() > 1
    tied = int((places[repeated] == 1).sum())
    if tied and tied == int(repeated.sum()):
        notes.append(
            f"class and well position are confounded: each of the {tied} perturbations stands at one well position "
            "on every plate, so part of any score may be position"
        )
    if balanced and (example := unequal_plate(wells)):
        notes.append(f"{example}: plate balancing assumes equal numbers, so its steps show no knowledge of this design")
    if t1 is not None and t1["tier"] == "T1c":
        notes.append("T1c: the identity of the control wells was used for normalization, also on the scored plates")
    if unit == "site":
        notes.append("scored by site (here: single cells), not by well; cells of one well are not independent")
    if external:
        notes.append("scores came from another model; no embeddings, so nothing is said about technical noise in it")
    return notes


def _strange_labels(truth: list[str], names: list[str]) -> list[str]:
    callable_names = set(names)
    strange = [name for name in truth if name not in callable_names]
    if not strange:
        return []
    return [
        f"{len(strange)} held-out wells carry a perturbation that cannot be called ({first_few(sorted(set(strange)))}): "
        "they count as wrong"
    ]


def format_scores(scores: dict[str, Any]) -> str:
    """The printed score table."""
    lines = [
        f"Scores of the screen '{scores['screen']}' (unit: {scores['unit']}, {scores['classes']} perturbations)",
        "",
    ]
    lines.append(f"{'':34} {'top-1':>7} {'top-5':>7} {'chance':>7} {'n':>6}  tier")

    def row(name: str, part: dict[str, Any]) -> str:
        top5 = "-" if part.get("top5") is None else f"{part['top5']:.1%}"
        return f"{name:34} {part['top1']:7.1%} {top5:>7} {part['chance']:7.1%} {part['n']:6d}  {part['tier']}"

    if scores["baseline"]:
        lines.append(row("hand features + logistic regression", scores["baseline"]))
    if scores["validation"]:
        lines.append(row("model, validation plates", scores["validation"]))
    if scores["t1"]:
        lines.append(row("model, held-out plates", scores["t1"]))
    lines += [row("  after " + step["step"], step) for step in scores["steps"] if step["step"] != "plain"]
    if scores["t1"]:
        t1 = scores["t1"]
        by = t1["by_cell_type"] if len(t1["by_cell_type"]) > 1 else {}
        mark = "" if t1["tier"] == "T1" else f"   (tier {t1['tier']})"
        lines += ["", f"T1 balanced accuracy (macro recall): {t1['macro_recall']:.3f}{mark}"]
        if scores["baseline"]:
            lines.append(
                f"   hand features, balanced accuracy: {scores['baseline']['macro_recall']:.3f} ({scores['baseline']['tier']})"
            )
        if by:
            lines.append("   top-1 by cell type: " + ", ".join(f"{k} {v:.1%}" for k, v in by.items()))
    for pair in scores["pairs"]:
        lines.append(
            f"   {pair['pair'][0]} against {pair['pair'][1]} alone, {pair['of']}: balanced accuracy {pair['macro_recall']:.3f} "
            f"(chance 0.500, n {pair['n']})"
        )
    groups = scores["plate_groups"]
    if groups["plates"]:
        lines.append(
            f"   plate groups: decided on {groups['decided']} of {groups['plates']} plates; "
            f"{groups['right']} right of {groups['checked']} decided among the {groups['checkable']} with labels"
        )
    lines += [""] + [f"note: {note}" for note in scores["notes"]]
    return "\n".join(lines).rstrip() + "\n"
