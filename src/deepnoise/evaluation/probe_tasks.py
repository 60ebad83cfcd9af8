"""Leak probes: what can a linear probe still predict of plate, experiment, well position and staining? (method: section 8)"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from deepnoise.evaluation.probe import (
    FEWEST_SHUFFLES,
    Probe,
    ProbeTask,
    count_shuffles,
    is_below_null,
    run_probes,
    verdict,
)
from deepnoise.evaluation.profiles import FOLD_AND_CELL_TYPE, Profiles, centred, class_residuals
from deepnoise.evaluation.reference_wells import CANDIDATES, HalvedProbe, are_reference
from deepnoise.tables import FEATURE
from deepnoise.wells import parse_well

AXES = ("plate", "experiment", "well_row", "well_column", "well_edge", "raw_intensity")
LEAST_BLOCKS = 4
"""Perturbations needed to leave whole ones out in turn; with fewer, wells are left out one group at a time."""
LEAST_WELLS = 3
"""Wells of a class needed in one probe."""


def _task(
    name: str, residual: Profiles, labels: np.ndarray, strata: str, together: list[str] | None = None
) -> ProbeTask | None:
    """A probe task, or None if there are too few wells.

    Args:
        name: Experiment or cell type.
        residual: Wells.
        labels: (W,) what is predicted.
        strata: Column; labels move within each of its values.
        together: Columns. Wells that agree in them keep their labels together, since they share the effect of a perturbation in an
            experiment. None: each well by itself.
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
    first_of_unit = np.unique(units, return_index=True)[1]
    return ProbeTask(
        name=name,
        values=residual.values if kept.all() else residual.values[kept],
        labels=np.unique(code[kept], return_inverse=True)[1],
        blocks=np.arange(len(rows)) if few else perturbation,
        units=units,
        strata=pd.factorize(rows[strata])[0][first_of_unit],
    )


def _on_several_plates(residual: Profiles) -> Profiles:
    """The wells whose perturbation is on several plates of the experiment."""
    plates = residual.rows.groupby([*FOLD_AND_CELL_TYPE, "experiment", "perturbation"])["plate"].transform("nunique")
    return residual.take((plates > 1).to_numpy())


def _plate_tasks(residual: Profiles) -> list[ProbeTask | None]:
    """Which plate of its experiment is a well on? Only perturbations on several plates: another one would reveal its plate."""
    return _tasks_of_plates(_on_several_plates(residual), "perturbation")


def _tasks_of_plates(residual: Profiles, strata: str) -> list[ProbeTask | None]:
    """Which plate of its experiment is a well on? Labels move within each value of the column ``strata``."""
    tasks = []
    for (*_, experiment), members in residual.rows.groupby([*FOLD_AND_CELL_TYPE, "experiment"]).indices.items():
        wells = residual.take(members)
        labels = wells.rows["plate"].to_numpy(str)
        tasks.append(_task(experiment, wells, labels, strata, ["perturbation", "plate"]))
    return tasks


def _experiment_tasks(residual: Profiles) -> list[ProbeTask | None]:
    """Which experiment of its cell type is a well from?"""
    tasks = []
    for (_, cell_type), members in residual.rows.groupby(FOLD_AND_CELL_TYPE).indices.items():
        wells = residual.take(members)
        labels = wells.rows["experiment"].to_numpy(str)
        tasks.append(_task(cell_type, wells, labels, "perturbation", ["perturbation", "experiment"]))
    return tasks


def _position_tasks(residual: Profiles, region: Callable[[np.ndarray], np.ndarray]) -> list[ProbeTask | None]:
    """Is a well in a region of its plate? Only perturbations that change their well.

    Args:
        residual: Wells.
        region: (W, 2) rows and columns of wells -> (W,) bool.
    """
    rows = residual.rows
    positions = rows.groupby([*FOLD_AND_CELL_TYPE, "perturbation"])["well"].agg(["nunique", "size"])
    fixed = positions.index[(positions["nunique"] == 1) & (positions["size"] > 1)]
    moving = residual.take(~pd.MultiIndex.from_frame(rows[[*FOLD_AND_CELL_TYPE, "perturbation"]]).isin(fixed))
    tasks = []
    for (_, experiment), members in moving.rows.groupby(["fold", "experiment"]).indices.items():
        wells = _within_plates(moving.take(members))
        position = np.array([parse_well(well) for well in wells.rows["well"]])
        # on replicate plates of one layout a perturbation keeps its well: such wells move together, among those on the same plates
        wells = Profiles(wells.rows.assign(plates=_plates_of_position(wells.rows)), wells.values)
        tasks.append(_task(experiment, wells, region(position), "plates", ["perturbation", "well"]))
    return tasks


def _plates_of_position(rows: pd.DataFrame) -> np.ndarray:
    """(W,) names of all plates on which the perturbation of each well is in the same well."""
    position = rows.groupby(["perturbation", "well"]).ngroup().to_numpy()
    plate = rows["plate"].to_numpy(str)
    order = np.lexsort((plate, position))
    first = np.flatnonzero(np.diff(position[order], prepend=-1))
    return np.array(["+".join(names) for names in np.split(plate[order], first[1:])])[position]


def _within_plates(profiles: Profiles) -> Profiles:
    """Profiles minus the mean of their plate."""
    plate = profiles.rows.groupby(["fold", "experiment", "plate"]).ngroup().to_numpy()
    return Profiles(profiles.rows, centred(profiles.values, plate).astype(np.float32))


def upper_half(position: np.ndarray) -> np.ndarray:
    """(W,) bool: wells above the middle of the used rows, from (W, 2) rows and columns."""
    return position[:, 0] < (position[:, 0].min() + position[:, 0].max()) / 2


def left_half(position: np.ndarray) -> np.ndarray:
    """(W,) bool: wells left of the middle of the used columns, from (W, 2) rows and columns."""
    return position[:, 1] < (position[:, 1].min() + position[:, 1].max()) / 2


def outer_ring(position: np.ndarray) -> np.ndarray:
    """(W,) bool: wells in the first or last used row or column, from (W, 2) rows and columns."""
    return (position == position.min(axis=0)).any(axis=1) | (position == position.max(axis=0)).any(axis=1)


def _raw_intensity_tasks(residual: Profiles, intensity: pd.DataFrame) -> list[ProbeTask | None]:
    """Is a well brighter than most of its plate, channel by channel?

    The effect of perturbations is removed from the intensity as well. Wells are compared within plates: otherwise the brightness of
    whole experiments would make this the same question as the experiment.
    """
    measured = residual.take(residual.rows["id_code"].isin(intensity.index).to_numpy())
    if measured.rows.empty:
        return []
    brightness = class_residuals(Profiles(measured.rows, intensity.loc[measured.rows["id_code"]].to_numpy(np.float32)))
    key = ["fold", "id_code"]
    in_both = measured.rows.set_index(key).index.isin(brightness.rows.set_index(key).index)
    measured = _within_plates(measured.take(in_both))
    brightness = _within_plates(brightness)
    tasks = []
    for (_, cell_type), members in measured.rows.groupby(FOLD_AND_CELL_TYPE).indices.items():
        wells, of_channel = measured.take(members), brightness.take(members)
        plate = wells.rows.groupby(["experiment", "plate"]).ngroup().to_numpy()
        wells = Profiles(wells.rows.assign(plate_of_well=plate), wells.values)
        median = pd.DataFrame(of_channel.values).groupby(plate).transform("median").to_numpy()
        tasks += [_task(cell_type, wells, bright, "plate_of_well") for bright in (of_channel.values > median).T]
    return tasks


def probe_tasks(residual: Profiles, axis: str, intensity: pd.DataFrame) -> list[ProbeTask]:
    """The probes of an axis for which there are enough wells."""
    builders: dict[str, Callable[[], list[ProbeTask | None]]] = {
        "plate": lambda: _plate_tasks(residual),
        "experiment": lambda: _experiment_tasks(residual),
        "well_row": lambda: _position_tasks(residual, upper_half),
        "well_column": lambda: _position_tasks(residual, left_half),
        "well_edge": lambda: _position_tasks(residual, outer_ring),
        "raw_intensity": lambda: _raw_intensity_tasks(residual, intensity),
    }
    return [task for task in builders[axis]() if task is not None] if len(residual.rows) else []


def leak_scores(profiles: Profiles, axes: tuple[str, ...], seed: int = 0) -> dict[str, tuple[float, float]]:
    """Balanced accuracy and chance of some axes, without permutations or planted shifts; axes without tasks are left out."""
    residual = class_residuals(profiles)
    scores = {}
    for axis in axes:
        tasks = probe_tasks(residual, axis, pd.DataFrame())
        if tasks:
            accuracies = [
                Probe(task.values.astype(np.float64), task.blocks, seed).balanced_accuracy(task.labels)
                for task in tasks
            ]
            scores[axis] = (float(np.mean(accuracies)), float(np.mean([task.chance for task in tasks])))
    return scores


def probe_leaks(
    profiles: Profiles,
    intensity: pd.DataFrame,
    permutations: int,
    smallest: float,
    seed: int = 0,
    axes: tuple[str, ...] = AXES,
) -> list[dict[str, Any]]:
    """Probe profiles along every axis.

    Args:
        profiles: Wells. Plates that the model was trained on are left out: their profiles collapse and hide a leak.
        intensity: (wells, C) log of the raw mean intensity by id_code; no rows if there are no images.
        permutations: See :func:`~deepnoise.evaluation.probe.run_probes`.
        smallest: See :func:`~deepnoise.evaluation.probe.run_probes`.
        seed: See :func:`~deepnoise.evaluation.probe.run_probes`.
        axes: Some of AXES.

    Returns:
        One dict per axis: ``axis``, ``verdict``, ``reason`` and the result of :func:`~deepnoise.evaluation.probe.run_probes`. Without
        a result (verdict void or not asked), only the first three.
    """
    seen = profiles.rows["plate_seen"].to_numpy(bool)
    residual = class_residuals(profiles.take(~seen))
    fixed_wells = "each perturbation keeps its well, or there are too few wells"
    reasons = {
        "plate": "no experiment has one perturbation on several unseen plates that is elsewhere too",
        "experiment": "no cell type has one perturbation in two unseen experiments",
        "well_row": fixed_wells,
        "well_column": fixed_wells,
        "well_edge": fixed_wells,
        "raw_intensity": "no raw intensities of these wells" if intensity.empty else "there are too few wells",
    }
    results: list[dict[str, Any]] = []
    for axis in axes:
        if seen.all() and len(seen):
            result = _no_result("void", "the model was trained on every probed plate")
        elif not (tasks := probe_tasks(residual, axis, intensity)):
            result = _no_result("not asked", reasons[axis])
        elif (shuffles := count_shuffles(tasks, seed)) < FEWEST_SHUFFLES:
            ways = "one way" if shuffles == 1 else f"{shuffles} ways"
            result = _no_result(
                "not asked", f"cannot be tested: without the perturbations, the labels can be arranged in only {ways}"
            )
        elif axis in ("plate", "experiment"):
            result = _probe_batches(residual, axis, tasks, permutations, smallest, seed)
        else:
            result = _probe(tasks, permutations, smallest, seed)
        results.append({"axis": axis, **result})
    return results


def _no_result(given: str, reason: str) -> dict[str, Any]:
    return {"verdict": given, "reason": reason}


def _probe(tasks: list[ProbeTask], permutations: int, smallest: float, seed: int, **options: Any) -> dict[str, Any]:
    """Verdict, reason and result of a probe whose labels can be shuffled."""
    result = run_probes(tasks, permutations, smallest, seed, **options)
    if result["null_low"] == result["null_high"]:
        reason = f"cannot be tested: each shuffle of the labels has the accuracy {result['null_low']:.3f}"
        return _no_result("not asked", reason)
    reason = "below what shuffled labels give: the probed wells were centred together" if is_below_null(result) else ""
    return {"verdict": verdict(result), "reason": reason, **result}


def _probe_batches(
    residual: Profiles, axis: str, tasks: list[ProbeTask], permutations: int, smallest: float, seed: int
) -> dict[str, Any]:
    """Probe plates or experiments: wells that tell them whatever their perturbation, and treatments where these are silent controls.

    Args:
        residual: Wells.
        axis: plate or experiment.
        tasks: Its probes on all of them.
        permutations: See :func:`~deepnoise.evaluation.probe.run_probes`.
        smallest: See :func:`~deepnoise.evaluation.probe.run_probes`.
        seed: See :func:`~deepnoise.evaluation.probe.run_probes`.
    """
    result = _probe_beside_reference(residual, axis, tasks, permutations, smallest, seed)
    probed = _on_several_plates(residual) if axis == "plate" else residual
    if result["verdict"] not in ("none seen", "void") or (probed.rows["well_type"] == "treatment").any():
        return result
    return _probe_treatments(result, residual, axis, permutations, smallest, seed)


def _probe_beside_reference(
    residual: Profiles, axis: str, tasks: list[ProbeTask], permutations: int, smallest: float, seed: int
) -> dict[str, Any]:
    """Probe wells that are not the reference of a normalization by plates or experiments.

    Where no others can be probed, half of the reference is taken as reference for the other half. If that shows nothing, the verdict is
    void unless treatments are among them: their noise may differ from that of the controls. Arguments: see :func:`_probe_batches`.
    """
    well_type = residual.rows["well_type"]
    for name, types in CANDIDATES.items():
        is_candidate = well_type.isin(types).to_numpy()
        candidates = probe_tasks(residual.take(is_candidate), axis, pd.DataFrame())
        if not candidates or not are_reference(candidates, seed):
            continue
        others = probe_tasks(residual.take(~is_candidate), axis, pd.DataFrame())
        if others and count_shuffles(others, seed) >= FEWEST_SHUFFLES:
            result = _probe(others, permutations, smallest, seed)
            note = f"without the {name}, to which the profiles are normalized"
            return {**result, "reason": "; ".join(filter(None, [result["reason"], note]))}
        halves = _probe(candidates, permutations, smallest, seed, make_probe=HalvedProbe)
        note = f"the {name} are the reference to which the profiles are normalized"
        if halves["verdict"] == "leak" or (well_type[is_candidate] == "treatment").any():
            return {**halves, "reason": f"{note}: half of them as reference for the other half"}
        accuracy = f"{halves['balanced_accuracy']:.1%}" if "balanced_accuracy" in halves else "no result"
        return _no_result("void", f"{note}: half of them for the other half gives {accuracy}")
    return _probe(tasks, permutations, smallest, seed)


def _probe_treatments(
    of_controls: dict[str, Any], residual: Profiles, axis: str, permutations: int, smallest: float, seed: int
) -> dict[str, Any]:
    """The answer of controls that show nothing, once treatments are asked for their plate.

    A treatment is on one plate of its experiment; what it does in others is subtracted. Where treatments tell their plate and controls do
    not, they have noise of their own, or the perturbations of a plate have something in common: that is undecided.

    Args:
        of_controls: Verdict, reason and result of the controls.
        residual: Wells.
        axis: plate or experiment.
        permutations: See :func:`~deepnoise.evaluation.probe.run_probes`.
        smallest: See :func:`~deepnoise.evaluation.probe.run_probes`.
        seed: See :func:`~deepnoise.evaluation.probe.run_probes`.
    """
    treatments = residual.take((residual.rows["well_type"] == "treatment").to_numpy())
    tasks = [task for task in _tasks_of_plates(treatments, "experiment") if task] if axis == "plate" else []
    controls = of_controls["reason"] or "controls show nothing"
    if tasks and count_shuffles(tasks, seed) >= FEWEST_SHUFFLES:
        found = _probe(tasks, permutations, smallest, seed)
        if found["verdict"] == "leak":
            reason = f"{controls}, but treatments do: they have noise of their own, or the perturbations of a plate have something in common"
            return {**found, "verdict": "undecided", "reason": reason}
        if found["verdict"] == "none seen":
            accuracy, seen = f"{found['balanced_accuracy']:.1%}", f"{found['detectable']:g}"
            reason = f"{controls}, nor do treatments ({accuracy}, where a shift of {seen} sd would be seen)"
            return {**found, **of_controls, "verdict": "none seen", "reason": reason}
    return {**of_controls, "reason": f"{controls}; noise of the treatments alone would not be seen"}


def well_features(site_features: pd.DataFrame, columns: tuple[str, ...] = ("mean", "std")) -> pd.DataFrame:
    """(wells, F) log of the mean over sites of raw measurements, by id_code: brightness and contrast of each channel.

    Args:
        site_features: The table ``site_features``.
        columns: Measurements to use.
    """
    if site_features.empty:
        return pd.DataFrame()
    pooled = site_features.groupby(["id_code", "channel"], sort=True)[list(columns)].mean().unstack()
    return np.log(pooled.clip(lower=1e-3))


def normalized_wells(normalized_features: pd.DataFrame) -> pd.DataFrame:
    """(wells, F) mean over sites of the same measurements on normalized images, by id_code."""
    columns = [c for c in normalized_features.columns if str(c).startswith((f"{FEATURE}mean_", f"{FEATURE}std_"))]
    return normalized_features.groupby("id_code")[columns].mean()
