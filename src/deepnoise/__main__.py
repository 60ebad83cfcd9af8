"""``python -m deepnoise``: runs the packaged project; configuration by ``--conf-source``."""

from pathlib import Path
from typing import Any

from kedro.framework.project import configure_project


def main(*args: Any, **kwargs: Any) -> Any:
    """Run the command ``run`` of the packaged project."""
    configure_project(Path(__file__).parent.name)
    from deepnoise.cli import run

    return run(*args, **kwargs)


if __name__ == "__main__":
    main()
