"""raw_wells, raw_images -> wells, image_store, ingestion_findings -> sites; wells -> design_audit -> folds."""

from kedro.pipeline import Node, Pipeline

from deepnoise.pipelines.ingestion import nodes


def create_pipeline() -> Pipeline:
    """The pipeline ``ingestion``."""
    return Pipeline(
        [
            Node(
                nodes.validate_wells,
                ["raw_wells", "excluded_wells", "params:ingestion"],
                ["wells", "table_findings"],
                name="validate_wells",
            ),
            Node(nodes.audit_design, "wells", "design_audit", name="audit_design"),
            Node(nodes.make_folds, ["wells", "design_audit", "params:ingestion"], "folds", name="make_folds"),
            Node(
                nodes.match_images,
                ["raw_images", "wells", "table_findings", "params:ingestion"],
                ["matched_images", "image_findings"],
                name="match_images",
            ),
            Node(
                nodes.pack_images,
                ["raw_images", "matched_images", "params:ingestion"],
                "image_store",
                name="pack_images",
            ),
            Node(
                nodes.report_findings,
                ["image_store", "table_findings", "image_findings", "params:ingestion"],
                ["ingestion_findings", "ingestion_report"],
                name="report_findings",
            ),
            Node(nodes.list_sites, ["image_store", "wells", "ingestion_findings"], "sites", name="list_sites"),
            Node(
                nodes.write_chapter,
                ["wells", "image_store", "ingestion_report", "ingestion_findings", "design_audit"],
                "ingestion_chapter",
                name="write_chapter",
            ),
        ],
        namespace="ingestion",
        prefix_datasets_with_namespace=False,
        tags="tier_T1",
    )
