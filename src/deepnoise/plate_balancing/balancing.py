"""What the plate design adds to a table of well scores, in five parts.

1. Read the table and what is known of its plates (:func:`read_plates`).
2. Calibrate: divide scores by a temperature (:func:`fit_temperatures`).
3. Infer which plate group is on which plate (:func:`infer_plate_groups`).
4. Choose the balancing method (:func:`choose_method`).
5. Filter and balance plate by plate (:func:`apply_steps`).

All that balancing knows of a plate is one vector of capacities: in how many of its wells each perturbation can be.
A *step* is one set of calls: ``plain``, ``group_filter``, or a method of METHODS.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import logsumexp

from deepnoise.errors import InputError, closest, first_few
from deepnoise.names import known_names
from deepnoise.parameters import PlateBalancingParameters
from deepnoise.plate_balancing.groups import infer_groups
from deepnoise.plate_balancing.methods import METHODS, match_marginals
from deepnoise.plate_balancing.scores import META, log_probabilities, log_softmax
from deepnoise.plate_balancing.temperature import (
    LEAST_WELLS,
    LIST_SHARPNESS,
    MIN_EVIDENCE,
    TEMPERATURE_WELLS,
    abstention_threshold,
    are_lists,
    fit_to_design,
    fit_to_labels,
)
from deepnoise.tables import SCHEMAS, SCORE, class_names, matrix, prefixed
from deepnoise.tiers import with_design

logger = logging.getLogger(__name__)
DEFAULT_METHOD = "matching"
"""What ``auto`` means unless validation labels favour another method."""
FIRST_FIT_PLATES = 4
"""Most plates used to fit the first temperature to the design, before plate groups are known."""
FINAL_FIT_PLATES = 12
"""Most plates used to fit the final temperature to the design, once plate groups are known."""
STRAY_SHARE = 0.001
"""Wells that are none of the perturbations left for them on their plate, unless validation wells say otherwise."""
STRAY_SHARES = (STRAY_SHARE, 0.003, 0.01, 0.03, 0.1)
SHARPENINGS = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0)
"""Temperatures of balancing that are tried on validation wells, as multiples of the plain one."""
PlateKey = tuple[str, str]  # (experiment, plate)
Capacities = dict[PlateKey, np.ndarray]  # (K,) int each


class PlateProbabilities(NamedTuple):
    """Probabilities of the wells of one plate, for the classes that can be on it."""

    rows: np.ndarray  # (W',) int rows of the score table
    columns: np.ndarray  # (K',) int classes
    p: np.ndarray  # (W', K') float32


@dataclass(frozen=True)
class DesignKnowledge:
    """What may be known of the plates besides their scores; all of it may be empty.

    Args:
        layout: The table ``plate_layout``: plate group and number of wells per plate of each perturbation.
        groups_in_use: experiment, plate, group of labelled experiments: a prior, never the only candidates.
        contents: The table ``plate_contents``: the perturbations on a plate, where they are known.
        cell_type: id_code -> cell type.
        validation: id_code -> perturbation of validation wells.
    """

    layout: pd.DataFrame
    groups_in_use: pd.DataFrame | None = None
    contents: pd.DataFrame | None = None
    cell_type: pd.Series | None = None
    validation: pd.Series | None = None


@dataclass(frozen=True)
class Balanced:
    """Result of :func:`balance`; tables of :data:`deepnoise.tables.SCHEMAS`. The last step is that of the chosen method."""

    steps: pd.DataFrame  # balancing_steps
    groups: pd.DataFrame  # plate_groups
    calibration: pd.DataFrame  # calibration
    probabilities_by_plate: dict[str, list[PlateProbabilities]]  # of the plain, the filtered and the chosen step
    shape: tuple[int, ...]  # (W, K)

    def probabilities(self, step: str) -> np.ndarray:
        """(W, K) float32 probabilities after a step."""
        dense = np.zeros(self.shape, np.float32)
        for rows, columns, p in self.probabilities_by_plate[step]:
            dense[np.ix_(rows, columns)] = p
        return dense


@dataclass(frozen=True)
class ScoredPlates:
    """The plates of a score table with what is known of them."""

    table: pd.DataFrame
    names: list[str]  # K classes
    scores: np.ndarray  # (W, K) float64; NaN where not listed
    rows: dict[PlateKey, np.ndarray]  # rows of each plate
    cell_type: pd.Series  # (W,)
    validation: np.ndarray  # (W,) int class of validation wells, -1 for the others
    group_of_class: np.ndarray  # (K,) int, -1 for a class without a group
    usual_count: np.ndarray  # (K,) int wells per labelled plate, 0 if unknown
    contents: Capacities  # of plates whose contents are known

    def default_capacity(self, key: PlateKey) -> np.ndarray:
        """Capacities of a plate before its group is known.

        Its known contents; else each perturbation as often as on a labelled plate; one of which that is unknown, as often as if
        all were on the plate equally often (rounded up).
        """
        if key in self.contents:
            return self.contents[key]
        evenly = -(-len(self.rows[key]) // len(self.names))
        return np.where(self.usual_count > 0, self.usual_count, evenly)

    def log_p(self, rows: np.ndarray, temperatures: np.ndarray, unlisted: float) -> np.ndarray:
        """(W, K) log probabilities of some wells. Computed anew for each plate, so that memory stays bounded."""
        adjacent = rows[-1] - rows[0] + 1 == len(rows)
        selection = slice(rows[0], rows[-1] + 1) if adjacent else rows  # a slice is not copied
        return log_probabilities(self.scores[selection], temperatures[selection], unlisted)


@dataclass(frozen=True)
class Calibration:
    """Temperature of each cell type and its source: given, validation or design; and what balancing adds to it."""

    temperature: dict[str, float]
    source: dict[str, str]
    sharpening: float = 1.0  # temperature of balancing over that of plain calls
    call_sharpness: float = (
        1.0  # divisor of the temperature by which calls are balanced, where confidences stay as they are
    )
    stray_share: float = STRAY_SHARE

    def of_wells(self, cell_type: pd.Series) -> np.ndarray:
        """(W,) temperature of each well."""
        return cell_type.map(self.temperature).to_numpy(float)

    def table(self, cell_type: pd.Series, tier: str) -> pd.DataFrame:
        """The table ``calibration``."""
        rows = [
            (
                name,
                temperature,
                self.source[name],
                temperature * self.sharpening,
                self.stray_share,
                int((cell_type == name).sum()),
                tier,
            )
            for name, temperature in self.temperature.items()
        ]
        return pd.DataFrame(rows, columns=list(SCHEMAS["calibration"].columns))


def balance(table: pd.DataFrame, knowledge: DesignKnowledge, parameters: PlateBalancingParameters) -> Balanced:
    """Take a table of well scores through every step of plate balancing.

    Args:
        table: Scores pooled by :func:`deepnoise.plate_balancing.scores.pool_scores`.
        knowledge: What is known besides them.
        parameters: The block ``plate_balancing``.

    Raises:
        InputError: ``plate_contents`` names a perturbation without scores, or a method is unknown.
    """
    _check_methods([parameters.method, *parameters.compare])
    plates = read_plates(table, knowledge)
    capacity = {key: plates.default_capacity(key) for key in plates.rows}
    calibration = fit_temperatures(plates, capacity, parameters, FIRST_FIT_PLATES, min_evidence=0.0)
    temperatures = calibration.of_wells(plates.cell_type)
    groups = infer_plate_groups(plates, temperatures, knowledge, parameters)
    capacity = restrict_to_groups(capacity, groups, plates)
    if "design" in calibration.source.values():  # again, among the classes that remain
        calibration = fit_temperatures(plates, capacity, parameters, FINAL_FIT_PLATES, MIN_EVIDENCE)
        temperatures = calibration.of_wells(plates.cell_type)
        if not groups["decided"].all():  # the first temperature may have been far off
            undecided = set(groups.loc[~groups["decided"].astype(bool), "experiment"])
            again = infer_plate_groups(plates, temperatures, knowledge, parameters, undecided)
            groups = pd.concat([groups[groups["decided"]], again]).sort_values(
                ["experiment", "plate"], ignore_index=True
            )
            capacity = restrict_to_groups(capacity, again, plates)
    calibration = replace(calibration, call_sharpness=call_sharpness(plates, calibration))
    calibration = fit_balancing(plates, calibration, capacity, parameters.unlisted)
    method: str = parameters.method
    if method == "auto":
        method = choose_method(plates, calibration, capacity, parameters.unlisted)
    step_names = list_steps(method, parameters.compare, filtered=bool(len(groups) or plates.contents))
    kept = {"plain", "group_filter", step_names[-1]}
    steps, probabilities = apply_steps(plates, calibration, capacity, parameters.unlisted, step_names, kept)
    tier = str(table["tier"].iloc[0])
    return Balanced(steps, groups, calibration.table(plates.cell_type, tier), probabilities, plates.scores.shape)


def _check_methods(names: Sequence[str]) -> None:
    for name in names:
        if name not in ("auto", *METHODS):
            raise InputError(f"plate_balancing: unknown method {name!r}; allowed: auto, {', '.join(METHODS)}.{closest(name, METHODS)}")  # fmt: skip


# 1. read ----------------------------------------------------------------------------------------------------------


def read_plates(table: pd.DataFrame, knowledge: DesignKnowledge) -> ScoredPlates:
    """The plates of a pooled score table with what is known of them.

    Raises:
        InputError: ``plate_contents`` names a perturbation without scores.
    """
    names = class_names(table)
    layout = knowledge.layout.set_index("perturbation")
    return ScoredPlates(
        table=table,
        names=names,
        scores=matrix(table, SCORE),
        rows={key: rows for key, rows in table.groupby(["experiment", "plate"], sort=True).indices.items()},
        cell_type=_cell_types(table, knowledge.cell_type),
        validation=_validation_labels(table, names, knowledge.validation),
        group_of_class=layout["group"].reindex(names).fillna(-1).to_numpy(int),
        usual_count=layout["per_plate"].reindex(names).fillna(0).to_numpy(int),
        contents=_known_contents(knowledge.contents, names),
    )


def _cell_types(table: pd.DataFrame, cell_type: pd.Series | None) -> pd.Series:
    """(W,) cell type of each well; "all" where it is not known."""
    of_well = table["id_code"].map(cell_type) if cell_type is not None else pd.Series(index=table.index, dtype="str")
    return of_well.fillna("all").astype("str").rename("cell_type")


def _validation_labels(table: pd.DataFrame, names: list[str], labels: pd.Series | None) -> np.ndarray:
    """(W,) int class of validation wells, -1 for the others."""
    if labels is None:
        return np.full(len(table), -1)
    class_number = {name: i for i, name in enumerate(names)}
    of_well = table["id_code"].map(labels).map(class_number).where(table["role"] == "validation")
    return of_well.fillna(-1).to_numpy(int)


def check_contents(contents: pd.DataFrame, wells: pd.DataFrame) -> None:
    """Refuse known contents of a plate that the screen does not have.

    Args:
        contents: The table ``plate_contents``.
        wells: The table ``wells``.

    Raises:
        InputError: Names the experiment or plate, and the closest one of the screen.
    """
    plates = wells.groupby("experiment")["plate"].agg(set)
    for experiment, plate in contents[["experiment", "plate"]].drop_duplicates().itertuples(index=False):
        known_names([experiment], plates.index, "experiment", "plate_contents")
        known_names([plate], plates[experiment], f"plate of experiment {experiment}", "plate_contents")


def _known_contents(contents: pd.DataFrame | None, names: list[str]) -> Capacities:
    """Capacities of the plates whose contents are known."""
    if contents is None or contents.empty:
        return {}
    unknown = sorted(set(contents["perturbation"]) - set(names))
    if unknown:
        raise InputError(
            f"plate_contents names {len(unknown)} perturbations without scores: {first_few(unknown)}.{closest(unknown[0], names)}"
        )
    class_number = {name: i for i, name in enumerate(names)}
    capacities = {}
    for key, rows in contents.groupby(["experiment", "plate"]):
        capacity = np.zeros(len(names), int)
        np.add.at(capacity, rows["perturbation"].map(class_number).to_numpy(), rows["wells"].to_numpy(int))
        capacities[key] = capacity
    return capacities


# 2. calibrate -----------------------------------------------------------------------------------------------------


def fit_temperatures(
    plates: ScoredPlates,
    capacity: Capacities,
    parameters: PlateBalancingParameters,
    plate_limit: int,
    min_evidence: float,
) -> Calibration:
    """Temperature of each cell type, and where it comes from.

    Given by the parameters; or from the labels of validation wells, of the cell type if there are enough, else of all; or from the
    design, one for all remaining cell types.

    Args:
        plates: The scored plates.
        capacity: Capacities of each plate.
        parameters: The block ``plate_balancing``.
        plate_limit: Largest number of plates from which the design gives a temperature.
        min_evidence: Nats by which scores must explain these plates better than flat ones.
    """
    temperature, source = {}, {}
    cell_type = plates.cell_type.to_numpy()
    validation = np.flatnonzero(plates.validation >= 0)
    for name in sorted(plates.cell_type.unique()):
        of_cell_type = validation[(cell_type == name)[validation]]
        rows = of_cell_type if len(of_cell_type) >= TEMPERATURE_WELLS else validation
        if parameters.temperature != "auto":
            temperature[name], source[name] = float(parameters.temperature), "given"
        elif len(rows) >= TEMPERATURE_WELLS:
            temperature[name] = fit_to_labels(plates.scores[rows], plates.validation[rows], parameters.unlisted)
            source[name] = "validation"
    remaining = [name for name in plates.cell_type.unique() if name not in temperature]
    if remaining:
        keys = [key for key, rows in plates.rows.items() if plates.cell_type.iloc[rows[0]] in remaining]
        evenly_spread = np.unique(np.linspace(0, len(keys) - 1, min(plate_limit, len(keys))).astype(int))
        sample = [keys[i] for i in evenly_spread]
        common = fit_to_design(
            [plates.scores[plates.rows[key]] for key in sample], [capacity[key] for key in sample], parameters.unlisted, min_evidence
        )  # fmt: skip
        temperature |= dict.fromkeys(remaining, common)
        source |= dict.fromkeys(remaining, "design")
    return Calibration(temperature, source)


def call_sharpness(plates: ScoredPlates, calibration: Calibration) -> float:
    """LIST_SHARPNESS if the scores are lists or votes and the design gave their temperature, else 1.

    Calls are right more often at the sharper temperature. Confidences keep the cautious one: a call on which models
    agree in error is not to pass for a confident one.
    """
    by_design = set(calibration.source.values()) == {"design"}
    return LIST_SHARPNESS if by_design and are_lists([plates.scores]) else 1.0


# 3. groups --------------------------------------------------------------------------------------------------------


def infer_plate_groups(
    plates: ScoredPlates,
    temperatures: np.ndarray,
    knowledge: DesignKnowledge,
    parameters: PlateBalancingParameters,
    experiments: set[str] | None = None,
) -> pd.DataFrame:
    """The table ``plate_groups``, of some experiments or all; without rows where perturbations do not travel in groups."""
    group_count = int(plates.group_of_class.max()) + 1
    if parameters.group_inference == "none" or group_count < 2:
        return SCHEMAS["plate_groups"].empty()
    inferred = []
    plate_names = plates.table["plate"].to_numpy(object)
    for experiment, rows in plates.table.groupby("experiment", sort=True).indices.items():
        if experiments is not None and experiment not in experiments:
            continue
        names, plate = np.unique(plate_names[rows], return_inverse=True)
        result = infer_groups(
            plates.log_p(rows, temperatures, parameters.unlisted),
            plate,
            plates.group_of_class,
            parameters.group_posterior,
            parameters.group_statistic,
            _group_orders_of_others(knowledge.groups_in_use, experiment, names),
        )
        for name, group in zip(names, result.groups, strict=True):
            inferred.append(
                (experiment, name, group, result.posterior, result.margin, result.decided, result.statistic)
            )
    return pd.DataFrame(inferred, columns=list(SCHEMAS["plate_groups"].columns))


def _group_orders_of_others(
    groups_in_use: pd.DataFrame | None, experiment: str, plates: np.ndarray
) -> dict[tuple[int, ...], int]:
    """Groups in the order of ``plates`` -> number of other experiments with this order; only those with all these plates."""
    if groups_in_use is None or groups_in_use.empty:
        return {}
    others = groups_in_use[groups_in_use["experiment"] != experiment].pivot(
        index="experiment", columns="plate", values="group"
    )
    complete = others.reindex(columns=plates).dropna().astype(int)
    return dict(Counter(complete.itertuples(index=False, name=None)))


def restrict_to_groups(capacity: Capacities, groups: pd.DataFrame, plates: ScoredPlates) -> Capacities:
    """Capacities in which plates of a decided group hold no class of another one; known contents stay as they are."""
    restricted = dict(capacity)
    for row in groups[groups["decided"].astype(bool) & (groups["group"] >= 0)].itertuples():
        key = (row.experiment, row.plate)
        if key not in plates.contents:
            in_group = (plates.group_of_class == row.group) | (plates.group_of_class < 0)
            restricted[key] = np.where(in_group, capacity[key], 0)
    return restricted


# 4. method --------------------------------------------------------------------------------------------------------


def balance_plate(
    method: str, log_p: np.ndarray, capacity: np.ndarray, stray_share: float, for_calls: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Balance one plate by a key of METHODS.

    Confidences of matching allow for strays: a well may be none of the perturbations that its plate has left for it. It then holds any
    perturbation, as its own scores say, so the weight of a stray against a place grows where the scores prefer perturbations of other
    plates. Calls stay on the plate. They are those of plates without strays, unless validation wells show more than STRAY_SHARE.

    Args:
        method: A key of METHODS.
        log_p: (W, K) plain log probabilities, of all classes.
        capacity: (K,) int; 0 for a class that cannot be on the plate.
        stray_share: Expected share of strays; 0 for none.
        for_calls: (W, K) log probabilities from which the calls are made; None: the same.

    Returns:
        (K',) classes, (W, K') log probabilities whose rows sum to 1, and (W,) calls as positions in the classes.
    """
    on_plate = np.flatnonzero(capacity)
    plain_on_plate = log_p[:, on_plate].astype(np.float64)
    filtered = log_softmax(plain_on_plate)
    calls: np.ndarray | None = None
    if for_calls is not None:
        calls = METHODS[method](log_softmax(for_calls[:, on_plate].astype(np.float64)), capacity[on_plate])[1]
    if method != "matching" or not stray_share:
        balanced, own_calls = METHODS[method](filtered, capacity[on_plate])
        return on_plate, balanced, own_calls if calls is None else calls
    share_on_plate = logsumexp(plain_on_plate, axis=1)  # log of the plain probability of being on the plate
    # a place is one of K' equally likely classes, a stray any of K
    stray = np.log(stray_share / (1 - stray_share)) - share_on_plate - np.log(len(capacity) / len(on_plate))
    placed = np.exp(match_marginals(filtered, capacity[on_plate], stray=stray)[0])
    p = np.clip(1 - placed.sum(axis=1, keepdims=True), 0, 1) * np.exp(log_p.astype(np.float64))
    p[:, on_plate] += placed
    p /= p.sum(axis=1, keepdims=True)
    if stray_share > STRAY_SHARE:
        calls = p[:, on_plate].argmax(axis=1)
    elif calls is None:
        calls = METHODS[method](filtered, capacity[on_plate])[1]
    return np.arange(len(capacity)), np.log(np.maximum(p, 1e-30)), on_plate[calls]


def fit_balancing(plates: ScoredPlates, plain: Calibration, capacity: Capacities, unlisted: float) -> Calibration:
    """Add the temperature of balancing and the share of strays: those with the least log loss of matching on validation wells.

    With fewer than LEAST_WELLS of them, the plain temperature and STRAY_SHARE.
    """
    keys = [key for key, rows in plates.rows.items() if (plates.validation[rows] >= 0).any()]
    if (plates.validation >= 0).sum() < LEAST_WELLS:
        return plain
    sample = [keys[i] for i in np.unique(np.linspace(0, len(keys) - 1, min(FINAL_FIT_PLATES, len(keys))).astype(int))]
    temperatures = plain.of_wells(plates.cell_type)

    def loss(sharpening: float, share: float) -> float:
        total = 0.0
        for key in sample:
            rows = plates.rows[key]
            log_p = plates.log_p(rows, temperatures * sharpening, unlisted)
            columns, log_q, _ = balance_plate("matching", log_p, capacity[key], share)
            labelled = np.flatnonzero(plates.validation[rows] >= 0)
            dense = np.full(len(plates.names), np.log(1e-30))
            for well in labelled:
                dense[columns] = log_q[well]
                total -= max(float(dense[plates.validation[rows[well]]]), -30.0)
        return total

    sharpening = (
        1.0 if set(plain.source.values()) == {"given"} else min(SHARPENINGS, key=lambda s: loss(s, STRAY_SHARE))
    )
    share = min(STRAY_SHARES, key=lambda share: loss(sharpening, share))
    return replace(plain, sharpening=sharpening, stray_share=share)


def choose_method(plates: ScoredPlates, calibration: Calibration, capacity: Capacities, unlisted: float) -> str:
    """The method with most correct calls on validation wells; DEFAULT_METHOD unless another is better by two standard errors."""
    validation = plates.validation >= 0
    if validation.sum() < LEAST_WELLS:
        return DEFAULT_METHOD
    # greedy exists for comparison alone; group_filter and none are the same function
    candidates = [name for name in METHODS if name not in ("greedy", "group_filter")]
    correct = {name: np.zeros(len(validation), bool) for name in candidates}
    temperatures = calibration.of_wells(plates.cell_type) * calibration.sharpening
    for key, rows in plates.rows.items():
        if validation[rows].any():
            log_p = plates.log_p(rows, temperatures, unlisted)
            for name in candidates:
                columns, _, picked = balance_plate(name, log_p, capacity[key], calibration.stray_share)
                correct[name][rows] = columns[picked] == plates.validation[rows]
    best, best_gain = DEFAULT_METHOD, 0.0
    for name in candidates:
        gain = correct[name][validation].astype(float) - correct[DEFAULT_METHOD][validation]
        if gain.mean() > max(best_gain, 2 * gain.std() / np.sqrt(validation.sum())):
            best, best_gain = name, float(gain.mean())
    return best


# 5. apply ---------------------------------------------------------------------------------------------------------


def list_steps(method: str, compare: Sequence[str], filtered: bool) -> list[str]:
    """Names of the steps: ``plain`` first, that of the chosen method last.

    Args:
        method: The chosen key of METHODS; ``none`` is the filter alone.
        compare: Further keys of METHODS.
        filtered: Whether plate groups or plate contents restrict what can be on a plate.
    """
    chosen = "group_filter" if method == "none" else method
    earlier = [*(["group_filter"] if filtered else []), *(name for name in compare if name != "none")]
    compared = [name for name in dict.fromkeys(earlier) if name != chosen]
    if method == "none" and not filtered and not compared:
        return ["plain"]  # the filter would repeat it
    return ["plain", *compared, chosen]


def apply_steps(
    plates: ScoredPlates,
    calibration: Calibration,
    capacity: Capacities,
    unlisted: float,
    step_names: Sequence[str],
    kept: set[str],
) -> tuple[pd.DataFrame, dict[str, list[PlateProbabilities]]]:
    """Calls of every step, plate by plate.

    Args:
        plates: The scored plates.
        calibration: Temperatures and share of strays.
        capacity: Capacities of each plate.
        unlisted: See :func:`~deepnoise.plate_balancing.scores.log_probabilities`.
        step_names: ``plain``, then keys of METHODS.
        kept: Steps whose probabilities are returned too.

    Returns:
        The table ``balancing_steps``, and step -> probabilities of each plate.
    """
    table, names = plates.table, plates.names
    steps = {name: _Step(len(table), name) for name in step_names}
    probabilities: dict[str, list[PlateProbabilities]] = {name: [] for name in step_names if name in kept}
    well_names, all_classes = table["well"].to_numpy(object), np.arange(len(names))
    temperatures = calibration.of_wells(plates.cell_type)
    for key, rows in plates.rows.items():
        log_p = plates.log_p(rows, temperatures, unlisted)
        sharpened, for_calls = log_p, None
        if calibration.sharpening != 1:
            sharpened = plates.log_p(rows, temperatures * calibration.sharpening, unlisted)
        if calibration.call_sharpness != 1:
            for_calls = plates.log_p(rows, temperatures / calibration.call_sharpness, unlisted)
        for name, step in steps.items():
            if name == "plain":
                columns, log_q, picked, candidates = all_classes, log_p, log_p.argmax(axis=1), len(names)
            else:
                scores = log_p if name == "group_filter" else sharpened
                columns, log_q, picked = balance_plate(name, scores, capacity[key], calibration.stray_share, for_calls)
                candidates = int(np.count_nonzero(capacity[key]))
            p = step.record(rows, log_q.astype(np.float32, copy=False), picked, columns, candidates)
            if name in probabilities:
                probabilities[name].append(PlateProbabilities(rows, columns, p))
        for step in steps.values():
            step.explain(rows, steps["plain"].called_class, capacity[key], well_names, names)
    tier = str(table["tier"].iloc[0])
    base = table[META[:-1]]
    tables = [
        step.table(base, names).assign(tier=tier if name == "plain" else with_design(tier))
        for name, step in steps.items()
    ]
    return pd.concat(tables, ignore_index=True), probabilities


class _Step:
    """The calls of one step, filled plate by plate."""

    def __init__(self, well_count: int, name: str) -> None:
        self.name = name
        self.called_class = np.zeros(well_count, int)
        self._confidence, self._margin, self._entropy = np.zeros((3, well_count))
        self._candidates = np.zeros(well_count, int)
        self._reason = np.full(well_count, "", dtype=object)

    def record(
        self, rows: np.ndarray, log_q: np.ndarray, picked: np.ndarray, columns: np.ndarray, candidates: int
    ) -> np.ndarray:
        """Record the calls of one plate.

        Args:
            rows: (W',) rows of the score table.
            log_q: (W', K') log probabilities.
            picked: (W',) the called class of each well, as a position in ``columns``.
            columns: (K',) classes with a probability.
            candidates: Number of classes that can be on the plate.

        Returns:
            (W', K') probabilities.
        """
        called = np.arange(len(picked)), picked
        p = np.exp(log_q)
        self.called_class[rows] = columns[picked]
        self._confidence[rows] = confidence = p[called]
        self._entropy[rows] = -np.einsum("ij,ij->i", p, log_q)
        self._candidates[rows] = candidates
        p[called] = 0.0
        self._margin[rows] = confidence - p.max(axis=1)
        p[called] = confidence
        return p

    def explain(
        self, rows: np.ndarray, plain_class: np.ndarray, capacity: np.ndarray, well_names: np.ndarray, names: list[str]
    ) -> None:
        """Say for each well of a plate why its call differs from the plain one."""
        changed = rows[self.called_class[rows] != plain_class[rows]]
        if not len(changed):
            return
        by_confidence = rows[np.argsort(self._confidence[rows], kind="stable")]
        surest = dict(zip(self.called_class[by_confidence], by_confidence, strict=True))  # the last of each class stays
        count = Counter(self.called_class[rows])
        for row in changed:
            plain = plain_class[row]
            if capacity[plain] == 0:
                reason = "is not on this plate"
            elif plain not in surest:
                reason = "is called in no well of this plate"
            else:
                more = f" and {count[plain] - 1} more" if count[plain] > 1 else ""
                reason = f"is in {well_names[surest[plain]]} (probability {self._confidence[surest[plain]]:.2f}){more}"
            self._reason[row] = f"{names[plain]} {reason}"

    def table(self, base: pd.DataFrame, names: list[str]) -> pd.DataFrame:
        """Rows of ``balancing_steps``, without the tier."""
        return base.assign(
            step=self.name, call=np.array(names, dtype=object)[self.called_class], confidence=self._confidence, margin=self._margin,
            entropy=self._entropy, candidates=self._candidates, reason=self._reason,
        )  # fmt: skip


# tables -----------------------------------------------------------------------------------------------------------


def probability_table(balanced: Balanced, table: pd.DataFrame) -> pd.DataFrame:
    """The table ``design_probabilities``: plain (after the temperature), after the filter, after the chosen method."""
    names, base = class_names(table), table[META[:-1]].drop(columns="role")
    tier = balanced.steps.drop_duplicates("step").set_index("step")["tier"]
    tables = [
        pd.concat(
            [base.assign(step=step, tier=tier[step]), prefixed(balanced.probabilities(step), names, SCORE, base.index)],
            axis=1,
        )
        for step in balanced.probabilities_by_plate
    ]
    return pd.concat(tables, ignore_index=True)


def tied_calls(table: pd.DataFrame) -> np.ndarray:
    """(W,) bool: wells whose best class is also the best of another well of the plate, with exactly the same score.

    Where all their other scores are equal too, as with one-hot scores (single hard calls), no balancing can choose between them.
    """
    values = np.nan_to_num(matrix(table, SCORE), nan=-np.inf)
    claims = pd.DataFrame(
        {
            "experiment": table["experiment"].to_numpy(),
            "plate": table["plate"].to_numpy(),
            "class": values.argmax(axis=1),
            "score": values.max(axis=1),
        }
    )
    return claims.duplicated(keep=False).to_numpy()


def make_calls(steps: pd.DataFrame, table: pd.DataFrame, knowledge: DesignKnowledge, precision: float) -> pd.DataFrame:
    """The table ``calls``: the plain call beside the design-aware one.

    Args:
        steps: ``balancing_steps``; the last step is that of the chosen method.
        table: The pooled scores they come from.
        knowledge: For the labels of validation wells, on which the abstention thresholds are set.
        precision: Target share of correct calls among the confident ones.
    """
    step_names = list(dict.fromkeys(steps["step"]))
    plain = steps[steps["step"] == step_names[0]].set_index("id_code")
    design = steps[steps["step"] == step_names[-1]].set_index("id_code").loc[plain.index]
    calls = plain[["experiment", "plate", "well"]].reset_index()
    label = pd.Series(np.nan, index=plain.index, dtype=object)
    if knowledge.validation is not None:
        of_well = pd.Series(plain.index.map(knowledge.validation), index=plain.index)
        label = of_well.where(plain["role"] == "validation")
    is_labelled = label.notna()
    for prefix, step in (("plain", plain), ("design", design)):
        confidence = step["confidence"].to_numpy()
        correct = (step["call"] == label)[is_labelled].to_numpy()
        experiment = step.loc[is_labelled, "experiment"].to_numpy(str)
        threshold = abstention_threshold(confidence, is_labelled.to_numpy(), correct, precision, experiment)
        calls[f"{prefix}_call"] = step["call"].to_numpy()
        calls[f"{prefix}_confidence"] = confidence
        calls[f"{prefix}_confident"] = confidence >= threshold
    return calls.assign(
        changed=plain["call"].to_numpy() != design["call"].to_numpy(),
        reason=design["reason"].to_numpy(),
        tied=calls["id_code"].map(pd.Series(tied_calls(table), index=table["id_code"])).to_numpy(bool),
        tier=design["tier"].to_numpy(),
    )
