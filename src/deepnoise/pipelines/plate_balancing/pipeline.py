"""well_scores, wells -> pool_scores, discover_layout -> balance_plates -> plate_groups, balancing_steps, calls."""

from kedro.pipeline import Node, Pipeline

from deepnoise.pipelines.plate_balancing import nodes


def create_pipeline() -> Pipeline:
    """The pipeline ``plate_balancing``."""
    return Pipeline(
        [
            Node(nodes.discover_layout, ["wells", "folds"], ["plate_layout", "layouts_in_use"], name="discover_layout"),
            Node(
                nodes.pool_scores,
                ["well_scores", "wells", "params:plate_balancing"],
                "pooled_scores",
                name="pool_scores",
            ),
            Node(
                nodes.balance_plates,
                [
                    "pooled_scores",
                    "wells",
                    "folds",
                    "plate_layout",
                    "layouts_in_use",
                    "plate_contents",
                    "params:plate_balancing",
                ],
                ["design_probabilities", "balancing_steps", "plate_groups", "calibration", "calls"],
                name="balance_plates",
            ),
            Node(nodes.draw_calls, "calls", "call_maps", name="draw_calls"),
            Node(
                nodes.write_chapter,
                ["call_maps", "calls", "plate_groups", "calibration"],
                "plate_balancing_chapter",
                name="write_chapter",
            ),
        ],
        namespace="plate_balancing",
        prefix_datasets_with_namespace=False,
        tags="tier_T2",
    )
