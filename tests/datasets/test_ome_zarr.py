"""OME-Zarr plates written by ome-zarr-py, the ecosystem's own writer, in NGFF 0.4 and 0.5."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import zarr
from kedro.io import DatasetError

from deepnoise.datasets.ome_zarr import OmeZarrImagesDataset
from deepnoise.errors import ImageError
from tests.datasets.test_long_table import catalog_of, ingest

ome_zarr_writer = pytest.importorskip("ome_zarr.writer")
FORMATS = {"0.4": "FormatV04", "0.5": "FormatV05"}
RNG = np.random.default_rng(0)
WELLS = ("A/1", "B/3")


def write_plate(path, ngff, axes="cyx", shape=(2, 32, 40), dtype=np.uint16, wells=WELLS):
    """Write a plate with two sites per well. Returns well -> its images."""
    import ome_zarr.format as formats

    fmt = getattr(formats, FORMATS[ngff])()
    plate = zarr.open_group(str(path), mode="w", zarr_format=fmt.zarr_format)
    ome_zarr_writer.write_plate_metadata(plate, ["A", "B"], ["1", "2", "3"], list(wells), fmt=fmt)
    images = {}
    for well in wells:
        group = plate.require_group(well)
        ome_zarr_writer.write_well_metadata(group, ["0", "1"], fmt=fmt)
        images[well] = RNG.integers(0, 250, (2, *shape)).astype(dtype)
        for i, image in enumerate(images[well]):
            ome_zarr_writer.write_image(image, group.require_group(str(i)), axes=axes, fmt=fmt, scale_factors=(2,))
    return images


def write_table(root, experiment="E1", plate="P7"):
    rows = [
        (experiment, plate, "A1", "U2OS", "DMSO", "negative_control"),
        (experiment, plate, "B03", "U2OS", "drug", "treatment"),
    ]
    pd.DataFrame(rows, columns=["experiment", "plate", "well", "cell_type", "perturbation", "well_type"]).to_csv(
        root / "wells.csv", index=False
    )


@pytest.mark.parametrize("axes", ["cyx", "tczyx"])
@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
def test_plates_of_both_versions_are_ingested(tmp_path, ngff, axes):
    (tmp_path / "E1").mkdir()
    shape = (2, 32, 40) if axes == "cyx" else (1, 2, 1, 32, 40)
    images = write_plate(tmp_path / "E1" / "P7.ome.zarr", ngff, axes, shape)
    write_table(tmp_path)
    wells, sites, read, findings = ingest(catalog_of("ome_zarr", tmp_path))
    assert wells["well"].tolist() == ["A01", "B03"] and sites["site"].tolist() == [1, 2, 1, 2] and findings == []
    for row, expected in zip(sites.itertuples(), (p for well in WELLS for p in images[well]), strict=True):
        np.testing.assert_array_equal(read.read(row.files), expected.reshape(2, 32, 40))


def test_big_endian_arrays_are_read(tmp_path):
    """As bioformats2raw writes them."""
    write_plate(tmp_path / "P7.zarr", "0.4")
    path = tmp_path / "P7.zarr" / "A" / "1" / "0"
    old = zarr.open_group(str(path), mode="r+")
    name = old.attrs["multiscales"][0]["datasets"][0]["path"]
    image = old[name][:]
    zarr.create_array(str(path / name), data=image.astype(">u2"), zarr_format=2, overwrite=True)
    images = load(tmp_path, experiment="E1")
    read = images.read(images.found["files"].iloc[0])
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, image)


def load(root, **more):
    return OmeZarrImagesDataset(root=str(root), channels=["DNA", "actin"], **more).load()


def test_wells_and_images_that_were_never_written_are_missing(tmp_path):
    plate = tmp_path / "P7.zarr"
    write_plate(plate, "0.5")
    shutil.rmtree(plate / "B" / "3" / "1")
    sites = load(tmp_path, experiment="E1").found
    assert sites["missing"].map(len).tolist() == [0, 0, 0, 1]
    shutil.rmtree(plate / "A" / "1")
    assert load(tmp_path, experiment="E1").found["well"].tolist() == ["B3", "B3"]
    with pytest.raises(DatasetError, match="P7.zarr is not in the folder of an experiment"):
        load(tmp_path)
    with pytest.raises(DatasetError, match="no plate <plate>.zarr"):
        load(plate / "A")


@pytest.mark.parametrize(
    ("changes", "finding", "message"),
    [
        ({"axes": "czyx", "shape": (2, 3, 32, 40)}, "wrong_shape", "has 3 z planes, expected one; add 'z: max'"),
        ({"shape": (3, 32, 40)}, "unequal_channels", "3 channels, expected 2 .DNA, actin."),
        ({"dtype": np.float32}, "wrong_dtype", "float32, expected uint8 or uint16"),
    ],
)
def test_images_that_do_not_fit_are_refused_with_the_reason(tmp_path, changes, finding, message):
    write_plate(tmp_path / "P7.zarr", "0.5", **changes)
    images = load(tmp_path, experiment="E1")
    with pytest.raises(ImageError, match=message) as raised:
        images.read(images.found["files"].iloc[0])
    assert raised.value.finding == finding


def test_damage_names_the_plate_or_the_image(tmp_path):
    plate = tmp_path / "P7.zarr"
    write_plate(plate, "0.5")
    images = load(tmp_path, experiment="E1")
    before = images.stamp(images.found["files"].iloc[0], checksum=True), images.stamp(images.found["files"].iloc[0])
    chunk = next(p for p in (plate / "A" / "1" / "0").rglob("*") if p.is_file() and p.name.isdigit())
    chunk.write_bytes(b"torn")
    again = load(tmp_path, experiment="E1")
    files = again.found["files"].iloc[0]
    assert again.stamp(files, checksum=True) != before[0] and again.stamp(files) != before[1]
    with pytest.raises(ImageError, match="A/1/0: cannot be read as an OME-Zarr image") as raised:
        again.read(files)
    assert "\n" not in str(raised.value)
    metadata = json.loads((plate / "zarr.json").read_text())
    del metadata["attributes"]["ome"]["plate"]["wells"]
    (plate / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(DatasetError, match="P7.zarr: cannot be read as an OME-Zarr plate of NGFF 0.4 or 0.5"):
        load(tmp_path, experiment="E1")


def test_a_missing_chunk_of_an_image_is_no_black_corner(tmp_path):
    write_plate(tmp_path / "P7.zarr", "0.4")
    path = tmp_path / "P7.zarr" / "A" / "1" / "0"
    group = zarr.open_group(str(path), mode="r+")
    name = group.attrs["multiscales"][0]["datasets"][0]["path"]
    data = RNG.integers(1, 250, (2, 32, 40)).astype(np.uint16)
    zarr.create_array(str(path / name), data=data, chunks=(1, 32, 40), zarr_format=2, overwrite=True)
    images = load(tmp_path, experiment="E1")
    np.testing.assert_array_equal(images.read(images.found["files"].iloc[0]), data)
    chunks = [p for p in (path / name).rglob("*") if p.is_file() and not p.name.startswith(".z")]
    chunks[0].unlink()
    with pytest.raises(ImageError, match="1 of its 2 chunks are missing"):
        images.read(images.found["files"].iloc[0])


def name_channels(root, labels):
    """Write the labels that viewers show into the metadata of every image."""
    for path in root.rglob("*"):
        if path.is_dir() and path.parent.parent.parent.suffix == ".zarr":
            zarr.open_group(str(path), mode="r+").attrs["omero"] = {
                "channels": [{"label": label, "color": "FFFFFF", "window": {"min": 0, "max": 1, "start": 0, "end": 1}} for label in labels]
            }  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "order"), [(["DNA", "actin"], [0, 1]), (["actin", "DNA"], [1, 0]), (["a", "b"], [0, 1])]
)
def test_channels_are_put_in_order_by_their_labels(tmp_path, labels, order):
    images = write_plate(tmp_path / "P7.zarr", "0.4")
    name_channels(tmp_path / "P7.zarr", labels)
    read = OmeZarrImagesDataset(root=str(tmp_path), channels=["DNA", "actin"], experiment="E1").load()
    np.testing.assert_array_equal(read.read(read.found["files"].iloc[0]), images["A/1"][0][order])
    other = OmeZarrImagesDataset(root=str(tmp_path), channels=["actin", "ER"], experiment="E1").load()
    if labels != ["a", "b"]:
        with pytest.raises(ImageError, match="its channels are called"):
            other.read(other.found["files"].iloc[0])


@pytest.mark.parametrize("z", ["max", "middle"])
def test_z_planes_are_projected_where_the_catalog_says_how(tmp_path, z):
    images = write_plate(tmp_path / "P7.zarr", "0.4", "czyx", (2, 3, 32, 40))
    read = OmeZarrImagesDataset(root=str(tmp_path), channels=["n", "a"], experiment="E1", z=z).load()
    expected = images["A/1"][0].max(axis=1) if z == "max" else images["A/1"][0][:, 1]
    np.testing.assert_array_equal(read.read(read.found["files"].iloc[0]), expected)
