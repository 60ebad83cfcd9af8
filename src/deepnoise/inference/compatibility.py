"""Whether a model fits the images it is given, and whether its adaptation to them can be trusted."""

from __future__ import annotations

import numpy as np
import pandas as pd

from deepnoise.errors import InputError, first_few
from deepnoise.fingerprint import fingerprint
from deepnoise.ingestion.layouts import repeated_units
from deepnoise.network.trained_model import ModelCard
from deepnoise.normalization.statistics import STRATEGIES, statistics_of_plates
from deepnoise.screen import Screen
from deepnoise.tables import SCORE, class_names, matrix
from deepnoise.tiers import over_unit

ADAPTATION_GROUPS = {"none": [], "experiment": ["experiment"], "plate": ["experiment", "plate"]}
"""Value of ``inference.adabn`` -> columns whose wells share their BatchNorm statistics."""


def tier_of_prediction(card: ModelCard, adabn: str, wells: pd.DataFrame) -> str:
    """Tier of a prediction (method: section 7).

    AdaBN reads the other images of the plate or experiment, which turns T0 into T1. Where these units repeat their contents, plate
    design is not excluded; nor is it where the model's normalization pools such units.

    Args:
        card: Of the model.
        adabn: What shares its BatchNorm statistics: none, experiment or plate.
        wells: The table ``wells``.
    """
    repeated = repeated_units(wells)
    pool = STRATEGIES[card.normalization["strategy"]].pool or ()
    tier = card.tier
    if "experiment" in pool and card.normalization["reference"] == "all":
        tier = over_unit(tier, "plate" if "plate" in pool else "experiment", repeated)
    return tier if adabn == "none" else over_unit(tier, adabn, repeated)


def adabn_of(card: ModelCard, adabn: str) -> str:
    """``auto``: adapt to what shared a batch in training, the experiment or plate; ``none`` if batches were mixed."""
    if adabn != "auto":
        return adabn
    batches = card.parameters.get("batches", "mixed")
    return "none" if batches == "mixed" else batches


def check_compatible(card: ModelCard, screen: Screen) -> None:
    """Refuse a model that was not made for these images.

    The labels of plates that train in the model's fold must be its classes.

    Raises:
        InputError: Names what differs, with the model's value and the screen's.
    """

    def refuse(what: str, of_model: object, of_screen: object) -> None:
        raise InputError(
            f"the model does not fit this screen: {what} of the model is {of_model}, of the screen {of_screen}; "
            "choose the environment it was trained in, or train a model here"
        )

    channels, image_size = list(screen.images.channels), list(screen.images.shape[1:])
    if list(card.channels) != channels:
        refuse("the channel list", card.channels, channels)
    if list(card.image_size) != image_size:
        refuse("the image size", card.image_size, image_size)
    for name in ("strategy", "reference", "illumination"):
        of_screen = str(screen.statistics[name].iloc[0])
        if card.normalization[name] != of_screen:
            refuse(f"the normalization {name}", card.normalization[name], of_screen)
    _check_statistics(card, screen.statistics)
    training_plates = screen.folds[(screen.folds["fold"] == card.fold) & (screen.folds["role"] == "train")]
    labelled = screen.wells[screen.wells["target"]].merge(
        training_plates[["experiment", "plate"]], on=["experiment", "plate"]
    )
    unknown = set(labelled["perturbation"].dropna()) - set(card.targets)
    if unknown:
        refuse(
            "the class set", f"{len(card.targets)} perturbations without {first_few(sorted(unknown))}", "one that has them"
        )  # fmt: skip


def _check_statistics(card: ModelCard, statistics: pd.DataFrame) -> None:
    """Compare the statistics of the training plates; a screen of new plates alone has none of them."""
    of_training = statistics_of_plates(statistics, card.training_plates)
    complete = len(of_training.drop_duplicates(["experiment", "plate"])) == len(card.training_plates)
    if complete and fingerprint(of_training) != card.fingerprints["statistics"]:
        raise InputError(
            "the model does not fit this screen: plate_statistics of the plates it was trained on are not those of its training "
            "(other images, or another normalization); run training again"
        )


def partial_plates(predicted: pd.DataFrame, sites: pd.DataFrame, training_plates: list[str]) -> list[str]:
    """Warnings on plates with fewer than half the wells of a training plate: AdaBN adapts to these few.

    Args:
        predicted: The sites that are read.
        sites: The table ``sites``.
        training_plates: ``experiment/plate`` of the model. If none of them is in ``sites``, all its plates serve for comparison.
    """
    wells_per_plate = sites.groupby(["experiment", "plate"])["id_code"].nunique()
    of_training = wells_per_plate[[f"{e}/{p}" in set(training_plates) for e, p in wells_per_plate.index]]
    usual = float((of_training if len(of_training) else wells_per_plate).median())
    predicted_wells = predicted.groupby(["experiment", "plate"])["id_code"].nunique()
    return [
        f"plate {e}/{p} has {n} wells with images, a training plate has {usual:.0f}: AdaBN adapts to these few; compare with "
        "inference.adabn none"
        for (e, p), n in predicted_wells[predicted_wells < usual / 2].items()
    ]


def skewed_plates(logits: pd.DataFrame, adabn: str, largest_share: float = 1 / 3, min_wells: int = 10) -> list[str]:
    """Warnings on plates where one perturbation is predicted for most wells: AdaBN would remove its effect as noise.

    Args:
        logits: The table ``site_logits``.
        adabn: What the model adapted to; ``none`` gives no warnings.
        largest_share: Share of a plate's wells above which it is reported.
        min_wells: Plates with fewer wells are not judged.
    """
    if adabn == "none":
        return []
    wells = logits.assign(call=matrix(logits, SCORE).argmax(axis=1)).drop_duplicates(["fold", "id_code"])
    warnings = []
    for (experiment, plate), plate_wells in wells.groupby(["experiment", "plate"]):
        shares = plate_wells["call"].value_counts(normalize=True)
        if len(plate_wells) >= min_wells and shares.iloc[0] > largest_share:
            name = np.array(class_names(logits))[shares.index[0]]
            warnings.append(
                f"plate {experiment}/{plate}: {shares.iloc[0]:.0%} of {len(plate_wells)} wells are called {name}; if one perturbation fills "
                "the plate, AdaBN removes its effect as noise: compare with inference.adabn none"
            )
    return warnings
