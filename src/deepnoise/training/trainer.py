"""What both stages share in training one fold: its images and labels, the network, views and scores."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
import torch

from deepnoise import __version__
from deepnoise.errors import InputError
from deepnoise.fingerprint import fingerprint
from deepnoise.network.batch_norm import adapted_batches
from deepnoise.network.device import autocast, choose_device, compile_backbone, send, to_device
from deepnoise.network.network import Network
from deepnoise.network.site_images import Batch, SiteImages, checksums, normalize
from deepnoise.network.trained_model import ModelCard, NetworkSpec, TrainedModel
from deepnoise.normalization.statistics import statistics_of_plates
from deepnoise.parameters import TrainingParameters
from deepnoise.screen import Screen
from deepnoise.training.augmentation import random_view
from deepnoise.training.fold_view import FoldView, tier_of_training
from deepnoise.training.streams import batch_group, labelled_stream, unlabelled_stream
from deepnoise.training.tracking import Report

logger = logging.getLogger(__name__)
Strength = Literal["weak", "normal", "strong"]
"""How far a view may depart from the image."""
RANDOMNESS = "a generator per batch"
"""Part of the fingerprint of a checkpoint: it is continued only with the random numbers that it began with."""
PREDICTION_BATCH = 256
"""Images per batch where no gradient is needed."""


class StateStore(Protocol):
    """Keeps checkpoints of unfinished training; the dataset ``training_state`` implements it."""

    def load(self, name: str, fingerprint: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """The checkpoint saved under a name, or None if there is none with this fingerprint."""

    def save(self, name: str, fingerprint: str, tensors: dict[str, torch.Tensor], content: dict[str, Any]) -> None:
        """Replace the checkpoint, whole or not at all."""

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Keep other runs from training the model of this name within a block."""

    def where(self, name: str) -> str:
        """Location of the last checkpoint under a name, in words."""


class NoState:
    """For a training too short to be resumed: no checkpoint is kept."""

    def load(self, name: str, fingerprint: str) -> None:
        """There is never a checkpoint."""

    def save(self, name: str, fingerprint: str, tensors: dict[str, torch.Tensor], content: dict[str, Any]) -> None:
        """Nothing is kept."""

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Nothing is written."""
        return nullcontext()

    def where(self, name: str) -> str:
        """Nowhere."""
        return "none is kept here"


class Trainer:
    """Data, network and losses of one fold, shared by both stages.

    Args:
        view: What this fold may train on.
        screen: The screen.
        parameters: The block ``training``.
        state: Where checkpoints are kept.
        reports: Each gets every row of the training history as soon as it is made.

    Raises:
        InputError: Parameters that this fold cannot fulfil.
    """

    def __init__(
        self,
        view: FoldView,
        screen: Screen,
        parameters: TrainingParameters,
        state: StateStore,
        reports: Sequence[Report] = (),
    ) -> None:
        _check_parameters(view, parameters)
        self.view, self.parameters, self.state, self.reports = view, parameters, state, reports
        self.device = choose_device(parameters.device)
        self.strategy = str(screen.statistics["strategy"].iloc[0])
        gigabytes = parameters.cache_gigabytes
        if parameters.unlabelled_source == "training":
            gigabytes /= 2
        self.labelled = SiteImages(screen.images, view.labelled, screen.statistics, gigabytes)
        same_sites = len(view.unlabelled) == len(view.labelled) and view.unlabelled.equals(
            view.labelled[view.unlabelled.columns]
        )
        self.unlabelled = (
            self.labelled if same_sites else SiteImages(screen.images, view.unlabelled, screen.statistics, gigabytes)
        )
        self.validation = SiteImages(screen.images, view.validation, screen.statistics, gigabytes / 2)
        self.labels = torch.tensor(view.labelled["label"].to_numpy(np.int64))  # (N,) class of each labelled site
        self.batch_groups = batch_group(view.labelled, parameters.batches)
        self.spec = NetworkSpec(
            parameters.backbone, len(screen.images.channels), len(view.classes), parameters.head.name, parameters.head.scale,
            parameters.head.margin,
        )  # fmt: skip
        self.card = make_card(view, screen, parameters, self.spec)
        self.fingerprint = fingerprint(self.card.identity(), RANDOMNESS)

    def new_network(self, pretrained_weights: str = "none") -> Network:
        """A newly initialized network; seed and fold decide its weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.parameters.seed * 1000 + self.view.fold)
            network = Network(self.spec, pretrained_weights)
        return to_device(network, self.device, self.parameters.channels_last)

    def compile(self, network: Network) -> None:
        """Compile a network where the parameters ask for it; the log says why where that fails."""
        if not self.parameters.compile:
            return
        size = min(self.parameters.batch_size, len(self.labelled.sites))
        with self.autocast():
            reason = compile_backbone(network.train(), self.to_input(self.labelled.batch(np.arange(size))))
        if reason:
            logger.warning(
                "training.compile: the backbone cannot be compiled here, training goes on without (%s)", reason
            )

    def generator(self, stage: str, epoch: int, batch: int | None = None) -> torch.Generator:
        """The source of the randomness of one batch, or of what an epoch draws once, such as its order.

        It depends on seed, fold, stage, epoch and the number of the batch alone, and so not on which process draws the
        batches before it.
        """
        name = f"{self.parameters.seed}/{self.view.fold}/{stage}/{epoch}" + ("" if batch is None else f"/{batch}")
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)

    @property
    def pure_batches(self) -> bool:
        """Whether each batch is of one experiment or plate."""
        return self.parameters.batches != "mixed"

    def labelled_order(self, generator: torch.Generator) -> list[np.ndarray]:
        """Rows of each labelled batch of an epoch."""
        wells = pd.factorize(self.view.labelled["id_code"])[0] if self.parameters.sites_per_epoch == "one" else None
        return labelled_stream(self.batch_groups, self.parameters.batch_size, generator, wells)

    def unlabelled_order(self, labelled: list[np.ndarray], generator: torch.Generator) -> list[np.ndarray]:
        """Rows of the unlabelled batch beside each labelled one, in the ratio of the parameters."""
        size = round(self.parameters.batch_size * self.parameters.mean_teacher.unlabelled_ratio)
        unlabelled_groups = batch_group(self.view.unlabelled, self.parameters.batches)
        return unlabelled_stream(labelled, self.batch_groups, unlabelled_groups, size, generator)

    def labels_of(self, batch: Batch) -> torch.Tensor:
        """(B,) int64 classes of a labelled batch, on the device."""
        return send(self.labels[torch.from_numpy(batch.index)], self.device)

    def to_input(self, batch: Batch, generator: torch.Generator | None = None) -> torch.Tensor:
        """(B, C, H, W) normalized images on the device; with a generator, their statistics are jittered."""
        jitter = self.parameters.augmentation.statistics_jitter if generator is not None else 0.0
        return self.to_memory_format(normalize(batch.to(self.device), self.strategy, jitter, generator))

    def to_memory_format(self, images: torch.Tensor) -> torch.Tensor:
        """Images in the memory format of the network."""
        memory_format = torch.channels_last if self.parameters.channels_last else torch.contiguous_format
        return images.contiguous(memory_format=memory_format)

    def autocast(self) -> torch.autocast:
        """The precision of a forward pass."""
        return autocast(self.device, self.parameters.precision)

    def draw_view(self, images: torch.Tensor, strength: Strength, generator: torch.Generator) -> torch.Tensor:
        """One random view: a normal one adds erasing to a weak one, a strong one adds a random crop to that."""
        augmentation = self.parameters.augmentation
        return random_view(
            images, turns=augmentation.dihedral, strength=augmentation.shift_scale,
            erase_chance=0.0 if strength == "weak" else augmentation.erase, crop=strength == "strong", generator=generator,
        )  # fmt: skip

    @torch.inference_mode()
    def logits(self, network: Network, images: SiteImages, generator: torch.Generator | None = None) -> np.ndarray:
        """(N, K) logits of all images in one view; with a generator, a random weak one.

        Where each training batch is of one experiment or plate, BatchNorm statistics are those of that experiment's or plate's images.
        """
        group_of_site = batch_group(images.sites, self.parameters.batches)
        groups = pd.Series(range(len(group_of_site))).groupby(group_of_site).indices.values()
        network = copy.deepcopy(network).eval() if self.pure_batches else network.eval()
        logits = np.empty((len(group_of_site), self.spec.classes), np.float32)
        for batch, x in adapted_batches(
            network, images, groups, PREDICTION_BATCH, self.to_input, adapt=self.pure_batches
        ):
            if generator is not None:
                x = self.to_memory_format(self.draw_view(x, "weak", generator))
            with self.autocast():
                logits[batch.index] = network(x).float().cpu().numpy()
        return logits

    def validation_score(self, network: Network) -> float | None:
        """Top-1 of single sites in one view, on validation plates: a T1 score that knows no plate design."""
        if self.view.validation.empty:
            return None
        calls = self.logits(network, self.validation)[:, : len(self.view.targets)].argmax(axis=1)
        return float((calls == self.view.validation["label"].to_numpy()).mean())

    def to_trained_model(self, network: Network, **result: Any) -> TrainedModel:
        """The network's weights with its card; ``result`` as for :meth:`ModelCard.with_result`."""
        weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
        return TrainedModel(weights, self.card.with_result(**result))


def _check_parameters(view: FoldView, parameters: TrainingParameters) -> None:
    for stage in ("pretrain", "mean_teacher"):
        if getattr(parameters, stage).keep == "best" and view.validation.empty:
            raise InputError(
                f"training.{stage}.keep is 'best', but {view.name} has no validation plates to choose by; set it to last, or "
                "ingestion.folds.validation to true"
            )


def make_card(view: FoldView, screen: Screen, parameters: TrainingParameters, spec: NetworkSpec) -> ModelCard:
    """The card of a model that is trained on a fold, before its training."""
    statistics, recipe = screen.statistics, parameters.recipe()
    return ModelCard(
        deepnoise=__version__,
        fold=view.fold,
        cell_type=view.cell_type,
        network=spec,
        channels=list(screen.images.channels),
        image_size=list(screen.images.shape[1:]),
        classes=view.classes,
        targets=view.targets,
        normalization={name: str(statistics[name].iloc[0]) for name in ("strategy", "reference", "illumination")},
        tier=tier_of_training(
            str(statistics["tier"].iloc[0]),
            parameters.unlabelled_source,
            parameters.mean_teacher.pseudo_labels.method,
        ),
        training_plates=view.training_plates,
        fingerprints={
            "folds": fingerprint(view.training_plates, sorted(set(view.validation["experiment"]))),
            "parameters": fingerprint(recipe),
            "statistics": fingerprint(statistics_of_plates(statistics, view.training_plates)),
            "data": fingerprint(view.labelled, view.unlabelled),
            "pixels": fingerprint(checksums(screen.images, view.labelled), checksums(screen.images, view.unlabelled)),
        },
        parameters=recipe,
    )
