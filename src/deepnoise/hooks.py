"""Hooks around a run, one class per job. This module is loaded at every start, so it imports nothing heavy."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from kedro.io import AbstractVersionedDataset, CatalogProtocol, DatasetError, SharedMemoryDataset
from kedro.io.core import Version, generate_timestamp
from kedro.io.data_catalog import SharedMemoryDataCatalog
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

    replace_entries(catalog, {name: AbsentDataset() for name in names})


def replace_entries(catalog: Any, entries: dict[str, Any]) -> None:
    """Put other datasets into a catalog without the warning that Kedro logs for each."""
    kedro_log = logging.getLogger("kedro.io.data_catalog")
    level = kedro_log.level
    kedro_log.setLevel(logging.ERROR)
    for name, dataset in entries.items():
        catalog[name] = dataset
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


class OwnVersionHooks:
    """Let a run read what it made itself, whatever other runs write meanwhile, and name versions of the future."""

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: Any) -> None:
        """Pin what the run makes to its own version, and name what is dated in the future."""
        kept = run_params.get("only_missing_outputs", False)  # then Kedro runs nothing whose outputs are there
        for name in sorted(pipeline.all_outputs()):
            if not kept or not local_versions(catalog, name):
                pin(catalog, name, run_params["run_id"])
        now = generate_timestamp()
        for name in sorted(pipeline.datasets()):
            newest = max(local_versions(catalog, name), default="")
            if newest > now:
                logger.warning(
                    "%s has the version %s, which is dated in the future (it is %s now); it is loaded in place of newer "
                    "ones until it is removed",
                    name, newest, now,
                )  # fmt: skip


class SharedMemoryHooks:
    """Let the processes of a parallel run share the entries that are kept in memory."""

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: Any) -> None:
        """Replace each declared MemoryDataset by one that processes share; Kedro does so for undeclared ones only."""
        if not isinstance(catalog, SharedMemoryDataCatalog):
            return
        in_memory = [
            name for name in sorted(pipeline.datasets())
            if name != "parameters" and not name.startswith("params:") and "MemoryDataset" in str(catalog.get_type(name))
        ]  # fmt: skip
        replace_entries(catalog, {name: SharedMemoryDataset() for name in in_memory})


def pin(catalog: Any, name: str, version: str) -> None:
    """Let a versioned entry load a version, unless ``--load-versions`` names another. It is not instantiated for it."""
    lazy = catalog._lazy_datasets.get(name)
    dataset = catalog._datasets.get(name)
    if dataset is not None:
        if getattr(dataset, "_version", None) and not dataset._version.load:
            dataset._version = Version(version, dataset._version.save)
    elif lazy is None:  # an entry of a pattern
        catalog._load_versions.setdefault(name, version)
    elif not lazy.load_version:
        lazy.load_version = version


def local_versions(catalog: Any, name: str) -> list[str]:
    """Versions of an entry on the local disk; none for other entries."""
    path = local_path(catalog, name)
    if path is None or not is_versioned(catalog, name) or not Path(path).is_dir():
        return []
    return [folder.name for folder in Path(path).iterdir() if folder.name[:1].isdigit()]


def entry_config(catalog: Any, name: str) -> dict[str, Any]:
    """The configuration of an entry, which is not instantiated for it."""
    lazy = catalog._lazy_datasets.get(name)
    config = lazy.config if lazy is not None else catalog.config_resolver.resolve_pattern(name)
    return config or {}


def is_versioned(catalog: Any, name: str) -> bool:
    """Whether each run writes a version of its own of an entry."""
    dataset = catalog._datasets.get(name)
    if dataset is not None:
        return bool(getattr(dataset, "_version", None))
    return bool(entry_config(catalog, name).get("versioned"))


def local_path(catalog: Any, name: str) -> str | None:
    """The file or folder of an entry on the local disk; None for entries in memory and behind a URL."""
    dataset = catalog._datasets.get(name)
    if dataset is not None:
        if getattr(dataset, "_protocol", "file") != "file":
            return None
        path = getattr(dataset, "_filepath", None) or getattr(dataset, "_root", None)
    else:
        config = entry_config(catalog, name)
        path = config.get("filepath") or config.get("root")
    return None if path is None or "://" in str(path) else str(path)


class LockHooks:
    """Refuse to write what another run is writing.

    Versioned entries need no lock, since each run has a version of its own. Tuning workers share a study on purpose.
    Entries behind a URL cannot be locked.
    """

    SHARED = ("tuned_",)

    def __init__(self) -> None:
        self._locks: list[Any] = []

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: Any) -> None:
        """Take the locks of the entries that the run will overwrite."""
        self._release()
        written: dict[str, str] = {}  # path -> entry
        for name in sorted(pipeline.all_outputs()):
            path = local_path(catalog, name)
            if path is not None and not is_versioned(catalog, name) and not name.startswith(self.SHARED):
                written.setdefault(path, name)
        if not written:
            return
        from deepnoise.datasets.locks import Lock

        try:
            for path, name in written.items():
                lock = Lock(path)
                lock.acquire(f"the entry {name}")
                self._locks.append(lock)
        except InputError:
            self._release()
            raise

    @hook_impl
    def after_pipeline_run(self) -> None:
        """Give the locks back."""
        self._release()

    @hook_impl
    def on_pipeline_error(self) -> None:
        """Give the locks back."""
        self._release()

    def _release(self) -> None:
        while self._locks:
            self._locks.pop().release()


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
        with self._catalog.get("run_record").exclusive():  # two runs may record their nodes at the same time
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
