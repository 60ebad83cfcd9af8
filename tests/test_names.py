"""Names that people write: each exists or is refused with the closest one, and YAML's numbers are recognized."""

import datetime

import pandas as pd
import pytest

from deepnoise.errors import InputError
from deepnoise.ingestion.folds import make_folds
from deepnoise.names import known_names, number_of, one_spelling, plain_numbers, same_names, similar_names
from deepnoise.parameters import validate_parameters
from deepnoise.plate_balancing.balancing import check_contents


def test_names_that_exist_are_returned_as_text():
    date = datetime.date(2016, 5, 6)  # as YAML reads 2016-05-06
    assert known_names(["a", 12, None, date], {"a", "12", "", "2016-05-06"}, "plate", "here") == [
        "a",
        "12",
        "",
        "2016-05-06",
    ]


@pytest.mark.parametrize(
    ("given", "present", "hint"),
    [
        ("HUVEC-1", ["HUVEC-01", "RPE-01"], "Did you mean 'HUVEC-01'?"),
        (
            20160506,
            ["2016_05_06", "2016_05_07"],
            "Put quotes around '2016_05_06': without them YAML reads it as 20160506",
        ),
        (8, ["010", "011"], "Put quotes around '010': without them YAML reads it as 8"),
        (True, ["on", "off"], "Put quotes around 'on': without them YAML reads it as True"),
        (1.0, ["1.00", "2"], "Put quotes around '1.00'"),
        (77, ["a", "b"], "YAML read it as int; put quotes around names"),
        ("", ["a"], "'' is no plate; there is a"),
    ],
)
def test_a_name_that_does_not_exist_is_refused_with_the_closest_one(given, present, hint):
    with pytest.raises(InputError) as raised:
        known_names([given], present, "plate", "catalog: heldout")
    assert str(raised.value).startswith(f"catalog: heldout: {given!r} is no plate; there is ") and hint in str(
        raised.value
    )


def test_one_number_in_several_spellings_is_one_dose_and_is_told(caplog):
    doses = pd.Series(["10", "10.0", "1e1", "10", "0.5", None])
    assert one_spelling(doses, "a.csv: column 'dose'").tolist()[:5] == ["10", "10", "10", "10", "0.5"]
    assert "a.csv: column 'dose': the same number is written in several ways: 10.0 is read as 10" in caplog.text
    names = pd.Series(["10", "10.0", "DMSO"])
    assert one_spelling(names, "").equals(names)  # not all are numbers
    assert one_spelling(pd.Series(["007", "7"]), "").tolist() == ["7", "7"]  # asked for dose columns alone


def test_labels_lose_the_decimals_of_a_table_program_and_nothing_else():
    assert plain_numbers(pd.Series(["12.0", "3.00", None])).tolist()[:2] == ["12", "3"]
    for kept in (["12.5", "12.0"], ["007", "7"], ["12.0", "DMSO"], ["1_0.0", "2"]):
        expected = [text.removesuffix(".0") for text in kept] if kept == ["12.5", "12.0"] else kept
        assert plain_numbers(pd.Series(kept)).tolist() == expected
    assert number_of("nan") is None and number_of("1_0") is None and number_of("1e1") == 10


def test_names_that_differ_in_case_alone_are_grouped():
    assert similar_names(["DMSO", "dmso", "taxol", "Dmso", "a b", "a  B"]) == [
        ["DMSO", "Dmso", "dmso"],
        ["a  B", "a b"],
    ]


def test_labels_and_classes_without_a_common_name_are_refused():
    same_names(["a", "b"], ["b", "c"], "labels and scores")
    same_names([], ["b"], "labels and scores")
    with pytest.raises(
        InputError, match="none of the 1 perturbations with labels, such as 'TP53', is among the 1 .*'tp53'"
    ):
        same_names(["TP53"], ["tp53"], "labels and scores")


def test_known_contents_are_of_plates_that_exist(wells):
    good = pd.DataFrame({"experiment": ["ALPHA-01"], "plate": ["1"], "perturbation": ["1"], "wells": [1]})
    check_contents(good, wells)
    with pytest.raises(InputError, match="plate_contents: 'Plate1' is no plate of experiment ALPHA-01; there is 1, 2"):
        check_contents(good.assign(plate="Plate1"), wells)
    with pytest.raises(InputError, match="'ALPHA-1' is no experiment.*Did you mean 'ALPHA-0"):
        check_contents(good.assign(experiment="ALPHA-1"), wells)


def test_validation_experiments_and_names_in_parameters_are_looked_up(wells, parameters):
    with pytest.raises(
        InputError, match="ingestion.folds.validation: 'ALPHA-1' is no labelled experiment.*Did you mean"
    ):
        make_folds(wells, [], 3, [0], ["ALPHA-1"])
    parameters["ingestion"]["folds"]["validation"] = [20160506]
    with pytest.raises(InputError, match="expected text, received 20160506; put quotes around names"):
        validate_parameters(parameters)
