"""Functions for use without Kedro: tables in, tables out. All are importable from ``deepnoise``.

Profiles are pandas DataFrames with one row per well. Their metadata columns are ``plate``, ``well``, ``perturbation`` and, if there are
several, ``experiment``, ``cell_type`` and ``well_type``. The names of pycytominer are understood too (``Metadata_Plate`` and so on). All other
numeric columns are features, or those named by ``features``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from deepnoise.errors import InputError, closest, first_few
from deepnoise.tables import SCORE, WELL_TYPES, as_text, natural_order, prefixed
from deepnoise.wells import normalize_well

if TYPE_CHECKING:
    from deepnoise.evaluation.profiles import Profiles

METADATA = {"experiment": "experiment", "cell_type": "all", "well_type": "treatment"}
"""Optional metadata columns, and their value where a table lacks them."""


def balance_plates(
    scores: pd.DataFrame,
    layout: pd.DataFrame | None = None,
    *,
    contents: pd.DataFrame | None = None,
    method: Literal["auto", "none", "matching", "sinkhorn", "assignment", "greedy"] = "auto",
    temperature: float | Literal["auto"] = "auto",
    group_posterior: float = 0.95,
    precision: float = 0.95,
) -> pd.DataFrame:
    """Call one perturbation per well, using what is known of the plate layout.

    Args:
        scores: One row per well: ``plate``, ``well``, optionally ``experiment``, and one numeric column per perturbation, with or without the
            prefix ``score_``. Higher is better; logits, similarities and votes all work.
        layout: What is known of the layout: ``perturbation``, ``group`` (perturbations that share a plate have one plate group) and optionally
            ``per_plate`` (wells of a plate with that perturbation; 1 if absent). None: each perturbation is on each plate equally often.
        contents: Plates whose contents are known: ``plate``, ``perturbation``, optionally ``experiment`` and ``wells`` (1 if absent).
        method: How calls are balanced; ``auto`` means matching, ``none`` stops at the group filter.
        temperature: Divides the scores; ``auto`` estimates it from the design, without labels.
        group_posterior: Posterior from which an inferred plate group is used.
        precision: Expected share of correct calls among the confident ones.

    Returns:
        One row per well, sorted by experiment, plate and well: these, the plain call (``plain_call``, ``plain_confidence``, ``plain_confident``), the
        call that uses the layout (``design_call``, ``design_confidence``, ``design_confident``), ``changed``, ``reason`` and ``tied``.

    Raises:
        InputError: A column is missing, repeated or not numeric, a well is repeated or not a well, a score is not finite, a
            perturbation is unknown, or ``contents`` names a plate without scores.

    Examples:
        Wells A01 and A02 both score highest for p1, but each perturbation is on the plate once:

        >>> import pandas as pd
        >>> from deepnoise import balance_plates
        >>> scores = pd.DataFrame(
        ...     {"plate": "1", "well": ["A01", "A02", "A03"], "p1": [4.0, 2.0, 0.0], "p2": [0.0, 1.5, 0.5], "p3": [0.0, 0.0, 3.0]}
        ... )
        >>> balance_plates(scores, temperature=1.0)[["well", "plain_call", "design_call"]].to_string(index=False).split()
        ['well', 'plain_call', 'design_call', 'A01', 'p1', 'p1', 'A02', 'p1', 'p2', 'A03', 'p3', 'p3']
    """
    from deepnoise.parameters import PlateBalancingParameters, replace_values
    from deepnoise.plate_balancing import balancing

    table = _score_table(scores)
    names = [column.removeprefix(SCORE) for column in table.columns if column.startswith(SCORE)]
    defaults = PlateBalancingParameters(
        pooling="logits", temperature="auto", unlisted=2.0, group_inference="infer", group_statistic="auto", group_posterior=0.95,
        method="auto", compare=[], precision=0.95,
    )  # fmt: skip
    given = {"method": method, "temperature": temperature, "group_posterior": group_posterior, "precision": precision}
    changes = {f"balance_plates.{name}": value for name, value in given.items()}
    parameters = replace_values(defaults, "balance_plates", changes, "balance_plates")
    knowledge = balancing.DesignKnowledge(_layout_table(layout, names), contents=_contents_table(contents, table))
    balanced = balancing.balance(table, knowledge, parameters)
    calls = balancing.make_calls(balanced.steps, table, knowledge, precision)
    return calls.drop(columns=["id_code", "tier"])


def probe_leaks(
    profiles: pd.DataFrame,
    *,
    features: Sequence[str] | None = None,
    negative_controls: Sequence[str] = (),
    axes: Sequence[str] = ("plate", "experiment", "well_row", "well_column", "well_edge"),
    permutations: int = 200,
    smallest_leak: float = 1.0,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure what a linear probe predicts of technical noise from profiles, after removing the effect of each perturbation.

    Args:
        profiles: One row per well; see the module.
        features: Feature columns; None: all numeric columns that are no metadata, row number, place or dose.
        negative_controls: Perturbations that are negative controls.
        axes: What is predicted: some of plate, experiment, well_row, well_column and well_edge.
        permutations: Shuffles of the labels; the smallest p is 1 / (permutations + 1).
        smallest_leak: Standard deviations. "none seen" requires that a planted shift of this size would have been found.
        seed: Of splits, shuffles and planted shifts.

    Returns:
        One row per axis: ``axis``, ``verdict`` (leak, none seen, undecided, or not asked with a ``reason``), ``balanced_accuracy``,
        ``chance``, ``null_low`` and ``null_high`` (95 % of the shuffles), ``p``, ``detectable`` (smallest shift that would be found), ``wells``.

    Raises:
        InputError: A column is missing, or a well is repeated or not a well.

    Examples:
        Profiles of two experiments, one of which is shifted:

        >>> import numpy as np, pandas as pd
        >>> from deepnoise import probe_leaks
        >>> rng = np.random.default_rng(0)
        >>> wells = [(e, p, f"{r}{c:02d}") for e in "XY" for p in "12" for r in "ABCD" for c in range(1, 7)]
        >>> table = pd.DataFrame(wells, columns=["experiment", "plate", "well"])
        >>> table["perturbation"] = [f"p{i % 12}" for i in range(len(table))]
        >>> table[["f1", "f2", "f3"]] = rng.normal(size=(len(table), 3)) + 3.0 * (table[["experiment"]] == "Y").to_numpy()
        >>> probe_leaks(table, axes=["experiment"], permutations=50)[["axis", "verdict"]].values.tolist()
        [['experiment', 'leak']]
    """
    from deepnoise.evaluation import probe_tasks

    axes = _as_list(axes)
    _check_permutations(permutations)
    unknown = [axis for axis in axes if axis not in probe_tasks.AXES[:-1]]
    if unknown:
        allowed = probe_tasks.AXES[:-1]
        raise InputError(f"unknown axis {unknown[0]!r}; allowed: {', '.join(allowed)}.{closest(unknown[0], allowed)}")
    results = probe_tasks.probe_leaks(
        _to_profiles(profiles, features, negative_controls), pd.DataFrame(), permutations, smallest_leak, seed, tuple(axes)
    )  # fmt: skip
    columns = [
        "axis",
        "verdict",
        "balanced_accuracy",
        "chance",
        "null_low",
        "null_high",
        "p",
        "detectable",
        "wells",
        "reason",
    ]
    return pd.DataFrame(results).reindex(columns=columns).astype({"wells": "Int64"})


def find_suspect_wells(
    profiles: pd.DataFrame, *, features: Sequence[str] | None = None, negative_controls: Sequence[str] = ()
) -> pd.DataFrame:
    """Find wells whose profile contradicts the plate map: swapped or mislabelled wells, turned or mirrored plates.

    Args:
        profiles: One row per well of at least two experiments; see the module.
        features: Feature columns; None: all numeric columns that are no metadata, row number, place or dose.
        negative_controls: Perturbations that are negative controls.

    Returns:
        Most certain first: rank, experiment, plate, well, ``kind`` of fault, ``partner`` of a swap, ``evidence`` (log-likelihood ratio in nats),
        ``needed`` (evidence from which it is flagged), ``flagged`` and ``detail``. Some wells below the threshold are listed too.

    Raises:
        InputError: A column is missing, or a well is repeated or not a well.

    Examples:
        Two wells of one plate are swapped:

        >>> import numpy as np, pandas as pd
        >>> from deepnoise import find_suspect_wells
        >>> rng = np.random.default_rng(1)
        >>> effect = rng.normal(size=(24, 20))
        >>> wells = [(e, "1", f"{r}{c:02d}") for e in "VWXYZ" for r in "ABCD" for c in range(1, 7)]
        >>> table = pd.DataFrame(wells, columns=["experiment", "plate", "well"])
        >>> order = np.concatenate([rng.permutation(24) for _ in range(5)])
        >>> table["perturbation"] = [f"p{i}" for i in order]
        >>> profiles = effect[order] + 0.3 * rng.normal(size=(len(table), 20))
        >>> profiles[[0, 5]] = profiles[[5, 0]]
        >>> table = table.join(pd.DataFrame(profiles).add_prefix("f"))
        >>> suspects = find_suspect_wells(table)
        >>> sorted(suspects.loc[suspects["flagged"], "well"])
        ['A01', 'A06']
    """
    from deepnoise.evaluation import suspects

    no_scores, no_images = pd.DataFrame(), pd.DataFrame()
    table = suspects.find_suspects(_to_profiles(profiles, features, negative_controls), no_scores, no_images, "unknown")
    return table.drop(columns=["id_code", "tier"])


def replicate_map(
    profiles: pd.DataFrame,
    *,
    features: Sequence[str] | None = None,
    negative_controls: Sequence[str] = (),
    permutations: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean average precision of replicate retrieval: do wells of one perturbation find each other among other wells of their experiment?

    Args:
        profiles: One row per well; see the module.
        features: Feature columns; None: all numeric columns that are no metadata, row number, place or dose.
        negative_controls: Perturbations that are negative controls; they are never queries.
        permutations: Shuffles of the labels within plates; the smallest p is 1 / (permutations + 1).
        seed: Of the shuffles.

    Returns:
        One row per ``well_type`` and ``level`` (which replicates count: any, not_same_plate, not_same_experiment,
        not_same_experiment_nor_position): ``map``, exact ``chance``, ``null`` (mean of the shuffles), ``skill`` against it, ``n`` wells, ``experiments``, ``low`` and ``high`` (95 %
        interval over experiments; missing under six), ``sign_flip_p`` (exact; only under six), ``p`` of the shuffles.

    Raises:
        InputError: A column is missing, or a well is repeated or not a well.

    Examples:
        >>> import numpy as np, pandas as pd
        >>> from deepnoise import replicate_map
        >>> rng = np.random.default_rng(0)
        >>> wells = [(e, "1", f"A{c:02d}") for e in "XY" for c in range(1, 13)]
        >>> table = pd.DataFrame(wells, columns=["experiment", "plate", "well"])
        >>> table["perturbation"] = [f"p{i % 4}" for i in range(len(table))]
        >>> effect = rng.normal(size=(4, 8))[np.arange(len(table)) % 4]
        >>> table = table.join(pd.DataFrame(effect + 0.1 * rng.normal(size=effect.shape)).add_prefix("f"))
        >>> found = replicate_map(table, permutations=20).set_index("level")
        >>> bool(found.loc["not_same_experiment", "map"] > 0.9 > found.loc["not_same_experiment", "chance"])
        True
    """
    from deepnoise.evaluation import retrieval

    _check_permutations(permutations)
    table, null = retrieval.average_precisions(_to_profiles(profiles, features, negative_controls), permutations, seed)
    rows = []
    for well_type, levels in retrieval.summarize_retrieval(table, null).items():
        for level, summary in levels.items():
            low, high = summary.pop("interval") or (None, None)
            rows.append({"well_type": well_type, "level": level, "low": low, "high": high, **summary})
    columns = [
        "well_type",
        "level",
        "map",
        "chance",
        "null",
        "skill",
        "n",
        "experiments",
        "low",
        "high",
        "sign_flip_p",
        "p",
    ]
    return pd.DataFrame(rows, columns=columns)


# tables of users --------------------------------------------------------------------------------------------------


def _check_permutations(permutations: int) -> None:
    if permutations < 1:
        raise InputError(f"permutations is {permutations}; expected at least 1")


def _as_list(names: Sequence[str]) -> list[str]:
    """The names, also where a single one was given."""
    return [names] if isinstance(names, str) else list(names)


def _plain_names(table: pd.DataFrame, what: str) -> pd.DataFrame:
    """The table with column names as text, and pycytominer's metadata names as ours: ``Metadata_CellType`` -> ``cell_type``.

    Raises:
        InputError: Two columns have one name.
    """
    known = {"plate", "well", "perturbation", *METADATA}
    names = [str(column) for column in table.columns]
    renamed = []
    for name in names:
        plain = name.removeprefix("Metadata_")
        snake = "".join("_" + c.lower() if c.isupper() and i else c.lower() for i, c in enumerate(plain))
        renamed.append(snake if snake in known and snake not in names else name)
    table = table.set_axis(renamed, axis=1)
    repeated = table.columns[table.columns.duplicated()]
    if len(repeated):
        raise InputError(
            f"{what}: {(table.columns == repeated[0]).sum()} columns are named {repeated[0]!r}; expected one"
        )
    return table


def _place_wells(table: pd.DataFrame, what: str, needed: Sequence[str]) -> pd.DataFrame:
    """The table with experiment, plate, well (normalized) and id_code as text; one row per well."""
    if not isinstance(table, pd.DataFrame) or table.empty:
        raise InputError(
            f"{what}: expected a DataFrame with one row per well, received {type(table).__name__} without rows"
        )
    table = _plain_names(table, what).reset_index(drop=True)
    for column in needed:
        _require_column(table, column, what)
    for column, default in METADATA.items():
        if column not in table.columns:
            table[column] = default
    for column in ("plate", "well", *METADATA):
        _require_values(table, column, what)
        table[column] = as_text(table[column])
    try:
        table["well"] = [normalize_well(well) for well in table["well"]]
    except ValueError as error:
        raise InputError(f"{what}: {error}") from error
    table["id_code"] = table["experiment"] + "_" + table["plate"] + "_" + table["well"]
    rows_of_well = table.groupby(["experiment", "plate", "well"]).size()
    if rows_of_well.max() > 1:
        experiment, plate, well = rows_of_well.idxmax()
        raise InputError(
            f"{what}: well {well} of plate {plate} of {experiment} is in {rows_of_well.max()} rows; expected one row per well"
        )
    if table["id_code"].duplicated().any():  # "a_1", "2" and "a", "1_2"
        table["id_code"] = table["experiment"] + "/" + table["plate"] + "/" + table["well"]
    return table


def _require_column(table: pd.DataFrame, column: str, what: str) -> None:
    if column not in table.columns:
        raise InputError(
            f"{what}: column {column!r} is missing; it has {first_few(table.columns, 8)}.{closest(column, table.columns)}"
        )


def _require_values(table: pd.DataFrame, column: str, what: str) -> None:
    """Refuse a table without the column, or with a missing value in it."""
    _require_column(table, column, what)
    missing = table[column].isna().to_numpy()
    if missing.any():
        raise InputError(f"{what}: {column} is missing in row {int(missing.argmax())}")


def _numeric_columns(table: pd.DataFrame, columns: Sequence[str], what: str) -> np.ndarray:
    """(W, F) float64 values of some columns, all finite in float32."""
    for column in columns:
        _require_column(table, column, what)
        if not pd.api.types.is_numeric_dtype(table[column]):
            raise InputError(f"{what}: column {column!r} holds {table[column].iloc[0]!r}, expected numbers")
    values = table[list(columns)].to_numpy(np.float64)
    finite = np.abs(values) <= np.finfo(np.float32).max  # False for nan
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise InputError(
            f"{what}: {columns[column]!r} of well {table['id_code'].iloc[row]} is {values[row, column]}; expected finite numbers (float32)"
        )
    return values


def _no_metadata(table: pd.DataFrame) -> list[str]:
    metadata = {"plate", "well", "perturbation", "id_code", *METADATA}
    return [column for column in table.columns if column not in metadata and not column.startswith("Metadata_")]


def _score_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores as plate balancing reads them."""
    table = _place_wells(scores, "scores", ["plate", "well"])
    prefixed_columns = [column for column in table.columns if column.startswith(SCORE)]
    columns = prefixed_columns or _no_metadata(table)
    if len(columns) < 2:
        raise InputError(
            f"scores: {len(columns)} score columns; expected one numeric column per perturbation, at least 2"
        )
    called = [column.removeprefix(SCORE) for column in columns]
    by_name = dict(zip(called, _numeric_columns(table, columns, "scores").T, strict=True))
    names = natural_order(called)
    meta = table[["id_code", "experiment", "plate", "well"]].assign(role="heldout", tier="unknown")
    wide = prefixed(np.stack([by_name[name] for name in names], axis=1), names, SCORE, meta.index)
    return pd.concat([meta, wide], axis=1).sort_values(["experiment", "plate", "well"], ignore_index=True)


def _layout_table(layout: pd.DataFrame | None, names: list[str]) -> pd.DataFrame:
    """The table ``plate_layout`` of what is known of the layout."""
    if layout is None:
        return pd.DataFrame({"perturbation": names, "group": 0, "per_plate": 0})
    layout = _plain_names(layout, "layout")
    for column in ("perturbation", "group"):
        _require_values(layout, column, "layout")
    table = layout.assign(perturbation=as_text(layout["perturbation"]))
    unknown = sorted(set(table["perturbation"]) - set(names))
    if unknown:
        raise InputError(f"layout: {unknown[0]!r} has no scores.{closest(unknown[0], names)}")
    if table["perturbation"].duplicated().any():
        raise InputError(
            f"layout: {table.loc[table['perturbation'].duplicated(), 'perturbation'].iloc[0]!r} has two rows; expected one"
        )
    table["group"] = pd.factorize(table["group"], sort=True)[0]
    return table.assign(per_plate=_counts(table, "per_plate", "layout"))[["perturbation", "group", "per_plate"]]


def _counts(table: pd.DataFrame, column: str, what: str) -> pd.Series:
    """A column of numbers of wells, 1 where the table lacks it."""
    if column not in table.columns:
        return pd.Series(1, index=table.index)
    counts = pd.to_numeric(table[column], errors="coerce")
    valid = (counts >= 1) & (counts % 1 == 0)
    if not valid.all():
        raise InputError(f"{what}: {column} is {table[column][~valid].iloc[0]}; expected whole numbers from 1")
    return counts.astype(int)


def _contents_table(contents: pd.DataFrame | None, scores: pd.DataFrame) -> pd.DataFrame | None:
    """The table ``plate_contents`` of what is known of single plates."""
    if contents is None:
        return None
    contents = _plain_names(contents, "contents").reset_index(drop=True)
    if "experiment" not in contents.columns and set(scores["experiment"]) == {METADATA["experiment"]}:
        contents["experiment"] = METADATA["experiment"]
    for column in ("experiment", "plate", "perturbation"):
        _require_values(contents, column, "contents")
        contents[column] = as_text(contents[column])
    scored = set(scores["experiment"] + "/" + scores["plate"])
    unknown = sorted(set(contents["experiment"] + "/" + contents["plate"]) - scored)
    if unknown:
        raise InputError(f"contents: plate {unknown[0]!r} has no scores.{closest(unknown[0], scored)}")
    return contents.assign(wells=_counts(contents, "wells", "contents"))


def _to_profiles(table: pd.DataFrame, features: Sequence[str] | None, negative_controls: Sequence[str]) -> Profiles:
    """Profiles as evaluation reads them."""
    from deepnoise.evaluation.profiles import Profiles
    from deepnoise.names import not_a_feature

    rows: Any = _place_wells(table, "profiles", ["plate", "well", "perturbation"])
    if features is None:
        numeric = [column for column in _no_metadata(rows) if pd.api.types.is_numeric_dtype(rows[column])]
        columns = [column for column in numeric if not not_a_feature(column, table[column])]
    else:
        columns = _as_list(features)
    if not columns:
        raise InputError(f"profiles: no numeric feature column; it has {first_few(rows.columns, 8)}")
    values = _numeric_columns(rows, columns, "profiles").astype(np.float32)
    rows["perturbation"] = as_text(rows["perturbation"])
    controls = {str(name) for name in _as_list(negative_controls)}
    unknown = sorted(controls - set(rows["perturbation"].dropna()))
    if unknown:
        names = rows["perturbation"].dropna().unique()
        raise InputError(
            f"profiles: the negative control {unknown[0]!r} is no perturbation here.{closest(unknown[0], names)}"
        )
    rows.loc[rows["perturbation"].isin(controls), "well_type"] = "negative_control"
    wrong = sorted(set(rows["well_type"]) - set(WELL_TYPES))
    if wrong:
        raise InputError(f"profiles: well_type {wrong[0]!r}; allowed: {', '.join(WELL_TYPES)}")
    meta = ["id_code", "experiment", "plate", "well", "cell_type", "well_type", "perturbation"]
    return Profiles(rows[meta].assign(fold=0, role="heldout", plate_seen=False), values)
