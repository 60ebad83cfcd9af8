"""Files and names of earlier versions: stores and models still load, and an error gives the new name of every earlier one.

``tests/data/written_by_10af05b.zip`` was written by commit 10af05b: the image store of two sites with its raw images, a model, the
checkpoint after the first of its two epochs, and its parameters.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from deepnoise import renamed
from deepnoise.datasets.files import SiteFiles
from deepnoise.datasets.folder import Folder
from deepnoise.datasets.image_store import ImageStoreDataset
from deepnoise.datasets.model import ModelDataset, TrainingState
from deepnoise.errors import InputError
from deepnoise.ingestion.packing import plan_packing
from deepnoise.network.network import Network
from deepnoise.network.trained_model import ModelCard
from deepnoise.parameters import TrainingParameters
from deepnoise.tables import validate_table
from deepnoise.training import trainer as trainer_module
from deepnoise.training.checkpoint import unpack
from deepnoise.training.run_folds import view_of_fold
from deepnoise.training.trainer import Trainer
from tests.conftest import PROJECT, refused
from tests.training.helpers import as_screen


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("written_by_10af05b")
    with zipfile.ZipFile(PROJECT / "tests/data/written_by_10af05b.zip") as archive:
        archive.extractall(folder)
    return folder


def test_an_image_store_loads_and_is_not_packed_again(written):
    dataset = ImageStoreDataset(root=str(written / "image_store"))
    store = dataset.load()
    assert store.channels == ["dna", "actin"] and store.shape == (2, 8, 8)
    raw = np.asarray(Image.open(written / "raw" / "B03_s1_w2.png"))
    np.testing.assert_array_equal(store.read("e", "1", np.array([1]))[0, 1], raw)
    names = {well: tuple(f"{well}_s1_w{c}.png" for c in (1, 2)) for well in ("B02", "B03")}
    rows = [(f"e_1_{well}", "e", "1", well, 1, files, ()) for well, files in names.items()]
    columns = ["id_code", "experiment", "plate", "well", "site", "files", "missing"]
    sites = pd.DataFrame(rows, columns=columns)

    class Unread(SiteFiles):
        def read(self, files):
            raise AssertionError("an image was read again")

    dataset.save(plan_packing(sites, Unread(Folder(written / "raw"), store.channels, sites), checksum=True))
    assert len(dataset.load().rows()) == 2


def test_a_model_loads_and_predicts(written):
    content = json.loads((written / "pretrained" / "fold_0.json").read_text())
    (model,) = ModelDataset(filepath=str(written / "pretrained")).load().values()
    assert model.card.validation_top1 == content["validation_t1"] and model.card.network.backbone == "test_efficientnet"
    assert content["network"].pop("cell_types") == 0  # of an option that was removed
    assert model.card.identity() == {key: content[key] for key in model.card.identity()}
    network = Network(model.card.network).eval()
    network.load_state_dict(model.weights)
    with torch.inference_mode():
        logits = network(torch.zeros(1, len(model.card.channels), 24, 24))
    assert logits.shape == (1, len(model.card.classes))


def test_a_checkpoint_is_readable_but_not_continued(written, screen, wells, folds, monkeypatch):
    """Its other epochs would draw other random numbers: since then, each batch has a generator of its own."""
    monkeypatch.setattr(trainer_module, "__version__", "0.1.0")
    given_later = {"compile": False}  # conf/base gives what an environment of before does not
    values = given_later | json.loads((written / "parameters.json").read_text())
    for removed in (name.split(".")[1:] for name in renamed.REMOVED if name.startswith("training.")):
        block = values[removed[0]] if len(removed) == 2 else values
        del block[removed[-1]]
    parameters = TrainingParameters.model_validate(values)
    full_screen = as_screen(screen, wells, folds)
    state = TrainingState(written / "training_state")
    trainer = Trainer(view_of_fold(full_screen, 0, parameters), full_screen, parameters, state)
    content = json.loads((written / "training_state" / "fold_0_pretrain.json").read_text())
    saved = unpack(*state.load("fold_0_pretrain", content["mark"]))
    assert saved.epoch == 0 and saved.history[0]["student_top1"] == content["history"][0]["student_t1"]
    assert trainer.fingerprint != content["mark"]
    assert state.load("fold_0_pretrain", trainer.fingerprint) is None


def test_a_card_names_missing_keys_and_leaves_unknown_ones_out(written, caplog):
    content = json.loads((written / "pretrained" / "fold_0.json").read_text())
    with pytest.raises(InputError, match="'targets' is missing"):
        ModelCard.from_json({key: value for key, value in content.items() if key != "targets"})
    assert ModelCard.from_json(content | {"note": 1}) == ModelCard.from_json(content)
    assert "unknown keys are left out: note" in caplog.text
    assert "cell_types" not in caplog.text
    conditioned = content | {"network": content["network"] | {"cell_types": 2}}
    with pytest.raises(
        InputError, match=r"pretrained: the network is conditioned on the cell type \(one_hot\), which was removed"
    ):
        ModelCard.from_json(conditioned, "pretrained")


@pytest.mark.parametrize("name", [name for name in renamed.REMOVED if name.startswith("training.")])
def test_a_removed_parameter_says_why(name):
    assert f"{name!r}" in (text := refused("run", "--env", "test", "--params", f"{name}=0.1"))
    assert "It was removed, because no other value than its default helped" in text


# names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), renamed.DATASET_TYPES.items())
def test_an_earlier_dataset_type_is_answered_with_its_new_name(old, new):
    import importlib

    module, name = new.rsplit(".", 1)
    assert hasattr(importlib.import_module(module), name)
    with pytest.raises(InputError, match=f"entry x has the type '{old}'. It is now called '{new}'"):
        renamed.check_catalog({"x": {"type": old}})


def test_an_earlier_entry_is_answered_with_its_new_name():
    with pytest.raises(InputError, match="no entry 'further_models'. It is now called 'ensemble_models'"):
        renamed.check_catalog({"further_models": {"type": "MemoryDataset"}, "_anchor": {"type": "x"}})
    renamed.check_catalog({"wells": {"type": "MemoryDataset"}, "_further_models": {}})
    with pytest.raises(InputError, match="entry folds has the key 'schema'. It is now called 'table'"):
        renamed.check_catalog({"folds": {"type": "deepnoise.datasets.table.EmptyTableDataset", "schema": "folds"}})


@pytest.mark.parametrize(("old", "new"), renamed.COLUMNS.items())
def test_an_earlier_column_is_answered_with_its_new_name(old, new):
    with pytest.raises(InputError, match=f"{old}.*It is now called '{new}'. Run again: kedro run --pipelines [pt]"):
        schema = "training_history" if new.endswith("top1") else "calls"
        validate_table(pd.DataFrame({"id_code": ["a"], old: ["b"]}), schema, "x")


def test_earlier_and_removed_nodes_are_answered():
    text = refused("run", "--env", "test", "--nodes", "evaluation.format_scores,normalization.normalise_features")
    assert "'evaluation.format_scores': It was removed, because the node evaluation.write_chapter" in text
    assert "'normalization.normalise_features': It is now called 'normalization.normalize_features'" in text


def test_the_changelog_lists_every_renamed_and_removed_name():
    text = (PROJECT / "CHANGELOG.md").read_text()
    tables = (renamed.DATASET_TYPES, renamed.ENTRIES, renamed.COLUMNS, renamed.PARAMETERS, renamed.NODES)
    names = [name for table in tables for pair in table.items() for name in pair] + list(renamed.REMOVED)
    assert [name for name in names if f"`{name}`" not in text] == []
