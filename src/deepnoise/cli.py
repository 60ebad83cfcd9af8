"""``kedro run`` with two additions, and ``kedro versions``.

First, a mistake that the user can fix gives one clear error message instead of a traceback. Second, stages that
are requested together run as parts of the whole path, so that each reads what another has just written.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import click
from kedro.config import MissingConfigException
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.cli.utils import CONTEXT_SETTINGS, env_option
from kedro.framework.session import KedroSession
from kedro.io import DatasetError
from kedro.utils import find_kedro_project

from deepnoise import versions
from deepnoise.errors import InputError
from deepnoise.pipeline_registry import STAGES
from deepnoise.renamed import NODES, REMOVED, answers

KEDRO_SAYS = (
    "Failed to find the pipeline named",
    "Pipeline does not contain nodes named",
    "Pipeline contains no nodes",
)
"""Beginnings of the messages in which Kedro rejects what the user typed."""


@click.group(context_settings=CONTEXT_SETTINGS, name=__file__)
def cli() -> None:
    """Commands of the project."""


def _reason(error: BaseException) -> str | None:
    """The message that the user can act on, however deeply Kedro has wrapped it; None for a bug."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, InputError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, DatasetError | MissingConfigException) or str(error).startswith(KEDRO_SAYS):
        return str(error) + answers(name for name in (*NODES, *REMOVED) if f"'{name}'" in str(error))
    return None


def joined_stages(names: list[str]) -> tuple[list[str], list[str]]:
    """Pipelines and namespaces to run for the names after ``--pipelines``.

    Alone, ``plate_balancing`` and ``evaluation`` read the entry ``well_scores`` of any model, and ``ingestion``
    reads any raw screen. Together with ``inference`` or ``simulation`` they must wait for the
    results of these. Only the whole path has that dependency.
    """
    if not {"simulation", "inference"} & set(names) or len(names) == 1 or not set(names) <= set(STAGES):
        return names, []
    return ["demo" if "simulation" in names else "__default__"], names


PATHS = ("raw_root", "data_root", "scores", "profiles", "labels", "contents", "training.pretrained_weights")
"""Parameters that are paths."""


def in_project_root(params: dict[str, Any]) -> dict[str, Any]:
    """Go to the root of the project, to which the paths in ``conf`` are relative.

    Args:
        params: Of the command line. Their paths are relative to the folder in which the command was typed.

    Returns:
        The parameters with absolute paths, unless the command was typed in the root.
    """
    root = find_kedro_project(Path.cwd())
    if root is None or root == Path.cwd():
        return params
    here = Path.cwd()
    params = copy.deepcopy(params)
    for name in PATHS:
        *blocks, key = name.split(".")
        holder = params
        for block in blocks:
            holder = holder.get(block) or {}
        value = holder.get(key)
        if isinstance(value, str) and "://" not in value and (key in PATHS or value.endswith(".safetensors")):
            holder[key] = str(here / value)
    url = params.get("study_url")
    if isinstance(url, str) and url.startswith("sqlite:///") and not url.startswith("sqlite:////"):
        params["study_url"] = f"sqlite:///{here / url.removeprefix('sqlite:///')}"
    os.chdir(root)
    return params


def _with_clear_errors(callback: Any) -> Any:
    @functools.wraps(callback)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            kwargs["params"] = in_project_root(kwargs.get("params") or {})
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
    callback=_with_clear_errors(kedro_run.callback),
    params=kedro_run.params,
    help=kedro_run.help,
)
cli.add_command(run)


@contextmanager
def _clear_errors() -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise click.ClickException(str(error)) from error


def _entries(env: str | None, data_root: str | None, names: tuple[str, ...]) -> list[versions.Entry]:
    parameters = in_project_root({"data_root": data_root} if data_root else {})
    with KedroSession.create(Path.cwd(), env=env, runtime_params=parameters) as session:
        catalog = cast(KedroSession, session).load_context().catalog
        return list(versions.entries(catalog, names))


root_option = click.option(
    "--data-root", help="Data folder, as with --params data_root=; default: that of the environment."
)


@cli.group(name="versions")
def versions_group() -> None:
    """List, prune and promote versions of catalog entries."""


@versions_group.command("list")
@click.argument("names", nargs=-1)
@env_option
@root_option
def list_versions(names: tuple[str, ...], env: str | None, data_root: str | None) -> None:
    """List the number, total size and latest version of each entry; with NAMES, every version of these."""
    with _clear_errors():
        for entry in _entries(env, data_root, names):
            sizes = [entry.size(version) for version in entry.versions]
            click.echo(f"{entry.name:26} {len(sizes):4} {_megabytes(sum(sizes))}  {entry.versions[-1]}")
            for version, size in zip(entry.versions, sizes, strict=True) if names else ():
                click.echo(f"  {version} {_megabytes(size)}")


@versions_group.command("prune")
@click.argument("names", nargs=-1)
@click.option("--keep", type=int, required=True, help="How many of the latest versions of each entry to keep.")
@click.option("--yes", is_flag=True, help="Remove the versions; without it they are only listed.")
@env_option
@root_option
def prune_versions(names: tuple[str, ...], keep: int, yes: bool, env: str | None, data_root: str | None) -> None:
    """Remove old versions of the entries NAMES, or of all entries."""
    with _clear_errors():
        old_versions = [(entry, versions.prunable(entry, keep)) for entry in _entries(env, data_root, names)]
        total = sum(entry.size(version) for entry, old in old_versions for version in old)
        for entry, old in old_versions:
            if old:
                click.echo(f"{entry.name:26} {len(old)} of {len(entry.versions)}: {old[0]} to {old[-1]}")
                if yes:
                    versions.prune(entry, old)
        outcome = "removed" if yes else "would be removed; add --yes to remove them"
        click.echo(f"{sum(len(old) for _, old in old_versions)} versions, {_megabytes(total).strip()} {outcome}")


@versions_group.command("promote")
@click.argument("name")
@click.argument("version")
@env_option
@root_option
def promote_version(name: str, version: str, env: str | None, data_root: str | None) -> None:
    """Make an old VERSION of the entry NAME the one that is loaded."""
    with _clear_errors():
        versioned = _entries(env, data_root, (name,))
        if not versioned:
            raise InputError(f"{name} has no versions yet")
        click.echo(f"{name} {version} is now the latest, as {versions.promote(versioned[0], version)}")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:9.2f} MB"
