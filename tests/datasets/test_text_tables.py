"""Tables of text: what the csv module reads is what we read; names stay names, and nothing is dropped unsaid."""

import csv
import gzip
import io
import logging

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepnoise.datasets.text_tables import read_csv, read_table
from deepnoise.errors import InputError

NAMES = [
    "None",
    "NA",
    "null",
    "nan",
    "N/A",
    "NaN",
    "-",
    "007",
    "1e1",
    "True",
    "dose, high",
    'with "quotes"',
    "µ",
    "1.0",
]
CELL = st.one_of(st.sampled_from(NAMES), st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=6))


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.lists(CELL, min_size=3, max_size=3), min_size=1, max_size=6),
    separator=st.sampled_from([",", "\t"]),
    bom=st.booleans(),
    packed=st.booleans(),
)
def test_a_table_reads_as_the_csv_module_reads_it(tmp_path, rows, separator, bom, packed):
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator="\n").writerows([["well", "gene", "n"], *rows])
    content = (b"\xef\xbb\xbf" if bom else b"") + text.getvalue().encode()
    path = tmp_path / (("t.csv" if separator == "," else "t.tsv") + (".gz" if packed else ""))
    path.write_bytes(gzip.compress(content) if packed else content)
    expected = {}
    for number, row in enumerate(csv.reader(io.StringIO(text.getvalue()), delimiter=separator)):
        stripped = [cell.strip() for cell in row]
        if number and any(stripped):
            expected[number - 1] = [cell or None for cell in stripped]
    table = read_csv(path, ["well", "gene"])
    read = {
        i: [None if pd.isna(cell) else cell for cell in row]
        for i, row in zip(table.index, table.to_numpy().tolist(), strict=True)
    }
    assert read == expected


@pytest.mark.parametrize("suffix", ["csv", "parquet", "csv.gz", "tsv"])
def test_names_that_look_like_missing_values_stay_names(tmp_path, suffix):
    path = tmp_path / f"t.{suffix}"
    table = pd.DataFrame({"gene": [*NAMES, None], "x": [*range(len(NAMES)), 0.5]})
    if suffix == "parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False, sep="\t" if suffix == "tsv" else ",")
    read = read_table(path, ["gene"], "")
    assert (
        read["gene"].tolist()[:-1] == NAMES and pd.isna(read["gene"].iloc[-1]) and read["x"].sum() == table["x"].sum()
    )


def test_missing_numbers_are_missing_and_text_columns_are_text(tmp_path):
    (tmp_path / "t.csv").write_text("plate,x,y\n010,NA,1\n1.0,2,nan\n")
    read = read_table(tmp_path / "t.csv", ["plate"], "")
    assert read["plate"].tolist() == ["010", "1.0"] and read[["x", "y"]].isna().sum().tolist() == [1, 1]


def test_whole_numbers_of_a_parquet_have_no_decimals_and_a_named_index_is_a_column(tmp_path):
    table = pd.DataFrame({"plate": [1.0, None], "label": [12, 7]}, index=pd.Index(["a", "b"], name="id_code"))
    table.to_parquet(tmp_path / "t.parquet")
    read = read_table(tmp_path / "t.parquet", ["id_code", "plate", "label"], "")
    assert (
        read["id_code"].tolist() == ["a", "b"]
        and read["label"].tolist() == ["12", "7"]
        and read["plate"].iloc[0] == "1"
    )


def test_lines_keep_their_number_and_empty_ones_are_counted(tmp_path, caplog):
    (tmp_path / "t.csv").write_text("well,x\nA01,1\n\n,,\nA02,2\n  ,\n".replace(",,\n", ",\n"))
    with caplog.at_level(logging.INFO):
        table = read_csv(tmp_path / "t.csv", ["well"])
    assert table.index.tolist() == [0, 3] and "3 empty lines are skipped" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("well,score_2,score_2\nA01,1,2\n", "has two columns 'score_2'"),
        ("well,x\nA01,1\nwell,x\nA02,2\n", "line 3 repeats the header; if two files were joined, remove that line"),
        ("well,x\nA01,1,9\n", "more fields than its header"),
        ("well,x\nA01,1\nA02,2,9\n", "more fields than its header"),
        ("well;x\nA01;1\n", "Is it separated by commas"),
    ],
)
def test_a_table_that_would_be_misread_is_refused(tmp_path, content, message):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(InputError, match=f"t.csv: .*{message}"):
        read_csv(tmp_path / "t.csv", ["well", "x"] if "x" in content else ["well"])
