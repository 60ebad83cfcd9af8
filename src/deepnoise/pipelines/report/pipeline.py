"""the chapters of the other pipelines, run_record, parameters -> give_verdict, describe_run -> write_report -> report."""

from kedro.pipeline import Node, Pipeline

from deepnoise.pipelines.report import nodes


def create_pipeline() -> Pipeline:
    """The pipeline ``report``."""
    return Pipeline(
        [
            Node(nodes.give_verdict, nodes.CHAPTERS, "verdict", name="give_verdict"),
            Node(nodes.describe_run, ["parameters", "run_record"], "run_chapter", name="describe_run"),
            Node(
                nodes.write_report,
                ["params:report", "verdict", "run_chapter", *nodes.CHAPTERS],
                "report",
                name="write_report",
            ),
        ],
        namespace="report",
        prefix_datasets_with_namespace=False,
        tags=["tier_T1", "tier_T2", "tier_T3"],
    )
