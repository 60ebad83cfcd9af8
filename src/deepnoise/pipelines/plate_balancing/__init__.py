"""The pipeline ``plate_balancing``."""

from deepnoise.pipelines.plate_balancing.pipeline import create_pipeline

__all__ = ["create_pipeline"]
