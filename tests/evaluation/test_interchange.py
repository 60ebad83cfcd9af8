"""Exchange with the tools of the field: pycytominer reads and writes our profiles, copairs computes the same average precision."""

import numpy as np
import pandas as pd
import pytest

from deepnoise.datasets.external_profiles import ExternalProfilesDataset, ExternalProfileWellsDataset
from deepnoise.evaluation.profiles import Profiles
from deepnoise.evaluation.retrieval import average_precisions
from deepnoise.tables import LEVELS

NAMES = ("Experiment", "Plate", "Well", "Perturbation")
COLUMNS = {name.lower(): f"{{Metadata_{name}}}" for name in NAMES}


@pytest.fixture
def screen() -> pd.DataFrame:
    """Three experiments of two plates, eight perturbations twice a plate and in other wells on each, eight features."""
    rng, rows = np.random.default_rng(0), []
    for experiment in ("E1", "E2", "E3"):
        for plate in ("1", "2"):
            wells = rng.permutation([f"{row}{column:02d}" for row in "BCDE" for column in range(2, 6)])
            rows += [(experiment, plate, well, f"p{i % 8}") for i, well in enumerate(wells)]
    table = pd.DataFrame(rows, columns=[f"Metadata_{name}" for name in NAMES])
    effect = rng.normal(size=(8, 8))[[int(name[1]) for name in table["Metadata_Perturbation"]]]
    features = effect + rng.normal(size=(len(table), 8))
    return pd.concat([table, pd.DataFrame(features, columns=[f"Cells_f{i}" for i in range(8)])], axis=1)


def test_profiles_go_through_pycytominer_and_come_back(screen, tmp_path):
    pycytominer = pytest.importorskip("pycytominer", reason="pycytominer is not installed (extra dev)")
    metadata = [c for c in screen if c.startswith("Metadata_")]
    features = [c for c in screen if c.startswith("Cells_")]
    second = screen.assign(**(screen[features] + np.random.default_rng(1).normal(size=(len(screen), 8))))
    sites = pd.concat([screen, second], ignore_index=True).assign(Cells_constant=1.0)
    features += ["Cells_constant"]
    plates = [plate for _, plate in sites.groupby(metadata[:2])]
    normalized = pd.concat(
        [
            pycytominer.normalize(p, features=features, meta_features=metadata, samples="all", method="standardize")
            for p in plates
        ],
        ignore_index=True,
    )
    selected = pycytominer.feature_select(normalized, features=features, operation=["variance_threshold"])
    selected.to_parquet(tmp_path / "profiles.parquet")
    entry = {"filepath": str(tmp_path / "profiles.parquet"), "columns": COLUMNS}
    read = ExternalProfilesDataset(**entry).load().set_index("id_code")
    wells = ExternalProfileWellsDataset(**entry).load().set_index("id_code")
    kept = [c for c in selected if c.startswith("Cells_")]
    by_well = selected.groupby(selected[metadata[:3]].agg("_".join, axis=1))
    expected = by_well[kept].mean().loc[read.index]
    perturbation = by_well["Metadata_Perturbation"].first().loc[read.index]
    assert len(read) == len(screen) == len(selected) / 2 and len(kept) == 8
    np.testing.assert_allclose(read[[f"embedding_{i:04d}" for i in range(8)]], expected, atol=1e-6)
    assert (wells.loc[read.index, "perturbation"] == perturbation).all()


@pytest.mark.parametrize("level", LEVELS)
def test_average_precision_is_that_of_copairs(screen, level):
    copairs = pytest.importorskip("copairs.map", reason="copairs is not installed (extra dev)")
    rows = screen.rename(columns={f"Metadata_{name}": name.lower() for name in NAMES})
    rows["id_code"] = rows["experiment"] + "_" + rows["plate"] + "_" + rows["well"]
    rows = rows.assign(fold=0, cell_type="all", well_type="treatment", plate_seen=False)
    values = rows[[c for c in rows if c.startswith("Cells_")]]
    ours, _ = average_precisions(
        Profiles(rows.drop(columns=values.columns), values.to_numpy(np.float32)), permutations=0
    )
    ours = ours[ours["level"] == level].set_index("id_code")["average_precision"]
    rows["unit"] = rows["experiment"] + "/" + rows["plate"]
    differs = dict(zip(LEVELS, ([], ["unit"], ["experiment"], ["experiment", "well"]), strict=True))[level]
    theirs = copairs.average_precision(
        rows[["id_code", "experiment", "unit", "well", "perturbation"]], values.to_numpy(np.float32),
        pos_sameby=["perturbation"], pos_diffby=differs, neg_sameby=["experiment"], neg_diffby=["perturbation"], progress_bar=False,
    ).set_index("id_code")["average_precision"]  # fmt: skip
    assert len(ours) == len(rows)
    np.testing.assert_allclose(ours, theirs.loc[ours.index], atol=1e-6)
