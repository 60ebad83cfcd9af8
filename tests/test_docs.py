"""README and docs against the code: cited sections, links, and numbers that the code computes."""

from __future__ import annotations

import importlib.util
import re
import string
from itertools import permutations
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import yaml

from tests.conftest import PROJECT

PAGES = [PROJECT / "README.md", PROJECT / "data" / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
CITATION = re.compile(r'method: sections? (\d+[a-d]?(?:(?:, | and )\d+[a-d]?)*)(?:, "([^"]+)")?')


def page(name: str) -> str:
    return (PROJECT / name).read_text(encoding="utf-8")


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))


# sections of the method -----------------------------------------------------------------------------------------


def citations(source: str) -> list[tuple[str, str]]:
    """(section, quoted title) of every citation of the method, also of those with a line break."""
    joined = re.sub(r"\s+", " ", source)
    cited = CITATION.findall(joined)
    assert len(cited) == len(re.findall("method: section", joined)), "a citation has another form"
    return [(number, title) for numbers, title in cited for number in re.split(", | and ", numbers)]


def unresolved(cited: list[tuple[str, str]], method: str) -> list[tuple[str, str]]:
    """Citations without a heading ``## N. ...``, without a heading ``### (x) ...`` below it, or whose title is not in it."""
    bodies = dict(re.findall(r"^## (\d+)\. [^\n]+\n(.*?)(?=^## |\Z)", method, re.S | re.M))
    missing = []
    for number, title in cited:
        section, letter = number.rstrip("abcd"), number.lstrip(string.digits)
        body = bodies.get(section, "").strip()
        if not body or (letter and not re.search(rf"^### \({letter}\) ", body, re.M)) or title not in body:
            missing.append((number, title))
    return missing


def test_every_cited_section_of_the_method_is_on_its_page():
    cited = [c for path in (PROJECT / "src").rglob("*.py") for c in citations(path.read_text(encoding="utf-8"))]
    assert len(cited) > 10
    assert unresolved(cited, page("docs/method.md")) == []


@pytest.mark.parametrize(
    "citation", ["(method: section 9)", "(method: section 4b)", "(method: sections 7\n    and 12)",
                 '(method: section 8, "Phases of the moon")'],
)  # fmt: skip
def test_a_missing_section_is_reported(citation):
    assert len(unresolved(citations(citation), page("docs/method.md"))) == 1


def test_a_heading_without_text_does_not_resolve():
    assert unresolved([("1", "")], "## 1. The screen\n\n## 2. More\n\ntext\n") == [("1", "")]


# links -----------------------------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """Anchors that GitHub gives the headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(text: str, folder: Path) -> list[str]:
    """Relative links and images whose file or heading does not exist."""
    targets = re.findall(r"\]\(([^)\s]+)\)", without_code(text)) + re.findall(r'<img src="([^"]+)"', text)
    broken = []
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = folder / name if name else None
        if (
            path is not None
            and not path.exists()
            or anchor
            and anchor not in anchors(path.read_text(encoding="utf-8") if path else text)
        ):
            broken.append(target)
    return broken


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_links_lead_to_files_and_headings_that_exist(path):
    assert broken_links(path.read_text(encoding="utf-8"), path.parent) == []


def test_a_broken_link_is_reported():
    text = "# A page\n\n[1](docs/method.md#4-training) [2](docs/nowhere.md) [3](docs/method.md#9-more) [4](#a-page) [5](#b)"
    assert broken_links(text, PROJECT) == ["docs/nowhere.md", "docs/method.md#9-more", "#b"]


# six wells -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def six_wells():
    spec = importlib.util.spec_from_file_location("draw_six_wells", PROJECT / "docs" / "images" / "draw_six_wells.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows_of_wells(text: str) -> list[list[str]]:
    """Cells of the table rows that start with a well, in page order."""
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in re.findall(r"^\| B0\d .*\|$", text, re.M)]


def test_the_page_prints_the_probabilities_of_the_six_wells(six_wells):
    printed = rows_of_wells(page("docs/plate_balancing.md"))[:6]
    assert [row[0] for row in printed] == six_wells.WELLS
    np.testing.assert_array_equal(np.array([row[1:] for row in printed], float), six_wells.PROBABILITIES)
    np.testing.assert_allclose(six_wells.PROBABILITIES.sum(axis=1), 1, rtol=0, atol=1e-12)


def test_the_page_prints_the_calls_that_the_code_makes_for_the_six_wells(six_wells):
    steps = six_wells.worked_example()
    names = np.array(six_wells.PERTURBATIONS)
    plain, design = steps["plain"][1], steps["matching"][1]
    expected = []
    for w, well in enumerate(six_wells.WELLS):
        called = [f"{names[calls[w]]} {p[w, calls[w]]:.2f}" for p, calls in steps.values()]
        holder = [six_wells.WELLS[other] for other in np.flatnonzero(design == plain[w])]
        why = f"{names[plain[w]]} is in {holder[0]}" if holder else f"{names[plain[w]]} is not on this plate"
        expected.append([well, *called, why if plain[w] != design[w] else ""])
    assert rows_of_wells(page("docs/plate_balancing.md"))[6:] == expected


def test_the_example_starts_with_a_repeated_call_and_ends_with_a_feasible_plate(six_wells):
    steps = six_wells.worked_example()
    plain, design = steps["plain"][1], steps["matching"][1]
    assert np.bincount(plain).max() == 2 and (plain >= six_wells.ON_PLATE).sum() == 1
    assert sorted(design) == list(range(six_wells.ON_PLATE))


def test_matching_in_the_example_gives_shares_of_all_feasible_plates(six_wells):
    p = six_wells.PROBABILITIES[:, : six_wells.ON_PLATE]
    share = np.zeros_like(p)
    wells = np.arange(len(p))
    for plate in permutations(range(six_wells.ON_PLATE)):
        share[wells, plate] += p[wells, plate].prod()
    matching = six_wells.worked_example()["matching"][0]
    np.testing.assert_allclose(
        matching[:, : six_wells.ON_PLATE], share / share.sum(axis=1, keepdims=True), rtol=0, atol=1e-5
    )
    assert not matching[:, six_wells.ON_PLATE :].any()


def test_the_figure_of_the_six_wells_can_be_drawn_again(six_wells, tmp_path):
    six_wells.draw(tmp_path / "six_wells.png")
    drawn, committed = (
        matplotlib.image.imread(path)
        for path in (tmp_path / "six_wells.png", PROJECT / "docs" / "images" / "six_wells.png")
    )
    assert drawn.shape == committed.shape
    assert drawn.std() > 0.1


# numbers of the settings -----------------------------------------------------------------------------------------


def settings(block: str) -> dict:
    return yaml.safe_load(page(f"conf/base/parameters_{block}.yml"))[block]


def test_the_readme_describes_the_default_parameters():
    text = " ".join(page("README.md").split())
    assert "default trains no mean teacher" in text and settings("training")["mean_teacher"]["epochs"] == 0
    assert "Position correction and flat-field correction are off" in text
    assert settings("normalization")["position_correction"] == settings("normalization")["illumination"] == "none"


def test_the_readme_lists_every_environment():
    listed = set(re.findall(r"`(\w+)`", page("README.md").split("## Environments")[1].split("\n## ")[0]))
    folders = {path.name for path in (PROJECT / "conf").iterdir() if path.is_dir()} - {"local"}
    assert folders <= listed


def test_the_shapes_of_the_demo_are_those_of_its_settings():
    from deepnoise.network.network import Network, NetworkSpec

    training, screen = settings("training"), settings("simulation")
    channels = len(re.search(r"channels: \[([^]]+)\]", page("conf/base/catalog.yml"))[1].split(","))
    classes = screen["treatments"] + screen["positive_controls"] + 1  # one more for the negative control
    head = training["head"]
    network = Network(NetworkSpec(training["backbone"], channels, classes, head["name"], head["scale"], head["margin"]))
    expected = {
        "B": training["batch_size"], "U": round(training["batch_size"] * training["mean_teacher"]["unlabelled_ratio"]),
        "C": channels, "W": screen["image_size"], "D": network.features, "K": classes,
    }  # fmt: skip
    (sentence,) = re.findall(r"The demo has ([^.]+)\.", " ".join(page("docs/training.md").split()))
    assert {letter: int(n) for letter, n in re.findall(r"(\w) = (\d+)", sentence)} == expected
