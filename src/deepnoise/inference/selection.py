"""Which sites a model predicts."""

from __future__ import annotations

import pandas as pd

from deepnoise.errors import InputError, closest, first_few
from deepnoise.network.trained_model import ModelCard


def select_sites(sites: pd.DataFrame, only: str) -> pd.Series:
    """(S,) bool: the sites of ``EXPERIMENT``, ``EXPERIMENT/PLATE`` or ``EXPERIMENT/PLATE/WELL``; all if nothing is named.

    Raises:
        InputError: No site has that name.
    """
    selected = pd.Series(True, index=sites.index)
    for column, name in zip(("experiment", "plate", "well"), only.split("/") if only else (), strict=False):
        candidates = set(sites.loc[selected, column])
        selected &= sites[column] == name
        if not selected.any():
            raise InputError(
                f"inference.only is {only!r}, but there is no {column} {name!r}; there are {first_few(sorted(candidates))}.{closest(name, candidates)}"
            )
    return selected


def sites_to_predict(
    card: ModelCard, sites: pd.DataFrame, wells: pd.DataFrame, folds: pd.DataFrame, seen_experiments: int = 0
) -> pd.DataFrame:
    """The sites of plates that the model was not trained on, with their role, and some of the others.

    A plate without a row in ``folds`` (a new one) counts as held out.

    Args:
        card: Of the model.
        sites: The table ``sites``.
        wells: The table ``wells``.
        folds: The table ``folds``.
        seen_experiments: How many training experiments of each cell type are predicted too, the first by name. Where training was
            confined to some sites of a well, only the other sites of these are predicted.

    Returns:
        Rows of ``sites`` with ``role`` and ``plate_seen`` (images of the plate were in the training, labelled or not). A specialist
        predicts its own cell type alone.

    Raises:
        InputError: ``folds`` holds out a plate that this model was trained on.
    """
    roles = folds.loc[folds["fold"] == card.fold, ["experiment", "plate", "role"]]
    rows = sites.merge(roles, on=["experiment", "plate"], how="left")
    cell_type = rows["id_code"].map(wells.set_index("id_code")["cell_type"])
    if card.cell_type:
        is_specialty = cell_type == card.cell_type
        rows, cell_type = rows[is_specialty], cell_type[is_specialty]
    rows["role"] = rows["role"].fillna("heldout")
    _check_roles(card, rows)
    training = rows[rows["role"] == "train"].drop_duplicates("experiment").sort_values("experiment")
    seen = training.groupby(cell_type[training.index]).head(seen_experiments)["experiment"]
    is_predicted = (rows["role"] != "train") | rows["experiment"].isin(seen)
    trained_sites = card.parameters.get("sites", "all")
    if trained_sites != "all":
        is_predicted &= (rows["role"] != "train") | ~rows["site"].isin(trained_sites)
    source = card.parameters["unlabelled_source"]
    unlabelled_role = "train" if source == "training" else source
    rows["plate_seen"] = rows["role"].isin(["train", unlabelled_role])
    return rows[is_predicted].reset_index(drop=True)


def _check_roles(card: ModelCard, rows: pd.DataFrame) -> None:
    plate = rows["experiment"] + "/" + rows["plate"]
    conflict = rows["role"].isin(["heldout", "validation"]) & plate.isin(set(card.training_plates))
    if conflict.any():
        raise InputError(
            f"the entry folds says {rows.loc[conflict, 'role'].iloc[0]} of plate {plate[conflict].iloc[0]} in fold {card.fold}, but the "
            "model was trained on it; run training again, or load the folds of that model's run"
        )
