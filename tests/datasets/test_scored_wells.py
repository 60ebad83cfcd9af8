"""Wells from a table of scores alone, and the known contents of plates."""

import pandas as pd
import pytest
from kedro.io import DatasetError

from deepnoise.datasets.external_scores import ExternalScoresDataset, ScoredWellsDataset
from deepnoise.datasets.plate_contents import PlateContentsDataset
from deepnoise.datasets.rxrx1 import RxRx1LabelsDataset
from deepnoise.plate_balancing.scores import pool_scores


def test_wells_are_read_from_id_codes_or_from_their_own_columns(tmp_path):
    path = tmp_path / "scores.csv"
    pd.DataFrame(
        {"id_code": ["my_exp_1_B02", "my_exp_1_B02", "my_exp_2_C03"], "perturbation": "x", "score": 1.0}
    ).to_csv(path)
    wells = ScoredWellsDataset(filepath=str(path)).load()
    assert wells[["experiment", "plate", "well"]].to_numpy().tolist() == [
        ["my_exp", "1", "B02"],
        ["my_exp", "2", "C03"],
    ]
    assert wells["target"].all() and wells["perturbation"].isna().all() and set(wells["cell_type"]) == {"all"}
    table = pd.DataFrame(
        {"id_code": ["E-1_7_A01"], "experiment": "E-1", "plate": 7, "well": "A1", "cell_type": "HUVEC", "score_x": 1.0}
    )
    table.to_parquet(tmp_path / "scores.parquet")
    wells = ScoredWellsDataset(filepath=str(tmp_path / "scores.parquet")).load()
    assert wells[["id_code", "plate", "well", "cell_type"]].to_numpy().tolist() == [["E-1_7_A01", "7", "A01", "HUVEC"]]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"id": ["a"]}, "column 'id_code' is missing"),
        (
            {"id_code": ["a-b-c"]},
            "id_code 'a-b-c' is not <experiment>_<plate>_<well>; rename it, or add the columns",
        ),
        ({"id_code": ["E_1_B2"]}, "id_code of well E/1/B02 is not 'E_1_B02'; expected"),
        ({"id_code": ["E_1_2B"]}, "scores.csv: .*2B"),
    ],
)
def test_a_bad_table_of_scores_is_refused(tmp_path, table, message):
    pd.DataFrame(table).to_csv(tmp_path / "scores.csv", index=False)
    with pytest.raises(DatasetError, match=message):
        ScoredWellsDataset(filepath=str(tmp_path / "scores.csv")).load()


def test_plate_contents_are_optional(tmp_path):
    path = tmp_path / "contents.csv"
    dataset = PlateContentsDataset(filepath=str(path))
    assert dataset.load().empty
    path.write_text("experiment,plate,perturbation\nE,1,a\nE,1,b\n")
    assert dataset.load()["wells"].tolist() == [1, 1]
    path.write_text("experiment,plate,perturbation,wells\nE,1,a,6\nE,1,b,2\n")
    assert dataset.load()["wells"].tolist() == [6, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "experiment,plate,perturbation,wells\nE,1,a,6\nE,1,b,many\n",
            "wells is 'many' in line 3; expected a number of at least 1",
        ),
        ("experiment,plate,perturbation\nE,1,a\nE,1,a\n", "1 rows repeat their key"),
        ("experiment,plate\nE,1\n", "column 'perturbation' is missing"),
    ],
)
def test_bad_plate_contents_are_refused(tmp_path, text, message):
    (tmp_path / "contents.csv").write_text(text)
    with pytest.raises(DatasetError, match=message):
        PlateContentsDataset(filepath=str(tmp_path / "contents.csv")).load()


def scores(path, **more):
    return ExternalScoresDataset(filepath=str(path), **more).load()


@pytest.mark.parametrize("label", ["sirna", "perturbation"])
def test_votes_12_and_12_0_are_one_class(tmp_path, label):
    wells = ["E-1_1_B02", "E-1_1_B03"]
    pd.DataFrame({"id_code": wells, label: ["12", "7"]}).to_csv(tmp_path / "a.csv", index=False)
    pd.DataFrame({"id_code": wells, label: ["12.0", "7.0"]}).to_csv(tmp_path / "b.csv", index=False)
    votes = scores(tmp_path)
    assert sorted(votes["perturbation"]) == ["12", "12", "7", "7"]
    labels = RxRx1LabelsDataset(filepath=str(tmp_path / "b.csv")).load()
    assert labels["perturbation"].tolist() == ["12", "7"]


def test_votes_for_na_and_none_are_votes_and_empty_ones_are_counted(tmp_path, caplog):
    (tmp_path / "a.csv").write_text("id_code,perturbation\nE-1_1_B02,NA\nE-1_1_B03,None\nE-1_1_B04,\n")
    assert scores(tmp_path / "a.csv")["perturbation"].tolist() == ["NA", "None"]
    assert "a.csv: 1 of 3 rows have no label and are no vote" in caplog.text


def test_scores_of_whole_numbers_in_a_parquet_are_scores(tmp_path):
    wide = pd.DataFrame({"id_code": ["E-1_1_B02"], "score_12.0": [3], "score_7.0": [1]})
    wide.to_parquet(tmp_path / "w.parquet")
    assert {"score_12", "score_7"} <= set(scores(tmp_path / "w.parquet"))
    long = pd.DataFrame({"id_code": ["E-1_1_B02"] * 2, "perturbation": [12, 7], "score": [3, 1]})
    long.to_parquet(tmp_path / "l.parquet")
    read = scores(tmp_path / "l.parquet")
    assert read["perturbation"].tolist() == ["12", "7"] and read["score"].tolist() == [3.0, 1.0]
    pooled = pool_scores(scores(tmp_path / "w.parquet"), wells_table("E-1_1_B02"))
    assert pooled["score_12"].tolist() == [3.0]


def wells_table(*codes):
    split = [code.split("_") for code in codes]
    return pd.DataFrame(split, columns=["experiment", "plate", "well"]).assign(
        id_code=codes, cell_type="all", well_type="treatment", perturbation=None, target=True, split="heldout"
    )


def test_the_labels_in_a_wide_table_are_no_votes(tmp_path, caplog):
    content = "id_code,perturbation,score_a,score_b\nE_1_B02,b,2,1\nE_1_B03,b,3,1\n"
    (tmp_path / "s.csv").write_text(content)
    with caplog.at_level("INFO"):
        read = scores(tmp_path / "s.csv")
    assert read[["score_a", "score_b"]].to_numpy().tolist() == [[2, 1], [3, 1]] and "perturbation" not in read
    assert "1 columns are not scores and are not read: perturbation" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "id_code,perturbation,score,score_a\nE_1_B02,a,1,2\n",
            "has both a column 'score' and 1 columns such as 'score_a'",
        ),
        (
            "id_code,score_12,score_12.0,score_12.00\nE_1_B02,1,2,3\n",
            "columns 'score_12' and 'score_12.0' are scores of one",
        ),
        ("id_code,score_a,score_a\nE_1_B02,1,2\n", "has two columns 'score_a'"),
        (
            "id_code,score_12,score_12.0\nE_1_B02,1,2\n",
            "columns 'score_12' and 'score_12.0' are scores of one perturbation",
        ),
        ("id_code,score_a\nE_1_B02,x\n", "column 'score_a' has 'x', expected numbers"),
        ("id_code,perturbation,score\nE_1_B02,a,high\n", "column 'score' has 'high', expected numbers"),
        ("id_code,label1,sim1\nE_1_B02,3,near\n", "column 'sim1' has 'near', expected numbers"),
        ("id_code,label1\nE_1_B02,3\n", "column 'sim1' is missing"),
        ("id_code,perturbation,sirna\nE_1_B02,a,b\n", "has both columns perturbation and sirna"),
        ("well,perturbation\nE_1_B02,a\n", "column 'id_code' is missing"),
    ],
)
def test_scores_that_would_be_misread_are_refused(tmp_path, content, message):
    (tmp_path / "s.csv").write_text(content)
    with pytest.raises(DatasetError, match=f"s.csv: .*{message}"):
        scores(tmp_path / "s.csv")
