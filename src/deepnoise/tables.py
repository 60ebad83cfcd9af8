"""The columns, types and keys of every table that crosses a pipeline border, with the meaning of each column.

The catalog names a table in an entry's ``validator:``; Kedro then has it checked on every save and load
(`datasets/validators.py`).
``docs/tables.md`` is written from here by :mod:`deepnoise.reference`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from deepnoise.errors import InputError, closest, first_few
from deepnoise.renamed import COLUMNS, WRITTEN_BY, answers
from deepnoise.tiers import HEADLINE_TIERS, TIERS

SCORE = "score_"
"""Prefix of the per-perturbation columns of wide score tables."""
FEATURE = "feature_"
"""Prefix of the columns of hand features, ``feature_<feature>_<channel>``."""
EMBEDDING = "embedding_"
"""Prefix of the per-dimension columns of embedding tables."""
PREFIXED = {
    SCORE: ("score_<perturbation>", "one column per perturbation that can be predicted"),
    FEATURE: ("feature_<feature>_<channel>", "one column per feature and channel, measured on normalized images"),
    EMBEDDING: ("embedding_<n>", "one column per dimension"),
}
"""Prefix -> pattern and meaning of its columns."""

BASELINES = ("hand features", "by experiment", "by plate", "by plate controls")
"""Hand features as they are, and z-scored: by experiment, by plate, and on the control wells of each plate."""
WELL_TYPES = ("treatment", "positive_control", "negative_control")
LEVELS = ("any", "not_same_plate", "not_same_experiment", "not_same_experiment_nor_position")
"""Which replicates count as positives of a retrieval, from the loosest to the strictest."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    ``type`` is str, int, float, bool or ints (a list of integers); a trailing ``?`` allows missing values.
    """

    type: str
    meaning: str


@dataclass(frozen=True)
class TableSchema:
    """What a table must look like.

    ``prefix`` allows, and requires, at least one additional float column per class, feature or dimension. ``allowed`` lists the
    values of columns that have a fixed set of them.
    """

    description: str
    key: tuple[str, ...]
    columns: dict[str, Column]
    prefix: str | None = None
    allowed: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def empty(self) -> pd.DataFrame:
        """A table without rows, for entries that an environment does not have."""
        return pd.DataFrame({c: pd.Series(dtype=DTYPES[d.type.rstrip("?")]) for c, d in self.columns.items()})


DTYPES = {"str": "str", "int": "int64", "float": "float64", "bool": "bool", "ints": "object"}
"""Type of a column -> its pandas dtype."""

ID_CODE = {"id_code": Column("str", "`<experiment>_<plate>_<well>`")}
EXPERIMENT = {"experiment": Column("str", "name of the experiment (batch)")}
PLATE_KEY = EXPERIMENT | {"plate": Column("str", "name of the plate within its experiment")}
WELL_KEY = ID_CODE | PLATE_KEY | {"well": Column("str", "canonical well name, such as `B02`")}
SITE = {"site": Column("int", "field of view within the well, from 1")}
CHANNEL = {"channel": Column("str", "name of the channel")}
CELL_TYPE = {"cell_type": Column("str", "cell type of the experiment")}
WELL_TYPE = {"well_type": Column("str", "treatment, positive_control or negative_control")}
PERTURBATION = {"perturbation": Column("str", "name of the perturbation")}
FOLD = {"fold": Column("int", "number of the fold, from 0")}
ROLE = {"role": Column("str", "train, validation or heldout")}
TIER = {"tier": Column("str", "what was known for these values; see above")}
QUANTILES = {
    "p01": Column("float", "1 % quantile, grey levels (nearest rank)"),
    "p10": Column("float", "10 % quantile"),
    "p25": Column("float", "25 % quantile"),
    "p50": Column("float", "median"),
    "p75": Column("float", "75 % quantile"),
    "p90": Column("float", "90 % quantile"),
    "p99": Column("float", "99 % quantile"),
}

SCHEMAS: dict[str, TableSchema] = {
    "wells": TableSchema(
        "One row per well, with a missing perturbation where it is withheld. On a cross-validated screen all labels are here, and "
        "training, baseline and plate balancing drop those of the plates that a fold holds out.",
        ("id_code",),
        WELL_KEY
        | CELL_TYPE
        | WELL_TYPE
        | {
            "perturbation": Column("str?", "name of the perturbation; missing where it is withheld"),
            "target": Column("bool", "whether the perturbation of the well is to be predicted"),
            "split": Column("str", "labelled or heldout"),
        },
        allowed={"well_type": WELL_TYPES, "split": ("labelled", "heldout")},
    ),
    "ingestion_findings": TableSchema(
        "What is wrong with the tables and images of the screen, one row per finding. Text that is not known is empty.",
        (),
        {
            "finding": Column("str", "the kind of finding, see [ingestion](ingestion.md#findings)"),
            "policy": Column("str", "what is done about it: error, exclude or report"),
        }
        | PLATE_KEY
        | {
            "well": Column("str", "canonical well name, such as `B02`"),
            "site": Column("int", "field of view; -1 where the finding is not about one"),
            "channel": Column("str", "name of the channel, where the finding is about one"),
            "file": Column("str", "the file, or the file and line of a table"),
            "detail": Column("str", "what is wrong"),
        },
        allowed={"policy": ("error", "exclude", "report")},
    ),
    "sites": TableSchema(
        "One row per usable site of the image store.",
        ("id_code", "site"),
        WELL_KEY | SITE | {"store_row": Column("int", "row of the site in the plate's array of `image_store`")},
    ),
    "site_features": TableSchema(
        "Raw intensity and texture, one row per site and channel.",
        ("id_code", "site", "channel"),
        WELL_KEY
        | SITE
        | CHANNEL
        | {
            "mean": Column("float", "mean, grey levels"),
            "std": Column("float", "standard deviation (divisor n), grey levels"),
        }
        | QUANTILES
        | {
            "gradient": Column("float", "mean absolute first difference along both axes, grey levels"),
            "laplace": Column("float", "mean absolute second difference, grey levels"),
            "focus": Column("float", "slope of log power against log spatial frequency; lower is more blurred"),
            "saturated": Column("float", "share of the pixels at the highest value of the camera"),
            "objects": Column("float", "number of bright connected objects"),
        },
    ),
    "normalized_features": TableSchema(
        "Intensity and texture measured on normalized images, one row per site.",
        ("id_code", "site"),
        WELL_KEY | SITE,
        prefix=FEATURE,
    ),
    "plate_histograms": TableSchema(
        "How often each grey level occurs, one row per plate, well type and channel.",
        ("experiment", "plate", "well_type", "channel"),
        PLATE_KEY
        | CELL_TYPE
        | WELL_TYPE
        | CHANNEL
        | {
            "levels": Column("ints", "grey levels that occur, ascending"),
            "counts": Column("ints", "number of pixels at each level"),
        },
        allowed={"well_type": WELL_TYPES},
    ),
    "illumination_fields": TableSchema(
        "Relative illumination of each plate and channel on a grid of blocks; no rows where illumination is not corrected.",
        ("experiment", "plate", "channel", "grid_row", "grid_column"),
        PLATE_KEY
        | CHANNEL
        | {
            "grid_row": Column("int", "block of the image, counted from the top"),
            "grid_column": Column("int", "block of the image, counted from the left"),
            "gain": Column("float", "relative illumination with mean 1; images are divided by it"),
        },
    ),
    "plate_qc": TableSchema(
        "Quality control, one row per plate and channel.",
        ("experiment", "plate", "channel"),
        PLATE_KEY
        | CHANNEL
        | CELL_TYPE
        | {
            "wells": Column("int", "wells with images"),
            "sites": Column("int", "number of sites"),
            "focus": Column("float", "slope of log power against log spatial frequency, median over sites"),
            "saturated": Column("float", "share of the pixels at the highest value of the camera"),
            "background": Column("float", "1 % quantile, median over sites, grey levels"),
            "intensity": Column("float", "mean, median over sites, grey levels"),
            "objects": Column("float", "bright objects per site, median over sites: a proxy of the cell number"),
            "row_trend": Column(
                "float?",
                "spread of the row effects (median polish of the well means) over that of the residuals, divided by the largest of 40 "
                "random arrangements; missing with fewer than two wells for each row and column in use",
            ),
            "column_trend": Column("float?", "the same for the columns"),
            "edge_effect": Column(
                "float?", "outermost wells against the other wells, in robust standard deviations of the latter"
            ),
            "z_prime": Column(
                "float?",
                "Z' of positive against negative controls by mean intensity; missing with fewer than 3 wells of either",
            ),
            "ssmd": Column("float?", "strictly standardized mean difference of the same wells"),
            "flags": Column("str", 'what is wrong and why, joined by "; "; empty where nothing is wrong'),
        },
    ),
    "plate_statistics": TableSchema(
        "Location and scale that normalize each plate and channel, (x - location) / scale, and the statistics of the pool of pixels "
        "behind them.",
        ("experiment", "plate", "channel"),
        PLATE_KEY
        | CHANNEL
        | {
            "location": Column("float", "subtracted from the image, grey levels"),
            "scale": Column("float", "divides the image, grey levels"),
            "mean": Column("float", "mean of the pool, grey levels"),
            "std": Column("float", "standard deviation of the pool (divisor n), grey levels"),
        }
        | QUANTILES
        | {
            "scaled_mad": Column("float", "median absolute deviation from the median, times 1.4826"),
            "n_pixels": Column("int", "number of pixels in the pool"),
            "strategy": Column("str", "none, global, cell_type, experiment, plate, site, percentile or robust"),
            "reference": Column("str", "wells in the pool: all, controls or negative_controls"),
            "illumination": Column("str", "correction of the images beforehand: none or flat_field"),
        }
        | TIER,
        allowed={"tier": HEADLINE_TIERS},
    ),
    "folds": TableSchema(
        "The role of each plate in each fold; a fold is one training run.",
        ("fold", "experiment", "plate"),
        FOLD | PLATE_KEY | CELL_TYPE | ROLE | {"unit": Column("str", "what is held out whole: experiment or plate")},
        allowed={"role": ("train", "validation", "heldout"), "unit": ("experiment", "plate")},
    ),
    "plate_layout": TableSchema(
        "The plate group of each perturbation, and the largest number of its wells on a plate.",
        ("perturbation",),
        PERTURBATION
        | {
            "group": Column("int", "plate group, from 0 (-1: none)"),
            "per_plate": Column("int", "largest number of wells with the perturbation on any labelled plate"),
        },
    ),
    "plate_contents": TableSchema(
        "The perturbations of a plate, where they are known beforehand: a csv, `data/01_raw/plate_contents/<screen>.csv` or `--params "
        "contents=PATH`. A plate in this table has these perturbations and no other.",
        ("experiment", "plate", "perturbation"),
        PLATE_KEY
        | PERTURBATION
        | {"wells": Column("int", "number of wells with the perturbation; 1 where the csv has no such column")},
    ),
    "plate_groups": TableSchema(
        "The plate group inferred for each plate.",
        ("experiment", "plate"),
        PLATE_KEY
        | {
            "group": Column("int", "plate group, from 0 (-1: none)"),
            "posterior": Column(
                "float",
                "probability that the experiment's assignment of groups is right rather than its closest rival",
            ),
            "margin": Column("float", "nats per well between the best and the second-best assignment"),
            "decided": Column("bool", "whether the posterior is high enough for the group filter"),
            "statistic": Column("str", "form in which scores were compared: raw, centred or rank"),
        },
        allowed={"statistic": ("raw", "centred", "rank")},
    ),
    "calibration": TableSchema(
        "The temperatures by which the scores of each cell type are divided, for plain calls and for balancing.",
        ("cell_type",),
        {
            "cell_type": Column("str", "cell type of the experiment; `all` where none is known"),
            "temperature": Column("float", "in the unit of the scores"),
            "source": Column("str", "given, validation (labels of validation wells) or design (no label)"),
            "design_temperature": Column("float", "temperature of balancing, in the unit of the scores"),
            "stray_share": Column(
                "float", "expected share of wells that are none of the perturbations left for them on their plate"
            ),
            "wells": Column("int", "number of wells to which they are applied"),
            "tier": Column("str", "tier of the scores"),
        },
        allowed={"tier": TIERS, "source": ("given", "validation", "design")},
    ),
    "site_logits": TableSchema(
        "Logits per site, averaged over views.",
        ("fold", "id_code", "site"),
        FOLD
        | ROLE
        | WELL_KEY
        | SITE
        | {"entropy": Column("float", "entropy of the softmax, nats; not calibrated")}
        | TIER,
        prefix=SCORE,
        allowed={"tier": TIERS},
    ),
    "baseline_logits": TableSchema(
        "Scores of hand features per site; rows of role `redealt` are held-out plates whose treatments were dealt anew.",
        ("baseline", "fold", "role", "id_code", "site"),
        {
            "baseline": Column(
                "str", "hand features as they are, or z-scored by experiment, by plate or by plate controls"
            )
        }
        | FOLD
        | {"role": Column("str", "validation, heldout or redealt")}
        | WELL_KEY
        | SITE
        | {"entropy": Column("float", "entropy of the softmax, nats; not calibrated")}
        | TIER,
        prefix=SCORE,
        allowed={"tier": TIERS, "baseline": BASELINES},
    ),
    "redrawn_statistics": TableSchema(
        "The call of each well (one view) under the BatchNorm statistics of its plate or experiment, and under those of a random "
        "part of the experiment, drawn twice; a part has as many wells as a plate. No labels are needed.",
        ("fold", "id_code"),
        FOLD
        | ROLE
        | WELL_KEY
        | {
            "call": Column("str", "perturbation called"),
            "call_first": Column("str", "perturbation called under the statistics of a random part"),
            "call_second": Column("str", "the same, drawn again"),
        }
        | TIER,
        allowed={"tier": TIERS},
    ),
    "well_logits": TableSchema(
        "Logits per well, averaged over sites and views.",
        ("fold", "id_code"),
        FOLD
        | ROLE
        | WELL_KEY
        | {
            "n_sites": Column("int", "number of sites in the average"),
            "entropy": Column("float", "entropy of the softmax, nats; not calibrated"),
        }
        | TIER,
        prefix=SCORE,
        allowed={"tier": TIERS},
    ),
    "profiles": TableSchema(
        "Embeddings per site, with the column names that pycytominer and copairs expect.",
        ("Metadata_Fold", "Metadata_Experiment", "Metadata_Plate", "Metadata_Well", "Metadata_Site"),
        {
            "Metadata_Experiment": EXPERIMENT["experiment"],
            "Metadata_Plate": PLATE_KEY["plate"],
            "Metadata_Well": WELL_KEY["well"],
            "Metadata_Site": SITE["site"],
            "Metadata_Perturbation": Column("str?", "name of the perturbation; missing where it is withheld"),
            "Metadata_Control": WELL_TYPE["well_type"],
            "Metadata_CellType": CELL_TYPE["cell_type"],
            "Metadata_Fold": Column("int", "fold of the model; dimensions of different folds are not comparable"),
            "Metadata_PlateSeen": Column("bool", "whether images of the plate were used in training, labelled or not"),
            "Metadata_Tier": TIER["tier"],
        },
        prefix=EMBEDDING,
        allowed={"Metadata_Tier": TIERS},
    ),
    "well_embeddings": TableSchema(
        "Embeddings per well: of unit length from the network of this project, or profiles of an external model.",
        ("fold", "id_code"),
        FOLD
        | ROLE
        | WELL_KEY
        | {"plate_seen": Column("bool", "whether images of the plate were used in training, labelled or not")}
        | TIER,
        prefix=EMBEDDING,
        allowed={"tier": TIERS},
    ),
    "corrected_embeddings": TableSchema(
        "Embeddings per well after the correction that was chosen on validation plates.",
        ("fold", "id_code"),
        FOLD
        | ROLE
        | WELL_KEY
        | {
            "plate_seen": Column("bool", "whether images of the plate were used in training, labelled or not"),
            "correction": Column("str", "none, plate_centred, experiment_centred, sphered or harmony"),
        }
        | TIER,
        prefix=EMBEDDING,
        allowed={"tier": TIERS},
    ),
    "well_scores": TableSchema(
        "Well scores of any model in wide form; higher is better. Rows of the same well (sites, models) are averaged.",
        (),
        ID_CODE | TIER,
        prefix=SCORE,
        allowed={"tier": TIERS},
    ),
    "well_scores_long": TableSchema(
        "Well scores of any model in long form. Rows of the same well and perturbation (sites, models) are summed.",
        (),
        ID_CODE | PERTURBATION | {"score": Column("float", "higher is better")} | TIER,
        allowed={"tier": TIERS},
    ),
    "balancing_steps": TableSchema(
        "The call of each well after each step of plate balancing.",
        ("id_code", "step"),
        WELL_KEY
        | ROLE
        | {
            "step": Column("str", "plain, group_filter, then the methods; the last is the chosen one"),
            "call": Column("str", "predicted perturbation"),
            "confidence": Column("float", "probability of the call"),
            "margin": Column(
                "float",
                "confidence minus the probability of the best other perturbation; negative where a well did not get its best",
            ),
            "entropy": Column("float", "entropy of the probabilities, nats"),
            "candidates": Column("int", "number of perturbations that the step allows in this well"),
            "reason": Column("str", "why the call differs from the plain one; empty where it does not"),
        }
        | TIER,
        allowed={"tier": TIERS},
    ),
    "design_probabilities": TableSchema(
        "Probabilities per well from the scores alone, after the group filter and after the chosen balancing; rows sum to 1.",
        ("id_code", "step"),
        WELL_KEY | {"step": Column("str", "plain, group_filter or the chosen method")} | TIER,
        prefix=SCORE,
        allowed={"tier": TIERS},
    ),
    "calls": TableSchema(
        "The perturbation predicted for each well, from the images alone and with the plate design.",
        ("id_code",),
        WELL_KEY
        | {
            "plain_call": Column("str", "perturbation predicted from the scores alone"),
            "plain_confidence": Column("float", "probability of the plain call"),
            "plain_confident": Column(
                "bool", "whether that is enough for the precision in `plate_balancing.precision`"
            ),
            "design_call": Column("str", "perturbation predicted with the plate design"),
            "design_confidence": Column("float", "probability of the design-aware call"),
            "design_confident": Column("bool", "whether that is enough for the same precision"),
            "changed": Column("bool", "whether the two calls differ"),
            "reason": Column(
                "str", "why they differ: the plain perturbation is not on the plate, or the well that got it"
            ),
            "tied": Column(
                "bool", "whether another well of the plate has the same best perturbation with an equal score"
            ),
            "tier": Column("str", "tier of `design_call`; `plain_call` has the tier of the scores"),
        },
        allowed={"tier": TIERS},
    ),
    "reliability": TableSchema(
        "Confidence of held-out calls against the truth: in bins of equal size (calibration), and for the most confident calls "
        "(coverage).",
        (),
        {
            "step": Column("str", "step of plate balancing, as in `balancing_steps`"),
            "curve": Column("str", "calibration or coverage"),
            "confidence": Column(
                "float", "calibration: mean of the bin; coverage: lowest confidence among the calls kept"
            ),
            "accuracy": Column("float", "share of right calls"),
            "wells": Column("int", "number of wells in the bin, or kept"),
        }
        | TIER,
        allowed={"tier": TIERS, "curve": ("calibration", "coverage")},
    ),
    "heldout_labels": TableSchema(
        "The withheld labels; only evaluation and the growth chart read them.",
        ("id_code",),
        ID_CODE | PERTURBATION,
    ),
    "replicate_retrieval": TableSchema(
        "How early each well retrieves its replicates among the wells of its experiment.",
        ("fold", "id_code", "level"),
        FOLD
        | ID_CODE
        | EXPERIMENT
        | CELL_TYPE
        | {"well_type": Column("str", "treatment or positive_control")}
        | PERTURBATION
        | {
            "level": Column(
                "str",
                "replicates that count: any, not_same_plate, not_same_experiment or not_same_experiment_nor_position",
            ),
            "average_precision": Column(
                "float", "of the replicates among all candidates, which are ranked by cosine similarity"
            ),
            "chance": Column("float", "exact expectation of a random order"),
            "positives": Column("int", "number of replicates"),
            "negatives": Column("int", "number of wells of other perturbations in the same experiment"),
        }
        | TIER,
        allowed={"tier": TIERS, "level": LEVELS},
    ),
    "leak_probes": TableSchema(
        "How well a linear probe predicts technical variables from profiles, one row per representation and axis.",
        ("representation", "axis"),
        {
            "representation": Column("str", "embedding, raw_intensity or normalized_intensity"),
            "axis": Column("str", "plate, experiment, well_row, well_column, well_edge or raw_intensity"),
            "verdict": Column(
                "str",
                "leak; none seen (and a planted shift would have been); undecided (it would not); void (the model was trained on these "
                "plates); not asked (the design does not allow the probe)",
            ),
            "balanced_accuracy": Column("float?", "of the probe, mean over its groups"),
            "chance": Column("float?", "1 / classes"),
            "null_low": Column("float?", "2.5 % quantile with shuffled labels"),
            "null_high": Column("float?", "97.5 % quantile with shuffled labels"),
            "p": Column("float?", "p value from the shuffles"),
            "smallest_p": Column("float?", "smallest p value possible with this number of shuffles"),
            "detectable": Column(
                "float?",
                "smallest planted shift found in 8 of 10 directions, in standard deviations of the wells along it; missing where none "
                "up to 5 is found",
            ),
            "planted_found": Column("bool", "whether a shift of `evaluation.smallest_leak` is found"),
            "probes": Column("int", "number of groups, each probed by itself"),
            "wells": Column("int", "number of wells probed, over all groups"),
            "reason": Column("str", "why the verdict is void or not asked"),
        }
        | TIER,
        allowed={"tier": TIERS, "verdict": ("leak", "none seen", "undecided", "void", "not asked")},
    ),
    "embedding_corrections": TableSchema(
        "What is left of signal and leak in the embeddings after each correction.",
        ("correction",),
        {
            "correction": Column("str", "none, plate_centred, experiment_centred, sphered or harmony"),
            "chosen": Column("bool", "whether it is that of corrected_embeddings"),
            "validation_map": Column("float?", "replicate mAP of validation wells, by which it is chosen"),
            "level": Column("str", "level of the replicates, as in replicate_retrieval"),
            "wells": Column("int", "wells queried, of plates that neither training nor validation used"),
            "experiments": Column("int", "their experiments"),
            "map": Column("float?", "replicate mean average precision of these wells"),
            "map_chance": Column("float?", "of a random order"),
            "gain": Column("float?", "map less that of the uncorrected embeddings, paired by well"),
            "gain_low": Column("float?", "lower end of its 95 % interval over experiments; needs at least six"),
            "gain_high": Column("float?", "upper end of the interval"),
            "gain_p": Column("float?", "exact sign-flip p of a gain with fewer than six experiments"),
            "plate": Column("float?", "balanced accuracy of the probe of the plate"),
            "plate_chance": Column("float?", "its chance level"),
            "plate_verdict": Column("str", "as in leak_probes; empty where the correction is not possible"),
            "plate_reason": Column("str", "as in leak_probes"),
            "experiment": Column("float?", "balanced accuracy of the probe of the experiment"),
            "experiment_chance": Column("float?", "its chance level"),
            "experiment_verdict": Column("str", "as in leak_probes; empty where the correction is not possible"),
            "experiment_reason": Column("str", "as in leak_probes"),
            "reason": Column("str", "why the correction is not possible; else empty"),
        }
        | TIER,
        allowed={"tier": TIERS},
    ),
    "perturbation_scores": TableSchema(
        "How well each perturbation is predicted, retrieved and distinguished from the negative controls.",
        ("cell_type", "perturbation"),
        CELL_TYPE
        | PERTURBATION
        | {
            "wells": Column("int", "held-out wells with a call, or wells with a replicate where there are no calls"),
            "top1": Column("float?", "share of its wells called right"),
            "top5": Column("float?", "share of its wells with the truth among the first five"),
            "most_called": Column("str", "the wrong call made most often for it"),
            "average_precision": Column("float?", "mean over its wells, for replicates in other experiments"),
            "activity": Column(
                "float?", "average precision of its replicates against the negative controls of the experiment"
            ),
            "activity_chance": Column("float?", "expected activity of a random order"),
            "activity_p": Column("float?", "p value of the activity from random orders"),
            "activity_q": Column("float?", "the same after Benjamini-Hochberg correction"),
        }
        | TIER,
        allowed={"tier": TIERS},
    ),
    "confusions": TableSchema(
        "Wrong plain calls of held-out wells, one row per pair of perturbations.",
        ("perturbation", "call"),
        {
            "perturbation": Column("str", "the true perturbation"),
            "call": Column("str", "the predicted perturbation"),
            "wells": Column("int", "number of wells"),
            "share": Column("float", "share of the wells of the true perturbation"),
        }
        | TIER,
        allowed={"tier": TIERS},
    ),
    "suspect_wells": TableSchema(
        "Wells whose image contradicts the plate map, strongest evidence first.",
        (),
        {"rank": Column("int", "from 1, the strongest evidence")}
        | WELL_KEY
        | {
            "kind": Column("str", "swapped, mislabelled, empty, or how the plate was turned or mirrored"),
            "partner": Column("str", "the well it was swapped with"),
            "evidence": Column(
                "float",
                "log-likelihood ratio against the plate map, nats; of an empty well, robust standard deviations",
            ),
            "needed": Column("float", "evidence from which a well is flagged"),
            "flagged": Column(
                "bool", "whether there is enough evidence; about 5 % of clean plates would have one such well"
            ),
            "detail": Column("str", "the finding in words"),
        }
        | TIER,
        allowed={"tier": TIERS},
    ),
    "growth_chart": TableSchema(
        "What each step of the method adds, one row per arm, averaged over seeds.",
        ("arm",),
        {
            "arm": Column("str", "name of the arm"),
            "kind": Column("str", "step, control, leave_one_out, transductive, correction or design"),
        }
        | TIER
        | {
            "scored": Column("str", "wells that are scored: heldout or validation"),
            "seeds": Column("int", "number of training seeds"),
            "wells": Column("int", "number of wells scored per seed"),
            "experiments": Column("int", "number of experiments scored"),
            "compute": Column("float", "cost of the training, in forward passes per labelled site"),
            "top1": Column("float?", "top-1 accuracy, mean over seeds; missing for corrections of the embeddings"),
            "top1_low": Column("float?", "lowest of the seeds"),
            "top1_high": Column("float?", "highest of the seeds"),
            "chance": Column("float?", "mean of 1 / number of classes still allowed"),
            "reference": Column("str", "arm with which the gain is computed"),
            "gain": Column("float?", "gain in top-1, paired by wells and seeds"),
            "gain_low": Column("float?", "lower end of the 95 % interval over experiments; needs at least six"),
            "gain_high": Column("float?", "upper end of the interval"),
            "gain_p": Column("float?", "exact sign-flip p with fewer than six experiments"),
            "control": Column("str", "control arm of equal compute"),
            "control_gain": Column("float?", "gain over the control"),
            "control_gain_low": Column("float?", "lower end of its 95 % interval"),
            "control_gain_high": Column("float?", "upper end of its 95 % interval"),
            "control_gain_p": Column("float?", "exact sign-flip p with fewer than six experiments"),
            "redealt_top1": Column(
                "float?", "top-1 on held-out plates whose treatments were dealt anew; simulated screens only"
            ),
            "same_plate": Column("float?", "share of the wrong calls that name a perturbation of the well's own plate"),
            "same_plate_chance": Column("float?", "its chance level"),
            "together": Column("float?", "share of the pairs of calls on a plate that are of one plate group"),
            "together_redrawn": Column(
                "float?", "the same under BatchNorm statistics of random parts of the experiment"
            ),
            "map": Column("float?", "replicate mean average precision of treatments across experiments"),
            "map_chance": Column("float?", "its chance level"),
            "leak_plate": Column(
                "float?", "balanced accuracy of the probe of the plate; missing where the design does not allow it"
            ),
            "leak_plate_chance": Column("float?", "its chance level"),
            "leak_experiment": Column(
                "float?", "balanced accuracy of the probe of the experiment; missing where the design does not allow it"
            ),
            "leak_experiment_chance": Column("float?", "its chance level"),
            "leak_well_edge": Column(
                "float?", "balanced accuracy of the probe of the well edge; missing where the design does not allow it"
            ),
            "leak_well_edge_chance": Column("float?", "its chance level"),
        },
        allowed={"tier": TIERS, "kind": ("step", "control", "leave_one_out", "transductive", "correction", "design")},
    ),
    "training_history": TableSchema(
        "The course of training, one row per epoch.",
        ("fold", "cell_type", "stage", "epoch"),
        FOLD
        | {
            "cell_type": Column("str", "cell type of a specialist, else `all`"),
            "stage": Column("str", "pretrain or mean_teacher"),
            "epoch": Column("int", "from 0"),
            "loss": Column("float", "mean training loss"),
            "consistency": Column("float", "mean consistency loss, unweighted"),
            "learning_rate": Column("float", "at the end of the epoch"),
            "student_top1": Column("float?", "top-1 of the student on single validation sites, one view"),
            "teacher_top1": Column("float?", "the same for the moving average, where one is kept"),
            "chosen_top1": Column(
                "float?", "the same for the network that is used afterwards; `keep: best` maximizes it"
            ),
            "images_per_second": Column("float", "labelled images per second of training"),
            "loader_wait": Column("float", "share of the time that steps spent waiting for images"),
        },
    ),
    "tuning_trials": TableSchema(
        "The trials of a study, one row per trial and parameter.",
        ("study", "trial", "parameter"),
        {
            "study": Column("str", "name of the study"),
            "trial": Column("int", "from 0"),
            "state": Column("str", "complete, pruned (stopped early), fail or running"),
            "score": Column("float?", "validation top-1; missing where the trial failed or was stopped early"),
            "epochs": Column("int", "number of epochs reported"),
            "seconds": Column("float?", "duration of the trial"),
            "error": Column("str?", "why the trial failed"),
            "parameter": Column("str", "dotted name of the parameter"),
            "value": Column("str", "the value that was tried"),
        },
    ),
}

SCORES_KEYS = {
    "screen": "name of the screen",
    "unit": "what counts as one prediction: well or site",
    "classes": "number of perturbations that can be predicted",
    "headline": "the one figure to quote, of tier T0, T1 or T1c, with its doubt about the plate design; null where the model has another tier",
    "heldout": "scores of the plain call by well and by site: top1, top5, macro_recall, skill, chance, n, experiments, interval or "
    "sign_flip_p, tier, by_experiment, by_perturbation, by_cell_type",
    "seen": "the same scores on experiments that the model was trained on",
    "gap": "top-1 on seen minus top-1 on unseen experiments",
    "validation": "the same scores on the validation plates, which were monitored during training",
    "baselines": "the same scores of logistic regression on hand features, as they are and z-scored, on the same folds",
    "baseline": "the best of these among those that know no more than the model",
    "against_baseline": "gain of the model over that baseline on the same rows, paired by experiment",
    "plate_design": "what the plain calls owe to the plate design: top-1 with treatments dealt anew, share of wrong calls inside the "
    "plate's own contents, and calls under statistics of random parts of the experiment",
    "steps": "accuracy after each step of plate balancing and its gain over the plain call, each with tier and chance",
    "pairs": "macro recall within the pairs of perturbations in `evaluation.pairs`",
    "plate_groups": "number of plates with a decided group, and how many of those with labels are right",
    "notes": "what a reader must know to interpret the figures",
}
"""Top-level keys of the entry ``scores`` (JSON)."""

CARD_KEYS = {
    "screen": "name of the screen",
    "tier": "tier of the embeddings",
    "profiles": "number of wells, experiments, plates and dimensions, and of wells on plates that the model was not trained on",
    "plate_design": "the same as in `scores`",
    "signal": "replicate mean average precision by well type and level, with chance, null (labels shuffled within plates), skill against it, interval or sign_flip_p, and permutation p",
    "leaks": "representation -> axis -> verdict, balanced accuracy, chance, permutation interval, smallest leak that would be detected",
    "corrections": "the rows of `embedding_corrections`",
    "activity": "number and share of perturbations that differ from the negative controls at q < 0.05",
    "collapse": "effective rank of the embeddings of each fold, and the number of dimensions",
    "suspects": "number of flagged wells by finding",
    "notes": "what a reader must know to interpret the figures",
}
"""Top-level keys of the entry ``signal_leak_card`` (JSON)."""


def validate_table(table: pd.DataFrame, schema: str, source: str) -> pd.DataFrame:
    """Check a table against its declaration.

    Args:
        table: Any table.
        schema: Name in ``SCHEMAS``.
        source: Name of the table in an error message: a file or a catalog entry.

    Returns:
        The table with declared columns first and cast to their dtypes.

    Raises:
        InputError: With the source, the column and the first invalid values.
    """
    if schema not in SCHEMAS:
        raise InputError(f"unknown table schema {schema!r}; allowed: {', '.join(SCHEMAS)}.{closest(schema, SCHEMAS)}")
    declared = SCHEMAS[schema]
    missing = [name for name in declared.columns if name not in table.columns]
    earlier = [str(name) for name in table.columns if str(name) in COLUMNS and schema in WRITTEN_BY]
    if earlier:
        raise InputError(
            f"{source}: table {schema!r} has columns of an earlier version.{answers(earlier)} Run again: kedro run --pipelines {WRITTEN_BY[schema]}"
        )
    if missing:
        raise InputError(
            f"{source}: column {missing[0]!r} is missing (table {schema!r} needs {', '.join(declared.columns)}; "
            f"received {first_few(table.columns, 12)}).{closest(missing[0], table.columns)}"
        )
    additional = [name for name in table.columns if name not in declared.columns]
    if declared.prefix is None:
        unknown = additional
    else:
        unknown = [name for name in additional if not str(name).startswith(declared.prefix)]
        if len(table) and len(unknown) == len(additional):
            raise InputError(f"{source}: table {schema!r} has no column that starts with {declared.prefix!r}")
    if unknown:
        prefixed_too = f" and columns that start with {declared.prefix!r}" if declared.prefix else ""
        raise InputError(
            f"{source}: table {schema!r} received unknown columns: {first_few(unknown)}; allowed: {', '.join(declared.columns)}"
            f"{prefixed_too}"
        )
    cast = {}
    for name, column in declared.columns.items():
        values = table[name]
        if not column.type.endswith("?") and values.isna().any():
            raise InputError(f"{source}: column {name!r} has {int(values.isna().sum())} missing values, expected none")
        try:
            cast[name] = values.astype(DTYPES[column.type.rstrip("?")])
        except (TypeError, ValueError) as error:
            raise InputError(f"{source}: column {name!r} cannot be read as {column.type}: {error}") from error
        if name in declared.allowed:
            invalid = sorted(set(values.dropna()) - set(declared.allowed[name]))
            if invalid:
                raise InputError(
                    f"{source}: column {name!r} has {first_few(map(repr, invalid))}; allowed: {', '.join(declared.allowed[name])}"
                )
    if declared.key:
        repeated = table.duplicated(list(declared.key))
        if repeated.any():
            example = table.loc[repeated, list(declared.key)].iloc[0].to_dict()
            raise InputError(
                f"{source}: {int(repeated.sum())} rows repeat their key, first {example}; expected unique rows"
            )
    return pd.concat([pd.DataFrame(cast, index=table.index), table[additional]], axis=1)


def class_names(table: pd.DataFrame) -> list[str]:
    """The perturbations of a wide score table, in column order."""
    return [str(c)[len(SCORE) :] for c in table.columns if str(c).startswith(SCORE)]


def prefixed(values, names: list[str], prefix: str, index: pd.Index) -> pd.DataFrame:
    """A (W, K) array as a table with one prefixed column per name."""
    return pd.DataFrame(values, columns=[f"{prefix}{name}" for name in names], index=index)


def matrix(table: pd.DataFrame, prefix: str):
    """The (W, K) array of all columns with a prefix."""
    return table[[c for c in table.columns if str(c).startswith(prefix)]].to_numpy()


def as_text(values: pd.Series) -> pd.Series:
    """The values as text, whole numbers without a decimal point; missing ones stay missing."""
    if pd.api.types.is_float_dtype(values) and (values.dropna() % 1 == 0).all():
        values = values.astype("Int64")
    return values.astype("str").where(values.notna())


def natural_order(names) -> list[str]:
    """Names in natural order: numbers by value, then the rest alphabetically."""
    return sorted(set(names), key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))
