"""well_scores, balancing_steps, heldout_labels -> score_calls -> scores -> score_table, score_plot."""

from kedro.pipeline import Node, Pipeline

from deepnoise.pipelines.evaluation import nodes


def create_pipeline() -> Pipeline:
    """The pipeline ``evaluation``."""
    return Pipeline(
        [
            Node(
                nodes.score_calls,
                [
                    "params:screen",
                    "well_scores",
                    "site_logits",
                    "baseline_logits",
                    "balancing_steps",
                    "plate_groups",
                    "plate_layout",
                    "wells",
                    "heldout_labels",
                    "params:evaluation",
                ],
                "scores",
                name="score_calls",
            ),
            Node(nodes.format_scores, "scores", "score_table", name="format_scores"),
            Node(nodes.draw_scores, "scores", "score_plot", name="draw_scores"),
        ],
        namespace="evaluation",
        prefix_datasets_with_namespace=False,
        tags=["tier_T1", "tier_T2", "tier_T3"],
    )
