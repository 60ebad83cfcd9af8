"""Scores of calls, each with its tier of knowledge and its chance level (method: sections 7 and 8)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import recall_score

from deepnoise.errors import InputError, closest
from deepnoise.evaluation.headline import headline
from deepnoise.evaluation.intervals import summarize
from deepnoise.evaluation.score_table import _notes, _strange_labels
from deepnoise.tables import SCHEMAS, SCORE, class_names, matrix


def skill(accuracy: float, chance: float) -> float:
    """(accuracy - chance) / (1 - chance): 0 at chance, 1 when all is right."""
    return (accuracy - chance) / (1 - chance) if chance < 1 else 0.0


def macro_recall(truth: np.ndarray, called: np.ndarray) -> float:
    """Balanced accuracy: the mean over true classes of the share called right."""
    return float(recall_score(truth, called, labels=np.unique(truth), average="macro", zero_division=0))


def rank_of_truth(values: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """(W, K) scores and (W,) column of the true class (-1: cannot be called) -> (W,) 0 where it is called first; equal scores in column order."""
    rank = np.full(len(values), values.shape[1])
    known = np.flatnonzero(answer >= 0)
    for block in np.array_split(known, max(1, len(known) // 4096)):  # bounds the memory at a block of comparisons
        part, own = values[block], answer[block]
        truth = part[np.arange(len(block)), own][:, None]
        before = (part == truth) & (np.arange(part.shape[1]) < own[:, None])
        rank[block] = (part > truth).sum(axis=1) + before.sum(axis=1)
    return rank


def ranked_calls(scores: pd.DataFrame, truth: pd.Series) -> pd.DataFrame:
    """Truth, call and rank of the truth of every row of a wide table.

    Args:
        scores: One row a well or site: ``score_<perturbation>`` columns.
        truth: (W,) perturbation of each row.

    Returns:
        perturbation, call, rank (0: called), in the order and with the index of ``scores``.
    """
    names = class_names(scores)
    values = matrix(scores, SCORE)
    answer = pd.Index(names).get_indexer(truth.to_numpy(dtype=object))
    called = np.array(names, dtype=object)[values.argmax(axis=1)] if len(values) else np.array([], object)
    return pd.DataFrame(
        {"perturbation": truth.to_numpy(dtype=object), "call": called, "rank": rank_of_truth(values, answer)},
        index=scores.index,
    )


def score_table(scores: pd.DataFrame, truth: pd.Series, cell_type: pd.Series) -> dict[str, Any]:
    """Plain scores of a wide table.

    Args:
        scores: One row a well or site: experiment, tier and ``score_<perturbation>`` columns.
        truth: (W,) perturbation of each row.
        cell_type: (W,) cell type of each row.

    Returns:
        top1, top5, macro_recall, skill, chance (1/K), n, experiments, interval, sign_flip_p
        (:func:`deepnoise.evaluation.intervals.summarize`), tier, by_experiment (top1), by_perturbation (recall; n rows of each) and
        by_cell_type (the same few figures).
    """
    calls = ranked_calls(scores, truth)
    classes = len(class_names(scores))
    right, experiment = (calls["rank"] == 0).to_numpy(), scores["experiment"].to_numpy(str)
    by_kind = {str(kind): _accuracy(right[rows], experiment[rows], 1 / classes)
               for kind, rows in cell_type.reset_index(drop=True).groupby(cell_type.to_numpy()).indices.items()}  # fmt: skip
    return {
        **_accuracy(right, experiment, 1 / classes),
        "top5": float((calls["rank"] < 5).mean()) if classes > 5 else None,
        "macro_recall": macro_recall(calls["perturbation"].to_numpy(str), calls["call"].to_numpy(str)),
        "tier": str(scores["tier"].iloc[0]),
        "by_experiment": {str(k): float(v) for k, v in pd.Series(right).groupby(experiment).mean().items()},
        "by_perturbation": {
            str(k): {"recall": float(own.mean()), "n": len(own)}
            for k, own in pd.Series(right).groupby(calls["perturbation"].to_numpy(str))
        },
        "by_cell_type": by_kind,
    }


def _accuracy(right: np.ndarray, experiment: np.ndarray, chance: float) -> dict[str, Any]:
    found = summarize(right, experiment, chance)
    top1 = found.pop("mean")
    return {"top1": top1, "skill": skill(top1, chance), "chance": chance, **found}


def paired_gain(right: np.ndarray, reference: np.ndarray, experiment: np.ndarray) -> dict[str, Any]:
    """What one call of the same rows is better than another: ``gain``, interval or sign-flip p.

    Args:
        right: (W,) whether each row is called right.
        reference: (W,) the same of the call that it is compared with.
        experiment: (W,) names.
    """
    found = summarize(right.astype(float) - reference.astype(float), experiment)
    return {"gain": found["mean"], "gain_interval": found["interval"], "gain_sign_flip_p": found["sign_flip_p"]}


def seen_gap(seen: dict[str, Any] | None, unseen: dict[str, Any] | None) -> dict[str, Any] | None:
    """Top-1 on plates seen in training less that on unseen ones: what does not carry over."""
    if seen is None or unseen is None:
        return None
    return {
        "top1": seen["top1"] - unseen["top1"],
        "seen": seen["top1"],
        "seen_experiments": seen["experiments"],
        "unseen": unseen["top1"],
        "unseen_experiments": unseen["experiments"],
        "tier": unseen["tier"],
    }


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
    """Accuracy after each step of plate balancing, and what the step gains over the plain call of the same wells.

    Chance is the mean of 1 / (classes that the step still allows in a well): 1/K for the plain call, G/K where
    the plate group is decided.

    Args:
        steps: ``balancing_steps``, held-out rows.
        truth: id_code -> perturbation.
    """
    scored = []
    plain: pd.Series | None = None
    for step, rows in steps.groupby("step", sort=False):
        known = rows[rows["id_code"].isin(truth)].set_index("id_code")
        right = known["call"] == known.index.map(truth)
        experiment = known["experiment"].to_numpy(str)
        plain = right if plain is None else plain
        scored.append(
            {
                "step": str(step),
                **_accuracy(right.to_numpy(), experiment, float((1 / known["candidates"]).mean())),
                **paired_gain(right.to_numpy(), plain.loc[known.index].to_numpy(), experiment),
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

    def rows_of(table: pd.DataFrame, role: str, truth: dict[str, str]) -> pd.DataFrame:
        if table.empty:
            return table
        return table[(table["role"] == role) & table["id_code"].isin(truth) & table["id_code"].isin(targets)]

    def plain(table: pd.DataFrame, role: str, truth: dict[str, str]) -> dict[str, Any] | None:
        rows = rows_of(table, role, truth)
        return None if rows.empty else score_table(rows, rows["id_code"].map(truth), rows["id_code"].map(kind))

    main = site_logits if unit == "site" else well_scores
    for name in (name for pair in pairs for name in pair):
        if name not in class_names(main):
            raise InputError(f"evaluation.pairs names {name!r}, which is not scored.{closest(name, class_names(main))}")
    if unit == "well" and len(baseline_logits):
        baseline_logits = mean_over_sites(baseline_logits)
    heldout = steps[steps["role"] == "heldout"]
    scored = {"well": plain(well_scores, "heldout", held), "site": plain(site_logits, "heldout", held)}
    main_score = scored[unit]
    pair_scores = []
    if main_score is not None:
        for label, table in (("model", main), ("baseline", baseline_logits)):
            rows = rows_of(table, "heldout", held)
            if len(rows):
                found = [pair_recall(rows, rows["id_code"].map(held), pair) for pair in pairs]
                pair_scores += [{"of": label, **part} for part in found if part is not None]
    score_now = heldout["id_code"].isin(held).any() and unit == "well"
    seen_rows = site_logits[site_logits["role"] == "train"] if len(site_logits) else site_logits
    if len(seen_rows):
        # of several models that were trained on a well one is asked, as of a held-out well
        seen_rows = seen_rows[seen_rows["fold"] == seen_rows.groupby("id_code")["fold"].transform("min")]
        seen_rows = seen_rows if unit == "site" else mean_over_sites(seen_rows)
    seen = plain(seen_rows, "train", known)
    return {
        "screen": screen,
        "unit": unit,
        "classes": len(class_names(main)),
        "headline": headline(main_score, unit),
        "heldout": scored,
        "seen": seen,
        "gap": seen_gap(seen, main_score),
        "validation": plain(main, "validation", known),
        "baseline": plain(baseline_logits, "heldout", held),
        "against_baseline": _against(rows_of(main, "heldout", held), rows_of(baseline_logits, "heldout", held), held),
        "steps": score_steps(heldout, held) if score_now else [],
        "pairs": pair_scores,
        "plate_groups": score_groups(groups_found, layout, wells, held),
        "notes": _notes(wells, main_score, unit, len(site_logits) == 0)
        + _strange_labels([held[code] for code in targets & held.keys() & set(main["id_code"])], class_names(main)),
    }


def mean_over_sites(site_logits: pd.DataFrame) -> pd.DataFrame:
    """One row a well (and role) of a table of site logits."""
    columns = [c for c in site_logits.columns if c.startswith(SCORE)]
    return site_logits.groupby(["id_code", "experiment", "plate", "well", "role", "tier"])[columns].mean().reset_index()


def _against(model: pd.DataFrame, baseline: pd.DataFrame, held: dict[str, str]) -> dict[str, Any] | None:
    """The model's gain over hand features on the rows that both have called."""
    key = [c for c in ("fold", "id_code", "site") if c in model.columns and c in baseline.columns]
    if model.empty or baseline.empty:
        return None
    right = []
    for table in (model, baseline):
        calls = ranked_calls(table, table["id_code"].map(held))
        right.append(table[key].assign(experiment=table["experiment"], right=(calls["rank"] == 0).to_numpy()))
    both = right[0].merge(right[1][[*key, "right"]], on=key, suffixes=("", "_baseline"))
    if both.empty:
        return None
    return paired_gain(both["right"].to_numpy(), both["right_baseline"].to_numpy(), both["experiment"].to_numpy(str))


def confusions(scores: pd.DataFrame, truth: dict[str, str]) -> pd.DataFrame:
    """Which perturbations are taken for which others: the table ``confusions``.

    Args:
        scores: Pooled wide scores of held-out wells with a known truth.
        truth: id_code -> perturbation.
    """
    calls = ranked_calls(scores, scores["id_code"].map(truth))
    wells = calls.groupby("perturbation").size().rename("of")
    wrong = (
        calls[calls["perturbation"] != calls["call"]]
        .groupby(["perturbation", "call"])
        .size()
        .rename("wells")
        .reset_index()
    )
    wrong["share"] = wrong["wells"] / wrong["perturbation"].map(wells).astype(float)
    wrong["tier"] = str(scores["tier"].iloc[0]) if len(scores) else "unknown"
    return wrong.sort_values(["wells", "perturbation", "call"], ascending=[False, True, True], ignore_index=True)


def perturbation_scores(
    scores: pd.DataFrame,
    truth: dict[str, str],
    cell_type: pd.Series,
    retrieval: pd.DataFrame,
    activity: pd.DataFrame,
    tier: str,
) -> pd.DataFrame:
    """The table ``perturbation_scores``: calls, retrieval across experiments and activity of each perturbation.

    Args:
        scores: Pooled wide scores of held-out wells with a known truth; or no rows.
        truth: id_code -> perturbation.
        cell_type: id_code -> cell type.
        retrieval: The table ``replicate_retrieval``.
        activity: Result of :func:`deepnoise.evaluation.retrieval.activity`.
        tier: Tier of the embeddings, where there are no scores.
    """
    key = ["cell_type", "perturbation"]
    across = retrieval[retrieval["level"] == "not_same_experiment"]
    found = across.groupby(key).agg(average_precision=("average_precision", "mean"), found=("id_code", "nunique"))
    active = activity.rename(
        columns={"average_precision": "activity", "chance": "activity_chance", "p": "activity_p", "q": "activity_q"}
    )
    # several fold models: the least sure of them counts
    active = active.groupby(key).agg(
        {"activity": "mean", "activity_chance": "mean", "activity_p": "max", "activity_q": "max"}
    )
    calls = ranked_calls(scores, scores["id_code"].map(truth)).assign(cell_type=scores["id_code"].map(cell_type))
    right = calls.assign(top1=calls["rank"] == 0, top5=calls["rank"] < 5).groupby(key)
    called = right.agg(top1=("top1", "mean"), top5=("top5", "mean"), called=("rank", "size"))
    wrong = calls[calls["rank"] > 0].groupby(key)["call"].agg(lambda c: c.value_counts(sort=True).index[0])
    table = found.join(active, how="outer").join(called, how="outer").join(wrong.rename("most_called"), how="left")
    table["wells"] = table["called"].fillna(table["found"]).fillna(0)
    table["most_called"] = table["most_called"].fillna("")
    table["tier"] = str(scores["tier"].iloc[0]) if len(scores) else tier
    return table.reset_index()[list(SCHEMAS["perturbation_scores"].columns)]
