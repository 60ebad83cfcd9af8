"""What the teacher says of the unlabelled wells, made into targets for the student (method: section 4)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from deepnoise.ingestion.layouts import discover_groups
from deepnoise.parameters import PlateBalancingParameters, PseudoLabelParameters
from deepnoise.plate_balancing.balancing import DesignKnowledge, balance
from deepnoise.tables import SCORE, prefixed
from deepnoise.training import schedules
from deepnoise.training.fold_view import FoldView

WELL = ["id_code", "experiment", "plate", "well", "target"]
BALANCING = PlateBalancingParameters(
    pooling="logits", temperature=1.0, unlisted=0.0, group_inference="infer", group_statistic="auto", group_posterior=0.95,
    method="sinkhorn", compare=[], precision=1.0,
)  # fmt: skip
"""How balanced pseudo-labels are made; without groups all perturbations are of one."""


class PseudoLabels:
    """The teacher's present opinion, and how it is renewed.

    Args:
        view: What training may see; plate groups are read from its labelled wells.
        parameters: The block ``pseudo_labels``.
    """

    def __init__(self, view: FoldView, parameters: PseudoLabelParameters) -> None:
        self.parameters = parameters
        self.classes, self.targets = view.classes, len(view.targets)
        self.wells = view.unlabelled[WELL].drop_duplicates("id_code").reset_index(drop=True)
        number = pd.Series(np.arange(len(self.wells)), index=self.wells["id_code"])
        self._well = number.reindex(view.unlabelled["id_code"]).to_numpy(np.int64, copy=True)
        known = view.labelled.drop_duplicates("id_code")
        names = np.array(view.classes, dtype=object)[known["label"]]
        self._layout = discover_groups(known.assign(perturbation=names))
        if not parameters.groups:
            self._layout["group"] = 0
        self.logits: torch.Tensor | None = None  # (W, K) float32, of wells
        self.of_site: torch.Tensor | None = None  # (U,) int64 classes, or with soft labels (U, K) float32

    def due(self, epoch: int, improved: bool) -> bool:
        """Whether the labels are to be renewed before an epoch."""
        own = self.parameters
        if own.method == "none" or not len(self.wells) or epoch < own.start:
            return False
        if self.logits is None:
            return True
        return improved if own.refresh == "improved" else (epoch - own.start) % own.refresh == 0

    def weight(self, epoch: float) -> float:
        """Weight of the labels at a fractional epoch; 0 before there are any."""
        own = self.parameters
        known = self.of_site is not None
        return schedules.pseudo_label_weight(epoch, own.start, own.ramp_epochs, own.weight) if known else 0.0

    def renew(self, sites: np.ndarray) -> torch.Tensor:
        """Take the teacher's opinion anew.

        Args:
            sites: (U, K) logits of all sites, the mean over views.

        Returns:
            (W, K) float32 logits of the wells, from which :meth:`restore` makes the same labels again.
        """
        count = np.bincount(self._well, minlength=len(self.wells))
        fresh = np.zeros((len(self.wells), len(self.classes)), np.float64)
        np.add.at(fresh, self._well, sites)
        fresh /= count[:, None]
        if self.logits is not None:
            memory = self.parameters.memory
            fresh = (1 - memory) * fresh + memory * self.logits.double().numpy()
        logits = torch.from_numpy(fresh.astype(np.float32))
        self.restore(logits)
        return logits

    def restore(self, logits: torch.Tensor) -> None:
        """Make the labels that follow from (W, K) logits of wells.

        A treated well is called among the targets, a control well among the controls. Treated wells go through plate balancing's
        own functions, plate by plate.
        """
        own = self.parameters
        self.logits = logits
        scores = logits.double().numpy()
        treated = self.wells["target"].to_numpy(bool)
        allowed = (np.arange(len(self.classes)) < self.targets)[None] == treated[:, None]
        scores = np.where(allowed, scores, -np.inf)
        probability = np.exp(scores - scores.max(axis=1, keepdims=True))
        probability /= probability.sum(axis=1, keepdims=True)
        if own.method in ("balanced", "soft") and treated.any():
            names = self.classes[: self.targets]
            part = self.wells[treated].drop(columns="target").reset_index(drop=True).assign(role="heldout", tier="T1")
            part = pd.concat([part, prefixed(scores[treated][:, : self.targets], names, SCORE, part.index)], axis=1)
            balanced = balance(part, DesignKnowledge(self._layout), BALANCING)
            probability[treated, : self.targets] = balanced.probabilities(BALANCING.method)
        by_well = (
            torch.from_numpy(probability.astype(np.float32))
            if own.method == "soft"
            else torch.from_numpy(probability.argmax(axis=1))
        )
        self.of_site = by_well[torch.from_numpy(self._well)]
