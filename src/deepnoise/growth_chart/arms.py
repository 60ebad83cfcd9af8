"""Which arms a growth chart has, and with which parameters each is trained and read."""

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

OWN = "own"
"""Value of a setting that stands for what the environment's own parameters say."""
FIXED = {
    "normalization.illumination": "images are corrected as normalization was run",
    "normalization.position_correction": "it is for hand features, which no arm reads",
    "training.seed": "give growth_chart.seeds",
}
"""Parameters that no step can change, and why."""
BACKWARD = 2
"""A backward pass costs about as much as two forward passes."""


@dataclass(frozen=True)
class Settings:
    """What makes the network of an arm, and how its images are read."""

    normalization: NormalizationParameters
    training: TrainingParameters
    sites: str = "all"  # one | all sites of a well
    views: str = "dihedral"  # key of deepnoise.inference.views.VIEWS
    adabn: str = "auto"  # auto | none | experiment | plate


@dataclass(frozen=True)
class Arm:
    """One row of the chart."""

    name: str
    kind: str  # step | control | transductive | design | leave_one_out
    settings: Settings
    reference: str  # arm that its gain is over; "" for the first
    control: str = ""  # arm of equal compute
    balancing: str = ""  # step of plate balancing whose call is scored

    @property
    def compute(self) -> float:
        """See :func:`forward_passes`."""
        return forward_passes(self.settings.training)


def forward_passes(training: TrainingParameters) -> float:
    """Cost of a training in forward passes for each labelled site; a backward pass counts as two forward ones."""
    student, stage = 1 + BACKWARD, training.mean_teacher
    both = 1 + (stage.unlabelled_ratio if training.unlabelled_source != "none" else 0)
    taught = student * (both if stage.views == "shared" else 1 + both) + both
    return training.pretrain.epochs * student + stage.epochs * taught


def change(settings: Settings, own: Settings, changes: dict[str, Any]) -> Settings:
    """Settings with some changed.

    Args:
        settings: To start from.
        own: Of the environment; what the value ``own`` stands for.
        changes: Dotted names, ``normalization.strategy`` or ``training.head.name``, or ``sites``, ``views`` and ``adabn``.

    Raises:
        InputError: An unknown name, a wrong value, or one that no arm can have of its own.
    """
    owned = {"normalization": own.normalization.model_dump(), "training": own.training.model_dump()}
    reading = {"sites": settings.sites, "views": settings.views, "adabn": settings.adabn}
    where = "growth_chart"
    wanted: dict[str, dict[str, Any]] = {"normalization": {}, "training": {}}
    for name, value in changes.items():
        if name in FIXED:
            raise InputError(f"growth_chart changes {name!r}, which is one for all arms: {FIXED[name]}")
        if name in reading:
            allowed = {
                "sites": ("one", "all"),
                "views": ("none", "dihedral"),
                "adabn": ("auto", "none", "experiment", "plate"),
            }[name]
            reading[name] = getattr(own, name) if value == OWN else value
            if reading[name] not in allowed:
                raise InputError(f"growth_chart: {name} is {value!r}; allowed: {', '.join(allowed)}")
            continue
        holder, last = find_value(owned, name, where)
        wanted[name.split(".")[0]][name] = holder[last] if value == OWN else value
    normalization = replace_values(settings.normalization, "normalization", wanted["normalization"], where)
    training = replace_values(settings.training, "training", wanted["training"], where)
    return Settings(normalization, training, reading["sites"], reading["views"], reading["adabn"])


def plan_arms(parameters: GrowthChartParameters, own: Settings) -> list[Arm]:
    """All arms in the order of the chart.

    The steps are switched on in turn. A step that only trains longer gets a control: the arm before it, trained as long. Each
    step that is not overwritten by a later one is also left out of the full model; transductive arms and the steps of plate balancing
    start from the full model.

    Args:
        parameters: The block ``growth_chart``.
        own: Settings of the environment.
    """
    settings = change(own, own, parameters.start)
    arms = [Arm(parameters.start_name, "step", settings, "")]
    before: dict[str, Any] = dict(parameters.start)
    undone: dict[str, tuple[str, dict[str, Any]]] = {}  # last step of each setting -> how to undo it
    for step in parameters.steps:
        last = arms[-1] if arms[-1].kind == "step" else arms[-2]
        settings = change(last.settings, own, step.set)
        control = longer(last, settings)
        arm = Arm(step.step, "step", settings, last.name, control.name if control else "")
        arms += [control, arm] if control else [arm]
        for name in step.set:
            undone = {key: value for key, value in undone.items() if name not in value[1]}
        undone[step.step] = (step.step, {name: before.get(name, OWN) for name in step.set})
        before |= step.set
    full = arms[-1]
    # one read only the first seen before: leaving out "experiment normalization" is not asked once plates are normalized
    for name, undo in undone.values():
        settings = change(full.settings, own, undo)
        control = longer(Arm("", "control", settings, ""), full.settings)
        settings = control.settings if control else settings
        arms.append(Arm(f"full without {name}", "leave_one_out", settings, full.name))
    for step in parameters.transductive:
        arms.append(Arm(step.step, "transductive", change(full.settings, own, step.set), full.name))
    for balancing in parameters.design:
        arms.append(Arm(balancing.replace("_", " "), "design", full.settings, full.name, balancing=balancing))
    names = [slug(arm.name) for arm in arms]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise InputError(f"growth_chart has two arms called {min(twice)!r}; give each step a name of its own")
    if len(set(parameters.seeds)) < len(parameters.seeds):
        raise InputError(f"growth_chart.seeds repeats a seed: {parameters.seeds}")
    return arms


def slug(name: str) -> str:
    """An arm's name as it stands in a file name."""
    return re.sub(r"[^0-9A-Za-z]+", "_", name).strip("_")


def longer(before: Arm, after: Settings) -> Arm | None:
    """The arm before a step, trained as long as the step does; None where the step costs nothing more."""
    training = before.settings.training
    wanted = forward_passes(after.training)
    if wanted <= 1.05 * forward_passes(training):
        return None
    epochs = round(training.pretrain.epochs + (wanted - forward_passes(training)) / (1 + BACKWARD))
    stage = training.pretrain.model_copy(update={"epochs": epochs})
    settings = replace(before.settings, training=training.model_copy(update={"pretrain": stage}))
    return Arm(f"{before.name}, trained as long", "control", settings, before.name)
