"""``kedro run`` with two additions.

What a user can mend is told in one clear error instead of a traceback; and stages that are named together are cut
out of the whole path, so that each reads what the other has just made.
"""

from __future__ import annotations

import functools
from typing import Any

import click
from kedro.config import MissingConfigException
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.cli.utils import CONTEXT_SETTINGS
from kedro.io import DatasetError

from deepnoise.errors import InputError
from deepnoise.pipeline_registry import STAGES

KEDRO_SAYS = (
    "Failed to find the pipeline named",
    "Pipeline does not contain nodes named",
    "Pipeline contains no nodes",
)
"""Beginnings of Kedro's own messages on what was typed."""


@click.group(context_settings=CONTEXT_SETTINGS, name=__file__)
def cli() -> None:
    """Command line of the project."""


def _reason(error: BaseException) -> str | None:
    """What the user can act on, however deep Kedro has wrapped it; None for a fault of the program."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, InputError):
            return str(seen)
        seen = seen.__cause__ or seen.__context__
    if isinstance(error, DatasetError | MissingConfigException) or str(error).startswith(KEDRO_SAYS):
        return str(error)
    return None


def joined_stages(names: list[str]) -> tuple[list[str], list[str]]:
    """Pipelines and namespaces to run for what was typed after ``--pipelines``.

    Alone, ``plate_balancing`` and ``evaluation`` read the entry ``well_scores``, which may be any model's, and
    ``ingestion`` any raw screen. Named beside ``inference`` or ``simulation`` they must wait for what these make;
    that edge is in the whole path only.
    """
    if not {"simulation", "inference"} & set(names) or len(names) == 1 or not set(names) <= set(STAGES):
        return names, []
    return ["demo" if "simulation" in names else "__default__"], names


def _told_clearly(callback: Any) -> Any:
    @functools.wraps(callback)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            if not kwargs.get("namespaces"):
                kwargs["pipelines"], kwargs["namespaces"] = joined_stages(list(kwargs.get("pipelines") or []))
            return callback(*args, **kwargs)
        except Exception as error:
            reason = _reason(error)
            if reason is None:
                raise
            raise click.ClickException(reason) from error

    return run


run = click.Command(
    name="run",
    callback=_told_clearly(kedro_run.callback),
    params=kedro_run.params,
    help=kedro_run.help,
)
cli.add_command(run)
