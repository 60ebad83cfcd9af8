"""The pipeline ``normalization``."""

from deepnoise.pipelines.normalization.pipeline import create_pipeline

__all__ = ["create_pipeline"]
