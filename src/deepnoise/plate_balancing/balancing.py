"""What the plate design adds to a table of well scores, step by step: temperature, plate groups, filter, balancing.

Everything a step knows of a plate is one vector of capacities: in how many of its wells each perturbation can stand.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from deepnoise.errors import InputError, closest, first_few
from deepnoise.parameters import PlateBalancingParameters
from deepnoise.plate_balancing.groups import infer_groups
from deepnoise.plate_balancing.methods import METHODS
from deepnoise.plate_balancing.scores import META, log_probabilities, log_softmax
from deepnoise.plate_balancing.temperature import (
    DOUBT,
    LEAST_WELLS,
    TEMPERATURE_WELLS,
    abstention_threshold,
    fit_to_design,
    fit_to_labels,
)
from deepnoise.tables import SCHEMAS, SCORE, class_names, matrix, prefixed

logger = logging.getLogger(__name__)
DEFAULT_METHOD = "matching"  # what `auto` means where no validation label says otherwise
UNFILTERED_PLATES = 4  # on which the design is asked for a first temperature, among all classes
PLATES = 12  # the same once plate groups are known
Plates = dict[tuple[str, str], np.ndarray]  # (experiment, plate) -> rows
Capacities = dict[tuple[str, str], np.ndarray]  # (experiment, plate) -> (K,) int
Block = tuple[np.ndarray, np.ndarray, np.ndarray]  # rows, columns and (W, K') float32 probabilities of a plate
LogP = Callable[[np.ndarray], np.ndarray]  # rows -> (W, K) log probabilities


@dataclass(frozen=True)
class DesignKnowledge:
    """What may be known beside the scores; all of it may be empty.

    Args:
        layout: The table ``plate_layout``: group and number of wells a plate of each perturbation.
        in_use: experiment, plate, group of labelled experiments: a prior, never the only candidates.
        contents: The table ``plate_contents``: which perturbations stand on a plate, where that is known.
        cell_type: id_code -> cell type.
        validation: id_code -> perturbation of validation wells.
    """

    layout: pd.DataFrame
    in_use: pd.DataFrame | None = None
    contents: pd.DataFrame | None = None
    cell_type: pd.Series | None = None
    validation: pd.Series | None = None


@dataclass(frozen=True)
class Balanced:
    """Result of :func:`balance`; tables of :data:`deepnoise.tables.SCHEMAS`. The last step is that of the chosen method."""

    steps: pd.DataFrame  # balancing_steps
    groups: pd.DataFrame  # plate_groups
    calibration: pd.DataFrame  # calibration
    blocks: dict[str, list[Block]]  # step -> plates, for the scores, the filter and the chosen method
    shape: tuple[int, ...]  # (W, K)

    def probabilities(self, step: str) -> np.ndarray:
        """(W, K) float32 probabilities after a step."""
        dense = np.zeros(self.shape, np.float32)
        for rows, columns, p in self.blocks[step]:
            dense[np.ix_(rows, columns)] = p
        return dense


def design_tier(tier: str) -> str:
    """Tier of a call that also knows the plate design."""
    if "T2" in tier:
        return tier
    return {"T3": "T2+T3", "unknown": "T2+unknown"}.get(tier, "T2")


def balance(table: pd.DataFrame, known: DesignKnowledge, own: PlateBalancingParameters) -> Balanced:
    """Take a table of well scores through every step of plate balancing.

    Args:
        table: Pooled scores of :func:`deepnoise.plate_balancing.scores.pool_scores`.
        known: What is known beside them.
        own: The block ``plate_balancing``.

    Raises:
        InputError: ``plate_contents`` names a perturbation that is not scored.
    """
    names = class_names(table)
    tier = str(table["tier"].iloc[0])
    scores = matrix(table, SCORE)
    plates: Plates = {key: rows for key, rows in table.groupby(["experiment", "plate"], sort=True).indices.items()}
    kind = _cell_types(table, known.cell_type)
    validation = _validation_labels(table, names, known.validation)
    given = _given_contents(known.contents, names)
    layout = known.layout.set_index("perturbation")
    group_of_class = layout["group"].reindex(names).fillna(-1).to_numpy(int)
    usual = layout["per_plate"].reindex(names).fillna(0).to_numpy(int)

    def anything(rows: np.ndarray) -> np.ndarray:
        """Capacities of a plate of which nothing is known: each perturbation as often as on a labelled plate, or all alike."""
        return np.where(usual > 0, usual, -(-len(rows) // len(names)))

    capacity: Capacities = {key: given[key] if key in given else anything(rows) for key, rows in plates.items()}

    def log_p(rows: np.ndarray) -> np.ndarray:
        """(W, K) log probabilities of some wells, at the present temperature; made anew for each plate, so that memory stays bounded."""
        adjacent = rows[-1] - rows[0] + 1 == len(rows)
        together = slice(rows[0], rows[-1] + 1) if adjacent else rows  # a slice is not copied
        return log_probabilities(scores[together], degrees[together], own.unlisted)

    temperature, source = _temperatures(scores, kind, validation, plates, capacity, own, UNFILTERED_PLATES, 0.0)
    degrees = kind.map(temperature).to_numpy(float)
    found = _find_groups(log_p, table, known, group_of_class, own)
    capacity = _within_groups(capacity, found, group_of_class, given)
    if "design" in source.values():  # again, among the classes that are left
        temperature, source = _temperatures(scores, kind, validation, plates, capacity, own, PLATES, DOUBT)
        degrees = kind.map(temperature).to_numpy(float)
        if not found["decided"].all():  # the first temperature may have been far off
            open_ = set(found.loc[~found["decided"].astype(bool), "experiment"])
            again = _find_groups(log_p, table, known, group_of_class, own, open_)
            found = pd.concat([found[found["decided"]], again]).sort_values(["experiment", "plate"], ignore_index=True)
            capacity = _within_groups(capacity, again, group_of_class, given)

    method = _best_on_validation(log_p, plates, capacity, validation) if own.method == "auto" else own.method
    filters = ["group_filter"] if len(found) or given else []
    others = [name for name in own.compare if name not in (method, "none")]
    order = ["plain", *filters, *others, *([] if method == "none" else [method])]  # the chosen one last
    steps = {name: _Step(len(table), name) for name in order}
    kept: dict[str, list[Block]] = {name: [] for name in ("plain", *filters, method) if name in steps}
    wells, everything = table["well"].to_numpy(object), np.arange(len(names))
    for key, rows in plates.items():
        plain = log_p(rows)
        on_plate = np.flatnonzero(capacity[key])
        room = capacity[key][on_plate]
        filtered = log_softmax(plain[:, on_plate].astype(np.float64))
        for name, step in steps.items():
            if name == "plain":
                columns, log_q, calls = everything, plain, plain.argmax(axis=1)
            else:
                columns = on_plate
                log_q, calls = METHODS.get(name, METHODS["none"])(filtered, room)
            p = step.note(rows, log_q.astype(np.float32, copy=False), calls, columns)
            if name in kept:
                kept[name].append((rows, columns, p))
        for step in steps.values():
            step.explain(rows, steps["plain"].calls, capacity[key], wells, names)
    base = table[META[:-1]]
    tiers = {name: tier if name == "plain" else design_tier(tier) for name in order}
    return Balanced(
        pd.concat(
            [step.table(base, names).assign(tier=tiers[step.name]) for step in steps.values()], ignore_index=True
        ),
        found,
        pd.DataFrame(
            [(cell, t, source[cell], int((kind == cell).sum()), tier) for cell, t in temperature.items()],
            columns=list(SCHEMAS["calibration"].columns),
        ),
        kept,
        scores.shape,
    )


class _Step:
    """What a step says of each well, filled plate by plate."""

    def __init__(self, wells: int, name: str) -> None:
        self.name = name
        self.calls = np.zeros(wells, int)
        self._confidence, self._margin, self._entropy = np.zeros(wells), np.zeros(wells), np.zeros(wells)
        self._candidates = np.zeros(wells, int)
        self._reason = np.full(wells, "", dtype=object)

    def note(self, rows: np.ndarray, log_q: np.ndarray, calls: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Take (W, K') log probabilities and (W,) calls among the classes that the step allows, ``columns`` of all; gives the probabilities."""
        at = np.arange(len(calls)), calls
        p = np.exp(log_q)
        self.calls[rows] = columns[calls]
        self._confidence[rows] = called = p[at]
        self._entropy[rows] = -np.einsum("ij,ij->i", p, log_q)
        self._candidates[rows] = len(columns)
        p[at] = 0.0
        self._margin[rows] = called - p.max(axis=1)
        p[at] = called
        return p

    def explain(
        self, rows: np.ndarray, plain: np.ndarray, capacity: np.ndarray, wells: np.ndarray, names: list[str]
    ) -> None:
        """Say of each well of a plate why its call is no longer the plain one."""
        changed = rows[self.calls[rows] != plain[rows]]
        holder = dict(zip(self.calls[rows], rows, strict=True)) if len(changed) else {}
        for well in changed:
            lost = plain[well]
            if capacity[lost] == 0:
                self._reason[well] = f"{names[lost]} is not on this plate"
            elif lost in holder:
                other = holder[lost]
                self._reason[well] = f"{names[lost]} is in {wells[other]} (probability {self._confidence[other]:.2f})"
            else:
                self._reason[well] = f"{names[lost]} is as likely elsewhere on this plate"

    def table(self, base: pd.DataFrame, names: list[str]) -> pd.DataFrame:
        """Rows of ``balancing_steps``, but for the tier."""
        return base.assign(
            step=self.name, call=np.array(names, dtype=object)[self.calls], confidence=self._confidence, margin=self._margin,
            entropy=self._entropy, candidates=self._candidates, reason=self._reason,
        )  # fmt: skip


def probability_table(found: Balanced, table: pd.DataFrame) -> pd.DataFrame:
    """The table ``design_probabilities``: as scored, after the filter, after the chosen method."""
    names, base = class_names(table), table[META[:-1]].drop(columns="role")
    tier = found.steps.drop_duplicates("step").set_index("step")["tier"]
    parts = [
        pd.concat(
            [base.assign(step=step, tier=tier[step]), prefixed(found.probabilities(step), names, SCORE, base.index)],
            axis=1,
        )
        for step in found.blocks
    ]
    return pd.concat(parts, ignore_index=True)


def tied_calls(table: pd.DataFrame) -> np.ndarray:
    """(W,) bool: wells whose best class is as well the best of another well of the plate, with the very same score.

    Between such wells no balancing can choose; scores that are one-hot (single hard calls) tie wherever they collide.
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


def _cell_types(table: pd.DataFrame, cell_type: pd.Series | None) -> pd.Series:
    kind = table["id_code"].map(cell_type) if cell_type is not None else pd.Series(index=table.index, dtype="str")
    return kind.fillna("all").astype("str").rename("cell_type")


def _validation_labels(table: pd.DataFrame, names: list[str], labels: pd.Series | None) -> np.ndarray:
    """(W,) int class of validation wells, -1 for the others."""
    number = {name: i for i, name in enumerate(names)}
    if labels is None:
        return np.full(len(table), -1)
    known = table["id_code"].map(labels).map(number).where(table["role"] == "validation")
    return known.fillna(-1).to_numpy(int)


def _given_contents(contents: pd.DataFrame | None, names: list[str]) -> dict[tuple[str, str], np.ndarray]:
    """(experiment, plate) -> capacities of the plates whose contents are known."""
    if contents is None or contents.empty:
        return {}
    strange = sorted(set(contents["perturbation"]) - set(names))
    if strange:
        raise InputError(
            f"plate_contents names {len(strange)} perturbations that are not scored: {first_few(strange)}.{closest(strange[0], names)}"
        )
    number = {name: i for i, name in enumerate(names)}
    found = {}
    for key, rows in contents.groupby(["experiment", "plate"]):
        capacity = np.zeros(len(names), int)
        np.add.at(capacity, rows["perturbation"].map(number).to_numpy(), rows["wells"].to_numpy(int))
        found[key] = capacity
    return found


def _temperatures(
    scores: np.ndarray,
    kind: pd.Series,
    validation: np.ndarray,
    plates: Plates,
    capacity: Capacities,
    own: PlateBalancingParameters,
    most_plates: int,
    doubt: float,
) -> tuple[dict[str, float], dict[str, str]]:
    """Temperature of each cell type, and where it comes from.

    Given; or by the labels of validation wells, those of the cell type if there are enough, else all; or by the design, one for all.
    """
    temperature, source = {}, {}
    labelled = np.flatnonzero(validation >= 0)
    for cell in sorted(kind.unique()):
        of_cell = labelled[(kind.to_numpy() == cell)[labelled]]
        asked = of_cell if len(of_cell) >= TEMPERATURE_WELLS else labelled
        if own.temperature != "auto":
            temperature[cell], source[cell] = float(own.temperature), "given"
        elif len(asked) >= TEMPERATURE_WELLS:
            temperature[cell] = fit_to_labels(scores[asked], validation[asked], own.unlisted)
            source[cell] = "validation"
    left = [cell for cell in kind.unique() if cell not in temperature]
    if left:
        keys = [key for key, rows in plates.items() if kind.iloc[rows[0]] in left]
        asked = np.unique(np.linspace(0, len(keys) - 1, min(most_plates, len(keys))).astype(int))  # spread evenly
        common = fit_to_design(
            [scores[plates[keys[i]]] for i in asked], [capacity[keys[i]] for i in asked], own.unlisted, doubt
        )
        temperature |= dict.fromkeys(left, common)
        source |= dict.fromkeys(left, "design")
    return temperature, source


def _find_groups(
    log_p: LogP,
    table: pd.DataFrame,
    known: DesignKnowledge,
    group_of_class: np.ndarray,
    own: PlateBalancingParameters,
    only: set[str] | None = None,
) -> pd.DataFrame:
    """The table ``plate_groups``, of some experiments or all; no rows where perturbations do not travel in groups."""
    groups = int(group_of_class.max()) + 1
    if own.group_inference == "none" or groups < 2:
        return SCHEMAS["plate_groups"].empty()
    found = []
    names = table["plate"].to_numpy(object)
    for experiment, rows in table.groupby("experiment", sort=True).indices.items():
        if only is not None and experiment not in only:
            continue
        plates, plate = np.unique(names[rows], return_inverse=True)
        layouts = _other_layouts(known.in_use, experiment, plates)
        answer = infer_groups(log_p(rows), plate, group_of_class, own.group_posterior, own.group_statistic, layouts)
        for name, group in zip(plates, answer.groups, strict=True):
            found.append((experiment, name, group, answer.posterior, answer.margin, answer.decided, answer.statistic))
    return pd.DataFrame(found, columns=list(SCHEMAS["plate_groups"].columns))


def _within_groups(
    capacity: Capacities, found: pd.DataFrame, group_of_class: np.ndarray, given: Capacities
) -> Capacities:
    """Capacities in which plates of a decided group hold no class of another one; given contents stay as they are."""
    narrowed = dict(capacity)
    for row in found[found["decided"].astype(bool) & (found["group"] >= 0)].itertuples():
        if (key := (row.experiment, row.plate)) not in given:
            narrowed[key] = np.where((group_of_class == row.group) | (group_of_class < 0), capacity[key], 0)
    return narrowed


def _other_layouts(in_use: pd.DataFrame | None, experiment: str, plates: np.ndarray) -> dict[tuple[int, ...], int]:
    """How many other experiments use each layout, as groups in the order of ``plates``; those with all these plates count."""
    if in_use is None or in_use.empty:
        return {}
    others = in_use[in_use["experiment"] != experiment].pivot(index="experiment", columns="plate", values="group")
    complete = others.reindex(columns=plates).dropna().astype(int)
    return dict(Counter(complete.itertuples(index=False, name=None)))


def _best_on_validation(log_p: LogP, plates: Plates, capacity: Capacities, validation: np.ndarray) -> str:
    """The method with most right calls on validation wells; DEFAULT_METHOD unless another is better by more than two standard errors."""
    labelled = validation >= 0
    if labelled.sum() < LEAST_WELLS:
        return DEFAULT_METHOD
    candidates = {
        name: function for name, function in METHODS.items() if name != "greedy"
    }  # which is there to be compared
    right = {name: np.zeros(len(validation), bool) for name in candidates}
    for key, rows in plates.items():
        if labelled[rows].any():
            on_plate = np.flatnonzero(capacity[key])
            filtered = log_softmax(log_p(rows)[:, on_plate].astype(np.float64))
            for name, function in candidates.items():
                calls = on_plate[function(filtered, capacity[key][on_plate])[1]]
                right[name][rows] = calls == validation[rows]
    best, gain = DEFAULT_METHOD, 0.0
    for name, own in right.items():
        difference = own[labelled].astype(float) - right[DEFAULT_METHOD][labelled]
        if difference.mean() > max(gain, 2 * difference.std() / np.sqrt(labelled.sum())):
            best, gain = name, float(difference.mean())
    return best


def make_calls(steps: pd.DataFrame, table: pd.DataFrame, known: DesignKnowledge, precision: float) -> pd.DataFrame:
    """The table ``calls``: the plain call beside the design-aware one.

    Args:
        steps: ``balancing_steps``; the last one is that of the chosen method.
        table: The pooled scores they come from.
        known: For the labels of validation wells, on which the thresholds of abstention are set.
        precision: Wanted share of right calls among those that are not abstained from.
    """
    order = list(dict.fromkeys(steps["step"]))
    plain = steps[steps["step"] == order[0]].set_index("id_code")
    design = steps[steps["step"] == order[-1]].set_index("id_code").loc[plain.index]
    calls = plain[["experiment", "plate", "well"]].reset_index()
    label = pd.Series(np.nan, index=plain.index, dtype=object)
    if known.validation is not None:
        label = pd.Series(plain.index.map(known.validation), index=plain.index).where(plain["role"] == "validation")
    for call_type, part in (("plain", plain), ("design", design)):
        right = (part["call"] == label)[label.notna()].to_numpy()
        threshold = abstention_threshold(part["confidence"].to_numpy(), label.notna().to_numpy(), right, precision)
        calls[f"{call_type}_call"] = part["call"].to_numpy()
        calls[f"{call_type}_confidence"] = part["confidence"].to_numpy()
        calls[f"{call_type}_confident"] = part["confidence"].to_numpy() >= threshold
    return calls.assign(
        changed=plain["call"].to_numpy() != design["call"].to_numpy(),
        reason=design["reason"].to_numpy(),
        tied=calls["id_code"].map(pd.Series(tied_calls(table), index=table["id_code"])).to_numpy(bool),
        tier=design["tier"].to_numpy(),
    )
