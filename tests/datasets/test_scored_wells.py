"""Wells from a table of scores alone, and the known contents of plates."""

import pandas as pd
import pytest
from kedro.io import DatasetError

from deepnoise.datasets.external_scores import ScoredWellsDataset
from deepnoise.datasets.plate_contents import PlateContentsDataset


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
