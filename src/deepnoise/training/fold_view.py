"""What a training run may see of the screen, and the tier that follows from it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd

from deepnoise.errors import InputError
from deepnoise.ingestion.layouts import visible_labels
from deepnoise.tables import natural_order


@dataclass(frozen=True)
class FoldView:
    """What one training run may see of the screen.

    ``labelled`` has a column ``label`` (class number). ``unlabelled`` has no labels at all; its column ``target`` separates treated
    wells from controls, and ``cell_type`` is what the plate map names for every well. The labels of ``validation`` are read by
    the validation score alone.
    """

    fold: int
    classes: list[str]  # targets first, then controls
    targets: list[str]
    labelled: pd.DataFrame
    unlabelled: pd.DataFrame
    validation: pd.DataFrame
    training_plates: list[str]  # "experiment/plate"
    cell_type: str = ""  # of a specialist

    @property
    def name(self) -> str:
        """Name of the model trained on it."""
        return f"fold_{self.fold}" + (f"_{self.cell_type}" if self.cell_type else "")

    @property
    def cell_types(self) -> list[str]:
        """Cell types of the labelled wells."""
        return natural_order(self.labelled["cell_type"])

    def of_cell_type(self, name: str) -> FoldView:
        """What the specialist of one cell type may see; the classes stay those of the whole fold."""
        labelled, unlabelled, validation = (
            table[table["cell_type"] == name].reset_index(drop=True)
            for table in (self.labelled, self.unlabelled, self.validation)
        )
        plates = sorted(set(labelled["experiment"] + "/" + labelled["plate"]))
        return replace(
            self,
            labelled=labelled,
            unlabelled=unlabelled,
            validation=validation,
            training_plates=plates,
            cell_type=name,
        )


def fold_view(
    sites: pd.DataFrame,
    wells: pd.DataFrame,
    folds: pd.DataFrame,
    fold: int,
    unlabelled_source: str,
    trained_sites: list[int] | str = "all",
) -> FoldView:
    """Restrict the screen to what a fold may train on.

    Labels of held-out plates are dropped here, so a cross-validated screen is as blind as one whose labels are withheld.
    Validation plates never enter the unlabelled stream.

    Args:
        sites: The table ``sites``.
        wells: The table ``wells``.
        folds: The table ``folds``.
        fold: Number of the fold.
        unlabelled_source: ``none``, ``training`` (the fold's own images, without labels) or ``heldout``.
        trained_sites: Site numbers of the training plates that are trained on, or ``all``.

    Raises:
        InputError: The fold has no labelled image to train on.
    """
    roles = folds.loc[folds["fold"] == fold, ["experiment", "plate", "role", "cell_type"]]
    rows = sites.merge(roles, on=["experiment", "plate"])
    visible = visible_labels(wells, folds[folds["fold"] == fold], "validation")
    rows = rows.merge(visible[["id_code", "perturbation", "target"]], on="id_code")
    if trained_sites != "all":
        rows = rows[(rows["role"] != "train") | rows["site"].isin(trained_sites)]
    is_training = (rows["role"] == "train") & rows["perturbation"].notna()
    if not is_training.any():
        raise InputError(f"fold {fold} has no labelled images to train on; see the entries folds and ingestion_report")
    training = rows[is_training]
    targets = natural_order(training.loc[training["target"], "perturbation"])
    controls = natural_order(training.loc[~training["target"], "perturbation"])
    classes = targets + controls
    class_number = {name: i for i, name in enumerate(classes)}
    unlabelled_columns = [*sites.columns, "target", "cell_type"]
    validation = rows[(rows["role"] == "validation") & rows["target"]]
    unlabelled_role = {"none": None, "training": "train", "heldout": "heldout"}[unlabelled_source]
    return FoldView(
        fold=fold,
        classes=classes,
        targets=targets,
        labelled=training[unlabelled_columns]
        .assign(label=training["perturbation"].map(class_number))
        .reset_index(drop=True),
        unlabelled=rows.loc[rows["role"] == unlabelled_role, unlabelled_columns].reset_index(drop=True),
        validation=validation[unlabelled_columns]
        .assign(label=validation["perturbation"].map(class_number).fillna(-1))
        .reset_index(drop=True),
        training_plates=sorted({f"{e}/{p}" for e, p in zip(training["experiment"], training["plate"], strict=True)}),
    )


def tier_of_training(normalization_tier: str, unlabelled_source: str, pseudo_labels: str) -> str:
    """Tier of every score of a model trained this way (method: section 7)."""
    if unlabelled_source != "heldout":
        return normalization_tier
    return "T2+T3" if pseudo_labels == "balanced" else "T3"
