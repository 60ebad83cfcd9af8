"""What happens around a run: parameters are checked first, stale entries are named, times are kept, the score table comes last."""

from __future__ import annotations

import logging
import sys
import time
from datetime import UTC, datetime
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from kedro.io import AbstractVersionedDataset, CatalogProtocol, DatasetError
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node
from tqdm import tqdm

import deepnoise
from deepnoise.datasets.external_profiles import ExternalProfilesDataset
from deepnoise.datasets.external_scores import ExternalScoresDataset, ScoredWellsDataset
from deepnoise.datasets.run_record import AbsentDataset
from deepnoise.errors import InputError
from deepnoise.parameters import validate_parameters
from deepnoise.pipeline_registry import OWN_SCORES, SIMULATED

logger = logging.getLogger("deepnoise")
PICTURES = ("contact_sheet", "growth_ladder_plot")
"""Entries whose path is told when they are saved."""
PRINTED = ("score_table", "growth_table")
EXTERNAL = (
    ({"scores", "scores_tier"}, "well_scores", ExternalScoresDataset, "external_scores"),
    ({"profiles"}, "well_embeddings", ExternalProfilesDataset, "external_profiles"),
    ({"labels"}, "wells", ScoredWellsDataset, "score_table"),
)
"""Parameters of the command line, the entry that must read them, and an environment whose entry does."""
NOW = "made in this run"  # sorts after every time stamp


def stale_inputs(pipeline: Pipeline, full: Pipeline, versions: dict[str, str]) -> list[str]:
    """Entries that a run would load although something they are made from is newer.

    Args:
        pipeline: What is to run.
        full: The pipeline that says how entries are made from one another.
        versions: Entry -> time stamp of the version that would be loaded, or NOW for what the run makes; entries
            without versions are left out.

    Returns:
        One sentence an entry.
    """
    found = []
    for name in sorted(pipeline.inputs() & full.all_outputs() & versions.keys()):
        sources = {source for node in full.to_outputs(name).nodes for source in node.inputs} & versions.keys()
        newest = max(sources, key=lambda source: (versions[source], source), default=name)
        if versions[newest] > versions[name]:
            found.append(
                f"{name} ({versions[name]}) is older than {newest} ({versions[newest]}), which it is made from"
            )
    return found


def absent_chapters(pipeline: Pipeline, catalog: CatalogProtocol) -> list[str]:
    """Chapters that the report would load and that were not written: it says so instead of failing."""
    return [name for name in sorted(pipeline.inputs()) if name.endswith("_chapter") and not catalog.exists(name)]


class AboveBars:
    """A stream for log lines that prints them above the progress bars instead of into them."""

    def write(self, text: str) -> None:
        """Print a line."""
        tqdm.write(text, file=sys.stdout, end="")

    def flush(self) -> None:
        """Let the line be seen at once."""
        sys.stdout.flush()


class ProjectHooks:
    """Hooks of the project."""

    def __init__(self) -> None:
        self._started = 0.0
        self._last_saved = 0.0
        self._run: dict[str, str] = {}
        self._spent: dict[str, float] = {}
        self._known: set[str] = set()
        self._catalog: Any = None

    @hook_impl
    def after_context_created(self, context: Any) -> None:
        """Refuse unknown or mistyped parameters before anything runs."""
        validate_parameters(context.config_loader["parameters"])  # before Kedro's own check, whose message is longer

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Start the clock; a partial run that would mix old and new entries says so."""
        self._started = self._last_saved = time.monotonic()
        self._catalog, self._spent = catalog, {}
        self._known = {node.name for each in pipelines.values() for node in each.nodes}
        self._run = {"run": run_params.get("run_id", ""), "environment": run_params.get("env") or "base"}
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
                handler.setStream(AboveBars())
        given = set(run_params.get("runtime_params") or {})
        for names, entry, kind, env in EXTERNAL:
            if names & given and not isinstance(catalog.get(entry), kind):
                raise InputError(
                    f"the environment {run_params.get('env') or 'base'!r} does not read {min(names & given)!r}: its entry {entry} is "
                    f"made by its own model; use --env {env}, or swap that entry as conf/{env} does"
                )
        for read, written in (OWN_SCORES | SIMULATED).items():
            if read in pipeline.inputs() and written in pipeline.all_outputs():
                raise InputError(
                    f"this run would read an old {read} beside the {written} that it makes; run the stages as namespaces of "
                    "the pipeline '__default__' or 'demo', as 'kedro run --pipelines' does for those named together"
                )
        self._mark_absent(absent_chapters(pipeline, catalog))
        full = pipelines["__default__"]
        if "well_scores" in pipeline.inputs():  # the same files under the name that any model's scores may take
            pipeline = Pipeline(pipeline, inputs=OWN_SCORES)
        kept = [name for name in full.datasets() if isinstance(catalog.get(name), AbstractVersionedDataset)]
        made = pipeline.all_outputs()
        versions = {name: NOW if name in made else _load_version(catalog.get(name)) for name in kept}
        for sentence in stale_inputs(pipeline, full, {name: v for name, v in versions.items() if v}):
            logger.warning("%s; run the stages between them again, or pin it with --load-versions", sentence)

    def _path(self, name: str) -> str:
        dataset: Any = self._catalog.get(name)
        path = dataset._get_load_path() if hasattr(dataset, "_get_load_path") else dataset._filepath
        return str(path)

    def _mark_absent(self, names: list[str]) -> None:
        kedro_log = logging.getLogger("kedro.io.data_catalog")
        level = kedro_log.level
        kedro_log.setLevel(logging.ERROR)  # it warns of each entry that is replaced
        for name in names:
            self._catalog[name] = AbsentDataset()
        kedro_log.setLevel(level)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, node: Node) -> None:
        """Keep the time that a node took until here; say that an image worth looking at is there.

        Some nodes work while their outputs are saved (packing, training arm by arm), so what counts is the time since the save before,
        which runs node after node make exact.
        """
        if self._catalog is None:  # a worker process of a parallel run, which keeps no time
            return
        now = time.monotonic()
        self._spent[node.name] = self._spent.get(node.name, 0.0) + now - self._last_saved
        self._last_saved = now
        record = self._catalog.load("run_record") | {node.name: self._facts(node)}
        self._catalog.save("run_record", {name: part for name, part in record.items() if name in self._known})
        self._last_saved = time.monotonic()
        if dataset_name in PICTURES:
            logger.info("%s: %s", dataset_name.replace("_", " "), self._path(dataset_name))

    def _facts(self, node: Node) -> dict[str, Any]:
        return {
            "stage": node.namespace or "",
            "seconds": round(self._spent[node.name], 2),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "deepnoise": deepnoise.__version__,
            **self._run,
        }

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Print the tables that a run ends with."""
        logger.info("done in %.0f s", time.monotonic() - self._started)
        for name in PRINTED:
            if name in pipeline.all_outputs():
                print("\n" + catalog.load(name), flush=True)
        if "report" in pipeline.all_outputs():
            print(f"report, to be opened in a browser: {self._path('report')}", flush=True)


def _load_version(dataset: Any) -> str | None:
    """The version that would be loaded; None where there is none (yet)."""
    try:
        return dataset.resolve_load_version()
    except DatasetError:
        return None
