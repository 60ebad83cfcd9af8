"""Fixtures of the tests of training."""

import pytest

from deepnoise.ingestion.folds import make_folds


@pytest.fixture(scope="session")
def folds(wells):
    return make_folds(wells, [], 3, [0], True)
