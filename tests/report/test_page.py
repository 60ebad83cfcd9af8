"""The report page: tables and figures are complete, no text of a screen can break it, and missing chapters are listed."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from PIL import Image

from deepnoise.errors import InputError
from deepnoise.parameters import ReportParameters
from deepnoise.report.chapter import (
    SIMPLE_FRACTIONS,
    Answer,
    Chapter,
    Section,
    _cell,
    figure,
    flatten,
    fraction_of,
    given_away_by_design,
    hardly_above_chance,
    image,
    listing,
    name_value_table,
    table,
)
from deepnoise.report.page import LAST, QUESTIONS, give_verdict, render_page
from deepnoise.report.provenance import write_chapter


def chapter(**values) -> dict:
    return Chapter(**{"sections": [], **values}).as_json()


def test_a_table_is_read_as_words_and_sorted_as_numbers():
    data = pd.DataFrame({"plate": ["10", "9"], "top1": [0.799, np.nan], "n": [1283, 2], "confident": [True, False]})
    exhibit = table("t", data)
    assert [cell.text for cell in exhibit.rows[0]] == ["10", "79.9 %", "1\u202f283", "yes"]
    assert [cell.text for cell in exhibit.rows[1]] == ["9", "–", "2", "no"]
    assert [float(row[0].key) for row in exhibit.rows] == [10, 9]  # plate names are sorted as numbers
    assert [cell.number for cell in exhibit.rows[0]] == [False, True, True, False]
    assert exhibit.rows[1][1].key == ""  # missing values come last


@pytest.mark.parametrize(
    ("value", "text"), [(0.00498, "0.00498"), (1234.56, "1\u202f235"), (float("inf"), "inf"), (None, "–"), (np.int64(3), "3"), ("nan", "nan")]
)  # fmt: skip
def test_cells(value, text):
    assert _cell(value, False).text == text


def test_a_long_table_is_cut_and_says_so():
    exhibit = table("t", pd.DataFrame({"a": range(1000)}))
    assert len(exhibit.rows) == 300 and exhibit.left_out == 700


def test_the_verdict_answers_five_questions_whatever_has_run():
    evaluation = chapter(
        answers={"leak": Answer("Not seen.", ["Embeddings 77 %."], False)},
        doubts=["One well contradicts the plate map."],
    )
    normalization = chapter(
        answers={"signal": Answer("Yes.", ["79.9 % are right."], False), "leak": Answer("Yes: raw.", ["Raw 91 %."], True)},
        doubts=["Few plates."],
    )  # fmt: skip
    verdict = give_verdict({"evaluation": evaluation, "normalization": normalization})
    assert [item["question"] for item in verdict] == [*(q for q, _, _ in QUESTIONS.values()), LAST]
    answers = [item["answer"] for item in verdict]
    assert answers[0] == "Yes. 79.9 % are right."
    assert answers[2] == "Yes: raw. Raw 91 %. Embeddings 77 %."  # the warning leads; evidence in the order of the work
    assert answers[4] == "One well contradicts the plate map. Few plates."
    assert "kedro run --pipelines plate_balancing,evaluation,report" in answers[1]
    assert [item["warning"] for item in verdict] == [False, True, True, True, True]
    assert give_verdict({})[-1]["warning"] is False


def test_of_two_answers_with_warnings_the_later_stage_leads():
    late, early = (chapter(answers={"leak": Answer(f"{lead}.", [], True)}) for lead in ("late", "early"))
    assert give_verdict({"evaluation": late, "normalization": early})[2]["answer"] == "late."


def test_names_of_a_screen_cannot_break_the_page():
    evil = '</script><script>alert(1)</script>"&'
    drawn = go.Figure(go.Bar(x=[1], y=[evil]))
    exhibits = [figure(evil, drawn, "e"), table("t", pd.DataFrame({"p": [evil]})), name_value_table("f", {evil: evil})]
    page = render_page(evil, "lead", give_verdict({}), {"a": chapter(sections=[Section(evil, evil, exhibits, [evil])])})
    assert "<script>alert" not in page
    stored = re.search(r'data-plot="plot-1-1">(.*?)</script>', page, re.S)[1]
    assert json.loads(stored)["data"][0]["y"] == [evil]


def test_the_page_needs_no_network_and_says_how_to_add_missing_chapters():
    tile = image("tiles", Image.fromarray(np.zeros((4, 4, 3), np.uint8)), "sheet")
    section = Section("Calls", "lead", [tile, table("none", pd.DataFrame({"a": []}))])
    page = render_page(
        "title", "lead", give_verdict({}), {"a": chapter(sections=[section])}, ["training", "growth_chart"]
    )
    without_plotly = re.sub(r"<script>/\*\*.*?</script>", "", page, flags=re.S)
    assert not re.search(r'(src|href)="(?!data:|#)', without_plotly)
    assert "kedro run --pipelines training,growth_chart,report" in page
    assert page.count('<img class="wide" src="data:image/png;base64,') == 1 and "None." in page


def old(current: dict) -> dict:
    """The same chapter as a version wrote it whose exhibits had the key "picture"."""
    sections = [
        section | {"exhibits": [{("picture" if k == "image" else k): v for k, v in e.items()} for e in section["exhibits"]]}
        for section in current["sections"]
    ]  # fmt: skip
    return current | {"sections": sections}


def test_a_chapter_of_an_earlier_version_is_refused_with_the_command_that_writes_it_again():
    current = chapter(sections=[Section("s", "lead", [table("t", pd.DataFrame({"a": [1]}))])])
    verdict = give_verdict({"training": current})
    expected = "the chapter training was written by an earlier version; run kedro run --pipelines training again"
    for read in (give_verdict, lambda chapters: render_page("title", "lead", verdict, chapters)):
        with pytest.raises(InputError, match=f"^{expected}$"):
            read({"ingestion": current, "training": old(current)})
    answered = chapter() | {"answers": {"signal": {"text": "79.9 % are right", "warning": False}}}
    with pytest.raises(InputError, match="chapters training, evaluation were .* --pipelines training,evaluation again"):
        render_page("title", "lead", verdict, {"training": old(current), "evaluation": answered})


def test_the_run_chapter_lists_all_parameters_and_whether_runs_were_mixed():
    node_run = {
        "stage": "training",
        "seconds": 2.5,
        "finished": "2026-01-01",
        "deepnoise": "0.1.0",
        "run": "a",
        "environment": "base",
    }
    record = {"training.pretrain": node_run, "training.draw": node_run | {"seconds": 1.0, "run": "b"}}
    parameters = {"report": ReportParameters(screen="demo"), "training": {"pretrain": {"epochs": 3}}, "study_url": None}
    section = write_chapter(parameters, record).sections[0]
    stages, nodes, versions, listed = section.exhibits
    assert [cell.text for cell in stages.rows[0]] == [
        "training",
        "3.5",
        "2",
        "b",
    ] and "more than one run" in stages.caption
    assert [row[1].text for row in nodes.rows] == ["pretrain", "draw"]
    assert {row[0].text: row[1].text for row in listed.rows} == {
        "report.screen": "demo",
        "training.pretrain.epochs": "3",
    }
    assert {row[0].text for row in versions.rows} > {"python", "torch", "deepnoise"}
    assert write_chapter(parameters, {}).sections[0].exhibits[0].rows == []


def test_nested_values_get_dotted_names():
    assert flatten({"a": {"b": 1, "c": [1, 2]}, "d": {}}) == {"a.b": 1, "a.c": "[1, 2]", "d": "{}"}


def test_a_design_gives_a_class_away_only_clearly_above_chance():
    assert given_away_by_design({"accuracy": 1.0, "chance": 1 / 3})
    assert not given_away_by_design({"accuracy": 0.6, "chance": 1 / 3})
    assert not given_away_by_design({"accuracy": 0.002, "chance": 0.001})
    assert given_away_by_design({"accuracy": 0.1, "chance": 0.02})


def test_hardly_above_chance_is_at_most_twice_chance_and_less_with_few_classes():
    assert hardly_above_chance(0.02, 0.01) and not hardly_above_chance(0.021, 0.01)
    assert hardly_above_chance(0.55, 0.5) and not hardly_above_chance(0.56, 0.5)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.799, "about 4 of 5 wells"), (0.8, "4 of 5 wells"), (0.656, "about 2 of 3 wells"), (0.54, "about half of the wells"),
        (0.04, "about 1 of 20 wells"), (0.021, "about 1 of 50 wells"), (0.004, "fewer than 1 of 100 wells"),
        (0.996, "more than 99 of 100 wells"), (0.0, "none of the wells"), (1.0, "all wells"), (19 / 20, "19 of 20 wells"),
    ],
)  # fmt: skip
def test_a_share_is_said_as_the_nearest_simple_fraction(share, text):
    assert fraction_of(share, "wells") == text


def test_a_fraction_is_never_far_from_its_share():
    for share in np.linspace(0.005, 0.995, 500):
        nearest = min(abs(value - share) for value, _, _ in SIMPLE_FRACTIONS)
        assert nearest <= 0.0501
        assert fraction_of(share, "wells").startswith("about ") == (nearest > 1e-9)


def test_names_are_listed_with_a_final_and():
    assert [listing(list(names)) for names in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]
