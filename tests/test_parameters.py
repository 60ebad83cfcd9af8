"""Parameters are checked before a run."""

import copy
from pathlib import Path

import pytest
import yaml

from deepnoise.errors import InputError
from deepnoise.parameters import validate_parameters

BASE = Path(__file__).parents[1] / "conf" / "base"


@pytest.fixture
def parameters():
    merged = {}
    for file in BASE.glob("parameters*.yml"):
        merged |= yaml.safe_load(file.read_text())
    return merged


def test_the_base_parameters_are_valid(parameters):
    assert validate_parameters(parameters).training.head.name == "arcface"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("training", "epochz"), 3, "unknown parameter 'training.epochz'"),
        (("training", "head", "margn"), 0.1, "unknown parameter 'training.head.margn'.*Did you mean 'margin'"),
        (("trainning",), {}, "unknown parameter 'trainning'.*Did you mean 'training'"),
        (("training", "batch_size"), "many", "'training.batch_size'.*received 'many'"),
        (("normalization", "strategy"), "plates", "'normalization.strategy'.*received 'plates'"),
        (("simulation", "missing_wells"), 1.5, "'simulation.missing_wells'.*received 1.5"),
        (("simulation", "noise", "blurr"), 1.0, "'simulation.noise.blurr'.*Did you mean 'blur'"),
    ],
)
def test_a_fault_names_itself(parameters, path, value, message):
    changed = copy.deepcopy(parameters)
    block = changed
    for part in path[:-1]:
        block = block[part]
    block[path[-1]] = value
    with pytest.raises(InputError, match=message):
        validate_parameters(changed)


def test_pseudo_labels_without_unlabelled_images_are_refused(parameters):
    changed = copy.deepcopy(parameters)
    changed["training"]["unlabelled_source"] = "none"
    changed["training"]["mean_teacher"]["pseudo_labels"]["method"] = "plain"
    with pytest.raises(InputError, match="pseudo_labels.method is 'plain', but no unlabelled images are read"):
        validate_parameters(changed)


def test_all_faults_are_told_at_once(parameters):
    changed = copy.deepcopy(parameters)
    changed["training"]["seed"] = "one"
    changed["inference"]["views"] = "all"
    with pytest.raises(InputError) as caught:
        validate_parameters(changed)
    assert "training.seed" in str(caught.value) and "inference.views" in str(caught.value)
