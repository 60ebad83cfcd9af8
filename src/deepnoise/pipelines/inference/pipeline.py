"""teacher, image_store, plate_statistics -> predict_sites -> site_logits, profiles -> pool_sites -> well_logits, well_embeddings."""

from kedro.pipeline import Node, Pipeline

from deepnoise.pipelines.inference import nodes


def create_pipeline() -> Pipeline:
    """The pipeline ``inference``."""
    return Pipeline(
        [
            Node(
                nodes.predict_sites,
                [
                    "teacher",
                    "ensemble_models",
                    "image_store",
                    "illumination_fields",
                    "sites",
                    "wells",
                    "folds",
                    "plate_statistics",
                    "params:inference",
                ],
                ["site_logits", "site_embeddings"],
                name="predict_sites",
            ),
            Node(
                nodes.predict_redealt,
                [
                    "teacher",
                    "ensemble_models",
                    "redealt_images",
                    "redealt_fields",
                    "redealt_sites",
                    "redealt_statistics",
                    "wells",
                    "folds",
                    "params:inference",
                ],
                "redealt_logits",
                name="predict_redealt",
            ),
            Node(
                nodes.redraw_statistics,
                [
                    "teacher",
                    "image_store",
                    "illumination_fields",
                    "sites",
                    "wells",
                    "folds",
                    "plate_statistics",
                    "params:inference",
                ],
                "redrawn_statistics",
                name="redraw_statistics",
            ),
            Node(
                nodes.pool_sites,
                ["site_logits", "site_embeddings", "params:inference"],
                ["well_logits", "well_embeddings"],
                name="pool_sites",
            ),
            Node(nodes.export_profiles, ["site_embeddings", "wells"], "profiles", name="export_profiles"),
        ],
        namespace="inference",
        prefix_datasets_with_namespace=False,
        tags=["tier_T1", "tier_T3"],
    )
