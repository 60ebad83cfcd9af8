"""Datasets load what they saved, name a damaged file, and never take half a file for a whole one."""

import numpy as np
import pandas as pd
import pytest
import torch
from kedro.io import DatasetError, Version
from PIL import Image

from deepnoise.datasets.exclude_list import ExcludeListDataset
from deepnoise.datasets.external_scores import ExternalScoresDataset
from deepnoise.datasets.long_table import LongTableDataset
from deepnoise.datasets.model import ModelDataset, TrainingState
from deepnoise.datasets.ome_zarr import OmeZarrImagesDataset
from deepnoise.datasets.rxrx1 import RxRx1ImagesDataset, RxRx1LabelsDataset, RxRx1TablesDataset, RxRx1WellsDataset
from deepnoise.datasets.simulated import COMPLETION_FILE, SimulatedImagesDataset, SimulatedTablesDataset
from deepnoise.datasets.table import EmptyTableDataset, TableDataset
from deepnoise.errors import InputError
from deepnoise.network.trained_model import ModelCard, TrainedModel

# a simulated screen on disk ----------------------------------------------------------------------------------------


def test_a_simulated_screen_can_be_read_as_rxrx1(raw):
    root, small = raw
    table = RxRx1TablesDataset(root=str(root)).load()
    assert len(table) == len(small)
    hidden = (table["split"] == "heldout") & (table["well_type"] == "treatment")
    assert table.loc[hidden, "perturbation"].isna().all() and table.loc[~hidden, "perturbation"].notna().all()
    labels = RxRx1LabelsDataset(filepath=str(root / "test_labels.csv")).load()
    assert set(labels["id_code"]) == set(
        RxRx1WellsDataset(root=str(root)).load().query("split == 'heldout' and target")["id_code"]
    )
    images = SimulatedImagesDataset(root=str(root)).load()
    assert len(images.found) == 2 * len(small) and images.read(images.found["files"].iloc[0]).shape == (6, 24, 24)
    assert "sirna" not in pd.read_csv(root / "test.csv").columns


def test_the_simulation_refuses_a_folder_that_is_not_its_own(tmp_path, design):
    (tmp_path / "thesis.docx").write_text("precious")
    with pytest.raises(
        DatasetError, match=f"thesis.docx and no {COMPLETION_FILE}: not a folder of the simulation, nothing was written"
    ):
        SimulatedTablesDataset(root=str(tmp_path)).save(design)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.docx"]


def test_simulating_again_deletes_the_old_screen(raw, tmp_path, design):
    dataset = SimulatedTablesDataset(root=str(tmp_path / "s"))
    dataset.save(design)
    (tmp_path / "s" / "train").mkdir()
    dataset.save(design)
    assert not (tmp_path / "s" / "train").exists()


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("train.csv", ",sirna", ",sirma", "'sirna' is missing.*Did you mean 'sirma'"),
        ("train_controls.csv", ",8,", ",eight,", "unknown siRNA 'eight'"),
        ("test_controls.csv", "B02", "", "empty field in line"),
    ],
)
def test_bad_rxrx1_tables_name_file_and_line(raw, tmp_path, file, old, new, message):
    for source in raw[0].glob("*.csv"):
        text = source.read_text()
        (tmp_path / source.name).write_text(text.replace(old, new) if source.name == file else text)
    with pytest.raises(DatasetError, match=f"{file}.*{message}"):
        RxRx1TablesDataset(root=str(tmp_path)).load()


def test_missing_channels_are_listed_and_a_folder_without_images_is_refused(raw, tmp_path):
    (tmp_path / "train" / "A-01" / "Plate1").mkdir(parents=True)
    dataset = RxRx1ImagesDataset(root=str(tmp_path), channels=["n", "er"])
    with pytest.raises(DatasetError, match="no image <split>/<experiment>"):
        dataset.load()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "train" / "A-01" / "Plate1" / "B02_s1_w1.png")
    assert dataset.load().found["missing"].tolist() == [("train/A-01/Plate1/B02_s1_w2.png",)]
    with pytest.raises(DatasetError, match="no such folder"):
        RxRx1ImagesDataset(root=str(tmp_path / "none"), channels=["n"]).load()


# tables and models ---------------------------------------------------------------------------------------------------


def test_a_kill_while_a_table_is_written_leaves_no_version(tmp_path, monkeypatch):
    version = Version(None, "2026-01-01T00.00.00.000Z")
    dataset = TableDataset(filepath=str(tmp_path / "labels.parquet"), version=version)

    def dies(self, file, **arguments):
        file.write(b"PAR1 half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pd.DataFrame, "to_parquet", dies)
        dataset.save(pd.DataFrame({"id_code": ["a"], "perturbation": ["1"]}))
    latest = TableDataset(filepath=str(tmp_path / "labels.parquet"), version=Version(None, None))
    assert not latest.exists()


def test_an_absent_table_loads_empty_and_cannot_be_written():
    dataset = EmptyTableDataset(table="site_logits")
    assert dataset.load().empty and "id_code" in dataset.load().columns
    with pytest.raises(DatasetError, match="this environment has no site_logits; the entry cannot be written"):
        dataset.save(dataset.load())
    with pytest.raises(InputError, match="unknown table 'site_logit'.*Did you mean 'site_logits'"):
        EmptyTableDataset(table="site_logit")


def card(fold, **values):
    content = {
        "fold": fold, "network": dict(backbone="test_resnet", channels=1, classes=2, head="softmax", scale=1.0, margin=0.0),
        "channels": ["a"], "image_size": [8, 8], "classes": ["x", "y"], "targets": ["x", "y"], "tier": "T1", "training_plates": ["E/1"],
        "normalization": {"strategy": "plate", "reference": "all", "illumination": "none"}, "fingerprints": {}, "parameters": {},
    }  # fmt: skip
    return ModelCard.from_json(content | values)


def models():
    return {
        "fold_0": TrainedModel({"w": torch.arange(4.0)}, card(0, validation_top1=np.float64(0.5))),
        "fold_2": TrainedModel({"w": torch.ones(2, 2)}, card(2)),
    }


def test_models_load_as_they_were_saved(tmp_path):
    dataset = ModelDataset(filepath=str(tmp_path / "teacher"))
    assert not dataset.exists()
    dataset.save(models())
    loaded = dataset.load()
    assert loaded.keys() == {"fold_0", "fold_2"} and loaded["fold_0"].card == card(0, validation_top1=0.5)
    torch.testing.assert_close(loaded["fold_2"].weights["w"], torch.ones(2, 2))
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "fold_0.safetensors").write_bytes((f / "fold_0.safetensors").read_bytes()[:40]), "fold_0.safetensors: not a safetensors file, or truncated"),
        (lambda f: (f / "fold_0.safetensors").write_bytes(b"\x80\x04pickle" * 9), "fold_0.safetensors: not a safetensors file"),
        (lambda f: (f / "fold_2.safetensors").unlink(), "fold_2.safetensors: no such file"),
        (lambda f: (f / "model.json").unlink(), "no complete model"),
        (lambda f: (f / "model.json").write_text('{"format": "other"}'), "format 'other', expected"),
        (lambda f: (f / "fold_0.json").write_text("{"), "fold_0.json: damaged"),
    ],
)  # fmt: skip
def test_a_damaged_model_names_its_file(tmp_path, damage, message):
    dataset = ModelDataset(filepath=str(tmp_path / "teacher"))
    dataset.save(models())
    damage(tmp_path / "teacher")
    with pytest.raises(DatasetError, match=message):
        dataset.load()


def test_training_state_survives_a_kill_between_its_two_files(tmp_path):
    state = TrainingState(tmp_path)
    state.save("fold_0", "m", {"w": torch.zeros(2)}, {"epoch": 0})
    (tmp_path / "fold_0_epoch_1.safetensors").write_bytes(b"half")  # killed before the manifest was replaced
    tensors, record = state.load("fold_0", "m")
    assert record["epoch"] == 0 and tensors["w"].tolist() == [0, 0]
    state.save("fold_0", "m", {"w": torch.ones(2)}, {"epoch": 1})
    assert state.load("fold_0", "m")[0]["w"].tolist() == [1, 1] and len(list(tmp_path.glob("*.safetensors"))) == 1
    assert state.load("fold_0", "other") is None and state.load("fold_1", "m") is None


# external scores ------------------------------------------------------------------------------------------------


def test_scores_are_read_from_submissions_neighbours_and_tables(tmp_path):
    (tmp_path / "votes").mkdir()
    for name, sirna in (("one", [3, 4]), ("two", [3, 5])):
        pd.DataFrame({"id_code": ["a", "b"], "sirna": sirna}).to_csv(tmp_path / "votes" / f"{name}.csv", index=False)
    votes = ExternalScoresDataset(filepath=str(tmp_path / "votes")).load()
    assert votes.groupby(["id_code", "perturbation"])["score"].sum().to_dict() == {
        ("a", "3"): 2.0,
        ("b", "4"): 1.0,
        ("b", "5"): 1.0,
    }
    assert set(votes["tier"]) == {"unknown"}
    near = pd.DataFrame(
        {
            "id_code": ["a", "a"],
            "site": [1, 2],
            "label1": [7, 7],
            "sim1": [0.9, 0.8],
            "label2": [8, -1],
            "sim2": [0.1, -3.4e38],
        }
    )
    near.to_csv(tmp_path / "near.csv.gz", index=False)
    loaded = ExternalScoresDataset(filepath=str(tmp_path / "near.csv.gz"), tier="T2").load()
    assert loaded.groupby("perturbation")["score"].sum().to_dict() == pytest.approx({"7": 1.7, "8": 0.1}) and set(
        loaded["tier"]
    ) == {"T2"}
    wide = pd.DataFrame({"id_code": ["a"], "score_1": [0.5], "score_2": [1.5]})
    wide.to_parquet(tmp_path / "wide.parquet")
    assert ExternalScoresDataset(filepath=str(tmp_path / "wide.parquet")).load()["score_2"].tolist() == [1.5]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; give the scores as --params scores=PATH"),
        ("id_code,guess\na,3\n", "columns id_code, guess are not scores"),
        ("id_code,score_1\na,abc\n", "column 'score_1' has 'abc', expected numbers"),
        ("id_code,score_1\n,0.5\n", "column 'id_code' has 1 missing values"),
        ("id_code,score_1,tier\na,0.5,bogus\n", "column 'tier' has 'bogus'; allowed: T0"),
        ("", "cannot be read as csv"),
    ],
)
def test_a_bad_table_of_scores_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "s.csv").write_text(content)
    with pytest.raises(DatasetError, match=message):
        ExternalScoresDataset(filepath=str(tmp_path / "s.csv")).load()


def test_a_folder_without_submissions_and_an_unknown_tier_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="no .csv or .csv.gz file in this folder"):
        ExternalScoresDataset(filepath=str(tmp_path)).load()
    with pytest.raises(InputError, match="scores_tier is 'T9'; allowed: T0"):
        ExternalScoresDataset(filepath=str(tmp_path), tier="T9")


def test_inputs_are_never_written(tmp_path, cells):
    for dataset in (
        RxRx1TablesDataset(root="x"),
        RxRx1LabelsDataset(filepath="x"),
        RxRx1ImagesDataset(root="x", channels=[]),
        LongTableDataset(**cells),
        ExternalScoresDataset(filepath="x"),
        OmeZarrImagesDataset(root="x", channels=[]),
        ExcludeListDataset(filepath="x"),
    ):
        with pytest.raises(DatasetError, match="never written"):
            dataset.save(pd.DataFrame({"a": [1]}))


def test_a_list_of_excluded_wells_is_optional_and_names_its_lines(tmp_path):
    path = tmp_path / "excluded.csv"
    assert ExcludeListDataset(filepath=str(path)).load().empty
    path.write_text("experiment,plate,well,site,reason\nE,1,B02,,bubble\nE,2,,,dropped\n")
    table = ExcludeListDataset(filepath=str(path)).load()
    assert table["source"].tolist() == ["excluded.csv line 2", "excluded.csv line 3"] and table["site"].isna().all()
    path.write_text("experiment,plate,well,site,reason\nE,,B02,,bubble\n")
    with pytest.raises(DatasetError, match="'plate' is empty .excluded.csv line 2.; every row needs"):
        ExcludeListDataset(filepath=str(path)).load()
