"""Training and inference on a GPU: pytest -m gpu. The results are those of the CPU within the rounding of float32, and no step waits."""

import sys
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from deepnoise.datasets.model import TrainingState
from deepnoise.inference.predict import predict_sites
from deepnoise.inference.selection import sites_to_predict
from deepnoise.network.device import batch_that_fits
from deepnoise.network.dihedral import _gathered, dihedral, dihedral_view
from deepnoise.network.site_images import normalize
from deepnoise.parameters import InferenceParameters
from deepnoise.training import loop
from deepnoise.training.losses import update_ema
from deepnoise.training.stage import CHECK_EVERY
from tests.training.helpers import AUGMENTATION, MEAN_TEACHER, STAGE, make_trainer, train

READS = ("item", "__float__", "__bool__", "__int__", "__index__", "cpu", "numpy", "tolist")
"""Functions of a tensor for whose result a GPU is waited for."""


@pytest.fixture
def reads(monkeypatch):
    """How often a step of training reads a tensor back."""
    counted = {"reads": 0, "steps": 0}
    inside = False

    def counting(name):
        original = getattr(torch.Tensor, name)

        def read(self, *arguments, **options):
            of_optimizer = (
                "torch/optim/" in sys._getframe(1).f_code.co_filename
            )  # its counters of steps, which stay on the CPU
            counted["reads"] += inside and not of_optimizer
            return original(self, *arguments, **options)

        return read

    take_step = loop.take_step

    def step(*arguments):
        nonlocal inside
        inside = True
        take_step(*arguments)
        inside = False
        counted["steps"] += 1

    for name in READS:
        monkeypatch.setattr(torch.Tensor, name, counting(name))
    monkeypatch.setattr(loop, "take_step", step)
    return counted


def test_losses_are_read_every_few_steps_and_nothing_else_is(screen, wells, folds, tmp_path, reads):
    changes = {"gradient_clip": 1.0, "batch_size": 8, "pretrain": STAGE | {"epochs": 2, "ema_decay": 0.9}}
    trainer = make_trainer(screen, wells, folds, TrainingState(tmp_path), **changes)
    start, _ = loop.pretrain(trainer)
    loop.train_mean_teacher(trainer, start)
    assert reads["steps"] > 4 * CHECK_EVERY  # of both stages, the mean teacher with its average
    assert reads["reads"] <= 2 * reads["steps"] / CHECK_EVERY  # .cpu() and .numpy()


def test_a_view_gathered_pixel_by_pixel_is_the_same_symmetry():
    images = torch.rand(16, 3, 5, 5)
    view = torch.arange(16) % 8
    expected = torch.stack([dihedral_view(image, v) for image, v in zip(images, view.tolist(), strict=True)])
    assert torch.equal(_gathered(images, view), expected) and torch.equal(dihedral(images, view), expected)


def test_the_batch_that_fits_leaves_a_tenth_free():
    assert batch_that_fits(32, peak=3_200, fixed=0, total=10_000) == 90
    assert batch_that_fits(32, peak=3_700, fixed=500, total=10_000) == 85
    assert batch_that_fits(32, peak=3_700, fixed=9_500, total=10_000) == 0


# on a GPU ---------------------------------------------------------------------------------------------------------

needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
VIEWS = AUGMENTATION | {"shift_scale": 0.1, "erase": 0.5}
FLOAT32 = {"precision": "float32", "augmentation": VIEWS, "mean_teacher": MEAN_TEACHER | {"views": "two"}}


@contextmanager
def no_waiting():
    """An error where the CPU waits for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture(autouse=True)
def exact_products():
    """Products of float32 in float32, not in TF32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


class TestOnGpu:
    """Each result beside that of the CPU."""

    pytestmark = needs_gpu

    def test_batches_are_normalized_and_viewed_alike(self, screen, wells, folds, tmp_path):
        inputs = {}
        for device in ("cpu", "cuda"):
            trainer = make_trainer(screen, wells, folds, TrainingState(tmp_path / device), device=device, **FLOAT32)
            generator = trainer.generator("test", 0)
            batch = trainer.labelled.batch(np.arange(16))
            images = trainer.draw_view(trainer.to_input(batch, generator), "strong", generator)
            inputs[device] = images.cpu()
        torch.testing.assert_close(inputs["cuda"], inputs["cpu"], rtol=1e-4, atol=1e-4)

    def test_both_stages_learn_the_same_weights(self, screen, wells, folds, tmp_path):
        results = {
            device: train(screen, wells, folds, TrainingState(tmp_path / device), device=device, **FLOAT32)
            for device in ("cpu", "cuda")
        }
        (_, teacher, history), (_, on_gpu, history_on_gpu) = results["cpu"], results["cuda"]
        for row, other in zip(history, history_on_gpu, strict=True):
            assert other["loss"] == pytest.approx(row["loss"], rel=0.02)
        for name, weight in teacher.weights.items():
            if weight.is_floating_point():
                torch.testing.assert_close(on_gpu.weights[name], weight, rtol=0.05, atol=0.02)

    def test_predictions_are_the_same(self, screen, wells, folds, tmp_path):
        _, teacher, _ = train(screen, wells, folds, TrainingState(tmp_path), device="cpu", **FLOAT32)
        store, sites, statistics = screen
        scored = sites_to_predict(teacher.card, sites, wells, folds)
        logits = []
        for device in ("cpu", "cuda"):
            parameters = InferenceParameters(
                only="", views="dihedral", pooling="logits", ensemble_weights="equal", adabn="experiment", seen_experiments=0,
                batch_size=32, device=device,
            )  # fmt: skip
            with torch.autocast("cuda", enabled=False):
                logits.append(predict_sites(teacher, store, scored, statistics, parameters, "experiment")[0])
        assert np.mean(logits[0].argmax(axis=1) == logits[1].argmax(axis=1)) > 0.95  # bfloat16 on the GPU
        assert np.corrcoef(logits[0].ravel(), logits[1].ravel())[0, 1] > 0.999

    def test_no_step_waits_for_the_gpu(self, screen, wells, folds, tmp_path):
        """Images, view, losses, gradient step and moving average of both networks, under an error for each wait."""
        trainer = make_trainer(screen, wells, folds, TrainingState(tmp_path), device="cuda", **FLOAT32)
        student, average = trainer.new_network(), trainer.new_network()
        optimizer = torch.optim.AdamW(student.parameters(), foreach=True)
        batches = [trainer.labelled.batch(np.arange(i, i + 16)).pinned() for i in (0, 16)]
        for batch in batches:  # the first one sets up the libraries
            waiting = no_waiting() if batch is batches[1] else torch.enable_grad()
            with waiting:
                generator = trainer.generator("test", 0)
                images = trainer.draw_view(trainer.to_input(batch, generator), "strong", generator)
                label = trainer.labels_of(batch)
                loss = F.cross_entropy(student(images, label), label)
                loss.backward()
                optimizer.step()
                update_ema(average, student, 0.9)

    def test_raw_counts_of_16_bits_are_normalized_alike(self, screen, wells, folds, tmp_path):
        trainer = make_trainer(screen, wells, folds, TrainingState(tmp_path), device="cpu", **FLOAT32)
        batch = trainer.labelled.batch(np.arange(8))
        batch.images = batch.images.int() * 257
        on_cpu = normalize(batch, "experiment")
        torch.testing.assert_close(normalize(batch.to(torch.device("cuda")), "experiment").cpu(), on_cpu)
