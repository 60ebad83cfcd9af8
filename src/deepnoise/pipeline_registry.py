"""Every pipeline by name. Written out, so that a mistyped name lists what there is."""

from kedro.pipeline import Pipeline

from deepnoise.pipelines import evaluation, inference, ingestion, normalization, plate_balancing, simulation, training


def register_pipelines() -> dict[str, Pipeline]:
    """Name -> pipeline; ``__default__`` goes from ingestion to evaluation, ``demo`` puts simulation before it."""
    stages = {
        "simulation": simulation.create_pipeline(),
        "ingestion": ingestion.create_pipeline(),
        "normalization": normalization.create_pipeline(),
        "training": training.create_pipeline(),
        "inference": inference.create_pipeline(),
        "plate_balancing": plate_balancing.create_pipeline(),
        "evaluation": evaluation.create_pipeline(),
    }
    own_scores = {"well_scores": "well_logits"}
    analysis = (
        stages["normalization"]
        + stages["training"]
        + stages["inference"]
        + Pipeline(stages["plate_balancing"], inputs=own_scores)
        + Pipeline(stages["evaluation"], inputs=own_scores)
    )
    simulated = {"raw_wells": "simulated_wells", "raw_images": "simulated_images"}
    return stages | {
        "__default__": stages["ingestion"] + analysis,
        "demo": stages["simulation"] + Pipeline(stages["ingestion"], inputs=simulated) + analysis,
    }
