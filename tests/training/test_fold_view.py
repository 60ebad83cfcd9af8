"""Images and labels that a fold may train on."""

import pandas as pd
import pytest

from deepnoise.errors import InputError
from deepnoise.training.fold_view import fold_view, tier_of_training


def test_a_fold_sees_labels_of_its_training_plates_only(screen, wells, folds):
    _, sites, _ = screen
    view = fold_view(sites, wells, folds, 0, "heldout")
    role = folds.set_index(["experiment", "plate"])["role"]
    for table, expected_role in (
        (view.labelled, "train"),
        (view.unlabelled, "heldout"),
        (view.validation, "validation"),
    ):
        assert {role[key] for key in zip(table["experiment"], table["plate"], strict=True)} == {expected_role}
    assert not {"label", "perturbation"} & set(view.unlabelled.columns) and view.unlabelled["target"].nunique() == 2
    assert len(view.targets) == 8 and len(view.classes) == 8 + 2 + 1
    truth = wells.set_index("id_code")["perturbation"]
    assert [view.classes[int(k)] for k in view.labelled["label"]] == truth[view.labelled["id_code"]].tolist()
    assert fold_view(sites, wells, folds, 0, "none").unlabelled.empty


def test_the_tier_follows_from_the_unlabelled_images_and_pseudo_labels():
    assert tier_of_training("T1", "training", "balanced") == "T1"
    assert tier_of_training("T1", "none", "none") == "T1"
    assert tier_of_training("T1", "heldout", "plain") == "T3"
    assert tier_of_training("T1c", "heldout", "balanced") == tier_of_training("T1", "heldout", "balanced") == "T2+T3"


def test_a_specialist_sees_its_own_cells_and_all_classes(screen, wells, folds):
    _, sites, _ = screen
    fold = fold_view(sites, wells, folds, 0, "heldout")
    specialists = [fold.of_cell_type(name) for name in fold.cell_types]
    assert [specialist.name for specialist in specialists] == ["fold_0_ALPHA", "fold_0_BETA"] and fold.name == "fold_0"
    for name in ("labelled", "unlabelled", "validation"):
        assert sum(len(getattr(specialist, name)) for specialist in specialists) == len(getattr(fold, name))
        assert all(
            getattr(specialist, name)["experiment"].str.startswith(specialist.cell_type).all()
            for specialist in specialists
        )
    assert all(specialist.classes == fold.classes for specialist in specialists)
    assert sorted(specialists[0].training_plates + specialists[1].training_plates) == fold.training_plates


def test_training_may_be_confined_to_some_sites(screen, wells, folds):
    _, sites, _ = screen
    both = pd.concat([sites, sites.assign(site=2)])
    view = fold_view(both, wells, folds, 0, "training", [1])
    assert set(view.labelled["site"]) == set(view.unlabelled["site"]) == {1}
    assert set(view.validation["site"]) == {1, 2}
    with pytest.raises(InputError, match="fold 0 has no labelled images"):
        fold_view(both, wells, folds, 0, "training", [7])
