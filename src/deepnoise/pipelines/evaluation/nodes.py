"""Nodes of ``evaluation``: adapters of ``deepnoise.evaluation``. They and the growth chart alone read ``heldout_labels``."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
from plotly.graph_objects import Figure

from deepnoise.evaluation import chapter, figures, metrics, probe_tasks, reliability, retrieval, score_table, suspects
from deepnoise.evaluation import signal_leak_card as card
from deepnoise.evaluation.profiles import Profiles, join_profiles, true_labels
from deepnoise.evaluation.score_types import Scores, SignalLeakCard
from deepnoise.parameters import EvaluationParameters
from deepnoise.plate_balancing.scores import filled, pool_scores
from deepnoise.tables import SCHEMAS

logger = logging.getLogger(__name__)


def score_calls(
    well_scores: pd.DataFrame,
    site_logits: pd.DataFrame,
    baseline_logits: pd.DataFrame,
    balancing_steps: pd.DataFrame,
    plate_groups: pd.DataFrame,
    plate_layout: pd.DataFrame,
    wells: pd.DataFrame,
    heldout_labels: pd.DataFrame,
    parameters: EvaluationParameters,
) -> Scores:
    """Every score with its tier, and the two lines of the story."""
    scores = metrics.evaluate(
        screen=parameters.screen,
        well_scores=_pooled(well_scores, wells),
        site_logits=site_logits,
        baseline_logits=baseline_logits,
        steps=balancing_steps,
        groups_found=plate_groups,
        layout=plate_layout,
        wells=wells,
        heldout_labels=heldout_labels,
        unit=parameters.unit,
        pairs=parameters.pairs,
    )
    if main := scores["heldout"][scores["unit"]]:
        logger.info(
            "%s: perturbation named %.1f %% (chance %.1f %%)", main["tier"], 100 * main["top1"], 100 * main["chance"]
        )
    for step in scores["steps"][1:]:
        logger.info(
            "with plate design, %s: %.1f %% (chance %.1f %%)", step["step"], 100 * step["top1"], 100 * step["chance"]
        )
    return scores


def measure_reliability(
    balancing_steps: pd.DataFrame, calls: pd.DataFrame, heldout_labels: pd.DataFrame
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Whether confidences mean what they say, after each step."""
    truth = heldout_labels.set_index("id_code")["perturbation"]
    return reliability.measure_reliability(balancing_steps, calls, truth)


def measure_retrieval(
    well_embeddings: pd.DataFrame, wells: pd.DataFrame, heldout_labels: pd.DataFrame, parameters: EvaluationParameters
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """How early replicates find each other, on plates that the model was not trained on."""
    profiles = _profiles(well_embeddings, wells, heldout_labels)
    seen = profiles.rows["plate_seen"].to_numpy(bool)
    asked = profiles if seen.all() else profiles.take(~seen)
    table, null = retrieval.average_precisions(asked, parameters.permutations)
    return table.assign(tier=_tier(well_embeddings)), retrieval.summarize_retrieval(table, null)


def probe_leaks(
    well_embeddings: pd.DataFrame,
    wells: pd.DataFrame,
    heldout_labels: pd.DataFrame,
    site_features: pd.DataFrame,
    normalized_features: pd.DataFrame,
    plate_statistics: pd.DataFrame,
    parameters: EvaluationParameters,
) -> pd.DataFrame:
    """What a linear probe reads of technical noise: in embeddings, and on the same wells in brightness and contrast."""
    labels = true_labels(wells, heldout_labels)
    profiles = join_profiles(well_embeddings, wells, labels)
    compared = {"embedding": profiles}
    tiers = {"embedding": _tier(well_embeddings), "raw_intensity": "T0"}
    if len(site_features):
        # on the wells that the embeddings are probed on; on all wells where there are no embeddings
        rows = profiles.rows[~profiles.rows["plate_seen"]].drop_duplicates("id_code").assign(fold=0)
        if rows.empty:
            rows = wells.assign(fold=0, role="", plate_seen=False)
        tiers["normalized_intensity"] = str(plate_statistics["tier"].iloc[0])
        for name, features in (
            ("raw_intensity", probe_tasks.well_features(site_features)),
            ("normalized_intensity", probe_tasks.normalized_wells(normalized_features)),
        ):
            there = rows[rows["id_code"].isin(features.index)].reset_index(drop=True)
            there = there.assign(perturbation=there["id_code"].map(labels))
            compared[name] = Profiles(there, features.loc[there["id_code"]].to_numpy(np.float32))
    if profiles.rows.empty:
        del compared["embedding"]
    intensity = probe_tasks.well_features(site_features, ("mean",))
    answers = {
        name: probe_tasks.probe_leaks(of, intensity, parameters.permutations, parameters.smallest_leak)
        for name, of in compared.items()
    }
    for answer in answers.get("embedding", []):
        if answer["verdict"] in ("leak", "none seen", "undecided"):
            logger.info(
                "leak probe %s: %.1f %% (chance %.1f %%), %s", answer["axis"].replace("_", " "),
                100 * answer["balanced_accuracy"], 100 * answer["chance"], answer["verdict"],
            )  # fmt: skip
        else:
            logger.info("leak probe %s: %s, %s", answer["axis"], answer["verdict"], answer["reason"])
    return card.leak_table(answers, tiers) if answers else SCHEMAS["leak_probes"].empty()


def score_perturbations(
    well_scores: pd.DataFrame,
    well_embeddings: pd.DataFrame,
    replicate_retrieval: pd.DataFrame,
    wells: pd.DataFrame,
    heldout_labels: pd.DataFrame,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Each perturbation: how it is called, found again, told from controls, and what it is taken for."""
    profiles = _profiles(well_embeddings, wells, heldout_labels)
    active = retrieval.activity(profiles.take(~profiles.rows["plate_seen"].to_numpy(bool)))
    scores = _pooled(well_scores, wells)
    held = dict(zip(heldout_labels["id_code"], heldout_labels["perturbation"], strict=True))
    heldout = scores[(scores["role"] == "heldout") & scores["id_code"].isin(held)] if len(scores) else scores
    kind = wells.set_index("id_code")["cell_type"]
    table = metrics.perturbation_scores(heldout, held, kind, replicate_retrieval, active, _tier(well_embeddings))
    return table, metrics.confusions(heldout, held), active


def find_suspects(
    well_embeddings: pd.DataFrame,
    well_scores: pd.DataFrame,
    site_features: pd.DataFrame,
    wells: pd.DataFrame,
    heldout_labels: pd.DataFrame,
) -> pd.DataFrame:
    """Wells whose image contradicts the plate map."""
    profiles = _profiles(well_embeddings, wells, heldout_labels)
    found = suspects.find_suspects(profiles, _pooled(well_scores, wells), site_features, _tier(well_embeddings))
    flagged = found[found["flagged"]]
    logger.info("suspect wells: %s flagged%s", len(flagged), "".join(f"; {r.experiment}/{r.plate}/{r.well} {r.kind}" for r in flagged.head(3).itertuples()))  # fmt: skip
    return found


def make_card(
    well_embeddings: pd.DataFrame,
    retrieval_summary: dict[str, Any],
    leak_probes: pd.DataFrame,
    perturbation_activity: pd.DataFrame,
    suspect_wells: pd.DataFrame,
    wells: pd.DataFrame,
    heldout_labels: pd.DataFrame,
    parameters: EvaluationParameters,
) -> SignalLeakCard:
    """Signal and leak side by side."""
    return card.make_card(
        screen=parameters.screen,
        tier=_tier(well_embeddings),
        profiles=_profiles(well_embeddings, wells, heldout_labels),
        signal=retrieval_summary,
        leaks=leak_probes,
        activity=perturbation_activity,
        suspects=suspect_wells,
    )


def format_scores(scores: Scores, reliability_summary: list[dict[str, Any]], signal_leak_card: SignalLeakCard) -> str:
    """The score table as text."""
    parts = (
        score_table.format_scores(scores),
        score_table.format_reliability(reliability_summary),
        score_table.format_card(signal_leak_card),
    )
    return "\n".join(part for part in parts if part)


def draw_figures(
    scores: Scores,
    signal_leak_card: SignalLeakCard,
    reliability_table: pd.DataFrame,
    perturbation_scores: pd.DataFrame,
    confusion_table: pd.DataFrame,
) -> tuple[Figure, Figure, Figure, Figure]:
    """Scores, signal and leak, reliability, and what is taken for what."""
    return (
        figures.draw_scores(scores),
        figures.draw_card(signal_leak_card),
        figures.draw_reliability(reliability_table),
        figures.draw_confusions(perturbation_scores, confusion_table),
    )


def draw_embeddings(well_embeddings: pd.DataFrame, wells: pd.DataFrame, heldout_labels: pd.DataFrame) -> Figure:
    """A map of the embeddings."""
    return figures.draw_embeddings(_profiles(well_embeddings, wells, heldout_labels))


def write_chapter(
    scores: dict[str, Any],
    reliability_summary: list[dict[str, Any]],
    signal_leak_card: dict[str, Any],
    leak_table: pd.DataFrame,
    perturbation_scores: pd.DataFrame,
    suspect_wells: pd.DataFrame,
    score_plot: Figure,
    reliability_plot: Figure,
    confusion_plot: Figure,
    signal_leak_plot: Figure,
    embedding_map: Figure,
) -> dict[str, Any]:
    """What the report shows of evaluation."""
    plots = {
        "score_plot": score_plot,
        "reliability_plot": reliability_plot,
        "confusion_plot": confusion_plot,
        "signal_leak_plot": signal_leak_plot,
        "embedding_map": embedding_map,
    }
    return chapter.write_chapter(
        scores, reliability_summary, signal_leak_card, leak_table, perturbation_scores, suspect_wells, plots
    ).as_json()


def _profiles(well_embeddings: pd.DataFrame, wells: pd.DataFrame, heldout_labels: pd.DataFrame) -> Profiles:
    return join_profiles(well_embeddings, wells, true_labels(wells, heldout_labels))


def _pooled(well_scores: pd.DataFrame, wells: pd.DataFrame) -> pd.DataFrame:
    """One wide row a well; no rows where there are no scores at all."""
    return (
        filled(pool_scores(well_scores, wells))
        if len(well_scores)
        else well_scores.assign(role="", experiment="", plate="", well="")
    )


def _tier(well_embeddings: pd.DataFrame) -> str:
    tiers = sorted(well_embeddings["tier"].unique())
    return tiers[0] if len(tiers) == 1 else "unknown"
