"""Locks of what only one run at a time may write. A lock ends with its process, however that ends."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from deepnoise.errors import InputError


class Lock:
    """An exclusive lock on a file or folder of the local disk, beside which it keeps ``<path>.lock``.

    The operating system releases it when the process ends, also when it is killed. ``<path>.holder`` says who holds it.

    Args:
        path: File or folder that is to be written; it need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        from filelock import FileLock

        self._path = Path(path)
        self._holder = Path(f"{path}.holder")
        self._lock = FileLock(f"{path}.lock")
        self._made: list[Path] = []  # folders that did not exist

    def acquire(self, what: str) -> None:
        """Take the lock.

        Args:
            what: What is written, for the error of another run: ``image_store``.

        Raises:
            InputError: Another process holds it; says which one.
        """
        from filelock import Timeout

        self._made = [folder for folder in self._path.parents if not folder.exists()]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            holder = self._holder.read_text(encoding="utf-8") if self._holder.is_file() else "another process"
            raise InputError(
                f"{what} ({self._path}) is being written by {holder}; wait until it has ended, or give this run another "
                "data_root (a simulated screen: another raw_root)"
            ) from error
        started = datetime.now(UTC).isoformat(timespec="seconds")
        self._holder.write_text(f"process {os.getpid()} on {socket.gethostname()} since {started}", encoding="utf-8")

    def release(self) -> None:
        """Give the lock back; folders made for it that are still empty go with it."""
        if not self._lock.is_locked:
            return
        self._holder.unlink(missing_ok=True)
        Path(self._lock.lock_file).unlink(missing_ok=True)  # while it is held: nobody else can be writing
        self._lock.release()
        for folder in self._made:
            try:
                folder.rmdir()
            except OSError:  # not empty
                break


@contextmanager
def locked(path: str | Path, what: str) -> Iterator[None]:
    """Hold the lock of a file or folder within a block.

    Args:
        path: See :class:`Lock`.
        what: See :meth:`Lock.acquire`.

    Raises:
        InputError: Another process holds it.
    """
    lock = Lock(path)
    lock.acquire(what)
    try:
        yield
    finally:
        lock.release()
