"""Validation of the parameters before a run."""

import copy

import pytest

from deepnoise.errors import InputError
from deepnoise.parameters import validate_parameters


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
        (
            ("training", "pretrain", "schedule", 0, "shar"),
            1.0,
            "unknown parameter 'training.pretrain.schedule.0.shar'; allowed here: share, start, end.*Did you mean 'share'",
        ),
        (
            ("tuning", "training", "training.batch_size", "choises"),
            [1],
            r"unknown parameter 'tuning.training.training.batch_size.choises'.*Did you mean 'choices'",
        ),
    ],
)
def test_an_invalid_parameter_is_reported_with_its_full_name(parameters, path, value, message):
    changed = copy.deepcopy(parameters)
    block = changed
    for key in path[:-1]:
        block = block[key]
    block[path[-1]] = value
    with pytest.raises(InputError, match=message):
        validate_parameters(changed)


def test_pseudo_labels_without_unlabelled_images_are_refused(parameters):
    changed = copy.deepcopy(parameters)
    changed["training"]["unlabelled_source"] = "none"
    changed["training"]["mean_teacher"]["pseudo_labels"]["method"] = "plain"
    with pytest.raises(InputError, match="pseudo_labels.method is 'plain', but no unlabelled images are read"):
        validate_parameters(changed)


def test_all_faults_are_reported_at_once(parameters):
    changed = copy.deepcopy(parameters)
    changed["training"]["seed"] = "one"
    changed["inference"]["views"] = "all"
    changed["evalution"] = {"unit": "well"}
    changed["sedd"] = 3
    with pytest.raises(InputError) as caught:
        validate_parameters(changed)
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    for name in ("training.seed", "inference.views", "evalution", "sedd"):
        assert sum(f"'{name}'" in line for line in lines) == 1


@pytest.mark.parametrize("name", ["my_block", "segmentation", "tracking", "model_options", "data_processing"])
def test_a_block_for_a_users_pipelines_is_accepted_unchanged(parameters, name):
    changed = copy.deepcopy(parameters) | {name: {"seed": "any", "nested": {"x": [1, 2]}}}
    before = copy.deepcopy(changed)
    assert validate_parameters(changed) == validate_parameters(parameters)
    assert changed == before


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("trainning", "training"),
        ("train", "training"),
        ("plate_balance", "plate_balancing"),
        ("balancing", "plate_balancing"),
        ("eval", "evaluation"),
        ("pretrain", "training.pretrain"),
        ("mean_teachers", "training.mean_teacher"),
        ("folds", "ingestion.folds"),
        ("noise", "simulation.noise"),
        ("pseudo_labels", "training.mean_teacher.pseudo_labels"),
    ],
)
def test_a_block_whose_name_is_close_to_one_of_ours_is_refused(parameters, name, meant):
    with pytest.raises(
        InputError, match=f"unknown parameter '{name}'. Did you mean '{meant}'.*needs a name that is less like"
    ):
        validate_parameters(parameters | {name: {"seed": 1}})


@pytest.mark.parametrize("value", [3, "PATH", None, [1, 2], True])
def test_an_unknown_value_that_is_not_a_block_is_refused(parameters, value):
    with pytest.raises(
        InputError, match=r"unknown parameter 'my_value', received .*allowed here: .*or a block \(a mapping\)"
    ):
        validate_parameters(parameters | {"my_value": value})


def test_a_misspelt_parameter_of_the_command_line_gets_the_closest_name(parameters):
    with pytest.raises(InputError, match="unknown parameter 'score', received 'a.csv'.*Did you mean 'scores'"):
        validate_parameters(parameters | {"score": "a.csv"})
