"""image_store, wells, folds, plate_statistics -> pretrain_student -> train_mean_teacher -> student, teacher."""

from kedro.pipeline import Node, Pipeline

from deepnoise.pipelines.training import nodes

SCREEN = [
    "image_store",
    "illumination_fields",
    "sites",
    "wells",
    "folds",
    "plate_statistics",
    "training_state",
    "params:training",
]


def create_pipeline() -> Pipeline:
    """The pipeline ``training``."""
    return Pipeline(
        [
            Node(
                nodes.score_hand_features,
                ["normalized_features", "redealt_features", "plate_statistics", "wells", "folds"],
                "baseline_logits",
                name="score_hand_features",
            ),
            Node(nodes.pretrain_student, SCREEN, ["pretrained", "pretraining_history"], name="pretrain_student"),
            Node(
                nodes.train_mean_teacher,
                ["pretrained", *SCREEN],
                ["student", "teacher", "training_history"],
                name="train_mean_teacher",
            ),
            Node(
                nodes.draw_learning_curves,
                ["pretraining_history", "training_history"],
                "learning_curves",
                name="draw_learning_curves",
            ),
            Node(
                nodes.write_chapter,
                ["learning_curves", "pretraining_history", "training_history"],
                "training_chapter",
                name="write_chapter",
            ),
        ],
        namespace="training",
        prefix_datasets_with_namespace=False,
        tags=["tier_T1", "tier_T3"],
    )
