"""Speed of training, as ratios of alternating runs: python benchmarks/training.py

Compares supervised and mean-teacher steps with the same network in a plain PyTorch loop over images that lie normalized in memory (the
limit); mean-teacher steps with supervised steps at equal images per step; the input pipeline with a
DataLoader that decodes a PNG for each view and channel and looks statistics up in a table; and bfloat16 with
float32. Also prints peak memory. The figures go into docs/results.md.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
import yaml
from PIL import Image

from deepnoise.datasets.files import SiteFiles
from deepnoise.datasets.folder import Folder
from deepnoise.datasets.image_store import ImageStoreDataset
from deepnoise.ingestion.packing import plan_packing
from deepnoise.network.network import Network, NetworkSpec
from deepnoise.network.site_images import SiteImages, normalize
from deepnoise.parameters import TrainingParameters, replace_values
from deepnoise.screen import Screen
from deepnoise.simulation.cells import CHANNELS
from deepnoise.training.augmentation import random_view
from deepnoise.training.fold_view import FoldView
from deepnoise.training.loop import pretrain, train_mean_teacher
from deepnoise.training.losses import squared_error, update_ema
from deepnoise.training.trainer import NoState, Trainer

PROJECT = Path(__file__).resolve().parent.parent
ROUNDS = 5
IMAGES = 480
SIZE = 64


class RandomStore:
    """Random images with the interface of an image store."""

    channels = list(CHANNELS)

    def __init__(self, size: int = SIZE) -> None:
        self.array = np.random.default_rng(0).integers(0, 255, (IMAGES, 6, size, size), dtype=np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of a site."""
        return self.array.shape[1:]

    def read(self, experiment: str, plate: str, store_rows: np.ndarray | None = None) -> np.ndarray:
        """(S, C, H, W) raw counts."""
        return self.array if store_rows is None else self.array[store_rows]

    def checksum(self, experiment: str, plate: str) -> str:
        """A constant: the images never change."""
        return "0"


def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sites of one plate, and its statistics."""
    sites = pd.DataFrame({"id_code": [f"a_1_{i}" for i in range(IMAGES)], "experiment": "a", "plate": "1", "site": 1})
    sites = sites.assign(well=sites["id_code"], store_row=np.arange(IMAGES), target=True)
    statistics = pd.DataFrame(
        {"experiment": "a", "plate": "1", "channel": list(CHANNELS), "location": 127.0, "scale": 70.0}
    )
    return sites, statistics.assign(strategy="plate", reference="all", illumination="none", tier="T1")


def trainer(changes: dict[str, Any]) -> Trainer:
    """A trainer on random images, with some changes to conf/base."""
    base = yaml.safe_load((PROJECT / "conf/base/parameters_training.yml").read_text())["training"]
    parameters = replace_values(TrainingParameters.model_validate(base), "training", changes, "benchmark")
    sites, statistics = tables()
    classes = [str(i) for i in range(57)]
    labels = np.arange(IMAGES) % 57
    view = FoldView(
        0, classes, classes[:48], ["a"], sites.assign(label=labels), sites, sites.iloc[:0].assign(label=0.0), ["a/1"]
    )
    if parameters.unlabelled_source == "none":
        view = replace(view, unlabelled=sites.iloc[:0])
    screen = Screen(RandomStore(), sites, pd.DataFrame(), pd.DataFrame(), statistics)
    return Trainer(view, screen, parameters, NoState())


def timed_step(changes: dict[str, Any]) -> Callable[[], float]:
    """A function that gives the seconds per step of stage 2 if it has epochs, else of stage 1."""
    common = {"training.batches": "mixed", "training.pretrain.keep": "last", "training.mean_teacher.keep": "last"}
    step_trainer = trainer(common | {"training.pretrain.epochs": 1, "training.mean_teacher.epochs": 0} | changes)
    steps = -(-IMAGES // step_trainer.parameters.batch_size)
    if not step_trainer.parameters.mean_teacher.epochs:

        def first_stage() -> float:
            started = time.perf_counter()
            pretrain(step_trainer)
            return (time.perf_counter() - started) / steps

        return first_stage
    student = step_trainer.to_trained_model(step_trainer.new_network())

    def second_stage() -> float:
        started = time.perf_counter()
        train_mean_teacher(step_trainer, student)
        return (time.perf_counter() - started) / steps

    return second_stage


def in_turn(functions: dict[str, Callable[[], float]]) -> pd.DataFrame:
    """Seconds of each function, called in turn, one row per round."""
    for function in functions.values():
        function()
    return pd.DataFrame([{name: function() for name, function in functions.items()} for _ in range(ROUNDS)])


def plain_step(changes: dict[str, Any], mean_teacher: bool) -> Callable[[], float]:
    """Seconds per step of a plain loop: float images in memory, in order, without views; the losses, optimizer and average of ours."""
    step_trainer = trainer({"training.batches": "mixed"} | changes)
    student, teacher = step_trainer.new_network().train(), step_trainer.new_network()
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.003)
    size = step_trainer.parameters.batch_size
    images = step_trainer.to_input(step_trainer.labelled.batch(np.arange(IMAGES)))
    images = images.contiguous(memory_format=torch.channels_last)
    labels = step_trainer.labels.to(step_trainer.device)

    def loop() -> float:
        started = time.perf_counter()
        for first in range(0, IMAGES, size):
            rows = slice(first, first + size)
            x = images[rows]
            y = labels[rows]
            if mean_teacher:
                x = torch.cat([x, x])
            with step_trainer.autocast():
                features = student.embed(x)
                loss = F.cross_entropy(student.classify(features[: len(y)], y), y)
                if mean_teacher:
                    with torch.no_grad():
                        target = teacher.classify(teacher.embed(x))
                    loss = loss + squared_error(student.classify(features), target)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if mean_teacher:
                update_ema(teacher, student, 0.99)
        return (time.perf_counter() - started) / (IMAGES // size)

    return loop


def limit() -> None:
    """Time steps of both stages beside a plain loop of the same network."""
    for backbone in ("test_resnet", "resnet18"):
        for name, mean_teacher, changes in (
            ("supervised", False, {"training.batch_size": 48}),
            ("mean teacher", True, {
                "training.batch_size": 24, "training.mean_teacher.epochs": 1, "training.mean_teacher.unlabelled_ratio": 1.0,
            }),
        ):  # fmt: skip
            changes = {"training.backbone": backbone} | changes
            seconds = in_turn({"plain": plain_step(changes, mean_teacher), "ours": timed_step(changes)})
            ratio = seconds["plain"] / seconds["ours"]
            print(
                f"{backbone}, {name}: {48 / seconds['ours'].median():.0f} images/s, {ratio.median():.2f} of a plain loop "
                f"({ratio.min():.2f} to {ratio.max():.2f})"
            )


def memory() -> None:
    """Bytes that a training step keeps for the backward pass, per image: the part of the memory that grows with the batch."""
    for backbone in ("test_resnet", "resnet18", "resnet50", "legacy_xception"):
        sizes = []
        for size in (64, 128, 256, 512):
            network = Network(NetworkSpec(backbone, 6, 57, "arcface", 20.0, 0.1)).train()
            weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
            kept: dict[int, int] = {}

            def keep(tensor: torch.Tensor, kept: dict[int, int] = kept, weights: set[int] = weights) -> torch.Tensor:
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in weights:
                    kept[storage.data_ptr()] = storage.nbytes()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                network(torch.zeros(2, 6, size, size), torch.zeros(2, dtype=torch.long)).sum().backward()
            sizes.append(f"{sum(kept.values()) / 2e6:.1f}")
        millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
        print(f"| {backbone} | {millions:.1f} | {' | '.join(sizes)} |")


def steps() -> None:
    """Time steps of 48 images: all labelled, or half of them unlabelled."""
    teacher = {
        "training.mean_teacher.epochs": 1, "training.batch_size": 24, "training.mean_teacher.unlabelled_ratio": 1.0,
        "training.unlabelled_source": "training",
    }  # fmt: skip
    for backbone in ("test_resnet", "resnet18"):
        changes = {
            "training.backbone": backbone,
        }
        seconds = in_turn(
            {
                "supervised": timed_step(changes | {"training.batch_size": 48}),
                "shared": timed_step(changes | teacher | {"training.mean_teacher.views": "shared"}),
                "two": timed_step(changes | teacher | {"training.mean_teacher.views": "two"}),
            }
        )
        base = seconds["supervised"]
        print(
            f"{backbone}: a supervised step of 48 images {1000 * base.median():.0f} ms, {48 / base.median():.0f} images/s"
        )
        for name in ("shared", "two"):
            ratio = seconds[name] / base
            print(
                f"  mean teacher, views {name}: {ratio.median():.2f} times as long ({ratio.min():.2f} to {ratio.max():.2f})"
            )


def precision() -> None:
    """Time bfloat16 against float32 on this device."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    changes = {"training.backbone": "resnet18" if device == "cuda" else "test_resnet", "training.device": device}
    seconds = in_turn({p: timed_step(changes | {"training.precision": p}) for p in ("float32", "bfloat16")})
    ratio = seconds["float32"] / seconds["bfloat16"]
    print(
        f"bfloat16 on {device}: {ratio.median():.2f} times as fast as float32 ({ratio.min():.2f} to {ratio.max():.2f})"
    )
    if device == "cuda":
        print(f"  {48 / seconds['bfloat16'].median():.0f} images/s")


def input_pipeline() -> None:
    """Time three views of each image (labels, consistency, teacher), normalized and in batches of 48."""
    store, (sites, statistics) = RandomStore(), tables()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for i, image in enumerate(store.array):
            for channel, plane in zip(CHANNELS, image, strict=True):
                Image.fromarray(plane).save(root / f"{i}_{channel}.png")

        class DecodingDataset(torch.utils.data.Dataset):
            def __len__(self) -> int:
                return IMAGES

            def __getitem__(self, i: int) -> list[torch.Tensor]:
                views = []
                for _ in range(3):
                    planes = []
                    for channel in CHANNELS:
                        with Image.open(root / f"{i}_{channel}.png") as file:
                            plane = np.asarray(file, np.float32)
                        row = statistics[
                            (statistics["experiment"] == "a")
                            & (statistics["plate"] == "1")
                            & (statistics["channel"] == channel)
                        ].iloc[0]
                        planes.append((plane - row["location"]) / row["scale"])
                    image = torch.from_numpy(np.stack(planes))
                    if torch.rand(()) < 0.5:
                        image = image.flip(-1)
                    views.append(torch.rot90(image, int(torch.randint(0, 4, ())), (1, 2)))
                return views

        def plain() -> float:
            started = time.perf_counter()
            for _ in torch.utils.data.DataLoader(DecodingDataset(), batch_size=48, shuffle=True):
                pass
            return time.perf_counter() - started

        files = [tuple(f"{i}_{channel}.png" for channel in CHANNELS) for i in range(IMAGES)]
        packing = sites[["id_code", "experiment", "plate", "well", "site"]].assign(files=files)
        packed = ImageStoreDataset(root=str(root / "store"))
        packed.save(plan_packing(packing, SiteFiles(Folder(root), list(CHANNELS), packing), checksum=False))

        def ours(gigabytes: float) -> Callable[[], float]:
            images = SiteImages(packed.load(), sites, statistics, gigabytes)
            generator = torch.Generator().manual_seed(0)

            def batches() -> float:
                started = time.perf_counter()
                order = np.array_split(torch.randperm(IMAGES, generator=generator).numpy(), IMAGES // 48)
                for batch in images.batches(order):
                    x = normalize(batch, "plate")
                    for _ in range(3):
                        random_view(x, turns=True, strength=0.0, generator=generator)
                return time.perf_counter() - started

            return batches

        seconds = in_turn({"plain": plain, "kept": ours(1.0), "read": ours(0.0)})
    for name, description in (("kept", "kept in memory"), ("read", "read from the store each time")):
        ratio = seconds["plain"] / seconds[name]
        print(
            f"input pipeline, images {description}: {IMAGES / seconds[name].median():.0f} images of three views per second, "
            f"{ratio.median():.1f} times as fast as the DataLoader ({ratio.min():.1f} to {ratio.max():.1f})"
        )


if __name__ == "__main__":
    limit()
    memory()
    steps()
    input_pipeline()
    precision()
    print(f"peak memory of all this: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
