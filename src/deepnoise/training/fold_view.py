"""What a training run may see of the screen, and the tier that follows from it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd

from deepnoise.errors import InputError
from deepnoise.tables import natural_order


@dataclass(frozen=True)
class FoldView:
    """What one training run may see of the screen.

    ``labelled`` has a column ``label`` (class number). ``unlabelled`` has no labels at all; ``target`` tells treated
    wells from controls, and ``cell_type`` (a number) the cells, which the plate map says of every well. ``validation`` has labels
    that only the validation score reads.
    """

    fold: int
    classes: list[str]  # targets first, then controls
    targets: list[str]
    cell_types: list[str]
    labelled: pd.DataFrame
    unlabelled: pd.DataFrame
    validation: pd.DataFrame
    training_plates: list[str]
    cell_type: str = ""  # of a specialist

    @property
    def name(self) -> str:
        """Name of the model that is trained on it."""
        return f"fold_{self.fold}" + (f"_{self.cell_type}" if self.cell_type else "")

    def of_cell_type(self, name: str) -> FoldView:
        """What the specialist of one cell type may see; the classes stay those of the whole fold."""
        number = self.cell_types.index(name)
        own = [
            table[table["cell_type"] == number].reset_index(drop=True)
            for table in (self.labelled, self.unlabelled, self.validation)
        ]
        plates = sorted(set(own[0]["experiment"] + "/" + own[0]["plate"]))
        return replace(
            self, labelled=own[0], unlabelled=own[1], validation=own[2], training_plates=plates, cell_type=name
        )


def fold_view(
    sites: pd.DataFrame,
    wells: pd.DataFrame,
    folds: pd.DataFrame,
    fold: int,
    unlabelled_source: str,
    trained_sites: list[int] | str = "all",
) -> FoldView:
    """Cut the screen down to what a fold may train on.

    Labels of held-out plates are dropped here, so a cross-validated screen is as blind as one whose labels
    are withheld; validation plates never enter the unlabelled stream.

    Args:
        sites: The table ``sites``.
        wells: The table ``wells``.
        folds: The table ``folds``.
        fold: Number of the fold.
        unlabelled_source: ``none``, ``training`` (its own images, without labels) or ``heldout``.
        trained_sites: Site numbers of the training plates that are trained on, or ``all``.
    """
    own = folds.loc[folds["fold"] == fold, ["experiment", "plate", "role", "cell_type"]]
    joined = sites.merge(own, on=["experiment", "plate"])
    joined = joined.merge(wells[["id_code", "perturbation", "target"]], on="id_code")
    if trained_sites != "all":
        joined = joined[(joined["role"] != "train") | joined["site"].isin(trained_sites)]
    trains = (joined["role"] == "train") & joined["perturbation"].notna()
    if not trains.any():
        raise InputError(f"fold {fold} has no labelled images to train on; see the entries folds and ingestion_report")
    cell_types = natural_order(joined.loc[trains, "cell_type"])
    joined["cell_type"] = joined["cell_type"].map({name: i for i, name in enumerate(cell_types)}).fillna(-1).astype(int)
    train = joined[trains]
    targets = natural_order(train.loc[train["target"], "perturbation"])
    controls = natural_order(train.loc[~train["target"], "perturbation"])
    classes = targets + controls
    number = {name: i for i, name in enumerate(classes)}
    plain = [*sites.columns, "target", "cell_type"]
    validation = joined[(joined["role"] == "validation") & joined["target"]]
    source = {"none": None, "training": "train", "heldout": "heldout"}[unlabelled_source]
    return FoldView(
        fold=fold,
        classes=classes,
        targets=targets,
        cell_types=cell_types,
        labelled=train[plain].assign(label=train["perturbation"].map(number)).reset_index(drop=True),
        unlabelled=joined.loc[joined["role"] == source, plain].reset_index(drop=True),
        validation=validation[plain]
        .assign(label=validation["perturbation"].map(number).fillna(-1))
        .reset_index(drop=True),
        training_plates=sorted({f"{e}/{p}" for e, p in zip(train["experiment"], train["plate"], strict=True)}),
    )


def tier_of_training(normalization_tier: str, unlabelled_source: str, pseudo_labels: str) -> str:
    """Tier of every score of a model trained this way (method: section 7)."""
    if unlabelled_source != "heldout":
        return normalization_tier
    return "T2+T3" if pseudo_labels in ("balanced", "soft") else "T3"
