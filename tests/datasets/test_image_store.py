"""The image store: complete or absent, resumable, bounded in memory, on a disk or behind a URL."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple

import fsspec
import numpy as np
import pandas as pd
import pytest
from kedro.io import DatasetError
from PIL import Image

from deepnoise.datasets.image_store import ImageStoreDataset, _folder_name
from deepnoise.datasets.simulated import SimulatedImagesDataset
from deepnoise.errors import ImageError, InputError
from deepnoise.ingestion.packing import PackingPlan, PlateImages, pixel_findings, plan_packing
from tests.conftest import PROJECT


def plan(root, checksum=False):
    images = SimulatedImagesDataset(root=str(root)).load()
    sites = images.found.copy()
    sites["id_code"] = sites["experiment"] + "_" + sites["plate"] + "_" + sites["well"]
    reads = []

    class Counted:
        channels, dtype, stamp = images.channels, images.dtype, images.stamp

        def read(self, files):
            reads.append(files)
            return images.read(files)

    return plan_packing(sites, Counted(), checksum), images, reads


def contents(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("compressor", ["zstd", "lz4"])
def test_the_store_keeps_the_images_in_their_dtype_one_chunk_per_site(raw, tmp_path, compressor):
    steps, images, _ = plan(raw[0])
    dataset = ImageStoreDataset(root=str(tmp_path), compressor=compressor)
    dataset.save(steps)
    store = dataset.load()
    rows = store.rows()
    assert len(rows) == len(images.found) and len(store.plates) == 6
    assert store.shape == (6, 24, 24) and store.dtype == "uint8"
    for row in rows.sample(8, random_state=0).itertuples():
        site = images.found.query(
            "experiment == @row.experiment and plate == @row.plate and well == @row.well and site == @row.site"
        )
        image = store.read(row.experiment, row.plate, np.array([row.store_row]))[0]
        np.testing.assert_array_equal(image, images.read(site["files"].iloc[0]))
    array = store.array("ALPHA-01", "1")
    assert array.dtype == np.uint8 and array.chunks == (1, 6, 24, 24) and array.metadata.zarr_format == 3
    assert compressor in str(array.metadata.codecs)
    assert sum(plate["sites"] for plate in store.plates.values()) == len(rows)


def test_a_packing_that_is_up_to_date_reads_and_writes_nothing(raw, tmp_path):
    steps, _, _ = plan(raw[0])
    ImageStoreDataset(root=str(tmp_path)).save(steps)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.json") if p.name != "manifest.json"}
    again, _, reads = plan(raw[0])
    ImageStoreDataset(root=str(tmp_path)).save(again)
    assert reads == [] and before == {p: p.stat().st_mtime_ns for p in before}


SLOW_PACKING = """
import sys, time
from deepnoise.datasets.image_store import ImageStoreDataset, _folder_name
from tests.datasets.test_image_store import plan
steps, images, _ = plan(sys.argv[1])
object.__setattr__(steps, "read", lambda files: (time.sleep(0.01), images.read(files))[1])
print("packing", flush=True)
ImageStoreDataset(root=sys.argv[2]).save(steps)
"""


def test_a_killed_packing_resumes_and_equals_an_uninterrupted_one(raw, tmp_path):
    steps, _, reads = plan(raw[0])
    ImageStoreDataset(root=str(tmp_path / "whole")).save(steps)
    broken = tmp_path / "broken"
    process = subprocess.Popen([sys.executable, "-c", SLOW_PACKING, str(raw[0]), str(broken)], cwd=PROJECT)
    deadline = time.monotonic() + 60
    while len(list(broken.glob("*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.05)  # into the third plate
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    dataset = ImageStoreDataset(root=str(broken))
    assert not dataset._exists()
    with pytest.raises(DatasetError, match="absent or incomplete"):
        dataset.load()
    finished = {p.stem.replace("__", "/") for p in broken.glob("*.json")}
    assert 2 <= len(finished) < 6
    reads.clear()
    dataset.save(steps)
    left = sum(len(p.sites) for p in steps.plates if p.name not in finished)
    assert left <= len(reads) <= left + 5  # and the few that were sampled for their form
    assert contents(tmp_path / "whole") == contents(broken)


@pytest.mark.parametrize("checksum", [False, True])
def test_changed_and_new_plates_are_packed_and_removed_ones_deleted(raw, tmp_path, checksum):
    root = tmp_path / "raw"
    shutil.copytree(raw[0], root)
    later = tmp_path / "later"
    shutil.move(root / "train" / "ALPHA-01" / "Plate2", later)
    dataset = ImageStoreDataset(root=str(tmp_path / "store"))
    dataset.save(plan(root, checksum)[0])
    changed = root / "train" / "ALPHA-01" / "Plate1" / "B02_s1_w1.png"
    Image.fromarray(np.full((24, 24), 200, np.uint8)).save(changed)
    shutil.move(later, root / "train" / "ALPHA-01" / "Plate2")
    shutil.rmtree(root / "train" / "BETA-02")
    if checksum:
        for path in root.rglob("*.png"):
            os.utime(path, (5, 5))
    steps, _, reads = plan(root, checksum)
    dataset.save(steps)
    store = dataset.load()
    assert {files[0].split("/")[1] for files in reads} == {"ALPHA-01"}
    assert len(store.plates) == 4 and not (tmp_path / "store" / "BETA-02__1").exists()
    rows = store.rows()
    row = rows.query("experiment == 'ALPHA-01' and plate == '1' and well == 'B02' and site == 1")[
        "store_row"
    ].to_numpy()
    assert (store.read("ALPHA-01", "1", row)[0, 0] == 200).all()


def test_the_same_screen_behind_urls(raw, tmp_path):
    fs = fsspec.filesystem("memory")
    fs.put(str(raw[0]), "/screens/raw", recursive=True)
    from deepnoise.datasets.rxrx1 import RxRx1ImagesDataset, RxRx1TablesDataset

    images = RxRx1ImagesDataset(root="memory://screens/raw", channels=list("abcdef")).load()
    assert len(RxRx1TablesDataset(root="memory://screens/raw").load()) == len(raw[1])
    sites = images.found.assign(id_code=images.found["experiment"] + images.found["plate"] + images.found["well"])
    dataset = ImageStoreDataset(root="memory://screens/store")
    dataset.save(plan_packing(sites, images, checksum=True))
    dataset.save(plan_packing(sites, images, checksum=True))
    local = ImageStoreDataset(root=str(tmp_path))
    local.save(plan(raw[0])[0])
    for name in local.load().plates:
        key = name.split("/")
        np.testing.assert_array_equal(dataset.load().read(*key), local.load().read(*key))


def memory_plan(images, dtype=None):
    """A plan of plates from a dict of plate -> list of images; a string stands for a torn file."""

    def read(files):
        plate, i = files[0].split("-")
        image = images[plate][int(i)]
        if isinstance(image, str):
            raise ImageError("unreadable_image", files[0], image)
        return image

    plates = []
    for plate, plate_images in images.items():
        sites = pd.DataFrame(
            {
                "id_code": [f"E_{plate}_{i}" for i in range(len(plate_images))],
                "well": "B02",
                "site": range(1, len(plate_images) + 1),
            }
        )
        sites["files"] = [(f"{plate}-{i}",) for i in range(len(plate_images))]
        plates.append(PlateImages("E", plate, sites, f"{plate} {len(plate_images)}"))
    return PackingPlan(["c"], plates, read, dtype)


GOOD = [np.full((1, 4, 4), i, np.uint8) + np.eye(4, dtype=np.uint8) for i in range(1, 10)]


def test_an_unusable_image_has_no_row_and_is_named_in_the_record(tmp_path):
    odd = [*GOOD[:4], "torn", GOOD[4].astype(np.uint16), GOOD[5][:, :2], *GOOD[6:]]
    dataset = ImageStoreDataset(root=str(tmp_path))
    dataset.save(memory_plan({"1": odd, "2": GOOD}))
    store = dataset.load()
    assert store.rows().query("plate == '1'")["store_row"].tolist() == [0, 1, 2, 3, 7, 8, 9]
    np.testing.assert_array_equal(store.read("E", "1", np.array([9]))[0], GOOD[8])
    findings = {f["finding"]: f for f in pixel_findings(store.records(), ["c"])}
    assert findings["unreadable_image"]["file"] == "1-4" and findings["unreadable_image"]["plate"] == "1"
    assert findings["wrong_dtype"]["detail"] == "uint16, expected uint8"
    assert findings["wrong_shape"]["detail"] == "2x4 px, expected 4x4 px"


def test_a_promised_dtype_counts_and_a_plate_without_a_good_image_is_empty(tmp_path):
    wide = [p.astype(np.uint16) for p in GOOD]
    dataset = ImageStoreDataset(root=str(tmp_path))
    dataset.save(memory_plan({"1": wide, "2": GOOD[:1]}, dtype="uint8"))
    store = dataset.load()
    assert store.dtype == "uint8" and store.rows()["plate"].tolist() == ["2"]
    assert len(pixel_findings(store.records(), ["c"])) == len(wide)


def test_black_saturated_and_repeated_images_are_found(tmp_path):
    bright = GOOD[0].copy()
    bright[0, 0] = 255
    images = [GOOD[0], np.zeros((1, 4, 4), np.uint8), bright, GOOD[0], GOOD[1]]
    dataset = ImageStoreDataset(root=str(tmp_path))
    dataset.save(memory_plan({"1": images, "2": [GOOD[1]]}))
    findings = [(f["finding"], f["file"], f["detail"]) for f in pixel_findings(dataset.load().records(), ["c"])]
    assert findings == [
        ("black_image", "1-1", "every pixel is 0"),
        ("saturated_image", "1-2", "25% of the pixels are 255"),
        ("duplicate_image", "1-3", "the same pixels as 1-0"),
        ("duplicate_image", "2-0", "the same pixels as 1-4"),
    ]


def test_a_camera_of_12_bits_saturates_at_4095(tmp_path):
    wide = GOOD[0].astype(np.uint16)
    wide[0, 0] = 4095
    dataset = ImageStoreDataset(root=str(tmp_path))
    dataset.save(memory_plan({"1": [wide, GOOD[1].astype(np.uint16) * 100]}))
    assert [f["detail"] for f in pixel_findings(dataset.load().records(), ["c"])] == ["25% of the pixels are 4095"]


def test_a_screen_without_a_readable_image_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="none of 3 sampled images can be read; the first: 1-"):
        ImageStoreDataset(root=str(tmp_path)).save(memory_plan({"1": ["torn"] * 3}))


def test_a_new_unreadable_plate_affects_no_other_plate(tmp_path):
    dataset = ImageStoreDataset(root=str(tmp_path))
    dataset.save(memory_plan({"1": GOOD}))
    dataset.save(memory_plan({"1": GOOD, "2": ["torn"] * 3}))
    store = dataset.load()
    assert store.rows()["plate"].unique().tolist() == ["1"] and store.plates["E/2"]["sites"] == 0
    assert [f["finding"] for f in pixel_findings(store.records(), ["c"])] == ["unreadable_image"] * 3


def test_a_full_disk_is_refused_before_packing_starts(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 100, 100))
    with pytest.raises(DatasetError, match=r"needs about .* in .*18 sites.*, 100 bytes are free; free some space"):
        ImageStoreDataset(root=str(tmp_path)).save(memory_plan({"1": GOOD, "2": GOOD}))
    assert not list(tmp_path.glob("E__*"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, 10**9))
    ImageStoreDataset(root=str(tmp_path)).save(memory_plan({"1": GOOD, "2": GOOD}))


def test_an_unknown_compressor_or_plate_is_refused(raw, tmp_path):
    with pytest.raises(InputError, match="compressor 'gzip'; allowed: zstd, lz4"):
        ImageStoreDataset(root=str(tmp_path), compressor="gzip")
    dataset = ImageStoreDataset(root=str(tmp_path))
    dataset.save(memory_plan({"1": GOOD}))
    with pytest.raises(InputError, match="plate OMEGA-01/9 is not in the image store"):
        dataset.load().array("OMEGA-01", "9")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["plates"]["E/1"]["sites"] == 9 and manifest["plates"]["E/1"]["checksum"]


GROWTH = """
import resource, sys
import numpy as np
from tests.datasets.test_image_store import memory_plan
from deepnoise.datasets.image_store import ImageStoreDataset, _folder_name
from deepnoise.pipelines.normalization import nodes
import pandas as pd

plates, root = int(sys.argv[1]), sys.argv[2]
rng = np.random.default_rng(0)
class Lazy(list):
    def __len__(self): return 12
    def __getitem__(self, i): return rng.integers(0, 255, (6, 512, 512), dtype=np.uint8)
import deepnoise.ingestion.packing as packing
steps = memory_plan({str(p): Lazy() for p in range(plates)})
object.__setattr__(steps, "channels", list("abcdef"))
dataset = ImageStoreDataset(root=root)
dataset.save(steps)
store = dataset.load()
sites = store.rows()
wells = sites[["id_code"]].drop_duplicates().assign(well_type="treatment", cell_type="c")
nodes.measure_sites(store, pd.DataFrame(), sites, wells)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_screen(tmp_path):
    """Packing and measuring 120 sites of 1.6 MB in 10 plates, against 12 sites in one plate."""

    def peak(plates):
        command = [sys.executable, "-c", GROWTH, str(plates), str(tmp_path / str(plates))]
        return int(subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout)

    small, large = peak(1), peak(10)
    assert large < 1.2 * small, f"{small} kB for one plate, {large} kB for ten"


def chunk(root, plate, row):
    return root / plate / "c" / str(row) / "0" / "0" / "0"


def test_a_missing_chunk_is_an_error_that_names_plate_and_site_and_ingestion_repairs_the_plate(raw, tmp_path, caplog):
    steps, images, _ = plan(raw[0])
    dataset = ImageStoreDataset(root=str(tmp_path))
    dataset.save(steps)
    site = dataset.load().rows().query("experiment == 'ALPHA-01' and plate == '1'").iloc[5]
    before = dataset.load().read("ALPHA-01", "1")
    chunk(tmp_path, "ALPHA-01__1", site["store_row"]).unlink()
    place = f"plate ALPHA-01/1 well {site['well']} site {site['site']} is missing; run ingestion"
    with pytest.raises(InputError, match=place):
        dataset.load().read("ALPHA-01", "1", np.array([site["store_row"]]))
    with pytest.raises(InputError, match=place):
        dataset.load().read("ALPHA-01", "1")
    again, _, reads = plan(raw[0])
    dataset.save(again)
    assert f"1 of its images are missing or damaged: {site['well']} site {site['site']}" in caplog.text
    np.testing.assert_array_equal(dataset.load().read("ALPHA-01", "1"), before)
    repacked = {files[0].split("/")[1:3][0] + "/" + files[0].split("/")[2] for files in reads}
    assert repacked == {"ALPHA-01/Plate1"}


@pytest.mark.parametrize("compressor", ["zstd", "lz4"])
@pytest.mark.parametrize("verify", [False, True])
def test_a_damaged_chunk_is_an_error_and_is_found_by_its_size_or_by_verify(raw, tmp_path, compressor, verify):
    steps, _, _ = plan(raw[0])
    dataset = ImageStoreDataset(root=str(tmp_path), compressor=compressor)
    dataset.save(steps)
    before = dataset.load().read("ALPHA-01", "2")
    path = chunk(tmp_path, "ALPHA-01__2", 3)
    content = bytearray(path.read_bytes())
    if verify:
        content[len(content) // 2] ^= 255  # one changed byte, same size
    else:
        del content[len(content) // 2 :]
    path.write_bytes(content)
    with pytest.raises(InputError, match="the image of plate ALPHA-01/2 well .* site .* is damaged .*verify=true"):
        dataset.load().read("ALPHA-01", "2", np.array([3]))
    again, _, _ = plan(raw[0])
    dataset.save(dataclasses.replace(again, verify=verify))
    np.testing.assert_array_equal(dataset.load().read("ALPHA-01", "2"), before)


def test_verify_finds_pixels_that_are_readable_and_not_those_that_were_packed(raw, tmp_path):
    steps, _, _ = plan(raw[0])
    dataset = ImageStoreDataset(root=str(tmp_path))
    dataset.save(steps)
    before = dataset.load().read("ALPHA-01", "1")
    shutil.copy(chunk(tmp_path, "ALPHA-01__1", 0), chunk(tmp_path, "ALPHA-01__1", 1))
    again, _, _ = plan(raw[0])
    dataset.save(dataclasses.replace(again, verify=True))
    np.testing.assert_array_equal(dataset.load().read("ALPHA-01", "1"), before)


def test_a_black_image_is_no_missing_one(tmp_path):
    images = {("a",): np.zeros((1, 4, 4), np.uint8), ("b",): np.ones((1, 4, 4), np.uint8)}
    sites = pd.DataFrame(
        {"id_code": ["E_1_A01", "E_1_A02"], "well": ["A01", "A02"], "site": [1, 1], "files": list(images)}
    )
    dataset = ImageStoreDataset(root=str(tmp_path))
    dataset.save(PackingPlan(["c"], [PlateImages("E", "1", sites, "f")], images.__getitem__))
    assert dataset.load().read("E", "1").sum() == 16 and not dataset.load().read("E", "1", np.array([0])).any()
    chunk(tmp_path, "E__1", 0).unlink()  # as earlier versions wrote it
    assert dataset.load().read("E", "1").sum() == 16 and not dataset.load().read("E", "1", np.array([0])).any()
    chunk(tmp_path, "E__1", 1).unlink()
    with pytest.raises(InputError, match="plate E/1 well A02 site 1 is missing"):
        dataset.load().read("E", "1")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("A__1", "2"), ("A", "1__2")),
        (("A_", "1"), ("A", "_1")),
        (("A", "1/2"), ("A", "1%2F2")),
        (("A_", "_1"), ("A__", "1")),
    ],
)
def test_no_two_plates_share_a_folder(first, second):
    none = pd.DataFrame()
    names = [_folder_name(PlateImages(*key, none, "")) for key in (first, second)]
    assert names[0] != names[1] and not any("/" in name for name in names)
    assert _folder_name(PlateImages("HEPG2-01", "1_b", none, "")) == "HEPG2-01__1_b"
