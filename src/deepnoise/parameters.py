"""All parameters of all pipelines: their types, ranges, units and meaning; checked before a run starts.

One model per block of ``conf/*/parameters_<pipeline>.yml``. The text under each field is its entry in
``docs/parameters.md``, which :mod:`deepnoise.reference` writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    create_model,
    model_validator,
)

from deepnoise.errors import InputError, closest
from deepnoise.ingestion.finding_types import FINDINGS
from deepnoise.renamed import answer


@dataclass(frozen=True)
class Unit:
    """Unit of a parameter, for the documentation; goes into ``Annotated``."""

    name: str


Share = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, le=1)]
GreyLevels = Annotated[NonNegativeFloat, Unit("grey levels")]
LogSd = Annotated[NonNegativeFloat, Unit("sd of the log")]
TraitSd = Annotated[NonNegativeFloat, Unit("sd of a trait")]
Epochs = Annotated[NonNegativeInt, Unit("epochs")]
RampEpochs = Annotated[NonNegativeFloat, Unit("epochs")]
Device = Literal["auto", "cpu", "cuda", "mps"]
Pooling = Literal["logits", "probabilities"]


class Block(BaseModel):
    """A block of parameters; unknown keys are refused and values are not converted to another type."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True, strict=True)


class NoiseParameters(Block):
    """Levels of technical noise that replace those of `simulation.profile`; null keeps the level of the
    profile, 0 switches it off."""

    experiment_gain: LogSd | None = None
    """Spread of brightness between experiments, drawn per channel."""
    plate_gain: LogSd | None = None
    """Spread of brightness between the plates of an experiment, drawn per channel."""
    experiment_offset: GreyLevels | None = None
    """Standard deviation of the background between experiments, drawn per channel."""
    plate_offset: GreyLevels | None = None
    """Standard deviation of the background between the plates of an experiment, drawn per channel."""
    blur: Annotated[NonNegativeFloat, Unit("px")] | None = None
    """Standard deviation between experiments of the width of the blur."""
    illumination: NonNegativeFloat | None = None
    """Relative loss of light from the centre of the image to its corner."""
    bleed_through: NonNegativeFloat | None = None
    """Share of a channel's signal that appears in the neighbouring channel."""
    position_gain: NonNegativeFloat | None = None
    """Relative brightness gradient across the plate."""
    edge: TraitSd | None = None
    """Shift of traits in the outer wells; a third of the value is also the share of cells lost there."""
    density: LogSd | None = None
    """Spread of the cell number between experiments; half as much is added between wells."""
    sensor: GreyLevels | None = None
    """Standard deviation of the read noise; shot noise is added to it."""
    penetrance: LogSd | None = None
    """Spread of the strength of a perturbation between experiments."""
    experiment_trait_shift: TraitSd | None = None
    """Shift of each trait between experiments; brightness corrections cannot remove it."""
    plate_trait_shift: TraitSd | None = None
    """Shift of each trait between the plates of an experiment."""
    well_trait_shift: TraitSd | None = None
    """Shift of each trait between wells."""
    density_interaction: NonNegativeFloat | None = None
    """Relative loss of a perturbation's effect per log unit of cell density."""
    cell_type_gain: LogSd | None = None
    """Spread of brightness between cell types, drawn per channel."""
    background: NonNegativeFloat | None = None
    """1: the background is as much brighter as the gain; 0: it does not follow the gain."""
    gain_correlation: Probability | None = None
    """Correlation of the log gains of two channels, of experiments and of plates."""
    effect_direction: NonNegativeFloat | None = None
    """Change of an effect's direction, per experiment and perturbation; 1 is as large as the effect itself."""
    trait_response: LogSd | None = None
    """Spread of a factor on all effects, per experiment and trait."""
    trait_limit: TraitSd | None = None
    """Standard deviations that no trait exceeds, so that shifts and effects do not simply add up; 0 is no limit."""
    gain_drift: LogSd | None = None
    """Spread of the change of brightness from the first imaged well of a plate to the last, per channel."""
    trait_drift: TraitSd | None = None
    """Shift of each trait from the first imaged well of a plate to the last."""
    dead_wells: Probability | None = None
    """Probability that a well has lost nine tenths of its cells."""
    out_of_focus: Probability | None = None
    """Probability that a site is out of focus."""
    debris: Probability | None = None
    """Probability that a site shows bright debris."""


class BiologyParameters(Block):
    """How perturbations act, where it differs from `simulation.profile`; null keeps the value of the profile."""

    inactive: Probability | None = None
    """Share of the treatments that do nothing."""
    look_alikes: Probability | None = None
    """Share of the active treatments that belong to a family of three with similar effects."""
    family_similarity: Probability | None = None
    """Correlation of the effects within a family."""
    responding_cells: Probability | None = None
    """Mean share of a well's cells that respond; it differs between perturbations. 1: all cells."""
    subpopulation: Probability | None = None
    """Mean share of the cells that are of a second kind, with a baseline of its own."""


class SimulationParameters(Block):
    """The simulated screen: its design, its biology and its technical noise."""

    seed: int
    """Seed of the screen; the same seed gives the same bytes."""
    treatments: PositiveInt
    """Number of perturbations to be predicted; a multiple of `plates`."""
    positive_controls: PositiveInt
    """Number of positive controls, each in one well of every plate."""
    negative_wells: Annotated[PositiveInt, Unit("wells per plate")]
    """Untreated wells; one of them is always B02."""
    cell_types: PositiveInt
    """Number of cell types, at most 6."""
    labelled_experiments: Annotated[PositiveInt, Unit("per cell type")]
    """Experiments with known labels; fold f validates on one of them."""
    heldout_experiments: Annotated[NonNegativeInt, Unit("per cell type")]
    """Experiments whose labels go to a separate file that only evaluation reads."""
    plates: Annotated[PositiveInt, Unit("per experiment")]
    """Number of plates, and of plate groups."""
    sites: Annotated[PositiveInt, Unit("per well")]
    """Number of imaged sites."""
    image_size: Annotated[int, Field(ge=16), Unit("px")]
    """Height and width of an image."""
    missing_wells: Share
    """Probability that a treatment well is missing."""
    duplicate_layout: bool
    """Whether one experiment repeats the layout of another, with its plates in rotated order."""
    effect_strength: TraitSd
    """Standard deviation of the change of a trait that a perturbation moves."""
    traits_changed: PositiveInt
    """Mean number of traits, out of 32, that a perturbation changes."""
    fixed_layout: bool
    """Whether every perturbation is at one well position in all experiments."""
    redeal: Literal["none", "heldout", "all"]
    """Experiments whose treatments are dealt anew to their wells, over all plates: none, those whose labels are
    withheld, or all. It removes the plate groups and nothing else."""
    profile: Literal["default", "additive", "adversarial"]
    """Set of values in `simulation/profiles.py`: `additive` is the default of earlier screens, without inactive,
    similar or partial effects; `adversarial` adds noise to it that no brightness correction removes."""
    biology: BiologyParameters
    """Single values that differ from the profile, such as `{inactive: 0.5}`."""
    noise: NoiseParameters
    """Single noise levels that differ from the profile, such as `{blur: 0.8}`."""


class FoldParameters(Block):
    """How the screen is split into training, validation and held-out plates."""

    n_folds: PositiveInt
    """Number of folds among which the labelled experiments are divided."""
    run: list[int] | Literal["all"]
    """Folds to train, numbered from 0."""
    validation: bool | list[str]
    """Whether each fold keeps experiments out of training to monitor the score; or the names of the
    experiments to keep out."""
    split: Literal["separated", "stratified"]
    """`separated` holds out whole experiments; `stratified` holds out some plates of every experiment."""


FindingPolicies: Any = create_model(
    "FindingPolicies",
    __base__=Block,
    __doc__=(
        "What to do about each kind of finding: `error` stops the run, `exclude` leaves the images out, "
        "`report` lists the finding and keeps the images."
    ),
    **{
        finding: (Literal[policies], Field(description=f"Policy for this finding: {text}."))
        for finding, (text, policies) in FINDINGS.items()
        if finding != "excluded"
    },  # type: ignore[call-overload]
)


class IngestionParameters(Block):
    """Validation of the tables and images, packing of the image store, and the folds."""

    findings: FindingPolicies  # type: ignore[valid-type]
    """What to do about each kind of finding."""
    checksum: bool
    """Whether changed source files are detected by content instead of size and time; reads every file."""
    verify: bool
    """Whether the pixels of packed plates are compared with those that were packed; reads the whole image store."""
    target_well_types: list[Literal["treatment", "positive_control", "negative_control"]]
    """Types of the wells whose perturbation is predicted."""
    folds: FoldParameters
    """How the screen is split."""


class NormalizationParameters(Block):
    """The statistics that normalize an image, and optional corrections of illumination and position."""

    strategy: Literal["none", "global", "cell_type", "experiment", "plate", "site", "percentile", "robust"]
    """Images over which location and scale are computed; `percentile` and `robust` are computed per plate."""
    reference: Literal["all", "controls", "negative_controls"]
    """Wells from which the statistics are computed; either choice of controls gives tier T1c."""
    scale_floor: Annotated[PositiveFloat, Unit("grey levels")]
    """Smallest scale of `percentile` and `robust`, and the scale of a constant channel."""
    illumination: Literal["none", "flat_field"]
    """`flat_field` divides each image by the illumination field of its plate and channel before anything
    else."""
    position_correction: Literal["none", "median_polish"]
    """`median_polish` removes row and column effects from the hand features; images are not changed."""


class HeadParameters(Block):
    """The classification head."""

    name: Literal["arcface", "softmax"]
    """ArcFace (additive angular margin) or a plain linear layer."""
    scale: PositiveFloat
    """Factor of the cosines of ArcFace; unused by softmax."""
    margin: Annotated[float, Field(ge=0, lt=3.2), Unit("radians")]
    """Angular margin of ArcFace; unused by softmax."""


class AugmentationParameters(Block):
    """Random changes of training images, drawn per image on the device."""

    dihedral: bool
    """Random flips and quarter turns."""
    shift_scale: Share
    """Largest relative shift, change of scale and change of aspect; 0 switches all three off."""
    erase: Probability
    """Probability that a random rectangle of the image is erased."""
    statistics_jitter: Share
    """Location and scale are each multiplied by a draw from U(1 - j, 1 + j), with j this value."""


class RatePhase(Block):
    """A phase of the learning rate: half a cosine from one share of the peak rate to another."""

    share: PositiveFloat
    """Length of the phase relative to the other phases of the stage."""
    start: Probability
    """Rate at the start of the phase, as a share of the peak."""
    end: Probability
    """Rate at the end of the phase, as a share of the peak."""


class StageParameters(Block):
    """Stage 1: the network learns from labelled wells."""

    epochs: Epochs
    """Number of epochs; 0 skips the stage."""
    optimizer: str
    """Name of any optimizer of timm."""
    learning_rate: PositiveFloat
    """Peak learning rate."""
    weight_decay: NonNegativeFloat
    """Weight decay; biases and BatchNorm are exempt."""
    schedule: Annotated[list[RatePhase], Field(min_length=1)]
    """Phases of the learning rate, in order; warm-up, steps and warm restarts are all written this way."""
    ema_decay: Decay | dict[int, Decay]
    """Decay of the moving average of the weights: one value, or a mapping from first epoch to decay that begins
    with epoch 0. In stage 1 the average is used instead of the last weights, and 0 keeps none; in stage 2 it is the
    teacher."""
    keep: Literal["last", "best"]
    """Epoch to keep: the last, or the one with the best validation score (T1: one site, one view, no plate
    design)."""

    @model_validator(mode="after")
    def _schedule_starts_at_epoch_0(self) -> StageParameters:
        if isinstance(self.ema_decay, dict) and min(self.ema_decay, default=1) != 0:
            raise ValueError(
                f"ema_decay is {self.ema_decay}: a schedule maps first epochs to decays and begins with epoch 0"
            )
        return self


class PseudoLabelParameters(Block):
    """Pseudo-labels: the teacher's predictions for unlabelled wells, used as targets."""

    method: Literal["none", "plain", "balanced"]
    """`plain` takes the teacher's best class, `balanced` the best class after Sinkhorn per plate."""
    groups: bool
    """Whether plate groups are inferred first, so that only perturbations of the plate's group can be
    pseudo-labels (`balanced` only)."""
    weight: Probability
    """Weight of the pseudo-labels in the loss; the true labels get the rest."""
    start: Annotated[NonNegativeInt, Unit("epoch")]
    """First epoch of the stage with pseudo-labels, counted from 0."""
    ramp_epochs: RampEpochs
    """Length of the ramp over which the weight rises; 0 applies the full weight at once."""
    refresh: PositiveInt | Literal["improved"]
    """Number of epochs between updates; `improved` updates after an epoch with the best validation score so
    far."""
    views: PositiveInt
    """Number of random views over which the teacher's logits are averaged."""
    memory: Share
    """Share of the previous logits that is kept at an update."""


class MeanTeacherParameters(StageParameters):
    """Stage 2: the student also learns to agree with its moving average, the teacher, and from
    pseudo-labels."""

    consistency_weight: NonNegativeFloat
    """Weight of the consistency term in the loss: the mean squared error of the probabilities, times classes / 1139."""
    ramp_epochs: RampEpochs
    """Length of the ramp over which the consistency weight rises; 0 applies the full weight at once."""
    views: Literal["shared", "two"]
    """Views of the student per step: one shared by all terms of the loss, or one for the labels and a weak one
    for the other terms. The teacher gets a strong one."""
    unlabelled_ratio: NonNegativeFloat
    """Unlabelled sites per labelled site in a step; 0 computes the consistency on the labelled batch
    alone."""
    pseudo_labels: PseudoLabelParameters
    """The teacher's predictions as targets."""


class TrainingParameters(Block):
    """The network and how it is trained."""

    seed: int
    """Seed of the weights, the order of the images and the augmentation."""
    backbone: str
    """Name of any model of timm."""
    pretrained_weights: str
    """Initial weights of the backbone: `none` (random), `timm` (downloaded), or the path of a `.safetensors`
    file."""
    cell_type: Literal["none", "specialist"]
    """`specialist` trains one network per cell type in stage 2."""
    head: HeadParameters
    """The classification head."""
    batch_size: Annotated[int, Field(ge=2), Unit("sites")]
    """Labelled sites per step."""
    batches: Literal["mixed", "experiment", "plate"]
    """Images of a batch: from anywhere, or from a single experiment or plate, so that BatchNorm corrects for
    batch effects."""
    sites: Literal["all"] | list[int]
    """Numbers of the sites of a well to train on."""
    sites_per_epoch: Literal["all", "one"]
    """Whether an epoch shows all sites of a well or one drawn at random."""
    gradient_clip: NonNegativeFloat
    """Largest norm of the gradient; 0 switches clipping off."""
    augmentation: AugmentationParameters
    """Random changes of the images."""
    pretrain: StageParameters
    """Stage 1, on labelled wells."""
    mean_teacher: MeanTeacherParameters
    """Stage 2, with a mean teacher."""
    unlabelled_source: Literal["none", "training", "heldout"]
    """Plates whose images are used without labels; `heldout` makes every later score T3, or T2+T3 with
    balanced pseudo-labels."""
    precision: Literal["auto", "float32", "bfloat16"]
    """Precision of the backbone; `auto` is bfloat16 on a GPU with hardware support, else float32."""
    channels_last: bool
    """Whether images and weights are stored with channels last, the faster layout for most convolutions."""
    compile: bool
    """Whether the backbone is compiled by `torch.compile`; where that fails, the log says why and training goes on without."""
    cache_gigabytes: Annotated[NonNegativeFloat, Unit("GB")]
    """Memory for images that are kept instead of being read again."""
    device: Device
    """Device for training; `auto` is a CUDA GPU where there is one, else the CPU."""
    tensorboard: bool
    """Whether TensorBoard events are written beside the training state; needs the extra `tensorboard`."""

    def recipe(self) -> dict[str, Any]:
        """All values on which the trained weights depend: those that only say where and how to compute are
        left out."""
        return self.model_dump(mode="json", exclude={"device", "compile", "cache_gigabytes", "tensorboard"})

    @model_validator(mode="after")
    def _unlabelled_stream_is_needed(self) -> TrainingParameters:
        off = self.unlabelled_source == "none" or self.mean_teacher.unlabelled_ratio == 0
        method = self.mean_teacher.pseudo_labels.method
        if off and method != "none":
            raise ValueError(
                f"training.mean_teacher.pseudo_labels.method is {method!r}, but no unlabelled images are read; "
                "set training.unlabelled_source to training or heldout, and unlabelled_ratio above 0"
            )
        if off and self.unlabelled_source == "heldout":
            raise ValueError(
                "training.unlabelled_source is 'heldout', but training.mean_teacher.unlabelled_ratio is 0, so that no held-out "
                "image would be read; set it above 0"
            )
        return self


class InferenceParameters(Block):
    """From a trained model to scores and embeddings."""

    only: str
    """Part to predict: EXPERIMENT, EXPERIMENT/PLATE or EXPERIMENT/PLATE/WELL; empty predicts all plates new
    to the model."""
    views: Literal["none", "flips", "dihedral", "multicrop"]
    """Test-time augmentation: one view, 4 flips, the 8 symmetries of the square, or 5 crops (corners and
    centre)."""
    pooling: Pooling
    """What is averaged over views, ensemble members and sites."""
    ensemble_weights: Literal["equal", "validation"]
    """Weights of the ensemble members (entry `ensemble_models`): equal, or fitted on validation wells."""
    adabn: Literal["auto", "none", "experiment", "plate"]
    """Images on which BatchNorm statistics are re-estimated, without labels; `auto` follows
    `training.batches` of the model."""
    seen_experiments: Annotated[NonNegativeInt, Unit("per cell type")]
    """Training experiments that are predicted too, to measure the gap to unseen ones."""
    batch_size: Annotated[PositiveInt, Unit("sites")] | Literal["auto"]
    """Sites per batch; `auto` takes what fits the device."""
    device: Device
    """Device for inference; `auto` is a CUDA GPU where there is one, else the CPU."""


BalancingMethod = Literal["none", "matching", "sinkhorn", "assignment", "greedy"]


class PlateBalancingParameters(Block):
    """What knowledge of the plate design adds to a table of well scores."""

    pooling: Pooling
    """What is averaged over several rows of a well (sites, folds, models)."""
    temperature: PositiveFloat | Literal["auto"]
    """Divisor of the scores before the softmax; `auto` fits it to validation labels per cell type, or without
    labels to the design."""
    unlisted: Annotated[NonNegativeFloat, Unit("nats")]
    """How much less likely a perturbation missing from a top-k list is than one listed with score 0."""
    group_inference: Literal["infer", "none"]
    """Whether the plate group of each plate is inferred."""
    group_statistic: Literal["auto", "raw", "centred", "rank"]
    """Form in which scores are compared with plate groups; `auto` is `centred`, or `rank` where that is
    undecided and fits better."""
    group_posterior: Annotated[float, Field(gt=0, le=1)]
    """Posterior from which plate groups are accepted; random scores reach 0.95 in under 5 % of
    experiments."""
    method: BalancingMethod | Literal["auto"]
    """Method that makes the design-aware calls; `auto` is `matching`, unless another is better on validation
    wells."""
    compare: list[BalancingMethod]
    """Further methods that are scored as separate steps."""
    precision: Annotated[float, Field(gt=0, le=1)]
    """Share of confident calls that should be right; sets `plain_confident` and `design_confident`."""


class EvaluationParameters(Block):
    """What is scored, and how leaks are tested."""

    screen: str
    """Name of the screen in the scores."""
    unit: Literal["well", "site"]
    """What counts as one prediction."""
    pairs: list[Annotated[list[str], Field(min_length=2, max_length=2)]]
    """Pairs of perturbations that are also scored by themselves."""
    permutations: PositiveInt
    """Number of label shuffles; the smallest possible p is 1 / (permutations + 1)."""
    smallest_leak: Annotated[PositiveFloat, Unit("standard deviations")]
    """Size of the planted shift that a probe must find before its verdict can be "none seen"."""
    corrections: Annotated[
        list[Literal["none", "plate_centred", "experiment_centred", "sphered", "harmony"]], Field(min_length=1)
    ]
    """Corrections of the embeddings, of which the best on validation plates is taken. One alone is taken as it is. `harmony` needs the
    extra of that name."""


class ReportParameters(Block):
    """The report page."""

    screen: str
    """Name of the screen in the title."""


class GrowthStep(Block):
    """A step of the growth chart."""

    step: str
    """Name of the step."""
    set: dict[str, Any]
    """Dotted parameter names and their values; `own` is the value of the environment."""


class GrowthChartParameters(Block):
    """The steps of the method that the growth chart switches on in turn."""

    seeds: Annotated[list[int], Field(min_length=1)]
    """Seeds of training; every arm is trained once per seed."""
    start_name: str
    """Name of the first arm."""
    start: dict[str, Any]
    """Settings of the first arm: dotted names of `normalization` and `training`, or `sites`, `views` and
    `adabn`."""
    steps: Annotated[list[GrowthStep], Field(min_length=1)]
    """Steps in order, each added to all steps before it."""
    transductive: list[GrowthStep]
    """Changes of the full model that use held-out images (tier T3)."""
    corrections: list[Literal["plate_centred", "experiment_centred", "sphered", "harmony"]]
    """Corrections of the full model's embeddings; they change signal and leak, not the calls."""
    design: list[Literal["group_filter", "sinkhorn", "assignment", "matching"]]
    """Steps of plate balancing applied to the full model (tier T2)."""


class SearchRange(Block):
    """Values of one parameter that a study may try: either `low` and `high`, or `choices`."""

    low: float | int | None = None
    """Lowest value."""
    high: float | int | None = None
    """Highest value; the range is one of integers where both ends are."""
    log: bool = False
    """Whether values are drawn on a log scale."""
    choices: Annotated[list[bool | int | float | str], Field(min_length=1)] | None = None
    """List of values to choose from."""

    @model_validator(mode="after")
    def _range_or_choices(self) -> SearchRange:
        if (self.choices is None) == (self.low is None or self.high is None):
            raise ValueError("tuning: a search range has either low and high, or choices")
        if self.low is not None and self.high is not None and (self.low > self.high or (self.log and self.low <= 0)):
            raise ValueError(
                f"tuning: a search range goes from {self.low} to {self.high}{' on a log scale' if self.log else ''}; expected low <= high"
                f"{' and low above 0' if self.log else ''}"
            )
        return self


class TuningParameters(Block):
    """Studies that search for better parameters by the score of validation experiments."""

    study: str
    """Name of the study; an existing study continues under its name, a new name begins another."""
    seed: int
    """Seed of the search; every trial has its own seed derived from it."""
    trials: PositiveInt
    """Number of trials in total, over all workers."""
    startup_trials: PositiveInt
    """First trials, which are drawn at random; none is stopped early before them."""
    warmup_epochs: Epochs
    """Epochs before a trial that falls behind the median can be stopped early."""
    training: dict[str, SearchRange]
    """Search space of the pipeline `tuning`, by dotted parameter name."""
    plate_balancing: dict[str, SearchRange]
    """Search space of the pipeline `tuning_balancing`, by dotted parameter name."""


class ProjectParameters(Block):
    """All blocks, and the values that are only given on the command line (`--params NAME=VALUE`)."""

    simulation: SimulationParameters
    """See `simulation`."""
    ingestion: IngestionParameters
    """See `ingestion`."""
    normalization: NormalizationParameters
    """See `normalization`."""
    training: TrainingParameters
    """See `training`."""
    inference: InferenceParameters
    """See `inference`."""
    plate_balancing: PlateBalancingParameters
    """See `plate_balancing`."""
    evaluation: EvaluationParameters
    """See `evaluation`."""
    report: ReportParameters
    """See `report`."""
    growth_chart: GrowthChartParameters
    """See `growth_chart`."""
    tuning: TuningParameters
    """See `tuning`."""
    raw_root: str | None = None
    """Folder or URL of the raw tables and images; the default is in `globals.yml` of the environment."""
    data_root: str | None = None
    """Folder or URL to which results are written; the default is in `globals.yml` of the environment."""
    scores: str | None = None
    """File or folder with the scores of an external model, for the environments `score_table` and
    `external_scores`."""
    scores_tier: str | None = None
    """Tier of those scores; `unknown` where it is not given."""
    contents: str | None = None
    """A csv of what is known to be on which plate: the table `plate_contents`."""
    ensemble: str | None = None
    """Further model versions to average with the teacher, separated by spaces, such as `student
    teacher@VERSION`."""
    labels: str | None = None
    """A csv of held-out labels, for the environment `score_table`; only evaluation reads it."""
    profiles: str | None = None
    """File with the embeddings of an external model, for the environment `external_profiles`."""
    study_url: str | None = None
    """Database URL of tuning studies; the default is in `globals.yml` of the environment."""


BLOCKS: dict[str, type[Block]] = {
    name: field.annotation
    for name, field in ProjectParameters.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Block)
}
"""Name -> model of the blocks of this project."""
TOO_CLOSE = 0.76
"""Similarity (difflib) from which the name of a block counts as a misspelling of one of ours.

High enough that ``tracking`` and ``segmentation`` pass, low enough that ``train`` does not.
"""

B = TypeVar("B", bound=Block)


def replace_values(block: B, name: str, changes: Mapping[str, Any], where: str) -> B:
    """A copy of a block with some values replaced.

    Args:
        block: The block to start from; it is not changed.
        name: Name of the block, the first part of the dotted names.
        changes: Dotted name -> value.
        where: Block that requests the changes, for the error message.

    Raises:
        InputError: An unknown name or an invalid value.
    """
    values = {name: block.model_dump()}
    for dotted, value in changes.items():
        holder, last = find_value(values, dotted, where)
        holder[last] = value
    try:
        return type(block).model_validate(values[name])
    except ValidationError as error:
        fault = error.errors()[0]
        raise InputError(
            f"{where} cannot set {dict(changes)}: {'.'.join(map(str, fault['loc']))} {fault['msg']}"
        ) from error


def find_value(values: dict[str, Any], dotted: str, where: str) -> tuple[dict[str, Any], str]:
    """The dict that holds a dotted name, and its key in that dict.

    Raises:
        InputError: There is no such parameter.
    """
    holder: Any = values
    *path, last = dotted.split(".")
    for depth, key in enumerate((*path, last)):
        allowed = list(holder) if isinstance(holder, dict) else []
        if key not in allowed or (depth == 0 and not path):
            raise InputError(
                f"{where} changes {dotted!r}, which is no parameter; allowed at {key!r}: {', '.join(map(str, allowed))}.{closest(key, allowed)}"
            )
        if depth < len(path):
            holder = holder[key]
    return holder, last


def validate_parameters(parameters: Mapping[str, Any]) -> ProjectParameters:
    """Check all parameters at once.

    A top-level block (a mapping) of an unknown name belongs to pipelines that a user has added and is left alone, unless it
    resembles one of ours or is the name of a parameter within one: ``pretrain`` is a forgotten ``training.pretrain``.

    Raises:
        InputError: One line per fault, with the full name, the value received and what is allowed.
    """
    ours = {name: value for name, value in parameters.items() if not _is_foreign_block(name, value)}
    try:
        return ProjectParameters.model_validate(ours)
    except ValidationError as error:
        raise InputError("\n".join(_describe_fault(fault) for fault in error.errors())) from error


def _is_foreign_block(name: str, value: Any) -> bool:
    """Whether a top-level key is a block of pipelines that a user has added."""
    if name in ProjectParameters.model_fields or not isinstance(value, Mapping):
        return False
    return not _resembled(name)


def _resembled(name: str) -> str | None:
    """The full name of the block or nested parameter that a top-level name may stand for."""
    part_of = [block for block in BLOCKS if len(name) > 2 and name in block]
    if block := part_of or get_close_matches(name, BLOCKS, n=1, cutoff=TOO_CLOSE):
        return block[0]
    nested = dict(_nested_names(ProjectParameters))
    parameter = get_close_matches(name, nested, n=1, cutoff=0.9)  # stricter: there are many
    return nested[parameter[0]] if parameter else None


def _nested_names(block: type[Block], path: str = "") -> Iterator[tuple[str, str]]:
    """Last part and dotted name of every parameter below the top level."""
    for name, field in block.model_fields.items():
        dotted = f"{path}{name}"
        if path:
            yield name, dotted
        if inner := block_within(field.annotation):
            yield from _nested_names(inner, f"{dotted}.")


def _describe_fault(fault: Any) -> str:
    """One line about an error of pydantic."""
    location, received = fault["loc"], fault["input"]
    name = ".".join(map(str, location))
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    if fault["type"] == "string_type" and isinstance(received, int | float | date):
        return (
            f"parameter {name!r}: expected text, received {received!r}; put quotes around names, which YAML may read as a "
            "number, a date or a truth value"
        )
    if fault["type"] != "extra_forbidden":
        return f"parameter {name!r}: {fault['msg']}; received {received!r}"
    if len(location) > 1:
        allowed = list(_block_at(location[:-1]).model_fields)
        return f"unknown parameter {name!r}; allowed here: {', '.join(allowed)}.{answer(name) or closest(location[-1], allowed)}"
    if isinstance(received, Mapping):
        return (
            f"unknown parameter {name!r}. Did you mean {_resembled(name)!r}? A block of parameters for pipelines of your own needs a name "
            f"that is less like those of this project: {', '.join(BLOCKS)} and the names within them"
        )
    allowed = list(ProjectParameters.model_fields)
    return (
        f"unknown parameter {name!r}, received {received!r}; allowed here: {', '.join(allowed)}, or a block (a mapping) for pipelines "
        f"of your own.{closest(name, allowed)}"
    )


def _block_at(location: tuple[int | str, ...]) -> type[Block]:
    """The model of the block at a location, also within lists and dicts of blocks."""
    block: type[Block] = ProjectParameters
    for key in location:
        if key in block.model_fields:  # else an index of a list or a key of a dict
            block = block_within(block.model_fields[str(key)].annotation) or block
    return block


def block_within(annotation: Any) -> type[Block] | None:
    """The model in a type such as ``Block``, ``list[Block]`` or ``dict[str, Block]``; None where there is
    none."""
    if isinstance(annotation, type) and issubclass(annotation, Block):
        return annotation
    return next((block for inner in get_args(annotation) if (block := block_within(inner))), None)
