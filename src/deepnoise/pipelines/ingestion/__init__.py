"""The pipeline ``ingestion``."""

from deepnoise.pipelines.ingestion.pipeline import create_pipeline

__all__ = ["create_pipeline"]
