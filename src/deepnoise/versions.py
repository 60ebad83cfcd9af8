"""``kedro versions``: which versions of the catalog's entries there are, which may go, and which counts.

Kedro loads the version with the latest time stamp. So promoting an old one means copying it under a new stamp; pruning removes the oldest
and never the latest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from fsspec.implementations.local import LocalFileSystem
from kedro.framework.project import pipelines
from kedro.io import AbstractVersionedDataset, CatalogProtocol
from kedro.io.core import generate_timestamp

from deepnoise.errors import InputError, closest


@dataclass(frozen=True)
class Entry:
    """A versioned entry of the catalog.

    ``root`` is the folder of its versions on ``fs``; ``versions`` are their time stamps, oldest first.
    """

    name: str
    root: str
    versions: tuple[str, ...]
    fs: Any

    def size(self, version: str) -> int:
        """Bytes."""
        return int(self.fs.du(f"{self.root}/{version}"))


def entries(catalog: CatalogProtocol, names: Sequence[str] = ()) -> Iterator[Entry]:
    """The versioned entries that have versions, in the order of their names.

    Args:
        catalog: Of the environment.
        names: Only these; none: all that some pipeline reads or writes.

    Raises:
        InputError: A name is no entry, or its entry is not versioned.
    """
    known = sorted(
        {name for pipeline in pipelines.values() for name in pipeline.datasets() if not name.startswith("param")}
    )
    for name in names:
        if name not in known:
            raise InputError(f"no entry is called {name!r}.{closest(name, known)}")
        if not _is_versioned(catalog.get(name)):
            raise InputError(f"the entry {name} has no versions; `kedro versions list` names those that have")
    seen: set[str] = set()
    for name in sorted(names) or known:
        dataset: Any = catalog.get(name)
        if _is_versioned(dataset) and str(dataset._filepath) not in seen:  # one folder under two names is told once
            seen.add(str(dataset._filepath))
            fs = getattr(dataset, "_fs", None) or LocalFileSystem()
            root = str(dataset._filepath)
            stamps = sorted(PurePosixPath(path).parent.name for path in fs.glob(f"{root}/*/{PurePosixPath(root).name}"))
            if stamps:
                yield Entry(name, root, tuple(stamps), fs)


def prunable(entry: Entry, keep: int) -> tuple[str, ...]:
    """The versions beyond the last ``keep``.

    Raises:
        InputError: ``keep`` is under 1: the latest version is never removed.
    """
    if keep < 1:
        raise InputError(f"--keep is {keep}, expected at least 1: the latest version is never removed")
    return entry.versions[:-keep]


def prune(entry: Entry, versions: Sequence[str]) -> None:
    """Remove versions, oldest first."""
    for version in versions:
        entry.fs.rm(f"{entry.root}/{version}", recursive=True)


def promote(entry: Entry, version: str) -> str:
    """Make an old version the one that is loaded: copied whole under a new time stamp, which is returned.

    Raises:
        InputError: There is no such version.
    """
    if version not in entry.versions:
        raise InputError(f"{entry.name} has no version {version!r}; the latest: {', '.join(entry.versions[-5:])}")
    stamp = generate_timestamp()
    staged = f"{entry.root}.part"  # beside the versions, so that half a copy is none
    if entry.fs.exists(staged):
        entry.fs.rm(staged, recursive=True)
    entry.fs.copy(f"{entry.root}/{version}", staged, recursive=True)
    entry.fs.mv(staged, f"{entry.root}/{stamp}", recursive=True)
    return stamp


def _is_versioned(dataset: Any) -> bool:
    return isinstance(dataset, AbstractVersionedDataset) and dataset._version is not None
