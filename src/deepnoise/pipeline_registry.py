"""Every pipeline by name, listed explicitly, so that the error for a mistyped name can list all pipelines."""

from kedro.pipeline import Pipeline

from deepnoise.pipelines import (
    evaluation,
    growth_chart,
    inference,
    ingestion,
    normalization,
    plate_balancing,
    report,
    simulation,
    training,
    tuning,
)

STAGES = {
    "simulation": simulation,
    "ingestion": ingestion,
    "normalization": normalization,
    "training": training,
    "inference": inference,
    "plate_balancing": plate_balancing,
    "evaluation": evaluation,
    "report": report,
}
OWN_SCORES = {"well_scores": "well_logits"}
"""Balancing and evaluation read any model's ``well_scores``; within the whole path these are those of our model."""

SIMULATED = {"raw_wells": "simulated_wells", "raw_images": "simulated_images"}
"""Ingestion reads any raw screen; in ``demo`` it is the one that simulation has just written."""


def register_pipelines() -> dict[str, Pipeline]:
    """Name -> pipeline; ``__default__`` goes from ingestion to the report, ``demo`` puts simulation before it.

    ``growth_chart`` and ``tuning`` train networks of their own on the screen that normalization has measured. ``tuning_balancing`` reads
    stored scores.
    """
    stages = {name: stage.create_pipeline() for name, stage in STAGES.items()}
    analysis = (
        stages["normalization"]
        + stages["training"]
        + stages["inference"]
        + Pipeline(stages["plate_balancing"], inputs=OWN_SCORES)
        + Pipeline(stages["evaluation"], inputs=OWN_SCORES)
        + stages["report"]
    )
    return stages | {
        "growth_chart": growth_chart.create_pipeline(),
        "tuning": tuning.create_pipeline(),
        "tuning_balancing": tuning.create_balancing_pipeline(),
        "__default__": stages["ingestion"] + analysis,
        "demo": stages["simulation"] + Pipeline(stages["ingestion"], inputs=SIMULATED) + analysis,
    }
