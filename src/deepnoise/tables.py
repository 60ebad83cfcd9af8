"""The columns, dtypes and keys of every table that crosses a pipeline border; ``docs/tables.md`` is its page.

The catalog names a table by ``schema:``; it is then validated on save and on load (`datasets/table.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from deepnoise.errors import InputError, closest, first_few

SCORE = "score_"
"""Prefix of the per-perturbation columns of wide score tables."""
FEATURE = "feature_"
"""Prefix of the columns of hand features, ``feature_<feature>_<channel>``."""
EMBEDDING = "embedding_"
"""Prefix of the per-dimension columns of embedding tables."""

WELL_TYPES = ("treatment", "positive_control", "negative_control")
LEVELS = ("any", "not_same_plate", "not_same_experiment", "not_same_experiment_nor_position")
"""Which replicates count as positives of a retrieval, from the loosest to the strictest."""
TIERS = ("T0", "T1", "T1c", "T2", "T3", "T2+T3", "unknown", "T2+unknown")


@dataclass(frozen=True)
class TableSchema:
    """What a table must look like.

    ``columns`` maps a name to str, int, float, bool or ints (a list of whole numbers); a trailing ``?`` allows missing values.
    ``prefix`` allows, and asks for, at least one further float column a class or dimension.
    """

    what: str
    key: tuple[str, ...]
    columns: dict[str, str]
    prefix: str | None = None
    allowed: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def empty(self) -> pd.DataFrame:
        """A table without rows, for entries that an environment does not have."""
        return pd.DataFrame({c: pd.Series(dtype=DTYPES[k.rstrip("?")]) for c, k in self.columns.items()})


DTYPES = {"str": "str", "int": "int64", "float": "float64", "bool": "bool", "ints": "object"}
"""Kind of a column -> its pandas dtype."""

WELL_KEY = {"id_code": "str", "experiment": "str", "plate": "str", "well": "str"}

SCHEMAS: dict[str, TableSchema] = {
    "wells": TableSchema(
        "one row a well; a withheld perturbation is missing. On a cross-validated screen every label is here, and training, "
        "baseline and plate balancing drop those of the plates that a fold holds out",
        ("id_code",),
        WELL_KEY
        | {
            "cell_type": "str",
            "well_type": "str",
            "perturbation": "str?",
            "target": "bool",  # its perturbation is to be called
            "split": "str",  # labelled or heldout
        },
        allowed={"well_type": WELL_TYPES, "split": ("labelled", "heldout")},
    ),
    "ingestion_findings": TableSchema(
        "what is wrong with the screen's tables and images, a row a finding; unknown places are empty, an unknown site is -1",
        (),
        {
            "finding": "str",
            "policy": "str",
            "experiment": "str",
            "plate": "str",
            "well": "str",
            "site": "int",
            "channel": "str",
            "file": "str",
            "detail": "str",
        },
        allowed={"policy": ("error", "exclude", "report")},
    ),
    "sites": TableSchema(
        "one row a usable site of the image store; store_row is its row in the plate's array",
        ("id_code", "site"),
        WELL_KEY | {"site": "int", "store_row": "int"},
    ),
    "site_features": TableSchema(
        "raw intensity and texture of a site, one row a site and channel",
        ("id_code", "site", "channel"),
        WELL_KEY
        | {"site": "int", "channel": "str", "mean": "float", "std": "float"}
        | {q: "float" for q in ("p01", "p10", "p25", "p50", "p75", "p90", "p99")}
        | {n: "float" for n in ("gradient", "laplace", "focus", "saturated", "objects")},
    ),
    "normalized_features": TableSchema(
        "intensity and texture of a site as normalized images give them, a column a feature and channel",
        ("id_code", "site"),
        WELL_KEY | {"site": "int"},
        prefix=FEATURE,
    ),
    "plate_histograms": TableSchema(
        "how often each grey level occurs, one row a plate, well type and channel",
        ("experiment", "plate", "well_type", "channel"),
        {
            "experiment": "str",
            "plate": "str",
            "cell_type": "str",
            "well_type": "str",
            "channel": "str",
            "levels": "ints",  # grey levels that occur, rising
            "counts": "ints",  # pixels of each
        },
        allowed={"well_type": WELL_TYPES},
    ),
    "illumination_fields": TableSchema(
        "relative illumination of a plate's channel on a grid of blocks; no rows where it is not corrected",
        ("experiment", "plate", "channel", "grid_row", "grid_column"),
        {
            "experiment": "str",
            "plate": "str",
            "channel": "str",
            "grid_row": "int",
            "grid_column": "int",
            "gain": "float",  # mean 1; images are divided by it
        },
    ),
    "plate_qc": TableSchema(
        "quality of a plate's channel; flags names what is wrong and why",
        ("experiment", "plate", "channel"),
        {
            "experiment": "str",
            "plate": "str",
            "channel": "str",
            "cell_type": "str",
            "wells": "int",
            "sites": "int",
            "focus": "float",  # slope of log power against log frequency, median over sites
            "saturated": "float",  # share of pixels
            "background": "float",  # grey levels: median over sites of the 1 % quantile
            "intensity": "float",  # grey levels: median over sites of the mean
            "objects": "float",  # bright objects a site, median
            "row_trend": "float?",
            "column_trend": "float?",
            "edge_effect": "float?",
            "z_prime": "float?",
            "ssmd": "float?",
            "flags": "str",
        },
    ),
    "plate_statistics": TableSchema(
        "what normalizes a plate's channel, (x - location) / scale, and the statistics of the pixels it comes from",
        ("experiment", "plate", "channel"),
        {
            "experiment": "str",
            "plate": "str",
            "channel": "str",
            "location": "float",  # grey levels; subtracted
            "scale": "float",  # grey levels; divided by
            "mean": "float",
            "std": "float",
            "p01": "float",
            "p10": "float",
            "p25": "float",
            "p50": "float",
            "p75": "float",
            "p90": "float",
            "p99": "float",
            "scaled_mad": "float",
            "n_pixels": "int",
            "strategy": "str",
            "reference": "str",
            "illumination": "str",
            "tier": "str",
        },
        allowed={"tier": ("T0", "T1", "T1c")},
    ),
    "folds": TableSchema(
        "what each fold (one training run) does with each plate",
        ("fold", "experiment", "plate"),
        {"fold": "int", "experiment": "str", "plate": "str", "cell_type": "str", "role": "str", "unit": "str"},
        allowed={"role": ("train", "validation", "heldout"), "unit": ("experiment", "plate")},
    ),
    "plate_layout": TableSchema(
        "the plate group of each perturbation, and in how many wells of a plate it stands at the most",
        ("perturbation",),
        {"perturbation": "str", "group": "int", "per_plate": "int"},
    ),
    "plate_contents": TableSchema(
        "which perturbations stand on a plate, where that is known beforehand",
        ("experiment", "plate", "perturbation"),
        {"experiment": "str", "plate": "str", "perturbation": "str", "wells": "int"},
    ),
    "plate_groups": TableSchema(
        "the plate group found for each plate; decided: sure enough for the filter",
        ("experiment", "plate"),
        {
            "experiment": "str",
            "plate": "str",
            "group": "int",
            "posterior": "float",
            "margin": "float",
            "decided": "bool",
            "statistic": "str",
        },
        allowed={"statistic": ("raw", "centred", "rank")},
    ),
    "calibration": TableSchema(
        "the temperature that scores of a cell type were divided by",
        ("cell_type",),
        {
            "cell_type": "str",
            "temperature": "float",
            "source": "str",  # validation labels, the plate design alone, or given
            "wells": "int",
            "tier": "str",
        },
        allowed={"tier": TIERS, "source": ("given", "validation", "design")},
    ),
    "site_logits": TableSchema(
        "logits of a site, averaged over the views",
        ("fold", "id_code", "site"),
        {"fold": "int", "role": "str"} | WELL_KEY | {"site": "int", "entropy": "float", "tier": "str"},
        prefix=SCORE,
        allowed={"tier": TIERS},
    ),
    "well_logits": TableSchema(
        "logits of a well, averaged over sites and views",
        ("fold", "id_code"),
        {"fold": "int", "role": "str"} | WELL_KEY | {"n_sites": "int", "entropy": "float", "tier": "str"},
        prefix=SCORE,
        allowed={"tier": TIERS},
    ),
    "profiles": TableSchema(
        "embeddings of sites under the column names that pycytominer and copairs know",
        ("Metadata_Fold", "Metadata_Experiment", "Metadata_Plate", "Metadata_Well", "Metadata_Site"),
        {
            "Metadata_Experiment": "str",
            "Metadata_Plate": "str",
            "Metadata_Well": "str",
            "Metadata_Site": "int",
            "Metadata_Perturbation": "str?",
            "Metadata_Control": "str",
            "Metadata_CellType": "str",
            "Metadata_Fold": "int",
            "Metadata_PlateSeen": "bool",
            "Metadata_Tier": "str",
        },
        prefix=EMBEDDING,
        allowed={"Metadata_Tier": TIERS},
    ),
    "well_embeddings": TableSchema(
        "embedding of a well: unit-length from our network, or anybody's profile",
        ("fold", "id_code"),
        {"fold": "int", "role": "str"} | WELL_KEY | {"plate_seen": "bool", "tier": "str"},
        prefix=EMBEDDING,
        allowed={"tier": TIERS},
    ),
    "well_scores": TableSchema(
        "wide scores of wells from any model, a score column a perturbation: higher is better; rows of one well (sites, models) "
        "are averaged",
        (),
        {"id_code": "str", "tier": "str"},
        prefix=SCORE,
        allowed={"tier": TIERS},
    ),
    "well_scores_long": TableSchema(
        "long scores of wells from any model: rows of one well (sites, models) are summed",
        (),
        {"id_code": "str", "perturbation": "str", "score": "float", "tier": "str"},
        allowed={"tier": TIERS},
    ),
    "balancing_steps": TableSchema(
        "the call of a well after each step of plate balancing",
        ("id_code", "step"),
        WELL_KEY
        | {
            "role": "str",
            "step": "str",
            "call": "str",
            "confidence": "float",  # probability of the call
            "margin": "float",  # that less the probability of the best other class
            "entropy": "float",  # nats
            "candidates": "int",  # classes that the step still allows
            "reason": "str",  # why the call is no longer the plain one
            "tier": "str",
        },
        allowed={"tier": TIERS},
    ),
    "design_probabilities": TableSchema(
        "probabilities of a well as scored, after the filter and after the chosen balancing; rows sum to 1",
        ("id_code", "step"),
        WELL_KEY | {"step": "str", "tier": "str"},
        prefix=SCORE,
        allowed={"tier": TIERS},
    ),
    "calls": TableSchema(
        "the perturbation called for each well; tier is that of design_call",
        ("id_code",),
        WELL_KEY
        | {
            "plain_call": "str",
            "plain_confidence": "float",  # probability
            "plain_confident": "bool",  # confident enough for the wanted precision
            "design_call": "str",
            "design_confidence": "float",  # probability
            "design_confident": "bool",
            "changed": "bool",
            "reason": "str",  # why the design changed the call
            "tied": "bool",  # another well of the plate claims the same class with the very same score
            "tier": "str",
        },
        allowed={"tier": TIERS},
    ),
    "reliability": TableSchema(
        "confidence of held-out calls against the truth: bins of equal size (calibration), and the surest calls (coverage)",
        (),
        {
            "step": "str",
            "curve": "str",
            "confidence": "float",  # mean of the bin; least of the calls kept
            "accuracy": "float",  # share of right calls
            "wells": "int",
            "tier": "str",
        },
        allowed={"tier": TIERS, "curve": ("calibration", "coverage")},
    ),
    "heldout_labels": TableSchema(
        "withheld truth, read by evaluation alone",
        ("id_code",),
        {"id_code": "str", "perturbation": "str"},
    ),
    "replicate_retrieval": TableSchema(
        "how early a well finds the other wells of its perturbation among the other wells of its experiment",
        ("fold", "id_code", "level"),
        {
            "fold": "int",
            "id_code": "str",
            "experiment": "str",
            "cell_type": "str",
            "well_type": "str",
            "perturbation": "str",
            "level": "str",
            "average_precision": "float",
            "chance": "float",
            "positives": "int",
            "negatives": "int",
            "tier": "str",
        },
        allowed={"tier": TIERS, "level": LEVELS},
    ),
    "leak_probes": TableSchema(
        "what a linear probe reads of technical noise in profiles, a row a representation and axis",
        ("representation", "axis"),
        {
            "representation": "str",
            "axis": "str",
            "verdict": "str",
            "balanced_accuracy": "float?",
            "chance": "float?",
            "null_low": "float?",
            "null_high": "float?",
            "p": "float?",
            "smallest_p": "float?",
            "detectable": "float?",
            "planted_found": "bool",
            "probes": "int",
            "wells": "int",
            "reason": "str",
            "tier": "str",
        },
        allowed={"tier": TIERS, "verdict": ("leak", "none seen", "undecided", "void", "not asked")},
    ),
    "perturbation_scores": TableSchema(
        "how well each perturbation is called, found again and told from the negative controls",
        ("cell_type", "perturbation"),
        {
            "cell_type": "str",
            "perturbation": "str",
            "wells": "int",
            "top1": "float?",
            "top5": "float?",
            "most_called": "str",
            "average_precision": "float?",
            "activity": "float?",
            "activity_chance": "float?",
            "activity_p": "float?",
            "activity_q": "float?",
            "tier": "str",
        },
        allowed={"tier": TIERS},
    ),
    "confusions": TableSchema(
        "wrong plain calls of held-out wells, a row a pair of perturbations",
        ("perturbation", "call"),
        {"perturbation": "str", "call": "str", "wells": "int", "share": "float", "tier": "str"},
        allowed={"tier": TIERS},
    ),
    "suspect_wells": TableSchema(
        "wells whose image contradicts the plate map, surest first",
        (),
        {"rank": "int"}
        | WELL_KEY
        | {
            "kind": "str",
            "partner": "str",
            "evidence": "float",
            "needed": "float",
            "flagged": "bool",
            "detail": "str",
            "tier": "str",
        },
        allowed={"tier": TIERS},
    ),
    "growth_chart": TableSchema(
        "what each step of the method adds, a row an arm, averaged over seeds",
        ("arm",),
        {
            "arm": "str",
            "kind": "str",
            "tier": "str",
            "scored": "str",
            "seeds": "int",
            "wells": "int",
            "experiments": "int",
            "compute": "float",
            "top1": "float",
            "top1_low": "float",
            "top1_high": "float",
            "chance": "float",
            "reference": "str",
            "gain": "float?",
            "gain_low": "float?",
            "gain_high": "float?",
            "gain_p": "float?",
            "control": "str",
            "control_gain": "float?",
            "control_gain_low": "float?",
            "control_gain_high": "float?",
            "control_gain_p": "float?",
            "map": "float?",
            "map_chance": "float?",
            "leak_plate": "float?",
            "leak_plate_chance": "float?",
            "leak_experiment": "float?",
            "leak_experiment_chance": "float?",
            "leak_well_edge": "float?",
            "leak_well_edge_chance": "float?",
        },
        allowed={"tier": TIERS, "kind": ("step", "control", "leave_one_out", "transductive", "design")},
    ),
    "training_history": TableSchema(
        "one row an epoch of training",
        ("fold", "cell_type", "stage", "epoch"),
        {
            "fold": "int",
            "cell_type": "str",  # of a specialist; all
            "stage": "str",
            "epoch": "int",
            "loss": "float",
            "consistency": "float",
            "learning_rate": "float",
            "student_top1": "float?",  # top-1 of single sites, one view, on the validation plates
            "teacher_top1": "float?",  # the same of the moving average, where one is kept
            "chosen_top1": "float?",  # of the one that is handed on; the score that `keep: best` goes by
            "images_per_second": "float",  # labelled ones
            "loader_wait": "float",  # share of the time in which a step waited for images
        },
    ),
    "tuning_trials": TableSchema(
        "one row a trial of a study and parameter that it tried",
        ("study", "trial", "parameter"),
        {
            "study": "str",
            "trial": "int",
            "state": "str",
            "score": "float?",  # validation top-1; none where the trial was given up or failed
            "epochs": "int",  # reported before its end
            "seconds": "float?",
            "error": "str?",
            "parameter": "str",  # dotted name
            "value": "str",
        },
    ),
}

SCORES_KEYS = {
    "screen": "name of the screen",
    "unit": "what is scored: well or site",
    "classes": "number of perturbations that can be called",
    "headline": "the one figure to quote: T0, T1 or T1c; null where the model is of another tier",
    "heldout": "by well and by site: top1, top5, macro_recall, skill, chance, n, experiments, interval or sign_flip_p, tier, by_experiment, "
    "by_perturbation, by_cell_type of the plain call",
    "seen": "the same on experiments that the model was trained on",
    "gap": "top-1 seen less unseen",
    "validation": "the same plain scores on the validation plates, which were watched during training",
    "baseline": "hand features and logistic regression on the same folds",
    "against_baseline": "the model's gain over it on the same rows, paired by experiment",
    "steps": "accuracy after each step of plate balancing, and its gain over the plain call, each with its tier and chance",
    "pairs": "macro recall within pairs of perturbations named in the parameters",
    "plate_groups": "plates whose group was decided, and how many of those with labels are right",
    "notes": "what a reader must know to read the figures",
}
"""Top-level keys of the entry ``scores`` (JSON)."""

CARD_KEYS = {
    "screen": "name of the screen",
    "tier": "tier of the embeddings",
    "profiles": "wells, experiments, plates and dimensions; how many wells are of plates that the model was not trained on",
    "signal": "replicate mean average precision by well type and level, with chance, skill, interval or sign_flip_p, permutation p",
    "leaks": "representation -> axis -> verdict, balanced accuracy, chance, permutation interval, smallest leak that would have been seen",
    "activity": "share of perturbations told from the negative controls at q < 0.05",
    "collapse": "effective rank of the embeddings of each fold, of how many dimensions",
    "suspects": "how many wells and plates contradict the plate map",
    "notes": "what a reader must know to read the figures",
}
"""Top-level keys of the entry ``signal_leak_card`` (JSON)."""


def validate_table(table: pd.DataFrame, schema: str, source: str) -> pd.DataFrame:
    """Check a table against its declaration.

    Args:
        table: Any table.
        schema: Name in ``SCHEMAS``.
        source: What to call the table in an error: a file or a catalog entry.

    Returns:
        The table with declared columns first and cast to their dtypes.

    Raises:
        InputError: Names the source, the column and the first offending values.
    """
    if schema not in SCHEMAS:
        raise InputError(f"unknown table schema {schema!r}; allowed: {', '.join(SCHEMAS)}.{closest(schema, SCHEMAS)}")
    declared = SCHEMAS[schema]
    missing = [c for c in declared.columns if c not in table.columns]
    if missing:
        raise InputError(
            f"{source}: column {missing[0]!r} is missing (table {schema!r} needs {', '.join(declared.columns)}; "
            f"received {first_few(table.columns, 12)}).{closest(missing[0], table.columns)}"
        )
    further = [c for c in table.columns if c not in declared.columns]
    if declared.prefix is None:
        unknown = further
    else:
        unknown = [c for c in further if not str(c).startswith(declared.prefix)]
        if len(table) and len(unknown) == len(further):
            raise InputError(f"{source}: table {schema!r} has no column that starts with {declared.prefix!r}")
    if unknown:
        raise InputError(f"{source}: table {schema!r} knows no column {first_few(unknown)}")
    cast = {}
    for column, kind in declared.columns.items():
        values = table[column]
        if not kind.endswith("?") and values.isna().any():
            raise InputError(
                f"{source}: column {column!r} has {int(values.isna().sum())} missing values, expected none"
            )
        wanted = DTYPES[kind.rstrip("?")]
        try:
            cast[column] = values.astype(wanted)
        except (TypeError, ValueError) as error:
            raise InputError(f"{source}: column {column!r} cannot be read as {kind}: {error}") from error
        if column in declared.allowed:
            wrong = sorted(set(values.dropna()) - set(declared.allowed[column]))
            if wrong:
                raise InputError(
                    f"{source}: column {column!r} has {first_few(map(repr, wrong))}; allowed: {', '.join(declared.allowed[column])}"
                )
    if declared.key:
        twice = table.duplicated(list(declared.key))
        if twice.any():
            example = table.loc[twice, list(declared.key)].iloc[0].to_dict()
            raise InputError(
                f"{source}: {int(twice.sum())} rows repeat their key, first {example}; expected unique rows"
            )
    return pd.concat([pd.DataFrame(cast, index=table.index), table[further]], axis=1)


def class_names(table: pd.DataFrame) -> list[str]:
    """The perturbations of a wide score table, in column order."""
    return [str(c)[len(SCORE) :] for c in table.columns if str(c).startswith(SCORE)]


def prefixed(values, names: list[str], prefix: str, index: pd.Index) -> pd.DataFrame:
    """A (W, K) array as a table with one prefixed column a name."""
    return pd.DataFrame(values, columns=[f"{prefix}{name}" for name in names], index=index)


def matrix(table: pd.DataFrame, prefix: str):
    """The (W, K) array of all columns with a prefix."""
    return table[[c for c in table.columns if str(c).startswith(prefix)]].to_numpy()


def natural_order(names) -> list[str]:
    """Names sorted as people count: numbers by value, the rest by letters."""
    return sorted(set(names), key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))
