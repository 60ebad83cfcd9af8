"""The two stages of training: what influences the weights, and resuming after a stop."""

import copy
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from deepnoise.datasets.model import TrainingState
from deepnoise.errors import InputError
from deepnoise.network.batch_norm import use_batch_statistics
from deepnoise.network.device import compile_backbone
from deepnoise.network.network import Network, NetworkSpec
from deepnoise.network.site_images import SiteImages
from deepnoise.screen import Screen
from deepnoise.training.fold_view import fold_view
from deepnoise.training.loop import pretrain, train_mean_teacher
from deepnoise.training.run_folds import pretrain_folds, train_mean_teacher_folds
from deepnoise.training.tracking import to_tensorboard
from deepnoise.training.trainer import Trainer
from tests.conftest import MemoryStore
from tests.training.helpers import AUGMENTATION, MEAN_TEACHER, PSEUDO, STAGE, as_screen, make_trainer, parameters, train


class KilledError(Exception):
    pass


class DyingState(TrainingState):
    """Raises KilledError after the checkpoint of a given stage and epoch was written."""

    def __init__(self, root, name, epoch):
        super().__init__(root)
        self.last = (name, epoch)

    def save(self, name, fingerprint, tensors, content):
        super().save(name, fingerprint, tensors, content)
        if (name, content["epoch"]) == self.last:
            raise KilledError


def assert_same_weights(a, b):
    assert a.weights.keys() == b.weights.keys()
    for name in a.weights:
        assert torch.equal(a.weights[name], b.weights[name]), name


@pytest.fixture(scope="module")
def undisturbed(screen, wells, folds, tmp_path_factory):
    return train(screen, wells, folds, TrainingState(tmp_path_factory.mktemp("state")))


@pytest.mark.parametrize("death", [("fold_0_pretrain", 0), ("fold_0_mean_teacher", 0)])
def test_a_killed_training_resumes_to_the_same_weights_bit_by_bit(screen, wells, folds, tmp_path, undisturbed, death):
    with pytest.raises(KilledError):
        train(screen, wells, folds, DyingState(tmp_path, *death))
    student, teacher, history = train(screen, wells, folds, TrainingState(tmp_path))
    assert_same_weights(student, undisturbed[0])
    assert_same_weights(teacher, undisturbed[1])
    assert [row["loss"] for row in history] == [row["loss"] for row in undisturbed[2]]


def test_the_randomness_of_a_batch_does_not_depend_on_the_batches_before_it(screen, wells, folds):
    """Several processes can each draw their own batches: view, jitter and masks follow from the number of the batch."""
    augmentation = AUGMENTATION | {"statistics_jitter": 0.1, "shift_scale": 0.1, "erase": 0.5}
    trainer = make_trainer(screen, wells, folds, TrainingState(Path("unused")), augmentation=augmentation)
    order = trainer.labelled_order(trainer.generator("pretrain", 3))
    batches = list(trainer.labelled.batches(order))

    def view(number):
        generator = trainer.generator("pretrain", 3, number)
        return trainer.draw_view(trainer.to_input(batches[number], generator), "normal", generator)

    forwards = [view(number) for number in range(3)]
    backwards = [view(number) for number in (2, 1, 0)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(forwards, backwards, strict=True))
    seeds = {
        trainer.generator(*key).initial_seed()
        for key in [("pretrain", 3), ("pretrain", 3, 0), ("pretrain", 3, 1), ("pretrain", 4, 0), ("mean_teacher", 3, 0)]
    }
    assert len(seeds) == 5
    other = make_trainer(screen, wells, folds, TrainingState(Path("unused")), seed=2)
    assert other.generator("pretrain", 3, 0).initial_seed() not in seeds


def test_each_batch_of_an_epoch_gets_the_generator_of_its_number(screen, wells, folds, monkeypatch):
    from deepnoise.training.stage import Stage

    trainer = make_trainer(screen, wells, folds, TrainingState(Path("unused")))
    stage = Stage(trainer, "pretrain", trainer.parameters.pretrain, trainer.new_network(), averaged=False)
    epoch = next(iter(stage.epochs()))
    seeds = [generator.initial_seed() for _, _, generator in epoch.batches(trainer.labelled_order(epoch.generator))]
    assert seeds == [trainer.generator("pretrain", 0, number).initial_seed() for number in range(len(seeds))]
    assert len(set(seeds)) == len(seeds) > 2


def test_changed_parameters_restart_training_with_a_warning(screen, wells, folds, tmp_path, caplog):
    train(screen, wells, folds, TrainingState(tmp_path))
    student, _, _ = train(screen, wells, folds, TrainingState(tmp_path), seed=2)
    assert "data or parameters have changed" in caplog.text
    fresh, _, _ = train(screen, wells, folds, TrainingState(tmp_path / "other"), seed=2)
    assert_same_weights(student, fresh)


def test_changed_pixels_with_the_same_statistics_restart_training(screen, wells, folds):
    store, sites, statistics = screen
    changed = MemoryStore({k: v.copy() for k, v in store.images.items()}, store.channels)
    swapped = changed.images[("ALPHA-02", "1")]
    swapped[[0, 1]] = swapped[[1, 0]]  # two wells are exchanged, which keeps the plate's statistics
    view = fold_view(sites, wells, folds, 0, "training")
    fingerprints = {
        Trainer(
            view, Screen(images, sites, wells, folds, statistics), parameters(), TrainingState(Path("unused"))
        ).fingerprint
        for images in (store, changed)
    }
    assert len(fingerprints) == 2


def test_heldout_and_validation_labels_do_not_reach_the_weights(screen, wells, folds, tmp_path, undisturbed):
    """Weights are the same, bit by bit, if labels of held-out and validation plates are given and wrong."""
    scrambled = wells.copy()
    hidden = scrambled["target"] & (scrambled["split"] == "heldout")
    scrambled.loc[hidden, "perturbation"] = "0"
    role = folds.set_index(["experiment", "plate"])["role"]
    validates = np.array([role[key] == "validation" for key in zip(wells["experiment"], wells["plate"], strict=True)])
    scrambled.loc[validates & wells["target"], "perturbation"] = "0"
    for source in ("training", "heldout"):
        _, teacher, _ = train(screen, scrambled, folds, TrainingState(tmp_path / source), unlabelled_source=source)
        reference = (
            undisturbed[1]
            if source == "training"
            else train(screen, wells, folds, TrainingState(tmp_path / "r"), unlabelled_source=source)[1]
        )
        assert_same_weights(teacher, reference)


def test_training_labels_do_reach_the_weights(screen, wells, folds, tmp_path, undisturbed):
    scrambled = wells.copy()
    is_labelled = scrambled["target"] & scrambled["perturbation"].notna()
    scrambled.loc[is_labelled, "perturbation"] = scrambled.loc[is_labelled, "perturbation"].to_numpy()[::-1]
    _, teacher, _ = train(screen, scrambled, folds, TrainingState(tmp_path))
    assert any(not torch.equal(teacher.weights[k], undisturbed[1].weights[k]) for k in teacher.weights)


def test_the_teacher_differs_from_the_student_and_has_a_card(undisturbed, screen):
    student, teacher, history = undisturbed
    assert any(not torch.equal(teacher.weights[k], student.weights[k]) for k in student.weights if "running_mean" in k)
    card = teacher.card
    assert card.channels == screen[0].channels and card.image_size == [24, 24] and len(card.targets) == 8
    assert card.normalization == {"strategy": "plate", "reference": "all", "illumination": "none"}
    assert card.tier == "T1, plate design not excluded"
    assert set(card.fingerprints) == {"folds", "parameters", "statistics", "data", "pixels"}
    assert len(card.training_plates) == 16 and len(history) == 4


def test_a_loss_that_is_not_finite_stops_training_and_names_the_wells(screen, wells, folds, tmp_path):
    store, sites, statistics = screen
    broken = statistics.assign(scale=np.where(statistics["experiment"] == "ALPHA-02", np.nan, statistics["scale"]))
    with pytest.raises(
        InputError,
        match=r"training.pretrain: the loss became nan in epoch 0, step \d+, at wells .*last good state: none yet.*Lower training.pretrain.learning_rate",
    ):
        pretrain_folds(Screen(store, sites, wells, folds, broken), TrainingState(tmp_path), parameters())


@pytest.mark.slow
def test_training_learns_biology(screen, wells, folds, tmp_path):
    stage = STAGE | dict(epochs=25)
    _, _, history = train(screen, wells, folds, TrainingState(tmp_path), backbone="resnet10t", pretrain=stage)
    assert max(row["student_top1"] for row in history) > 2 / 8


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_training_on_a_gpu_in_bf16(screen, wells, folds, tmp_path):
    _, teacher, history = train(screen, wells, folds, TrainingState(tmp_path), device="cuda")
    assert np.isfinite(history[-1]["loss"]) and next(iter(teacher.weights.values())).device.type == "cpu"


def test_a_backbone_is_compiled_or_the_log_says_why_not(screen, wells, folds, tmp_path, caplog, monkeypatch):
    plain = train(screen, wells, folds, TrainingState(tmp_path / "plain"))
    trainer = make_trainer(screen, wells, folds, TrainingState(tmp_path / "x"), compile=True)
    network, images = trainer.new_network().train(), torch.randn(4, 6, 24, 24)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert compile_backbone(network, images, backend="eager") == "" and network.backbone._compiled_call_impl is not None
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert "no_such_backend" in compile_backbone(network, images, backend="no_such_backend")
    assert network.backbone._compiled_call_impl is None
    monkeypatch.setattr("deepnoise.training.trainer.compile_backbone", lambda *_: "RuntimeError: no compiler")
    failed = train(screen, wells, folds, TrainingState(tmp_path / "failed"), compile=True)
    assert "cannot be compiled here, training goes on without (RuntimeError: no compiler)" in caplog.text
    assert all(torch.equal(value, failed[1].weights[name]) for name, value in plain[1].weights.items())


# every option of the recipe ---------------------------------------------------------------------------------------

ALL_OPTIONS = dict(
    gradient_clip=1.0, sites_per_epoch="one", unlabelled_source="heldout",
    augmentation=AUGMENTATION | dict(shift_scale=0.1, erase=0.5),
    pretrain=STAGE | dict(epochs=3, optimizer="lamb", ema_decay=0.9, keep="best"),
    mean_teacher=MEAN_TEACHER | dict(
        epochs=3, optimizer="momentum", ema_decay={0: 0.5, 1: 0.9}, keep="best", consistency_weight=1.0, views="two", unlabelled_ratio=1.0,
        pseudo_labels=PSEUDO | dict(method="balanced", start=1, refresh="improved", views=2, memory=0.1, groups=True),
    ),
)  # fmt: skip


@pytest.mark.parametrize(
    "death", [pytest.param(("fold_0_pretrain", 1), marks=pytest.mark.slow), ("fold_0_mean_teacher", 1)]
)
def test_with_all_options_a_killed_training_still_resumes_bit_by_bit(screen, wells, folds, tmp_path, death):
    uninterrupted = train(screen, wells, folds, TrainingState(tmp_path / "whole"), **ALL_OPTIONS)
    with pytest.raises(KilledError):
        train(screen, wells, folds, DyingState(tmp_path / "killed", *death), **ALL_OPTIONS)
    resumed = train(screen, wells, folds, TrainingState(tmp_path / "killed"), **ALL_OPTIONS)
    assert_same_weights(resumed[0], uninterrupted[0])
    assert_same_weights(resumed[1], uninterrupted[1])
    assert [row["loss"] for row in resumed[2]] == [row["loss"] for row in uninterrupted[2]]
    assert uninterrupted[1].card.tier == "T2+T3" and all(np.isfinite(row["loss"]) for row in uninterrupted[2])


@pytest.mark.parametrize(
    "changes",
    [
        dict(batches="experiment", batch_size=8),
        dict(batches="plate", batch_size=8, unlabelled_source="heldout", mean_teacher=MEAN_TEACHER | dict(views="two")),
        dict(precision="bfloat16", channels_last=False, pretrain=STAGE | dict(epochs=1), mean_teacher=MEAN_TEACHER | dict(epochs=1)),
        dict(head=dict(name="softmax", scale=1.0, margin=0.0), mean_teacher=MEAN_TEACHER | dict(epochs=1)),
        dict(unlabelled_source="none"),
    ],
    ids=["pure", "pure_heldout", "bfloat16", "softmax", "no_unlabelled"],
)  # fmt: skip
def test_each_variant_trains(screen, wells, folds, tmp_path, changes):
    student, teacher, history = train(screen, wells, folds, TrainingState(tmp_path), **changes)
    assert all(np.isfinite(row["loss"]) for row in history) and 0 <= teacher.card.validation_top1 <= 1
    assert teacher.card.validation_top1 == history[-1]["teacher_top1"]
    assert student.card.validation_top1 == history[-1]["student_top1"]


def test_specialists_start_from_one_student_and_see_their_own_cells(screen, wells, folds, tmp_path):
    full_screen = as_screen(screen, wells, folds)
    training, state = parameters(cell_type="specialist"), TrainingState(tmp_path)
    pretrained, _ = pretrain_folds(full_screen, state, training)
    _, teachers, history = train_mean_teacher_folds(pretrained, full_screen, state, training)
    assert list(pretrained) == ["fold_0"] and list(teachers) == ["fold_0_ALPHA", "fold_0_BETA"]
    assert [row["cell_type"] for row in history] == ["ALPHA", "ALPHA", "BETA", "BETA"]
    for name, teacher in teachers.items():
        cell_type = teacher.card.cell_type
        assert name.endswith(cell_type) and all(plate.startswith(cell_type) for plate in teacher.card.training_plates)
    scrambled = wells.copy()
    is_labelled = scrambled["target"] & scrambled["perturbation"].notna() & (scrambled["cell_type"] == "BETA")
    scrambled.loc[is_labelled, "perturbation"] = scrambled.loc[is_labelled, "perturbation"].to_numpy()[::-1]
    again, _, _ = train_mean_teacher_folds(
        {"fold_0": pretrained["fold_0"]}, full_screen, TrainingState(tmp_path / "other"), training
    )
    view = fold_view(full_screen.sites, scrambled, folds, 0, "training").of_cell_type("ALPHA")
    trainer = Trainer(view, full_screen, training, TrainingState(tmp_path / "scrambled"))
    assert_same_weights(train_mean_teacher(trainer, pretrained["fold_0"])[0], again["fold_0_ALPHA"])


def test_the_best_epoch_is_kept_and_needs_validation_plates(screen, wells, folds, tmp_path):
    stage = STAGE | dict(epochs=6, keep="best", learning_rate=0.01)
    trainer = make_trainer(screen, wells, folds, TrainingState(tmp_path), pretrain=stage)
    model, history = pretrain(trainer)
    scores = [row["chosen_top1"] for row in history]
    assert model.card.validation_top1 == max(scores) and model.card.epoch == scores.index(max(scores))
    network = trainer.new_network()
    network.load_state_dict(model.weights)
    assert trainer.validation_score(network) == max(scores)
    blind = folds[folds["role"] != "validation"]
    with pytest.raises(InputError, match="training.pretrain.keep is 'best', but fold_0 has no validation plates"):
        make_trainer(screen, wells, blind, TrainingState(tmp_path), pretrain=stage)


def test_without_a_second_stage_the_teacher_is_the_pretrained_average(screen, wells, folds, tmp_path):
    changes = dict(pretrain=STAGE | dict(ema_decay=0.9), mean_teacher=MEAN_TEACHER | dict(epochs=0))
    student, teacher, history = train(screen, wells, folds, TrainingState(tmp_path), **changes)
    assert_same_weights(student, teacher)
    assert len(history) == 2 and teacher.card.validation_top1 == history[-1]["teacher_top1"]
    plain, _, plain_history = train(
        screen, wells, folds, TrainingState(tmp_path / "plain"), mean_teacher=MEAN_TEACHER | dict(epochs=0)
    )
    # the average does not influence the student
    assert [row["loss"] for row in plain_history] == [row["loss"] for row in history]
    assert any(not torch.equal(plain.weights[k], teacher.weights[k]) for k in plain.weights)


def test_adapted_validation_treats_each_experiment_separately(screen, wells, folds, tmp_path):
    """With pure batches, logits of an image do not depend on the other experiments that are predicted with it."""
    trainer = make_trainer(screen, wells, folds, TrainingState(tmp_path), batches="experiment")
    network = trainer.new_network()
    logits = trainer.logits(network, trainer.validation)
    of_one_experiment = (
        trainer.view.validation["experiment"].to_numpy() == trainer.view.validation["experiment"].iloc[0]
    )
    experiment_images = SiteImages(screen[0], trainer.view.validation[of_one_experiment], screen[2], 1.0)
    np.testing.assert_allclose(trainer.logits(network, experiment_images), logits[of_one_experiment], atol=1e-5)
    before = copy.deepcopy(network.state_dict())
    trainer.logits(network, trainer.validation)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_with_pure_batches_no_image_is_normalized_with_another_experiment(screen, wells, folds, tmp_path, monkeypatch):
    """Every forward pass of student and teacher in training is of one experiment."""
    changes = dict(batches="experiment", unlabelled_source="heldout", batch_size=8)
    trainer = make_trainer(screen, wells, folds, TrainingState(tmp_path), **changes)
    start, _ = pretrain(trainer)
    tables = {id(trainer.labelled): trainer.view.labelled, id(trainer.unlabelled): trainer.view.unlabelled}
    batches = []
    usual_batch = SiteImages.batch
    monkeypatch.setattr(
        SiteImages, "batch", lambda self, index: batches.append((id(self), index)) or usual_batch(self, index)
    )
    forward_passes = []
    usual_embed = Network.embed
    monkeypatch.setattr(
        Network, "embed", lambda self, x: forward_passes.append((self.training, len(x))) or usual_embed(self, x)
    )
    train_mean_teacher(trainer, start)
    experiments_per_batch = [tables[key].iloc[index]["experiment"].nunique() for key, index in batches if key in tables]
    assert set(experiments_per_batch) == {1}
    steps = len(trainer.labelled_order(torch.Generator())) * trainer.parameters.mean_teacher.epochs
    student_batches = [count for training, count in forward_passes if training]
    # labelled and unlabelled images pass the student separately
    assert len(student_batches) == 2 * steps and max(student_batches) <= 9


def test_batch_statistics_do_not_change_the_running_statistics():
    torch.manual_seed(0)
    network = Network(NetworkSpec("test_resnet", 6, 4, "softmax", 1.0, 0.0)).eval()
    before = copy.deepcopy(network.state_dict())
    x = torch.randn(8, 6, 32, 32)
    with_running_statistics = network.embed(x)
    use_batch_statistics(network)
    with_batch_statistics = network.embed(x)
    assert (with_batch_statistics - with_running_statistics).abs().max() > 0.01
    changed = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    assert all(name.endswith("num_batches_tracked") for name in changed)


def test_the_history_can_be_followed_while_training_runs(screen, wells, folds, tmp_path):
    rows = []
    with pytest.raises(KilledError):
        train(screen, wells, folds, DyingState(tmp_path, "fold_0_mean_teacher", 0))
    for stage in ("pretrain", "mean_teacher"):
        rows += [json.loads(line) for line in (tmp_path / f"fold_0_{stage}.jsonl").read_text().splitlines()]
    assert [(row["stage"], row["epoch"]) for row in rows] == [("pretrain", 0), ("pretrain", 1), ("mean_teacher", 0)]
    assert all(row["images_per_second"] > 0 and 0 <= row["loader_wait"] <= 1 for row in rows)


def test_rows_go_to_tensorboard_if_it_is_installed(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r'tensorboard is not installed; pip install -e "\.\[tensorboard\]"'):
        to_tensorboard(tmp_path)


def test_out_of_memory_errors_say_which_parameter_to_lower(screen, wells, folds, tmp_path, monkeypatch):
    def check_advice(cross_entropy):
        monkeypatch.setattr(F, "cross_entropy", cross_entropy)
        with pytest.raises(InputError, match=r"training.pretrain ran out of memory: lower training.batch_size \(32\)"):
            train(screen, wells, folds, TrainingState(tmp_path))

    def on_the_gpu(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    def for_python(*_):
        raise MemoryError

    check_advice(lambda *_: torch.empty(10**15))  # the message of torch on the CPU
    check_advice(on_the_gpu)
    check_advice(for_python)
    monkeypatch.setattr(F, "cross_entropy", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(screen, wells, folds, TrainingState(tmp_path))


def test_unknown_optimizers_and_wrong_schedules_are_refused(screen, wells, folds, tmp_path):
    trainer = make_trainer(screen, wells, folds, TrainingState(tmp_path), pretrain=STAGE | dict(optimizer="adamq"))
    with pytest.raises(
        InputError, match="training.pretrain.optimizer is 'adamq', which timm does not have. Did you mean"
    ):
        pretrain(trainer)
    with pytest.raises(ValueError, match="begins with epoch 0"):
        parameters(mean_teacher=MEAN_TEACHER | dict(ema_decay={1: 0.9}))


def test_an_infinite_gradient_stops_before_it_reaches_the_weights(screen, wells, folds, tmp_path, monkeypatch):
    trainer = make_trainer(screen, wells, folds, TrainingState(tmp_path), gradient_clip=1.0)
    usual = F.cross_entropy
    monkeypatch.setattr(F, "cross_entropy", lambda *a: (usual(*a) - usual(*a).detach()).sqrt())
    with pytest.raises(InputError, match="the gradient became (nan|inf) in epoch 0, step 0, at wells"):
        pretrain(trainer)


def test_another_run_that_trains_the_same_fold_stops_this_one_before_it_writes(screen, wells, folds, tmp_path):
    with TrainingState(tmp_path).lock("fold_0"):
        with pytest.raises(InputError, match="the model fold_0 in training_state .* is being written by process"):
            train(screen, wells, folds, TrainingState(tmp_path))
        assert not list(tmp_path.glob("*.safetensors"))
    train(
        screen,
        wells,
        folds,
        TrainingState(tmp_path),
        pretrain={**STAGE, "epochs": 1},
        mean_teacher={**MEAN_TEACHER, "epochs": 0},
    )
