"""Every parameter of every pipeline, with its type and range; checked before a run starts.

One model a block of ``conf/*/parameters_<pipeline>.yml``. Unknown keys and wrong types name themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveInt,
    ValidationError,
    create_model,
    model_validator,
)

from deepnoise.errors import InputError, closest
from deepnoise.ingestion.finding_types import FINDINGS

Share = Field(ge=0, lt=1)


class Block(BaseModel):
    """A block of parameters: unknown keys are refused and values are not converted between kinds."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class NoiseParameters(Block):
    """Dials of `simulation.noise.NoiseLevels`; None keeps the profile's value."""

    experiment_gain: NonNegativeFloat | None = None
    plate_gain: NonNegativeFloat | None = None
    experiment_offset: NonNegativeFloat | None = None
    plate_offset: NonNegativeFloat | None = None
    blur: NonNegativeFloat | None = None
    illumination: NonNegativeFloat | None = None
    bleed_through: NonNegativeFloat | None = None
    position_gain: NonNegativeFloat | None = None
    edge: NonNegativeFloat | None = None
    density: NonNegativeFloat | None = None
    sensor: NonNegativeFloat | None = None
    penetrance: NonNegativeFloat | None = None
    experiment_trait_shift: NonNegativeFloat | None = None
    plate_trait_shift: NonNegativeFloat | None = None
    well_trait_shift: NonNegativeFloat | None = None
    density_interaction: NonNegativeFloat | None = None


class SimulationParameters(Block):
    """The simulated screen."""

    seed: int
    treatments: PositiveInt
    positive_controls: PositiveInt
    negative_wells: PositiveInt
    cell_types: PositiveInt
    labelled_experiments: PositiveInt
    heldout_experiments: int = Field(ge=0)
    plates: PositiveInt
    sites: PositiveInt
    image_size: int = Field(ge=16)
    missing_wells: float = Share
    duplicate_layout: bool
    effect_strength: NonNegativeFloat
    traits_changed: PositiveInt
    profile: Literal["default", "adversarial"]
    noise: NoiseParameters


class FoldParameters(Block):
    """How the screen is split."""

    n_folds: PositiveInt
    run: list[int] | Literal["all"]
    validation: bool | list[str]
    split: Literal["separated", "stratified"]


FindingPolicies: Any = create_model(
    "FindingPolicies",
    __base__=Block,
    __doc__="What is done about each kind of finding.",
    **{finding: (Literal[policies], ...) for finding, (_, policies) in FINDINGS.items() if finding != "excluded"},  # type: ignore[call-overload]
)


class IngestionParameters(Block):
    """Checks of the tables and packing of the images."""

    findings: FindingPolicies  # type: ignore[valid-type]
    checksum: bool
    target_well_types: list[Literal["treatment", "positive_control", "negative_control"]]
    folds: FoldParameters


class NormalizationParameters(Block):
    """Which statistics normalize an image."""

    strategy: Literal["none", "global", "cell_type", "experiment", "plate", "site", "percentile", "robust"]
    reference: Literal["all", "controls", "negative_controls"]
    scale_floor: float = Field(gt=0)
    illumination: Literal["none", "flat_field"]
    position_correction: Literal["none", "median_polish"]


class HeadParameters(Block):
    """The classification head."""

    name: Literal["arcface", "softmax"]
    scale: float = Field(gt=0)
    margin: float = Field(ge=0, lt=3.2)


class AugmentationParameters(Block):
    """Views of an image, drawn on the device."""

    dihedral: bool
    shift_scale: float = Share
    erase: float = Field(ge=0, le=1)
    statistics_jitter: float = Share
    mixup: NonNegativeFloat
    cutmix: NonNegativeFloat


class RatePhase(Block):
    """A part of a stage in which the learning rate goes from one share of its peak to another, along half a cosine."""

    share: float = Field(gt=0)
    start: float = Field(ge=0, le=1)
    end: float = Field(ge=0, le=1)


class StageParameters(Block):
    """One stage of training."""

    epochs: int = Field(ge=0)
    optimizer: str
    learning_rate: float = Field(gt=0)
    weight_decay: NonNegativeFloat
    schedule: Annotated[list[RatePhase], Field(min_length=1)]
    ema_decay: Annotated[float, Field(ge=0, le=1)] | dict[int, Annotated[float, Field(ge=0, le=1)]]
    ema_buffers: Literal["averaged", "reestimated"]
    keep: Literal["last", "best"]

    @model_validator(mode="after")
    def _decay_has_a_beginning(self) -> StageParameters:
        if isinstance(self.ema_decay, dict) and min(self.ema_decay, default=1) != 0:
            raise ValueError(
                f"ema_decay is {self.ema_decay}: a schedule maps first epochs to decays and begins with epoch 0"
            )
        return self


class PseudoLabelParameters(Block):
    """What the teacher says of unlabelled wells, and how far it is believed."""

    method: Literal["none", "plain", "balanced", "soft"]
    groups: bool
    weight: float = Field(ge=0, le=1)
    start: int = Field(ge=0)
    ramp_epochs: NonNegativeFloat
    refresh: PositiveInt | Literal["improved"]
    views: PositiveInt
    memory: float = Share


class MeanTeacherParameters(StageParameters):
    """The second stage."""

    consistency: Literal["mse", "kl"]
    consistency_weight: NonNegativeFloat
    ramp_epochs: NonNegativeFloat
    views: Literal["shared", "two"]
    strong_view: Literal["teacher", "student"]
    unlabelled_ratio: float = Field(ge=0)
    pseudo_labels: PseudoLabelParameters


class TrainingParameters(Block):
    """The network and how it learns."""

    seed: int
    backbone: str
    pretrained_weights: str
    cell_type: Literal["none", "one_hot", "specialist"]
    head: HeadParameters
    batch_size: int = Field(ge=2)
    batches: Literal["mixed", "experiment", "plate"]
    sites: Literal["all"] | list[int]
    sites_per_epoch: Literal["all", "one"]
    label_smoothing: float = Share
    gradient_clip: NonNegativeFloat
    augmentation: AugmentationParameters
    pretrain: StageParameters
    mean_teacher: MeanTeacherParameters
    unlabelled_source: Literal["none", "training", "heldout"]
    precision: Literal["auto", "float32", "bfloat16"]
    channels_last: bool
    cache_gigabytes: NonNegativeFloat
    device: Literal["auto", "cpu", "cuda", "mps"]
    tensorboard: bool

    def recipe(self) -> dict[str, Any]:
        """All that the trained weights depend on: everything but where and how it is computed."""
        return self.model_dump(mode="json", exclude={"device", "cache_gigabytes", "tensorboard"})

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
                "training.unlabelled_source is 'heldout', but training.mean_teacher.unlabelled_ratio is 0: no image of "
                "theirs would be read; set it above 0"
            )
        mixing = self.augmentation.mixup > 0 or self.augmentation.cutmix > 0
        if mixing and self.mean_teacher.epochs and self.mean_teacher.views == "shared":
            raise ValueError(
                "training.augmentation mixes images, but with training.mean_teacher.views 'shared' the mixed view would be compared with "
                "the teacher's view of one image; set views to two, or mixup and cutmix to 0"
            )
        return self


class InferenceParameters(Block):
    """From a model to scores."""

    only: str
    views: Literal["none", "flips", "dihedral", "multicrop"]
    pooling: Literal["logits", "probabilities"]
    ensemble_weights: Literal["equal", "validation"]
    adabn: Literal["auto", "none", "experiment", "plate"]
    seen_experiments: int = Field(ge=0)
    batch_size: PositiveInt | Literal["auto"]
    device: Literal["auto", "cpu", "cuda", "mps"]


BalancingMethod = Literal["none", "matching", "sinkhorn", "assignment", "greedy"]


class PlateBalancingParameters(Block):
    """What knowledge of the plate design adds."""

    pooling: Literal["logits", "probabilities"]
    temperature: Annotated[float, Field(gt=0)] | Literal["auto"]
    unlisted: NonNegativeFloat
    group_inference: Literal["infer", "none"]
    group_statistic: Literal["auto", "raw", "centred", "rank"]
    group_posterior: float = Field(gt=0, le=1)
    method: BalancingMethod | Literal["auto"]
    compare: list[BalancingMethod]
    precision: float = Field(gt=0, le=1)


class EvaluationParameters(Block):
    """What is scored."""

    screen: str
    unit: Literal["well", "site"]
    pairs: list[Annotated[list[str], Field(min_length=2, max_length=2)]]
    permutations: PositiveInt
    smallest_leak: float = Field(gt=0)


class ReportParameters(Block):
    """The report."""

    screen: str


class GrowthStep(Block):
    """A step of the growth chart."""

    step: str
    set: dict[str, Any]


class GrowthChartParameters(Block):
    """Which steps of the method are switched on in turn."""

    seeds: Annotated[list[int], Field(min_length=1)]
    start_name: str
    start: dict[str, Any]
    steps: Annotated[list[GrowthStep], Field(min_length=1)]
    transductive: list[GrowthStep]
    design: list[Literal["group_filter", "sinkhorn", "assignment", "matching"]]


class SearchRange(Block):
    """Values of one parameter that a study may try: a range, or choices."""

    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    choices: Annotated[list[bool | int | float | str], Field(min_length=1)] | None = None

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
    """Studies that search for better parameters by the validation score."""

    study: str
    seed: int
    trials: PositiveInt
    startup_trials: PositiveInt
    warmup_epochs: int = Field(ge=0)
    training: dict[str, SearchRange]
    plate_balancing: dict[str, SearchRange]


class ProjectParameters(Block):
    """All blocks together, and what may be given on the command line."""

    simulation: SimulationParameters
    ingestion: IngestionParameters
    normalization: NormalizationParameters
    training: TrainingParameters
    inference: InferenceParameters
    plate_balancing: PlateBalancingParameters
    evaluation: EvaluationParameters
    report: ReportParameters
    growth_chart: GrowthChartParameters
    tuning: TuningParameters
    raw_root: str | None = None
    data_root: str | None = None
    scores: str | None = None
    scores_tier: str | None = None
    contents: str | None = None
    ensemble: str | None = None
    labels: str | None = None
    profiles: str | None = None
    study_url: str | None = None


B = TypeVar("B", bound=Block)


def replace_values(block: B, name: str, changes: Mapping[str, Any], where: str) -> B:
    """A block with some values changed.

    Args:
        block: To start from; it stays as it is.
        name: Its name, with which the dotted names begin.
        changes: Dotted name -> value.
        where: Who asks, for the error.

    Raises:
        InputError: An unknown name or a wrong value.
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
    """The dict that holds a dotted name, and the key in it.

    Raises:
        InputError: There is no such parameter.
    """
    holder: Any = values
    *path, last = dotted.split(".")
    for depth, part in enumerate((*path, last)):
        known = list(holder) if isinstance(holder, dict) else []
        if part not in known or (depth == 0 and not path):
            raise InputError(
                f"{where} changes {dotted!r}, which is no parameter; allowed at {part!r}: {', '.join(map(str, known))}.{closest(part, known)}"
            )
        if depth < len(path):
            holder = holder[part]
    return holder, last


def validate_parameters(parameters: dict[str, Any]) -> ProjectParameters:
    """Check all parameters at once.

    Raises:
        InputError: One line a fault: the full name, what was received, what is allowed.
    """
    try:
        return ProjectParameters.model_validate(parameters)
    except ValidationError as error:
        lines = []
        for fault in error.errors():
            name = ".".join(str(part) for part in fault["loc"])
            if fault["type"] == "extra_forbidden":
                block: Any = ProjectParameters
                for part in fault["loc"][:-1]:
                    block = block.model_fields[part].annotation
                known = list(block.model_fields)
                lines.append(
                    f"unknown parameter {name!r}; allowed here: {', '.join(known)}.{closest(str(fault['loc'][-1]), known)}"
                )
            elif fault["type"] == "value_error":
                lines.append(str(fault["ctx"]["error"]))
            else:
                lines.append(f"parameter {name!r}: {fault['msg']}; received {fault['input']!r}")
        raise InputError("\n".join(lines)) from error
