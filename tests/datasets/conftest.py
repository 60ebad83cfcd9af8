"""A long table of cells on disk for the tests of the datasets."""

import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def cells(tmp_path):
    rows = [
        ("p1", "B02", "x", "0", "a.npy"),
        ("p1", "B02", "x", "0", "b.npy"),
        ("p1", "C03", "y", "15", "c.npy"),
        ("p2", "B02", "x", "5", "d.npy"),
    ]
    pd.DataFrame(rows, columns=["plate", "well", "compound", "dose", "file"]).to_csv(
        tmp_path / "cells.csv", index=False
    )
    for name in "abd":
        np.save(tmp_path / f"{name}.npy", np.zeros((4, 4, 2), np.uint16))
    columns = {
        "experiment": "Week1",
        "plate": "{plate}",
        "well": "{well}",
        "cell_type": "MCF7",
        "perturbation": "{compound}@{dose}",
    }
    return dict(
        filepath=str(tmp_path / "cells.csv"),
        columns=columns,
        files="{file}",
        channels=["n", "a"],
        negative_controls=["x@0"],
        exclude={"dose": [5]},
    )
