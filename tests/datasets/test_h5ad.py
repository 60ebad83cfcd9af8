"""Profiles as AnnData files."""

import h5py
import numpy as np
import pandas as pd
import pytest
from kedro.io import DatasetError

from deepnoise.datasets.h5ad import H5ADDataset


@pytest.fixture
def profiles():
    wells = {"Metadata_Experiment": "E-01", "Metadata_Plate": "1", "Metadata_Well": ["B02", "B03"], "Metadata_Site": 1}
    labels = {"Metadata_Perturbation": ["17", None], "Metadata_Control": "treatment", "Metadata_CellType": "E"}
    model = {"Metadata_Fold": 0, "Metadata_PlateSeen": [True, False], "Metadata_Tier": "T1"}
    embeddings = {
        "embedding_0000": np.array([0.5, 0.25], np.float32),
        "embedding_0001": np.array([1.0, -1.0], np.float32),
    }
    return pd.DataFrame(wells | labels | model | embeddings)


def test_profiles_load_as_they_were_saved(profiles, tmp_path):
    dataset = H5ADDataset(filepath=str(tmp_path / "profiles.h5ad"))
    before = profiles.copy()
    dataset.save(profiles)
    pd.testing.assert_frame_equal(profiles, before)
    again = dataset.load()
    pd.testing.assert_frame_equal(again, profiles.astype(again.dtypes.to_dict()))
    assert again["Metadata_Perturbation"].isna().tolist() == [False, True]


def test_the_file_is_laid_out_as_anndata_writes_it(profiles, tmp_path):
    """The attributes of AnnData's on-disk format, which its reader goes by."""
    H5ADDataset(filepath=str(tmp_path / "profiles.h5ad")).save(profiles)
    with h5py.File(tmp_path / "profiles.h5ad") as file:
        assert dict(file.attrs) == {"encoding-type": "anndata", "encoding-version": "0.1.0"}
        assert {"X", "obs", "var", "obsm", "uns", "layers"} <= set(file) and file["X"].shape == (2, 2)
        obs = file["obs"]
        assert obs.attrs["encoding-type"] == "dataframe" and list(obs.attrs["column-order"]) == list(
            profiles.columns[:10]
        )
        perturbation = obs["Metadata_Perturbation"]
        assert perturbation.attrs["encoding-type"] == "categorical" and perturbation["codes"][:].tolist() == [0, -1]
        assert obs["_index"].asstr()[0] == "0_E-01_1_B02_1"
    assert [p.name for p in tmp_path.iterdir()] == ["profiles.h5ad"]  # no unfinished file is left


def test_a_table_that_does_not_match_profiles_is_refused(profiles, tmp_path):
    with pytest.raises(DatasetError, match="column 'Metadata_Well' is missing"):
        H5ADDataset(filepath=str(tmp_path / "p.h5ad")).save(profiles.drop(columns="Metadata_Well"))
