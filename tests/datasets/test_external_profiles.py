"""External profiles: columns are mapped, wells are averaged, bad tables are refused."""

import numpy as np
import pandas as pd
import pytest
from kedro.io import DatasetError

from deepnoise.datasets.external_profiles import ExternalProfilesDataset, ExternalProfileWellsDataset
from deepnoise.errors import InputError

COLUMNS = {
    "experiment": "{Metadata_Batch}",
    "plate": "{Metadata_Plate}",
    "well": "{Metadata_Well}",
    "perturbation": "{Metadata_Gene}",
}


def table() -> pd.DataFrame:
    rows = pd.DataFrame(
        {
            "Metadata_Batch": ["b1", "b1", "b1", "b2"],
            "Metadata_Plate": [1.0, 1.0, 2.0, 1.0],
            "Metadata_Well": ["A1", "A01", "B02", "r01c01"],
            "Metadata_Gene": ["KIF11", "KIF11", "DMSO", None],
            "Metadata_Count": [5, 6, 7, 8],
            "Cells_Area": [1.0, 3.0, 5.0, 7.0],
            "Nuclei_Ratio": [0.5, 0.5, np.nan, 1.0],
            "Image_File": ["x", "y", "z", "z"],
            "Object_Number": [1, 2, 3, 4],
        }
    )
    return rows


@pytest.fixture(params=["parquet", "csv", "csv.gz"])
def path(request, tmp_path):
    file = tmp_path / f"profiles.{request.param}"
    if request.param == "parquet":
        table().to_parquet(file)  # plates as 1.0: what pandas makes of whole numbers where one is missing
    else:
        table().astype({"Metadata_Plate": int}).to_csv(file, index=False)
    return file


def test_rows_of_a_well_are_averaged_and_non_finite_features_left_out(path, caplog):
    profiles = ExternalProfilesDataset(filepath=str(path), columns=COLUMNS, tier="T1").load()
    assert profiles["id_code"].tolist() == ["b1_1_A01", "b1_2_B02", "b2_1_A01"]
    assert [c for c in profiles.columns if c.startswith("embedding_")] == ["embedding_0000", "embedding_0001"]
    assert profiles["embedding_0000"].tolist() == [2.0, 5.0, 7.0] and set(profiles["tier"]) == {"T1"}
    assert "1 of 3 features are not finite" in caplog.text and not profiles["plate_seen"].any()
    cell_profiles = ExternalProfilesDataset(filepath=str(path), columns=COLUMNS, features=["Cells_"]).load()
    assert sum(c.startswith("embedding_") for c in cell_profiles.columns) == 1


def test_wells_come_from_the_metadata(path):
    wells = (
        ExternalProfileWellsDataset(filepath=str(path), columns=COLUMNS, negative_controls=["DMSO"])
        .load()
        .set_index("id_code")
    )
    assert wells["well_type"].to_dict() == {
        "b1_1_A01": "treatment",
        "b1_2_B02": "negative_control",
        "b2_1_A01": "treatment",
    }
    assert wells.loc["b1_1_A01", "perturbation"] == "KIF11" and pd.isna(wells.loc["b2_1_A01", "perturbation"])
    assert set(wells["cell_type"]) == {"all"}


def test_a_label_in_one_row_of_a_well_counts_and_contradictions_are_refused(tmp_path):
    rows = table().assign(Metadata_Gene=[None, "KIF11", "DMSO", None], Metadata_Cell=["U2OS", "U2OS", "A", "A"])
    rows.to_parquet(tmp_path / "p.parquet")
    columns = COLUMNS | {"cell_type": "{Metadata_Cell}"}
    wells = (
        ExternalProfileWellsDataset(filepath=str(tmp_path / "p.parquet"), columns=columns).load().set_index("id_code")
    )
    assert wells.loc["b1_1_A01", "perturbation"] == "KIF11" and wells.loc["b1_1_A01", "split"] == "labelled"
    rows.assign(Metadata_Cell=["U2OS", "HeLa", "A", "A"]).to_parquet(tmp_path / "p.parquet")
    with pytest.raises(DatasetError, match="well b1/1/A01 has several values of cell_type"):
        ExternalProfileWellsDataset(filepath=str(tmp_path / "p.parquet"), columns=columns).load()


def test_whether_a_plate_was_seen_comes_from_the_table(tmp_path):
    table().assign(Metadata_Train=["yes", "yes", "no", "no"]).to_parquet(tmp_path / "p.parquet")
    columns = COLUMNS | {"plate_seen": "{Metadata_Train}"}
    profiles = ExternalProfilesDataset(filepath=str(tmp_path / "p.parquet"), columns=columns).load()
    assert profiles["plate_seen"].tolist() == [True, False, False]
    table().assign(Metadata_Train="maybe").to_parquet(tmp_path / "p.parquet")
    with pytest.raises(DatasetError, match="plate_seen is 'maybe'; allowed: true, 1, yes"):
        ExternalProfilesDataset(filepath=str(tmp_path / "p.parquet"), columns=columns).load()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.rename(columns={"Metadata_Gene": "Metadata_Genes"}),
            "column 'Metadata_Gene' is missing.*Did you mean 'Metadata_Genes'",
        ),
        (lambda t: t.head(0), "has no rows"),
        (lambda t: t.assign(Metadata_Well="Z99"), "'Z99' is not a well"),
        (lambda t: t.assign(Metadata_Batch=None), "experiment is empty in row 1"),
        (lambda t: t.assign(Cells_Area=np.inf, Object_Number=np.inf), "each of its 3 features is missing or infinite"),
        (lambda t: t.drop(columns=["Cells_Area", "Nuclei_Ratio", "Object_Number"]), "has no feature column"),
    ],
)
def test_a_bad_table_is_refused(tmp_path, change, message):
    change(table()).to_parquet(tmp_path / "p.parquet")
    with pytest.raises(DatasetError, match=message):
        ExternalProfilesDataset(filepath=str(tmp_path / "p.parquet"), columns=COLUMNS).load()


def test_bad_files_and_bad_entries_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="no such file; give the profiles as --params profiles=PATH"):
        ExternalProfilesDataset(filepath=str(tmp_path / "none.parquet"), columns=COLUMNS).load()
    (tmp_path / "broken.parquet").write_text("no parquet")
    with pytest.raises(DatasetError, match="broken.parquet: cannot be read as parquet"):
        ExternalProfilesDataset(filepath=str(tmp_path / "broken.parquet"), columns=COLUMNS).load()
    with pytest.raises(InputError, match="columns of the profiles lack 'well'"):
        ExternalProfilesDataset(filepath="x", columns={k: v for k, v in COLUMNS.items() if k != "well"})
    with pytest.raises(InputError, match="have an unknown 'site'"):
        ExternalProfilesDataset(filepath="x", columns=COLUMNS | {"site": "1"})
    with pytest.raises(InputError, match="tier of the profiles is 'T9'"):
        ExternalProfilesDataset(filepath="x", columns=COLUMNS, tier="T9")
    table().assign(Metadata_Gene=["a", "b", "c", "d"]).to_parquet(tmp_path / "p.parquet")
    with pytest.raises(DatasetError, match="well b1/1/A01 has several perturbations"):
        ExternalProfileWellsDataset(filepath=str(tmp_path / "p.parquet"), columns=COLUMNS).load()
    with pytest.raises(DatasetError, match="never written"):
        ExternalProfilesDataset(filepath="x", columns=COLUMNS).save(table())
