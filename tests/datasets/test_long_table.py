"""Long tables: column templates, one file per channel or per site, and the mappings of JUMP and BBBC021."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from kedro.config import OmegaConfigLoader
from kedro.io import DataCatalog, DatasetError
from PIL import Image

from deepnoise.datasets.long_table import LongTableDataset, LongTableImagesDataset, LongTableLabelsDataset
from deepnoise.datasets.text_tables import read_csv
from deepnoise.errors import ImageError, InputError
from deepnoise.ingestion.validation import match_images, validate_wells
from tests.conftest import PROJECT

RNG = np.random.default_rng(0)


def test_a_long_table_is_mapped_by_templates(cells):
    wells = LongTableDataset(**cells).load()
    assert wells[["plate", "well", "perturbation", "well_type"]].to_numpy().tolist() == [
        ["p1", "B02", "x@0", "negative_control"],
        ["p1", "C03", "y@15", "treatment"],
    ]
    labels = LongTableLabelsDataset(**cells).load()
    assert labels["id_code"].tolist() == ["Week1_p1_B02", "Week1_p1_C03"]
    images = LongTableImagesDataset(**cells).load()
    assert images.found["site"].tolist() == [1, 2, 1] and images.found["missing"].tolist() == [(), (), ("c.npy",)]
    assert images.read(("a.npy",)).shape == (2, 4, 4)


def test_short_well_names_of_the_labels_are_those_of_the_wells(cells):
    table = pd.read_csv(cells["filepath"])
    table["well"] = table["well"].str.replace("0", "")
    table.to_csv(cells["filepath"], index=False)
    assert LongTableLabelsDataset(**cells).load()["id_code"].tolist() == ["Week1_p1_B02", "Week1_p1_C03"]


def test_a_name_may_be_na_but_no_field_may_be_empty(cells):
    table = pd.read_csv(cells["filepath"])
    table.assign(compound=["NA"] * 4).to_csv(cells["filepath"], index=False)
    wells = LongTableDataset(**cells | {"negative_controls": ["NA@0"]}).load()
    assert wells["perturbation"].tolist() == ["NA@0", "NA@15"]
    table.assign(compound=["x", "x", None, "x"]).to_csv(cells["filepath"], index=False)
    with pytest.raises(DatasetError, match="cells.csv line 4: column 'compound' is empty"):
        LongTableDataset(**cells).load()


def test_a_bad_entry_or_table_is_refused(cells, tmp_path):
    with pytest.raises(InputError, match="2 channels, expected 3"):
        LongTableImagesDataset(**cells | {"channels": ["a", "b", "c"]}).load().read(("a.npy",))
    with pytest.raises(InputError, match="lack 'well'"):
        LongTableDataset(**cells | {"columns": {k: v for k, v in cells["columns"].items() if k != "well"}}).load()
    with pytest.raises(DatasetError, match="'wel' is missing.*Did you mean 'well'"):
        LongTableDataset(**cells | {"columns": cells["columns"] | {"well": "{wel}"}}).load()
    with pytest.raises(
        DatasetError, match="negative_controls: 'X@0' is no perturbation; there is .*Did you mean 'x@0'"
    ):
        LongTableDataset(**cells | {"negative_controls": ["X@0"]}).load()
    two = pd.read_csv(cells["filepath"])
    two.loc[1, "compound"] = "z"
    two.to_csv(cells["filepath"], index=False)
    with pytest.raises(
        DatasetError,
        match="1 of 2 wells have several values of perturbation, first Week1/p1/B02: 'x@0' .*line 2. and 'z@0' .*line 3.",
    ):
        LongTableDataset(**cells).load()


def catalog_of(env, raw_root, names=("raw_wells", "raw_images", "heldout_labels")):
    loader = OmegaConfigLoader(
        str(PROJECT / "conf"), env=env, base_env="base", runtime_params={"raw_root": str(raw_root)}
    )
    entries = loader["catalog"]
    return DataCatalog.from_config({name: entries[name] for name in names})


def ingest(catalog, target=("treatment",)):
    """Wells, matched sites and the images of one environment."""
    wells, _, _ = validate_wells(catalog.load("raw_wells"), target)
    images = catalog.load("raw_images")
    sites, _, findings = match_images(wells, images)
    return wells, sites, images, findings


def image(folder, name, dtype):
    folder.mkdir(parents=True, exist_ok=True)
    image = RNG.integers(0, 250, (8, 6)).astype(dtype)
    if name.endswith(".npy"):
        np.save(folder / name, image)
    elif name.endswith(".png"):
        Image.fromarray(image).save(folder / name)
    else:
        tifffile.imwrite(folder / name, image)
    return image


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", ["png", "tif", "npy"])
def test_the_generic_environment_reads_one_file_per_channel_and_control_types(tmp_path, dtype, suffix):
    rows, images = [], {}
    for well, control_type, name in (("a1", "negcon", "DMSO"), ("r02c03", "", "drug"), ("P24", "poscon", "toxin")):
        for site in (1, 2):
            files = [f"{well}_{site}_{channel}.{suffix}" for channel in ("dna", "actin")]
            images[well, site] = np.stack([image(tmp_path / "p", file, dtype) for file in files])
            rows.append(("E1", "7", well, site, "MCF7", name, control_type, *(f"p/{file}" for file in files)))
    columns = [
        "experiment",
        "plate",
        "well",
        "site",
        "cell_type",
        "perturbation",
        "control_type",
        "file_dna",
        "file_actin",
    ]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "images.csv", index=False)
    wells, sites, read, findings = ingest(catalog_of("long_table", tmp_path))
    assert wells[["well", "well_type"]].to_numpy().tolist() == [
        ["A01", "negative_control"],
        ["B03", "treatment"],
        ["P24", "positive_control"],
    ]
    assert read.channels == ["DNA", "actin"] and findings == [] and sites["site"].tolist() == [1, 2] * 3
    for row, key in zip(sites.itertuples(), images, strict=True):
        np.testing.assert_array_equal(read.read(row.files), images[key])


def test_jump_is_a_mapping(tmp_path):
    """Columns and paths as in the load_data tables of the Cell Painting Gallery, wells as in metadata/well.csv.gz."""
    channels = ("DNA", "ER", "RNA", "AGP", "Mito")
    for plate, slash in (("BR00117035", "/"), ("BR00117036", "")):
        rows = []
        for well in ("A01", "B02"):
            for site in (1, 2):
                row = {"Metadata_Source": "source_4", "Metadata_Batch": "2021_04_26_Batch1", "Metadata_Plate": plate}
                row |= {"Metadata_Well": well, "Metadata_Site": site}
                for c, channel in enumerate(channels, start=1):
                    folder = f"cpg0016-jump/source_4/images/2021_04_26_Batch1/images/{plate}__2021/Images"
                    row[f"FileName_Orig{channel}"] = f"{well}f{site:02d}p01-ch{c}.tiff"
                    row[f"PathName_Orig{channel}"] = f"s3://cellpainting-gallery/{folder}{slash}"
                    image(tmp_path / folder, row[f"FileName_Orig{channel}"], np.uint16)
                rows.append(row)
        path = tmp_path / "load_data_csv" / "2021_04_26_Batch1" / plate / "load_data.csv.gz"
        path.parent.mkdir(parents=True)
        pd.DataFrame(rows).to_csv(path, index=False)
    (tmp_path / "metadata").mkdir()
    known = [
        ("source_4", plate, well, name)
        for plate in ("BR00117035", "BR00117036")
        for well, name in (("A01", "JCP2022_033924"), ("B02", "JCP2022_085227"))
    ]
    columns = ["Metadata_Source", "Metadata_Plate", "Metadata_Well", "Metadata_JCP2022"]
    pd.DataFrame(known, columns=columns).to_csv(tmp_path / "metadata" / "well.csv.gz", index=False)
    catalog = catalog_of("jump", tmp_path)
    wells, sites, read, findings = ingest(catalog)
    assert set(wells["experiment"]) == {"source_4-2021_04_26_Batch1"} and len(wells) == 4 and len(sites) == 8
    assert wells["well_type"].tolist() == ["negative_control", "treatment"] * 2 and findings == []
    assert read.read(sites["files"].iloc[0]).shape == (5, 8, 6)


def test_the_image_table_of_bbbc021_is_a_mapping(tmp_path):
    rows = []
    for plate, well, compound, dose in (
        ("Week1_22123", "B02", "DMSO", 0.0),
        ("Week1_22123", "C03", "taxol", 0.3),
        ("Week2_24121", "B02", "DMSO", 0.0),
    ):
        week = plate.split("_")[0]
        for site in (1, 2):
            row = {
                "TableNumber": 1,
                "ImageNumber": len(rows),
                "Image_Metadata_Plate_DAPI": plate,
                "Image_Metadata_Well_DAPI": well,
            }
            row |= {"Replicate": 1, "Image_Metadata_Compound": compound, "Image_Metadata_Concentration": dose}
            for w, channel in ((1, "DAPI"), (2, "Tubulin"), (4, "Actin")):
                row[f"Image_FileName_{channel}"] = f"{well}_s{site}_w{w}BEDC2073-A983-4B98-95E9-84466707A25D.tif"
                row[f"Image_PathName_{channel}"] = f"{week}/{plate}"
                image(tmp_path / week / plate, row[f"Image_FileName_{channel}"], np.uint16)
            rows.append(row)
    pd.DataFrame(rows).to_csv(tmp_path / "BBBC021_v1_image.csv", index=False)
    catalog = catalog_of("bbbc021_images", tmp_path)
    wells, sites, read, findings = ingest(catalog)
    assert wells["id_code"].tolist() == ["Week1_Week1_22123_B02", "Week1_Week1_22123_C03", "Week2_Week2_24121_B02"]
    assert wells["perturbation"].tolist() == ["DMSO@0.0", "taxol@0.3", "DMSO@0.0"] and findings == []
    assert read.read(sites["files"].iloc[0]).shape == (3, 8, 6) and sites["site"].tolist() == [1, 2] * 3
    assert catalog.load("heldout_labels")["perturbation"].tolist() == wells["perturbation"].tolist()


def test_joined_tables_must_share_a_column_and_have_one_row_each(cells, tmp_path):
    columns = cells["columns"] | {"cell_type": "{line}"}
    (tmp_path / "plates.csv").write_text("plate,line\np1,MCF7\np2,U2OS\n")
    wells = LongTableDataset(**cells | {"columns": columns, "join": ["plates.csv"]}).load()
    assert set(wells["cell_type"]) == {"MCF7"}
    (tmp_path / "plates.csv").write_text("plate,line\np1,MCF7\np1,U2OS\n")
    with pytest.raises(DatasetError, match="plates.csv: line 3 repeats .*expected one row each"):
        LongTableDataset(**cells | {"columns": columns, "join": ["plates.csv"]}).load()
    (tmp_path / "plates.csv").write_text("plaque,line\np1,MCF7\n")
    with pytest.raises(DatasetError, match="plates.csv: shares no column with cells.csv"):
        LongTableDataset(**cells | {"columns": columns, "join": ["plates.csv"]}).load()


def test_one_well_may_be_spelled_in_several_ways(cells):
    table = pd.read_csv(cells["filepath"])
    table.loc[1, "well"] = "B2"
    table.to_csv(cells["filepath"], index=False)
    assert len(LongTableDataset(**cells).load()) == 2
    assert LongTableImagesDataset(**cells).load().found["site"].tolist() == [1, 2, 1]


@pytest.mark.parametrize("template", ["{well:[}", "{well", "{well:(}"])
def test_a_template_that_cannot_be_read_is_named(cells, template):
    with pytest.raises(InputError, match="catalog: the template .* of well cannot be read"):
        LongTableDataset(**cells | {"columns": cells["columns"] | {"well": template}})


def test_numbers_in_the_catalog_are_names(cells):
    wells = LongTableDataset(**cells | {"columns": cells["columns"] | {"experiment": 7}}).load()
    assert set(wells["experiment"]) == {"7"}


def test_unlabelled_rows_may_lack_their_perturbation(cells):
    table = pd.read_csv(cells["filepath"]).assign(split=["", "", "new", ""])
    table.loc[2, ["compound", "dose"]] = None
    table.to_csv(cells["filepath"], index=False)
    wells = LongTableDataset(**cells | {"heldout": {"split": ["new"]}, "exclude": {}, "negative_controls": []}).load()
    assert wells["split"].tolist() == ["labelled", "heldout", "labelled"] and wells["perturbation"].isna().tolist() == [
        0,
        1,
        0,
    ]
    labels = LongTableLabelsDataset(
        **cells | {"heldout": {"split": ["new"]}, "exclude": {}, "negative_controls": []}
    ).load()
    assert len(labels) == 2


def test_a_folder_in_place_of_an_image_and_a_site_without_a_number_are_refused(cells, tmp_path):
    (tmp_path / "c.npy").mkdir()
    images = LongTableImagesDataset(**cells).load()
    with pytest.raises(ImageError, match="c.npy: is a folder, expected an image"):
        images.read(images.found["files"].iloc[2])
    with pytest.raises(DatasetError, match="site 'a.npy' .cells.csv line 2.; expected a whole number"):
        LongTableImagesDataset(**cells | {"columns": cells["columns"] | {"site": "{file}"}}).load()
    with pytest.raises(DatasetError, match="has no 'files'"):
        LongTableImagesDataset(**cells | {"files": None}).load()


def test_many_tables_are_read_as_one(cells, tmp_path):
    table = read_csv(cells["filepath"], ["file"])
    for plate, part in table.groupby("plate"):
        (tmp_path / plate).mkdir()
        part.to_csv(tmp_path / plate / "cells.csv", index=False)
    many = cells | {"filepath": str(tmp_path / "p*" / "cells.csv"), "root": str(tmp_path), "exclude": {}}
    wells = LongTableDataset(**many).load()
    assert len(wells) == 3 and wells["source"].tolist() == [
        f"{tmp_path.name}/{name}" for name in ("p1/cells.csv line 2", "p1/cells.csv line 4", "p2/cells.csv line 2")
    ]
    assert LongTableImagesDataset(**many).load().found["missing"].map(len).tolist() == [0, 0, 1, 0]
    with pytest.raises(DatasetError, match="no file matches"):
        LongTableDataset(**cells | {"filepath": str(tmp_path / "q*" / "cells.csv")}).load()


def changed(cells, **columns):
    """The csv of cells with some columns replaced."""
    table = pd.read_csv(cells["filepath"], dtype=str, keep_default_na=False)
    table.assign(**columns).to_csv(cells["filepath"], index=False)


@pytest.mark.parametrize("key", ["heldout", "exclude"])
def test_a_value_that_no_row_has_is_refused_and_unquoted_numbers_are_explained(cells, key):
    changed(cells, plate=["2016_05_06", "2016_05_06", "2016_05_06", "010"])
    for value, message in (
        ("2016_05_6", "'2016_05_6' is no value of column 'plate'; there is 010, 2016_05_06. Did you mean '2016_05_06'"),
        (20160506, "20160506 is no value of column 'plate'.*Put quotes around '2016_05_06'"),
        (8, "8 is no value of column 'plate'.*Put quotes around '010'"),
    ):
        with pytest.raises(DatasetError, match=f"catalog: {key} of cells.csv: {message}"):
            LongTableDataset(**cells | {"exclude": {}, key: {"plate": [value]}}).load()
    held_out = LongTableDataset(**cells | {"exclude": {}, "heldout": {"plate": ["010"]}}).load()
    assert held_out["split"].tolist() == ["labelled", "labelled", "heldout"]


def test_empty_fields_can_be_excluded_or_get_a_default(cells):
    changed(cells, dose=["", "", "15", "5"])
    with pytest.raises(DatasetError, match="cells.csv line 2: column 'dose' is empty .2 rows.; .*a default as in"):
        LongTableDataset(**cells | {"exclude": {}}).load()
    for empty in ("", None):
        left = LongTableDataset(**cells | {"exclude": {"dose": [empty]}, "negative_controls": []}).load()
        assert left["perturbation"].tolist() == ["y@15", "x@5"]
    columns = cells["columns"] | {"perturbation": "{compound}@{dose|0}"}
    wells = LongTableDataset(**cells | {"columns": columns, "exclude": {}}).load()
    assert wells["perturbation"].tolist() == ["x@0", "y@15", "x@5"] and wells["well_type"].iloc[0] == "negative_control"
    with pytest.raises(DatasetError, match="no row is left of 4; 'exclude' leaves all of them out"):
        LongTableDataset(**cells | {"exclude": {"dose": ["", 15, 5]}}).load()


def test_one_dose_in_several_spellings_is_one_perturbation(cells):
    changed(cells, plate="p1", well=["B02", "B03", "B04", "B05"], compound="x", dose=["10", "10.0", "1e1", "5"])
    wells = LongTableDataset(**cells | {"exclude": {"dose": ["5.0"]}, "negative_controls": []}).load()
    assert wells["perturbation"].nunique() == 1 and len(wells) == 3
    changed(cells, compound=["7", "007", "7.0", "y"], dose="0")  # names of compounds are never numbers
    wells = LongTableDataset(**cells | {"exclude": {}, "negative_controls": []}).load()
    assert wells["perturbation"].tolist() == ["7@0", "007@0", "7.0@0", "y@0"]


def test_white_space_around_a_name_is_not_part_of_it(cells):
    changed(cells, compound=["x ", " x", "y", "x"])
    assert LongTableDataset(**cells).load()["perturbation"].tolist() == ["x@0", "y@15"]


def test_rows_of_one_well_must_agree(cells):
    columns = cells["columns"] | {"cell_type": "{cell}", "well_type": "{kind}"}
    entry = {k: v for k, v in cells.items() if k != "negative_controls"} | {"columns": columns}
    changed(cells, cell=["U2OS", "HeLa", "U2OS", "U2OS"], kind="treatment")
    with pytest.raises(DatasetError, match="1 of 2 wells have several values of cell_type, first Week1/p1/B02: 'U2OS'"):
        LongTableDataset(**entry).load()
    changed(cells, cell="U2OS", kind=["treatment", "negative_control", "treatment", "treatment"])
    with pytest.raises(DatasetError, match="several values of well_type"):
        LongTableDataset(**entry).load()
    changed(cells, kind="treatment", batch=["1", "2", "1", "1"])
    with pytest.raises(DatasetError, match="several values of split"):
        LongTableDataset(**entry | {"heldout": {"batch": ["2"]}}).load()
    with pytest.raises(InputError, match="both columns.well_type and negative_controls; give one of them"):
        LongTableDataset(**entry | {"negative_controls": ["x@0"]})


def test_an_empty_file_cell_is_a_missing_image(cells, tmp_path):
    changed(cells, file=["a.npy", "", "c.npy", "d.npy"])
    images = LongTableImagesDataset(**cells).load()
    assert images.found["missing"].tolist() == [(), ("",), ("c.npy",)]
    wells, _, _ = validate_wells(LongTableDataset(**cells).load(), ["treatment"])
    _, _, findings = match_images(wells, images)
    assert [f["detail"] for f in findings if f["finding"] == "missing_image"] == [
        "the table names no file",
        "no such file",
    ]


def test_two_channels_that_name_one_file_are_refused_before_anything_is_read(cells):
    files = {"n": "{file}", "a": "{file}"}
    with pytest.raises(DatasetError, match="cells.csv line 2: channels n and a name the same file, a.npy"):
        LongTableImagesDataset(**cells | {"files": files, "channels": None}).load()


def test_paths_written_on_windows_are_found(cells, tmp_path):
    (tmp_path / "plate one").mkdir()
    (tmp_path / "a.npy").rename(tmp_path / "plate one" / "a.npy")
    changed(cells, file=["plate one\\a.npy", "b.npy", "c.npy", "d.npy"])
    images = LongTableImagesDataset(**cells).load()
    assert images.found["missing"].iloc[0] == () and images.read(images.found["files"].iloc[0]).shape == (2, 4, 4)
    changed(cells, file=[f"D:\\export\\{n}.npy" for n in "abcd"])
    wells, _, _ = validate_wells(LongTableDataset(**cells).load(), ["treatment"])
    with pytest.raises(InputError, match="no complete image was found.*no such file: D:/export/a.npy"):
        match_images(wells, LongTableImagesDataset(**cells).load())


def test_plate_maps_are_joined_whatever_the_spelling_of_the_well(cells, tmp_path):
    entry = cells | {"join": ["map.csv"], "negative_controls": ["DMSO"], "exclude": {}}
    entry["columns"] = cells["columns"] | {"perturbation": "{drug}"}
    plate_map = pd.DataFrame(
        {"plate": ["p1", "p1", "p2"], "well": ["b2", "C3", "B002"], "drug": ["DMSO", "NA", "None"]}
    )
    plate_map.to_csv(tmp_path / "map.csv", index=False)
    assert LongTableDataset(**entry).load()["perturbation"].tolist() == ["DMSO", "NA", "None"]
    plate_map.assign(plate=["P1", "P1", "P2"]).to_csv(tmp_path / "map.csv", index=False)
    with pytest.raises(
        DatasetError, match="map.csv: has no row with plate 'p1', well 'B02' .cells.csv line 2., nor for any other row"
    ):
        LongTableDataset(**entry).load()
    plate_map.drop(index=1).to_csv(tmp_path / "map.csv", index=False)
    with pytest.raises(DatasetError, match="cells.csv line 4: column 'drug' is empty"):
        LongTableDataset(**entry).load()


def test_plate_maps_by_the_names_of_their_columns(cells, tmp_path):
    entry = cells | {"negative_controls": ["DMSO"], "exclude": {}}
    entry["columns"] = cells["columns"] | {"perturbation": ["{sample}@{mmoles_per_liter}", "{sample}", "{solvent}"]}
    entry["join"] = [
        {"file": "barcodes.csv", "on": {"plate": "Assay_Plate_Barcode"}},
        {"file": "maps/*.txt", "on": {"Plate_Map_Name": "plate_map_name", "well": "well_position"}},
    ]
    pd.DataFrame({"Assay_Plate_Barcode": ["p1", "p2"], "Plate_Map_Name": ["m1", "m2"]}).to_csv(
        tmp_path / "barcodes.csv", index=False
    )
    (tmp_path / "maps").mkdir()
    for name, drug in (("m1", "BRD-1"), ("m2", "BRD-2")):
        rows = [(name, "B2", "", "", "DMSO"), (name, "C3", drug, "5", "DMSO")]
        table = pd.DataFrame(rows, columns=["plate_map_name", "well_position", "sample", "mmoles_per_liter", "solvent"])
        table.to_csv(tmp_path / "maps" / f"{name}.txt", sep="\t", index=False)
    wells = LongTableDataset(**entry).load()
    assert wells["perturbation"].tolist() == ["DMSO", "BRD-1@5", "DMSO"]
    with pytest.raises(
        DatasetError, match="join of barcodes.csv: column 'plat' is missing in cells.csv.*Did you mean 'plate'"
    ):
        LongTableDataset(**entry | {"join": [{"file": "barcodes.csv", "on": {"plat": "Assay_Plate_Barcode"}}]}).load()


@pytest.fixture
def tall(tmp_path):
    rows = [
        ("p1", well, site, channel, f"{well}_{site}_{channel}.npy")
        for well in ("A01", "B02") for site in (1, 2) for channel in ("DNA", "actin", "Brightfield")
    ]  # fmt: skip
    pd.DataFrame(rows, columns=["plate", "well", "site", "channel", "path"]).to_csv(tmp_path / "sheet.csv", index=False)
    for row in rows:
        np.save(tmp_path / row[-1], np.full((4, 4), len(row[-1]), np.uint8))
    columns = {"experiment": "E", "plate": "{plate}", "well": "{well}", "site": "{site}", "channel": "{channel}"}
    columns |= {"cell_type": "U2OS", "perturbation": "{well}"}
    return dict(filepath=str(tmp_path / "sheet.csv"), columns=columns, files="{path}", channels=["actin", "DNA"])


def test_a_sheet_with_one_row_per_image_is_read(tall, tmp_path, caplog):
    with caplog.at_level("INFO"):
        images = LongTableImagesDataset(**tall).load()
    assert len(images.found) == 4 and images.found["files"].iloc[0] == ("A01_1_actin.npy", "A01_1_DNA.npy")
    assert "4 images of other channels (Brightfield) are not used" in caplog.text
    assert len(LongTableDataset(**tall).load()) == 2
    sheet = pd.read_csv(tall["filepath"])
    sheet.drop(index=0).to_csv(tall["filepath"], index=False)
    assert LongTableImagesDataset(**tall).load().found["missing"].iloc[0] == ("",)
    pd.concat([sheet, sheet.head(1)]).to_csv(tall["filepath"], index=False)
    with pytest.raises(
        DatasetError, match="sheet.csv line 2, sheet.csv line 14 name several images of channel DNA of E/p1/A01 site 1"
    ):
        LongTableImagesDataset(**tall).load()
    with pytest.raises(DatasetError, match="'dna' is no channel; there is Brightfield, DNA, actin. Did you mean 'DNA'"):
        LongTableImagesDataset(**tall | {"channels": ["dna"]}).load()
    with pytest.raises(InputError, match="one row per image .columns.channel.; it needs columns.site"):
        LongTableImagesDataset(**tall | {"channels": None})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"join": [{"filename": "m.csv"}]}, "join of cells.csv has .*filename.*; expected a file, or file and on"),
        (
            {"columns": {"perturbation": "{}"}},
            "the template '{}' of perturbation cannot be read .braces without the name of a column",
        ),
        ({"columns": {"perturbation": "{compound"}}, "the template '{compound' of perturbation cannot be read"),
    ],
)
def test_an_entry_that_cannot_mean_anything_is_refused(cells, change, message):
    columns = cells["columns"] | change.get("columns", {})
    with pytest.raises(InputError, match=message):
        LongTableDataset(**cells | change | {"columns": columns})


def test_a_single_name_may_stand_for_a_list(cells):
    wells = LongTableDataset(**cells | {"negative_controls": "x@0", "heldout": {"plate": "p1"}}).load()
    assert set(wells["split"]) == {"heldout"} and wells["well_type"].iloc[0] == "negative_control"


def test_another_separator_or_encoding_is_named(cells):
    changed(cells)
    text = Path(cells["filepath"]).read_text()
    for content, message in (
        (text.replace(",", ";").encode(), "Is it separated by commas"),
        (text.encode("utf-16"), "cannot be read as csv: .*; save it as UTF-8"),
        (text.replace("x", "µ").encode("latin-1"), "cannot be read as csv: .*; save it as UTF-8"),
    ):
        Path(cells["filepath"]).write_bytes(content)
        with pytest.raises(DatasetError, match=message):
            LongTableDataset(**cells).load()
