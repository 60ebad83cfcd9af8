"""The pipeline ``growth_chart``."""

from deepnoise.pipelines.growth_chart.pipeline import create_pipeline

__all__ = ["create_pipeline"]
