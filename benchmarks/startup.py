"""Start-up of Kedro here against an empty Kedro project with the same plugins, timed in turn in one run.

    python benchmarks/startup.py [--rounds 7]

Two commands: ``kedro registry list``, and ``kedro run`` of the demo until its runner would start (the runner is replaced by an exit).
Prints the median of each in seconds and the ratio of the medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).parents[1]
EMPTY = {
    "pyproject.toml": '[tool.kedro]\npackage_name = "empty"\nproject_name = "Empty"\nkedro_init_version = "1.7.0"\nsource_dir = "src"\n',
    "src/empty/__init__.py": "",
    "src/empty/settings.py": "",
    "src/empty/pipeline_registry.py": (
        "from kedro.pipeline import Node, Pipeline\n\n\ndef same(x):\n    return x\n\n\ndef register_pipelines():\n"
        '    return {"__default__": Pipeline([Node(same, "params:a", "b")])}\n'
    ),
    "conf/base/catalog.yml": "{}\n",
    "conf/base/parameters.yml": "a: 1\n",
    "conf/local/.gitkeep": "",
}
UNTIL_RUNNER = (
    "import os, sys\nfrom kedro.runner import AbstractRunner\nAbstractRunner.run = lambda *a, **k: os._exit(0)\n"
    "sys.argv = ['kedro', 'run', *{arguments!r}]\nfrom kedro.framework.cli.cli import main\nmain()\n"
)


def seconds(folder: Path, command: list[str]) -> float:
    """Wall time of a command in a folder."""
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env=os.environ | {"DO_NOT_TRACK": "1"})
    return time.perf_counter() - started


def main() -> None:
    """Time both projects in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder)
        for name, content in EMPTY.items():
            (empty / name).parent.mkdir(parents=True, exist_ok=True)
            (empty / name).write_text(content)
        registry = [sys.executable, "-m", "kedro", "registry", "list"]
        until_runner = [sys.executable, "-c", UNTIL_RUNNER.format(arguments=[])]
        demo = [sys.executable, "-c", UNTIL_RUNNER.format(arguments=["--env", "test", "--pipelines", "demo"])]
        print(f"{'':34} {'empty':>8} {'here':>8} {'ratio':>6}   (median of {rounds}, seconds)")
        for name, of_empty, here in (
            ("kedro registry list", registry, registry),
            ("kedro run until its runner starts", until_runner, demo),
        ):
            for folder_, command in ((empty, of_empty), (PROJECT, here)):
                seconds(folder_, command)  # warm
            pairs = [(seconds(empty, of_empty), seconds(PROJECT, here)) for _ in range(rounds)]
            first, second = (statistics.median(values) for values in zip(*pairs, strict=True))
            print(f"{name:34} {first:8.2f} {second:8.2f} {second / first:6.2f}")


if __name__ == "__main__":
    main()
