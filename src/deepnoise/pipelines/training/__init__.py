"""The pipeline ``training``."""

from deepnoise.pipelines.training.pipeline import create_pipeline

__all__ = ["create_pipeline"]
