"""Where optuna keeps its studies: a journal file, or a database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset

from deepnoise.errors import InputError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


class StudyStorageDataset(AbstractDataset["BaseStorage", "BaseStorage"]):
    """Hands a node the storage of its studies, which several processes may share.

    Args:
        filepath: Journal file; it is made, with its folder, when it is first used.
        url: Database as SQLAlchemy names it, such as ``sqlite:///studies.db``; takes the place of the file.
        credentials: ``{url: ...}``, for a URL that holds a password; takes the place of both.
        metadata: For kedro-viz.
    """

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
                    f"study_url: the database cannot be opened ({type(error).__name__}); expected something like sqlite:///studies.db"
                ) from error
        self._filepath.parent.mkdir(parents=True, exist_ok=True)
        path = str(self._filepath)
        try:
            return JournalStorage(JournalFileBackend(path))
        except Exception as error:
            raise InputError(f"{path}: not a journal of optuna ({error}); move it away to begin a new one") from error

    def save(self, data: BaseStorage) -> None:
        raise InputError("tuning_storage is written by the study itself, trial by trial")

    def _exists(self) -> bool:
        return True  # a storage without a study is a valid state

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "database": bool(self._url)}
