"""Start-up: heavy modules that are not imported before anything runs, nor by ``import deepnoise``."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import PROJECT

HEAVY = ("torch", "timm", "scipy.stats", "sklearn", "matplotlib", "plotly", "optuna", "pandas")
"""Modules that no command may import before its runner starts. Pandas is the exception: Kedro imports it with the first parameter."""

UNTIL_RUNNER = """
import os, sys
from kedro.runner import AbstractRunner
def stop(*_, **__):
    print("IMPORTED", *[m for m in {heavy!r} if m in sys.modules], flush=True)
    os._exit(0)
AbstractRunner.run = stop
"""
COMMAND = """
sys.argv = ["kedro", *{arguments!r}]
from kedro.framework.cli.cli import main
try:
    main()
except SystemExit:
    pass
stop()
"""


def imported(code: str) -> list[str]:
    """The heavy modules that a script has imported when it stops."""
    process = subprocess.run(
        [sys.executable, "-c", UNTIL_RUNNER.format(heavy=HEAVY) + code], cwd=PROJECT, capture_output=True, text=True,
        env=os.environ | {"DO_NOT_TRACK": "1"},
    )  # fmt: skip
    (line,) = [line for line in process.stdout.splitlines() if line.startswith("IMPORTED")]
    return line.split()[1:]


@pytest.mark.parametrize(
    "arguments",
    [
        ["registry", "list"],
        ["run", "--env", "test", "--pipelines", "demo"],
        ["run", "--env", "rxrx1"],
        ["run", "--env", "score_table", "--pipelines", "plate_balancing,evaluation"],
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_start_up_imports_nothing_heavy(arguments):
    allowed = ["pandas"] if arguments[0] == "run" else []
    assert imported(COMMAND.format(arguments=arguments)) == allowed


def test_the_rule_catches_a_heavy_import():
    assert imported("import scipy.stats, plotly\nstop()\n") == ["scipy.stats", "plotly"]


def test_importing_the_package_loads_neither_torch_nor_kedro_nor_scikit_learn():
    code = (
        "import deepnoise, sys; print([m for m in ('torch', 'timm', 'kedro', 'sklearn', 'pandas') if m in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"
