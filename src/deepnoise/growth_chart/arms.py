"""The arms of a growth chart, and the settings with which each is trained and read."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from deepnoise.errors import InputError
from deepnoise.parameters import (
    GrowthChartParameters,
    NormalizationParameters,
    TrainingParameters,
    find_value,
    replace_values,
)

FROM_ENVIRONMENT = "own"
"""Value of a setting that takes the value from the environment's parameters."""
FIXED = {
    "normalization.illumination": "images are corrected as normalization was run",
    "normalization.position_correction": "it applies to hand features, which no arm uses",
    "training.seed": "give growth_chart.seeds",
}
"""Parameters that no step can change, and why."""
READING_VALUES = {
    "sites": ("one", "all"),
    "views": ("none", "dihedral"),
    "adabn": ("auto", "none", "experiment", "plate"),
}
"""Allowed values of the settings that say how the images of an arm are read."""
BACKWARD = 2
"""Cost of a backward pass in forward passes."""


@dataclass(frozen=True)
class Settings:
    """How the network of an arm is trained, and how its images are read."""

    normalization: NormalizationParameters
    training: TrainingParameters
    sites: str = "all"  # one | all sites of a well
    views: str = "dihedral"  # key of deepnoise.inference.views.VIEWS
    adabn: str = "auto"  # auto | none | experiment | plate


@dataclass(frozen=True)
class Arm:
    """One row of the chart."""

    name: str
    kind: str  # step | control | transductive | correction | design | leave_one_out
    settings: Settings
    reference: str  # arm that its gain is measured against; "" for the first
    control: str = ""  # arm of equal compute
    balancing: str = ""  # step of plate balancing whose call is scored
    correction: str = "none"  # correction of the embeddings, which leaves the calls as they are

    @property
    def compute(self) -> float:
        """See :func:`forward_passes`."""
        return forward_passes(self.settings.training)


def forward_passes(training: TrainingParameters) -> float:
    """Cost of a training in forward passes per labelled site; a backward pass counts as two."""
    student_cost, stage = 1 + BACKWARD, training.mean_teacher
    images = 1 + (stage.unlabelled_ratio if training.unlabelled_source != "none" else 0)  # labelled and unlabelled
    student_images = images if stage.views == "shared" else 1 + images
    stage_cost = student_cost * student_images + images  # the teacher runs forward only
    return training.pretrain.epochs * student_cost + stage.epochs * stage_cost


def change(settings: Settings, environment: Settings, changes: dict[str, Any]) -> Settings:
    """A copy of the settings with some values changed.

    Args:
        settings: Settings to start from.
        environment: Settings of the environment; the value ``own`` selects its value.
        changes: New values by name: a dotted name such as ``normalization.strategy`` or
            ``training.head.name``, or ``sites``, ``views`` or ``adabn``.

    Raises:
        InputError: An unknown name, an invalid value, or a parameter that is the same for all arms.
    """
    environment_values = {
        "normalization": environment.normalization.model_dump(),
        "training": environment.training.model_dump(),
    }
    reading = {"sites": settings.sites, "views": settings.views, "adabn": settings.adabn}
    location = "growth_chart"
    new_values: dict[str, dict[str, Any]] = {"normalization": {}, "training": {}}
    for name, value in changes.items():
        if name in FIXED:
            raise InputError(f"growth_chart changes {name!r}, which is the same for all arms: {FIXED[name]}")
        if name in reading:
            reading[name] = getattr(environment, name) if value == FROM_ENVIRONMENT else value
            if reading[name] not in READING_VALUES[name]:
                raise InputError(f"growth_chart: {name} is {value!r}; allowed: {', '.join(READING_VALUES[name])}")
            continue
        block, key = find_value(environment_values, name, location)
        new_values[name.split(".")[0]][name] = block[key] if value == FROM_ENVIRONMENT else value
    normalization = replace_values(settings.normalization, "normalization", new_values["normalization"], location)
    training = replace_values(settings.training, "training", new_values["training"], location)
    return Settings(normalization, training, reading["sites"], reading["views"], reading["adabn"])


def plan_arms(parameters: GrowthChartParameters, environment: Settings) -> list[Arm]:
    """All arms in the order of the chart.

    The steps are switched on in turn. A step that only trains longer gets a control: the arm before it,
    trained for as long. Each step that no later step overrides is also left out of the full model.
    Transductive arms, corrections of the embeddings and the steps of plate balancing start from the full model.

    Args:
        parameters: The block ``growth_chart``.
        environment: Settings of the environment.

    Raises:
        InputError: Two arms with one name, a repeated seed, or a step that :func:`change` refuses.
    """
    arms = _step_arms(parameters, environment)
    full = arms[-1]
    arms += _leave_one_out_arms(parameters, environment, full)
    for step in parameters.transductive:
        settings = change(full.settings, environment, step.set)
        arms.append(Arm(step.step, "transductive", settings, full.name))
    for correction in parameters.corrections:
        arms.append(Arm(correction.replace("_", " "), "correction", full.settings, full.name, correction=correction))
    for balancing in parameters.design:
        arms.append(Arm(balancing.replace("_", " "), "design", full.settings, full.name, balancing=balancing))
    names = [slug(arm.name) for arm in arms]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise InputError(f"growth_chart has two arms called {min(repeated)!r}; give each step a unique name")
    if len(set(parameters.seeds)) < len(parameters.seeds):
        raise InputError(f"growth_chart.seeds repeats a seed: {parameters.seeds}; list each seed once")
    return arms


def _step_arms(parameters: GrowthChartParameters, environment: Settings) -> list[Arm]:
    """The first arm, then one per step, each after its control of equal compute if it has one."""
    arms = [Arm(parameters.start_name, "step", change(environment, environment, parameters.start), "")]
    for step in parameters.steps:
        before = arms[-1]
        settings = change(before.settings, environment, step.set)
        control = longer(before, settings)
        arm = Arm(step.step, "step", settings, before.name, control.name if control else "")
        arms += [control, arm] if control else [arm]
    return arms


def _leave_one_out_arms(parameters: GrowthChartParameters, environment: Settings, full: Arm) -> list[Arm]:
    """The full model without one step, for each step that no later step overrides, at the full model's compute."""
    before: dict[str, Any] = dict(parameters.start)
    undo_of_step: dict[str, dict[str, Any]] = {}  # step -> changes that undo it
    for step in parameters.steps:
        # leaving out "experiment normalization" has no effect once plates are normalized
        undo_of_step = {name: undo for name, undo in undo_of_step.items() if not undo.keys() & step.set.keys()}
        undo_of_step[step.step] = {name: before.get(name, FROM_ENVIRONMENT) for name in step.set}
        before |= step.set
    arms = []
    for step_name, undo in undo_of_step.items():
        settings = change(full.settings, environment, undo)
        control = longer(Arm("", "control", settings, ""), full.settings)
        settings = control.settings if control else settings
        arms.append(Arm(f"full without {step_name}", "leave_one_out", settings, full.name))
    return arms


def slug(name: str) -> str:
    """An arm's name as it appears in file names."""
    return re.sub(r"[^0-9A-Za-z]+", "_", name).strip("_")


def longer(before: Arm, after: Settings) -> Arm | None:
    """The arm before a step, trained for as long as the step; None if the step costs no more."""
    training = before.settings.training
    target_cost = forward_passes(after.training)
    if target_cost <= 1.05 * forward_passes(training):
        return None
    epochs = round(training.pretrain.epochs + (target_cost - forward_passes(training)) / (1 + BACKWARD))
    stage = training.pretrain.model_copy(update={"epochs": epochs})
    settings = replace(before.settings, training=training.model_copy(update={"pretrain": stage}))
    return Arm(f"{before.name}, trained as long", "control", settings, before.name)
