"""load_data tables of the Cell Painting Gallery and an nf-core samplesheet, as they really are."""

import numpy as np
import pandas as pd
import pytest
import tifffile
from kedro.io import DatasetError

from deepnoise.datasets.load_data import LoadDataDataset, LoadDataImagesDataset
from deepnoise.ingestion.validation import match_images, validate_wells
from tests.datasets.test_long_table import catalog_of

CHANNELS = ["DNA", "ER", "RNA", "AGP", "Mito"]


@pytest.mark.parametrize(
    ("table", "channels", "wells", "sites", "experiment", "plate", "first"),
    [
        ("adipocyte/2022_11_28_Batch1/BR00135656/load_data.csv.gz", None, 384, 3456, "broad-2022_11_28_Batch1", "BR00135656",
         "cpg0014-jump-adipocyte/broad/images/2022_11_28_Batch1/images/BR00135656__2022-08-31T19_43_09-Measurement1/Images/r01c01f01p01-ch5sk1fk1fl1.tiff"),
        ("adipocyte/2022_11_28_Batch2/BR00135829/load_data.csv.gz", None, 384, 3456, "broad-2022_11_28_Batch2", "BR00135829", None),
        ("cmQTL/BR00106708_load_data.csv.gz", CHANNELS, 384, 3456, "2018_06_05_cmQTL-2019_08_15_Batch4", "BR00106708",
         "projects/2018_06_05_cmQTL/2019_08_15_Batch4/images/BR00106708__2019-08-14T18_17_32-Measurement2/Images/r01c01f01p01-ch5sk1fk1fl1.tiff"),
        ("cmQTL/cmQTL_CRISPRi_plate1_load_data.csv.gz", CHANNELS, 384, 1920, "2018_06_05_cmQTL-2022_09_07_Batch8", "cmQTL_CRISPRi_plate1", None),
        ("varchamp/2026_01_05_Batch_20/2025_11_04_B20P1T1/load_data.csv.gz", ["DNA", "Protein"], 384, 3456,
         "broad-2026_01_05_Batch_20", "2025_11_04_B20P1T1",
         "cpg0020-varchamp/broad/images/2026_01_05_Batch_20/images/2025_11_04_B20P1T1__2025-11-04T10_05_34-Measurement1/Images/r01c01f01p01-ch1sk1fk1fl1.tiff"),
        ("nf-core_cellpainting_load_data.csv", CHANNELS, 1, 1, "source_4-2021_04_26_Batch1", "BR00117035", None),
        ("nf-core_cellpainting_samplesheet.csv", CHANNELS, 3, 6, "source_4-2021_04_26_Batch1", "BR00117035",
         "cpg0016-jump/source_4/images/2021_04_26_Batch1/images/BR00117035__2021-05-02T16_02_51-Measurement1/Images/r01c01f01p01-ch5sk1fk1fl1.tiff"),
    ],
)  # fmt: skip
def test_real_tables_have_their_wells_sites_batches_and_missing_images(
    shared, tmp_path, table, channels, wells, sites, experiment, plate, first
):
    entry = {"filepath": str(shared / "screening_formats" / "load_data_csv" / table), "root": str(tmp_path)}
    entry |= {"perturbation": "unknown", "cell_type": "U2OS", "channels": channels}
    raw = LoadDataDataset(**entry).load()
    images = LoadDataImagesDataset(**entry).load()
    assert (len(raw), len(images.found)) == (wells, sites)
    assert set(raw["experiment"]) == {experiment} and set(raw["plate"]) == {plate}
    assert images.channels == (channels or CHANNELS) and all(
        len(row) == len(images.channels) for row in images.found["missing"]
    )
    if first:
        assert images.found["files"].iloc[0][0] == first
    for name in images.found["files"].iloc[0]:  # one site is there, the others are findings
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(tmp_path / name, np.ones((4, 4), np.uint16))
    matched, _, findings = match_images(validate_wells(raw, ["treatment"])[0], LoadDataImagesDataset(**entry).load())
    missing = [f for f in findings if f["finding"] == "missing_image" and f["file"]]
    assert len(matched) == 1 and len(missing) == (sites - 1) * len(images.channels)


def test_plate_maps_of_the_broad_institute_are_joined(shared, tmp_path):
    formats = shared / "screening_formats"
    table = formats / "load_data_csv/adipocyte/2022_11_28_Batch1/BR00135656/load_data.csv.gz"
    target = tmp_path / "load_data_csv/2022_11_28_Batch1/BR00135656/load_data.csv.gz"
    target.parent.mkdir(parents=True)
    target.write_bytes(table.read_bytes())
    maps = tmp_path / "metadata/platemaps/2022_11_28_Batch1"
    (maps / "platemap").mkdir(parents=True)
    (maps / "barcode_platemap.csv").write_bytes(
        (formats / "platemaps_broad/2022_11_28_Batch1/barcode_platemap.csv").read_bytes()
    )
    real_map = (formats / "platemaps_broad/C-7161-01-LM6-001.txt").read_text().replace("C-7161-01-LM6-001", "control")
    (maps / "platemap" / "control.txt").write_text(real_map)
    wells = catalog_of("load_data", tmp_path).load("raw_wells")
    plate_map = pd.read_csv(maps / "platemap" / "control.txt", sep="\t", dtype=str)
    assert len(wells) == len(plate_map) == 384
    is_control = plate_map["broad_sample"].isna()
    assert (wells["well_type"] == "negative_control").sum() == is_control.sum() > 0
    treated = plate_map[~is_control].iloc[0]
    named = wells.set_index("well").loc[treated["well_position"], "perturbation"]
    assert named == f"{treated['broad_sample']}@{treated['mmoles_per_liter']}"


def test_a_table_without_images_is_refused_and_a_path_without_the_folders_of_the_gallery_needs_an_experiment(tmp_path):
    (tmp_path / "t.csv").write_text("Metadata_Plate,Metadata_Well\nP,A01\n")
    entry = {"filepath": str(tmp_path / "t.csv"), "perturbation": "x", "cell_type": "U2OS"}
    with pytest.raises(DatasetError, match="has no column URL_Orig<channel> or FileName_Orig<channel>"):
        LoadDataImagesDataset(**entry).load()
    (tmp_path / "t.csv").write_text("Metadata_Plate,Metadata_Well,Metadata_Site,URL_OrigDNA\nP,A01,1,images/a.tif\n")
    with pytest.raises(
        DatasetError, match="t.csv line 2: experiment: 'images/a.tif' of column 'URL_OrigDNA' does not match"
    ):
        LoadDataDataset(**entry).load()
    assert LoadDataDataset(**entry, experiment="day 1").load()["experiment"].tolist() == ["day 1"]
    assert LoadDataImagesDataset(**entry, experiment="day 1").load().found["files"].tolist() == [("images/a.tif",)]
    (tmp_path / "t.csv").write_text("channel,path,plate,well,site\nDNA,a.tif,P,A01,1\n")
    with pytest.raises(DatasetError, match="one row per image; list its 'channels' in their order"):
        LoadDataImagesDataset(**entry).load()
