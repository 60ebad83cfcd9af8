"""The page: the verdict, then every chapter, in one HTML file that needs no network.

The template is ``page.html``, next to this module. It escapes all text that comes from a screen, such as the
names of perturbations, plates and files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from deepnoise.errors import InputError
from deepnoise.report.chapter import Answer, Chapter, Exhibit, Section

QUESTIONS = {
    "signal": ("Are perturbations identified?", "Nothing is scored yet", "evaluation"),
    "design": (
        "What does knowing the plate layout add?",
        "What the plate layout adds has not been measured yet",
        "plate_balancing,evaluation",
    ),
    "leak": ("Is technical noise still visible?", "Nothing is probed for technical noise yet", "normalization,evaluation"),
    "audit": ("Can the design alone give answers away?", "The design is not audited yet", "ingestion"),
}  # fmt: skip
"""Key -> question, what is said while it has no answer, and the pipelines that answer it."""
LAST = "What should I distrust first?"

Json = dict[str, Any]


def give_verdict(chapters: Mapping[str, Json]) -> list[Json]:
    """Answer the questions of :data:`QUESTIONS`, and say what to distrust first.

    Several chapters can answer one question. The verdict then opens with the lead of an answer that has a
    warning, if there is one; of several, with that of the latest stage. The evidence of all answers follows in
    the order of the work: ingestion first, evaluation last.

    Args:
        chapters: Pipeline -> chapter, in the order of the page; doubts are listed in this order too.

    Returns:
        For each question ``question``, ``answer`` (its sentences as one string) and ``warning`` (whether it
        asks for caution).

    Raises:
        InputError: A chapter was written by an earlier version.
    """
    _check_version(chapters)
    verdict = []
    for key, (question, unanswered, pipelines) in QUESTIONS.items():
        answers = [chapter["answers"][key] for chapter in chapters.values() if key in chapter["answers"]]
        if answers:
            # of equal answers max takes the first, which is that of the latest stage
            lead = max(answers, key=lambda answer: answer["warning"])["lead"]
            text = " ".join([lead, *(sentence for answer in reversed(answers) for sentence in answer["sentences"])])
        else:
            text = f"{unanswered}. For an answer: kedro run --pipelines {pipelines},report"
        warning = not answers or any(answer["warning"] for answer in answers)
        verdict.append({"question": question, "answer": text, "warning": warning})
    doubts = [doubt for chapter in chapters.values() for doubt in chapter["doubts"]]
    last = " ".join(doubts) if doubts else "Nothing stands out. That does not mean that nothing is wrong."
    return [*verdict, {"question": LAST, "answer": last, "warning": bool(doubts)}]


def render_page(
    title: str, lead: str, verdict: Sequence[Json], chapters: Mapping[str, Json], missing: Sequence[str] = ()
) -> str:
    """The HTML of the report.

    Args:
        title: Title of the page.
        lead: One line below the title.
        verdict: Result of :func:`give_verdict`.
        chapters: Pipeline -> chapter, in the order of the page.
        missing: Pipelines that have not written a chapter yet.

    Raises:
        InputError: A chapter was written by an earlier version.
    """
    _check_version(chapters)
    environment = Environment(
        loader=PackageLoader("deepnoise.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["script_json"] = _script_json
    sections = [section for chapter in chapters.values() for section in chapter["sections"]]
    return environment.get_template("page.html").render(
        title=title, lead=lead, verdict=verdict, sections=sections, missing=missing, plotly=Markup(get_plotlyjs())
    )


def _check_version(chapters: Mapping[str, Json]) -> None:
    outdated = [name for name, chapter in chapters.items() if not _is_current(chapter)]
    if outdated:
        names = ", ".join(outdated)
        were = f"chapters {names} were" if len(outdated) > 1 else f"chapter {names} was"
        raise InputError(
            f"the {were} written by an earlier version; run kedro run --pipelines {','.join(outdated)} again"
        )


def _is_current(chapter: Json) -> bool:
    """Whether a chapter read from disk has the keys that this version writes."""
    if not _has_fields(Chapter, [chapter]):
        return False
    exhibits = [exhibit for section in chapter["sections"] for exhibit in section.get("exhibits", ())]
    return (
        _has_fields(Section, chapter["sections"])
        and _has_fields(Exhibit, exhibits)
        and _has_fields(Answer, list(chapter["answers"].values()))
    )


def _has_fields(record: type, values: Sequence[Json]) -> bool:
    names = {field.name for field in fields(record)}
    return all(value.keys() == names for value in values)


def _script_json(value: Json) -> Markup:
    """JSON for a script element, in which no "<" can close the element."""
    return Markup(json.dumps(value).replace("<", "\\u003c").replace(">", "\\u003e"))
