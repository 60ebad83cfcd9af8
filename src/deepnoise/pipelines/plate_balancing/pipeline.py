"""well_scores, wells, folds -> pool_scores, discover_layout -> balance_plates -> design_probabilities -> make_calls -> calls."""

from kedro.pipeline import Node, Pipeline

from deepnoise.pipelines.plate_balancing import nodes


def create_pipeline() -> Pipeline:
    """The pipeline ``plate_balancing``."""
    return Pipeline(
        [
            Node(nodes.discover_layout, ["wells", "folds"], "plate_layout", name="discover_layout"),
            Node(nodes.pool_scores, ["well_scores", "wells"], "pooled_scores", name="pool_scores"),
            Node(
                nodes.balance_plates,
                ["pooled_scores", "plate_layout", "params:plate_balancing"],
                ["design_probabilities", "balancing_steps", "plate_groups"],
                name="balance_plates",
            ),
            Node(nodes.make_calls, ["balancing_steps", "params:plate_balancing"], "calls", name="make_calls"),
        ],
        namespace="plate_balancing",
        prefix_datasets_with_namespace=False,
        tags="tier_T2",
    )
