"""A trained model as it travels between nodes and lies on disk. Free of torch, so that pipelines load fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class TrainedModel:
    """Weights and the facts without which they must not be used.

    ``weights`` maps names to torch tensors; ``facts`` is the JSON beside them: network, channels, image size,
    classes, normalization, tier, training plates, fingerprints of folds, parameters and statistics.
    """

    weights: dict[str, Any]
    facts: dict[str, Any]
