"""The page: the verdict above, then every chapter, in one HTML file that needs no network.

The template lies beside this module (``page.html``). Everything that a screen names (perturbations, plates, files) is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from deepnoise.report.chapter import sentence

QUESTIONS = {
    "signal": ("Are perturbations recognized?", "Nothing is scored yet", "evaluation"),
    "design": (
        "What does the plate design add?",
        "Nothing is known yet of what the plate design adds",
        "plate_balancing,evaluation",
    ),
    "leak": ("What is left of technical noise?", "No leak is probed yet", "normalization,evaluation"),
    "audit": ("Does the design give answers away?", "The design is not audited yet", "ingestion"),
}
"""Key -> question, what is said while nobody has answered it, and the pipelines that would."""
LAST = "What to distrust first?"

Json = dict[str, Any]


def give_verdict(chapters: Sequence[Json]) -> list[Json]:
    """Five sentences with numbers: how well perturbations are named, what the plate design adds, what is left of technical noise,
    whether the design gives answers away, and what to distrust first.

    Args:
        chapters: In the order of the page, in which their doubts are told. Of several answers to one question each adds a clause, in the
            order of the work: ingestion first, evaluation last.

    Returns:
        For each question ``question``, ``answer`` (one sentence) and ``warning`` (whether it asks for caution).
    """
    verdict = []
    for key, (question, nothing, pipelines) in QUESTIONS.items():
        found = [chapter["answers"][key] for chapter in reversed(chapters) if key in chapter["answers"]]
        text = (
            sentence([part["text"] for part in found])
            if found
            else f"{nothing}: kedro run --pipelines {pipelines},report."
        )
        verdict.append({"question": question, "answer": text, "warning": not found or any(p["warning"] for p in found)})
    doubts = [doubt for chapter in chapters for doubt in chapter["doubts"]]
    last = sentence(doubts) if doubts else "Nothing stands out, which is not to say that nothing is wrong."
    return [*verdict, {"question": LAST, "answer": last, "warning": bool(doubts)}]


def render_page(
    title: str, lead: str, verdict: Sequence[Json], chapters: Sequence[Json], missing: Sequence[str] = ()
) -> str:
    """The HTML of the report.

    Args:
        title: Of the page.
        lead: One line below it.
        verdict: Result of :func:`give_verdict`.
        chapters: In the order of the page.
        missing: Pipelines whose chapter was not written yet.
    """
    environment = Environment(
        loader=PackageLoader("deepnoise.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["script_json"] = _script_json
    sections = [section for chapter in chapters for section in chapter["sections"]]
    return environment.get_template("page.html").render(
        title=title, lead=lead, verdict=verdict, sections=sections, missing=missing, plotly=Markup(get_plotlyjs())
    )


def _script_json(value: Json) -> Markup:
    """JSON for a script element: no "<" can end it."""
    return Markup(json.dumps(value).replace("<", "\\u003c").replace(">", "\\u003e"))
