"""image_store, wells, folds -> run_arms -> growth_arms, growth_chart_complete -> summarize_arms -> growth_chart -> draw_chart."""

from kedro.pipeline import Node, Pipeline

from deepnoise.pipelines.growth_chart import nodes

SETTINGS = ["params:growth_chart", "params:normalization", "params:training"]


def create_pipeline() -> Pipeline:
    """The pipeline ``growth_chart``."""
    return Pipeline(
        [
            Node(
                nodes.run_arms,
                [
                    "image_store",
                    "illumination_fields",
                    "sites",
                    "wells",
                    "folds",
                    "plate_histograms",
                    "heldout_labels",
                    "redealt_images",
                    "redealt_fields",
                    "redealt_sites",
                    "redealt_histograms",
                    "redealt_labels",
                    "kept_growth_arms",
                    *SETTINGS,
                    "params:inference",
                    "params:plate_balancing",
                ],
                ["growth_arms", "growth_chart_complete"],
                name="run_arms",
            ),
            Node(
                nodes.summarize_arms,
                ["growth_arms", "growth_chart_complete", *SETTINGS],
                "growth_chart",
                name="summarize_arms",
            ),
            Node(
                nodes.draw_chart,
                "growth_chart",
                ["growth_ladder_plot", "growth_scatter_plot", "growth_table"],
                name="draw_chart",
            ),
            Node(
                nodes.write_chapter,
                ["growth_chart", "growth_ladder_plot", "growth_scatter_plot"],
                "growth_chart_chapter",
                name="write_chapter",
            ),
        ],
        namespace="growth_chart",
        prefix_datasets_with_namespace=False,
        tags=["tier_T1", "tier_T2", "tier_T3"],
    )
