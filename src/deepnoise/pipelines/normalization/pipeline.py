"""image_store -> illumination_fields -> plate_histograms, site_features -> plate_statistics, normalized_features, plate_qc."""

from kedro.pipeline import Node, Pipeline

from deepnoise.pipelines.normalization import nodes


def create_pipeline() -> Pipeline:
    """The pipeline ``normalization``."""
    return Pipeline(
        [
            Node(
                nodes.estimate_illumination,
                ["image_store", "sites", "params:normalization"],
                ["illumination_fields", "illumination_plot"],
                name="estimate_illumination",
            ),
            Node(
                nodes.measure_sites,
                ["image_store", "illumination_fields", "sites", "wells"],
                ["site_features", "plate_histograms"],
                name="measure_sites",
            ),
            Node(
                nodes.compute_statistics,
                ["plate_histograms", "wells", "params:normalization"],
                "plate_statistics",
                name="compute_statistics",
            ),
            Node(
                nodes.normalize_features,
                ["site_features", "plate_statistics", "params:normalization"],
                "normalized_features",
                name="normalize_features",
            ),
            Node(
                nodes.measure_redealt,
                ["redealt_images", "sites", "wells", "plate_histograms", "params:normalization"],
                [
                    "redealt_sites",
                    "redealt_fields",
                    "redealt_histograms",
                    "redealt_statistics",
                    "redealt_features",
                ],
                name="measure_redealt",
            ),
            Node(
                nodes.check_plates,
                ["site_features", "wells"],
                ["plate_qc", "plate_maps", "plate_heatmaps"],
                name="check_plates",
            ),
            Node(
                nodes.probe_pixels,
                ["site_features", "normalized_features", "plate_statistics", "wells"],
                "pixel_probe",
                name="probe_pixels",
            ),
            Node(
                nodes.draw_normalization,
                ["image_store", "illumination_fields", "plate_statistics", "sites", "wells"],
                "normalization_sheet",
                name="draw_normalization",
            ),
            Node(
                nodes.write_chapter,
                [
                    "normalization_sheet",
                    "plate_maps",
                    "illumination_plot",
                    "plate_qc",
                    "pixel_probe",
                    "illumination_fields",
                ],
                "normalization_chapter",
                name="write_chapter",
            ),
        ],
        namespace="normalization",
        prefix_datasets_with_namespace=False,
        tags="tier_T1",
    )
