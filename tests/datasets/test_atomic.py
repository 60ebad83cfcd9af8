"""JSON, text, figures and images come back as they were saved, and a write that breaks off leaves no version."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from kedro.io import DatasetError
from kedro.io.core import Version
from PIL import Image

from deepnoise.datasets.atomic import AtomicJSONDataset, AtomicTextDataset, FigureDataset
from deepnoise.datasets.image_file import ImageFileDataset
from deepnoise.datasets.run_record import AbsentDataset, RunRecordDataset
from deepnoise.datasets.table import PREVIEW, TableDataset

PICTURE = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3))
CASES = [
    (AtomicJSONDataset, "scores.json", {"a": [1, None, "é"]}, lambda x: x),
    (AtomicTextDataset, "report.html", "<p>“é”</p>", lambda x: x),
    (FigureDataset, "plot.json", go.Figure(go.Bar(x=[1, 2], y=["a", "b"])), lambda figure: figure.to_dict()),
    (ImageFileDataset, "sheet.png", PICTURE, lambda image: np.asarray(image).tolist()),
]


def made(kind, path, load=None, save=None):
    return kind(filepath=str(path), version=Version(load, save))


@pytest.mark.parametrize(("kind", "name", "value", "same"), CASES, ids=[c[0].__name__ for c in CASES])
def test_what_was_saved_is_loaded_and_shown(tmp_path, kind, name, value, same):
    dataset = made(kind, tmp_path / name)
    dataset.save(value)
    assert same(dataset.load()) == same(value)
    assert len(list((tmp_path / name).rglob("*.part"))) == 0
    if hasattr(dataset, "preview"):
        assert dataset.preview()
    with pytest.raises(DatasetError):
        made(kind, tmp_path / name, save=dataset.resolve_save_version()).save(value)  # never over an old version


@pytest.mark.parametrize(("kind", "name", "value", "same"), CASES, ids=[c[0].__name__ for c in CASES])
def test_a_write_that_breaks_off_leaves_no_version(tmp_path, monkeypatch, kind, name, value, same):
    first, second = made(kind, tmp_path / name, save="2026-01-01T00.00.00.000Z"), made(kind, tmp_path / name, save="2026-01-02T00.00.00.000Z")  # fmt: skip
    first.save(value)

    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr(second._fs, "mv", full_disk)
    with pytest.raises(DatasetError, match="no space left"):
        second.save(value)
    monkeypatch.undo()
    assert made(kind, tmp_path / name).resolve_load_version() == "2026-01-01T00.00.00.000Z"


def test_a_preview_shows_the_first_rows_and_columns_of_a_wide_table(tmp_path):
    table = pd.DataFrame({"id_code": [f"E_1_A{i:02d}" for i in range(1, 21)], "tier": "T1"})
    table = table.assign(**{f"score_{c}": 0.5 for c in range(40)})
    dataset = TableDataset(schema="well_scores", filepath=str(tmp_path / "t.parquet"))
    dataset.save(table)
    shown = dataset.preview()
    assert (len(shown["data"]), len(shown["columns"])) == PREVIEW and shown["columns"][:2] == ["id_code", "tier"]
    dataset.save(table.head(0))
    assert dataset.preview()["data"] == []


def test_the_record_of_runs_is_empty_at_first_and_absent_entries_load_nothing(tmp_path):
    record = RunRecordDataset(filepath=str(tmp_path / "deep" / "run_record.json"))
    assert record.load() == {} and not record.exists()
    record.save({"training.pretrain": {"seconds": 1.5}})
    assert record.load()["training.pretrain"]["seconds"] == 1.5
    assert AbsentDataset().load() is None and not AbsentDataset().exists()
