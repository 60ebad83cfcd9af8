"""Every type of finding, injected into a small simulated screen: it is found with its file, and its policy holds."""

import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from deepnoise.datasets.exclude_list import ExcludeListDataset
from deepnoise.datasets.image_store import ImageStoreDataset
from deepnoise.datasets.rxrx1 import RxRx1ImagesDataset, RxRx1TablesDataset
from deepnoise.errors import InputError
from deepnoise.ingestion.finding_types import FINDINGS
from deepnoise.ingestion.findings import WHOLE_WELL, stop_on_errors, summarize
from deepnoise.parameters import FindingPolicies
from deepnoise.pipelines.ingestion import nodes
from deepnoise.simulation.cells import CHANNELS

PLATE = "train/ALPHA-01/Plate1"
POLICIES = {finding: allowed[-1] for finding, (_, allowed) in FINDINGS.items() if finding != "excluded"}


@pytest.fixture
def root(raw, tmp_path):
    shutil.copytree(raw[0], tmp_path / "raw")
    return tmp_path / "raw"


def ingest(root, **policies):
    """Run the nodes of the pipeline in order; returns findings, sites and report."""
    finding_policies = FindingPolicies(**POLICIES | policies)
    parameters = SimpleNamespace(
        findings=finding_policies, target_well_types=["treatment"], checksum=False, verify=False
    )
    excluded = ExcludeListDataset(filepath=str(root.parent / "excluded.csv")).load()
    wells, table_findings = nodes.validate_wells(RxRx1TablesDataset(root=str(root)).load(), excluded, parameters)
    images = RxRx1ImagesDataset(root=str(root), channels=list(CHANNELS), dtype="uint8").load()
    matched, image_findings = nodes.match_images(images, wells, table_findings, parameters)
    dataset = ImageStoreDataset(root=str(root.parent / "store"))
    dataset.save(nodes.pack_images(images, matched, parameters))
    store = dataset.load()
    findings, report = nodes.report_findings(store, table_findings, image_findings, parameters)
    return findings, nodes.list_sites(store, wells, findings), report


def image(root, name):
    return np.asarray(Image.open(root / PLATE / name))


def save(root, name, array):
    Image.fromarray(array).save(root / PLATE / name)


def drop_row(root, table, start):
    lines = (root / table).read_text().splitlines(keepends=True)
    (root / table).write_text("".join(line for line in lines if not line.startswith(start)))


def files_of(root, well):
    return [p for p in (root / PLATE).iterdir() if p.name.startswith(f"{well}_")]


def remove_well(root, well):
    for path in files_of(root, well):
        path.unlink()


def tear(root):
    path = root / PLATE / "B02_s2_w3.png"
    path.write_bytes(path.read_bytes()[:60])


def folder_for_a_file(root):
    (root / PLATE / "B02_s2_w3.png").unlink()
    (root / PLATE / "B02_s2_w3.png").mkdir()


def saturate(root):
    array = image(root, "B02_s2_w3.png").copy()
    array[:5] = 255
    save(root, "B02_s2_w3.png", array)


def stray_control(root):
    path = root / "test_controls.csv"
    lines = path.read_text().splitlines()
    row = next(i for i, line in enumerate(lines) if "positive" in line)
    fields = lines[row].split(",")
    fields[4] = "999"
    lines[row] = ",".join(fields)
    path.write_text("\n".join(lines) + "\n")
    return fields


def rename_in_lower_case(root):
    """Call the second experiment as the first one, in lower case."""
    other = next(p for p in sorted((root / "train").iterdir()) if p.name != "ALPHA-01")
    for path in root.glob("*.csv"):
        path.write_text(path.read_text().replace(f"{other.name}_", "alpha-01_").replace(f"{other.name},", "alpha-01,"))
    other.rename(root / "train" / "alpha-01")


INJECTED = {
    "missing_well": (lambda root: drop_row(root, "train_controls.csv", "ALPHA-01_1_B02"), "B02", -1, "", ""),
    "metadata_without_images": (lambda root: remove_well(root, "B02"), "B02", -1, "", "no image found"),
    "well_without_metadata": (
        lambda root: shutil.copy(root / PLATE / "B02_s1_w1.png", root / PLATE / "P24_s1_w1.png"),
        "P24", 1, f"{PLATE}/P24_s1_w1.png", "is in no table",
    ),
    "orphan_image": (lambda root: save(root, "overview.tif", np.ones((4, 4), np.uint8)), "", -1, f"{PLATE}/overview.tif", "its name identifies no site"),
    "missing_image": (lambda root: (root / PLATE / "B02_s2_w3.png").unlink(), "B02", 2, f"{PLATE}/B02_s2_w3.png", "no such file"),
    "duplicate_image": (
        lambda root: save(root, "B02_s2_w3.png", image(root, "B02_s1_w3.png")),
        "B02", 2, f"{PLATE}/B02_s2_w3.png", f"the same pixels as {PLATE}/B02_s1_w3.png",
    ),
    "unreadable_image": (tear, "B02", 2, f"{PLATE}/B02_s2_w3.png", "cannot be read as an image"),
    "wrong_shape": (
        lambda root: [save(root, f"B02_s2_w{c}.png", np.ones((20, 24), np.uint8)) for c in range(1, 7)],
        "B02", 2, f"{PLATE}/B02_s2_w1.png", "20x24 px, expected 24x24 px",
    ),
    "wrong_dtype": (
        lambda root: [save(root, f"B02_s2_w{c}.png", np.ones((24, 24), np.uint16)) for c in range(1, 7)],
        "B02", 2, f"{PLATE}/B02_s2_w1.png", "uint16, expected uint8",
    ),
    "unequal_channels": (
        lambda root: save(root, "B02_s2_w3.png", np.ones((24, 24, 3), np.uint8)),
        "B02", 2, f"{PLATE}/B02_s2_w3.png", "expected one channel",
    ),
    "black_image": (
        lambda root: save(root, "B02_s2_w3.png", np.zeros((24, 24), np.uint8)), "B02", 2, f"{PLATE}/B02_s2_w3.png", "every pixel is 0",
    ),
    "saturated_image": (saturate, "B02", 2, f"{PLATE}/B02_s2_w3.png", "of the pixels are 255"),
    "similar_names": (rename_in_lower_case, None, -1, "csv line", "are different names"),
    "unknown_perturbation": (stray_control, None, -1, "test_controls.csv line", "'999' is on no labelled plate"),
}  # fmt: skip


def test_a_clean_screen_has_no_finding(root):
    findings, sites, report = ingest(root, **dict.fromkeys(POLICIES, "error"))
    assert findings.empty and report["findings"] == {} and len(sites) == report["store"]["sites"] == 72


def test_types_of_findings_are_read_without_pandas():
    code = "import sys, deepnoise.parameters; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    violating = "import sys, deepnoise.ingestion.findings; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", violating], check=False).returncode == 1


def test_every_type_of_finding_is_injected():
    assert set(INJECTED) == set(POLICIES) == set(FindingPolicies.model_fields)


@pytest.mark.parametrize(("finding", "policy"), [(f, p) for f in INJECTED for p in FINDINGS[f][1]])
def test_an_injected_fault_is_found_with_its_file_and_its_policy_holds(root, finding, policy):
    inject, well, site, file, detail = INJECTED[finding]
    injected = inject(root)
    if policy == "error":
        with pytest.raises(InputError, match=f"{finding}: .*Fix it.*ingestion.findings.{finding} to") as raised:
            ingest(root, **{finding: "error"})
        assert file in str(raised.value) and detail in str(raised.value) and "\n" not in str(raised.value)
        return
    findings, sites, report = ingest(root, **{finding: policy})
    row = findings[findings["finding"] == finding].iloc[0]
    assert row["policy"] == policy and file in row["file"] and detail in row["detail"]
    assert report["findings"][finding]["count"] == (findings["finding"] == finding).sum()
    if finding in ("similar_names", "unknown_perturbation"):
        well = row["well"]
    if finding == "unknown_perturbation":
        assert [row["experiment"], row["plate"], well] == injected[1:4]
    assert row["well"] == well and row["site"] == site
    kept = sites[
        (sites["experiment"] == row["experiment"]) & (sites["plate"] == row["plate"]) & (sites["well"] == well)
    ]
    n_kept = len(kept) if site == WHOLE_WELL else int((kept["site"] == site).sum())
    removed = policy == "exclude" or finding in ("metadata_without_images", "missing_well")
    assert n_kept == (0 if removed else 2 if site == WHOLE_WELL else 1)


def test_a_folder_in_place_of_an_image_is_an_unreadable_image(root):
    folder_for_a_file(root)
    with pytest.raises(
        InputError, match="unreadable_image: ALPHA-01/1/B02 site 2 .*B02_s2_w3.png: is a folder, expected an image"
    ):
        ingest(root, unreadable_image="error")


def test_packed_plates_survive_an_error_and_only_the_repaired_plate_is_read_again(root, monkeypatch):
    tear(root)
    with pytest.raises(InputError, match="unreadable_image"):
        ingest(root, unreadable_image="error")
    shutil.copy(root / PLATE / "B02_s1_w3.png", root / PLATE / "B02_s2_w3.png")
    reads = []
    from deepnoise.datasets.files import SiteFiles

    read = SiteFiles.read
    monkeypatch.setattr(SiteFiles, "read", lambda self, files: (reads.append(files[0]), read(self, files))[1])
    ingest(root)
    assert reads and all(name.startswith(PLATE) for name in reads)


def test_excluded_sites_wells_and_plates_are_not_in_the_sites(root):
    rows = "experiment,plate,well,site,reason\nALPHA-01,1,B02,2,bubble\nALPHA-01,2,B02,,\nALPHA-04,1,,,out of focus\n"
    (root.parent / "excluded.csv").write_text(rows)
    findings, sites, report = ingest(
        root, **dict.fromkeys(POLICIES, "report") | {k: "exclude" for k, v in POLICIES.items() if v == "exclude"}
    )
    well_of_site = sites["experiment"] + "/" + sites["plate"] + "/" + sites["well"]
    assert sites.loc[well_of_site == "ALPHA-01/1/B02", "site"].tolist() == [1]
    assert not (well_of_site == "ALPHA-01/2/B02").any() and not well_of_site.str.startswith("ALPHA-04/1/").any()
    assert set(findings["finding"]) == {"excluded"} and report["findings"]["excluded"]["by_plate"]["ALPHA-04/1"] == 6


def test_sites_may_be_numbered_from_0(root):
    for path in root.rglob("*_s1_*.png"):
        path.rename(path.with_name(path.name.replace("_s1_", "_s0_")))
    save(root, "B02_s0_w3.png", np.zeros((24, 24), np.uint8))
    (root.parent / "excluded.csv").write_text("experiment,plate,well,site,reason\nALPHA-01,2,B02,0,fibre\n")
    _, sites, _ = ingest(root, black_image="exclude")
    well_of_site = sites["experiment"] + "/" + sites["plate"] + "/" + sites["well"]
    assert sites.loc[well_of_site == "ALPHA-01/1/B02", "site"].tolist() == [2] and len(sites) == 70
    assert sites.loc[well_of_site == "ALPHA-01/2/B02", "site"].tolist() == [2]


def test_a_screen_without_usable_sites_says_what_excluded_them(root):
    for path in root.rglob("*.png"):
        Image.fromarray(np.full((24, 24), 7, np.uint8)).save(path)
    with pytest.raises(InputError, match="no usable site is left of 72 packed ones; left out: 432 black_image"):
        ingest(root, black_image="exclude")


def test_an_empty_table_of_findings_stops_nothing_and_has_an_empty_summary():
    empty = pd.DataFrame({"finding": [], "policy": []})
    stop_on_errors(empty)
    assert summarize(empty) == {}
