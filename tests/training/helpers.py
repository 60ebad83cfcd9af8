"""Parameters and runs shared by the tests of training."""

from deepnoise.parameters import TrainingParameters
from deepnoise.screen import Screen
from deepnoise.training.run_folds import pretrain_folds, train_mean_teacher_folds, view_of_fold
from deepnoise.training.trainer import Trainer

RATES = [dict(share=0.1, start=0.0, end=1.0), dict(share=0.9, start=1.0, end=0.01)]
STAGE = dict(
    epochs=2, optimizer="adamw", learning_rate=0.003, weight_decay=0.01, schedule=RATES, ema_decay=0.0, keep="last",
)  # fmt: skip
PSEUDO = dict(method="none", groups=False, weight=0.5, start=0, ramp_epochs=0.0, refresh=1, views=1, memory=0.0)
MEAN_TEACHER = STAGE | dict(
    ema_decay=0.9, consistency_weight=100.0, ramp_epochs=1.0, views="shared", unlabelled_ratio=0.5, pseudo_labels=PSEUDO,
)  # fmt: skip
AUGMENTATION = dict(dihedral=True, shift_scale=0.0, erase=0.0, statistics_jitter=0.1)


def parameters(**changes) -> TrainingParameters:
    values = dict(
        seed=1, backbone="test_resnet", pretrained_weights="none", cell_type="none", head=dict(name="arcface", scale=20.0, margin=0.1),
        batch_size=32, batches="mixed", sites="all", sites_per_epoch="all", gradient_clip=0.0, augmentation=AUGMENTATION,
        pretrain=STAGE, mean_teacher=MEAN_TEACHER, unlabelled_source="training", precision="auto", channels_last=True, compile=False,
        cache_gigabytes=1.0, device="cpu", tensorboard=False,
    )  # fmt: skip
    return TrainingParameters.model_validate(values | changes)


def as_screen(screen, wells, folds) -> Screen:
    """The small screen of the fixtures as one value."""
    images, sites, statistics = screen
    return Screen(images, sites, wells, folds, statistics)


def make_trainer(screen, wells, folds, state, **changes) -> Trainer:
    full_screen = as_screen(screen, wells, folds)
    training = parameters(**changes)
    return Trainer(view_of_fold(full_screen, 0, training), full_screen, training, state)


def train(screen, wells, folds, state, **changes):
    """Student, teacher and history of fold 0, or of its first specialist."""
    full_screen = as_screen(screen, wells, folds)
    training = parameters(**changes)
    pretrained, pretrain_history = pretrain_folds(full_screen, state, training)
    students, teachers, mean_teacher_history = train_mean_teacher_folds(pretrained, full_screen, state, training)
    return next(iter(students.values())), next(iter(teachers.values())), pretrain_history + mean_teacher_history
