"""well_scores -> scores; well_embeddings -> retrieval, leak_probes, suspect_wells -> signal_leak_card; all with heldout_labels."""

from kedro.pipeline import Node, Pipeline

from deepnoise.pipelines.evaluation import nodes

LABELS = ["wells", "heldout_labels"]
POOLING = "params:plate_balancing.pooling"
"""Wells are pooled as plate balancing pools them, by its parameter."""


def create_pipeline() -> Pipeline:
    """The pipeline ``evaluation``."""
    return Pipeline(
        [
            Node(
                nodes.score_calls,
                [
                    "well_scores",
                    "site_logits",
                    "redealt_logits",
                    "redrawn_statistics",
                    "baseline_logits",
                    "balancing_steps",
                    "plate_groups",
                    "plate_layout",
                    *LABELS,
                    "redealt_labels",
                    "params:evaluation",
                    POOLING,
                ],
                "scores",
                name="score_calls",
            ),
            Node(
                nodes.measure_reliability,
                ["balancing_steps", "calls", "heldout_labels"],
                ["reliability", "reliability_summary"],
                name="measure_reliability",
            ),
            Node(
                nodes.measure_retrieval,
                ["well_embeddings", *LABELS, "params:evaluation"],
                ["replicate_retrieval", "retrieval_summary"],
                name="measure_retrieval",
            ),
            Node(
                nodes.probe_leaks,
                [
                    "well_embeddings",
                    *LABELS,
                    "site_features",
                    "normalized_features",
                    "plate_statistics",
                    "params:evaluation",
                ],
                "leak_probes",
                name="probe_leaks",
            ),
            Node(
                nodes.choose_correction,
                ["well_embeddings", "wells", "params:evaluation"],
                ["corrected_embeddings", "correction_choice"],
                name="choose_correction",
            ),
            Node(
                nodes.compare_corrections,
                ["well_embeddings", *LABELS, "leak_probes", "correction_choice", "params:evaluation"],
                "embedding_corrections",
                name="compare_corrections",
            ),
            Node(
                nodes.score_perturbations,
                ["well_scores", "well_embeddings", "replicate_retrieval", *LABELS, POOLING],
                ["perturbation_scores", "confusions", "perturbation_activity"],
                name="score_perturbations",
            ),
            Node(
                nodes.find_suspects,
                ["well_embeddings", "well_scores", "site_features", *LABELS, POOLING],
                "suspect_wells",
                name="find_suspects",
            ),
            Node(
                nodes.make_card,
                [
                    "well_embeddings",
                    "scores",
                    "retrieval_summary",
                    "leak_probes",
                    "embedding_corrections",
                    "perturbation_activity",
                    "suspect_wells",
                    *LABELS,
                    "params:evaluation",
                ],
                "signal_leak_card",
                name="make_card",
            ),
            Node(
                nodes.draw_figures,
                [
                    "scores",
                    "signal_leak_card",
                    "reliability",
                    "perturbation_scores",
                    "confusions",
                    "well_embeddings",
                    *LABELS,
                ],
                ["score_plot", "signal_leak_plot", "reliability_plot", "confusion_plot", "embedding_map"],
                name="draw_figures",
            ),
            Node(
                nodes.write_chapter,
                [
                    "scores",
                    "reliability_summary",
                    "signal_leak_card",
                    "leak_probes",
                    "perturbation_scores",
                    "suspect_wells",
                    "score_plot",
                    "reliability_plot",
                    "confusion_plot",
                    "signal_leak_plot",
                    "embedding_map",
                ],
                ["score_table", "evaluation_chapter"],
                name="write_chapter",
            ),
        ],
        namespace="evaluation",
        prefix_datasets_with_namespace=False,
        tags=["tier_T1", "tier_T2", "tier_T3"],
    )
