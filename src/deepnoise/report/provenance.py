"""The last chapter of the page: versions and parameters of the run, and how long each step took."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pandas as pd
from pydantic import BaseModel

from deepnoise.report.chapter import Chapter, Section, flatten, name_value_table, table

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
        parameters: All parameters of the run, by name; None where one is not set.
        record: The entry ``run_record``.
    """
    nodes = pd.DataFrame(
        [{"node": name.rsplit(".", 1)[-1], **node_run} for name, node_run in record.items()], columns=COLUMNS
    ).sort_values("finished", kind="stable")
    stages = nodes.groupby("stage", sort=False).agg(
        seconds=("seconds", "sum"), nodes=("node", "size"), run=("run", "max")
    )
    mixed = " The results on this page come from more than one run." if nodes["run"].nunique() > 1 else ""
    set_parameters = {
        key: value.model_dump() if isinstance(value, BaseModel) else value
        for key, value in parameters.items()
        if value is not None
    }
    exhibits = [
        table("Time of each stage", stages.reset_index(), "run_record",
              f"Seconds of each node’s latest run, including saving. Run: the version under which its entries were saved.{mixed}"),
        table("Time of each node", nodes, "run_record", "Latest run of each node, in the order in which they finished."),
        name_value_table("Package versions", {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"} | _versions()),
        name_value_table("Parameters", flatten(set_parameters), caption="As set when this page was written, including those of the environment and of --params."),
    ]  # fmt: skip
    return Chapter([Section("The run", "How long each step took, and with which versions and parameters.", exhibits)])


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions
