"""The order of images in an epoch."""

import numpy as np
import pandas as pd
import pytest
import torch

from deepnoise.training.streams import batch_group, labelled_stream, unlabelled_stream


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("batches", ["mixed", "experiment", "plate"])
def test_each_image_comes_once_per_epoch_in_batches_of_one_group(batches):
    table = pd.DataFrame({"experiment": np.repeat(["a", "b", "c"], [13, 20, 7]), "plate": np.tile(["1", "2"], 20)})
    groups = batch_group(table, batches)
    order = labelled_stream(groups, 6, generator())
    assert sorted(np.concatenate(order)) == list(range(40))
    assert all(len(set(groups[batch])) == 1 and len(batch) >= 2 for batch in order)
    assert len(set(groups)) == {"mixed": 1, "experiment": 3, "plate": 6}[batches]
    if batches != "mixed":
        group_of_batch = [groups[batch[0]] for batch in order]
        assert group_of_batch != sorted(group_of_batch)
    again = labelled_stream(groups, 6, generator())
    assert all(np.array_equal(a, b) for a, b in zip(order, again, strict=True))
    assert not np.array_equal(np.concatenate(order), np.concatenate(labelled_stream(groups, 6, generator(1))))


def test_each_epoch_has_one_random_site_per_well():
    wells = np.repeat(np.arange(30), 2)
    epochs = [np.concatenate(labelled_stream(np.zeros(60, int), 8, generator(seed), wells)) for seed in range(20)]
    assert all(sorted(wells[rows]) == list(range(30)) for rows in epochs)
    assert {int(site) for rows in epochs for site in rows % 2} == {0, 1} and len(set().union(*epochs)) == 60


@pytest.mark.parametrize("batches", ["mixed", "experiment"])
def test_unlabelled_batches_keep_the_ratio_and_the_group_of_their_labelled_batch(batches):
    table = pd.DataFrame({"experiment": np.repeat(["a", "b"], [24, 36]), "plate": "1"})
    unlabelled = pd.DataFrame({"experiment": np.repeat(["b", "a"], [10, 14]), "plate": "1"})
    groups, unlabelled_groups = batch_group(table, batches), batch_group(unlabelled, batches)
    order = labelled_stream(groups, 6, generator())
    unlabelled_order = unlabelled_stream(order, groups, unlabelled_groups, 3, generator(1))
    assert all(
        len(rows) == 3 and set(unlabelled_groups[rows]) == {groups[batch[0]]}
        for batch, rows in zip(order, unlabelled_order, strict=True)
    )
    counts = np.bincount(np.concatenate(unlabelled_order), minlength=24)
    assert counts.sum() == 30 and counts.max() <= 1 + 30 // (24 if batches == "mixed" else 10) + 1
    if batches == "mixed":
        assert (counts >= 1).all()  # each image comes once before any comes twice
    assert all(len(rows) == 0 for rows in unlabelled_stream(order, groups, unlabelled_groups, 0, generator()))
    assert all(len(rows) == 0 for rows in unlabelled_stream(order, groups, unlabelled_groups[:0], 3, generator()))


def test_each_unlabelled_batch_is_of_one_heldout_experiment():
    groups, unlabelled_groups = np.repeat(["a", "b"], 20), np.repeat(["x", "y", "z"], 10)
    order = labelled_stream(groups, 5, generator())
    unlabelled_order = unlabelled_stream(order, groups, unlabelled_groups, 5, generator(1))
    assert all(len(rows) == 5 and len(set(unlabelled_groups[rows])) == 1 for rows in unlabelled_order)
    assert len({unlabelled_groups[rows[0]] for rows in unlabelled_order}) > 1
