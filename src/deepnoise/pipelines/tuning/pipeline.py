"""tuning_storage, the screen or stored scores -> tune -> trials, a run file with the best values, images."""

from collections.abc import Callable

from kedro.pipeline import Node, Pipeline

from deepnoise.pipelines.tuning import nodes


def create_pipeline() -> Pipeline:
    """The pipeline ``tuning``: parameters of training."""
    inputs = [
        "tuning_storage",
        "image_store",
        "illumination_fields",
        "sites",
        "wells",
        "folds",
        "plate_statistics",
        "params:training",
        "params:tuning",
    ]
    return _study(nodes.tune_training, inputs, "tuning", "training", "tier_T1")


def create_balancing_pipeline() -> Pipeline:
    """The pipeline ``tuning_balancing``: parameters of plate balancing."""
    inputs = ["tuning_storage", "well_scores", "wells", "plate_layout", "params:plate_balancing", "params:tuning"]
    return _study(nodes.tune_balancing, inputs, "tuning_balancing", "plate_balancing", "tier_T2")


def _study(tune: Callable, inputs: list[str], namespace: str, block: str, tag: str) -> Pipeline:
    trials, run, study = f"tuned_{block}_trials", f"tuned_{block}_run", f"tuned_{block}_study"
    plots = [f"tuned_{block}_{name}_plot" for name in ("history", "importances", "parallel")]
    return Pipeline(
        [
            Node(tune, inputs, [trials, run, study], name="tune"),
            Node(nodes.draw_study, study, plots, name="draw_study"),
        ],
        namespace=namespace,
        prefix_datasets_with_namespace=False,
        tags=[tag],
    )
