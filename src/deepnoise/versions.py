"""``kedro versions``: list, prune and promote the versions of catalog entries.

Kedro loads the version with the latest time stamp. Promoting an old version therefore copies it under a new
time stamp. Pruning removes the oldest versions and never the latest.
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

    ``root`` is the folder that holds its versions on the file system ``fs``; ``versions`` are time stamps,
    oldest first.
    """

    name: str
    root: str
    versions: tuple[str, ...]
    fs: Any

    def size(self, version: str) -> int:
        """Size of a version in bytes."""
        return int(self.fs.du(f"{self.root}/{version}"))


def entries(catalog: CatalogProtocol, names: Sequence[str] = ()) -> Iterator[Entry]:
    """Yield the entries that have versions, sorted by name.

    Args:
        catalog: Catalog of the environment.
        names: Entries to yield; without names, all entries that a pipeline reads or writes.

    Raises:
        InputError: There is no entry of that name, or it is not versioned.
    """
    entry_names = sorted(
        {name for pipeline in pipelines.values() for name in pipeline.datasets() if not name.startswith("param")}
    )
    for name in names:
        if name not in entry_names:
            raise InputError(f"no entry is called {name!r}.{closest(name, entry_names)}")
        if not _is_versioned(catalog.get(name)):
            raise InputError(
                f"the entry {name} has no versions; `kedro versions list` shows the entries that have some"
            )
    listed: set[str] = set()
    for name in sorted(names) or entry_names:
        dataset: Any = catalog.get(name)
        if _is_versioned(dataset) and str(dataset._filepath) not in listed:  # two names of one folder count once
            listed.add(str(dataset._filepath))
            fs = getattr(dataset, "_fs", None) or LocalFileSystem()
            root = str(dataset._filepath)
            stamps = sorted(PurePosixPath(path).parent.name for path in fs.glob(f"{root}/*/{PurePosixPath(root).name}"))
            if stamps:
                yield Entry(name, root, tuple(stamps), fs)


def prunable(entry: Entry, keep: int) -> tuple[str, ...]:
    """All versions but the latest ``keep``.

    Raises:
        InputError: ``keep`` is less than 1, which would remove the latest version.
    """
    if keep < 1:
        raise InputError(f"--keep is {keep}, expected at least 1: the latest version is never removed")
    return entry.versions[:-keep]


def prune(entry: Entry, versions: Sequence[str]) -> None:
    """Remove the given versions of an entry, in order."""
    for version in versions:
        entry.fs.rm(f"{entry.root}/{version}", recursive=True)


def promote(entry: Entry, version: str) -> str:
    """Copy an old version under a new time stamp, so that it is loaded from now on; return the time stamp.

    Raises:
        InputError: The entry has no such version.
    """
    if version not in entry.versions:
        raise InputError(f"{entry.name} has no version {version!r}; the latest are: {', '.join(entry.versions[-5:])}")
    stamp = generate_timestamp()
    staged = f"{entry.root}.part"  # beside the versions, so that an interrupted copy is not taken for one
    if entry.fs.exists(staged):
        entry.fs.rm(staged, recursive=True)
    entry.fs.copy(f"{entry.root}/{version}", staged, recursive=True)
    entry.fs.mv(staged, f"{entry.root}/{stamp}", recursive=True)
    return stamp


def _is_versioned(dataset: Any) -> bool:
    return isinstance(dataset, AbstractVersionedDataset) and dataset._version is not None
