"""Tables in the catalog: Kedro's ``validator:`` with our declarations, on our dataset and on Kedro's own."""

import pandas as pd
import pytest
from kedro.io import DataCatalog, DatasetError
from kedro.validation.exceptions import DataValidationError

from deepnoise.cli import _reason
from deepnoise.datasets.validators import TableValidator
from deepnoise.errors import InputError

TYPES = ["deepnoise.datasets.table.TableDataset", "pandas.ParquetDataset"]
TABLE = pd.DataFrame({"id_code": ["a"], "perturbation": ["1"]})


def catalog_with(folder, dataset_type, table="heldout_labels", **keys):
    validator = {"class": "deepnoise.datasets.validators.TableValidator", "options": {"table": table}}
    entry = {"type": dataset_type, "filepath": str(folder / "labels.parquet"), "validator": validator} | keys
    return DataCatalog.from_config({"truth": entry})


@pytest.mark.parametrize("dataset_type", TYPES)
def test_tables_are_validated_on_save_and_load(tmp_path, dataset_type):
    catalog = catalog_with(tmp_path, dataset_type)
    before = TABLE[["perturbation", "id_code"]]
    catalog.save("truth", before)
    assert list(before.columns) == ["perturbation", "id_code"]  # the input is untouched
    pd.testing.assert_frame_equal(catalog.load("truth"), TABLE)
    with pytest.raises(DataValidationError, match="^truth: column 'perturbation' is missing"):
        catalog.save("truth", TABLE.drop(columns="perturbation"))
    TABLE.assign(id_code=None).to_parquet(tmp_path / "labels.parquet")
    with pytest.raises(DataValidationError, match="^truth: column 'id_code' has 1 missing values") as raised:
        catalog.load("truth")
    assert isinstance(raised.value, InputError) and _reason(raised.value) == str(raised.value)


def test_columns_are_cast_to_the_declared_types(tmp_path):
    catalog = catalog_with(tmp_path, TYPES[1])
    TABLE.assign(perturbation=[7]).to_parquet(tmp_path / "labels.parquet")
    assert catalog.load("truth")["perturbation"].tolist() == ["7"]


def test_a_bad_table_is_not_written(tmp_path):
    with pytest.raises(DatasetError):
        catalog_with(tmp_path, TYPES[0]).save("truth", TABLE.drop(columns="perturbation"))
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_table_is_refused_with_the_closest_name(tmp_path):
    with pytest.raises(InputError, match="unknown table 'well'; allowed: wells, .*Did you mean 'wells'"):
        TableValidator("well")
    catalog = catalog_with(tmp_path, TYPES[0], table="well")
    with pytest.raises(DatasetError) as raised:
        catalog.save("truth", TABLE)
    assert _reason(raised.value).startswith("catalog: unknown table 'well'")


def test_the_old_key_schema_is_refused_with_the_lines_that_replace_it(tmp_path):
    catalog = catalog_with(tmp_path, TYPES[0], schema="wells")
    with pytest.raises(DatasetError) as raised:
        catalog.get("truth")
    message = _reason(raised.value)
    assert "labels.parquet has the key 'schema: wells', which is no longer read" in message
    assert "validator:\n    class: deepnoise.datasets.validators.TableValidator\n    options: {table: wells}" in message
