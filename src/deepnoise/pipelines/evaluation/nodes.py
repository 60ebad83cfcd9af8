"""Nodes of ``evaluation``: adapters of ``deepnoise.evaluation``. Only they and the growth chart read ``heldout_labels``."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from deepnoise.evaluation.score_types import Scores, SignalLeakCard
from deepnoise.parameters import EvaluationParameters
from deepnoise.pipelines.types import DataFrame, Figure

if TYPE_CHECKING:
    from deepnoise.evaluation.profiles import Profiles

logger = logging.getLogger(__name__)


def score_calls(
    well_scores: DataFrame,
    site_logits: DataFrame,
    redealt_logits: DataFrame,
    redrawn_statistics: DataFrame,
    baseline_logits: DataFrame,
    balancing_steps: DataFrame,
    plate_groups: DataFrame,
    plate_layout: DataFrame,
    wells: DataFrame,
    heldout_labels: DataFrame,
    redealt_labels: DataFrame,
    parameters: EvaluationParameters,
    pooling: str,
) -> Scores:
    """Every score with its tier; the main ones are logged."""
    from deepnoise.evaluation import metrics

    scores = metrics.evaluate(
        screen=parameters.screen,
        well_scores=_pooled(well_scores, wells, pooling),
        site_logits=site_logits,
        redealt_logits=redealt_logits,
        redrawn_statistics=redrawn_statistics,
        baseline_logits=baseline_logits,
        steps=balancing_steps,
        groups_found=plate_groups,
        layout=plate_layout,
        wells=wells,
        heldout_labels=heldout_labels,
        redealt_labels=redealt_labels,
        unit=parameters.unit,
        pairs=parameters.pairs,
    )
    if main := scores["heldout"][scores["unit"]]:
        logger.info(
            "%s: perturbation identified in %.1f %% (chance %.1f %%)", main["tier"], 100 * main["top1"], 100 * main["chance"]
        )  # fmt: skip
    for step in scores["steps"][1:]:
        logger.info(
            "with plate design, %s: %.1f %% (chance %.1f %%)", step["step"], 100 * step["top1"], 100 * step["chance"]
        )
    return scores


def measure_reliability(
    balancing_steps: DataFrame, calls: DataFrame, heldout_labels: DataFrame
) -> tuple[DataFrame, list[dict[str, Any]]]:
    """Whether confidences are calibrated, after each step."""
    from deepnoise.evaluation import reliability

    truth = heldout_labels.set_index("id_code")["perturbation"]
    return reliability.measure_reliability(balancing_steps, calls, truth)


def measure_retrieval(
    well_embeddings: DataFrame, wells: DataFrame, heldout_labels: DataFrame, parameters: EvaluationParameters
) -> tuple[DataFrame, dict[str, Any]]:
    """How early replicates find each other, on plates that the model was not trained on."""
    from deepnoise.evaluation import retrieval
    from deepnoise.evaluation.profiles import tier_of_profiles

    profiles = _profiles(well_embeddings, wells, heldout_labels)
    seen = profiles.rows["plate_seen"].to_numpy(bool)
    unseen = profiles if seen.all() else profiles.take(~seen)
    table, null = retrieval.average_precisions(unseen, parameters.permutations)
    return table.assign(tier=tier_of_profiles(well_embeddings)), retrieval.summarize_retrieval(table, null)


def probe_leaks(
    well_embeddings: DataFrame,
    wells: DataFrame,
    heldout_labels: DataFrame,
    site_features: DataFrame,
    normalized_features: DataFrame,
    plate_statistics: DataFrame,
    parameters: EvaluationParameters,
) -> DataFrame:
    """What a linear probe predicts of technical noise, from embeddings and from the same wells' intensities."""
    from deepnoise.evaluation.representations import probe_representations

    return probe_representations(
        well_embeddings, wells, heldout_labels, site_features, normalized_features, plate_statistics, parameters
    )


def choose_correction(
    well_embeddings: DataFrame, wells: DataFrame, parameters: EvaluationParameters
) -> tuple[DataFrame, dict[str, Any]]:
    """The embeddings after the correction that is best on validation plates."""
    from deepnoise.evaluation import compare_corrections

    return compare_corrections.choose_correction(well_embeddings, wells, parameters)


def compare_corrections(
    well_embeddings: DataFrame,
    wells: DataFrame,
    heldout_labels: DataFrame,
    leak_probes: DataFrame,
    correction_choice: dict[str, Any],
    parameters: EvaluationParameters,
) -> DataFrame:
    """Signal and leak after each correction of the embeddings."""
    from deepnoise.evaluation import compare_corrections

    return compare_corrections.compare_corrections(
        well_embeddings, wells, heldout_labels, leak_probes, correction_choice, parameters
    )


def score_perturbations(
    well_scores: DataFrame,
    well_embeddings: DataFrame,
    replicate_retrieval: DataFrame,
    wells: DataFrame,
    heldout_labels: DataFrame,
    pooling: str,
) -> tuple[DataFrame, DataFrame, DataFrame]:
    """How well each perturbation is called, retrieved and distinguished from controls, and with what it is confused."""
    from deepnoise.evaluation import metrics, retrieval
    from deepnoise.evaluation.profiles import tier_of_profiles

    profiles = _profiles(well_embeddings, wells, heldout_labels)
    activity = retrieval.activity(profiles.take(~profiles.rows["plate_seen"].to_numpy(bool)))
    scores = _pooled(well_scores, wells, pooling)
    labels = dict(zip(heldout_labels["id_code"], heldout_labels["perturbation"], strict=True))
    heldout = scores[(scores["role"] == "heldout") & scores["id_code"].isin(labels)] if len(scores) else scores
    cell_type = wells.set_index("id_code")["cell_type"]
    table = metrics.perturbation_scores(
        heldout, labels, cell_type, replicate_retrieval, activity, tier_of_profiles(well_embeddings)
    )
    return table, metrics.confusions(heldout, labels), activity


def find_suspects(
    well_embeddings: DataFrame,
    well_scores: DataFrame,
    site_features: DataFrame,
    wells: DataFrame,
    heldout_labels: DataFrame,
    pooling: str,
) -> DataFrame:
    """Wells whose image contradicts the plate map."""
    from deepnoise.evaluation import suspects
    from deepnoise.evaluation.profiles import tier_of_profiles

    profiles = _profiles(well_embeddings, wells, heldout_labels)
    scores = _pooled(well_scores, wells, pooling)
    table = suspects.find_suspects(profiles, scores, site_features, tier_of_profiles(well_embeddings))
    flagged = table[table["flagged"]]
    logger.info("suspect wells: %s flagged%s", len(flagged), "".join(f"; {r.experiment}/{r.plate}/{r.well} {r.kind}" for r in flagged.head(3).itertuples()))  # fmt: skip
    return table


def make_card(
    well_embeddings: DataFrame,
    scores: Scores,
    retrieval_summary: dict[str, Any],
    leak_probes: DataFrame,
    embedding_corrections: DataFrame,
    perturbation_activity: DataFrame,
    suspect_wells: DataFrame,
    wells: DataFrame,
    heldout_labels: DataFrame,
    parameters: EvaluationParameters,
) -> SignalLeakCard:
    """Signal and leak side by side."""
    from deepnoise.evaluation import signal_leak_card
    from deepnoise.evaluation.profiles import tier_of_profiles
    from deepnoise.tiers import after_control

    of_model = next((control for control in scores["plate_design"]["redealt"] if control["of"] == "model"), None)
    return signal_leak_card.make_card(
        screen=parameters.screen,
        tier=after_control(tier_of_profiles(well_embeddings), of_model),
        plate_design=scores["plate_design"],
        profiles=_profiles(well_embeddings, wells, heldout_labels),
        signal=retrieval_summary,
        leaks=leak_probes,
        corrections=embedding_corrections,
        activity=perturbation_activity,
        suspects=suspect_wells,
    )


def draw_figures(
    scores: Scores,
    signal_leak_card: SignalLeakCard,
    reliability_table: DataFrame,
    perturbation_scores: DataFrame,
    confusion_table: DataFrame,
    well_embeddings: DataFrame,
    wells: DataFrame,
    heldout_labels: DataFrame,
) -> tuple[Figure, Figure, Figure, Figure, Figure]:
    """Scores, signal and leak, reliability, confusions, and a map of the embeddings."""
    from deepnoise.evaluation import figures

    return (
        figures.draw_scores(scores),
        figures.draw_card(signal_leak_card),
        figures.draw_reliability(reliability_table),
        figures.draw_confusions(perturbation_scores, confusion_table),
        figures.draw_embeddings(_profiles(well_embeddings, wells, heldout_labels)),
    )


def write_chapter(
    scores: Scores,
    reliability_summary: list[dict[str, Any]],
    signal_leak_card: SignalLeakCard,
    leak_table: DataFrame,
    perturbation_scores: DataFrame,
    suspect_wells: DataFrame,
    score_plot: Figure,
    reliability_plot: Figure,
    confusion_plot: Figure,
    signal_leak_plot: Figure,
    embedding_map: Figure,
) -> tuple[str, dict[str, Any]]:
    """The score table as text, and what the report shows of evaluation."""
    from deepnoise.evaluation import chapter, score_table

    plots = {
        "score_plot": score_plot,
        "reliability_plot": reliability_plot,
        "confusion_plot": confusion_plot,
        "signal_leak_plot": signal_leak_plot,
        "embedding_map": embedding_map,
    }
    of_report = chapter.write_chapter(
        scores, reliability_summary, signal_leak_card, leak_table, perturbation_scores, suspect_wells, plots
    )
    return score_table.format_all(scores, reliability_summary, signal_leak_card), of_report.as_json()


def _profiles(well_embeddings: DataFrame, wells: DataFrame, heldout_labels: DataFrame) -> Profiles:
    from deepnoise.evaluation.profiles import join_profiles, true_labels

    return join_profiles(well_embeddings, wells, true_labels(wells, heldout_labels))


def _pooled(well_scores: DataFrame, wells: DataFrame, pooling: str) -> DataFrame:
    """One wide row per well; no rows if there are no scores."""
    from deepnoise.plate_balancing.scores import fill_unlisted, pool_scores

    if len(well_scores):
        return fill_unlisted(pool_scores(well_scores, wells, pooling))
    return well_scores.assign(role="", experiment="", plate="", well="")
