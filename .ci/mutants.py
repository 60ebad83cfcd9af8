"""Do the tests notice a wrong line? Changes the code of the method in one place at a time: make mutants [COUNT=200] [SEED=1].

Each mutant drops a term, turns a sign, an operator or a comparison, swaps two arguments, or returns its input. It counts as killed if one of
the tests named for its file fails. Survivors are printed; those in EQUIVALENT change nothing that could be tested, and say why. Ends with 1
if any other survives.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TESTS = {
    "training/loop.py": "training/test_one_step.py training/test_loop.py training/test_pseudo_labels.py",
    "training/losses.py": "training/test_losses.py training/test_one_step.py",
    "training/schedules.py": "training/test_schedules.py training/test_one_step.py",
    "training/streams.py": "training/test_streams.py training/test_loop.py",
    "network/batch_norm.py": "network training/test_loop.py inference",
    "plate_balancing/methods.py": "plate_balancing",
    "plate_balancing/balancing.py": "plate_balancing test_names.py",
    "plate_balancing/groups.py": "plate_balancing",
    "plate_balancing/temperature.py": "plate_balancing",
    "evaluation/probe.py": "evaluation/test_leaks.py evaluation/test_evaluation.py",
    "evaluation/probe_tasks.py": "evaluation/test_leaks.py",
    "evaluation/reference_wells.py": "evaluation/test_leaks.py",
    "evaluation/retrieval.py": "evaluation/test_signal.py evaluation/test_interchange.py",
    "evaluation/embedding_correction.py": "evaluation/test_embedding_correction.py",
    "evaluation/compare_corrections.py": "evaluation/test_embedding_correction.py",
}
"""Module -> the tests that must notice, the quickest first."""
EQUIVALENT: dict[str, str] = {
    "evaluation/probe.py:__init__: == -> != in split_of_well == n": "0 < W - n < W says the same as 0 < n < W",
    "training/streams.py:batch_group: arguments swapped in np.char.add(np.char.add(experiment, '/'), table['plate'].to_numpy(dtype=str))": (
        "names of groups, which are only compared"
    ),
    "evaluation/probe.py:is_found: term dropped in PLANTS - plant": "it only stops later",
    "evaluation/probe.py:is_found: or -> and in hits >= POWER * PLANTS or hits + remaining < POWER * PLANTS": "it only never stops early",
    "evaluation/probe_tasks.py:_plates_of_position: sign dropped in -1": "the numbers begin with 0, which differs from both",
    "evaluation/retrieval.py:_average_precision: sign dropped in -np.inf": "both infinities stand for no well",
    "plate_balancing/groups.py:_log_odds: * -> / in 700.0 * float(np.sign(difference.sum()))": "the sign is 1 or -1 there",
    "plate_balancing/balancing.py:log_p: term dropped in rows[-1] - rows[0]": "rows are copied instead of cut out, to the same values",
}
"""Name of a mutant, as printed -> why no test can tell it from the original."""
OPERATORS: dict[type, tuple[type, str]] = {
    ast.Add: (ast.Sub, "+ -> -"), ast.Sub: (ast.Add, "- -> +"), ast.Mult: (ast.Div, "* -> /"), ast.Div: (ast.Mult, "/ -> *"),
    ast.Lt: (ast.GtE, "< -> >="), ast.GtE: (ast.Lt, ">= -> <"), ast.Gt: (ast.LtE, "> -> <="), ast.LtE: (ast.Gt, "<= -> >"),
    ast.Eq: (ast.NotEq, "== -> !="), ast.NotEq: (ast.Eq, "!= -> =="), ast.And: (ast.Or, "and -> or"), ast.Or: (ast.And, "or -> and"),
}  # fmt: skip
SYMMETRIC = ("max", "min", "np.maximum", "np.minimum")
"""Functions whose arguments can be swapped."""
SAID = ("logger.", "progress")
"""Functions that only tell a person something."""
SECONDS = 600
"""A mutant whose tests take longer hangs, and so is noticed."""


class Mutant(NamedTuple):
    """One changed place."""

    module: str
    name: str
    source: str


def mutants_of(module: str) -> list[Mutant]:
    """All mutants of a module."""
    source = (ROOT / "src/deepnoise" / module).read_text()
    tree = ast.parse(source)
    lines = [0]
    for line in source.splitlines(keepends=True):
        lines.append(lines[-1] + len(line.encode()))
    raw = source.encode()
    mutants = []
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        parameters = [a.arg for a in function.args.args if a.arg not in ("self", "cls")]
        for node in _own_nodes(function):
            for changed, what in _changes(node, parameters):
                start = lines[node.lineno - 1] + node.col_offset
                end = lines[node.end_lineno - 1] + node.end_col_offset
                new = raw[:start] + f"({ast.unparse(changed)})".encode() + raw[end:]
                name = f"{module}:{function.name}: {what} in {ast.unparse(node)[:80]}"
                mutants.append(Mutant(module, name, new.decode()))
    return mutants


def _own_nodes(function: ast.FunctionDef) -> Iterator[ast.expr]:
    """Expressions of a function's body that do something: no annotation, message or nested function."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.JoinedStr | ast.Raise | ast.Assert):
            continue
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith(SAID):
            continue
        if isinstance(node, ast.AnnAssign):
            waiting += [node.value] if node.value else []
            continue
        if isinstance(node, ast.Return) and node.value is not None:
            node.value.is_returned = True  # type: ignore[attr-defined]
        if isinstance(node, ast.expr):
            yield node
        waiting += list(ast.iter_child_nodes(node))


def _changes(node: ast.expr, parameters: list[str]) -> Iterator[tuple[ast.expr, str]]:
    """The changed forms of an expression, and what was changed."""
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        operator, what = OPERATORS[type(node.op)]
        yield ast.BinOp(node.left, operator(), node.right), what
        if isinstance(node.op, ast.Add | ast.Sub):
            yield node.left, "term dropped"
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in OPERATORS:
        operator, what = OPERATORS[type(node.ops[0])]
        yield ast.Compare(node.left, [operator()], node.comparators), what
    if isinstance(node, ast.BoolOp):
        operator, what = OPERATORS[type(node.op)]
        yield ast.BoolOp(operator(), node.values), what
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not | ast.Invert):
        yield node.operand, "sign dropped"
    if (
        isinstance(node, ast.Call)
        and ast.unparse(node.func) not in SYMMETRIC
        and len(node.args) >= 2
        and not any(isinstance(a, ast.Starred) for a in node.args[:2])
    ):
        yield ast.Call(node.func, [node.args[1], node.args[0], *node.args[2:]], node.keywords), "arguments swapped"
    if (
        getattr(node, "is_returned", False)
        and parameters
        and not (isinstance(node, ast.Name) and node.id == parameters[0])
    ):
        yield ast.Name(parameters[0]), "input returned"


def survives(mutant: Mutant, copy: Path) -> bool:
    """Whether all tests of a mutant pass in a copy of the project."""
    path = copy / "src/deepnoise" / mutant.module
    original = path.read_text()
    path.write_text(mutant.source)
    try:
        return passes(TESTS[mutant.module], copy).returncode == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        path.write_text(original)


def passes(tests: str, copy: Path) -> subprocess.CompletedProcess[bytes]:
    """Run tests in a copy of the project."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
    command += [f"tests/{name}" for name in tests.split()]
    environment = os.environ | {"PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, timeout=SECONDS)


def main() -> int:
    """Run a sample of mutants."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--count", type=int, default=200, help="mutants to try")
    options.add_argument("--seed", type=int, default=1, help="of the sample")
    options.add_argument("--module", choices=TESTS, help="of one module alone")
    chosen = options.parse_args()
    every = [mutant for module in TESTS if chosen.module in (None, module) for mutant in mutants_of(module)]
    sample = random.Random(chosen.seed).sample(every, min(chosen.count, len(every)))
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "project"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".venv", ".git", "data", "__pycache__", ".*_cache"))
        shutil.copytree(ROOT / "tests/data", copy / "tests/data", dirs_exist_ok=True)
        for tests in sorted({TESTS[mutant.module] for mutant in sample}):
            unchanged = passes(tests, copy)
            if unchanged.returncode:
                print(unchanged.stdout.decode()[-3000:], f"without any change, {tests} fail", sep="\n")
                return 1
        started = time.monotonic()
        for number, mutant in enumerate(sample, 1):
            alive = survives(mutant, copy)
            if alive and mutant.name not in EQUIVALENT:
                survivors.append(mutant.name)
            left = (time.monotonic() - started) / number * (len(sample) - number)
            state = "survives" if alive else "killed"
            print(f"{number}/{len(sample)} {state}: {mutant.name} ({left / 60:.0f} min left)", flush=True)
    print(f"{len(survivors)} of {len(sample)} mutants survive, of {len(every)} that there are (seed {chosen.seed})")
    for name in survivors:
        print(f"  {name}")
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())
