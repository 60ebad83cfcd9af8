"""Which sites a model predicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from deepnoise.errors import InputError, closest, first_few


def select_sites(sites: pd.DataFrame, only: str) -> pd.Series:
    """(S,) bool: the sites of ``EXPERIMENT``, ``EXPERIMENT/PLATE`` or ``EXPERIMENT/PLATE/WELL``; all where nothing is named.

    Raises:
        InputError: No site has that name.
    """
    named = pd.Series(True, index=sites.index)
    for column, name in zip(("experiment", "plate", "well"), only.split("/") if only else (), strict=False):
        there = sites.loc[named, column]
        named &= sites[column] == name
        if not named.any():
            raise InputError(
                f"inference.only is {only!r}, but there is no {column} {name!r}; there are {first_few(sorted(set(there)))}.{closest(name, set(there))}"
            )
    return named


def sites_to_predict(
    facts: Mapping[str, Any], sites: pd.DataFrame, wells: pd.DataFrame, folds: pd.DataFrame, seen_experiments: int = 0
) -> pd.DataFrame:
    """The sites of plates that the model was not trained on, with their role; and some of the others.

    A plate that no row of ``folds`` names (a new one) counts as held out.

    Args:
        facts: JSON of the model.
        sites: The table ``sites``.
        wells: The table ``wells``.
        folds: The table ``folds``.
        seen_experiments: How many experiments of each cell type that the model was trained on are added, the first by name;
            of these the sites that it was not trained on, where training was confined to some.

    Returns:
        Rows of ``sites`` with ``role``, ``plate_seen`` (images of the plate were in the training, labelled or not) and ``cell_type``,
        the number that the model knows the cells by, -1 for others. A specialist is asked about its own cells alone.

    Raises:
        InputError: ``folds`` holds out a plate that this model was trained on, or the model must be told the cell type and does not know it.
    """
    own = folds.loc[folds["fold"] == facts["fold"], ["experiment", "plate", "role"]]
    asked = sites.merge(own, on=["experiment", "plate"], how="left")
    cells = asked["id_code"].map(wells.set_index("id_code")["cell_type"])
    specialist = facts.get("cell_type", "")
    if specialist:
        asked, cells = asked[cells == specialist], cells[cells == specialist]
    known = {name: i for i, name in enumerate(facts.get("cell_types", []))}
    asked["cell_type"] = cells.map(known).fillna(-1).astype(int)
    strange = asked[asked["cell_type"] < 0]
    if facts["network"].get("cell_types") and len(strange):
        raise InputError(
            f"the model must be told the cell type, and does not know {cells[strange.index[0]]!r} of plate {strange['experiment'].iloc[0]}/"
            f"{strange['plate'].iloc[0]}; it knows {', '.join(known)}. Train with training.cell_type none to call other cells"
        )
    asked["role"] = asked["role"].fillna("heldout")
    trained = set(facts["training_plates"])
    name = asked["experiment"] + "/" + asked["plate"]
    clash = asked["role"].isin(["heldout", "validation"]) & name.isin(trained)
    if clash.any():
        raise InputError(
            f"the entry folds says {asked.loc[clash, 'role'].iloc[0]} of plate {name[clash].iloc[0]} in fold {facts['fold']}, but the "
            "model was trained on it; run training again, or load the folds of that model's run"
        )
    training = asked[asked["role"] == "train"].drop_duplicates("experiment").sort_values("experiment")
    chosen = training.groupby(cells[training.index]).head(seen_experiments)["experiment"]
    kept = (asked["role"] != "train") | asked["experiment"].isin(chosen)
    trained_sites = facts["parameters"].get("sites", "all")
    if trained_sites != "all":
        kept &= (asked["role"] != "train") | ~asked["site"].isin(trained_sites)
    unlabelled = {"training": "train"}.get(
        facts["parameters"]["unlabelled_source"], facts["parameters"]["unlabelled_source"]
    )
    asked["plate_seen"] = asked["role"].isin(["train", unlabelled])
    return asked[kept].reset_index(drop=True)
