"""Trained models and training checkpoints as safetensors and JSON: loading a file never executes code."""

from __future__ import annotations

import json
import logging
import os
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractVersionedDataset, DatasetError, Version

from deepnoise.datasets.json_files import read_json, write_atomically, write_json
from deepnoise.datasets.locks import locked
from deepnoise.datasets.read_only import ReadOnlyDataset
from deepnoise.errors import InputError, closest, first_few
from deepnoise.network.trained_model import ModelCard, TrainedModel

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)
FORMAT = "deepnoise model 2"


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write safetensors completely or not at all."""
    from safetensors.torch import save_file

    with write_atomically(path) as staged:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, staged)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read safetensors.

    Raises:
        InputError: The file does not exist, is truncated or is not a safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; run training") from error
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: not a safetensors file, or truncated ({error}); delete it and run training"
        ) from error


class ModelDataset(AbstractVersionedDataset):
    """A folder with ``<name>.safetensors`` and ``<name>.json`` per model.

    There is one model per fold, or per fold and cell type. ``model.json`` lists the models and is written
    last; without it the folder counts as absent.

    Catalog::

        teacher:
          type: deepnoise.datasets.model.ModelDataset
          filepath: data/06_models/demo/teacher
          versioned: true

    Args:
        filepath: The folder.
        version: Kedro's version, given by ``versioned: true``.
        metadata: For kedro-viz.
    """

    def __init__(
        self, *, filepath: str, version: Version | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        super().__init__(PurePosixPath(filepath), version, os.path.exists, _glob)
        self.metadata = metadata

    def save(self, data: dict[str, TrainedModel]) -> None:
        folder = Path(self._get_save_path())
        folder.mkdir(parents=True, exist_ok=True)
        for name, model in data.items():
            write_tensors(folder / f"{name}.safetensors", model.weights)
            write_json(folder / f"{name}.json", model.card.to_json())
        write_json(folder / "model.json", {"format": FORMAT, "models": sorted(data)})

    def load(self) -> dict[str, TrainedModel]:
        folder = Path(self._get_load_path())
        index = folder / "model.json"
        if not index.is_file():
            raise InputError(f"{folder}: no complete model; run training")
        listing = read_json(index)
        if listing.get("format") != FORMAT:
            raise InputError(f"{index}: format {listing.get('format')!r}, expected {FORMAT!r}; run training")
        models = {}
        for name in listing["models"]:
            weights = read_tensors(folder / f"{name}.safetensors")
            path = folder / f"{name}.json"
            models[name] = TrainedModel(weights, ModelCard.from_json(read_json(path), str(path)))
        return models

    def _exists(self) -> bool:
        try:
            return (Path(self._get_load_path()) / "model.json").is_file()
        except Exception:
            return False

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "version": self._version}


class EnsembleDataset(ReadOnlyDataset[dict[str, dict[str, TrainedModel]]]):
    """The additional models of an ensemble, chosen by name and version.

    Catalog::

        ensemble_models:
          type: deepnoise.datasets.model.EnsembleDataset
          folder: data/06_models/demo
          members: teacher@2026-01-31T12.00.00.000Z student

    Args:
        folder: Parent folder of the entries ``teacher`` and ``student``.
        members: A list, or one text separated by spaces, of ``student`` (the latest version) or
            ``teacher@2026-01-31T12.00.00.000Z`` (a given version).
        metadata: For kedro-viz.
    """

    read_only = "the members of an ensemble are written by training"

    def __init__(self, *, folder: str, members: str | list[str] = "", metadata: dict[str, Any] | None = None) -> None:
        self._folder = folder
        self._members = members.split() if isinstance(members, str) else list(members)
        self.metadata = metadata

    def load(self) -> dict[str, dict[str, TrainedModel]]:
        ensemble = {}
        for member in self._members:
            entry, _, version = member.partition("@")
            if entry not in ("teacher", "student"):
                raise InputError(
                    f"ensemble has {member!r}; allowed: teacher, student, teacher@VERSION, student@VERSION"
                )
            dataset = ModelDataset(filepath=f"{self._folder}/{entry}", version=Version(version or None, None))
            try:
                ensemble[member] = dataset.load()
            except DatasetError as error:
                versions = sorted(path.name for path in Path(f"{self._folder}/{entry}").glob("*"))
                raise InputError(
                    f"ensemble has {member!r}, which does not exist; "
                    f"versions of {entry}: {first_few(versions) or 'none'}.{closest(version, versions)}"
                ) from error
        return ensemble

    def _describe(self) -> dict[str, Any]:
        return {"folder": self._folder, "members": self._members}


def _glob(pattern: str) -> list[str]:
    from glob import glob

    return glob(pattern)


class TrainingState:
    """Resumable checkpoints of a training: one safetensors and one JSON file per model and stage.

    ``<name>.jsonl`` has the history so far, one JSON line per epoch, to follow while training runs.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def load(self, name: str, fingerprint: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Load a checkpoint: its tensors and its JSON record.

        Returns None, with a warning in the log, if the fingerprint of data and parameters has changed.
        """
        manifest = self.root / f"{name}.json"
        if not manifest.is_file():
            return None
        record = read_json(manifest)
        if record["mark"] != fingerprint:  # "mark" is the name of the fingerprint in the file
            logger.warning("%s: data or parameters have changed since it was saved; training starts over", manifest)
            return None
        return read_tensors(self.root / record["tensors"]), record

    def save(self, name: str, fingerprint: str, tensors: dict[str, torch.Tensor], record: dict[str, Any]) -> None:
        """Replace a checkpoint.

        The JSON file names the file of the tensors and is replaced after it, so a kill leaves the old
        checkpoint intact.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        file = f"{name}_epoch_{record['epoch']}.safetensors"
        write_tensors(self.root / file, tensors)
        write_json(self.root / f"{name}.json", {"mark": fingerprint, "tensors": file, **record})
        for old in self.root.glob(f"{name}_epoch_*.safetensors"):
            if old.name != file:
                old.unlink()
        history = "".join(json.dumps(epoch) + "\n" for epoch in record.get("history", []))
        with write_atomically(self.root / f"{name}.jsonl") as staged:
            Path(staged).write_text(history, encoding="utf-8")

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Keep other runs from training the model ``name`` here within a block.

        Raises:
            InputError: Another run trains it.
        """
        return locked(self.root / name, f"the model {name} in training_state")

    def where(self, name: str) -> str:
        """The path of a checkpoint, or "none yet"."""
        manifest = self.root / f"{name}.json"
        return str(manifest) if manifest.is_file() else "none yet"


class TrainingStateDataset(ReadOnlyDataset[TrainingState]):
    """The checkpoints of training, which the training node itself reads and writes.

    Catalog::

        training_state:
          type: deepnoise.datasets.model.TrainingStateDataset
          root: data/06_models/demo/training_state

    Args:
        root: The folder.
        metadata: For kedro-viz.
    """

    read_only = "training_state is written by training itself, epoch by epoch"

    def __init__(self, *, root: str, metadata: dict[str, Any] | None = None) -> None:
        self._root = Path(root)
        self.metadata = metadata

    def load(self) -> TrainingState:
        return TrainingState(self._root)

    def _exists(self) -> bool:
        return True  # an empty folder is a valid state

    def _describe(self) -> dict[str, Any]:
        return {"root": str(self._root)}
