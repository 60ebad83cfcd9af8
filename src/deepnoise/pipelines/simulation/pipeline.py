"""parameters -> design_plates -> render_plates -> draw_sheet: writes a raw screen in the layout of RxRx1."""

from kedro.pipeline import Node, Pipeline

from deepnoise.pipelines.simulation import nodes


def create_pipeline() -> Pipeline:
    """The pipeline ``simulation``."""
    return Pipeline(
        [
            Node(
                nodes.design_plates, "params:simulation", ["simulated_wells", "simulated_design"], name="design_plates"
            ),
            Node(
                nodes.render_plates, ["simulated_design", "params:simulation"], "simulated_images", name="render_plates"
            ),
            Node(nodes.draw_sheet, "simulated_images", "contact_sheet", name="draw_contact_sheet"),
        ],
        namespace="simulation",
        prefix_datasets_with_namespace=False,
        tags="tier_T1",
    )
