"""Trained models and unfinished training, as safetensors + JSON: nothing on disk is ever executed."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset, AbstractVersionedDataset, DatasetError, Version

from deepnoise.datasets.files import read_json, write_json
from deepnoise.errors import InputError, closest, first_few
from deepnoise.network.trained_model import ModelCard, TrainedModel

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)
FORMAT = "deepnoise model 2"


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write safetensors whole or not at all."""
    from safetensors.torch import save_file

    staged = path.with_name(path.name + ".part")
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, staged)
    os.replace(staged, path)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read safetensors.

    Raises:
        InputError: The file is absent, truncated or something else.
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
    """A folder with ``<name>.safetensors`` and ``<name>.json`` for each model (a fold, or a cell type of one); the list is written last.

    Args:
        filepath: The folder.
        version: Kedro's version, given by ``versioned: true``.
        metadata: For kedro-viz.
    """

    def __init__(
        self, *, filepath: str, version: Version | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        super().__init__(PurePosixPath(filepath), version, lambda p: Path(p).exists(), _glob)
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
            raise InputError(f"{folder}: holds no complete model; run training")
        facts = read_json(index)
        if facts.get("format") != FORMAT:
            raise InputError(f"{index}: format {facts.get('format')!r}, expected {FORMAT!r}")
        models = {}
        for name in facts["models"]:
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


class EnsembleDataset(AbstractDataset[Any, dict[str, dict[str, TrainedModel]]]):
    """Loads further models by name and version, for an ensemble.

    Args:
        folder: Where the entries ``teacher`` and ``student`` lie.
        members: Words such as ``student`` (the last version) or ``teacher@2026-01-31T12.00.00.000Z``, with spaces between; or a list of them.
        metadata: For kedro-viz.
    """

    def __init__(self, *, folder: str, members: str | list[str] = "", metadata: dict[str, Any] | None = None) -> None:
        self._folder = folder
        self._members = members.split() if isinstance(members, str) else list(members)
        self.metadata = metadata

    def load(self) -> dict[str, dict[str, TrainedModel]]:
        found = {}
        for member in self._members:
            entry, _, version = member.partition("@")
            if entry not in ("teacher", "student"):
                raise InputError(f"ensemble names {member!r}; expected teacher or student, or these with @VERSION")
            dataset = ModelDataset(filepath=f"{self._folder}/{entry}", version=Version(version or None, None))
            try:
                found[member] = dataset.load()
            except DatasetError as error:
                versions = sorted(path.name for path in Path(f"{self._folder}/{entry}").glob("*"))
                raise InputError(
                    f"ensemble names {member!r}, which is not there; versions of {entry}: {first_few(versions) or 'none'}.{closest(version, versions)}"
                ) from error
        return found

    def save(self, data: Any) -> None:
        raise InputError("the members of an ensemble are written by training")

    def _describe(self) -> dict[str, Any]:
        return {"folder": self._folder, "members": self._members}


def _glob(pattern: str) -> list[str]:
    from glob import glob

    return glob(pattern)


class TrainingState:
    """Where unfinished training keeps its state: a safetensors and a JSON a model and stage.

    Beside them ``<name>.jsonl`` has the history so far, one JSON line an epoch, to be followed while training runs.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def load(self, name: str, mark: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """The state under a name; None, with a word in the log, where data or parameters have changed."""
        manifest = self.root / f"{name}.json"
        if not manifest.is_file():
            return None
        facts = read_json(manifest)
        if facts["mark"] != mark:
            logger.warning("%s: data or parameters have changed since it was saved; training starts afresh", manifest)
            return None
        return read_tensors(self.root / facts["tensors"]), facts

    def save(self, name: str, mark: str, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        """Replace the state; the manifest, written last, names the tensors, so a kill leaves the old state whole."""
        self.root.mkdir(parents=True, exist_ok=True)
        file = f"{name}_epoch_{facts['epoch']}.safetensors"
        write_tensors(self.root / file, tensors)
        write_json(self.root / f"{name}.json", {"mark": mark, "tensors": file, **facts})
        for old in self.root.glob(f"{name}_epoch_*.safetensors"):
            if old.name != file:
                old.unlink()
        followed = self.root / f"{name}.jsonl"
        staged = followed.with_name(followed.name + ".part")
        staged.write_text("".join(json.dumps(row) + "\n" for row in facts.get("history", [])), encoding="utf-8")
        os.replace(staged, followed)

    def where(self, name: str) -> str:
        """Path of the last state under a name, or that there is none."""
        manifest = self.root / f"{name}.json"
        return str(manifest) if manifest.is_file() else "none yet"


class TrainingStateDataset(AbstractDataset[TrainingState, TrainingState]):
    """Hands a node the folder in which it may keep and find its state.

    Args:
        root: The folder.
        metadata: For kedro-viz.
    """

    def __init__(self, *, root: str, metadata: dict[str, Any] | None = None) -> None:
        self._root = Path(root)
        self.metadata = metadata

    def load(self) -> TrainingState:
        return TrainingState(self._root)

    def save(self, data: TrainingState) -> None:
        raise InputError("training_state is written by training itself, epoch by epoch")

    def _exists(self) -> bool:
        return True  # an empty folder is a valid state

    def _describe(self) -> dict[str, Any]:
        return {"root": str(self._root)}
