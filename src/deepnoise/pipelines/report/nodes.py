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
"""Entries, in the order of the page. The page lists those that were never written."""


def give_verdict(*chapters: Chapter | None) -> list[dict[str, Any]]:
    """Five answers with numbers, from the chapters in the order of ``CHAPTERS``."""
    from deepnoise.report import page

    verdict = page.give_verdict([chapter for chapter in chapters if chapter])
    for answer in verdict:
        logger.info("%s %s", answer["question"], answer["answer"])
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

    missing = [name.removesuffix("_chapter") for name, c in zip(CHAPTERS, chapters, strict=True) if c is None]
    lead = f"DeepNoise {deepnoise.__version__}, written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    title = f"What the screen “{parameters.screen}” shows"
    return page.render_page(title, lead, verdict, [*(c for c in chapters if c), run_chapter], missing)
