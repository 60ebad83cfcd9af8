"""Images: the stored values are those of an independent reader, or a named finding; never something in between."""

import struct
import zlib

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from deepnoise.datasets.files import SiteFiles
from deepnoise.datasets.folder import Folder
from deepnoise.datasets.pixels import read_image, read_planes
from deepnoise.errors import ImageError, InputError

RNG = np.random.default_rng(0)
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Colour type of a PNG -> samples per pixel."""
DEPTHS = [
    (0, 1),
    (0, 2),
    (0, 4),
    (0, 8),
    (0, 16),
    (2, 8),
    (2, 16),
    (3, 1),
    (3, 4),
    (3, 8),
    (4, 8),
    (4, 16),
    (6, 8),
    (6, 16),
]


def png(colour: int, bits: int, values: np.ndarray) -> bytes:
    """A PNG of (H, W, S) values, written by hand after the specification, without filters."""
    height, width, samples = values.shape
    rows = []
    for row in values:
        flat = row.reshape(-1)
        packed = flat.astype(">u2").tobytes() if bits == 16 else np.packbits(
            np.unpackbits(flat.astype(np.uint8)[:, None], axis=1)[:, 8 - bits :].reshape(-1)
        ).tobytes()  # fmt: skip
        rows.append(b"\0" + packed)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    palette = chunk(b"PLTE", bytes(3 * 2**bits)) if colour == 3 else b""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + palette
        + chunk(b"IDAT", zlib.compress(b"".join(rows)))
        + chunk(b"IEND", b"")
    )


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mode=st.sampled_from(DEPTHS), height=st.integers(1, 5), width=st.integers(1, 9), seed=st.integers(0, 99))
def test_a_png_has_its_own_values_or_is_refused(tmp_path, mode, height, width, seed):
    colour, bits = mode
    values = np.random.default_rng(seed).integers(0, 2**bits, (height, width, SAMPLES[colour]))
    (tmp_path / "a.png").write_bytes(png(colour, bits, values))
    try:
        image = read_image(Folder(tmp_path), "a.png")
    except ImageError as error:
        assert error.finding == "wrong_dtype" and (colour == 3 or bits < 8)
        return
    assert colour != 3 and bits >= 8 and image.dtype == (np.uint8 if bits == 8 else np.uint16)
    np.testing.assert_array_equal(np.moveaxis(np.atleast_3d(np.moveaxis(image, 0, -1) if image.ndim == 3 else image), -1, 0), np.moveaxis(values, -1, 0))  # fmt: skip


@pytest.mark.parametrize("mode", ["1", "P", "CMYK", "F"])
def test_modes_that_pillow_would_convert_are_refused(tmp_path, mode):
    image = Image.fromarray(RNG.integers(0, 255, (6, 6, 3)).astype(np.uint8)).convert(mode)
    name = "a.jpg" if mode == "CMYK" else "a.tif" if mode == "F" else "a.png"
    image.save(tmp_path / name)
    with pytest.raises(ImageError) as raised:
        read_image(Folder(tmp_path), name)
    assert raised.value.finding == "wrong_dtype"


def test_other_formats_and_animations_are_refused(tmp_path):
    frames = [Image.fromarray(RNG.integers(0, 255, (6, 6)).astype(np.uint8)) for _ in range(2)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match="animation of 2 frames"):
        read_image(Folder(tmp_path), "a.png")
    frames[0].save(tmp_path / "a.bmp")
    frames[0].save(tmp_path / "a.pgm")
    for name in ("a.bmp", "a.pgm"):
        with pytest.raises(ImageError, match=r"a.\w+: cannot be read as an image .cannot identify image file.$"):
            read_image(Folder(tmp_path), name)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.sampled_from([(5, 7), (1, 7), (3, 5, 7), (1, 5, 7)]),
    dtype=st.sampled_from(["<u1", "<u2", ">u2", "<i2", "<f4", "<u4"]),
    compression=st.sampled_from([None, "zlib", "lzw"]),
    predictor=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_tif_has_the_values_of_its_pages_or_is_refused(tmp_path, shape, dtype, compression, predictor, seed):
    values = np.random.default_rng(seed).integers(0, 250, shape).astype(dtype)
    path = tmp_path / "a.tif"
    path.unlink(missing_ok=True)
    with_predictor = predictor and compression is not None and "f" not in dtype
    tifffile.imwrite(path, values, photometric="minisblack", compression=compression, predictor=with_predictor or None)
    try:
        image = read_image(Folder(tmp_path), "a.tif")
    except ImageError as error:
        assert error.finding == "wrong_dtype" and np.dtype(dtype).newbyteorder("=") not in (np.uint8, np.uint16)
        return
    with tifffile.TiffFile(path) as tiff:
        pages = np.stack([page.asarray() for page in tiff.pages])
    np.testing.assert_array_equal(np.atleast_3d(image).reshape(-1), pages.reshape(-1))
    assert image.dtype == np.dtype(dtype).newbyteorder("=")


def ome_set(folder, positions=3, channels=("DNA", "actin"), z=1, value=100):
    """A multi-file OME-TIFF set as acquisition software writes it: each file repeats the metadata of all positions."""
    names = [f"pos{p}.ome.tif" for p in range(positions)]
    images = []
    for p, name in enumerate(names):
        data = "".join(
            f'<TiffData IFD="{c * z + k}" FirstC="{c}" FirstZ="{k}" FirstT="0" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{p}</UUID></TiffData>'
            for c in range(len(channels)) for k in range(z)
        )  # fmt: skip
        named = "".join(
            f'<Channel ID="Channel:{p}:{c}" Name="{name_}" SamplesPerPixel="1"/>' for c, name_ in enumerate(channels)
        )
        images.append(
            f'<Image ID="Image:{p}"><Pixels ID="Pixels:{p}" DimensionOrder="XYZCT" Type="uint16" SizeX="6" SizeY="4" '
            f'SizeZ="{z}" SizeC="{len(channels)}" SizeT="1">{named}{data}</Pixels></Image>'
        )
    truth = {}
    for p, name in enumerate(names):
        text = (
            f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="urn:uuid:{p}">{"".join(images)}</OME>'
        )
        truth[name] = (
            (value * (p + 1) + np.arange(len(channels) * z * 24)).reshape(len(channels), z, 4, 6).astype(np.uint16)
        )
        with tifffile.TiffWriter(folder / name) as tiff:
            for page in truth[name].reshape(-1, 4, 6):
                tiff.write(page, description=text, metadata=None, contiguous=False)
    return truth


def test_each_file_of_an_ome_set_has_its_own_pixels(tmp_path):
    truth = ome_set(tmp_path)
    for name, planes in truth.items():
        image, labels = read_planes(Folder(tmp_path), name)
        np.testing.assert_array_equal(image, planes[:, 0])
        assert labels == ["DNA", "actin"]
    site = SiteFiles(Folder(tmp_path), ["DNA", "actin"], found=None)
    assert [int(site.read((name,)).mean()) for name in truth] == [int(planes.mean()) for planes in truth.values()]


def test_a_file_of_an_ome_set_is_known_by_its_id_after_a_renaming_and_alone(tmp_path):
    truth = ome_set(tmp_path)
    (tmp_path / "pos1.ome.tif").rename(tmp_path / "renamed.ome.tif")
    for other in ("pos0.ome.tif", "pos2.ome.tif"):
        (tmp_path / other).unlink()
    np.testing.assert_array_equal(read_image(Folder(tmp_path), "renamed.ome.tif"), truth["pos1.ome.tif"][:, 0])


def test_z_planes_are_refused_unless_the_catalog_asks_for_a_projection(tmp_path):
    truth = ome_set(tmp_path, z=3)["pos1.ome.tif"]
    tifffile.imwrite(tmp_path / "imagej.tif", truth.transpose(1, 0, 2, 3), imagej=True, metadata={"axes": "ZCYX"})
    for name in ("pos1.ome.tif", "imagej.tif"):
        with pytest.raises(ImageError, match="has 3 z planes, expected one; add 'z: max' or 'z: middle'") as raised:
            read_image(Folder(tmp_path), name)
        assert raised.value.finding == "wrong_shape"
        np.testing.assert_array_equal(read_image(Folder(tmp_path), name, z="max"), truth.max(axis=1))
        np.testing.assert_array_equal(read_image(Folder(tmp_path), name, z="middle"), truth[:, 1])
    with pytest.raises(InputError, match="catalog: z is 'mean'; allowed: max, middle"):
        SiteFiles(Folder(tmp_path), ["a"], found=None, z="mean")


@pytest.mark.parametrize(
    ("axes", "shape", "message"),
    [("TCYX", (3, 2, 4, 6), "has 3 time points, expected one"), ("TYX", (3, 4, 6), "has 3 time points, expected one")],
)
@pytest.mark.parametrize("ome", [True, False])
def test_time_points_are_no_channels(tmp_path, axes, shape, message, ome):
    stack = RNG.integers(0, 999, shape).astype(np.uint16)
    kind = {"ome": True} if ome else {"imagej": True}
    tifffile.imwrite(tmp_path / "t.tif", stack, photometric="minisblack", metadata={"axes": axes}, **kind)
    with pytest.raises(ImageError, match=message) as raised:
        read_image(Folder(tmp_path), "t.tif")
    assert raised.value.finding == "wrong_shape"


def test_several_images_in_one_file_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "several.tif") as tiff:
        tiff.write(np.ones((4, 6), np.uint16))
        tiff.write(np.ones((5, 6), np.uint16))
    with pytest.raises(ImageError, match="holds 2 images, of shapes"):
        read_image(Folder(tmp_path), "several.tif")
    with tifffile.TiffWriter(tmp_path / "positions.ome.tif", ome=True) as tiff:
        for _ in range(2):
            tiff.write(np.ones((4, 6), np.uint16), metadata={"axes": "YX"})
    with pytest.raises(ImageError, match="has 2 positions, expected one"):
        read_image(Folder(tmp_path), "positions.ome.tif")


def named_stack(path, names):
    stack = np.stack([np.full((4, 6), 10 * (c + 1), np.uint16) for c in range(len(names))])
    tifffile.imwrite(
        path, stack, photometric="minisblack", ome=True, metadata={"axes": "CYX", "Channel": {"Name": names}}
    )


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["DNA", "actin"], [10, 20]),
        (["actin", "DNA"], [20, 10]),
        (["ACTIN ", "dna"], [20, 10]),
        (["Brightfield", "actin", "DNA"], [30, 20]),
        (["Channel 0", "Channel 1"], [10, 20]),
    ],
)
def test_channels_are_put_in_order_by_the_names_of_the_file(tmp_path, names, expected):
    named_stack(tmp_path / "a.ome.tif", names)
    image = SiteFiles(Folder(tmp_path), ["DNA", "actin"], found=None).read(("a.ome.tif",))
    assert image.mean(axis=(1, 2)).tolist() == expected


def test_channels_whose_names_contradict_the_screen_are_refused(tmp_path):
    named_stack(tmp_path / "a.ome.tif", ["actin", "tubulin"])
    with pytest.raises(
        ImageError, match="its channels are called actin, tubulin, those of the screen DNA, actin"
    ) as raised:
        SiteFiles(Folder(tmp_path), ["DNA", "actin"], found=None).read(("a.ome.tif",))
    assert raised.value.finding == "unequal_channels"
    for name in ("DNA", "actin"):
        image = np.ones((1, 4, 6), np.uint16)
        tifffile.imwrite(
            tmp_path / f"{name}.ome.tif", image, ome=True, metadata={"axes": "CYX", "Channel": {"Name": [name]}}
        )
    site = SiteFiles(Folder(tmp_path), ["DNA", "actin"], found=None)
    assert site.read(("DNA.ome.tif", "actin.ome.tif")).shape == (2, 4, 6)
    with pytest.raises(ImageError, match="calls itself 'actin', but is listed as 'DNA'"):
        site.read(("actin.ome.tif", "DNA.ome.tif"))


def test_a_palette_is_no_grey_level_but_imagejs_is_for_display_only(tmp_path):
    values = RNG.integers(0, 255, (4, 6)).astype(np.uint8)
    colours = RNG.integers(0, 65535, (3, 256)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "palette.tif", values, photometric="palette", colormap=colours)
    with pytest.raises(ImageError, match="has a palette"):
        read_image(Folder(tmp_path), "palette.tif")
    tifffile.imwrite(tmp_path / "imagej.tif", values, imagej=True, colormap=colours)
    np.testing.assert_array_equal(read_image(Folder(tmp_path), "imagej.tif"), values)


def test_real_images_of_vendors_have_the_values_of_their_pages(shared):
    paths = sorted((shared / "screening_formats").rglob("*.tif*")) + sorted(
        (shared / "screening_formats").rglob("*.TIF")
    )
    assert len(paths) > 10
    for path in paths:
        image = read_image(Folder(path.parent), path.name)
        with tifffile.TiffFile(path, is_ome=False) as tiff:
            np.testing.assert_array_equal(image, tiff.pages[0].asarray(), err_msg=str(path))
