"""Does a model fit the images it is given, and is its adaptation to be trusted there?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from deepnoise.errors import InputError, first_few
from deepnoise.fingerprint import fingerprint
from deepnoise.normalization.statistics import statistics_of_plates
from deepnoise.tables import SCORE, class_names, matrix


def tier_of_prediction(tier: str, adabn: str) -> str:
    """Tier of a prediction: AdaBN reads the other images of the plate or experiment, which makes T0 to T1 (method: section 7)."""
    return "T1" if tier == "T0" and adabn != "none" else tier


def adabn_of(facts: Mapping[str, Any], adabn: str) -> str:
    """``auto``: the unit whose images made the batches of the model's training; ``none`` where they were mixed."""
    if adabn != "auto":
        return adabn
    return {"mixed": "none"}.get(unit := facts["parameters"].get("batches", "mixed"), unit)


def check_compatible(
    facts: Mapping[str, Any],
    channels: list[str],
    shape: tuple[int, ...],
    statistics: pd.DataFrame,
    wells: pd.DataFrame,
    folds: pd.DataFrame,
) -> None:
    """Refuse a model that was not made for these images.

    Args:
        facts: JSON of the model.
        channels: Channels of the image store.
        shape: (H, W) of its images.
        statistics: The table ``plate_statistics``.
        wells: The table ``wells``.
        folds: The table ``folds``; the labels of plates that train in the model's fold must be its classes.

    Raises:
        InputError: Names what does not fit, the model's value and the screen's.
    """

    def refuse(what: str, model: object, screen: object) -> None:
        raise InputError(
            f"the model does not fit this screen: {what} of the model is {model}, of the screen {screen}; "
            "choose the environment it was trained in, or train a model here"
        )

    if list(facts["channels"]) != list(channels):
        refuse("the channel list", facts["channels"], channels)
    if list(facts["image_size"]) != list(shape):
        refuse("the image size", facts["image_size"], list(shape))
    for part in ("strategy", "reference", "illumination"):
        here = str(statistics[part].iloc[0])
        if facts["normalization"].get(part, "none") != here:  # "none": a model from before there was a choice
            refuse(f"the normalization {part}", facts["normalization"].get(part, "none"), here)
    trained = statistics_of_plates(statistics, facts["training_plates"])  # none of them on a screen of new plates alone
    complete = len(trained.drop_duplicates(["experiment", "plate"])) == len(facts["training_plates"])
    if complete and fingerprint(trained) != facts["fingerprints"]["statistics"]:
        raise InputError(
            "the model does not fit this screen: plate_statistics of the plates it was trained on are not those of its training "
            "(other images, or another normalization); run training again"
        )
    trains = folds[(folds["fold"] == facts["fold"]) & (folds["role"] == "train")]
    known = wells[wells["target"]].merge(trains[["experiment", "plate"]], on=["experiment", "plate"])
    strange = set(known["perturbation"].dropna()) - set(facts["targets"])
    if strange:
        refuse(
            "the class set",
            f"{len(facts['targets'])} perturbations without {first_few(sorted(strange))}",
            "one that has them",
        )


def partial_plates(asked: pd.DataFrame, sites: pd.DataFrame, training_plates: list[str]) -> list[str]:
    """Plates that AdaBN adapts to on less than half the wells of a training plate: their statistics are those of few wells.

    Args:
        asked: The sites that are read.
        sites: The table ``sites``.
        training_plates: ``experiment/plate`` of the model; where none is in ``sites``, all plates of it are compared with.
    """
    count = sites.groupby(["experiment", "plate"])["id_code"].nunique()
    trained = count[[f"{e}/{p}" in set(training_plates) for e, p in count.index]]
    usual = float((trained if len(trained) else count).median())
    own = asked.groupby(["experiment", "plate"])["id_code"].nunique()
    return [
        f"plate {e}/{p} has {n} wells with images, a plate of the training {usual:.0f}: AdaBN adapts to these few; compare with "
        "inference.adabn none"
        for (e, p), n in own[own < usual / 2].items()
    ]


def skewed_plates(logits: pd.DataFrame, adabn: str, share: float = 1 / 3, least_wells: int = 10) -> list[str]:
    """Plates most of whose wells are called one perturbation: AdaBN takes such a plate's biology for its noise.

    Args:
        logits: The table ``site_logits``.
        adabn: What was adapted to; nothing is said where nothing was.
        share: Of the wells, from which on a plate is named.
        least_wells: Plates with fewer wells are not judged.
    """
    if adabn == "none":
        return []
    wells = logits.assign(call=matrix(logits, SCORE).argmax(axis=1)).drop_duplicates(["fold", "id_code"])
    found = []
    for (experiment, plate), own in wells.groupby(["experiment", "plate"]):
        most = own["call"].value_counts(normalize=True)
        if len(own) >= least_wells and most.iloc[0] > share:
            name = class_names(logits)[most.index[0]]
            found.append(
                f"plate {experiment}/{plate}: {most.iloc[0]:.0%} of {len(own)} wells are called {name}; if one perturbation fills "
                "the plate, AdaBN takes what it does for noise: compare with inference.adabn none"
            )
    return found
