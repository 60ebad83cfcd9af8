"""The pipeline ``simulation``."""

from deepnoise.pipelines.simulation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
