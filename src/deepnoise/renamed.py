"""Names of earlier versions that a user may still give, and what replaces them. CHANGELOG.md lists the same names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from deepnoise.errors import InputError

DATASET_TYPES = {
    "deepnoise.datasets.picture.PictureDataset": "deepnoise.datasets.image_file.ImageFileDataset",
    "deepnoise.datasets.profiles.ProfilesDataset": "deepnoise.datasets.external_profiles.ExternalProfilesDataset",
    "deepnoise.datasets.profiles.ProfilesWellsDataset": "deepnoise.datasets.external_profiles.ExternalProfileWellsDataset",
    "deepnoise.datasets.scores.ExternalScoresDataset": "deepnoise.datasets.external_scores.ExternalScoresDataset",
    "deepnoise.datasets.scores.ScoredWellsDataset": "deepnoise.datasets.external_scores.ScoredWellsDataset",
    "deepnoise.datasets.whole.FigureDataset": "deepnoise.datasets.atomic.FigureDataset",
    "deepnoise.datasets.whole.WholeJSONDataset": "deepnoise.datasets.atomic.AtomicJSONDataset",
    "deepnoise.datasets.whole.WholeTextDataset": "deepnoise.datasets.atomic.AtomicTextDataset",
}
"""``type:`` of a catalog entry -> today's."""

ENTRIES = {"further_models": "ensemble_models"}
"""Catalog entry -> today's."""

COLUMNS = {
    "t1_call": "plain_call",
    "t1_confidence": "plain_confidence",
    "t1_sure": "plain_confident",
    "t2_call": "design_call",
    "t2_confidence": "design_confidence",
    "t2_sure": "design_confident",
    "student_t1": "student_top1",
    "teacher_t1": "teacher_top1",
    "chosen_t1": "chosen_top1",
}
"""Column of a table -> today's."""

PARAMETERS: dict[str, str] = {}
"""Dotted parameter -> today's; no parameter has been renamed yet."""

NODES = {
    "normalization.normalise_features": "normalization.normalize_features",
    "growth_chart.summarise_arms": "growth_chart.summarize_arms",
}
"""Node -> today's."""

REMOVED = {
    "evaluation.format_scores": "the node evaluation.write_chapter writes score_table, so that the pipeline stays at nine nodes",
    "evaluation.draw_embeddings": "the node evaluation.draw_figures draws embedding_map, so that the pipeline stays at nine nodes",
    **dict.fromkeys(
        [
            "training.label_smoothing",
            "training.augmentation.mixup",
            "training.augmentation.cutmix",
            "training.pretrain.ema_buffers",
            "training.mean_teacher.ema_buffers",
            "training.mean_teacher.consistency",
            "training.mean_teacher.strong_view",
        ],
        "no other value than its default helped at equal compute (docs/experiments.md)",
    ),
}
"""Node or dotted parameter -> why it was removed, and what does its work."""

WRITTEN_BY = {"calls": "plate_balancing", "training_history": "training"}
"""Table with renamed columns -> the pipeline that writes it."""


def answer(name: str) -> str:
    """`` It is now called 'x'.`` or `` It was removed, because ...``; nothing for a name that was never there."""
    for table in (DATASET_TYPES, ENTRIES, COLUMNS, PARAMETERS, NODES):
        if name in table:
            return f" It is now called {table[name]!r}."
    if name in REMOVED:
        return f" It was removed, because {REMOVED[name]}."
    return ""


def check_catalog(catalog: Mapping[str, Any]) -> None:
    """Refuse earlier names in a catalog, before Kedro fails on them.

    Args:
        catalog: Entry -> configuration; names that begin with "_" are YAML anchors.

    Raises:
        InputError: One line per earlier name, with today's.
    """
    entries = {name: entry for name, entry in catalog.items() if not name.startswith("_")}
    faults = [f"catalog: there is no entry {name!r}.{answer(name)}" for name in entries if name in ENTRIES]
    for name, entry in entries.items():
        dataset_type = entry.get("type") if isinstance(entry, Mapping) else None
        if dataset_type in DATASET_TYPES:
            faults.append(f"catalog: entry {name} has the type {dataset_type!r}.{answer(dataset_type)}")
        if dataset_type == "deepnoise.datasets.table.EmptyTableDataset" and "schema" in entry:
            faults.append(f"catalog: entry {name} has the key 'schema'. It is now called 'table'.")
    if faults:
        raise InputError("\n".join(faults))


def answers(names: Iterable[str]) -> str:
    """The answers to all earlier names among some, joined."""
    return "".join(f" {name!r}:{answer(name)}" for name in names if answer(name))
