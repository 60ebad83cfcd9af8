"""The recipes of docs/extend.md, run exactly as printed on the page."""

from __future__ import annotations

import re

import numpy as np
import pytest

from deepnoise.normalization import statistics
from deepnoise.plate_balancing import balancing, methods
from tests.conftest import PROJECT
from tests.plate_balancing.helpers import PARAMETERS, screen_scores

BLOCKS = re.findall(r"```python\n(.*?)```", (PROJECT / "docs" / "extend.md").read_text(), re.S)


@pytest.fixture
def recipe(monkeypatch):
    """Runs a code block of the page in the module that it is meant for; the module's table is restored afterwards."""

    def run(word: str, module, table: str, as_items: bool = False) -> None:
        (code,) = [block for block in BLOCKS if word in block]
        monkeypatch.setattr(module, table, dict(getattr(module, table)))
        exec(f"{table}.update({{{code}}})" if as_items else code, vars(module))

    return run


def test_a_new_normalization_takes_one_line(recipe, screen, wells):
    _, _, plain = screen
    recipe("median_p90", statistics, "STRATEGIES", as_items=True)
    strategy = statistics.STRATEGIES["median_p90"]
    location, scale = (statistics._statistic(plain, name) for name in (strategy.location, strategy.scale))
    np.testing.assert_array_equal(location, plain["p50"])
    np.testing.assert_array_equal(scale, plain["p90"] - plain["p10"])
    assert statistics.tier_of("median_p90", "all") == "T1" and statistics.tier_of("median_p90", "controls") == "T1c"


def test_a_new_balancing_method_takes_one_function(recipe, monkeypatch):
    recipe("share_columns", methods, "METHODS")
    monkeypatch.setattr(balancing, "METHODS", methods.METHODS)
    table, layout, truth = screen_scores(2.5, np.random.default_rng(6), size=25, experiments=3)
    parameters = PARAMETERS.model_copy(update={"method": "share_columns"})
    steps = balancing.balance(table, balancing.DesignKnowledge(layout), parameters).steps
    accuracy = (steps["call"] == steps["id_code"].map(truth)).groupby(steps["step"]).mean()
    assert accuracy["plain"] < accuracy["group_filter"] < accuracy["share_columns"]
    assert steps["step"].iloc[-1] == "share_columns"
