"""Losses, views, network and the loop, each against something slower or by hand."""

import copy
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from deepnoise.datasets.model import TrainingState
from deepnoise.errors import InputError
from deepnoise.ingestion.design import make_folds
from deepnoise.parameters import TrainingParameters
from deepnoise.training.augmentation import dihedral, erase, random_view
from deepnoise.training.folds import pretrain_folds, train_mean_teacher_folds
from deepnoise.training.images import SitePictures
from deepnoise.training.loop import Trainer, fold_view, make_pseudo_labels, pretrain, tier_of_training
from deepnoise.training.losses import consistency, cosine_rate, ema_decay, ramp, update_ema
from deepnoise.training.network import ArcFace, Network, NetworkSpec, choose_device
from tests.conftest import MemoryStore


def parameters(**changes) -> TrainingParameters:
    stage = dict(epochs=2, learning_rate=0.003, weight_decay=0.01)
    values = dict(
        seed=1, backbone="test_resnet", head=dict(name="arcface", scale=20.0, margin=0.1), optimizer="adamw", batch_size=32,
        batches="mixed", sites="all",
        augmentation=dict(dihedral=True, shift_scale=0.0, erase=0.0, statistics_jitter=0.1), pretrain=stage,
        mean_teacher=stage | dict(
            ema_decay=0.9, consistency_weight=100.0, ramp_epochs=1.0, views="shared", unlabelled_ratio=0.5,
            pseudo_labels="none", pseudo_label_weight=0.5, pseudo_label_start=0,
        ),
        unlabelled_source="training", cache_gigabytes=1.0, device="cpu",
    )  # fmt: skip
    return TrainingParameters.model_validate(values | changes)


@pytest.fixture(scope="module")
def folds(wells):
    return make_folds(wells, [], 3, [0], True)


# losses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.5])
def test_arcface_agrees_with_the_formula_in_double_precision(margin):
    torch.manual_seed(0)
    head = ArcFace(4, 3, 30.0, margin)
    features = torch.randn(40, 4)
    features[0] = -head.weight[1].detach()  # t = pi: t + m passes pi
    target = torch.randint(0, 3, (40,))
    target[0] = 1
    logits = head(features, target)
    for i in range(40):
        for k in range(3):
            z, w = features[i].double(), head.weight[k].detach().double()
            cosine = float(z @ w / z.norm() / w.norm())
            angle = math.acos(max(-1.0, min(1.0, cosine)))
            expected = cosine
            if k == target[i]:
                expected = math.cos(angle + margin) if angle + margin < math.pi else cosine - margin * math.sin(margin)
            assert float(logits[i, k].detach()) == pytest.approx(30 * expected, abs=0.02)


def test_arcface_without_target_is_the_plain_scaled_cosine_and_its_gradient_is_finite_at_the_edge():
    head = ArcFace(4, 3, 30.0, 0.1)
    features = head.weight.detach()[:1].clone().requires_grad_()
    assert float(head(features).detach()[0, 0]) == pytest.approx(30.0, abs=1e-3)
    head(features, torch.tensor([0])).sum().backward()
    assert torch.isfinite(features.grad).all()


def test_consistency_of_equal_logits_is_zero_and_gradient_flows_to_the_student_only():
    student = torch.randn(5, 4, requires_grad=True)
    teacher = torch.randn(5, 4, requires_grad=True)
    assert float(consistency(student, student).detach()) == 0.0
    consistency(student, teacher).backward()
    assert student.grad.abs().sum() > 0 and teacher.grad is None
    by_hand = np.mean(
        [
            (a - b) ** 2
            for a, b in zip(student.softmax(1).flatten().tolist(), teacher.softmax(1).flatten().tolist(), strict=True)
        ]
    )
    assert float(consistency(student, teacher).detach()) == pytest.approx(by_hand, rel=1e-5)


def test_ramp_and_rates():
    assert ramp(0, 5) == pytest.approx(math.exp(-5)) and ramp(5, 5) == 1 and ramp(9, 5) == 1 and ramp(0, 0) == 1
    rates = [cosine_rate(step, 100, 0.1) for step in range(100)]
    assert max(rates) == pytest.approx(0.1) and rates[0] == pytest.approx(0.01) and rates[-1] < 0.002
    assert ema_decay(0, 0.999) == 0 and ema_decay(1, 0.999) == 0.5 and ema_decay(10**6, 0.999) == 0.999


def small_network():
    return torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))


@pytest.mark.parametrize("decay", [0.0, 0.3, 1.0])
def test_ema_agrees_with_a_hand_recursion_buffers_included(decay):
    torch.manual_seed(0)
    teacher, student = small_network(), small_network()
    student[1].running_mean.fill_(3.0)
    student[1].num_batches_tracked.fill_(7)
    before = copy.deepcopy(teacher.state_dict())
    update_ema(teacher, student, decay)
    for name, value in teacher.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert value == 7
        else:
            torch.testing.assert_close(value, decay * before[name] + (1 - decay) * student.state_dict()[name])


# views -----------------------------------------------------------------------------------------------------------


def test_dihedral_views_are_the_eight_symmetries():
    picture = torch.arange(9.0).reshape(1, 1, 3, 3).repeat(8, 1, 1, 1)
    views = dihedral(picture, torch.arange(8))
    assert len({tuple(v.flatten().tolist()) for v in views}) == 8
    assert all(sorted(v.flatten().tolist()) == list(range(9)) for v in views)
    torch.testing.assert_close(views[0], picture[0])


def test_erasing_takes_2_to_40_percent_of_the_asked_pictures():
    g = torch.Generator().manual_seed(0)
    x = torch.ones(400, 1, 50, 50)
    share = (erase(x, 1.0, g) == 0).float().mean(dim=(1, 2, 3))
    assert share.min() > 0.005 and share.max() < 0.45 and 0.1 < share.mean() < 0.3
    assert (erase(x, 0.0, g) == 1).all() and (x == 1).all()


def test_views_differ_by_picture_and_repeat_with_the_seed():
    x = torch.randn(6, 2, 16, 16)
    options = dict(turns=True, strength=0.1, erase_chance=0.5, crop=True)
    a = random_view(x, **options, generator=torch.Generator().manual_seed(3))
    b = random_view(x, **options, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert (
        a.shape == x.shape
        and (a - random_view(x, **options, generator=torch.Generator().manual_seed(4))).abs().max() > 0.1
    )


def test_an_unknown_backbone_offers_the_closest_name():
    with pytest.raises(InputError, match="resnet10x.*Did you mean 'resnet1"):
        Network(NetworkSpec("resnet10x", 6, 3, "arcface", 20.0, 0.1))


@pytest.mark.parametrize("backbone", ["legacy_xception", "mobilenetv4_conv_small_050", "test_resnet"])
def test_backbones_take_six_channels_and_give_their_features(backbone):
    """The published one, one with a hidden layer behind the pool, and the default."""
    network = Network(NetworkSpec(backbone, 6, 9, "arcface", 30.0, 0.1)).eval()
    with torch.inference_mode():
        assert network(torch.randn(2, 6, 64, 64)).shape == (2, 9)
        assert network.embed(torch.randn(2, 6, 64, 64)).shape == (2, network.features)


# what a fold may see -----------------------------------------------------------------------------------------------


def test_a_fold_sees_labels_of_its_training_plates_only(screen, wells, folds):
    _, sites, _ = screen
    view = fold_view(sites, wells, folds, 0, "heldout")
    role = folds.set_index(["experiment", "plate"])["role"]
    for table, wanted in ((view.labelled, "train"), (view.unlabelled, "heldout"), (view.validation, "validation")):
        assert {role[key] for key in zip(table["experiment"], table["plate"], strict=True)} == {wanted}
    assert not {"label", "perturbation"} & set(view.unlabelled.columns) and view.unlabelled["target"].nunique() == 2
    assert len(view.targets) == 8 and len(view.classes) == 8 + 2 + 1
    truth = wells.set_index("id_code")["perturbation"]
    assert [view.classes[int(k)] for k in view.labelled["label"]] == truth[view.labelled["id_code"]].tolist()
    assert fold_view(sites, wells, folds, 0, "none").unlabelled.empty


def test_tiers_of_training():
    assert tier_of_training("T1", "training", "balanced") == "T1"
    assert tier_of_training("T1", "none", "none") == "T1"
    assert tier_of_training("T1", "heldout", "plain") == "T3"
    assert tier_of_training("T1c", "heldout", "balanced") == "T2+T3"


@pytest.mark.parametrize("cache", [0.0, 1.0])
def test_batches_hold_the_right_pictures_whether_kept_or_read(screen, cache):
    store, sites, statistics = screen
    shuffled = sites.sample(frac=1, random_state=0).reset_index(drop=True)
    pictures = SitePictures(store, shuffled, statistics, cache)
    order = [np.array([5, 0, 40]), np.array([7])]
    for index, batch in zip(order, pictures.batches(order), strict=True):
        for i, picture in zip(index, batch.pictures, strict=True):
            row = shuffled.iloc[i]
            np.testing.assert_array_equal(
                picture.numpy(), store.pictures[(row["experiment"], row["plate"])][row["store_row"]]
            )
        own = statistics[
            (statistics["experiment"] == shuffled.iloc[index[0]]["experiment"])
            & (statistics["plate"] == shuffled.iloc[index[0]]["plate"])
        ]
        wanted = own.set_index("channel").loc[store.channels, "location"].to_numpy(np.float32)
        np.testing.assert_array_equal(batch.location[0].numpy(), wanted)


def test_plates_without_statistics_are_named(screen):
    store, sites, statistics = screen
    with pytest.raises(InputError, match="plate_statistics lacks.*BETA-04"):
        SitePictures(store, sites, statistics[statistics["experiment"] != "BETA-04"], 0)


# the loop ------------------------------------------------------------------------------------------------------------


class KilledError(Exception):
    pass


class DyingState(TrainingState):
    """Dies after the state of a stage's epoch was written."""

    def __init__(self, root, name, epoch):
        super().__init__(root)
        self.last = (name, epoch)

    def save(self, name, mark, tensors, facts):
        super().save(name, mark, tensors, facts)
        if (name, facts["epoch"]) == self.last:
            raise KilledError


def train(screen, wells, folds, state, **changes):
    store, sites, statistics = screen
    p = parameters(**changes)
    pretrained, first = pretrain_folds(store, sites, wells, folds, statistics, state, p)
    students, teachers, second = train_mean_teacher_folds(pretrained, store, sites, wells, folds, statistics, state, p)
    return students[0], teachers[0], first + second


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


def test_changed_parameters_start_afresh_and_say_so(screen, wells, folds, tmp_path, caplog):
    train(screen, wells, folds, TrainingState(tmp_path))
    student, _, _ = train(screen, wells, folds, TrainingState(tmp_path), seed=2)
    assert "data or parameters have changed" in caplog.text
    fresh, _, _ = train(screen, wells, folds, TrainingState(tmp_path / "other"), seed=2)
    assert_same_weights(student, fresh)


def test_other_pixels_with_the_same_statistics_start_afresh(screen, wells, folds):
    store, sites, statistics = screen
    other = MemoryStore({k: v.copy() for k, v in store.pictures.items()}, store.channels)
    swapped = other.pictures[("ALPHA-02", "1")]
    swapped[[0, 1]] = swapped[[1, 0]]  # two wells change places: the plate's statistics stay
    view = fold_view(sites, wells, folds, 0, "training")
    marks = {
        Trainer(view, each, statistics, parameters(), TrainingState(Path("unused"))).mark for each in (store, other)
    }
    assert len(marks) == 2


def test_heldout_and_validation_labels_do_not_reach_the_weights(screen, wells, folds, tmp_path, undisturbed):
    """Labels of held-out plates scrambled (given, even): the same weights, bit by bit."""
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
    member = scrambled["target"] & scrambled["perturbation"].notna()
    scrambled.loc[member, "perturbation"] = scrambled.loc[member, "perturbation"].to_numpy()[::-1]
    _, teacher, _ = train(screen, scrambled, folds, TrainingState(tmp_path))
    assert any(not torch.equal(teacher.weights[k], undisturbed[1].weights[k]) for k in teacher.weights)


def test_the_teacher_is_not_the_student_and_carries_its_facts(undisturbed, screen):
    student, teacher, history = undisturbed
    assert any(not torch.equal(teacher.weights[k], student.weights[k]) for k in student.weights if "running_mean" in k)
    facts = teacher.facts
    assert facts["channels"] == screen[0].channels and facts["image_size"] == [24, 24] and len(facts["targets"]) == 8
    assert (
        facts["normalization"] == {"strategy": "plate", "reference": "all", "illumination": "none"}
        and facts["tier"] == "T1"
    )
    assert set(facts["fingerprints"]) == {"folds", "parameters", "statistics", "data", "pixels"}
    assert len(facts["training_plates"]) == 16 and len(history) == 4


@pytest.mark.parametrize("kind", ["plain", "balanced"])
def test_pseudo_labels_with_two_views_run_and_are_marked(screen, wells, folds, tmp_path, kind):
    stage = parameters().mean_teacher.model_dump() | {"epochs": 1, "views": "two", "pseudo_labels": kind}
    _, teacher, history = train(
        screen, wells, folds, TrainingState(tmp_path), unlabelled_source="heldout", mean_teacher=stage
    )
    assert teacher.facts["tier"] == ("T2+T3" if kind == "balanced" else "T3")
    assert np.isfinite(history[-1]["loss"])


def test_balanced_pseudo_labels_spread_over_the_classes(screen, wells, folds, tmp_path):
    store, sites, statistics = screen
    stage = dict(epochs=1, learning_rate=0.003, weight_decay=0.0)
    p = parameters(backbone="resnet10t", unlabelled_source="heldout", pretrain=stage)
    trainer = Trainer(fold_view(sites, wells, folds, 0, "heldout"), store, statistics, p, TrainingState(tmp_path))
    pretrain(trainer)
    teacher = trainer.new_network()
    plain, balanced = (make_pseudo_labels(trainer, teacher, kind) for kind in ("plain", "balanced"))
    targets = len(trainer.view.targets)

    def distinct(labels):
        table = trainer.view.unlabelled.assign(label=labels.numpy())
        return len(table[table["target"]].drop_duplicates(["experiment", "plate", "label"]))

    treated = trainer.view.unlabelled["target"].to_numpy()
    for labels in (plain, balanced):
        assert ((labels.numpy() < targets) == treated).all()
    assert distinct(balanced) > distinct(plain)  # an untrained network calls few classes


def test_a_loss_that_is_no_number_stops_with_the_wells(screen, wells, folds, tmp_path):
    store, sites, statistics = screen
    broken = statistics.assign(scale=np.where(statistics["experiment"] == "ALPHA-02", np.nan, statistics["scale"]))
    with pytest.raises(
        InputError, match=r"training.pretrain: the loss became nan in epoch 0 at wells .*lower the learning rate"
    ):
        pretrain_folds(store, sites, wells, folds, broken, TrainingState(tmp_path), parameters())


@pytest.mark.slow
def test_training_learns_biology(screen, wells, folds, tmp_path):
    stage = dict(epochs=25, learning_rate=0.003, weight_decay=0.01)
    _, _, history = train(screen, wells, folds, TrainingState(tmp_path), backbone="resnet10t", pretrain=stage)
    assert max(row["student_t1"] for row in history) > 2 / 8


def test_devices():
    assert choose_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="'cuda' is not available here; allowed: cpu"):
            choose_device("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_training_on_a_gpu_in_bf16(screen, wells, folds, tmp_path):
    _, teacher, history = train(screen, wells, folds, TrainingState(tmp_path), device="cuda")
    assert np.isfinite(history[-1]["loss"]) and next(iter(teacher.weights.values())).device.type == "cpu"


def test_cross_entropy_oracle_of_the_softmax_head():
    from deepnoise.training.network import HEADS

    head = HEADS["softmax"](4, 3, 1.0, 0.0)
    x = torch.randn(5, 4)
    torch.testing.assert_close(
        head(x, torch.zeros(5, dtype=torch.long)), F.linear(x, head.linear.weight, head.linear.bias)
    )


# batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batches", ["experiment", "plate"])
def test_pure_batches_hold_one_unit_each_and_every_picture_once(screen, wells, folds, tmp_path, batches):
    store, sites, statistics = screen
    p = parameters(batches=batches, batch_size=6)
    view = fold_view(sites, wells, folds, 0, "training")
    trainer = Trainer(view, store, statistics, p, TrainingState(tmp_path))
    order = trainer.order(view.labelled, 6, torch.Generator().manual_seed(0))
    by = ["experiment", "plate"][: 1 if batches == "experiment" else 2]
    assert sorted(np.concatenate(order)) == list(range(len(view.labelled)))
    assert all(view.labelled.iloc[batch].groupby(by).ngroups == 1 and len(batch) >= 2 for batch in order)
    further = trainer.unlabelled_order(order, torch.Generator().manual_seed(1))
    for batch, own in zip(order, further, strict=True):
        assert len(own) == 3
        both = [view.labelled.iloc[batch][by], view.unlabelled.iloc[own][by]]
        assert both[0].drop_duplicates().to_numpy().tolist() == both[1].drop_duplicates().to_numpy().tolist()
    following = [tuple(view.labelled[by].iloc[batch[0]]) for batch in order]
    assert following != sorted(following)  # units come in random order


def test_pure_batches_with_heldout_pictures_are_refused():
    with pytest.raises(ValueError, match="batches is 'plate', but held-out pictures would stand in the same batch"):
        parameters(batches="plate", unlabelled_source="heldout")


def test_training_may_be_confined_to_some_sites(screen, wells, folds):
    _, sites, _ = screen
    both = pd.concat([sites, sites.assign(site=2)])
    view = fold_view(both, wells, folds, 0, "training", [1])
    assert set(view.labelled["site"]) == set(view.unlabelled["site"]) == {1}
    assert set(view.validation["site"]) == {1, 2}
    with pytest.raises(InputError, match="fold 0 has no labelled pictures"):
        fold_view(both, wells, folds, 0, "training", [7])
