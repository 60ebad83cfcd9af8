"""Storage of optuna studies: a journal file or a database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepnoise.datasets.read_only import ReadOnlyDataset
from deepnoise.errors import InputError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


class StudyStorageDataset(ReadOnlyDataset["BaseStorage"]):
    """The optuna storage that a tuning node writes its trials to. Several processes may share it.

    Catalog::

        tuning_storage:
          type: deepnoise.datasets.study.StudyStorageDataset
          filepath: data/08_reporting/demo/tuning.journal
          url: sqlite:///studies.db

    Args:
        filepath: Journal file. It is created, with its folder, on first use.
        url: SQLAlchemy URL of a database, such as ``sqlite:///studies.db``; used instead of the file.
        credentials: ``{url: ...}``, for a URL with a password; used instead of both.
        metadata: For kedro-viz.
    """

    read_only = "tuning_storage is written by the study itself, trial by trial"

    def __init__(
        self,
        *,
        filepath: str,
        url: str | None = None,
        credentials: dict[str, str] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._filepath = Path(filepath)
        self._url = (credentials or {}).get("url") or url
        self.metadata = metadata

    def load(self) -> BaseStorage:
        from optuna.storages import JournalStorage, RDBStorage
        from optuna.storages.journal import JournalFileBackend

        if self._url:
            try:
                return RDBStorage(self._url, heartbeat_interval=60)
            except Exception as error:
                raise InputError(
                    f"study_url: the database cannot be opened ({type(error).__name__}); "
                    "expected a URL such as sqlite:///studies.db"
                ) from error
        self._filepath.parent.mkdir(parents=True, exist_ok=True)
        path = str(self._filepath)
        try:
            return JournalStorage(JournalFileBackend(path))
        except Exception as error:
            raise InputError(f"{path}: not an optuna journal ({error}); move it away to start a new one") from error

    def _exists(self) -> bool:
        return True  # a storage without a study is a valid state

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "database": bool(self._url)}
