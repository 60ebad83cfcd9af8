"""Hooks around a run, one class per job. This module is loaded at every start, so it imports nothing heavy."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from kedro.io import AbstractVersionedDataset, CatalogProtocol, DatasetError
from kedro.pipeline import Pipeline

from deepnoise.errors import InputError
from deepnoise.pipeline_registry import OWN_SCORES, SIMULATED

if TYPE_CHECKING:
    from kedro.pipeline.node import Node

logger = logging.getLogger("deepnoise")
NEW = "made in this run"
"""Version of what the run makes; sorts after every time stamp."""


class ParameterHooks:
    """Check parameters and catalog before anything runs."""

    @hook_impl
    def after_context_created(self, context: Any) -> None:
        """Refuse unknown, mistyped or earlier names, before Kedro's own check, whose message is longer."""
        from deepnoise.parameters import validate_parameters
        from deepnoise.renamed import check_catalog

        loader = context.config_loader
        for name in ("parameters", "catalog"):
            loader[name] = loader[name]  # what is set is kept; else Kedro resolves the files at each use
        validate_parameters(loader["parameters"])
        check_catalog(loader["catalog"])


class InputHooks:
    """Check what a run would read, and report entries that are outdated or missing."""

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Refuse a run that would ignore an input or mix entries of different runs; warn of outdated entries."""
        environment = run_params.get("env") or "base"
        check_external_inputs(set(run_params.get("runtime_params") or {}), catalog, environment)
        check_mixed_inputs(pipeline)
        replace_missing_chapters(pipeline, catalog)
        full = pipelines["__default__"]
        if "well_scores" in pipeline.inputs():  # the same files, under the name for scores of any model
            pipeline = Pipeline(pipeline, inputs=OWN_SCORES)
        for warning in outdated_inputs(pipeline, full, versions_of_inputs(pipeline, full, catalog)):
            logger.warning("%s; run the stages between them again, or pin it with --load-versions", warning)


def check_external_inputs(given: set[str], catalog: CatalogProtocol, environment: str) -> None:
    """Refuse a file given on the command line that no entry of the environment reads.

    Args:
        given: Parameters of the command line.
        catalog: Of the environment.
        environment: Its name, for the error.

    Raises:
        InputError: Names the parameter and an environment that reads it.
    """
    readers = (
        ({"scores", "scores_tier"}, "well_scores", "ExternalScoresDataset", "external_scores"),
        ({"profiles"}, "well_embeddings", "ExternalProfilesDataset", "external_profiles"),
        ({"labels"}, "wells", "ScoredWellsDataset", "score_table"),
    )
    for parameters, entry, reader, other in readers:
        if parameters & given and reader not in {c.__name__ for c in type(catalog.get(entry)).__mro__}:
            raise InputError(
                f"the environment {environment!r} does not read {min(parameters & given)!r}: its entry {entry} is "
                f"made by its own model; use --env {other}, or swap that entry as conf/{other} does"
            )


def check_mixed_inputs(pipeline: Pipeline) -> None:
    """Refuse a run that reads an old entry beside the new one that it makes.

    Raises:
        InputError: Names both entries.
    """
    for read, written in (OWN_SCORES | SIMULATED).items():
        if read in pipeline.inputs() and written in pipeline.all_outputs():
            raise InputError(
                f"this run would read an old {read} beside the {written} that it makes; run the stages as namespaces of "
                "the pipeline '__default__' or 'demo', as 'kedro run --pipelines' does for those named together"
            )


def missing_chapters(pipeline: Pipeline, catalog: CatalogProtocol) -> list[str]:
    """Chapters that the report would load and that were never written."""
    return [name for name in sorted(pipeline.inputs()) if name.endswith("_chapter") and not catalog.exists(name)]


def replace_missing_chapters(pipeline: Pipeline, catalog: Any) -> None:
    """Let missing chapters load as None, so that the report lists them instead of failing."""
    names = missing_chapters(pipeline, catalog)
    if not names:
        return
    from deepnoise.datasets.run_record import AbsentDataset

    kedro_log = logging.getLogger("kedro.io.data_catalog")
    level = kedro_log.level
    kedro_log.setLevel(logging.ERROR)  # it warns of each entry that is replaced
    for name in names:
        catalog[name] = AbsentDataset()
    kedro_log.setLevel(level)


def outdated_inputs(pipeline: Pipeline, full: Pipeline, versions: dict[str, str]) -> list[str]:
    """Entries that a run would load although something they are made from is newer.

    Args:
        pipeline: What is to run.
        full: The whole path, which defines how entries are made from one another.
        versions: Entry -> time stamp of the version that would be loaded, or NEW for what the run makes; entries
            without versions are left out.

    Returns:
        One sentence per entry.
    """
    warnings = []
    for name in sorted(pipeline.inputs() & full.all_outputs() & versions.keys()):
        sources = sources_of(name, full) & versions.keys()
        newest = max(sources, key=lambda source: (versions[source], source), default=name)
        if versions[newest] > versions[name]:
            warnings.append(
                f"{name} ({versions[name]}) is older than {newest} ({versions[newest]}), which it is made from"
            )
    return warnings


def sources_of(name: str, full: Pipeline) -> set[str]:
    """All entries that an entry is made from, directly or not."""
    return {source for node in full.to_outputs(name).nodes for source in node.inputs}


def versions_of_inputs(pipeline: Pipeline, full: Pipeline, catalog: CatalogProtocol) -> dict[str, str]:
    """The ``versions`` of :func:`outdated_inputs`. Other entries are left alone, so that Kedro imports no dataset it does not need."""
    inputs = pipeline.inputs() & full.all_outputs()
    names = inputs.union(*(sources_of(name, full) for name in inputs))
    made = pipeline.all_outputs()
    versions = {}
    for name in names:
        dataset = catalog.get(name)
        if not isinstance(dataset, AbstractVersionedDataset):
            continue
        version = NEW if name in made else load_version(dataset)
        if version:
            versions[name] = version
    return versions


def load_version(dataset: AbstractVersionedDataset) -> str | None:
    """The version that would be loaded; None if there is none (yet)."""
    try:
        return dataset.resolve_load_version()
    except DatasetError:
        return None


class TimingHooks:
    """Record how long each node took, in the entry ``run_record``.

    Some nodes work while their outputs are saved (packing, training arm by arm). So a node's time runs from the previous save to its
    own. This is exact where nodes run one after another.
    """

    def __init__(self) -> None:
        self._catalog: Any = None
        self._started = self._last_saved = 0.0
        self._run: dict[str, str] = {}
        self._seconds: dict[str, float] = {}
        self._nodes: set[str] = set()

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], catalog: CatalogProtocol) -> None:
        """Start the clock."""
        self._started = self._last_saved = time.monotonic()
        self._catalog, self._seconds = catalog, {}
        self._nodes = {node.name for pipeline in pipelines.values() for node in pipeline.nodes}
        self._run = {"run": run_params.get("run_id", ""), "environment": run_params.get("env") or "base"}

    @hook_impl
    def after_dataset_saved(self, node: Node) -> None:
        """Add the time since the previous save to the node."""
        if self._catalog is None:  # a worker process of a parallel run, which keeps no time
            return
        now = time.monotonic()
        self._seconds[node.name] = self._seconds.get(node.name, 0.0) + now - self._last_saved
        record = self._catalog.load("run_record") | {node.name: self._entry(node)}
        self._catalog.save("run_record", {name: entry for name, entry in record.items() if name in self._nodes})
        self._last_saved = time.monotonic()

    def _entry(self, node: Node) -> dict[str, Any]:
        from datetime import UTC, datetime

        import deepnoise

        return {
            "stage": node.namespace or "",
            "seconds": round(self._seconds[node.name], 2),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "deepnoise": deepnoise.__version__,
            **self._run,
        }

    @hook_impl
    def after_pipeline_run(self) -> None:
        """Log the time of the run."""
        logger.info("done in %.0f s", time.monotonic() - self._started)


class OutputHooks:
    """Keep the terminal readable, and end a run with its tables and the path of the report."""

    PRINTED = ("score_table", "growth_table")
    ANNOUNCED = ("contact_sheet", "growth_ladder_plot")

    def __init__(self) -> None:
        self._catalog: Any = None

    @hook_impl
    def before_pipeline_run(self, catalog: CatalogProtocol) -> None:
        """Print log lines above progress bars, and silence messages of Kedro that do not help."""
        self._catalog = catalog
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
                handler.setStream(AboveBars())
        for runner in ("sequential_runner", "thread_runner", "parallel_runner"):
            runner_log = logging.getLogger(f"kedro.runner.{runner}")
            if says_something not in runner_log.filters:
                runner_log.addFilter(says_something)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str) -> None:
        """Log the path of a figure worth looking at."""
        if dataset_name in self.ANNOUNCED and self._catalog is not None:  # None in a worker process of a parallel run
            logger.info("%s: %s", dataset_name.replace("_", " "), path_of(self._catalog, dataset_name))

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Print the tables that a run ends with, and the path of the report."""
        outputs = pipeline.all_outputs()
        for name in self.PRINTED:
            if name in outputs:
                print("\n" + catalog.load(name), flush=True)
        if "report" in outputs:
            print(f"report, to be opened in a browser: {path_of(catalog, 'report')}", flush=True)


def says_something(record: logging.LogRecord) -> bool:
    """Whether a log line of Kedro's runner helps: "No nodes ran" only repeats that the run has failed."""
    return not record.getMessage().startswith("No nodes ran")


def path_of(catalog: CatalogProtocol, name: str) -> str:
    """Path of an entry's latest version."""
    dataset: Any = catalog.get(name)
    return str(dataset._get_load_path() if hasattr(dataset, "_get_load_path") else dataset._filepath)


class AboveBars:
    """A stream that prints log lines above progress bars instead of into them."""

    def write(self, text: str) -> None:
        """Print a line."""
        from tqdm import tqdm

        tqdm.write(text, file=sys.stdout, end="")

    def flush(self) -> None:
        """Show the line at once."""
        sys.stdout.flush()

    def writelines(self, lines: Iterable[str]) -> None:
        """Print several lines."""
        for line in lines:
            self.write(line)
