"""Csv files and images: good files are read unchanged, damaged ones are named in a one-line error."""

import fsspec
import numpy as np
import pytest
import tifffile
from PIL import Image

from deepnoise.datasets.files import SiteFiles
from deepnoise.datasets.folder import Folder
from deepnoise.datasets.json_files import read_json, write_json
from deepnoise.datasets.pixels import read_image
from deepnoise.datasets.text_tables import read_csv
from deepnoise.errors import ImageError, InputError

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; expected a csv with columns well, sirna"),
        (b"", "cannot be read as csv"),
        (b"well;sirna\nA01;3\n", "'well' is missing.*Is it separated by commas"),
        (b"well\tsirna\nA01\t3\n", "'well' is missing.*Is it separated by commas"),
        (b"well,sirnas\nA01,3\n", "'sirna' is missing.*Did you mean 'sirnas'"),
        (b"\xff\xfe\x00\x80", "cannot be read as csv"),
        (b"well,sirna\nA01,3,\n", "more fields than its header"),
    ],
)
def test_an_error_names_the_bad_csv(tmp_path, content, message):
    path = tmp_path / "train.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"train.csv: .*{message}") as raised:
        read_csv(path, ["well", "sirna"])
    assert "\n" not in str(raised.value).strip()


def test_a_folder_in_place_of_a_csv_is_refused(tmp_path):
    (tmp_path / "train.csv").mkdir()
    with pytest.raises(InputError, match="train.csv is a folder, expected a csv"):
        read_csv(tmp_path / "train.csv", ["well"])


def test_a_byte_order_mark_is_ignored_and_gzip_is_read(tmp_path):
    import gzip

    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfwell\nA01\n")
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"well\nA02\n"))
    assert read_csv(tmp_path / "a.csv", ["well"])["well"].tolist() == ["A01"]
    assert read_csv(tmp_path / "b.csv.gz", ["well"])["well"].tolist() == ["A02"]


def write(path, image):
    if path.suffix == ".npy":
        np.save(path, image)
    elif path.suffix == ".png":
        Image.fromarray(image).save(path)
    else:
        tifffile.imwrite(path, image)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", ["png", "tif", "npy"])
def test_images_keep_their_counts(tmp_path, dtype, suffix):
    image = RNG.integers(0, np.iinfo(dtype).max, (5, 7)).astype(dtype)
    write(tmp_path / f"a.{suffix}", image)
    np.testing.assert_array_equal(read_image(Folder(tmp_path), f"a.{suffix}"), image)


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiffs_of_several_channels_are_read_channel_first(tmp_path, dtype, compression):
    stack = RNG.integers(0, np.iinfo(dtype).max, (3, 6, 8)).astype(dtype)
    folder = Folder(tmp_path)
    tifffile.imwrite(tmp_path / "pages.tif", stack, photometric="minisblack", compression=compression)
    tifffile.imwrite(tmp_path / "ome.tiff", stack, photometric="minisblack", metadata={"axes": "CYX"}, ome=True)
    tifffile.imwrite(tmp_path / "samples.tif", stack.transpose(1, 2, 0), photometric="rgb", compression=compression)
    tifffile.imwrite(tmp_path / "planar.tif", stack, photometric="rgb", planarconfig="separate")
    for name in ("pages.tif", "ome.tiff", "samples.tif", "planar.tif"):
        np.testing.assert_array_equal(read_image(folder, name), stack, err_msg=name)
    np.save(tmp_path / "last.npy", stack.transpose(1, 2, 0))
    np.testing.assert_array_equal(read_image(folder, "last.npy"), stack)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
def test_tiffs_of_another_writer_are_read(tmp_path, compression):
    image = RNG.integers(0, 60_000, (9, 5)).astype(np.uint16)
    Image.fromarray(image).save(tmp_path / "p.tif", compression=compression)
    np.testing.assert_array_equal(read_image(Folder(tmp_path), "p.tif"), image)


def torn(path, image):
    write(path, image)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("suffix", ["png", "tif", "npy"])
def test_a_torn_image_names_its_file_in_one_line(tmp_path, suffix):
    torn(tmp_path / f"torn.{suffix}", RNG.integers(0, 255, (64, 64)).astype(np.uint8))
    with pytest.raises(ImageError, match=f"torn.{suffix}: cannot be read as an image") as raised:
        read_image(Folder(tmp_path), f"torn.{suffix}")
    assert raised.value.finding == "unreadable_image" and "\n" not in str(raised.value)


@pytest.mark.parametrize("suffix", ["npy", "tif"])
def test_big_endian_images_are_read(tmp_path, suffix):
    image = RNG.integers(0, 60_000, (5, 4)).astype(">u2")
    write(tmp_path / f"b.{suffix}", image)
    read = read_image(Folder(tmp_path), f"b.{suffix}")
    assert read.dtype == np.uint16 and read.dtype.isnative
    np.testing.assert_array_equal(read, image)


def test_unusable_images_are_refused_with_the_reason(tmp_path):
    (tmp_path / "empty.npy").touch()
    (tmp_path / "folder.png").mkdir()
    np.save(tmp_path / "float.npy", np.zeros((4, 4)))
    np.save(tmp_path / "object.npy", np.array([{"code": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "deep.npy", np.zeros((2, 2, 2, 2), np.uint8))
    for name, finding, message in (
        ("float.npy", "wrong_dtype", "float64, expected uint8 or uint16"),
        ("object.npy", "unreadable_image", "cannot be read as an image"),
        ("gone.png", "missing_image", "no such file"),
        ("empty.npy", "unreadable_image", "cannot be read as an image"),
        ("folder.png", "unreadable_image", "is a folder, expected an image"),
        ("deep.npy", "wrong_shape", r"shape \(2, 2, 2, 2\)"),
    ):
        with pytest.raises(ImageError, match=f"{name}: {message}") as raised:
            read_image(Folder(tmp_path), name)
        assert raised.value.finding == finding


def site(folder, channels, **more):
    return SiteFiles(Folder(folder), channels, found=None, **more)


@pytest.mark.parametrize(
    ("second", "finding", "message"),
    [
        (np.zeros((5, 5), np.uint8), "wrong_shape", r"b.npy: uint8 of shape \(5, 5\), expected one channel of uint8 and shape \(4, 4\) as in a.npy"),
        (np.zeros((4, 4), np.uint16), "wrong_dtype", "b.npy: uint16"),
        (np.zeros((4, 4, 2), np.uint8), "unequal_channels", "b.npy: uint8 of shape"),
    ],
)  # fmt: skip
def test_channels_of_one_site_must_agree(tmp_path, second, finding, message):
    np.save(tmp_path / "a.npy", np.zeros((4, 4), np.uint8))
    np.save(tmp_path / "b.npy", second)
    with pytest.raises(ImageError, match=message) as raised:
        site(tmp_path, ["x", "y"]).read(("a.npy", "b.npy"))
    assert raised.value.finding == finding


def test_a_file_must_have_as_many_channels_as_the_screen(tmp_path):
    np.save(tmp_path / "c.npy", np.arange(24, dtype=np.uint16).reshape(2, 4, 3))
    assert site(tmp_path, list("abc")).read(("c.npy",)).shape == (3, 2, 4)
    with pytest.raises(ImageError, match="c.npy: 3 channels, expected 2 .a, b.") as raised:
        site(tmp_path, list("ab")).read(("c.npy",))
    assert raised.value.finding == "unequal_channels"


def test_a_stamp_changes_with_the_file_and_with_checksum_only_with_its_content(tmp_path):
    import os

    def stamp(checksum):
        return site(tmp_path, ["x"]).stamp(("a.npy",), checksum)

    np.save(tmp_path / "a.npy", np.zeros((4, 4), np.uint8))
    by_time, by_content = stamp(False), stamp(True)
    os.utime(tmp_path / "a.npy", (1, 1))
    assert stamp(False) != by_time and stamp(True) == by_content
    np.save(tmp_path / "a.npy", np.ones((4, 4), np.uint8))
    os.utime(tmp_path / "a.npy", (1, 1))
    assert stamp(True) != by_content


def test_a_change_behind_a_link_is_noticed(tmp_path):
    import os

    (tmp_path / "raw").mkdir()
    np.save(tmp_path / "a.npy", np.zeros((4, 4), np.uint8))
    (tmp_path / "raw" / "a.npy").symlink_to(tmp_path / "a.npy")
    before = site(tmp_path / "raw", ["x"]).stamp(("a.npy",))
    os.utime(tmp_path / "a.npy", (1, 1))
    assert site(tmp_path / "raw", ["x"]).stamp(("a.npy",)) != before


def test_images_tables_and_json_behind_a_url(tmp_path):
    fs = fsspec.filesystem("memory")
    np.save(tmp_path / "a.npy", np.full((2, 3), 7, np.uint8))
    fs.pipe("/files/sub/a.npy", (tmp_path / "a.npy").read_bytes())
    fs.pipe("/files/t.csv", b"well\nB02\n")
    folder = Folder("memory://files")
    assert (read_image(folder, "sub/a.npy") == 7).all() and folder.folders() == ["sub"]
    assert folder.info("sub/a.npy")["size"] > 0 and folder.info("sub/b.npy") is None
    assert read_csv("memory://files/t.csv", ["well"])["well"].tolist() == ["B02"]
    write_json("memory://files/x.json", {"a": np.int64(3)})
    write_json("memory://files/x.json", {"a": np.int64(4)})
    assert read_json("memory://files/x.json") == {"a": 4} and not fs.exists("/files/x.json.part")


def test_damaged_json_names_its_file(tmp_path):
    (tmp_path / "x.json").write_text('{"a": ')
    with pytest.raises(InputError, match="x.json: damaged .*delete it to start over"):
        read_json(tmp_path / "x.json")
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        write_json(tmp_path / "y.json", {"a": object()})
