"""Replicate retrieval: are wells of one perturbation more similar to each other than to other wells? (method: section 8)

Mean average precision as in Kalinin et al. 2025 (Nat. Commun. 16, 5181). Negatives come from the query's own experiment alone, since a
batch effect makes these the most similar. The null shuffles labels within each plate and well type.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from deepnoise.evaluation.intervals import summarize
from deepnoise.evaluation.metrics import skill
from deepnoise.evaluation.profiles import FOLD_AND_CELL_TYPE, Profiles, unit_length
from deepnoise.progress import progress
from deepnoise.tables import LEVELS

BLOCK = 512
"""Query wells at a time: bounds memory at BLOCK x wells of a cell type."""
RANDOM_ORDERS = 10_000
"""Random orders from which the p-values of activity are read."""


def chance_average_precision(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Exact expected average precision of a random order (Bestgen 2015, "Exact expected average precision of the random baseline").

    ((M - 1) / (n - 1) * (n - H_n) + H_n) / n with n = M + N and H_n the n-th harmonic number.

    Args:
        positives: M >= 1 of each query.
        negatives: N of each query.
    """
    m, n = np.asarray(positives, float), np.asarray(positives, int) + np.asarray(negatives, int)
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, n.max(initial=1) + 1))])[n]
    return ((m - 1) / np.maximum(n - 1, 1) * (n - harmonic) + harmonic) / n


class _AtLeastCounter:
    """Counts, row by row, how many entries of a matrix are at least a value.

    Args:
        reference: (R, N) cosines; -inf for entries that never count.
    """

    def __init__(self, reference: np.ndarray) -> None:
        self._width = reference.shape[1]
        shifted = np.where(np.isfinite(reference), reference, -3.0).astype(np.float64)
        shifted.sort(axis=1)
        # cosines lie in [-1, 1] and stand-ins for -inf at -3 and 3, so rows that are 8 apart never overlap: one search for all
        self._flat = (shifted + 8.0 * np.arange(len(reference))[:, None]).ravel()

    def at_least(self, values: np.ndarray) -> np.ndarray:
        """(R, M) cosines -> number of entries of the same row that are at least each; 0 for -inf, which means "no well"."""
        rows = np.arange(len(values))[:, None]
        shifted = np.where(np.isfinite(values), values, 3.0).astype(np.float64) + 8.0 * rows
        return (rows + 1) * self._width - np.searchsorted(self._flat, shifted, side="left")


def _average_precision(cosines: np.ndarray, counted: np.ndarray, negatives_at_least: np.ndarray) -> np.ndarray:
    """(R,) average precision; NaN without a replicate.

    Args:
        cosines: (R, M) of the replicates.
        counted: (R, M) bool, the replicates that count.
        negatives_at_least: (R, M) negatives that are at least as similar as each.
    """
    at_least = _AtLeastCounter(np.where(counted, cosines, -np.inf)).at_least(cosines)
    precision = np.where(counted, at_least / np.maximum(at_least + negatives_at_least, 1), 0.0)
    number = counted.sum(axis=1)
    return np.where(number > 0, precision.sum(axis=1) / np.maximum(number, 1), np.nan)


def _replicates(label: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """(R, M) positions of the other wells with the query's label, padded with -1."""
    order = np.argsort(label, kind="stable")
    start = np.searchsorted(label[order], label[queries], side="left")
    size = np.searchsorted(label[order], label[queries], side="right") - start
    width = np.arange(max(int(size.max(initial=0)), 1))
    table = np.where(width < size[:, None], order[np.minimum(start[:, None] + width, len(order) - 1)], -1)
    return np.where(table == queries[:, None], -1, table)


@dataclass(frozen=True)
class _LabelledWells:
    """Labelled wells of one fold and cell type."""

    rows: pd.DataFrame
    unit: np.ndarray  # (W, D) profiles of unit length
    names: np.ndarray  # (K,) perturbations
    label: np.ndarray  # (W,) code in names
    codes: dict[str, np.ndarray]  # experiment, plate and well position of each well, (W,) int each

    @classmethod
    def of(cls, profiles: Profiles) -> _LabelledWells:
        rows = profiles.rows
        names, label = np.unique(rows["perturbation"].to_numpy(str), return_inverse=True)
        codes = {
            "experiment": pd.factorize(rows["experiment"])[0],
            "plate": pd.factorize(rows["experiment"] + "/" + rows["plate"])[0],
            "well": pd.factorize(rows["well"])[0],
        }
        return cls(rows, unit_length(profiles.values), names, label, codes)

    def shuffled_labels(self, permutations: int, seed: int) -> np.ndarray:
        """(permutations, W) labels shuffled within each plate and well type."""
        shuffled = np.repeat(self.label[None], permutations, axis=0)
        for stratum, members in self.rows.groupby(["experiment", "plate", "well_type"]).indices.items():
            # the same shuffle in every fold model, which are queried about the same wells
            rng = np.random.default_rng([seed, zlib.crc32("/".join(stratum).encode())])
            shuffled[:, members] = rng.permuted(shuffled[:, members], axis=1)
        return shuffled

    def query_blocks(self, bar: Any) -> Iterator[_QueryBlock]:
        """The wells of each experiment that are not negative controls, at most BLOCK at a time."""
        is_query = (self.rows["well_type"] != "negative_control").to_numpy()
        for experiment in np.unique(self.codes["experiment"]):
            members = np.flatnonzero(self.codes["experiment"] == experiment)
            for start in range(0, len(members), BLOCK):
                queries = members[start : start + BLOCK]
                bar.update(len(queries))
                queries = queries[is_query[queries]]
                if len(queries):
                    yield _QueryBlock.of(self, queries, members)


@dataclass(frozen=True)
class _QueryBlock:
    """Some query wells of one experiment and their similarities."""

    wells: _LabelledWells
    queries: np.ndarray  # (R,) positions in wells
    experiment_size: int  # wells of the experiment
    cosines: np.ndarray  # (R, W) with all wells
    in_experiment: _AtLeastCounter  # of the cosines with the other wells of the experiment

    @classmethod
    def of(cls, wells: _LabelledWells, queries: np.ndarray, experiment: np.ndarray) -> _QueryBlock:
        cosines = wells.unit[queries] @ wells.unit.T
        within = cosines[:, experiment].copy()
        within[np.arange(len(queries)), np.searchsorted(experiment, queries)] = -np.inf  # not the query itself
        return cls(wells, queries, len(experiment), cosines, _AtLeastCounter(within))

    def _positives(self, replicates: np.ndarray) -> dict[str, np.ndarray]:
        """Level of LEVELS -> (R, M) bool, the replicates that count as positives."""
        exists = replicates >= 0
        differs = {name: code[replicates] != code[self.queries][:, None] for name, code in self.wells.codes.items()}
        masks = (
            exists,
            exists & differs["plate"],
            exists & differs["experiment"],
            exists & differs["experiment"] & differs["well"],
        )
        return dict(zip(LEVELS, masks, strict=True))

    def average_precisions(self, label: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
        """Average precision of each query under some labels of the wells, level by level.

        Yields:
            The level, (R,) average precisions (NaN without positives or negatives), and (R,) numbers of positives and negatives.
        """
        replicates = _replicates(label, self.queries)
        exists = replicates >= 0
        cosines = np.where(exists, np.take_along_axis(self.cosines, np.maximum(replicates, 0), axis=1), -np.inf)
        positives = self._positives(replicates)
        same_experiment = exists & ~positives["not_same_experiment"]
        # negatives are the wells of the experiment that are not replicates
        negatives_at_least = self.in_experiment.at_least(cosines)
        negatives_at_least -= _AtLeastCounter(np.where(same_experiment, cosines, -np.inf)).at_least(cosines)
        negatives = self.experiment_size - 1 - same_experiment.sum(axis=1)
        for level, positive in positives.items():
            counted = positive & (negatives > 0)[:, None]
            yield level, _average_precision(cosines, counted, negatives_at_least), positive.sum(axis=1), negatives


@dataclass(frozen=True)
class ShuffledPrecision:
    """Average precision of shuffled labels, for one well type and level."""

    experiments: list[str]  # E
    sums: np.ndarray  # (E, permutations) over the wells of each experiment
    counts: np.ndarray  # (E, permutations) wells

    def means(self) -> np.ndarray:
        """(permutations,) mean over all wells."""
        return self.sums.sum(axis=0) / np.maximum(self.counts.sum(axis=0), 1)

    def by_experiment(self) -> pd.Series:
        """Experiment -> mean over its wells and all shuffles."""
        return pd.Series(self.sums.sum(axis=1) / np.maximum(self.counts.sum(axis=1), 1), self.experiments)


class _Null:
    """Collects the average precisions of shuffled labels by "well type/level"."""

    def __init__(self, permutations: int) -> None:
        self._permutations = permutations
        self._sums: dict[str, dict[str, np.ndarray]] = {}  # name -> experiment -> (2, permutations) sums and counts

    def add(
        self, permutation: int, experiment: str, well_types: np.ndarray, level: str, average_precision: np.ndarray
    ) -> None:
        """Add the (R,) average precisions of one shuffle in one experiment."""
        for well_type in np.unique(well_types):
            counted = np.isfinite(average_precision) & (well_types == well_type)
            of_name = self._sums.setdefault(f"{well_type}/{level}", {})
            sums = of_name.setdefault(experiment, np.zeros((2, self._permutations)))
            sums[:, permutation] += average_precision[counted].sum(), counted.sum()

    def collected(self) -> dict[str, ShuffledPrecision]:
        """Name -> what was added."""
        found = {}
        for name, of_experiment in self._sums.items():
            sums, counts = np.stack(list(of_experiment.values()), axis=1)
            found[name] = ShuffledPrecision(list(of_experiment), sums, counts)
        return found


COLUMNS = [
    "fold", "id_code", "experiment", "cell_type", "well_type", "perturbation", "level", "average_precision", "positives", "negatives",
    "chance",
]  # fmt: skip


def average_precisions(
    profiles: Profiles, permutations: int, seed: int = 0
) -> tuple[pd.DataFrame, dict[str, ShuffledPrecision]]:
    """Average precision of every labelled well that is not a negative control, at each level of LEVELS.

    Pairs are made within a fold and cell type. Positives are wells of the same perturbation, as far as the level allows. Negatives are
    wells of all other perturbations in the query's experiment. Similarity is the cosine; of equal ones the negative comes first.

    Args:
        profiles: Labelled wells; unlabelled ones are ignored.
        permutations: Shuffles of the labels within each plate and well type.
        seed: Of the shuffles.

    Returns:
        A table with the columns COLUMNS: one row per well and level with at least one positive and one negative. And a map
        "well type/level" -> average precision of the shuffled labels.
    """
    labelled = profiles.take(profiles.rows["perturbation"].notna().to_numpy())
    tables: list[pd.DataFrame] = []
    null = _Null(permutations)
    strata = list(labelled.rows.groupby(FOLD_AND_CELL_TYPE, sort=True).indices.values()) if len(labelled.rows) else []
    with progress("replicate retrieval", sum(len(members) for members in strata), "wells") as bar:
        for members in strata:
            wells = _LabelledWells.of(labelled.take(members))
            shuffled = wells.shuffled_labels(permutations, seed)
            well_types = wells.rows["well_type"].to_numpy(str)
            for block in wells.query_blocks(bar):
                tables += _precision_tables(block)
                experiment = str(wells.rows["experiment"].iloc[block.queries[0]])
                for permutation, label in enumerate(shuffled):
                    for level, average_precision, _, _ in block.average_precisions(label):
                        null.add(permutation, experiment, well_types[block.queries], level, average_precision)
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({c: [] for c in COLUMNS})
    return table, null.collected()


def _precision_tables(block: _QueryBlock) -> list[pd.DataFrame]:
    """The table of the queries of a block under their true labels, one per level."""
    wells, tables = block.wells, []
    for level, average_precision, positives, negatives in block.average_precisions(wells.label):
        valid = np.isfinite(average_precision)
        queries = block.queries[valid]
        rows = wells.rows.iloc[queries][["fold", "id_code", "experiment", "cell_type", "well_type"]]
        tables.append(
            rows.assign(
                perturbation=wells.names[wells.label[queries]], level=level, average_precision=average_precision[valid],
                positives=positives[valid], negatives=negatives[valid],
                chance=chance_average_precision(positives[valid], negatives[valid]),
            )
        )  # fmt: skip
    return tables


def summarize_retrieval(
    table: pd.DataFrame, null: dict[str, ShuffledPrecision]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Mean average precision by well type and level, with its null, skill, interval and p.

    One null answers for all of it: labels shuffled within each plate and well type. It lies above the chance of a random order where
    wells of a plate resemble each other, and below it where they were centred together.

    Args:
        table: First result of :func:`average_precisions`.
        null: Second result; without shuffles, chance takes its place.

    Returns:
        well type -> level -> ``map``, ``chance`` of a random order, ``null`` (mean of the shuffles), ``skill`` against the null, ``n``,
        ``experiments``, ``interval`` of ``map``, ``sign_flip_p`` (over experiments, that ``map`` exceeds the null of each), ``p`` and
        ``smallest_p`` of the shuffles.
    """
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for (well_type, level), rows in table.groupby(["well_type", "level"]):
        values, experiment = rows["average_precision"].to_numpy(), rows["experiment"].to_numpy(str)
        chance = float(rows["chance"].mean())
        shuffled = null.get(f"{well_type}/{level}")
        means = shuffled.means() if shuffled else np.empty(0)
        expected = shuffled.by_experiment()[experiment].to_numpy() if shuffled else rows["chance"].to_numpy()
        uncertainty = summarize(values, experiment)
        mean = uncertainty.pop("mean")
        expected_map = float(expected.mean())
        summary.setdefault(str(well_type), {})[str(level)] = {
            "map": mean,
            "chance": chance,
            "null": expected_map,
            "skill": skill(mean, expected_map),
            **uncertainty,
            "sign_flip_p": summarize(values - expected, experiment)["sign_flip_p"],
            "p": float((1 + (means >= mean - 1e-12).sum()) / (1 + len(means))),
            "smallest_p": 1 / (1 + len(means)),
        }
    return {
        well_type: {level: levels[level] for level in LEVELS if level in levels}
        for well_type, levels in summary.items()
    }


class _RandomOrders:
    """Average precisions of random orders, drawn once for each number of positives and negatives."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._drawn: dict[tuple[int, int], np.ndarray] = {}

    def average_precisions(self, positives: int, negatives: int) -> np.ndarray:
        """(RANDOM_ORDERS,) average precisions."""
        if (positives, negatives) not in self._drawn:
            draw = self._rng.random((RANDOM_ORDERS, positives + negatives))
            ranks = np.sort(np.argsort(np.argsort(draw, axis=1), axis=1)[:, :positives] + 1, axis=1)
            self._drawn[positives, negatives] = (np.arange(1, positives + 1) / ranks).mean(axis=1)
        return self._drawn[positives, negatives]


def activity(profiles: Profiles, seed: int = 0) -> pd.DataFrame:
    """How distinct each perturbation is from the negative controls.

    Positives are its wells in other experiments; negatives are the negative controls of the query's experiment. The null orders
    positives and negatives at random, well by well, as copairs does. p is that of the mean over a perturbation's wells, q is p after
    Benjamini and Hochberg over the perturbations of a fold and cell type. Wells of a perturbation share their controls, which this null
    ignores: on pure noise, 6 to 10 % of the p are below 0.05.

    Returns:
        fold, cell_type, perturbation, wells, average_precision, chance, p, q; no row for a perturbation in one experiment alone, or without
        negative controls in an experiment of its wells.
    """
    labelled = profiles.take(profiles.rows["perturbation"].notna().to_numpy())
    rng = np.random.default_rng(seed)
    orders = _RandomOrders(rng)
    rows: list[dict[str, Any]] = []
    strata = labelled.rows.groupby(FOLD_AND_CELL_TYPE, sort=True).indices if len(labelled.rows) else {}
    for (fold, cell_type), members in strata.items():
        found = [
            {"fold": int(fold), "cell_type": str(cell_type), "perturbation": name, **result}
            for name, result in _activities(labelled.take(members), orders, rng)
        ]
        p = [row["p"] for row in found]
        for row, q in zip(found, false_discovery_control(p) if p else [], strict=True):
            row["q"] = float(q)
        rows += found
    return pd.DataFrame(
        rows, columns=["fold", "cell_type", "perturbation", "wells", "average_precision", "chance", "p", "q"]
    )


def _activities(
    profiles: Profiles, orders: _RandomOrders, rng: np.random.Generator
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Perturbation, and wells, average_precision, chance and p, in one fold and cell type."""
    rows = profiles.rows
    unit = unit_length(profiles.values)
    is_control = (rows["well_type"] == "negative_control").to_numpy()
    experiment = rows["experiment"].to_numpy(str)
    treated = np.flatnonzero(~is_control)
    for name, members in rows[~is_control].groupby("perturbation").indices.items():
        wells = treated[members]
        precisions, chances, null = [], [], np.zeros(RANDOM_ORDERS)  # average precisions of the wells
        for query in wells:
            positive = wells[experiment[wells] != experiment[query]]
            negative = np.flatnonzero(is_control & (experiment == experiment[query]))
            if not len(positive) or not len(negative):
                continue
            near, far = unit[positive] @ unit[query], unit[negative] @ unit[query]
            controls_at_least = (near[:, None] <= far[None]).sum(axis=1)
            counted = np.ones((1, len(near)), bool)
            precisions.append(float(_average_precision(near[None], counted, controls_at_least[None])[0]))
            chances.append(float(chance_average_precision(np.array([len(near)]), np.array([len(far)]))[0]))
            # permuted, so that wells with the same numbers do not share their random orders
            null += rng.permutation(orders.average_precisions(len(near), len(far)))
        if precisions:
            mean = np.mean(precisions)
            p = (1 + (null / len(precisions) >= mean - 1e-12).sum()) / (1 + RANDOM_ORDERS)
            yield (
                str(name),
                {
                    "wells": len(precisions),
                    "average_precision": float(mean),
                    "chance": float(np.mean(chances)),
                    "p": float(p),
                },
            )
