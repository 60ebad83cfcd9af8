"""The last chapter: how the figures came about. Versions, time and parameters."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pandas as pd
from pydantic import BaseModel

from deepnoise.report.chapter import Chapter, Section, facts, flatten, table

PACKAGES = (
    "deepnoise",
    "kedro",
    "torch",
    "timm",
    "numpy",
    "scipy",
    "pandas",
    "scikit-learn",
    "zarr",
    "optuna",
    "plotly",
)
COLUMNS = ["stage", "node", "seconds", "run", "environment", "finished", "deepnoise"]


def write_chapter(parameters: dict[str, Any], record: dict[str, Any]) -> Chapter:
    """The chapter on the run.

    Args:
        parameters: All of them.
        record: The entry ``run_record``.
    """
    nodes = pd.DataFrame(
        [{"node": name.rsplit(".", 1)[-1], **part} for name, part in record.items()], columns=COLUMNS
    ).sort_values("finished", kind="stable")
    stages = nodes.groupby("stage", sort=False).agg(
        seconds=("seconds", "sum"), nodes=("node", "size"), run=("run", "max")
    )
    mixed = " More than one run made what this page shows." if nodes["run"].nunique() > 1 else ""
    told = {
        key: value.model_dump() if isinstance(value, BaseModel) else value
        for key, value in parameters.items()
        if value is not None
    }
    exhibits = [
        table("Time of each stage", stages.reset_index(), "run_record",
              f"Of the last time each node ran, saving included. Run: the version under which its entries were saved.{mixed}"),
        table("Time of each node", nodes, "run_record"),
        facts("Versions of packages", {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"} | _versions()),
        facts("Parameters", flatten(told), caption="As this page was written; those of the environment and of --params included."),
    ]  # fmt: skip
    return Chapter([Section("The run", "What the figures were made with, and how.", exhibits)])


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
