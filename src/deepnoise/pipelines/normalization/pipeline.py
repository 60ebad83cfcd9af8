"""image_store, sites, wells -> measure_sites -> compute_statistics -> plate_statistics; probe_pixels -> pixel_probe."""

from kedro.pipeline import Node, Pipeline

from deepnoise.pipelines.normalization import nodes


def create_pipeline() -> Pipeline:
    """The pipeline ``normalization``."""
    return Pipeline(
        [
            Node(nodes.measure_sites, ["image_store", "sites"], ["site_features", "site_sums"], name="measure_sites"),
            Node(
                nodes.compute_statistics,
                ["site_sums", "wells", "params:normalization"],
                "plate_statistics",
                name="compute_statistics",
            ),
            Node(
                nodes.probe_pixels, ["site_features", "plate_statistics", "wells"], "pixel_probe", name="probe_pixels"
            ),
        ],
        namespace="normalization",
        prefix_datasets_with_namespace=False,
        tags="tier_T1",
    )
