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
from deepnoise.tables import SCORE, WELL_TYPES, natural_order, prefixed
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
        One row per well: experiment, plate, well, the plain call (``plain_call``, ``plain_confidence``, ``plain_confident``), the
        call that uses the layout (``design_call``, ``design_confidence``, ``design_confident``), ``changed``, ``reason`` and ``tied``.

    Raises:
        InputError: A column is missing, a well is repeated or not a well, a score is not finite, or a perturbation is unknown.

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
    knowledge = balancing.DesignKnowledge(_layout_table(layout, names), contents=_contents_table(contents))
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
        features: Feature columns; None: all numeric columns that are no metadata.
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
    return pd.DataFrame(results).reindex(columns=columns)


def find_suspect_wells(
    profiles: pd.DataFrame, *, features: Sequence[str] | None = None, negative_controls: Sequence[str] = ()
) -> pd.DataFrame:
    """Find wells whose profile contradicts the plate map: swapped or mislabelled wells, turned or mirrored plates.

    Args:
        profiles: One row per well of at least two experiments; see the module.
        features: Feature columns; None: all numeric columns that are no metadata.
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
        features: Feature columns; None: all numeric columns that are no metadata.
        negative_controls: Perturbations that are negative controls; they are never queries.
        permutations: Shuffles of the labels within plates; the smallest p is 1 / (permutations + 1).
        seed: Of the shuffles.

    Returns:
        One row per ``well_type`` and ``level`` (which replicates count: any, not_same_plate, not_same_experiment,
        not_same_experiment_nor_position): ``map``, exact ``chance``, ``skill``, ``n`` wells, ``experiments``, ``low`` and ``high`` (95 %
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

    table, null = retrieval.average_precisions(_to_profiles(profiles, features, negative_controls), permutations, seed)
    rows = []
    for well_type, levels in retrieval.summarize_retrieval(table, null).items():
        for level, summary in levels.items():
            low, high = summary.pop("interval") or (None, None)
            rows.append({"well_type": well_type, "level": level, "low": low, "high": high, **summary})
    columns = ["well_type", "level", "map", "chance", "skill", "n", "experiments", "low", "high", "sign_flip_p", "p"]
    return pd.DataFrame(rows, columns=columns)


# tables of users --------------------------------------------------------------------------------------------------


def _plain_names(table: pd.DataFrame) -> pd.DataFrame:
    """The table with pycytominer's metadata names as ours: ``Metadata_CellType`` -> ``cell_type``."""
    known = {"plate", "well", "perturbation", *METADATA}
    renamed = {}
    for column in table.columns:
        name = str(column).removeprefix("Metadata_")
        snake = "".join("_" + c.lower() if c.isupper() and i else c.lower() for i, c in enumerate(name))
        if snake != column and snake in known and snake not in table.columns:
            renamed[column] = snake
    return table.rename(columns=renamed)


def _place_wells(table: pd.DataFrame, what: str, needed: Sequence[str]) -> pd.DataFrame:
    """The table with experiment, plate, well (normalized) and id_code as text; one row per well."""
    if not isinstance(table, pd.DataFrame) or table.empty:
        raise InputError(
            f"{what}: expected a DataFrame with one row per well, received {type(table).__name__} without rows"
        )
    table = _plain_names(table).reset_index(drop=True)
    for column in needed:
        if column not in table.columns:
            raise InputError(
                f"{what}: column {column!r} is missing; it has {first_few(table.columns, 8)}.{closest(column, map(str, table.columns))}"
            )
        if column != "perturbation" and table[column].isna().any():
            raise InputError(f"{what}: {column} is missing in row {int(table[column].isna().to_numpy().argmax())}")
    for column, default in METADATA.items():
        table[column] = table[column].astype("str") if column in table.columns else default
    try:
        wells = [normalize_well(str(well)) for well in table["well"]]
    except ValueError as error:
        raise InputError(f"{what}: {error}") from error
    table = table.assign(plate=table["plate"].astype("str"), well=wells)
    table["id_code"] = table["experiment"] + "_" + table["plate"] + "_" + table["well"]
    repeated = table["id_code"].duplicated()
    if repeated.any():
        raise InputError(
            f"{what}: well {table.loc[repeated, 'id_code'].iloc[0]} is in {int(repeated.sum()) + 1} rows or more; expected one row per well"
        )
    return table


def _numeric_columns(table: pd.DataFrame, columns: Sequence[str], what: str) -> np.ndarray:
    """(W, F) float64 values of some columns, all finite."""
    for column in columns:
        if column not in table.columns:
            raise InputError(f"{what}: column {column!r} is missing.{closest(str(column), map(str, table.columns))}")
        if not pd.api.types.is_numeric_dtype(table[column]):
            raise InputError(f"{what}: column {column!r} holds {table[column].iloc[0]!r}, expected numbers")
    values = table[list(columns)].to_numpy(np.float64)
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise InputError(
            f"{what}: {columns[column]!r} of well {table['id_code'].iloc[row]} is {values[row, column]}; expected finite numbers"
        )
    return values


def _other_numeric(table: pd.DataFrame) -> list[str]:
    metadata = {"plate", "well", "perturbation", "id_code", *METADATA}
    return [
        str(column)
        for column in table.columns
        if column not in metadata
        and not str(column).startswith("Metadata_")
        and pd.api.types.is_numeric_dtype(table[column])
    ]


def _score_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores as plate balancing reads them."""
    table = _place_wells(scores, "scores", ["plate", "well"])
    prefixed_columns = [c for c in table.columns if str(c).startswith(SCORE)]
    columns = prefixed_columns or _other_numeric(table)
    if len(columns) < 2:
        raise InputError(
            f"scores: {len(columns)} score columns; expected one numeric column per perturbation, at least 2"
        )
    values = dict(zip(columns, _numeric_columns(table, columns, "scores").T, strict=True))
    names = natural_order(str(column).removeprefix(SCORE) for column in columns)
    by_name = {str(column).removeprefix(SCORE): values[column] for column in columns}
    meta = table[["id_code", "experiment", "plate", "well"]].assign(role="heldout", tier="unknown")
    wide = prefixed(np.stack([by_name[name] for name in names], axis=1), names, SCORE, meta.index)
    return pd.concat([meta, wide], axis=1).sort_values(["experiment", "plate", "well"], ignore_index=True)


def _layout_table(layout: pd.DataFrame | None, names: list[str]) -> pd.DataFrame:
    """The table ``plate_layout`` of what is known of the layout."""
    if layout is None:
        return pd.DataFrame({"perturbation": names, "group": 0, "per_plate": 0})
    for column in ("perturbation", "group"):
        if column not in layout.columns:
            raise InputError(f"layout: column {column!r} is missing; it has {first_few(layout.columns, 8)}")
    table = layout.assign(perturbation=layout["perturbation"].astype("str"))
    unknown = sorted(set(table["perturbation"]) - set(names))
    if unknown:
        raise InputError(f"layout: {unknown[0]!r} has no scores.{closest(unknown[0], names)}")
    if table["perturbation"].duplicated().any():
        raise InputError(
            f"layout: {table.loc[table['perturbation'].duplicated(), 'perturbation'].iloc[0]!r} has two rows; expected one"
        )
    table["group"] = pd.factorize(table["group"], sort=True)[0]
    return table.assign(per_plate=table["per_plate"] if "per_plate" in table.columns else 1)[
        ["perturbation", "group", "per_plate"]
    ]


def _contents_table(contents: pd.DataFrame | None) -> pd.DataFrame | None:
    """The table ``plate_contents`` of what is known of single plates."""
    if contents is None:
        return None
    for column in ("plate", "perturbation"):
        if column not in contents.columns:
            raise InputError(f"contents: column {column!r} is missing; it has {first_few(contents.columns, 8)}")
    return contents.assign(
        experiment=contents["experiment"].astype("str") if "experiment" in contents.columns else METADATA["experiment"],
        plate=contents["plate"].astype("str"),
        perturbation=contents["perturbation"].astype("str"),
        wells=contents["wells"] if "wells" in contents.columns else 1,
    )


def _to_profiles(table: pd.DataFrame, features: Sequence[str] | None, negative_controls: Sequence[str]) -> Profiles:
    """Profiles as evaluation reads them."""
    from deepnoise.evaluation.profiles import Profiles

    rows: Any = _place_wells(table, "profiles", ["plate", "well", "perturbation"])
    columns = list(features) if features is not None else _other_numeric(rows)
    if not columns:
        raise InputError(f"profiles: no numeric feature column; it has {first_few(rows.columns, 8)}")
    values = _numeric_columns(rows, columns, "profiles").astype(np.float32)
    rows["perturbation"] = rows["perturbation"].astype("str").where(rows["perturbation"].notna())
    unknown = sorted(set(negative_controls) - set(rows["perturbation"].dropna()))
    if unknown:
        names = rows["perturbation"].dropna().unique()
        raise InputError(
            f"profiles: the negative control {unknown[0]!r} is no perturbation here.{closest(unknown[0], names)}"
        )
    rows.loc[rows["perturbation"].isin(list(negative_controls)), "well_type"] = "negative_control"
    wrong = sorted(set(rows["well_type"]) - set(WELL_TYPES))
    if wrong:
        raise InputError(f"profiles: well_type {wrong[0]!r}; allowed: {', '.join(WELL_TYPES)}")
    meta = ["id_code", "experiment", "plate", "well", "cell_type", "well_type", "perturbation"]
    return Profiles(rows[meta].assign(fold=0, role="heldout", plate_seen=False), values)
