"""The reference pages ``docs/tables.md`` and ``docs/parameters.md``, written from the code.

``python docs/generate.py`` saves them; tests compare them with the code.
"""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
import types
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types

from deepnoise.parameters import BLOCKS, Block, ProjectParameters, Unit, block_within
from deepnoise.tables import CARD_KEYS, PREFIXED, SCHEMAS, SCORES_KEYS, TableSchema

TABLES_START = """# Tables

Look up a column, its type and its meaning here. The page covers every table that crosses a pipeline border.
Tables are parquet files, checked whenever they are saved or loaded. A trailing `?` allows missing values.

The tier of a value says what was known for it:

- `T0`: only the model's weights;
- `T1`: also the unlabelled images of the plate itself;
- `T1c`: also which of its wells are controls;
- `T1, plate design not excluded`: T1 by a statistic over plates or experiments that repeat their contents, so that it may tell which
  perturbations are there. It becomes T1 if dealing the treatments anew shows no loss (the interval of the paired difference includes 0 or
  lies above -4 points), T2 if it does; where nothing can be dealt anew, it stays ([method](method.md#7-tiers-of-knowledge));
- `T2`: also the plate design (which perturbations can be on the plate, each once);
- `T3`: held-out images in training;
- `unknown`: scores of an external model whose tier was not given.

`python docs/generate.py` writes this page from `src/deepnoise/tables.py`.
"""
PARAMETERS_START = """# Parameters

Look up a parameter, its default and what it does here. Set it with `--params` for a single run, or in a file
`conf/<env>/parameters*.yml` for an environment:

```
kedro run --params training.pretrain.epochs=50,normalization.strategy=robust
```

Parameters are checked before a run starts. All faults are reported at once: unknown names, wrong types, values
out of range. You can add top-level blocks for pipelines of your own; they are left alone as long as their names
are not close to one of those below.

Defaults are those of `conf/base`, the demo; an environment may change them. `python docs/generate.py` writes this
page from `src/deepnoise/parameters.py` and `conf/base`.
"""
LONGEST_DEFAULT = 60
"""Characters of a default that still fit into a cell of a table."""
NAMES = {bool: "`true` or `false`", int: "integer", float: "number", str: "text", type(None): "`null`"}
"""Type -> how it is called on the page; any other type is a mapping."""
NOT_SET = object()
"""Placeholder for a value that ``conf/base`` does not have."""


def tables_page() -> str:
    """The text of ``docs/tables.md``."""
    sections = [_table_section(name, schema) for name, schema in SCHEMAS.items()]
    sections += [_keys_section(name, keys) for name, keys in (("scores", SCORES_KEYS), ("signal_leak_card", CARD_KEYS))]
    return "\n".join([TABLES_START, *sections])


def parameters_page(parameters: Mapping[str, Any]) -> str:
    """The text of ``docs/parameters.md``.

    Args:
        parameters: All blocks of ``conf/base``, as they are written there.
    """
    sections = []
    for name, block in BLOCKS.items():
        file = f"conf/base/parameters_{name}.yml"
        sections += _block_sections(name, block, parameters[name], f"../{file}", f"In [`{file}`](../{file}).")
    given = [name for name in ProjectParameters.model_fields if name not in BLOCKS]
    rows = [(f"`{name}`", _markdown(meanings(ProjectParameters)[name])) for name in given]
    sections.append(
        "## On the command line\n\nText values that are only given as `--params NAME=VALUE`.\n\n"
        + _grid(("name", "meaning"), rows)
    )
    return "\n".join([PARAMETERS_START, *sections])


@cache
def meanings(block: type[Block]) -> dict[str, str | None]:
    """Parameter -> its meaning: the text below it in the source, or its ``description``; None where there is neither.

    pydantic reads these texts too (``use_attribute_docstrings``), but while it is imported, which takes longer than all else at start-up.
    """
    found = {name: field.description for name, field in block.model_fields.items()}
    for base in block.__mro__:
        if not issubclass(base, Block):
            continue
        try:
            source = inspect.getsource(base)
        except (OSError, TypeError):  # made by create_model
            continue
        (definition,) = ast.parse(textwrap.dedent(source)).body
        assert isinstance(definition, ast.ClassDef)
        for parameter, text in pairwise(definition.body):
            match parameter, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(meaning))):
                    found[name] = found.get(name) or inspect.cleandoc(meaning)
    return found


def _table_section(name: str, schema: TableSchema) -> str:
    key = ", ".join(f"`{column}`" for column in schema.key) or "none (rows may repeat)"
    rows = [(column, declared.type, declared.meaning) for column, declared in schema.columns.items()]
    if schema.prefix is not None:
        pattern, meaning = PREFIXED[schema.prefix]
        rows.append((f"`{pattern}`", "float", meaning))
    return f"## {name}\n\n{schema.description}  \nKey: {key}\n\n" + _grid(("column", "type", "meaning"), rows)


def _keys_section(name: str, keys: Mapping[str, str]) -> str:
    return f"## {name}\n\nA JSON file with these top-level keys.\n\n" + _grid(("key", "meaning"), list(keys.items()))


def _block_sections(name: str, block: type[Block], values: Any, file: str, note: str = "") -> list[str]:
    """The section of a block and, below it, those of the blocks within it."""
    rows, inner = [], []
    for key, field in block.model_fields.items():
        declared = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        value = values.get(key, NOT_SET) if isinstance(values, Mapping) else NOT_SET
        value = field.default if value is NOT_SET and not field.is_required() else value
        nested = block_within(field.annotation)
        if nested is not None:
            single = nested is field.annotation  # else a collection of blocks, whose items have no default
            inner += _block_sections(
                f"{name}.{key}" + ("" if single else _item(field.annotation)),
                nested,
                value if single else NOT_SET,
                file,
            )
            if single:
                continue
        rows.append(
            (
                f"`{name}.{key}`",
                _default(value, file),
                unit_of(declared),
                values_of(declared),
                _markdown(meanings(block)[key]),
            )
        )
    title = f"{'#' * (2 if '.' not in name else 3)} {name}\n\n{_markdown(block.__doc__)}{' ' + note if note else ''}\n"
    grid = _grid(("name", "default", "unit", "values", "meaning"), rows) if rows else ""
    return [f"{title}\n{grid}" if grid else title, *inner]


def _item(annotation: Any) -> str:
    """How one item of a collection is written in a dotted name."""
    return ".NAME" if get_origin(annotation) is dict else "[]"


def _default(value: Any, file: str) -> str:
    if value is NOT_SET:
        return ""
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) or not value else value
    return f"`{text}`" if len(text) <= LONGEST_DEFAULT else f"[see file]({file})"


def unit_of(declared: Any) -> str:
    """The unit of a type; empty where it has none."""
    if get_origin(declared) is Annotated:
        units = [each.name for each in declared.__metadata__ if isinstance(each, Unit)]
        return units[0] if units else unit_of(get_args(declared)[0])
    return next((unit for inner in get_args(declared) if (unit := unit_of(inner))), "")


def values_of(declared: Any) -> str:
    """Allowed values of a type, in words, such as ``integer ≥ 1`` or ``list of numbers``."""
    constraints: list[Any] = []
    if get_origin(declared) is Annotated:
        declared, *metadata = get_args(declared)
        constraints = [
            c for each in metadata for c in getattr(each, "metadata", None) or [each]
        ]  # those of a Field too
    origin, inner = get_origin(declared), get_args(declared)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(values_of(each) for each in inner))
    if origin is list:
        items = [_plural(each) for each in (get_args(inner[0]) if _is_union(inner[0]) else inner)]
        return f"list of {' or '.join(items)}"
    if origin is dict:
        return "mapping" if inner[0] is str else f"mapping of {_plural(inner[0])} to {values_of(inner[1])}"
    return NAMES.get(declared, "mapping") + _interval(declared, constraints)


def _is_union(declared: Any) -> bool:
    return get_origin(declared) in (Union, types.UnionType)


def _plural(declared: Any) -> str:
    """Allowed values of the items of a collection."""
    text = values_of(declared)
    noun = text.split(" ")[0]
    return text.replace(noun, f"{noun}s", 1) if noun in ("integer", "number", "list", "mapping") else text


def _interval(declared: Any, constraints: list[Any]) -> str:
    """The range of a number, such as `` ≥ 0`` or `` in [0, 1)``; empty where it has no limits."""
    low = high = ""
    for constraint in constraints:
        match constraint:
            case annotated_types.Ge():
                low = f"[{constraint.ge}"
            case annotated_types.Gt():
                low = "[1" if declared is int and constraint.gt == 0 else f"({constraint.gt}"
            case annotated_types.Le():
                high = f"{constraint.le}]"
            case annotated_types.Lt():
                high = f"{constraint.lt})"
    if low and high:
        return f" in {low}, {high}"
    return f" {'≥' if low[0] == '[' else '>'} {low[1:]}" if low else ""


def _markdown(text: str | None) -> str:
    return " ".join((text or "").split())


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [
        "| " + " | ".join(cells) + " |" for cells in (head, *[[c.replace("|", "\\|") for c in row] for row in rows])
    ]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]]) + "\n"
