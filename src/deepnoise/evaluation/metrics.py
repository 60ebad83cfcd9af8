"""Scores of calls, each with its tier and its chance level (method: sections 7 and 8)."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.metrics import recall_score

from deepnoise.errors import InputError, closest, first_few
from deepnoise.evaluation.headline import headline
from deepnoise.evaluation.intervals import summarize
from deepnoise.evaluation.plate_design import group_share, redealt_score, redrawn_calls
from deepnoise.evaluation.score_table import design_notes, score_notes, unscorable_label_notes
from deepnoise.evaluation.score_types import (
    Accuracy,
    BaselineScore,
    Gain,
    GroupShare,
    PairRecall,
    PairScore,
    PlateDesign,
    PlateGroupScore,
    RedealtScore,
    Score,
    Scores,
    SeenGap,
    StepScore,
)
from deepnoise.names import same_names
from deepnoise.tables import BASELINES, SCHEMAS, SCORE, class_names, matrix
from deepnoise.tiers import after_control, plain_tier

logger = logging.getLogger(__name__)


def skill(accuracy: float, chance: float) -> float:
    """(accuracy - chance) / (1 - chance): 0 at chance, 1 when every call is correct."""
    return (accuracy - chance) / (1 - chance) if chance < 1 else 0.0


def macro_recall(truth: np.ndarray, called: np.ndarray) -> float:
    """Balanced accuracy: recall averaged over the true classes."""
    return float(recall_score(truth, called, labels=np.unique(truth), average="macro", zero_division=0))


def rank_of_truth(scores: np.ndarray, true_class: np.ndarray) -> np.ndarray:
    """Rank of the true class in each row; 0 where it is called. Equal scores rank in column order.

    Args:
        scores: (W, K).
        true_class: (W,) column of the true class, -1 where it has no column.

    Returns:
        (W,) ranks from 0; K where the true class has no column.
    """
    rank = np.full(len(scores), scores.shape[1])
    callable_rows = np.flatnonzero(true_class >= 0)
    # blocks bound the memory of the comparisons
    for block in np.array_split(callable_rows, max(1, len(callable_rows) // 4096)):
        block_scores, column = scores[block], true_class[block]
        true_score = block_scores[np.arange(len(block)), column][:, None]
        tied_before = (block_scores == true_score) & (np.arange(block_scores.shape[1]) < column[:, None])
        rank[block] = (block_scores > true_score).sum(axis=1) + tied_before.sum(axis=1)
    return rank


def ranked_calls(scores: pd.DataFrame, truth: pd.Series) -> pd.DataFrame:
    """True perturbation, called perturbation and rank of the truth for every row of a score table.

    Args:
        scores: One row per well or site: ``score_<perturbation>`` columns.
        truth: (W,) perturbation of each row.

    Returns:
        perturbation, call, rank (0: called), in the order and with the index of ``scores``.
    """
    names = class_names(scores)
    values = matrix(scores, SCORE)
    true_class = pd.Index(names).get_indexer(truth.to_numpy(dtype=object))
    called = np.array(names, dtype=object)[values.argmax(axis=1)] if len(values) else np.array([], object)
    return pd.DataFrame(
        {"perturbation": truth.to_numpy(dtype=object), "call": called, "rank": rank_of_truth(values, true_class)},
        index=scores.index,
    )


def score_table(scores: pd.DataFrame, truth: pd.Series, cell_type: pd.Series) -> Score:
    """Score the plain calls of a score table.

    Args:
        scores: One row per well or site: experiment, tier and ``score_<perturbation>`` columns.
        truth: (W,) perturbation of each row.
        cell_type: (W,) cell type of each row.

    Returns:
        The score; chance is 1/K.
    """
    calls = ranked_calls(scores, truth)
    classes = len(class_names(scores))
    correct, experiment = (calls["rank"] == 0).to_numpy(), scores["experiment"].to_numpy(str)
    rows_by_cell_type = cell_type.reset_index(drop=True).groupby(cell_type.to_numpy()).indices
    return {
        **_accuracy(correct, experiment, 1 / classes),
        "top5": float((calls["rank"] < 5).mean()) if classes > 5 else None,
        "macro_recall": macro_recall(calls["perturbation"].to_numpy(str), calls["call"].to_numpy(str)),
        "tier": str(scores["tier"].iloc[0]),
        "by_experiment": {
            str(name): float(top1) for name, top1 in pd.Series(correct).groupby(experiment).mean().items()
        },
        "by_perturbation": {
            str(name): {"recall": float(correct_rows.mean()), "n": len(correct_rows)}
            for name, correct_rows in pd.Series(correct).groupby(calls["perturbation"].to_numpy(str))
        },
        "by_cell_type": {
            str(name): _accuracy(correct[rows], experiment[rows], 1 / classes)
            for name, rows in rows_by_cell_type.items()
        },
    }


def _accuracy(correct: np.ndarray, experiment: np.ndarray, chance: float) -> Accuracy:
    summary = summarize(correct, experiment, chance)
    return {
        "top1": summary["mean"],
        "skill": skill(summary["mean"], chance),
        "chance": chance,
        "n": summary["n"],
        "experiments": summary["experiments"],
        "interval": summary["interval"],
        "sign_flip_p": summary["sign_flip_p"],
    }


def paired_gain(right: np.ndarray, reference: np.ndarray, experiment: np.ndarray) -> Gain:
    """Gain in top-1 of one call over another of the same rows.

    Args:
        right: (W,) whether each row is called correctly.
        reference: (W,) whether the call it is compared with is correct.
        experiment: (W,) names.
    """
    summary = summarize(right.astype(float) - reference.astype(float), experiment)
    return {"gain": summary["mean"], "gain_interval": summary["interval"], "gain_sign_flip_p": summary["sign_flip_p"]}


def seen_gap(seen: Score | None, unseen: Score | None) -> SeenGap | None:
    """Top-1 on plates seen in training less top-1 on unseen plates: what does not generalize."""
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


def pair_recall(scores: pd.DataFrame, truth: pd.Series, pair: list[str]) -> PairRecall | None:
    """Macro recall between two perturbations; rows and score columns of all others are ignored.

    None if no row has either perturbation.
    """
    in_pair = truth.isin(pair).to_numpy()
    if not in_pair.any():
        return None
    values = scores.loc[in_pair, [SCORE + name for name in pair]].to_numpy()
    called = np.array(pair)[values.argmax(axis=1)]
    return {
        "pair": pair,
        "macro_recall": macro_recall(truth[in_pair].to_numpy(dtype=str), called),
        "chance": 0.5,
        "n": int(in_pair.sum()),
    }


def score_steps(steps: pd.DataFrame, truth: dict[str, str]) -> list[StepScore]:
    """Accuracy after each step of plate balancing, and its gain over the plain call of the same wells.

    Chance is the mean of 1 / (perturbations that the step still allows in a well): 1/K for the plain call,
    G/K where the plate group is decided.

    Args:
        steps: ``balancing_steps``, held-out rows.
        truth: id_code -> perturbation.
    """
    scored: list[StepScore] = []
    plain: pd.Series | None = None
    for step, rows in steps.groupby("step", sort=False):
        labelled = rows[rows["id_code"].isin(truth)].set_index("id_code")
        correct = labelled["call"] == labelled.index.map(truth)
        experiment = labelled["experiment"].to_numpy(str)
        plain = correct if plain is None else plain
        scored.append(
            {
                "step": str(step),
                **_accuracy(correct.to_numpy(), experiment, float((1 / labelled["candidates"]).mean())),
                **paired_gain(correct.to_numpy(), plain.loc[labelled.index].to_numpy(), experiment),
                "tier": str(rows["tier"].iloc[0]),
            }
        )
    return scored


def score_groups(
    plate_groups: pd.DataFrame, layout: pd.DataFrame, wells: pd.DataFrame, truth: dict[str, str]
) -> PlateGroupScore:
    """How many plate groups were decided, and how many of those with held-out labels are correct.

    The true group of a plate is the group of most of its held-out labels.

    Args:
        plate_groups: The table ``plate_groups``.
        layout: The table ``plate_layout``.
        wells: The table ``wells``.
        truth: id_code -> perturbation of held-out wells.
    """
    labelled = wells[wells["id_code"].isin(truth)].copy()
    labelled["true_group"] = labelled["id_code"].map(truth).map(layout.set_index("perturbation")["group"])
    true_groups = (
        labelled.dropna(subset=["true_group"])
        .groupby(["experiment", "plate"])["true_group"]
        .agg(lambda groups: groups.mode()[0])
        .reset_index()
    )
    decided = plate_groups[plate_groups["decided"].astype(bool)]
    checked = decided.merge(true_groups, on=["experiment", "plate"])
    return {
        "plates": int(len(plate_groups)),
        "decided": int(len(decided)),
        "checked": int(len(checked)),
        "right": int((checked["group"] == checked["true_group"]).sum()),
        "checkable": int(plate_groups.merge(true_groups, on=["experiment", "plate"]).shape[0]),
    }


def evaluate(
    *,
    screen: str,
    well_scores: pd.DataFrame,
    site_logits: pd.DataFrame,
    redealt_logits: pd.DataFrame,
    redrawn_statistics: pd.DataFrame,
    baseline_logits: pd.DataFrame,
    steps: pd.DataFrame,
    groups_found: pd.DataFrame,
    layout: pd.DataFrame,
    wells: pd.DataFrame,
    heldout_labels: pd.DataFrame,
    redealt_labels: pd.DataFrame,
    unit: str,
    pairs: list[list[str]],
) -> Scores:
    """Compute all scores of a screen.

    Args:
        screen: Name of the screen.
        well_scores: Pooled score table with a ``role``, one row per well.
        site_logits: The table ``site_logits``; no rows where the scores came from an external model.
        redealt_logits: The table of that name; no rows where nothing can be dealt anew.
        redrawn_statistics: The table of that name, or no rows.
        baseline_logits: Site scores of the hand-feature baselines, or no rows.
        steps: ``balancing_steps``.
        groups_found: The table ``plate_groups``.
        layout: The table ``plate_layout``.
        wells: The table ``wells``.
        heldout_labels: The withheld labels; no rows if there are none.
        redealt_labels: Labels of the re-dealt held-out plates; no rows if there are none.
        unit: Score by ``well`` or by ``site``.
        pairs: Pairs of perturbations to score alone.

    Raises:
        InputError: The held-out labels belong to another screen, or a perturbation of a pair is not scored.
    """
    heldout_truth = dict(zip(heldout_labels["id_code"], heldout_labels["perturbation"], strict=True))
    labelled = wells.dropna(subset=["perturbation"])
    known_truth = dict(zip(labelled["id_code"], labelled["perturbation"], strict=True))
    targets = _TargetWells(set(wells.loc[wells["target"], "id_code"]), wells.set_index("id_code")["cell_type"])
    main = site_logits if unit == "site" else well_scores
    classes = class_names(main)
    _check_labels(heldout_truth, targets.id_codes, set(wells["id_code"]), screen)
    labels = [label for code, label in heldout_truth.items() if code in targets.id_codes]
    same_names(labels, classes, "heldout_labels and well_scores")
    _check_pairs(pairs, classes)
    model_rows = targets.rows(main, "heldout", heldout_truth)
    baseline_rows = {
        name: _by_unit(baseline_logits[baseline_logits["baseline"] == name], unit)
        for name in BASELINES
        if len(baseline_logits)
    }
    redealt_truth = dict(zip(redealt_labels["id_code"], redealt_labels["perturbation"], strict=True))
    redealt = _redealt_scores(
        targets, {"model": main, **baseline_rows}, {"model": _by_unit(redealt_logits, unit), **baseline_rows},
        heldout_truth, redealt_truth,
    )  # fmt: skip
    of_redealt = {score["of"]: score for score in redealt}

    def score(table: pd.DataFrame, role: str, truth: dict[str, str], of: str = "model") -> Score | None:
        scored = targets.score(table, role, truth)
        return None if scored is None else {**scored, "tier": after_control(scored["tier"], of_redealt.get(of))}

    heldout = {
        "well": score(well_scores, "heldout", heldout_truth),
        "site": score(site_logits, "heldout", heldout_truth),
    }
    main_score = heldout[unit]
    seen = score(_seen_rows(site_logits, unit), "train", known_truth)
    baselines: list[BaselineScore] = [
        {**scored, "name": name}
        for name, table in baseline_rows.items()
        if (scored := score(table, "heldout", heldout_truth, name)) is not None
    ]
    baseline = _best_baseline(baselines, main_score)
    rows_of_best = targets.rows(baseline_rows[baseline["name"]], "heldout", heldout_truth) if baseline else main.head(0)
    design: PlateDesign = {
        "redealt": redealt,
        "group_share": _group_shares(targets, main, known_truth, heldout_truth),
        "redrawn": redrawn_calls(redrawn_statistics, layout),
    }
    validation = score(main, "validation", known_truth)
    scored_steps = _score_heldout_steps(steps, heldout_truth) if unit == "well" else []
    for step in scored_steps:
        step["tier"] = after_control(step["tier"], of_redealt.get("model"))
    scorable = targets.id_codes & heldout_truth.keys() & set(main["id_code"])
    return {
        "screen": screen,
        "unit": unit,
        "classes": len(classes),
        "headline": headline(main_score, unit),
        "heldout": heldout,
        "seen": seen,
        "gap": seen_gap(seen, main_score),
        "validation": validation,
        "baselines": baselines,
        "baseline": baseline,
        "against_baseline": _gain_over_baseline(model_rows, rows_of_best, heldout_truth),
        "plate_design": design,
        "steps": scored_steps,
        "pairs": _score_pairs(model_rows, rows_of_best, heldout_truth, pairs) if main_score is not None else [],
        "plate_groups": score_groups(groups_found, layout, wells, heldout_truth),
        "notes": score_notes(wells, main_score, unit, external=len(site_logits) == 0)
        + design_notes(main_score, design)
        + unscorable_label_notes([heldout_truth[code] for code in scorable], classes),
    }


@dataclass(frozen=True)
class _TargetWells:
    """The wells whose perturbation is to be called; only these are scored."""

    id_codes: set[str]
    cell_type: pd.Series  # id_code -> cell type

    def rows(self, table: pd.DataFrame, role: str, truth: dict[str, str]) -> pd.DataFrame:
        """Rows of target wells that have the role and a label in ``truth``."""
        if table.empty:
            return table
        return table[(table["role"] == role) & table["id_code"].isin(truth) & table["id_code"].isin(self.id_codes)]

    def score(self, table: pd.DataFrame, role: str, truth: dict[str, str]) -> Score | None:
        """Score of these rows; None if there are none."""
        rows = self.rows(table, role, truth)
        if rows.empty:
            return None
        return score_table(rows, rows["id_code"].map(truth), rows["id_code"].map(self.cell_type))


def _by_unit(logits: pd.DataFrame, unit: str) -> pd.DataFrame:
    return mean_over_sites(logits) if unit == "well" and len(logits) else logits


def _redealt_scores(
    targets: _TargetWells,
    designed: dict[str, pd.DataFrame],
    redealt: dict[str, pd.DataFrame],
    truth: dict[str, str],
    redealt_truth: dict[str, str],
) -> list[RedealtScore]:
    """The re-dealt control of the model and of each baseline."""
    scores = []
    for name, table in designed.items():
        tables = targets.rows(table, "heldout", truth), targets.rows(redealt[name], "redealt", redealt_truth)
        if not all(len(rows) for rows in tables):
            continue
        right = [_right(rows, labels) for rows, labels in zip(tables, (truth, redealt_truth), strict=True)]
        scored = redealt_score(name, *right)
        scores += [scored] if scored is not None else []
    return scores


def _right(rows: pd.DataFrame, truth: dict[str, str]) -> pd.DataFrame:
    """Experiment, true perturbation and whether the call is right, row by row."""
    calls = ranked_calls(rows, rows["id_code"].map(truth))
    return pd.DataFrame(
        {"experiment": rows["experiment"], "perturbation": calls["perturbation"], "right": calls["rank"] == 0}
    )


def _group_shares(
    targets: _TargetWells, main: pd.DataFrame, known_truth: dict[str, str], heldout_truth: dict[str, str]
) -> dict[str, GroupShare]:
    """Wrong calls inside the plate's own contents, on validation and on held-out plates."""
    shares: dict[str, GroupShare] = {}
    for role, truth in (("validation", known_truth), ("heldout", heldout_truth)):
        rows = targets.rows(main, role, truth)
        if rows.empty:
            continue
        calls = ranked_calls(rows, rows["id_code"].map(truth))
        table = rows[["experiment", "plate"]].assign(perturbation=calls["perturbation"], call=calls["call"])
        share = group_share(table, len(class_names(main)))
        shares |= {role: share} if share is not None else {}
    return shares


def _best_baseline(baselines: list[BaselineScore], main: Score | None) -> BaselineScore | None:
    """The baseline with the highest top-1 among those that know no more than the model.

    It is chosen on the wells that are scored, in favour of the baseline.
    """
    knowledge = ("T0", "T1", "T1c", "T2")
    tier = plain_tier(main["tier"]) if main else "T1"
    limit = knowledge.index(tier) if tier in knowledge else knowledge.index("T1c")
    allowed = [b for b in baselines if plain_tier(b["tier"]) in knowledge[: limit + 1]]
    return max(allowed or baselines, key=lambda b: b["top1"], default=None)


def _check_labels(heldout_truth: dict[str, str], target_codes: set[str], known: set[str], screen: str) -> None:
    if heldout_truth and not target_codes & heldout_truth.keys():
        raise InputError(
            f"heldout_labels has {len(heldout_truth)} wells such as {next(iter(heldout_truth))!r}, none of which is a target "
            f"well of screen {screen!r}; expected id_codes such as {min(target_codes, default='')!r}"
        )

    strange = [code for code in heldout_truth if code not in known]
    if strange:
        logger.warning(
            "heldout_labels: %s of %s wells are not on the screen %r and are not scored: %s",
            len(strange), len(heldout_truth), screen, first_few(strange, 3),
        )  # fmt: skip


def _check_pairs(pairs: list[list[str]], classes: list[str]) -> None:
    for name in (name for pair in pairs for name in pair):
        if name not in classes:
            raise InputError(
                f"evaluation.pairs has {name!r}, which is not a scored perturbation.{closest(name, classes)}"
            )


def _seen_rows(site_logits: pd.DataFrame, unit: str) -> pd.DataFrame:
    """Scores of the plates that a model was trained on, by well or by site."""
    rows = site_logits[site_logits["role"] == "train"] if len(site_logits) else site_logits
    if rows.empty:
        return rows
    # several fold models may have trained on a well; as on held-out wells, only one model scores it
    rows = rows[rows["fold"] == rows.groupby("id_code")["fold"].transform("min")]
    return rows if unit == "site" else mean_over_sites(rows)


def _score_heldout_steps(steps: pd.DataFrame, truth: dict[str, str]) -> list[StepScore]:
    heldout = steps[steps["role"] == "heldout"]
    return score_steps(heldout, truth) if heldout["id_code"].isin(truth).any() else []


def _score_pairs(
    model: pd.DataFrame, baseline: pd.DataFrame, truth: dict[str, str], pairs: list[list[str]]
) -> list[PairScore]:
    """Every pair, first by the model and then by the baseline; pairs without a row are left out."""
    scored: list[PairScore] = []
    for name, rows in (("model", model), ("baseline", baseline)):
        if len(rows):
            recalls = [pair_recall(rows, rows["id_code"].map(truth), pair) for pair in pairs]
            scored += [{"of": name, **recall} for recall in recalls if recall is not None]
    return scored


def mean_over_sites(site_logits: pd.DataFrame) -> pd.DataFrame:
    """Average site logits into one row per well and role."""
    columns = [c for c in site_logits.columns if c.startswith(SCORE)]
    return site_logits.groupby(["id_code", "experiment", "plate", "well", "role", "tier"])[columns].mean().reset_index()


def _gain_over_baseline(model: pd.DataFrame, baseline: pd.DataFrame, truth: dict[str, str]) -> Gain | None:
    """Gain of the model over hand features, on the rows that both have scored."""
    key = [c for c in ("fold", "id_code", "site") if c in model.columns and c in baseline.columns]
    if model.empty or baseline.empty:
        return None
    correct = []
    for table in (model, baseline):
        calls = ranked_calls(table, table["id_code"].map(truth))
        correct.append(table[key].assign(experiment=table["experiment"], right=(calls["rank"] == 0).to_numpy()))
    both = correct[0].merge(correct[1][[*key, "right"]], on=key, suffixes=("", "_baseline"))
    if both.empty:
        return None
    return paired_gain(both["right"].to_numpy(), both["right_baseline"].to_numpy(), both["experiment"].to_numpy(str))


def confusions(scores: pd.DataFrame, truth: dict[str, str]) -> pd.DataFrame:
    """How often each perturbation is called as each other one: the table ``confusions``.

    Args:
        scores: Pooled score table of held-out wells with a known truth.
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
    """Calls, replicate retrieval and activity of each perturbation: the table ``perturbation_scores``.

    Args:
        scores: Pooled score table of held-out wells with a known truth; or no rows.
        truth: id_code -> perturbation.
        cell_type: id_code -> cell type.
        retrieval: The table ``replicate_retrieval``; only its level ``not_same_experiment`` is used.
        activity: Result of :func:`deepnoise.evaluation.retrieval.activity`.
        tier: Tier of the embeddings, used where there are no scores.
    """
    key = ["cell_type", "perturbation"]
    across_experiments = retrieval[retrieval["level"] == "not_same_experiment"]
    retrieved = across_experiments.groupby(key).agg(
        average_precision=("average_precision", "mean"), queried=("id_code", "nunique")
    )
    active = activity.rename(
        columns={"average_precision": "activity", "chance": "activity_chance", "p": "activity_p", "q": "activity_q"}
    )
    # with several fold models the largest p and q count
    active = active.groupby(key).agg(
        {"activity": "mean", "activity_chance": "mean", "activity_p": "max", "activity_q": "max"}
    )
    calls = ranked_calls(scores, scores["id_code"].map(truth)).assign(cell_type=scores["id_code"].map(cell_type))
    by_perturbation = calls.assign(top1=calls["rank"] == 0, top5=calls["rank"] < 5).groupby(key)
    called = by_perturbation.agg(top1=("top1", "mean"), top5=("top5", "mean"), called=("rank", "size"))
    most_called = calls[calls["rank"] > 0].groupby(key)["call"].agg(lambda c: c.value_counts(sort=True).index[0])
    table = (
        retrieved.join(active, how="outer")
        .join(called, how="outer")
        .join(most_called.rename("most_called"), how="left")
    )
    table["wells"] = table["called"].fillna(table["queried"]).fillna(0)
    table["most_called"] = table["most_called"].fillna("")
    table["tier"] = str(scores["tier"].iloc[0]) if len(scores) else tier
    return table.reset_index()[list(SCHEMAS["perturbation_scores"].columns)]
