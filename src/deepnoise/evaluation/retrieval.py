"""Replicate retrieval: do wells of one perturbation find each other among the other wells of their batch? (method: section 8)

Mean average precision as in Kalinin et al. 2025 (Nat. Commun. 16, 5181), with negatives from the query's own experiment alone,
since a batch effect makes these the most alike, and a null that shuffles labels within plates.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from deepnoise.evaluation.intervals import summarize
from deepnoise.evaluation.metrics import skill
from deepnoise.evaluation.profiles import GROUP, Profiles, unit_length
from deepnoise.progress import progress
from deepnoise.tables import LEVELS

BLOCK = 512  # query wells at a time: bounds the memory at BLOCK x wells of a cell type
RANDOM_ORDERS = 10_000  # of the null of activity


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


class _Counter:
    """Counts, row by row, how many entries of a matrix reach a value."""

    def __init__(self, reference: np.ndarray) -> None:
        """``reference``: (R, N) cosines; -inf where an entry never counts."""
        self._width = reference.shape[1]
        shifted = np.where(np.isfinite(reference), reference, -3.0).astype(np.float64)
        shifted.sort(axis=1)
        # rows are told apart by 8 times their number, so that one search serves them all
        self._flat = (shifted + 8.0 * np.arange(len(reference))[:, None]).ravel()

    def at_least(self, values: np.ndarray) -> np.ndarray:
        """(R, M) cosines (-inf allowed) -> how many entries of the same row are not below each."""
        rows = np.arange(len(values))[:, None]
        wanted = np.where(np.isfinite(values), values, 3.0).astype(np.float64) + 8.0 * rows
        return (rows + 1) * self._width - np.searchsorted(self._flat, wanted, side="left")


def _average_precision(similar: np.ndarray, counted: np.ndarray, above: np.ndarray) -> np.ndarray:
    """(R, M) cosines of the replicates, which of them count, and negatives at or above each -> (R,) average precision, nan without."""
    found = _Counter(np.where(counted, similar, -np.inf)).at_least(similar)
    precision = np.where(counted, found / np.maximum(found + above, 1), 0.0)
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


def _level_masks(where: dict[str, np.ndarray], queries: np.ndarray, found: np.ndarray) -> list[np.ndarray]:
    there = found >= 0
    other = {name: code[found] != code[queries][:, None] for name, code in where.items()}
    return [
        there,
        there & other["plate"],
        there & other["experiment"],
        there & other["experiment"] & other["well"],
    ]


def average_precisions(
    profiles: Profiles, permutations: int, seed: int = 0
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Average precision of every labelled well that is not a negative control, at each level of LEVELS.

    Pairs are made within a fold and cell type. Positives: wells of the same perturbation, as the level allows. Negatives: wells of
    all other perturbations in the query's experiment. Similarity: cosine; of equal ones the negative comes first.

    Args:
        profiles: Labelled and unlabelled wells; the latter are ignored.
        permutations: Shuffles of the labels within each plate and well type.
        seed: Of the shuffles.

    Returns:
        A table with fold, id_code, experiment, cell_type, well_type, perturbation, ``level``, ``average_precision``, ``chance``,
        ``positives``, ``negatives``, a row a well and level with at least one of both; and a map
        (well type, level) joined by "/" -> (permutations,) mean average precision of the shuffled labels.
    """
    labelled = profiles.take(profiles.rows["perturbation"].notna().to_numpy())
    tables: list[pd.DataFrame] = []
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, np.ndarray] = {}
    groups = list(labelled.rows.groupby(GROUP, sort=True).indices.values()) if len(labelled.rows) else []
    with progress("replicate retrieval", sum(len(g) for g in groups), "wells") as bar:
        for members in groups:
            group = labelled.take(members)
            rows = group.rows
            unit = unit_length(group.values)
            names, label = np.unique(rows["perturbation"].to_numpy(str), return_inverse=True)
            where = {
                "experiment": pd.factorize(rows["experiment"])[0],
                "plate": pd.factorize(rows["experiment"] + "/" + rows["plate"])[0],
                "well": pd.factorize(rows["well"])[0],
            }
            shuffled = np.repeat(label[None], permutations, axis=0)
            for stratum, own in rows.groupby(["experiment", "plate", "well_type"]).indices.items():
                # the same shuffle in every fold model, which are asked about the same wells
                rng = np.random.default_rng([seed, zlib.crc32("/".join(stratum).encode())])
                shuffled[:, own] = rng.permuted(shuffled[:, own], axis=1)
            asked = (rows["well_type"] != "negative_control").to_numpy()
            kinds = rows["well_type"].to_numpy(str)
            for experiment in np.unique(where["experiment"]):
                batch = np.flatnonzero(where["experiment"] == experiment)
                for start in range(0, len(batch), BLOCK):
                    queries = batch[start : start + BLOCK]
                    bar.update(len(queries))
                    queries = queries[asked[queries]]
                    if not len(queries):
                        continue
                    similar = unit[queries] @ unit.T  # (R, W of the cell type)
                    own = similar[:, batch].copy()
                    own[np.arange(len(queries)), np.searchsorted(batch, queries)] = -np.inf
                    everyone = _Counter(own)
                    for b, labels in enumerate([label, *shuffled]):
                        found = _replicates(labels, queries)
                        cosines = np.where(
                            found >= 0, np.take_along_axis(similar, np.maximum(found, 0), axis=1), -np.inf
                        )
                        masks = _level_masks(where, queries, found)
                        same_batch = masks[0] & ~masks[2]
                        above = everyone.at_least(cosines)
                        above -= _Counter(np.where(same_batch, cosines, -np.inf)).at_least(cosines)
                        negatives = len(batch) - 1 - same_batch.sum(axis=1)
                        for level, mask in zip(LEVELS, masks, strict=True):
                            precision = _average_precision(cosines, mask & (negatives > 0)[:, None], above)
                            valid = np.isfinite(precision)
                            if b == 0:
                                part = rows.iloc[queries[valid]][
                                    ["fold", "id_code", "experiment", "cell_type", "well_type"]
                                ]
                                positives = mask.sum(axis=1)[valid]
                                tables.append(
                                    part.assign(
                                        perturbation=names[label[queries[valid]]], level=level,
                                        average_precision=precision[valid], positives=positives, negatives=negatives[valid],
                                        chance=chance_average_precision(positives, negatives[valid]),
                                    )
                                )  # fmt: skip
                                continue
                            for kind in np.unique(kinds[queries]):
                                chosen = valid & (kinds[queries] == kind)
                                name = f"{kind}/{level}"
                                sums.setdefault(name, np.zeros(permutations))[b - 1] += precision[chosen].sum()
                                counts.setdefault(name, np.zeros(permutations))[b - 1] += chosen.sum()
    columns = ["fold", "id_code", "experiment", "cell_type", "well_type", "perturbation", "level", "average_precision", "positives", "negatives", "chance"]  # fmt: skip
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({c: [] for c in columns})
    return table, {name: total / np.maximum(counts[name], 1) for name, total in sums.items()}


def summarize_retrieval(table: pd.DataFrame, null: dict[str, np.ndarray]) -> dict[str, dict[str, dict[str, Any]]]:
    """Mean average precision by well type and level, with chance, skill, interval and permutation p.

    Args:
        table: First result of :func:`average_precisions`.
        null: Second result.

    Returns:
        well type -> level -> ``map``, ``chance``, ``skill``, ``n``, ``experiments``, ``interval``, ``sign_flip_p``,
        ``p`` and ``smallest_p`` of the shuffles.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for (kind, level), rows in table.groupby(["well_type", "level"]):
        chance = float(rows["chance"].mean())
        part = summarize(rows["average_precision"].to_numpy(), rows["experiment"].to_numpy(), chance)
        mean = part.pop("mean")
        shuffled = null.get(f"{kind}/{level}", np.empty(0))
        found.setdefault(str(kind), {})[str(level)] = {
            "map": mean,
            "chance": chance,
            "skill": skill(mean, chance),
            **part,
            "p": float((1 + (shuffled >= mean - 1e-12).sum()) / (1 + len(shuffled))),
            "smallest_p": 1 / (1 + len(shuffled)),
        }
    return {kind: {level: levels[level] for level in LEVELS if level in levels} for kind, levels in found.items()}


def activity(profiles: Profiles, seed: int = 0) -> pd.DataFrame:
    """How far each perturbation stands apart from the negative controls.

    Positives: its wells in other experiments. Negatives: negative controls of the query's experiment. The null orders positives
    and negatives at random, well by well, as copairs does; p is that of the mean over a perturbation's wells, q after
    Benjamini and Hochberg over the perturbations of a fold and cell type. Wells of a perturbation share their controls, which this null
    does not know: on pure noise 6 to 10 % of the p lie under 0.05.

    Returns:
        fold, cell_type, perturbation, wells, average_precision, chance, p, q; no rows without negative controls.
    """
    labelled = profiles.take(profiles.rows["perturbation"].notna().to_numpy())
    rng = np.random.default_rng(seed)
    parts: list[dict[str, Any]] = []
    kept_null: dict[tuple[int, int], np.ndarray] = {}

    def random_orders(positives: int, negatives: int) -> np.ndarray:
        """(RANDOM_ORDERS,) average precisions of random orders."""
        if (positives, negatives) not in kept_null:
            draw = rng.random((RANDOM_ORDERS, positives + negatives))
            place = np.sort(np.argsort(np.argsort(draw, axis=1), axis=1)[:, :positives] + 1, axis=1)
            kept_null[positives, negatives] = (np.arange(1, positives + 1) / place).mean(axis=1)
        return kept_null[positives, negatives]

    indices = labelled.rows.groupby(GROUP, sort=True).indices if len(labelled.rows) else {}
    for (fold, cell_type), members in indices.items():
        group = labelled.take(members)
        rows = group.rows
        unit = unit_length(group.values)
        untreated = (rows["well_type"] == "negative_control").to_numpy()
        experiment = rows["experiment"].to_numpy(str)
        first = len(parts)
        for name, own in rows[~untreated].groupby("perturbation").indices.items():
            own = np.flatnonzero(~untreated)[own]
            scored, chances, null = [], [], np.zeros(RANDOM_ORDERS)
            for query in own:
                positive = own[experiment[own] != experiment[query]]
                negative = np.flatnonzero(untreated & (experiment == experiment[query]))
                if not len(positive) or not len(negative):
                    continue
                near, far = unit[positive] @ unit[query], unit[negative] @ unit[query]
                found = (near[:, None] <= near[None]).sum(axis=1)
                above = (near[:, None] <= far[None]).sum(axis=1)
                scored.append(float((found / (found + above)).mean()))
                chances.append(float(chance_average_precision(np.array([len(near)]), np.array([len(far)]))[0]))
                null += rng.permutation(random_orders(len(near), len(far)))
            if scored:
                p = (1 + (null / len(scored) >= np.mean(scored) - 1e-12).sum()) / (1 + RANDOM_ORDERS)
                parts.append(
                    {
                        "fold": int(fold), "cell_type": str(cell_type), "perturbation": str(name), "wells": len(scored),
                        "average_precision": float(np.mean(scored)), "chance": float(np.mean(chances)), "p": float(p),
                    }
                )  # fmt: skip
        values = [part["p"] for part in parts[first:]]
        for part, q in zip(parts[first:], false_discovery_control(values) if values else [], strict=True):
            part["q"] = float(q)
    return pd.DataFrame(
        parts, columns=["fold", "cell_type", "perturbation", "wells", "average_precision", "chance", "p", "q"]
    )
