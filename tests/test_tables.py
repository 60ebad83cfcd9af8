"""Validation of tables against their declarations."""

from pathlib import Path

import pandas as pd
import pytest

from deepnoise.errors import InputError
from deepnoise.tables import SCHEMAS, natural_order, validate_table

LABELS = pd.DataFrame({"id_code": ["a", "b"], "perturbation": ["1", "2"]})


def test_a_valid_table_is_returned_unchanged():
    before = LABELS.copy()
    pd.testing.assert_frame_equal(validate_table(LABELS, "heldout_labels", "x"), before)
    pd.testing.assert_frame_equal(LABELS, before)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            LABELS.rename(columns={"perturbation": "perturbatoin"}),
            "'perturbation' is missing.*Did you mean 'perturbatoin'",
        ),
        (LABELS.assign(more=1), "received unknown columns: more; allowed: id_code, perturbation"),
        (LABELS.assign(perturbation=["1", None]), "'perturbation' has 1 missing values"),
        (LABELS.assign(id_code="a"), "1 rows repeat their key"),
    ],
)
def test_an_invalid_table_is_refused_with_the_reason(table, message):
    with pytest.raises(InputError, match="labels.csv: .*" + message):
        validate_table(table, "heldout_labels", "labels.csv")


def test_undeclared_values_are_refused():
    table = pd.DataFrame(
        {"fold": [0], "experiment": ["e"], "plate": ["1"], "cell_type": ["c"], "role": ["test"], "unit": ["plate"]}
    )
    with pytest.raises(InputError, match="'role' has 'test'; allowed: train, validation, heldout"):
        validate_table(table, "folds", "folds")


def test_a_score_table_needs_score_columns():
    with pytest.raises(InputError, match="no column that starts with 'score_'"):
        validate_table(pd.DataFrame({"id_code": ["a"], "tier": ["T1"]}), "well_scores", "x")


def test_empty_tables_are_valid():
    for name, schema in SCHEMAS.items():
        assert list(validate_table(schema.empty(), name, "x").columns) == list(schema.columns)


def test_numbers_in_names_sort_as_numbers():
    assert natural_order(["10", "9", "DMSO", "1", "9"]) == ["1", "9", "10", "DMSO"]


def test_every_table_and_column_is_documented():
    page = (Path(__file__).parents[1] / "docs" / "tables.md").read_text()
    for name, schema in SCHEMAS.items():
        assert f"## {name}\n" in page
        section = page.split(f"## {name}\n")[1].split("\n## ")[0]
        for name_of_column, column in schema.columns.items():
            assert f"| {name_of_column} | {column.type} | {column.meaning} |" in section and column.meaning
        assert all(key in schema.columns for key in (*schema.key, *schema.allowed))
