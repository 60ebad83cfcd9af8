"""What both stages of one training share: the images, the network, views of them, scores."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from deepnoise import __version__
from deepnoise.errors import InputError
from deepnoise.fingerprint import fingerprint
from deepnoise.network.batch_norm import adapted_batches
from deepnoise.network.device import autocast, choose_device, to_device
from deepnoise.network.network import Network, NetworkSpec
from deepnoise.network.site_images import Batch, ImageSource, SiteImages, checksums, normalize
from deepnoise.network.trained_model import TrainedModel
from deepnoise.normalization.statistics import statistics_of_plates
from deepnoise.parameters import TrainingParameters
from deepnoise.training.augmentation import mix, random_view
from deepnoise.training.fold_view import FoldView, tier_of_training
from deepnoise.training.streams import batch_group, labelled_stream, unlabelled_stream
from deepnoise.training.tracking import Report

Strength = Literal["weak", "normal", "strong"]
"""How far a view departs from the image."""
CHUNK = 256
"""Images read at once where no gradient is needed."""


class StateStore(Protocol):
    """Keeps the state of an unfinished training; implemented by the dataset ``training_state``."""

    def load(self, name: str, mark: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """The state saved under a name, or None if there is none with this fingerprint."""

    def save(self, name: str, mark: str, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        """Replace the state, whole or not at all."""

    def where(self, name: str) -> str:
        """Where the last state under a name lies, in words."""


class NoState:
    """For a training that is short: it is done in one go, and only its result is kept."""

    def load(self, name: str, mark: str) -> None:
        """There is never a state."""

    def save(self, name: str, mark: str, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        """Nothing is kept."""

    def where(self, name: str) -> str:
        """Nowhere."""
        return "none is kept here"


class Trainer:
    """One fold's data, network and bookkeeping, shared by both stages.

    Args:
        view: What may be seen.
        store: The images.
        statistics: The table ``plate_statistics``.
        parameters: The block ``training``.
        state: Where an unfinished training is kept.
        reports: Each gets every row of the history as it is made.

    Raises:
        InputError: Parameters that this fold cannot fulfil.
    """

    def __init__(
        self,
        view: FoldView,
        store: ImageSource,
        statistics: pd.DataFrame,
        parameters: TrainingParameters,
        state: StateStore,
        reports: Sequence[Report] = (),
    ) -> None:
        self.view = view
        self.parameters = parameters
        self.state = state
        self.reports = reports
        self.device = choose_device(parameters.device)
        self.strategy = str(statistics["strategy"].iloc[0])
        self.channels = list(store.channels)
        for name in ("pretrain", "mean_teacher"):
            if getattr(parameters, name).keep == "best" and view.validation.empty:
                raise InputError(
                    f"training.{name}.keep is 'best', but {view.name} has no validation plates to choose by; set it to last, or "
                    "ingestion.folds.validation to true"
                )
        if parameters.cell_type == "one_hot" and (view.unlabelled["cell_type"] < 0).any():
            raise InputError(
                f"training.cell_type is 'one_hot', but held-out plates have cells other than {view.cell_types}; set it to none"
            )
        gigabytes = parameters.cache_gigabytes
        if parameters.unlabelled_source == "training":
            gigabytes /= 2
        self.labelled = SiteImages(store, view.labelled, statistics, gigabytes)
        same = view.unlabelled["store_row"].size == len(view.labelled) and view.unlabelled.equals(
            view.labelled[view.unlabelled.columns]
        )
        self.unlabelled = self.labelled if same else SiteImages(store, view.unlabelled, statistics, gigabytes)
        self.validation = SiteImages(store, view.validation, statistics, gigabytes / 2)
        self.label = torch.tensor(view.labelled["label"].to_numpy(np.int64))
        self.units = batch_group(view.labelled, parameters.batches)
        self.spec = NetworkSpec(
            parameters.backbone, len(self.channels), len(view.classes), parameters.head.name, parameters.head.scale,
            parameters.head.margin, len(view.cell_types) if parameters.cell_type == "one_hot" else 0,
        )  # fmt: skip
        training = parameters.recipe()
        self.facts = {
            "deepnoise": __version__,
            "fold": view.fold,
            "cell_type": view.cell_type,
            "cell_types": view.cell_types,
            "network": asdict(self.spec),
            "channels": self.channels,
            "image_size": list(self.labelled.batch(np.array([0])).images.shape[2:]),
            "classes": view.classes,
            "targets": view.targets,
            "normalization": {
                part: str(statistics[part].iloc[0]) for part in ("strategy", "reference", "illumination")
            },
            "tier": tier_of_training(
                str(statistics["tier"].iloc[0]),
                parameters.unlabelled_source,
                parameters.mean_teacher.pseudo_labels.method,
            ),
            "training_plates": view.training_plates,
            "fingerprints": {
                "folds": fingerprint(view.training_plates, sorted(set(view.validation["experiment"]))),
                "parameters": fingerprint(training),
                "statistics": fingerprint(statistics_of_plates(statistics, view.training_plates)),
                "data": fingerprint(view.labelled, view.unlabelled),
                "pixels": fingerprint(checksums(store, view.labelled), checksums(store, view.unlabelled)),
            },
            "parameters": training,
        }
        self.mark = fingerprint({k: v for k, v in self.facts.items() if k != "parameters"})

    def new_network(self, pretrained_weights: str = "none") -> Network:
        """A freshly drawn network; the seed and the fold decide its weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.parameters.seed * 1000 + self.view.fold)
            network = Network(self.spec, pretrained_weights)
        return to_device(network, self.device, self.parameters.channels_last)

    def generator(self, stage: str, epoch: int) -> torch.Generator:
        """The source of all randomness of one epoch."""
        name = f"{self.parameters.seed}/{self.view.fold}/{stage}/{epoch}"
        return torch.Generator().manual_seed(zlib.crc32(name.encode()))

    @property
    def pure(self) -> bool:
        """Whether a batch is of one experiment or plate."""
        return self.parameters.batches != "mixed"

    def labelled_order(self, generator: torch.Generator) -> list[np.ndarray]:
        """The labelled batches of an epoch."""
        wells = pd.factorize(self.view.labelled["id_code"])[0] if self.parameters.sites_per_epoch == "one" else None
        return labelled_stream(self.units, self.parameters.batch_size, generator, wells)

    def unlabelled_order(self, labelled: list[np.ndarray], generator: torch.Generator) -> list[np.ndarray]:
        """An unlabelled batch beside each labelled one, in the stated ratio."""
        size = round(self.parameters.batch_size * self.parameters.mean_teacher.unlabelled_ratio)
        own_units = batch_group(self.view.unlabelled, self.parameters.batches)
        return unlabelled_stream(labelled, self.units, own_units, size, generator)

    def pixels(self, batch: Batch, generator: torch.Generator | None = None) -> torch.Tensor:
        """Normalized images on the device, jittered in training."""
        jitter = self.parameters.augmentation.statistics_jitter if generator is not None else 0.0
        return self.laid_out(normalize(batch.to(self.device), self.strategy, jitter, generator))

    def laid_out(self, images: torch.Tensor) -> torch.Tensor:
        """Images in the memory format of the network."""
        form = torch.channels_last if self.parameters.channels_last else torch.contiguous_format
        return images.contiguous(memory_format=form)

    def autocast(self) -> torch.autocast:
        """The precision of a forward pass."""
        return autocast(self.device, self.parameters.precision)

    def cross_entropy(
        self,
        network: Network,
        features: torch.Tensor,
        cell_type: torch.Tensor,
        target: torch.Tensor,
        mixed: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """The supervised loss: margin on the true class; of a mixed image that of both its classes, by their shares."""

        def loss(goal: torch.Tensor) -> torch.Tensor:
            logits = network.classify(features, cell_type, goal)
            smoothing = self.parameters.label_smoothing
            return F.cross_entropy(logits, goal, label_smoothing=smoothing, reduction="none")

        if mixed is None:
            return loss(target).mean()
        partner, share = (part.to(self.device) for part in mixed)
        return (share * loss(target) + (1 - share) * loss(target[partner])).mean()

    def draw_view(self, images: torch.Tensor, strength: Strength, generator: torch.Generator) -> torch.Tensor:
        """One random view: a normal one is a weak one with erasing, a strong one has a random crop too."""
        own = self.parameters.augmentation
        return random_view(
            images, turns=own.dihedral, strength=own.shift_scale, erase_chance=0.0 if strength == "weak" else own.erase,
            crop=strength == "strong", generator=generator,
        )  # fmt: skip

    def mixed(
        self, images: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None]:
        """Images after CutMix or MixUp, with partner and share; as they are where both are off."""
        own = self.parameters.augmentation
        if not own.mixup and not own.cutmix:
            return images, None
        images, partner, share = mix(images, own.mixup, own.cutmix, generator)
        return self.laid_out(images), (partner, share)

    @torch.inference_mode()
    def logits(self, network: Network, images: SiteImages, generator: torch.Generator | None = None) -> np.ndarray:
        """(N, K) logits of all images in one view, a random weak one where a generator is given.

        Where training batches are pure, BatchNorm statistics are those of each experiment's or plate's own images.
        """
        names = batch_group(images.sites, self.parameters.batches)
        units = pd.Series(range(len(names))).groupby(names).indices.values()
        network = copy.deepcopy(network).eval() if self.pure else network.eval()
        out = np.empty((len(names), self.spec.classes), np.float32)
        for batch, x in adapted_batches(network, images, units, CHUNK, self.pixels, adapt=self.pure):
            if generator is not None:
                x = self.laid_out(self.draw_view(x, "weak", generator))
            with self.autocast():
                out[batch.index] = network(x, batch.cell_type.to(self.device)).float().cpu().numpy()
        return out

    def validation_score(self, network: Network) -> float | None:
        """Top-1 of single sites in one view, on validation plates: a T1 score that knows no plate design."""
        if self.view.validation.empty:
            return None
        called = self.logits(network, self.validation)[:, : len(self.view.targets)].argmax(axis=1)
        return float((called == self.view.validation["label"].to_numpy()).mean())

    def trained(self, network: Network, **facts: Any) -> TrainedModel:
        """A model with its facts."""
        weights = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
        return TrainedModel(weights, self.facts | facts)
