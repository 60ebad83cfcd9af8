"""External profiles: columns are mapped, wells are averaged, bad tables are refused."""

import warnings

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
    assert [c for c in profiles.columns if c.startswith("embedding_")] == ["embedding_0000"]
    assert profiles["embedding_0000"].tolist() == [2.0, 5.0, 7.0] and set(profiles["tier"]) == {"T1"}
    assert (
        "1 of 2 features are missing in some well and are left out: Nuclei_Ratio" in caplog.text
        and not profiles["plate_seen"].any()
    )
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
    with pytest.raises(
        DatasetError,
        match="1 of 3 wells have several values of cell_type, first b1/1/A01: 'U2OS' .row 1. and 'HeLa' .row 2.",
    ):
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
        (
            lambda t: t.assign(Cells_Area=np.inf, Nuclei_Ratio=np.inf),
            "each well lacks more than half of the 2 features",
        ),
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
    with pytest.raises(DatasetError, match="1 of 3 wells have several values of perturbation, first b1/1/A01"):
        ExternalProfileWellsDataset(filepath=str(tmp_path / "p.parquet"), columns=COLUMNS).load()
    with pytest.raises(DatasetError, match="never written"):
        ExternalProfilesDataset(filepath="x", columns=COLUMNS).save(table())


def profiles_of(tmp_path, rows, suffix="csv", **more):
    path = tmp_path / f"p.{suffix}"
    if suffix == "parquet":
        rows.to_parquet(path)
    else:
        rows.to_csv(path, index=more.pop("index", False))
    entry = {"filepath": str(path), "columns": COLUMNS, **more}
    return ExternalProfilesDataset(**entry).load(), ExternalProfileWellsDataset(**entry).load()


def wide(wells=8):
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {"Metadata_Batch": "b", "Metadata_Plate": "1", "Metadata_Well": [f"A{i + 1:02d}" for i in range(wells)]}
    )
    return rows.assign(Metadata_Gene="g", **{f"Cells_f{i}": rng.normal(size=wells) for i in range(12)})


def dimensions(profiles):
    return sum(c.startswith("embedding_") for c in profiles)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("name", ["NA", "None", "nan", "null"])
def test_a_gene_may_be_called_na(tmp_path, suffix, name):
    _, wells = profiles_of(tmp_path, wide().assign(Metadata_Gene=["g", name] * 4), suffix)
    assert set(wells["perturbation"]) == {"g", name} and set(wells["split"]) == {"labelled"}


@pytest.mark.parametrize(
    ("column", "values", "reason"),
    [
        ("", np.arange(8), "a column without a name (row number)"),
        ("Unnamed: 0", np.arange(8), "row number"),
        ("order", 100 + np.arange(8), "order (row number)"),
        ("ImageNumber", [3, 1, 4, 1, 5, 9, 2, 6], "number of an image or object"),
        ("Cells_Number_Object_Number", [3, 1, 4, 1, 5, 9, 2, 6], "number of an image or object"),
        ("Cells_Location_Center_X", np.ones(8) / 3, "place in the image"),
        ("Nuclei_AreaShape_Center_Y", np.ones(8) / 3, "place in the image"),
        ("row", [1, 2] * 4, "place on the plate"),
        ("concentration_um", [0.1, 10] * 4, "dose"),
        ("decimal_commas", ["1,5", "2"] * 4, "decimal_commas (not numbers)"),
    ],
)
def test_an_index_a_place_or_a_dose_is_no_feature_and_is_named(tmp_path, caplog, column, values, reason):
    rows = wide()
    rows.insert(0, column, values)
    profiles, _ = profiles_of(tmp_path, rows)
    assert dimensions(profiles) == 12
    assert "1 columns are not taken as features: " in caplog.text and reason in caplog.text
    if column.startswith("Cells_"):  # nor where its prefix is given; only where it is named itself
        assert dimensions(profiles_of(tmp_path, rows, features=["Cells_"])[0]) == 12
        assert dimensions(profiles_of(tmp_path, rows, features=["Cells_", column])[0]) == 13


def test_the_index_that_pandas_writes_changes_nothing(tmp_path):
    without, _ = profiles_of(tmp_path, wide())
    with_index, _ = profiles_of(tmp_path, wide(), index=True)
    pd.testing.assert_frame_equal(without, with_index)


def test_a_row_without_cells_costs_itself_and_no_feature(tmp_path, caplog):
    rows = wide()
    rows.loc[3, [f"Cells_f{i}" for i in range(11)]] = np.nan
    rows.loc[5, "Cells_f2"] = np.inf
    profiles, wells = profiles_of(tmp_path, rows)
    assert dimensions(profiles) == 11 and len(profiles) == 7 and len(wells) == 8
    assert "1 of 8 wells lack more than half of the features and are left out: b/1/A04" in caplog.text
    assert "1 of 12 features are missing in some well and are left out: Cells_f2" in caplog.text
    assert "12 values of features are missing or infinite, in 2 of 8 rows" in caplog.text


def test_one_missing_cell_costs_neither_its_well_nor_a_feature(tmp_path):
    cells = pd.concat([wide(), wide()], ignore_index=True)
    cells.loc[0, "Cells_f0"] = np.nan
    profiles, _ = profiles_of(tmp_path, cells)
    assert len(profiles) == 8 and dimensions(profiles) == 12
    assert profiles["embedding_0000"].iloc[0] == np.float32(cells.loc[8, "Cells_f0"])


def test_a_feature_that_outweighs_all_others_is_named(tmp_path, caplog):
    profiles_of(tmp_path, wide().assign(Cells_f3=[1e6, 0] * 4))
    assert "feature Cells_f3 has 100 % of the variance of all 12 features" in caplog.text
    caplog.clear()
    profiles_of(tmp_path, wide())
    assert "variance" not in caplog.text


def test_two_plate_maps_joined_to_one_plate_are_told_in_one_line(tmp_path):
    both = pd.concat([wide(), wide().assign(Metadata_Gene="h")], ignore_index=True)
    with pytest.raises(
        DatasetError,
        match="8 of 8 wells have several values of perturbation, first b/1/A01: 'g' .row 1. and 'h' .row 9.; expected one. Were two plate maps joined",
    ):
        profiles_of(tmp_path, both)  # fmt: skip


def test_a_control_that_is_named_must_be_there_and_the_usual_ones_need_not(tmp_path):
    _, wells = profiles_of(tmp_path, wide().assign(Metadata_Gene=["DMSO", "g"] * 4))
    assert (wells["well_type"] == "negative_control").sum() == 4
    assert set(profiles_of(tmp_path, wide())[1]["well_type"]) == {"treatment"}
    with pytest.raises(
        DatasetError, match="negative_controls of p.csv: 'dmso' is no perturbation; .*Did you mean 'DMSO'"
    ):
        profiles_of(tmp_path, wide().assign(Metadata_Gene=["DMSO", "g"] * 4), negative_controls=["dmso"])
    with pytest.raises(InputError, match="both columns.well_type and a list of controls"):
        ExternalProfilesDataset(filepath="x", columns=COLUMNS | {"well_type": "{t}"}, negative_controls=["DMSO"])


def test_a_prefix_that_no_feature_has_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="has no feature column that starts with Cell_"):
        profiles_of(tmp_path, wide(), features=["Cells_", "Cell_"])


def test_no_table_of_profiles_is_put_together_column_by_column(tmp_path):
    rows = pd.concat(
        [wide(), pd.DataFrame({f"Nuclei_g{i}": np.random.default_rng(i).normal(size=8) for i in range(300)})], axis=1
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.PerformanceWarning)
        profiles_of(tmp_path, rows, "parquet")
