"""Leak probes: what can a linear probe still predict of plate, experiment, well position and staining? (method: section 8)"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from deepnoise.evaluation.probe import Probe, Question, ask, verdict
from deepnoise.evaluation.profiles import GROUP, Profiles, centred, class_residuals
from deepnoise.tables import FEATURE
from deepnoise.wells import parse_well

AXES = ("plate", "experiment", "well_row", "well_column", "well_edge", "raw_intensity")
LEAST_BLOCKS = 4  # perturbations, to be left out in turn; with fewer, wells are left out one group at a time
LEAST_WELLS = 3  # of a class, in one probe


# questions -----------------------------------------------------------------------------------------------------------


def _question(
    name: str, residual: Profiles, labels: np.ndarray, strata: str, together: list[str] | None = None
) -> Question | None:
    """A question, or None where there is too little to ask it.

    Args:
        name: Experiment or cell type.
        residual: Wells.
        labels: (W,) what is asked.
        strata: Column; labels move within each of its values.
        together: Columns; wells that agree in them keep their labels together, since what a perturbation does in one experiment
            they share. None: each well by itself.
    """
    _, code, count = np.unique(labels, return_inverse=True, return_counts=True)
    kept = np.isin(code, np.flatnonzero(count >= LEAST_WELLS))
    if len(np.unique(code[kept])) < 2:
        return None
    rows = residual.rows[kept].reset_index(drop=True)
    perturbation = pd.factorize(rows["perturbation"])[0]
    few = perturbation.max() + 1 < LEAST_BLOCKS
    # with few perturbations nothing could be shuffled but the names of the classes: then wells move one by one
    units = rows.groupby(together).ngroup().to_numpy() if together and not few else np.arange(len(rows))
    first = np.unique(units, return_index=True)[1]
    return Question(
        name,
        residual.values if kept.all() else residual.values[kept],
        np.unique(code[kept], return_inverse=True)[1],
        np.arange(len(rows)) if few else perturbation,
        units,
        pd.factorize(rows[strata])[0][first],
    )


def _plate(residual: Profiles) -> list[Question | None]:
    rows = residual.rows
    at = rows.groupby([*GROUP, "experiment", "perturbation"])["plate"].transform("nunique")
    moving = residual.take((at > 1).to_numpy())  # where a class is tied to a plate, it would name it
    asked = []
    for (*_, experiment), members in moving.rows.groupby([*GROUP, "experiment"]).indices.items():
        own = moving.take(members)
        asked.append(
            _question(experiment, own, own.rows["plate"].to_numpy(str), "perturbation", ["perturbation", "plate"])
        )
    return asked


def _experiment(residual: Profiles) -> list[Question | None]:
    asked = []
    for (_, kind), members in residual.rows.groupby(GROUP).indices.items():
        own = residual.take(members)
        labels = own.rows["experiment"].to_numpy(str)
        asked.append(_question(kind, own, labels, "perturbation", ["perturbation", "experiment"]))
    return asked


def _position(residual: Profiles, part: Callable[[np.ndarray], np.ndarray]) -> list[Question | None]:
    """``part``: (W, 2) rows and columns of the plate -> (W,) bool."""
    rows = residual.rows
    places = rows.groupby([*GROUP, "perturbation"])["well"].agg(["nunique", "size"])
    tied = places.index[(places["nunique"] == 1) & (places["size"] > 1)]
    free = residual.take(~pd.MultiIndex.from_frame(rows[[*GROUP, "perturbation"]]).isin(tied))
    asked = []
    for (_, experiment), members in free.rows.groupby(["fold", "experiment"]).indices.items():
        own = _within_plates(free.take(members))
        place = np.array([parse_well(well) for well in own.rows["well"]])
        # on replicate plates of one layout a perturbation keeps its well: such wells move together, among those on the same plates
        plates = own.rows.groupby(["perturbation", "well"])["plate"].transform(lambda p: "+".join(sorted(p)))
        own = Profiles(own.rows.assign(plates=plates), own.values)
        asked.append(_question(experiment, own, part(place), "plates", ["perturbation", "well"]))
    return asked


def _within_plates(profiles: Profiles) -> Profiles:
    plate = profiles.rows.groupby(["fold", "experiment", "plate"]).ngroup().to_numpy()
    return Profiles(profiles.rows, centred(profiles.values, plate).astype(np.float32))


def upper_half(place: np.ndarray) -> np.ndarray:
    """Whether a well lies above the middle of the used rows; likewise :func:`left_half`, :func:`outer_ring`."""
    return place[:, 0] < (place[:, 0].min() + place[:, 0].max()) / 2


def left_half(place: np.ndarray) -> np.ndarray:
    """Whether a well lies left of the middle of the used columns."""
    return place[:, 1] < (place[:, 1].min() + place[:, 1].max()) / 2


def outer_ring(place: np.ndarray) -> np.ndarray:
    """Whether a well lies in the first or last used row or column."""
    return (place == place.min(axis=0)).any(axis=1) | (place == place.max(axis=0)).any(axis=1)


def _raw_intensity(residual: Profiles, intensity: pd.DataFrame) -> list[Question | None]:
    """Is the well brighter than most of its plate, channel by channel? Perturbations are taken out of the intensity as well.

    Within plates: else whatever tells experiments apart would answer, since their brightness differs.
    """
    known = residual.take(residual.rows["id_code"].isin(intensity.index).to_numpy())
    if known.rows.empty:
        return []
    bright = class_residuals(Profiles(known.rows, intensity.loc[known.rows["id_code"]].to_numpy(np.float32)))
    key = ["fold", "id_code"]
    known = _within_plates(known.take(known.rows.set_index(key).index.isin(bright.rows.set_index(key).index)))
    bright = _within_plates(bright)
    asked = []
    for (_, kind), members in known.rows.groupby(GROUP).indices.items():
        own, stain = known.take(members), bright.take(members)
        own = Profiles(own.rows.assign(place=own.rows["experiment"] + "/" + own.rows["plate"]), own.values)
        middle = pd.DataFrame(stain.values).groupby(own.rows["place"].to_numpy()).transform("median").to_numpy()
        asked += [_question(kind, own, above, "place") for above in (stain.values > middle).T]
    return asked


def _questions(residual: Profiles, axis: str, intensity: pd.DataFrame) -> list[Question]:
    """The probes of an axis that can be asked."""
    build: dict[str, Callable[[], list[Question | None]]] = {
        "plate": lambda: _plate(residual),
        "experiment": lambda: _experiment(residual),
        "well_row": lambda: _position(residual, upper_half),
        "well_column": lambda: _position(residual, left_half),
        "well_edge": lambda: _position(residual, outer_ring),
        "raw_intensity": lambda: _raw_intensity(residual, intensity),
    }
    return [question for question in build[axis]() if question is not None] if len(residual.rows) else []


def leak_scores(profiles: Profiles, axes: tuple[str, ...], seed: int = 0) -> dict[str, tuple[float, float]]:
    """Balanced accuracy and chance of the probes of some axes, without permutations or planted shifts; axes that cannot be asked are left out."""
    residual = class_residuals(profiles)
    found = {}
    for axis in axes:
        questions = _questions(residual, axis, pd.DataFrame())
        if questions:
            scores = [Probe(q.values.astype(np.float64), q.blocks, seed).balanced_accuracy(q.labels) for q in questions]
            found[axis] = (float(np.mean(scores)), float(np.mean([q.chance for q in questions])))
    return found


def probe_leaks(
    profiles: Profiles,
    intensity: pd.DataFrame,
    permutations: int,
    smallest: float,
    seed: int = 0,
    axes: tuple[str, ...] = AXES,
) -> list[dict[str, Any]]:
    """Ask profiles along every axis.

    Args:
        profiles: Wells of plates that the model was not trained on; others are left out, since they collapse and hide a leak.
        intensity: (wells, C) log of the raw mean intensity by id_code; no rows where there are no images.
        permutations: See :func:`ask`.
        smallest: See :func:`ask`.
        seed: See :func:`ask`.
        axes: Of AXES.

    Returns:
        One dict an axis: ``axis``, ``verdict``, and the answer of :func:`ask`; only ``axis``, ``verdict`` (void or not asked) and
        ``reason`` where there is none.
    """
    seen = profiles.rows["plate_seen"].to_numpy(bool)
    residual = class_residuals(profiles.take(~seen))
    why = {
        "plate": "no experiment has one perturbation on several unseen plates, known elsewhere too",
        "experiment": "no cell type has one perturbation in two unseen experiments",
        "well_row": "each perturbation keeps its well, or wells are too few",
        "well_column": "each perturbation keeps its well, or wells are too few",
        "well_edge": "each perturbation keeps its well, or wells are too few",
        "raw_intensity": "no raw intensities of these wells" if intensity.empty else "wells are too few",
    }
    answers: list[dict[str, Any]] = []
    for axis in axes:
        if seen.all() and len(seen):
            answers.append({"axis": axis, "verdict": "void", "reason": "the model was trained on every probed plate"})
            continue
        questions = _questions(residual, axis, intensity)
        if not questions:
            answers.append({"axis": axis, "verdict": "not asked", "reason": why[axis]})
            continue
        found = ask(questions, permutations, smallest, seed)
        answers.append({"axis": axis, "verdict": verdict(found), "reason": "", **found})
    return answers


def well_features(site_features: pd.DataFrame, columns: tuple[str, ...] = ("mean", "std")) -> pd.DataFrame:
    """(wells, F) log of the mean over sites of raw measurements, by id_code: brightness and contrast of each channel.

    Args:
        site_features: The table ``site_features``.
        columns: Measurements to take.
    """
    if site_features.empty:
        return pd.DataFrame()
    pooled = site_features.groupby(["id_code", "channel"], sort=True)[list(columns)].mean().unstack()
    return np.log(pooled.clip(lower=1e-3))


def normalized_wells(normalized_features: pd.DataFrame) -> pd.DataFrame:
    """(wells, F) mean over sites of the same measurements on normalized images, by id_code."""
    columns = [c for c in normalized_features.columns if str(c).startswith((f"{FEATURE}mean_", f"{FEATURE}std_"))]
    return normalized_features.groupby("id_code")[columns].mean()
