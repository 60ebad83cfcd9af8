"""The architecture of the code: each rule is a function, which must also catch a violating example."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml
from kedro.config import OmegaConfigLoader
from kedro.framework.project import configure_project, pipelines
from kedro.io import AbstractDataset, CatalogConfigResolver, DataCatalog, DatasetError

from deepnoise import datasets
from deepnoise.parameters import Block, ProjectParameters
from deepnoise.tables import SCHEMAS

PROJECT = Path(__file__).parents[1]
SOURCE = PROJECT / "src" / "deepnoise"
ENVIRONMENTS = tuple(sorted(p.name for p in (PROJECT / "conf").iterdir() if (p / "globals.yml").is_file()))
LAYERS = ["raw", "intermediate", "primary", "feature", "model_input", "models", "model_output", "reporting"]
LIBRARY = sorted(
    path
    for path in SOURCE.rglob("*.py")
    if path.relative_to(SOURCE).parts[0]
    not in (
        "pipelines",
        "datasets",
        "hooks.py",
        "settings.py",
        "cli.py",
        "versions.py",
        "__main__.py",
        "pipeline_registry.py",
    )
)


def imported(source: str, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(source)
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


def imports_kedro(source: str) -> bool:
    return any(name.split(".")[0].startswith("kedro") for name in imported(source))


def opens_files(source: str) -> bool:
    """Whether code opens, reads or writes a file."""
    verbs = {
        "open",
        "read_csv",
        "read_parquet",
        "to_parquet",
        "imread",
        "savefig",
        "read_text",
        "write_text",
        "write_bytes",
        "load_file",
    }
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    named = {f.id if isinstance(f, ast.Name) else getattr(f, "attr", "") for f in calls}
    return bool(named & verbs)


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: str(p.relative_to(SOURCE)))
def test_the_library_imports_no_kedro_and_opens_no_file(path):
    source = path.read_text()
    assert not imports_kedro(source)
    assert not opens_files(source)


def test_the_rule_catches_a_library_module_that_imports_kedro_or_opens_a_file():
    assert imports_kedro("def f():\n    from kedro.io import CatalogConfigResolver, DataCatalog")
    assert opens_files("import pandas as pd\nt = pd.read_csv('x')") and opens_files("open('x')")
    assert len(LIBRARY) > 20


ROOMS = (
    "errors", "names", "fingerprint", "progress", "renamed", "wells", "tiers", "tables", "report", "drawing", "ingestion", "parameters", "reference", "simulation",
    "normalization", "evaluation", "network", "screen", "plate_balancing", "inference", "training", "tuning", "growth_chart", "api",
)  # fmt: skip
"""The rooms of the library, as docs/extend.md describes them. Each imports only rooms before it."""
DATASETS_IMPORT = {
    "errors",
    "names",
    "fingerprint",
    "ingestion",
    "network",
    "progress",
    "renamed",
    "simulation",
    "tables",
    "tiers",
    "wells",
}
"""What datasets may import: descriptions of files and tables, and trained models; no stage that trains or predicts."""


def room_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).parts
    return parts[0] if len(parts) > 1 else path.stem


def rooms_imported(source: str) -> set[str]:
    """The rooms that a module imports, without imports under TYPE_CHECKING."""
    tree = ast.parse(source)
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    rooms = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in guarded and (node.module or "").startswith("deepnoise"):
            _, _, inside = (node.module or "").partition(".")
            rooms |= {inside.split(".")[0]} if inside else {alias.name for alias in node.names}
    return rooms - {"__version__"}


def rooms_above(room: str, source: str) -> set[str]:
    """Rooms that a module imports although they are not below its own."""
    return {
        imported_room
        for imported_room in rooms_imported(source) - {room}
        if imported_room not in ROOMS[: ROOMS.index(room)]
    }


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_room_imports_only_rooms_below_it(path):
    if path.name != "__init__.py" or path.parent != SOURCE:
        assert rooms_above(room_of(path), path.read_text()) == set()


def test_the_rule_catches_a_room_that_imports_one_above_it():
    assert rooms_above("network", "def f():\n    from deepnoise.training.loop import pretrain") == {"training"}
    assert rooms_above("inference", "from deepnoise.training import loop") == {"training"}
    assert rooms_above("training", "from deepnoise.network.heads import HEADS") == set()
    assert rooms_above("network", "if TYPE_CHECKING:\n    from deepnoise.training import loop") == set()


@pytest.mark.parametrize("path", sorted((SOURCE / "datasets").glob("*.py")), ids=lambda p: p.name)
def test_datasets_import_no_stage_that_trains_or_predicts(path):
    assert rooms_imported(path.read_text()) - {"datasets"} <= DATASETS_IMPORT


def test_the_rule_catches_a_dataset_that_imports_training():
    assert not rooms_imported("from deepnoise.training.trainer import Trainer") <= DATASETS_IMPORT


def test_the_page_of_the_rooms_lists_each_of_them():
    page = (PROJECT / "docs" / "extend.md").read_text()
    named = [room for room in ROOMS if f"`{room}`" in page or f"`{room}/`" in page]
    assert set(ROOMS) - set(named) <= {"fingerprint", "progress", "reference", "simulation"}


@pytest.mark.parametrize("path", sorted((SOURCE / "pipelines").rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_pipelines_open_no_file_and_start_without_torch(path):
    source = path.read_text()
    assert not opens_files(source)
    assert not {"torch", "timm"} & {name.split(".")[0] for name in imported(source, top_level_only=True)}


def test_registering_pipelines_imports_neither_torch_nor_timm():
    code = "import deepnoise.pipeline_registry as r, sys; r.register_pipelines(); print([m for m in ('torch', 'timm') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


class Entries(dict):
    """Catalog entries by name, including those of dataset factories."""

    def __missing__(self, name: str) -> dict:
        resolver = CatalogConfigResolver({k: v for k, v in self.items() if not k.startswith("_")})
        if resolver.match_dataset_pattern(name) is None:
            raise KeyError(name)
        return resolver.resolve_pattern(name)

    def declares(self, name: str) -> bool:
        try:
            return bool(self[name])
        except KeyError:
            return False


def catalog_config(env: str) -> Entries:
    loader = OmegaConfigLoader(str(PROJECT / "conf"), env=env, base_env="base", runtime_params={})
    return Entries(loader["catalog"])


def globals_of(env: str) -> dict:
    return OmegaConfigLoader(str(PROJECT / "conf"), env=env, base_env="base")["globals"]


@pytest.fixture(scope="module")
def registered():
    configure_project("deepnoise")
    return dict(pipelines)


def unresolved(names: set[str], catalog: Entries) -> set[str]:
    return {name for name in names if not name.startswith(("params:", "parameters")) and not catalog.declares(name)}


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_every_dataset_of_every_pipeline_is_declared(env, registered):
    catalog = catalog_config(env)
    for pipeline in registered.values():
        assert unresolved(pipeline.datasets(), catalog) == set()
    DataCatalog.from_config({k: v for k, v in catalog.items() if not k.startswith("_")})


def test_the_rule_catches_an_undeclared_name():
    entries = Entries({"wells": {"type": "MemoryDataset"}, "tuned_{block}_run": {"type": "MemoryDataset"}})
    assert unresolved({"wellz", "params:training", "wells", "tuned_training_run"}, entries) == {"wellz"}


def paths_without_screen(catalog: dict, screen: str) -> list[str]:
    """Entries that would be written below the data root without the screen's name in the path."""
    without_screen = []
    for name, entry in catalog.items():
        path = str(entry.get("filepath", entry.get("root", ""))) if not name.startswith("_") else ""
        if re.search(r"(^|/)data/0[2-8]_", path) and f"/{screen}/" not in path:
            without_screen.append(name)
    return without_screen


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_every_path_contains_the_name_of_the_screen(env):
    screen = globals_of(env)["screen"]
    catalog = catalog_config(env)
    assert paths_without_screen(catalog, screen) == []
    written = [str(e.get("filepath", e.get("root", ""))) for n, e in catalog.items() if not n.startswith("_")]
    assert sum(f"/{screen}/" in path for path in written) > 15


def test_the_rule_catches_a_path_without_screen():
    assert paths_without_screen({"teacher": {"filepath": "data/06_models/teacher"}}, "demo") == ["teacher"]


def test_screens_have_different_names():
    names = [globals_of(env)["screen"] for env in ENVIRONMENTS]
    assert len(set(names)) == len(names)


def layer_of(catalog: dict, name: str) -> str | None:
    return ((catalog[name].get("metadata") or {}).get("kedro-viz") or {}).get("layer")


def test_layers_are_known_and_data_flows_forward(registered):
    """kedro-viz drops all layers where two of them feed each other."""
    catalog = catalog_config("base")
    persistent = [n for n, e in catalog.items() if not n.startswith("_") and e["type"] != "MemoryDataset"]
    assert {layer_of(catalog, name) for name in persistent} <= set(LAYERS)
    for pipeline in registered.values():
        assert backward_edges(pipeline, catalog) == []


def backward_edges(pipeline, catalog: dict) -> list[tuple[str, str]]:
    backward = []
    for node in pipeline.nodes:
        for source in node.inputs:
            for target in node.outputs:
                if source.startswith("param"):
                    continue
                first, second = layer_of(catalog, source), layer_of(catalog, target)
                if first and second and LAYERS.index(first) > LAYERS.index(second):
                    backward.append((source, target))
    return backward


def test_the_rule_catches_a_layer_that_flows_back(registered):
    catalog = catalog_config("base")
    catalog["wells"] = {"metadata": {"kedro-viz": {"layer": "reporting"}}}
    assert backward_edges(registered["ingestion"], catalog)


def layers_that_contradict_their_folder(catalog: dict) -> list[str]:
    """Entries whose layer is not that of their folder: a file in ``data/08_reporting`` is in the layer reporting."""
    contradicting = []
    for name in (n for n in catalog if not n.startswith("_")):
        entry = catalog[name]
        path = str(entry.get("filepath", entry.get("root", entry.get("folder", ""))))
        folder = re.search(r"(?:^|/)0[1-8]_(\w+)/", path)
        if folder and folder[1] != layer_of(catalog, name):
            contradicting.append(name)
    return contradicting


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_the_layer_of_an_entry_is_that_of_its_folder(env):
    assert layers_that_contradict_their_folder(catalog_config(env)) == []


def test_the_rule_catches_a_layer_that_contradicts_its_folder():
    catalog = {
        "wells": {
            "filepath": "data/02_intermediate/demo/wells.parquet",
            "metadata": {"kedro-viz": {"layer": "primary"}},
        },
        "store": {"root": "data/02_intermediate/demo/store", "metadata": {"kedro-viz": {"layer": "intermediate"}}},
        "labels": {"filepath": "data/01_raw/labels.csv"},
        "_anchor": {"filepath": "data/01_raw/labels.csv"},
    }
    assert layers_that_contradict_their_folder(catalog) == ["wells", "labels"]


def tables_without_validator(catalog: dict) -> list[str]:
    """Parquet tables that are loaded and saved without a check against a declared table."""
    unvalidated = []
    for name, entry in catalog.items():
        if not name.startswith("_") and entry["type"].endswith((".TableDataset", ".ParquetDataset")):
            validator = entry.get("validator") or {}
            declared = validator.get("options", {}).get("table") in SCHEMAS
            if validator.get("class") != "deepnoise.datasets.validators.TableValidator" or not declared:
                unvalidated.append(name)
    return unvalidated


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_every_table_has_a_validator(env):
    assert tables_without_validator(catalog_config(env)) == []


def test_the_rule_catches_a_table_without_validator_or_with_an_unknown_table():
    validator = {"class": "deepnoise.datasets.validators.TableValidator", "options": {"table": "well"}}
    table = {"type": "deepnoise.datasets.table.TableDataset"}
    good = table | {"validator": validator | {"options": {"table": "wells"}}}
    assert tables_without_validator({"a": table, "b": table | {"validator": validator}, "c": good}) == ["a", "b"]


def dataset_modules() -> list[str]:
    return [f"deepnoise.datasets.{module.name}" for module in pkgutil.iter_modules(datasets.__path__)]


def dataset_classes() -> list[type[AbstractDataset]]:
    """Every class in ``deepnoise.datasets`` that can be the type of a catalog entry."""
    return [
        value
        for module in map(importlib.import_module, dataset_modules())
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, AbstractDataset)
        and value.__module__ == module.__name__
        and not inspect.isabstract(value)
    ]


def fault_of_the_example(dataset_class: type[AbstractDataset]) -> str | None:
    """What is wrong with the ``Catalog::`` example in the docstring of a dataset class; None if it can be used."""
    example = re.search(r"Catalog::\n\n((?:    .*\n?|\n)+)", inspect.cleandoc(dataset_class.__doc__ or ""))
    if not example:
        return "no example"
    entries = yaml.safe_load(textwrap.dedent(example[1]))
    for name, entry in entries.items():
        if entry.get("type") != f"{dataset_class.__module__}.{dataset_class.__qualname__}":
            return f"the type is {entry.get('type')}"
        try:
            DataCatalog.from_config({name: entry}).get(name)
        except DatasetError as error:
            return str(error)
    return None


@pytest.mark.parametrize("dataset_class", dataset_classes(), ids=lambda c: c.__name__)
def test_every_dataset_class_has_a_catalog_example_that_works(dataset_class):
    assert fault_of_the_example(dataset_class) is None


class NoExample(AbstractDataset):
    """A dataset without an example."""


class WrongType(NoExample):
    """A dataset.

    Catalog::

        table:
          type: pandas.ParquetDataset
          filepath: x.parquet
    """


class UnknownKey(NoExample):
    """A dataset.

    Catalog::

        table:
          type: tests.test_architecture.UnknownKey
          file_path: x.parquet
    """

    def __init__(self, *, filepath: str) -> None:
        self.filepath = filepath

    load = save = _describe = lambda self: None


def test_the_rule_catches_an_example_that_does_not_work():
    assert fault_of_the_example(NoExample) == "no example"
    assert fault_of_the_example(WrongType) == "the type is pandas.ParquetDataset"
    assert "unexpected keyword argument 'file_path'" in (fault_of_the_example(UnknownKey) or "")
    assert len(dataset_classes()) > 20


def imports_private_kedro_datasets(source: str) -> bool:
    return any(name.startswith("kedro_datasets._") for name in imported(source))


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_nothing_private_of_kedro_datasets_is_imported(path):
    assert not imports_private_kedro_datasets(path.read_text())


def test_the_rule_catches_a_private_import():
    assert imports_private_kedro_datasets("from kedro_datasets._typing import TablePreview")
    assert not imports_private_kedro_datasets("from kedro_datasets.pandas import ParquetDataset")


SLOW_IMPORTS = ("plotly", "matplotlib", "sklearn", "scipy.stats")


def slow_imports_of(modules: list[str]) -> str:
    code = f"import sys, {', '.join(modules)}; print([m for m in {SLOW_IMPORTS} if m in sys.modules])"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_the_datasets_imports_no_plotting_and_no_statistics():
    assert slow_imports_of(dataset_modules()) == "[]"


def test_the_rule_catches_a_dataset_that_imports_plotly():
    assert slow_imports_of(["kedro_datasets.plotly.json_dataset"]) == "['plotly']"


def test_heldout_labels_are_read_by_evaluation_alone(registered):
    """The growth chart evaluates too: it scores arms of its own, whose training never sees its ``Truth``."""
    for name, pipeline in registered.items():
        readers = {node.namespace for node in pipeline.nodes if "heldout_labels" in node.inputs}
        assert readers <= ({"growth_chart"} if name == "growth_chart" else {"evaluation"}), name
    assert any("heldout_labels" in node.inputs for node in registered["evaluation"].nodes)


def test_each_stage_is_one_box_with_tiers(registered):
    for name in (
        "simulation",
        "ingestion",
        "normalization",
        "training",
        "inference",
        "plate_balancing",
        "evaluation",
        "growth_chart",
        "report",
    ):
        for node in registered[name].nodes:
            assert node.namespace == name
            assert node.tags and node.tags <= {"tier_T1", "tier_T2", "tier_T3"}
    assert any("well_logits" in n.inputs for n in registered["__default__"].nodes if n.namespace == "plate_balancing")
    assert "well_scores" in registered["plate_balancing"].inputs()
    assert "well_scores" not in registered["__default__"].datasets()


SHARED_PARAMETERS = {"evaluation": {"params:plate_balancing.pooling"}}
"""Evaluation pools wells as plate balancing does, by one parameter."""


def foreign_parameters(stage: str, pipeline) -> set[str]:
    """Blocks of parameters that a stage reads beside its own."""
    allowed = {f"params:{stage}"} | SHARED_PARAMETERS.get(stage, set())
    return {name for name in pipeline.inputs() if name.startswith("params:")} - allowed


def test_each_stage_reads_one_block_of_parameters(registered):
    """The growth chart and tuning train, so they read the blocks of what they train; the report lists all parameters."""
    stages = {p.name for p in (SOURCE / "pipelines").iterdir() if p.is_dir()} - {
        "growth_chart",
        "tuning",
        "__pycache__",
    }
    assert len(stages) == 8
    assert all(foreign_parameters(stage, registered[stage]) == set() for stage in stages)


def test_the_rule_catches_a_second_block(registered):
    assert foreign_parameters("training", registered["training"] + registered["inference"]) == {"params:inference"}


def source_of(stage: str) -> str:
    """The code of one stage, library and pipeline, without imports and docstrings: a module's name is no use of a parameter."""
    modules = []
    for path in (p for room in (SOURCE / stage, SOURCE / "pipelines" / stage) for p in room.rglob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if hasattr(node, "body") and isinstance(node.body, list):
                node.body = [
                    statement
                    for statement in node.body
                    if not isinstance(statement, ast.Import | ast.ImportFrom)
                    and not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
                ] or [ast.Pass()]
        modules.append(ast.unparse(tree))
    return "\n".join(modules)


def unused_parameters(block: type[Block], source: str) -> list[str]:
    """Fields that a stage never reads as an attribute, nor by name; blocks within blocks count for themselves."""
    unused = []
    for name, info in block.model_fields.items():
        inner = info.annotation
        if (
            isinstance(inner, type)
            and issubclass(inner, Block)
            and inner.__name__ not in ("NoiseParameters", "FindingPolicies")
        ):
            unused += unused_parameters(inner, source)
        elif not re.search(rf"\.{name}\b(?!\()|['\"]{name}['\"]\s*[,)\]]", source):
            unused.append(f"{block.__name__}.{name}")
    return unused


@pytest.mark.parametrize(
    "stage",
    [
        name
        for name, f in ProjectParameters.model_fields.items()
        if isinstance(f.annotation, type) and issubclass(f.annotation, Block)
    ],
)
def test_every_parameter_is_used_by_its_stage(stage):
    block = ProjectParameters.model_fields[stage].annotation
    assert unused_parameters(block, source_of(stage)) == []


def test_the_rule_catches_an_unused_parameter():
    class Unused(Block):
        never_read: int

    assert unused_parameters(Unused, "x.other") == ["Unused.never_read"]
    inference = ProjectParameters.model_fields["inference"].annotation
    without = re.sub(r"parameters\.(views|seen_experiments|batch_size)\b", "1", source_of("inference"))
    assert unused_parameters(inference, without) == [
        f"InferenceParameters.{name}" for name in ("views", "seen_experiments", "batch_size")
    ]


def test_noise_parameters_are_the_noise_levels_of_the_simulator():
    from dataclasses import fields

    from deepnoise.parameters import NoiseParameters
    from deepnoise.simulation.noise import NoiseLevels

    assert set(NoiseParameters.model_fields) == {f.name for f in fields(NoiseLevels)}


def test_every_pipeline_has_its_library_configuration_and_tests():
    for folder in (SOURCE / "pipelines").iterdir():
        if folder.is_dir() and folder.name != "__pycache__":
            assert (SOURCE / folder.name).is_dir()
            assert (PROJECT / "conf" / "base" / f"parameters_{folder.name}.yml").is_file()
            assert list((PROJECT / "tests" / folder.name).glob("test_*.py"))
