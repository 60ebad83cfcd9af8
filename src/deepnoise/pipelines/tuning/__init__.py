"""The pipelines ``tuning`` and ``tuning_balancing``."""

from deepnoise.pipelines.tuning.pipeline import create_balancing_pipeline, create_pipeline

__all__ = ["create_balancing_pipeline", "create_pipeline"]
