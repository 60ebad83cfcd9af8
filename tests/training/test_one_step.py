"""One step of the mean teacher against its formula, computed by hand on fixed views (method: section 4)."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from deepnoise.datasets.model import TrainingState
from deepnoise.training import loop
from deepnoise.training.loop import pretrain, take_step, train_mean_teacher
from deepnoise.training.trainer import Trainer
from tests.training.helpers import AUGMENTATION, MEAN_TEACHER, PSEUDO, STAGE, make_trainer

FACTOR = {"weak": 0.7, "normal": 1.0, "strong": 1.4}
"""In place of random views: the brightness tells which view a network got."""


@pytest.fixture
def steps(monkeypatch, screen, wells, folds, tmp_path):
    """A function that trains both stages and gives, for each step of the second, what went into it and what came out."""

    def run(mean_teacher, jitter=0.0, **changes):
        trainer = make_trainer(
            screen, wells, folds, TrainingState(tmp_path), unlabelled_source="heldout", batch_size=16,
            augmentation=AUGMENTATION | {"statistics_jitter": jitter}, pretrain=STAGE | {"epochs": 1},
            mean_teacher=MEAN_TEACHER | {"epochs": 2, "ramp_epochs": 2.0} | mean_teacher, **changes,
        )  # fmt: skip
        start, _ = pretrain(trainer)
        views, taken = [], []
        monkeypatch.setattr(
            Trainer,
            "draw_view",
            lambda self, x, strength, generator: views.append((strength, x)) or FACTOR[strength] * x,
        )

        def step(stage, epoch, batch, loss, consistency=None):
            before = [copy.deepcopy(network) for network in (stage.student, stage.average)]
            done, rows = epoch.epochs_done, len(batch.index)
            label = trainer.labels[torch.from_numpy(batch.index)]
            decay = epoch.ema_decay
            take_step(stage, epoch, batch, loss, consistency)
            after = [copy.deepcopy(network) for network in (stage.student, stage.average)]
            taken.append(
                dict(
                    trainer=trainer, views=list(views), before=before, after=after, loss=float(loss.detach()), done=done, rows=rows,
                    label=label, decay=decay, consistency=float(consistency.detach()), epoch=epoch.number, index=batch.index,
                )
            )  # fmt: skip
            views.clear()

        monkeypatch.setattr(loop, "take_step", step)
        train_mean_teacher(trainer, start)
        return taken

    return run


def by_hand(step, w_p, pseudo_label=None, views="two"):
    """(1 - w_p) a + w_c b + w_p c of a step."""
    student, teacher = step["before"]
    drawn = step["views"]
    with torch.no_grad():
        if views == "two":
            (_, labelled), (strength, image), (teacher_strength, teacher_image) = drawn
            features = student.embed(labelled)
            student_features = student.embed(FACTOR[strength] * image)
        else:
            (strength, image), (teacher_strength, teacher_image) = drawn
            student_features = student.embed(FACTOR[strength] * image)
            features = student_features[: step["rows"]]
        a = float(F.cross_entropy(student.classify(features, step["label"]), step["label"]))
        logits = student.classify(student_features)
        teacher_logits = teacher.classify(teacher.embed(FACTOR[teacher_strength] * teacher_image))
        b = float((logits.softmax(1) - teacher_logits.softmax(1)).square().mean()) * logits.shape[1] / 1139
        c = 0.0 if pseudo_label is None else float(F.cross_entropy(logits[step["rows"] :], pseudo_label))
    w_c = 100.0 * math.exp(-5 * (1 - min(step["done"], 2.0) / 2.0) ** 2)
    return (1 - w_p) * a + w_c * b + w_p * c, w_c * b


def test_the_loss_of_each_step_is_the_sum_of_its_terms(steps):
    taken = steps({"views": "two"})
    contributions = []
    for step in taken:
        assert [strength for strength, _ in step["views"]] == ["normal", "weak", "strong"]
        assert len(step["views"][1][1]) > step["rows"]  # consistency is over unlabelled images too
        expected, contribution = by_hand(step, 0.0)
        assert step["loss"] == pytest.approx(expected, rel=1e-4)
        contributions.append(contribution)
    assert contributions[-1] > 0.001  # so that the term could not be left out unnoticed


@pytest.mark.parametrize("jitter", [0.0, 0.1])
def test_each_network_sees_a_jitter_of_its_own(steps, jitter):
    (_, of_student), (_, of_teacher) = steps({"views": "shared"}, jitter=jitter)[0]["views"]
    assert torch.equal(of_student, of_teacher) == (jitter == 0) and of_student.shape == of_teacher.shape


def test_with_a_shared_view_student_and_labels_see_the_normal_one(steps):
    for step in steps({"views": "shared"})[:3]:
        assert [strength for strength, _ in step["views"]] == ["normal", "strong"]
        assert step["loss"] == pytest.approx(by_hand(step, 0.0, views="shared")[0], rel=1e-4)


def test_pseudo_labels_take_their_weight_from_the_labels(steps, monkeypatch):
    targets = []
    usual = F.cross_entropy

    def record(logits, target):
        targets.append(target)
        return usual(logits, target)

    monkeypatch.setattr(loop.F, "cross_entropy", record)
    taken = steps({"views": "two", "pseudo_labels": PSEUDO | {"method": "plain", "weight": 0.4}})
    monkeypatch.setattr(loop.F, "cross_entropy", usual)
    of_pseudo_labels = targets[-2 * len(taken) :][1::2]  # after the supervised loss of each step
    for step, target in zip(taken, of_pseudo_labels, strict=True):
        step["views"] = step["views"][-3:]  # earlier ones made the pseudo-labels
        assert step["loss"] == pytest.approx(by_hand(step, 0.4, target)[0], rel=1e-4)


def test_the_average_follows_the_student_after_its_step(steps):
    for step in steps({"views": "two"})[1:5]:  # the learning rate of the first step is 0
        (student, average), (moved, followed) = step["before"], step["after"]
        assert any(not torch.equal(a, b) for a, b in zip(student.parameters(), moved.parameters(), strict=True))
        for old, new, now in zip(average.parameters(), moved.parameters(), followed.parameters(), strict=True):
            torch.testing.assert_close(now, step["decay"] * old + (1 - step["decay"]) * new, rtol=1e-4, atol=1e-6)


def test_with_pure_batches_the_teacher_takes_its_statistics_from_the_batch(steps):
    """The same image in another batch gets other logits from the teacher, as it does from the student."""
    step = steps({"views": "shared"}, batches="experiment")[1]
    _, teacher = step["before"]
    image = step["views"][-1][1]
    with torch.no_grad():
        assert not torch.allclose(teacher.embed(image)[:4], teacher.embed(image[:4]), atol=1e-3)


def test_two_epochs_differ_in_their_order(steps):
    taken = steps({"views": "shared"})
    orders = [[step["index"].tolist() for step in taken if step["epoch"] == epoch] for epoch in (0, 1)]
    assert sorted(sum(orders[0], [])) == sorted(sum(orders[1], [])) and orders[0] != orders[1]


def test_jitter_changes_the_statistics_of_a_training_image_alone(screen, wells, folds, tmp_path):
    changes = {"augmentation": AUGMENTATION | {"statistics_jitter": 0.2}}
    trainer = make_trainer(screen, wells, folds, TrainingState(tmp_path), **changes)
    batch = next(iter(trainer.labelled.batches(trainer.labelled_order(trainer.generator("pretrain", 0)))))
    plain = trainer.to_input(batch)
    first, second = (trainer.to_input(batch, trainer.generator("pretrain", 0, number)) for number in (0, 1))
    assert torch.equal(plain, trainer.to_input(batch))
    assert (first - plain).abs().mean() > 0.01 and (first - second).abs().mean() > 0.01
