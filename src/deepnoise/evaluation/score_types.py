"""What the JSON entries ``scores`` and ``signal_leak_card`` hold, key by key.

Made by :mod:`deepnoise.evaluation.metrics` and :mod:`deepnoise.evaluation.signal_leak_card`, read by the
score table and the figures.
"""

from __future__ import annotations

from typing import Any, TypedDict


class Accuracy(TypedDict):
    """Share of correct calls, with its chance level and its uncertainty over experiments."""

    top1: float  # share of rows whose first call is correct
    skill: float  # (top1 - chance) / (1 - chance): 0 at chance, 1 when every call is correct
    chance: float  # top1 of random calls
    n: int  # rows scored: wells, or sites
    experiments: int  # scored experiments
    interval: list[float] | None  # 95 % interval of top1, [low, high]; None with fewer than six experiments
    sign_flip_p: float | None  # exact p that top1 exceeds chance; None from six experiments on


class TieredAccuracy(Accuracy):
    """An accuracy, with what the model was allowed to know."""

    tier: str  # one of deepnoise.tiers.TIERS


class PerturbationRecall(TypedDict):
    """How often one perturbation is called correctly."""

    recall: float  # share of its rows that are called correctly
    n: int  # its rows


class Score(TieredAccuracy):
    """Plain calls of one set of rows: held-out wells, validation wells, hand features, ..."""

    top5: float | None  # share of rows with the truth among the first five calls; None for up to five classes
    macro_recall: float  # balanced accuracy: mean recall over perturbations
    by_experiment: dict[str, float]  # experiment -> top1
    by_perturbation: dict[str, PerturbationRecall]  # perturbation -> recall
    by_cell_type: dict[str, Accuracy]  # cell type -> accuracy


class Headline(TieredAccuracy):
    """The one figure to quote."""

    unit: str  # scored by "well" or by "site"


class Gain(TypedDict):
    """Difference in top-1 between two calls of the same rows."""

    gain: float  # top1 less the top1 of the reference
    gain_interval: list[float] | None  # 95 % interval, [low, high]; None with fewer than six experiments
    gain_sign_flip_p: float | None  # exact p of a gain above 0; None from six experiments on


class BaselineScore(Score):
    """The plain calls of one baseline."""

    name: str  # one of deepnoise.tables.BASELINES


class RedealtScore(Gain):
    """Held-out plates as designed and with their treatments dealt anew; ``gain`` is the latter less the former."""

    of: str  # "model", or the name of a baseline
    designed: float  # top1 as designed
    redealt: float  # top1 dealt anew
    n: int  # perturbations of an experiment that are in both
    experiments: int  # their experiments
    loses_nothing: bool | None  # the interval includes 0 or lies above -4 points; None without an interval


class Excess(TypedDict):
    """By how much a share is above what chance gives, over experiments."""

    excess: float  # share less chance
    excess_interval: list[float] | None  # 95 % interval; None with fewer than six experiments
    excess_sign_flip_p: float | None  # exact p of an excess above 0; None from six experiments on
    n: int  # calls
    experiments: int  # their experiments
    above_chance: bool  # see deepnoise.evaluation.plate_design


class GroupShare(Excess):
    """Wrong calls that name another perturbation of the same plate."""

    share: float  # of the wrong calls
    chance: float  # if wrong calls named every other perturbation equally often


class RedrawnCalls(Excess):
    """Calls of a plate under its own BatchNorm statistics, and under those of random parts of the experiment."""

    changed: float  # share of the calls that changes under the statistics of a random part
    together: float  # share of the pairs of calls on a plate that are of one plate group
    redrawn: float  # the same under random parts


class PlateDesign(TypedDict):
    """Three controls of what the plain calls owe to the plate design."""

    redealt: list[RedealtScore]  # the model and each baseline; empty where nothing can be dealt anew
    group_share: dict[str, GroupShare]  # "validation" and "heldout" -> wrong calls inside the plate's contents
    redrawn: dict[str, RedrawnCalls]  # the same -> calls under statistics of random parts; empty without plate groups


class StepScore(TieredAccuracy, Gain):
    """Accuracy after one step of plate balancing, and its gain over the plain call of the same wells."""

    step: str  # name of the step; "plain" is the call before balancing


class SeenGap(TypedDict):
    """Top-1 on plates of seen experiments against top-1 on held-out plates."""

    top1: float  # seen less unseen
    seen: float  # top1 on plates that the model was trained on
    seen_experiments: int  # their experiments
    unseen: float  # top1 on held-out plates
    unseen_experiments: int  # their experiments
    tier: str  # tier of the held-out score


class PairRecall(TypedDict):
    """Balanced accuracy between two perturbations, all others ignored."""

    pair: list[str]  # the two perturbations
    macro_recall: float  # balanced accuracy
    chance: float  # 0.5
    n: int  # rows whose true perturbation is one of the two


class PairScore(PairRecall):
    """The pair recall of a model or of the baseline."""

    of: str  # "model" or "baseline"


class PlateGroupScore(TypedDict):
    """How many plate groups were decided, and how many of these are correct."""

    plates: int  # plates with an inferred group
    decided: int  # plates whose group was decided
    checked: int  # decided plates with held-out labels
    right: int  # checked plates whose group is correct
    checkable: int  # plates with held-out labels, decided or not


class Scores(TypedDict):
    """The entry ``scores``; the keys are those of ``deepnoise.tables.SCORES_KEYS``."""

    screen: str  # name of the screen
    unit: str  # scored by "well" or by "site"
    classes: int  # perturbations that can be called
    headline: Headline | None  # the one figure to quote; None if the tier does not allow one
    heldout: dict[str, Score | None]  # "well" and "site" -> plain calls on held-out plates
    seen: Score | None  # plain calls on plates of the training
    gap: SeenGap | None  # seen less unseen
    validation: Score | None  # plain calls on validation plates
    baselines: list[BaselineScore]  # hand features with logistic regression, z-scored or not, held-out plates
    baseline: BaselineScore | None  # the best of those that know no more than the model
    against_baseline: Gain | None  # gain of the model over that one on the same rows
    plate_design: PlateDesign  # what the plain calls owe to the plate design
    steps: list[StepScore]  # accuracy after each step of plate balancing, the plain call first
    pairs: list[PairScore]  # pairs of perturbations scored alone
    plate_groups: PlateGroupScore  # inferred plate groups
    notes: list[str]  # what a reader must know to read the scores


class ProfileCounts(TypedDict):
    """Size of the profiles that a card describes."""

    wells: int  # profiles, counted once per fold model
    unseen_wells: int  # of these, on plates that the model was not trained on
    experiments: int  # their experiments
    plates: int  # their plates
    dimensions: int  # features of a profile; 0 without profiles


class ActivityShare(TypedDict):
    """How many perturbations are distinguished from the negative controls."""

    perturbations: int  # tested, by cell type and fold
    active: int  # with q < 0.05
    share: float | None  # active / perturbations; None if none was tested


class Collapse(TypedDict):
    """How many directions the profiles of one fold model use."""

    effective_rank: float  # see deepnoise.evaluation.profiles.effective_rank
    dimensions: int  # the most it could be
    wells: int  # profiles on unseen plates


class SignalLeakCard(TypedDict):
    """The entry ``signal_leak_card``; the keys are those of ``deepnoise.tables.CARD_KEYS``."""

    screen: str  # name of the screen
    tier: str  # tier of the profiles
    profiles: ProfileCounts  # size of the profiles
    plate_design: PlateDesign  # what the plain calls owe to the plate design
    signal: dict[
        str, dict[str, dict[str, Any]]
    ]  # well type -> level -> see deepnoise.evaluation.retrieval.summarize_retrieval
    leaks: dict[str, dict[str, dict[str, Any]]]  # representation -> axis -> its row of the table leak_probes
    corrections: list[dict[str, Any]]  # rows of the table embedding_corrections
    activity: ActivityShare  # perturbations distinguished from the negative controls
    collapse: dict[str, Collapse]  # fold -> effective rank
    suspects: dict[str, int]  # fault of the plate map -> flagged wells or plates
    notes: list[str]  # what a reader must know to read the card
