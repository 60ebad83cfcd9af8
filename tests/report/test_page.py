"""The report as a page: every table and figure is there, nothing of a screen can break it, and what is missing is told."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from PIL import Image

from deepnoise.parameters import ReportParameters
from deepnoise.report.chapter import (
    Answer,
    Chapter,
    Section,
    _cell,
    facts,
    figure,
    flatten,
    image,
    table,
    told_by_design,
)
from deepnoise.report.page import LAST, QUESTIONS, give_verdict, render_page
from deepnoise.report.provenance import write_chapter


def chapter(**parts) -> dict:
    return Chapter(**{"sections": [], **parts}).as_json()


def test_a_table_is_read_as_words_and_sorted_as_numbers():
    data = pd.DataFrame({"plate": ["10", "9"], "top1": [0.799, np.nan], "n": [1283, 2], "sure": [True, False]})
    shown = table("t", data)
    assert [cell.text for cell in shown.rows[0]] == ["10", "79.9 %", "1\u202f283", "yes"]
    assert [cell.text for cell in shown.rows[1]] == ["9", "–", "2", "no"]
    assert [float(row[0].key) for row in shown.rows] == [10, 9]  # a name, sorted as a number
    assert [cell.number for cell in shown.rows[0]] == [False, True, True, False]
    assert shown.rows[1][1].key == ""  # what is missing comes last


@pytest.mark.parametrize(
    ("value", "text"), [(0.00498, "0.00498"), (1234.56, "1\u202f235"), (float("inf"), "inf"), (None, "–"), (np.int64(3), "3"), ("nan", "nan")]
)  # fmt: skip
def test_cells(value, text):
    assert _cell(value, False).text == text


def test_a_long_table_is_cut_and_says_so():
    shown = table("t", pd.DataFrame({"a": range(1000)}))
    assert len(shown.rows) == 300 and shown.left_out == 700


def test_the_verdict_has_five_sentences_whatever_has_run():
    told = chapter(
        answers={"signal": Answer("79.9 % are right", False), "leak": Answer("raw 91 %", True)}, doubts=["few plates"]
    )
    further = chapter(answers={"leak": Answer("embeddings 77 %", False)}, doubts=["one well"])
    verdict = give_verdict([further, told])
    assert [part["question"] for part in verdict] == [*(q for q, _, _ in QUESTIONS.values()), LAST]
    answers = [part["answer"] for part in verdict]
    assert (
        answers[0] == "79.9 % are right."
        and answers[2] == "Raw 91 %; embeddings 77 %."
        and answers[4] == "One well; few plates."
    )
    assert "kedro run --pipelines plate_balancing,evaluation,report" in answers[1]
    assert [part["warning"] for part in verdict] == [False, True, True, True, True]
    assert give_verdict([])[-1]["warning"] is False


def test_names_of_a_screen_cannot_break_the_page():
    evil = '</script><script>alert(1)</script>"&'
    drawn = go.Figure(go.Bar(x=[1], y=[evil]))
    exhibits = [figure(evil, drawn, "e"), table("t", pd.DataFrame({"p": [evil]})), facts("f", {evil: evil})]
    page = render_page(evil, "lead", give_verdict([]), [chapter(sections=[Section(evil, evil, exhibits, [evil])])])
    assert "<script>alert" not in page
    stored = re.search(r'data-plot="plot-1-1">(.*?)</script>', page, re.S)[1]
    assert json.loads(stored)["data"][0]["y"] == [evil]


def test_the_page_needs_no_network_and_tells_what_is_missing():
    tile = image("tiles", Image.fromarray(np.zeros((4, 4, 3), np.uint8)), "sheet")
    section = Section("Calls", "lead", [tile, table("none", pd.DataFrame({"a": []}))])
    page = render_page("title", "lead", give_verdict([]), [chapter(sections=[section])], ["growth_chart"])
    without_plotly = re.sub(r"<script>/\*\*.*?</script>", "", page, flags=re.S)
    assert not re.search(r'(src|href)="(?!data:|#)', without_plotly)
    assert "kedro run --pipelines growth_chart; then --pipelines report" in page
    assert page.count('<img class="wide" src="data:image/png;base64,') == 1 and "None." in page


def test_the_run_is_told_with_all_parameters_and_whether_runs_were_mixed():
    part = {
        "stage": "training",
        "seconds": 2.5,
        "finished": "2026-01-01",
        "deepnoise": "0.1.0",
        "run": "a",
        "environment": "base",
    }
    record = {"training.pretrain": part, "training.draw": part | {"seconds": 1.0, "run": "b"}}
    parameters = {"report": ReportParameters(screen="demo"), "training": {"pretrain": {"epochs": 3}}, "study_url": None}
    section = write_chapter(parameters, record).sections[0]
    stages, nodes, versions, told = section.exhibits
    assert [cell.text for cell in stages.rows[0]] == [
        "training",
        "3.5",
        "2",
        "b",
    ] and "More than one run" in stages.caption
    assert [row[1].text for row in nodes.rows] == ["pretrain", "draw"]
    assert {row[0].text: row[1].text for row in told.rows} == {"report.screen": "demo", "training.pretrain.epochs": "3"}
    assert {row[0].text for row in versions.rows} > {"python", "torch", "deepnoise"}
    assert write_chapter(parameters, {}).sections[0].exhibits[0].rows == []


def test_nested_values_get_dotted_names():
    assert flatten({"a": {"b": 1, "c": [1, 2]}, "d": {}}) == {"a.b": 1, "a.c": "[1, 2]", "d": "{}"}


def test_a_design_gives_a_class_away_only_clearly_above_chance():
    assert told_by_design({"accuracy": 1.0, "chance": 1 / 3}) and not told_by_design({"accuracy": 0.6, "chance": 1 / 3})
    assert not told_by_design({"accuracy": 0.002, "chance": 0.001}) and told_by_design(
        {"accuracy": 0.1, "chance": 0.02}
    )
