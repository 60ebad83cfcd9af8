"""Leak probes: what can a linear probe still read of plate, experiment, well position and staining in a profile? (method: section 8)

A probe is a linear discriminant: a profile is given to the nearest class mean in the metric of the shrunken total covariance of
its training wells. The covariance reads no label, so a permutation costs two matrix products instead of a new fit.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.linalg import cho_factor, cho_solve
from sklearn.covariance import ledoit_wolf_shrinkage
from threadpoolctl import threadpool_limits

from deepnoise.evaluation.profiles import GROUP, Profiles, centred, class_residuals
from deepnoise.tables import FEATURE
from deepnoise.wells import parse_well

AXES = ("plate", "experiment", "well_row", "well_column", "well_edge", "raw_intensity")
SPLITS = 5
LEAST_BLOCKS = 4  # perturbations, to be left out in turn; with fewer, wells are left out one group at a time
LEAST_WELLS = 3  # of a class, in one probe
SHIFTS = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
"""Sizes of planted shifts, in standard deviations of the wells along the shift's direction."""
PLANTS = 10  # random directions a size
POWER = 0.8  # share of them that must be found


class Probe:
    """One linear probe, cross-validated over blocks of wells that stay together."""

    def __init__(self, values: np.ndarray, blocks: np.ndarray, seed: int) -> None:
        """``values``: (W, D) residuals; ``blocks``: (W,) codes, whole ones are left out."""
        spread = values.std(axis=0)
        scaled = (values - values.mean(axis=0)) / np.where(spread > 1e-12, spread, 1.0)
        self._values = scaled.astype(np.float32)
        self._splits = []
        part = deal_blocks(blocks, seed)
        for split in range(SPLITS):
            test, train = np.flatnonzero(part == split), np.flatnonzero(part != split)
            if not len(test) or not len(train):
                continue
            centre = self._values[train].mean(axis=0)
            known, asked = self._values[train] - centre, self._values[test] - centre
            covariance = (known.T @ known).astype(np.float64) / len(train)
            ridge = max(float(ledoit_wolf_shrinkage(known, assume_centered=True)), 1e-4)
            self._splits.append((train, test, known, asked, ridge, _factor(covariance, ridge)))

    def directions(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """(count, D) random directions drawn as profiles scatter, scaled so that the wells' standard deviation along each is 1."""
        mixed = rng.normal(size=(count, len(self._values))) @ self._values
        unit = mixed / np.maximum(np.linalg.norm(mixed, axis=1, keepdims=True), 1e-12)
        return unit * (self._values @ unit.T).std(axis=0)[:, None]

    def balanced_accuracy(self, labels: np.ndarray, shift: np.ndarray | None = None) -> float:
        """Cross-validated balanced accuracy.

        Args:
            labels: (W,) codes 0..K-1.
            shift: (K, D) added to the profiles of each class first.
        """
        classes = int(labels.max()) + 1
        called = np.empty(len(labels), int)
        for train, test, known, asked, ridge, factor in self._splits:
            member = np.eye(classes, dtype=np.float32)[labels[train]]  # (W train, K)
            count = member.sum(axis=0).astype(np.float64)
            means = (member.T @ known) / np.maximum(count, 1)[:, None]  # (K, D)
            # what the shift adds to each class, once the mean is taken out again
            moved = np.zeros((classes, known.shape[1]))
            solved = cho_solve(factor, means.T, check_finite=False)  # (D, K)
            weight = solved
            if shift is not None:
                # the shifted covariance is the old one + U C U', of rank 2K: solved by Woodbury's identity
                share = count / len(train)
                moved = shift - share @ shift
                both = np.vstack([means, moved]).T  # U (D, 2K)
                core = (1 - ridge) * np.kron([[0, 1], [1, 1]], np.diag(share))  # C
                solved = np.hstack([solved, cho_solve(factor, moved.T, check_finite=False)])
                inner = np.linalg.solve(np.eye(2 * classes) + core @ (both.T @ solved), core)
                means = means + moved
                weight = solved[:, :classes] + solved[:, classes:]
                weight = weight - solved @ (inner @ (both.T @ weight))
            score = (
                asked @ weight.astype(np.float32)
                + (moved @ weight)[labels[test]]
                - 0.5 * (means.T * weight).sum(axis=0)
            )
            called[test] = np.where(count > 0, score, -np.inf).argmax(axis=1)
        right = np.bincount(labels, weights=called == labels, minlength=classes)
        return float((right / np.bincount(labels, minlength=classes)).mean())


def _factor(covariance: np.ndarray, ridge: float) -> Any:
    size = len(covariance)
    shrunk = (1 - ridge) * covariance
    shrunk[np.diag_indices(size)] += ridge * np.trace(covariance) / size + 1e-9
    return cho_factor(shrunk, overwrite_a=True, check_finite=False)


def deal_blocks(blocks: np.ndarray, seed: int) -> np.ndarray:
    """(W,) codes -> (W,) part 0..SPLITS-1; blocks stay whole, each goes to the part with the fewest wells so far."""
    names, sizes = np.unique(blocks, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-sizes[order], kind="stable")]
    load, part = np.zeros(SPLITS), np.zeros(len(names), int)
    for block in order:
        part[block] = load.argmin()
        load[part[block]] += sizes[block]
    return part[np.searchsorted(names, blocks)]


@dataclass(frozen=True)
class Question:
    """One probe of an axis: which wells, what is asked of them, and between which wells a label may move under the null."""

    name: str  # experiment or cell type: fold models are asked about the same wells, so their labels move together
    values: np.ndarray  # (W, D)
    labels: np.ndarray  # (W,) codes 0..K-1
    blocks: np.ndarray  # (W,) codes
    units: np.ndarray  # (W,) codes 0..U-1; wells of a unit carry one label and keep it together
    strata: np.ndarray  # (U,) codes; labels are shuffled among the units of each

    @property
    def chance(self) -> float:
        """1 / K."""
        return 1 / (int(self.labels.max()) + 1)


@threadpool_limits.wrap(
    limits=1, user_api="blas"
)  # many small products: threads that wait for one another cost ten times as much
def ask(questions: list[Question], permutations: int, smallest: float, seed: int = 0) -> dict[str, Any]:
    """Answer an axis: the mean over its probes, a permutation interval, and the smallest planted shift that would have been found.

    A shift is planted into shuffled labels, one random direction a class, so nothing but the shift is there to be found.

    Args:
        questions: At least one.
        permutations: Shuffles of the labels of units within strata.
        smallest: Standard deviations; a planted shift of this size must be found for a silent probe to mean something.
        seed: Of splits, shuffles and shifts.

    Returns:
        ``balanced_accuracy``, ``chance``, ``null_low`` and ``null_high`` (95 % of the shuffles), ``p``, ``smallest_p``, ``probes``,
        ``wells``, ``detectable`` (smallest size of SHIFTS that is found in POWER of the plants, None if none is), ``planted_found``.
    """
    rng = np.random.default_rng(seed)
    shared: dict[int, Probe] = {}  # questions on the same wells, as those of the channels, share their probe
    for q in questions:
        if id(q.values) not in shared:
            shared[id(q.values)] = Probe(q.values, q.blocks, seed)
    probes = [shared[id(q.values)] for q in questions]

    def shuffle(question: Question, draw: int) -> np.ndarray:
        own = np.random.default_rng([seed, draw, zlib.crc32(question.name.encode())])
        order = np.argsort(question.strata, kind="stable")
        # sorting random numbers within strata shuffles all of them at once
        moved = np.lexsort((own.random(len(order)), question.strata))
        of_unit = np.empty(len(order), int)
        of_unit[question.units] = question.labels
        shuffled = np.empty_like(of_unit)
        shuffled[order] = of_unit[moved]
        return shuffled[question.units]

    def mean(labels: list[np.ndarray], shifts: list[np.ndarray | None]) -> float:
        return float(np.mean([p.balanced_accuracy(y, s) for p, y, s in zip(probes, labels, shifts, strict=True)]))

    nothing: list[np.ndarray | None] = [None] * len(questions)
    observed = mean([q.labels for q in questions], nothing)
    null = np.array([mean([shuffle(q, draw) for q in questions], nothing) for draw in range(permutations)])
    low, high = (float(v) for v in np.quantile(null, [0.025, 0.975]))

    def is_found(size: float) -> bool:
        hits = 0
        for plant in range(PLANTS):
            labels = [shuffle(q, permutations + plant) for q in questions]
            shifts: list[np.ndarray | None] = [
                size * p.directions(int(y.max()) + 1, rng) for p, y in zip(probes, labels, strict=True)
            ]
            hits += mean(labels, shifts) > high
            if hits >= POWER * PLANTS or hits + PLANTS - plant - 1 < POWER * PLANTS:
                break
        return hits >= POWER * PLANTS

    # the greater the shift, the surer it is found: the smallest one by bisection
    smaller, greater = -1, len(SHIFTS)
    while greater - smaller > 1:
        middle = (smaller + greater) // 2
        smaller, greater = (smaller, middle) if is_found(SHIFTS[middle]) else (middle, greater)
    detectable = SHIFTS[greater] if greater < len(SHIFTS) else None
    return {
        "balanced_accuracy": observed,
        "chance": float(np.mean([q.chance for q in questions])),
        "null_low": low,
        "null_high": high,
        "p": float((1 + (null >= observed - 1e-12).sum()) / (1 + permutations)),
        "smallest_p": 1 / (1 + permutations),
        "probes": len(questions),
        "wells": int(sum(len(q.labels) for q in questions)),
        "detectable": detectable,
        "planted_found": detectable is not None and detectable <= smallest,
    }


def verdict(found: dict[str, Any]) -> str:
    """leak | none seen | undecided, of an answer of :func:`ask`.

    ``none seen`` needs that the probe would have found a planted shift of the wanted size.
    """
    if found["balanced_accuracy"] > found["null_high"]:
        return "leak"
    informative = (
        found["null_low"] < found["chance"] < found["null_high"]
    )  # else the shuffles left the answer as it was
    return "none seen" if found["planted_found"] and informative else "undecided"


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
        intensity: (wells, C) log of the raw mean intensity by id_code; no rows where there are no pictures.
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
    """(wells, F) mean over sites of the same measurements on normalized pictures, by id_code."""
    columns = [c for c in normalized_features.columns if str(c).startswith((f"{FEATURE}mean_", f"{FEATURE}std_"))]
    return normalized_features.groupby("id_code")[columns].mean()


def probe_batch(features: np.ndarray, batch: pd.Series, group: pd.Series, seed: int = 0) -> dict[str, Any]:
    """Balanced accuracy of naming a row's batch within its group, labels of perturbations unknown.

    Asked of experiments within a cell type (every treatment stands once in an experiment, so the perturbation says nothing about
    it), or of plates within an experiment on perturbations that stand on all of them.

    Args:
        features: (N, F) float, one row a well or site.
        batch: N names of experiments or plates.
        group: N names of cell types or experiments.
        seed: Seed of the five parts.

    Returns:
        ``balanced_accuracy`` and ``chance`` as means over groups, ``by_group``; both None where no group has two batches of five rows.
    """
    scores, chances = {}, []
    for kind in sorted(set(group)):
        member = (group == kind).to_numpy()
        names, labels, counts = np.unique(batch[member].to_numpy(str), return_inverse=True, return_counts=True)
        if len(names) < 2 or counts.min() < SPLITS:
            continue
        probe = Probe(features[member].astype(np.float64), np.arange(member.sum()), seed)
        scores[kind] = probe.balanced_accuracy(labels)
        chances.append(1 / len(names))
    return {
        "balanced_accuracy": float(np.mean(list(scores.values()))) if scores else None,
        "chance": float(np.mean(chances)) if chances else None,
        "by_group": scores,
    }
