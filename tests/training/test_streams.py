"""The order in which images are shown."""

import numpy as np
import pandas as pd
import pytest
import torch

from deepnoise.training.streams import batch_group, labelled_stream, unlabelled_stream


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("batches", ["mixed", "experiment", "plate"])
def test_every_image_is_shown_once_in_batches_of_one_unit(batches):
    table = pd.DataFrame({"experiment": np.repeat(["a", "b", "c"], [13, 20, 7]), "plate": np.tile(["1", "2"], 20)})
    units = batch_group(table, batches)
    order = labelled_stream(units, 6, generator())
    assert sorted(np.concatenate(order)) == list(range(40))
    assert all(len(set(units[batch])) == 1 and len(batch) >= 2 for batch in order)
    assert len(set(units)) == {"mixed": 1, "experiment": 3, "plate": 6}[batches]
    if batches != "mixed":
        following = [units[batch[0]] for batch in order]
        assert following != sorted(following)
    again = labelled_stream(units, 6, generator())
    assert all(np.array_equal(a, b) for a, b in zip(order, again, strict=True))
    assert not np.array_equal(np.concatenate(order), np.concatenate(labelled_stream(units, 6, generator(1))))


def test_one_random_site_of_each_well():
    wells = np.repeat(np.arange(30), 2)
    seen = [np.concatenate(labelled_stream(np.zeros(60, int), 8, generator(seed), wells)) for seed in range(20)]
    assert all(sorted(wells[shown]) == list(range(30)) for shown in seen)
    assert {int(site) for shown in seen for site in shown % 2} == {0, 1} and len(set().union(*seen)) == 60


@pytest.mark.parametrize("batches", ["mixed", "experiment"])
def test_the_unlabelled_stream_keeps_the_ratio_the_unit_and_its_own_order(batches):
    table = pd.DataFrame({"experiment": np.repeat(["a", "b"], [24, 36]), "plate": "1"})
    other = pd.DataFrame({"experiment": np.repeat(["b", "a"], [10, 14]), "plate": "1"})
    units, own = batch_group(table, batches), batch_group(other, batches)
    order = labelled_stream(units, 6, generator())
    further = unlabelled_stream(order, units, own, 3, generator(1))
    assert all(
        len(part) == 3 and set(own[part]) == {units[batch[0]]} for batch, part in zip(order, further, strict=True)
    )
    counts = np.bincount(np.concatenate(further), minlength=24)
    assert counts.sum() == 30 and counts.max() <= 1 + 30 // (24 if batches == "mixed" else 10) + 1
    if batches == "mixed":
        assert (counts >= 1).all()  # nothing comes twice before all have come once
    assert all(len(part) == 0 for part in unlabelled_stream(order, units, own, 0, generator()))
    assert all(len(part) == 0 for part in unlabelled_stream(order, units, own[:0], 3, generator()))


def test_heldout_experiments_stand_beside_labelled_ones_one_at_a_time():
    units, own = np.repeat(["a", "b"], 20), np.repeat(["x", "y", "z"], 10)
    order = labelled_stream(units, 5, generator())
    further = unlabelled_stream(order, units, own, 5, generator(1))
    assert all(len(part) == 5 and len(set(own[part])) == 1 for part in further)
    assert len({own[part[0]] for part in further}) > 1
