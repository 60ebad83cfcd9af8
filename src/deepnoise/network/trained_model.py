"""A trained model as it is passed between nodes and kept on disk. Free of torch, so that pipelines load fast."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from deepnoise.errors import InputError, first_few

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NetworkSpec:
    """What builds a network."""

    backbone: str  # name in timm
    channels: int
    classes: int
    head: str  # key of deepnoise.network.heads.HEADS
    scale: float
    margin: float  # radians


@dataclass(frozen=True)
class ModelCard:
    """What must be known of a trained model before it may be used; the JSON beside its weights."""

    deepnoise: str  # version that trained it
    fold: int
    cell_type: str  # of a specialist; "" for a model of all cell types
    network: NetworkSpec
    channels: list[str]
    image_size: list[int]  # [H, W]
    classes: list[str]  # targets first, then controls
    targets: list[str]
    normalization: dict[str, str]  # strategy, reference, illumination
    tier: str  # of every score of this model
    training_plates: list[str]  # "experiment/plate"
    fingerprints: dict[str, str]  # folds, parameters, statistics, data, pixels
    parameters: dict[str, Any] = field(repr=False)  # the block ``training``, without device, cache and TensorBoard
    stage: str = ""  # pretrain or mean_teacher
    epoch: int = -1
    validation_top1: float | None = None
    loader_wait: float = 0.0  # share of the training time that steps waited for images
    network_role: str = ""  # student or average

    @classmethod
    def from_json(cls, content: Mapping[str, Any], source: str = "the model's JSON") -> ModelCard:
        """The card from its JSON, also from one written by an earlier version.

        Args:
            content: Keys as :meth:`to_json` gives them. ``validation_t1``, the earlier name of ``validation_top1``, is read too.
            source: What to call the JSON in an error.

        Raises:
            InputError: A key is missing, or the network is of a kind that was removed.
        """
        values = {RENAMED_KEYS.get(key, key): value for key, value in content.items()}
        defaults = {"cell_type": "", "deepnoise": "unknown"}
        values = defaults | values
        known = {f.name for f in fields(cls)}
        required = {"network", "fold", "classes", "targets", "channels", "image_size", "normalization", "tier"} | {
            "training_plates", "fingerprints", "parameters",
        }  # fmt: skip
        if missing := sorted(required - values.keys()):
            raise InputError(f"{source}: {missing[0]!r} is missing; expected {', '.join(sorted(known))}")
        if unknown := sorted(values.keys() - known - {"cell_types"}):
            logger.warning("%s: unknown keys are left out: %s", source, first_few(unknown))
        # models made before there was a choice do not name it
        normalization = {"strategy": "none", "reference": "none", "illumination": "none", **values["normalization"]}
        values = {key: value for key, value in values.items() if key in known}
        network = dict(values["network"])
        if network.pop("cell_types", 0):  # an option of earlier versions
            raise InputError(
                f"{source}: the network is conditioned on the cell type (one_hot), which was removed; train it again with "
                "training.cell_type none or specialist"
            )
        return cls(**values | {"network": NetworkSpec(**network), "normalization": normalization})

    def to_json(self) -> dict[str, Any]:
        """The card as JSON-like values."""
        return asdict(self)

    def identity(self) -> dict[str, Any]:
        """What the trained weights depend on, JSON-like: data, folds, parameters by their fingerprints, and the network."""
        content = self.to_json()
        return {key: content[key] for key in IDENTITY}

    def with_result(self, **values: Any) -> ModelCard:
        """The card with what is known after training: stage, epoch, validation_top1, loader_wait, network_role."""
        return replace(self, **values)


RENAMED_KEYS = {"validation_t1": "validation_top1"}
"""Key in the JSON of an earlier version -> today's."""
IDENTITY = (
    "deepnoise", "fold", "cell_type", "network", "channels", "image_size", "classes", "targets", "normalization",
    "tier", "training_plates", "fingerprints",
)  # fmt: skip


@dataclass
class TrainedModel:
    """Weights and the card without which they must not be used."""

    weights: dict[str, Any]  # name -> torch tensor
    card: ModelCard
