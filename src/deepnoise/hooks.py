"""What happens around a run: parameters are checked first, stale entries are named, the score table comes last."""

from __future__ import annotations

import logging
import time
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from kedro.io import AbstractVersionedDataset, CatalogProtocol, DatasetError
from kedro.pipeline import Pipeline

from deepnoise.parameters import validate_parameters
from deepnoise.pipeline_registry import OWN_SCORES

logger = logging.getLogger("deepnoise")
PICTURES = ("contact_sheet", "score_plot")
NOW = "made in this run"  # sorts after every time stamp


def stale_inputs(pipeline: Pipeline, full: Pipeline, versions: dict[str, str]) -> list[str]:
    """Entries that a run would load although something they are made from is newer.

    Args:
        pipeline: What is to run.
        full: The pipeline that says how entries are made from one another.
        versions: Entry -> time stamp of the version that would be loaded; entries without versions are left out.

    Returns:
        One sentence an entry.
    """
    versions = versions | dict.fromkeys(pipeline.all_outputs(), NOW)
    found = []
    for name in sorted(pipeline.inputs() & full.all_outputs() & versions.keys()):
        sources = full.to_outputs(name).datasets() & versions.keys() - {name}
        newest = max(sources, key=lambda source: (versions[source], source), default=name)
        if versions[newest] > versions[name]:
            found.append(
                f"{name} ({versions[name]}) is older than {newest} ({versions[newest]}), which it is made from"
            )
    return found


class ProjectHooks:
    """Hooks of the project."""

    def __init__(self) -> None:
        self._started = 0.0
        self._catalog: Any = None

    @hook_impl
    def after_context_created(self, context: Any) -> None:
        """Refuse unknown or mistyped parameters before anything runs."""
        validate_parameters(context.params)

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Start the clock; a partial run that would mix old and new entries says so."""
        self._started = time.monotonic()
        self._catalog = catalog
        full = pipelines["__default__"]
        if "well_scores" in pipeline.inputs():  # the same files under the name that any model's scores may take
            pipeline = Pipeline(pipeline, inputs=OWN_SCORES)
        loaded = full.datasets() - pipeline.all_outputs()
        versions = {name: version for name in loaded if (version := _load_version(catalog.get(name)))}
        for sentence in stale_inputs(pipeline, full, versions):
            logger.warning("%s; run the stages between them again, or pin it with --load-versions", sentence)

    def _path(self, name: str) -> str:
        dataset: Any = self._catalog.get(name)
        path = dataset._get_load_path() if hasattr(dataset, "_get_load_path") else dataset._filepath
        return str(path)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str) -> None:
        """Say that a picture worth looking at is there."""
        if dataset_name in PICTURES:
            logger.info("%s: %s", dataset_name.replace("_", " "), self._path(dataset_name))

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Print the score table, and where the results lie."""
        logger.info("done in %.0f s", time.monotonic() - self._started)
        if "score_table" in pipeline.all_outputs():
            print("\n" + catalog.load("score_table"), flush=True)


def _load_version(dataset: Any) -> str | None:
    """The version that would be loaded; None where there is none (yet)."""
    if not isinstance(dataset, AbstractVersionedDataset):
        return None
    try:
        return dataset.resolve_load_version()
    except DatasetError:
        return None
