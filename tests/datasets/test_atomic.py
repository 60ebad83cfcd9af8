"""JSON, text, figures and images load as they were saved, and an interrupted write leaves no version."""

import os

import fsspec
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from kedro.io import DatasetError
from kedro.io.core import Version
from PIL import Image

from deepnoise.datasets.atomic import AtomicJSONDataset, AtomicTextDataset, FigureDataset
from deepnoise.datasets.image_file import ImageFileDataset
from deepnoise.datasets.json_files import write_atomically
from deepnoise.datasets.run_record import AbsentDataset, RunRecordDataset
from deepnoise.datasets.table import PREVIEW, TableDataset

IMAGE = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3))
CASES = [
    (AtomicJSONDataset, "scores.json", {"a": [1, None, "é"]}, lambda x: x),
    (AtomicTextDataset, "report.html", "<p>“é”</p>", lambda x: x),
    (FigureDataset, "plot.json", go.Figure(go.Bar(x=[1, 2], y=["a", "b"])), lambda figure: figure.to_dict()),
    (ImageFileDataset, "sheet.png", IMAGE, lambda image: np.asarray(image).tolist()),
]


def versioned(dataset_class, path, load=None, save=None):
    return dataset_class(filepath=str(path), version=Version(load, save))


@pytest.mark.parametrize(("dataset_class", "name", "value", "comparable"), CASES, ids=[c[0].__name__ for c in CASES])
def test_a_saved_value_loads_again_and_has_a_preview(tmp_path, dataset_class, name, value, comparable):
    dataset = versioned(dataset_class, tmp_path / name)
    dataset.save(value)
    assert comparable(dataset.load()) == comparable(value)
    assert len(list((tmp_path / name).rglob("*.part"))) == 0
    if hasattr(dataset, "preview"):
        assert dataset.preview()
    with pytest.raises(DatasetError):
        versioned(dataset_class, tmp_path / name, save=dataset.resolve_save_version()).save(
            value
        )  # never over an old version


@pytest.mark.parametrize(("dataset_class", "name", "value", "comparable"), CASES, ids=[c[0].__name__ for c in CASES])
def test_an_interrupted_write_leaves_no_version(tmp_path, monkeypatch, dataset_class, name, value, comparable):
    first, second = versioned(dataset_class, tmp_path / name, save="2026-01-01T00.00.00.000Z"), versioned(dataset_class, tmp_path / name, save="2026-01-02T00.00.00.000Z")  # fmt: skip
    first.save(value)

    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(DatasetError, match="no space left"):
        second.save(value)
    monkeypatch.undo()
    assert versioned(dataset_class, tmp_path / name).resolve_load_version() == "2026-01-01T00.00.00.000Z"


def test_a_preview_shows_the_first_rows_and_columns_of_a_wide_table(tmp_path):
    table = pd.DataFrame({"id_code": [f"E_1_A{i:02d}" for i in range(1, 21)], "tier": "T1"})
    table = table.assign(**{f"score_{c}": 0.5 for c in range(40)})
    dataset = TableDataset(filepath=str(tmp_path / "t.parquet"))
    dataset.save(table)
    preview = dataset.preview()
    assert (len(preview["data"]), len(preview["columns"])) == PREVIEW
    assert preview["columns"][:2] == ["id_code", "tier"]
    dataset.save(table.head(0))
    assert dataset.preview()["data"] == []


def test_the_record_of_runs_is_empty_at_first_and_absent_entries_load_nothing(tmp_path):
    record = RunRecordDataset(filepath=str(tmp_path / "deep" / "run_record.json"))
    assert record.load() == {} and not record.exists()
    record.save({"training.pretrain": {"seconds": 1.5}})
    assert record.load()["training.pretrain"]["seconds"] == 1.5
    assert AbsentDataset().load() is None and not AbsentDataset().exists()


@pytest.mark.parametrize("url", ["file", "memory"])
def test_an_interrupted_write_leaves_the_old_file_as_it_was(tmp_path, url):
    fs = fsspec.filesystem(url)
    path = f"{tmp_path}/x.txt"
    fs.makedirs(str(tmp_path), exist_ok=True)
    for content in (b"first", b"second"):
        with write_atomically(path, fs) as staged, fs.open(staged, "wb") as file:
            file.write(content)
    assert fs.cat_file(path) == b"second" and not fs.exists(f"{path}.part")
    with pytest.raises(KeyboardInterrupt), write_atomically(path, fs) as staged, fs.open(staged, "wb") as file:
        file.write(b"ha")
        raise KeyboardInterrupt
    assert fs.cat_file(path) == b"second"
