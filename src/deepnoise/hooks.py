"""What happens around a run: parameters are checked first, stages report their time, the score table comes last."""

from __future__ import annotations

import logging
import time
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from deepnoise.parameters import validate_parameters

logger = logging.getLogger("deepnoise")
PICTURES = ("contact_sheet", "score_plot")


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
    def before_pipeline_run(self, catalog: CatalogProtocol) -> None:
        """Start the clock."""
        self._started = time.monotonic()
        self._catalog = catalog

    def _path(self, name: str) -> str:
        dataset: Any = self._catalog.get(name)
        path = dataset._get_load_path() if hasattr(dataset, "_get_load_path") else dataset._filepath
        return str(path)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, node: Node) -> None:
        """Say that a picture worth looking at is there."""
        if dataset_name in PICTURES:
            logger.info("%s: %s", dataset_name.replace("_", " "), self._path(dataset_name))

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Print the score table, and where the results lie."""
        logger.info("done in %.0f s", time.monotonic() - self._started)
        if "score_table" in pipeline.all_outputs():
            print("\n" + catalog.load("score_table"), flush=True)
