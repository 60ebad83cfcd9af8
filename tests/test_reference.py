"""The generated pages of parameters and tables agree with the code."""

import copy
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, NonNegativeFloat, PositiveInt

from deepnoise.parameters import BLOCKS, Block, ProjectParameters, Unit, block_within
from deepnoise.reference import meanings, parameters_page, tables_page, unit_of, values_of
from tests.conftest import PROJECT

STALE = "this page is not up to date; run: python docs/generate.py"


def test_the_page_of_parameters_is_up_to_date(parameters):
    assert (PROJECT / "docs" / "parameters.md").read_text() == parameters_page(parameters), STALE


def test_the_page_of_tables_is_up_to_date():
    assert (PROJECT / "docs" / "tables.md").read_text() == tables_page(), STALE


def test_a_changed_default_makes_the_page_stale(parameters):
    changed = copy.deepcopy(parameters)
    changed["training"]["head"]["margin"] = 0.2
    before, after = (parameters_page(values).splitlines() for values in (parameters, changed))
    (row,) = [line for line in after if line not in before]
    assert row.startswith("| `training.head.margin` | `0.2` | radians | number in [0, 3.2) |")


def parameters_without_meaning(block: type[Block]) -> list[str]:
    """Parameters without a meaning, of a block and of the blocks within it."""
    missing = []
    for name, field in block.model_fields.items():
        nested = block_within(field.annotation)
        missing += parameters_without_meaning(nested) if nested else []
        missing += [] if meanings(block)[name] else [f"{block.__name__}.{name}"]
    return missing


def test_every_parameter_is_described():
    assert parameters_without_meaning(ProjectParameters) == []


def test_the_rule_catches_a_parameter_without_meaning():
    class Silent(Block):
        described: int
        """Something."""
        silent: int

    class Outer(Block):
        inner: list[Silent]
        """A list."""

    assert parameters_without_meaning(Outer) == ["Silent.silent"]


def test_every_value_of_the_base_environment_has_a_row(parameters):
    page = parameters_page(parameters)

    def names(prefix: str, values: Any, block: type[Block]) -> list[str]:
        rows = []
        for key, value in values.items():
            nested = block.model_fields[key].annotation
            single = block_within(nested) is nested and nested is not None
            rows += names(f"{prefix}.{key}", value, nested) if single else [f"{prefix}.{key}"]
        return rows

    for name, block in BLOCKS.items():
        for row in names(name, parameters[name], block):
            assert page.count(f"\n| `{row}` |") == 1, row


@pytest.mark.parametrize(
    ("declared", "values"),
    [
        (int, "integer"),
        (PositiveInt, "integer ≥ 1"),
        (NonNegativeFloat, "number ≥ 0"),
        (Annotated[float, Field(gt=0, le=1)], "number in (0, 1]"),
        (Annotated[int, Field(ge=16), Unit("px")], "integer ≥ 16"),
        (Literal["mse", "kl"], "`mse`, `kl`"),
        (NonNegativeFloat | None, "number ≥ 0 or `null`"),
        (bool | list[str], "`true` or `false` or list of text"),
        (float | dict[int, Annotated[float, Field(ge=0, le=1)]], "number or mapping of integers to number in [0, 1]"),
        (dict[str, Any], "mapping"),
    ],
)
def test_allowed_values_in_words(declared, values):
    assert values_of(declared) == values


def test_the_unit_of_a_type_is_also_found_within_a_union():
    assert unit_of(Annotated[int, Field(ge=1), Unit("px")]) == "px"
    assert unit_of(Annotated[int, Unit("sites")] | Literal["auto"]) == "sites"
    assert unit_of(int | None) == ""
