"""Datasets: what is written is read back, what is damaged names itself, nothing half-written counts as done."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from kedro.io import DatasetError, Version
from PIL import Image

from deepnoise.datasets.files import read_csv, read_picture, read_site
from deepnoise.datasets.image_store import ImageStoreDataset
from deepnoise.datasets.long_table import LongTableDataset, LongTableImagesDataset, LongTableLabelsDataset
from deepnoise.datasets.model import ModelDataset, TrainingState
from deepnoise.datasets.rxrx1 import RxRx1ImagesDataset, RxRx1LabelsDataset, RxRx1TablesDataset, RxRx1WellsDataset
from deepnoise.datasets.scores import ExternalScoresDataset
from deepnoise.datasets.simulated import MARK, SimulatedImagesDataset, SimulatedTablesDataset
from deepnoise.datasets.table import EmptyTableDataset, TableDataset
from deepnoise.errors import InputError
from deepnoise.ingestion.packing import PackingComplete, PlateImages, plan_packing
from deepnoise.simulation.noise import NoiseLevels
from deepnoise.simulation.screen import render_screen
from deepnoise.training.model import TrainedModel

# files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; expected a csv with columns well, sirna"),
        (b"", "cannot be read as csv"),
        (b"well;sirna\nA01;3\n", "'well' is missing.*Is it separated by commas"),
        (b"well,sirnas\nA01,3\n", "'sirna' is missing.*Did you mean 'sirnas'"),
        (b"\xff\xfe\x00\x80", "cannot be read as csv"),
    ],
)
def test_a_bad_csv_names_itself(tmp_path, content, message):
    path = tmp_path / "train.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"train.csv: .*{message}"):
        read_csv(path, ["well", "sirna"])


def test_a_byte_order_mark_is_ignored(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfwell\nA01\n")
    assert read_csv(tmp_path / "a.csv", ["well"])["well"].tolist() == ["A01"]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", ["png", "tif", "npy"])
def test_pictures_keep_their_counts(tmp_path, dtype, suffix):
    picture = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (5, 7)).astype(dtype)
    path = tmp_path / f"a.{suffix}"
    np.save(path, picture) if suffix == "npy" else Image.fromarray(picture).save(path)
    np.testing.assert_array_equal(read_picture(path), picture)


def test_damaged_and_strange_pictures_name_their_file(tmp_path):
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n half of it")
    (tmp_path / "empty.npy").touch()
    np.save(tmp_path / "float.npy", np.zeros((4, 4)))
    np.save(tmp_path / "object.npy", np.array([{"code": 1}], dtype=object), allow_pickle=True)
    for name, message in (("torn.png", "cannot be read as a picture"), ("float.npy", "float64 of shape .4, 4.; expected uint8 or uint16"),
                          ("object.npy", "cannot be read as a picture"), ("gone.png", "no such file"), ("empty.npy", "cannot be read as a picture")):  # fmt: skip
        with pytest.raises(InputError, match=f"{name}: {message}"):
            read_picture(tmp_path / name)


def test_channels_of_one_site_must_agree(tmp_path):
    for name, size in (("a.png", 4), ("b.png", 5)):
        Image.fromarray(np.zeros((size, size), np.uint8)).save(tmp_path / name)
    with pytest.raises(
        InputError, match=r"b.png: uint8 of shape \(5, 5\), expected uint8 of shape \(4, 4\) as in a.png"
    ):
        read_site([tmp_path / "a.png", tmp_path / "b.png"])
    np.save(tmp_path / "c.npy", np.arange(24, dtype=np.uint16).reshape(2, 4, 3))
    assert read_site([tmp_path / "c.npy"]).shape == (3, 2, 4)


# a simulated screen on disk ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def raw(design, tmp_path_factory):
    """The small screen in the layout of RxRx1."""
    root = tmp_path_factory.mktemp("raw") / "screen"
    small = design[design["experiment"].isin(["ALPHA-01", "ALPHA-04", "BETA-02"]) & (design["plate"] <= 2)]
    SimulatedTablesDataset(root=str(root)).save(small)
    images = SimulatedImagesDataset(root=str(root))
    assert not images._exists()
    with pytest.raises(DatasetError, match="absent or incomplete"):
        images.load()
    for plate in render_screen(
        small, effect_strength=1.0, traits_changed=3, sites=2, image_size=24, noise=NoiseLevels(), seed=1
    ):
        images.save(plate)
    images.save({"seed": 1})
    return root, small


def test_the_simulation_writes_what_the_reader_of_rxrx1_reads(raw):
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
        DatasetError, match=f"thesis.docx and no {MARK}: not a folder of the simulation, nothing was written"
    ):
        SimulatedTablesDataset(root=str(tmp_path)).save(design)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.docx"]


def test_simulating_again_leaves_nothing_of_the_old_screen(raw, tmp_path, design):
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


def test_missing_channels_are_listed_and_a_folder_without_pictures_is_refused(raw, tmp_path):
    (tmp_path / "train" / "A-01" / "Plate1").mkdir(parents=True)
    dataset = RxRx1ImagesDataset(root=str(tmp_path), channels=["n", "er"])
    with pytest.raises(DatasetError, match="no picture <split>/<experiment>"):
        dataset.load()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "train" / "A-01" / "Plate1" / "B02_s1_w1.png")
    assert dataset.load().found["missing"].tolist() == [("er (w2)",)]
    with pytest.raises(DatasetError, match="no such folder"):
        RxRx1ImagesDataset(root=str(tmp_path / "none"), channels=["n"]).load()


# image store ---------------------------------------------------------------------------------------------------------


def plan(raw, unreadable="error"):
    images = SimulatedImagesDataset(root=str(raw[0])).load()
    sites = images.found.copy()
    sites["id_code"] = sites["experiment"] + "_" + sites["plate"] + "_" + sites["well"]
    reads = []

    def read(files):
        reads.append(files)
        return images.read(files)

    return list(plan_packing(sites, images.channels, images.stamp, read, unreadable)), images, reads


def contents(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("compressor", ["zstd", "lz4"])
def test_the_store_holds_the_pictures_in_their_dtype_one_chunk_a_site(raw, tmp_path, compressor):
    steps, images, _ = plan(raw)
    dataset = ImageStoreDataset(root=str(tmp_path), compressor=compressor)
    for step in steps:
        dataset.save(step)
    store = dataset.load()
    rows = store.rows()
    assert len(rows) == len(images.found) and len(store.plates) == 6
    for row in rows.sample(8, random_state=0).itertuples():
        found = images.found.query(
            "experiment == @row.experiment and plate == @row.plate and well == @row.well and site == @row.site"
        )
        picture = store.read(row.experiment, row.plate, np.array([row.store_row]))[0]
        np.testing.assert_array_equal(picture, images.read(found["files"].iloc[0]))
    array = store.array("ALPHA-01", "1")
    assert array.dtype == np.uint8 and array.chunks == (1, 6, 24, 24) and array.metadata.zarr_format == 3


def test_a_broken_packing_goes_on_where_it_stopped_and_equals_an_undisturbed_one(raw, tmp_path):
    steps, _, reads = plan(raw)
    whole = ImageStoreDataset(root=str(tmp_path / "whole"))
    for step in steps:
        whole.save(step)
    broken = ImageStoreDataset(root=str(tmp_path / "broken"))
    for step in steps[:2]:
        broken.save(step)
    assert not broken._exists()
    with pytest.raises(DatasetError, match="absent or incomplete"):
        broken.load()
    (tmp_path / "broken" / "ALPHA-04__1.part").mkdir()  # a kill in the middle of the third plate
    reads.clear()
    again = ImageStoreDataset(root=str(tmp_path / "broken"))
    for step in steps:
        again.save(step)
    assert len(reads) == sum(len(step.sites) for step in steps[2:-1])
    assert contents(tmp_path / "whole") == contents(tmp_path / "broken")


def test_a_changed_source_is_packed_again_and_a_plate_that_is_gone_is_dropped(raw, tmp_path):
    import shutil

    root = tmp_path / "raw"
    shutil.copytree(raw[0], root)
    steps, _, _ = plan((root, raw[1]))
    dataset = ImageStoreDataset(root=str(tmp_path / "store"))
    for step in steps:
        dataset.save(step)
    changed = root / "train" / "ALPHA-01" / "Plate1" / "B02_s1_w1.png"
    Image.fromarray(np.full((24, 24), 200, np.uint8)).save(changed)
    shutil.rmtree(root / "train" / "BETA-02")
    steps, _, reads = plan((root, raw[1]))
    for step in steps:
        dataset.save(step)
    store = dataset.load()
    assert {files[0].split("/")[1:3] == ["ALPHA-01", "Plate1"] for files in reads} == {True}
    assert len(store.plates) == 4 and not (tmp_path / "store" / "BETA-02__1").exists()
    row = (
        store.rows()
        .query("experiment == 'ALPHA-01' and plate == '1' and well == 'B02' and site == 1")["store_row"]
        .to_numpy()
    )
    assert (store.read("ALPHA-01", "1", row)[0, 0] == 200).all()


def test_an_unreadable_picture_leaves_no_plate_behind(raw, tmp_path):
    import shutil

    root = tmp_path / "raw"
    shutil.copytree(raw[0], root)
    (root / "train" / "ALPHA-01" / "Plate1" / "B02_s1_w3.png").write_bytes(b"\x89PNG torn")
    steps, _, _ = plan((root, raw[1]))
    dataset = ImageStoreDataset(root=str(tmp_path / "store"))
    with pytest.raises(DatasetError, match=r"plate ALPHA-01/1: .*B02_s1_w3.png: cannot be read"):
        dataset.save(steps[0])
    assert contents(tmp_path / "store") == {}


def test_a_store_with_an_unknown_compressor_or_plate_says_so(raw, tmp_path):
    with pytest.raises(InputError, match="compressor 'gzip'; allowed: zstd, lz4"):
        ImageStoreDataset(root=str(tmp_path), compressor="gzip")
    steps, _, _ = plan(raw)
    dataset = ImageStoreDataset(root=str(tmp_path))
    for step in steps:
        dataset.save(step)
    with pytest.raises(InputError, match="plate OMEGA-01/9 is not in the image store"):
        dataset.load().array("OMEGA-01", "9")


# long table ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def cells(tmp_path):
    rows = [
        ("p1", "B02", "x", "0", "a.npy"),
        ("p1", "B02", "x", "0", "b.npy"),
        ("p1", "C03", "y", "15", "c.npy"),
        ("p2", "B02", "x", "5", "d.npy"),
    ]
    pd.DataFrame(rows, columns=["plate", "well", "compound", "dose", "file"]).to_csv(
        tmp_path / "cells.csv", index=False
    )
    for name in "abd":
        np.save(tmp_path / f"{name}.npy", np.zeros((4, 4, 2), np.uint16))
    columns = {
        "experiment": "Week1",
        "plate": "{plate}",
        "well": "{well}",
        "cell_type": "MCF7",
        "perturbation": "{compound}@{dose}",
        "file": "{file}",
    }
    return dict(
        filepath=str(tmp_path / "cells.csv"),
        columns=columns,
        channels=["n", "a"],
        negative_controls=["x@0"],
        exclude={"dose": [5]},
    )


def test_a_long_table_is_mapped_by_templates(cells):
    wells = LongTableDataset(**cells).load()
    assert wells[["plate", "well", "perturbation", "well_type"]].to_numpy().tolist() == [
        ["p1", "B02", "x@0", "negative_control"],
        ["p1", "C03", "y@15", "treatment"],
    ]
    labels = LongTableLabelsDataset(**cells).load()
    assert labels["id_code"].tolist() == ["Week1_p1_B02", "Week1_p1_C03"]
    images = LongTableImagesDataset(**cells).load()
    assert images.found["site"].tolist() == [1, 2, 1] and images.found["missing"].tolist() == [(), (), ("file c.npy",)]
    assert images.read(("a.npy",)).shape == (2, 4, 4)


def test_short_well_names_of_the_labels_are_those_of_the_wells(cells):
    table = pd.read_csv(cells["filepath"])
    table["well"] = table["well"].str.replace("0", "")
    table.to_csv(cells["filepath"], index=False)
    assert LongTableLabelsDataset(**cells).load()["id_code"].tolist() == ["Week1_p1_B02", "Week1_p1_C03"]


def test_a_name_may_be_na_but_no_field_may_be_empty(cells):
    table = pd.read_csv(cells["filepath"])
    table.assign(compound=["NA"] * 4).to_csv(cells["filepath"], index=False)
    assert LongTableDataset(**cells | {"negative_controls": ["NA@0"]}).load()["perturbation"].tolist() == [
        "NA@0",
        "NA@15",
    ]
    table.assign(compound=["x", "x", None, "x"]).to_csv(cells["filepath"], index=False)
    with pytest.raises(DatasetError, match="cells.csv: column 'compound' is empty in line 4"):
        LongTableDataset(**cells).load()


def test_plates_of_another_dtype_or_size_are_refused_by_name(tmp_path):
    def step(plate, picture):
        sites = pd.DataFrame({"id_code": [f"E_{plate}_B02"], "well": "B02", "site": 1, "files": [("a",)]})
        return PlateImages("E", plate, ["c"], sites, plate, lambda files: picture)

    dataset = ImageStoreDataset(root=str(tmp_path))
    dataset.save(step("1", np.ones((1, 4, 4), np.uint8)))
    dataset.save(step("2", np.ones((1, 4, 4), np.uint16)))
    with pytest.raises(DatasetError, match=r"plate E/2 holds uint16 pictures of shape \[1, 4, 4\], plate E/1 uint8"):
        dataset.save(PackingComplete({"E/1": "1", "E/2": "2"}, ["c"]))
    assert not dataset._exists()


def test_long_table_errors(cells, tmp_path):
    with pytest.raises(InputError, match="2 channels, expected 3"):
        LongTableImagesDataset(**cells | {"channels": ["a", "b", "c"]}).load().read(("a.npy",))
    with pytest.raises(DatasetError, match="lack 'well'"):
        LongTableDataset(**cells | {"columns": {k: v for k, v in cells["columns"].items() if k != "well"}}).load()
    with pytest.raises(DatasetError, match="'wel' is missing.*Did you mean 'well'"):
        LongTableDataset(**cells | {"columns": cells["columns"] | {"well": "{wel}"}}).load()
    with pytest.raises(DatasetError, match="negative control 'X@0' occurs in no row.*Did you mean 'x@0'"):
        LongTableDataset(**cells | {"negative_controls": ["X@0"]}).load()
    two = pd.read_csv(cells["filepath"])
    two.loc[1, "compound"] = "z"
    two.to_csv(cells["filepath"], index=False)
    with pytest.raises(DatasetError, match="well Week1/p1/B02 has several perturbations"):
        LongTableDataset(**cells).load()


# tables and models ---------------------------------------------------------------------------------------------------


def test_tables_are_validated_on_save_and_load(tmp_path):
    dataset = TableDataset(filepath=str(tmp_path / "labels.parquet"), schema="heldout_labels")
    table = pd.DataFrame({"id_code": ["a"], "perturbation": ["1"]})
    dataset.save(table)
    pd.testing.assert_frame_equal(dataset.load(), table)
    with pytest.raises(DatasetError, match="'perturbation' is missing"):
        dataset.save(table.drop(columns="perturbation"))
    table.assign(id_code=None).to_parquet(tmp_path / "labels.parquet")
    with pytest.raises(DatasetError, match="labels.parquet: column 'id_code' has 1 missing values"):
        dataset.load()
    with pytest.raises(DatasetError, match="unknown table schema 'labels'"):
        TableDataset(filepath="x", schema="labels")


def test_a_table_that_is_killed_while_it_is_written_leaves_no_version(tmp_path, monkeypatch):
    version = Version(None, "2026-01-01T00.00.00.000Z")
    dataset = TableDataset(filepath=str(tmp_path / "labels.parquet"), schema="heldout_labels", version=version)

    def dies(self, file, **arguments):
        file.write(b"PAR1 half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pd.DataFrame, "to_parquet", dies)
        dataset.save(pd.DataFrame({"id_code": ["a"], "perturbation": ["1"]}))
    latest = TableDataset(
        filepath=str(tmp_path / "labels.parquet"), schema="heldout_labels", version=Version(None, None)
    )
    assert not latest.exists()


def test_an_entry_that_an_environment_does_not_have():
    dataset = EmptyTableDataset(schema="site_logits")
    assert dataset.load().empty and "id_code" in dataset.load().columns
    with pytest.raises(DatasetError, match="cannot be written"):
        dataset.save(dataset.load())


def models():
    return {
        0: TrainedModel({"w": torch.arange(4.0)}, {"fold": 0, "n": np.int64(3)}),
        2: TrainedModel({"w": torch.ones(2, 2)}, {"fold": 2}),
    }


def test_models_come_back_whole(tmp_path):
    dataset = ModelDataset(filepath=str(tmp_path / "teacher"))
    assert not dataset.exists()
    dataset.save(models())
    loaded = dataset.load()
    assert loaded.keys() == {0, 2} and loaded[0].facts == {"fold": 0, "n": 3}
    torch.testing.assert_close(loaded[2].weights["w"], torch.ones(2, 2))
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
    tensors, facts = state.load("fold_0", "m")
    assert facts["epoch"] == 0 and tensors["w"].tolist() == [0, 0]
    state.save("fold_0", "m", {"w": torch.ones(2)}, {"epoch": 1})
    assert state.load("fold_0", "m")[0]["w"].tolist() == [1, 1] and len(list(tmp_path.glob("*.safetensors"))) == 1
    assert state.load("fold_0", "other") is None and state.load("fold_1", "m") is None


# scores of other models ------------------------------------------------------------------------------------------


def test_scores_in_every_form(tmp_path):
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
        (None, "no such file or folder; give the scores as --params scores=PATH"),
        ("id_code,guess\na,3\n", "columns id_code, guess are no scores"),
        ("id_code,score_1\na,abc\n", "column 'score_1' holds 'abc', expected numbers"),
        ("id_code,score_1\n,0.5\n", "column 'id_code' has 1 missing values"),
        ("id_code,score_1,tier\na,0.5,bogus\n", "column 'tier' has 'bogus'; allowed: T0"),
        ("", "cannot be read as csv"),
    ],
)
def test_what_is_no_table_of_scores_says_so(tmp_path, content, message):
    if content is not None:
        (tmp_path / "s.csv").write_text(content)
    with pytest.raises(DatasetError, match=message):
        ExternalScoresDataset(filepath=str(tmp_path / "s.csv")).load()


def test_a_folder_without_submissions_and_an_unknown_tier(tmp_path):
    with pytest.raises(DatasetError, match="holds no .csv"):
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
    ):
        with pytest.raises(DatasetError, match="never written"):
            dataset.save(pd.DataFrame({"a": [1]}))


def test_json_of_the_store_is_plain(raw, tmp_path):
    steps, _, _ = plan(raw)
    dataset = ImageStoreDataset(root=str(tmp_path))
    for step in steps:
        dataset.save(step)
    assert json.loads((tmp_path / "manifest.json").read_text())["channels"][0] == "nucleus"
