"""Pseudo-labels: the teacher's predictions for unlabelled wells as targets of the student (method: section 4)."""

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

WELL_COLUMNS = ["id_code", "experiment", "plate", "well", "target"]
BALANCING = PlateBalancingParameters(
    pooling="logits", temperature=1.0, unlisted=0.0, group_inference="infer", group_statistic="auto", group_posterior=0.95,
    method="sinkhorn", compare=[], precision=1.0,
)  # fmt: skip
"""How balanced pseudo-labels are made. Without plate groups, all perturbations are in one group."""


class PseudoLabels:
    """The teacher's current predictions for the unlabelled wells, and their refresh.

    Args:
        view: What training may see; plate groups are discovered from its labelled wells.
        parameters: The block ``pseudo_labels``.
    """

    def __init__(self, view: FoldView, parameters: PseudoLabelParameters) -> None:
        self.parameters = parameters
        self.classes, self.target_count = view.classes, len(view.targets)
        self.wells = view.unlabelled[WELL_COLUMNS].drop_duplicates("id_code").reset_index(drop=True)
        well_number = pd.Series(np.arange(len(self.wells)), index=self.wells["id_code"])
        self._well_of_site = well_number.reindex(view.unlabelled["id_code"]).to_numpy(np.int64, copy=True)
        labelled = view.labelled.drop_duplicates("id_code")
        names = np.array(view.classes, dtype=object)[labelled["label"]]
        self._layout = discover_groups(labelled.assign(perturbation=names))
        if not parameters.groups:
            self._layout["group"] = 0
        self.logits: torch.Tensor | None = None  # (W, K) float32, of wells
        self.target_of_site: torch.Tensor | None = None  # (U,) int64 classes

    def needs_refresh(self, epoch: int, improved: bool) -> bool:
        """Whether the labels are recomputed before an epoch."""
        parameters = self.parameters
        if parameters.method == "none" or not len(self.wells) or epoch < parameters.start:
            return False
        if self.logits is None:
            return True
        if parameters.refresh == "improved":
            return improved
        return (epoch - parameters.start) % parameters.refresh == 0

    def weight(self, epoch: float) -> float:
        """Weight of the labels at a fractional epoch; 0 before there are any."""
        if self.target_of_site is None:
            return 0.0
        parameters = self.parameters
        return schedules.pseudo_label_weight(epoch, parameters.start, parameters.ramp_epochs, parameters.weight)

    def refresh(self, site_logits: np.ndarray) -> torch.Tensor:
        """Recompute pseudo-labels from the teacher's logits.

        Args:
            site_logits: (U, K) logits of all sites, averaged over views.

        Returns:
            (W, K) float32 logits of the wells, from which :meth:`set_logits` makes the same labels again.
        """
        sites_per_well = np.bincount(self._well_of_site, minlength=len(self.wells))
        well_logits = np.zeros((len(self.wells), len(self.classes)), np.float64)
        np.add.at(well_logits, self._well_of_site, site_logits)
        well_logits /= sites_per_well[:, None]
        if self.logits is not None:
            memory = self.parameters.memory
            well_logits = (1 - memory) * well_logits + memory * self.logits.double().numpy()
        logits = torch.from_numpy(well_logits.astype(np.float32))
        self.set_logits(logits)
        return logits

    def set_logits(self, logits: torch.Tensor) -> None:
        """Make the labels that follow from (W, K) logits of wells.

        A treated well can only be a target, a control well only a control. Treated wells are balanced plate by plate, with the
        functions of plate balancing.
        """
        parameters = self.parameters
        self.logits = logits
        scores = logits.double().numpy()
        treated = self.wells["target"].to_numpy(bool)
        allowed = (np.arange(len(self.classes)) < self.target_count)[None] == treated[:, None]
        scores = np.where(allowed, scores, -np.inf)
        probability = np.exp(scores - scores.max(axis=1, keepdims=True))
        probability /= probability.sum(axis=1, keepdims=True)
        if parameters.method == "balanced" and treated.any():
            targets = self.classes[: self.target_count]
            table = self.wells[treated].drop(columns="target").reset_index(drop=True).assign(role="heldout", tier="T1")
            target_scores = prefixed(scores[treated][:, : self.target_count], targets, SCORE, table.index)
            balanced = balance(pd.concat([table, target_scores], axis=1), DesignKnowledge(self._layout), BALANCING)
            probability[treated, : self.target_count] = balanced.probabilities(BALANCING.method)
        of_well = torch.from_numpy(probability.argmax(axis=1))
        self.target_of_site = of_well[torch.from_numpy(self._well_of_site)]
