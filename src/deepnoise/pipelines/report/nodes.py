"""Nodes of ``report``: adapters of ``deepnoise.report``. A chapter that was never written is None (``deepnoise.hooks``)."""

from __future__ import annotations

import logging
from typing import Any

from deepnoise.parameters import ReportParameters

logger = logging.getLogger(__name__)

Chapter = dict[str, Any]
CHAPTERS = [
    "evaluation_chapter",
    "growth_chart_chapter",
    "plate_balancing_chapter",
    "training_chapter",
    "normalization_chapter",
    "ingestion_chapter",
]
"""Entries, in the order of the page. None of them is required; the page lists those that are missing."""


def give_verdict(*chapters: Chapter | None) -> list[dict[str, Any]]:
    """Answers to five questions, from the chapters in the order of ``CHAPTERS``."""
    from deepnoise.report import page

    verdict = page.give_verdict(_by_pipeline(chapters))
    for item in verdict:
        logger.info("%s %s", item["question"], item["answer"])
    return verdict


def describe_run(parameters: dict[str, Any], run_record: dict[str, Any]) -> Chapter:
    """Versions, times and parameters."""
    from deepnoise.report import provenance

    return provenance.write_chapter(parameters, run_record).as_json()


def write_report(
    parameters: ReportParameters, verdict: list[dict[str, Any]], run_chapter: Chapter, *chapters: Chapter | None
) -> str:
    """The page, from the chapters in the order of ``CHAPTERS``."""
    from datetime import UTC, datetime

    import deepnoise
    from deepnoise.report import page

    written = _by_pipeline(chapters)
    missing = [name for name in map(_pipeline_of, CHAPTERS) if name not in written]
    lead = f"DeepNoise {deepnoise.__version__}, written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    title = f"What the screen “{parameters.screen}” shows"
    return page.render_page(title, lead, verdict, {**written, "report": run_chapter}, missing)


def _by_pipeline(chapters: tuple[Chapter | None, ...]) -> dict[str, Chapter]:
    """Pipeline -> chapter, of the chapters that were written."""
    named = zip(map(_pipeline_of, CHAPTERS), chapters, strict=True)
    return {name: chapter for name, chapter in named if chapter is not None}


def _pipeline_of(entry: str) -> str:
    return entry.removesuffix("_chapter")
