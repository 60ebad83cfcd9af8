"""Versions of entries are listed, pruned and promoted; the latest is never pruned."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from kedro.framework.startup import bootstrap_project

from deepnoise.cli import cli
from deepnoise.errors import InputError
from deepnoise.versions import Entry, promote, prunable, prune
from tests.conftest import PROJECT

STAMPS = ("2026-01-01T00.00.00.000Z", "2026-01-02T00.00.00.000Z", "2026-01-03T00.00.00.000Z")


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Three versions of a text entry, and one of a folder entry (a model)."""
    bootstrap_project(PROJECT)
    monkeypatch.chdir(PROJECT)
    reports = tmp_path / "08_reporting" / "demo" / "score_table.txt"
    for number, stamp in enumerate(STAMPS):
        (reports / stamp).mkdir(parents=True)
        (reports / stamp / "score_table.txt").write_text(f"table {number}")
    model = tmp_path / "06_models" / "demo" / "teacher" / STAMPS[0] / "teacher"
    model.mkdir(parents=True)
    (model / "model.json").write_text("{}")
    return tmp_path


def kedro(*arguments: str, data, code: int = 0) -> str:
    result = CliRunner().invoke(cli, ["versions", *arguments, "--data-root", str(data)])
    assert result.exit_code == code, result.output
    return result.output


def test_versions_are_listed_pruned_and_promoted(data):
    listed = kedro("list", data=data)
    assert "score_table" in listed and "  3 " in listed and "teacher" in listed and STAMPS[2] in listed
    assert STAMPS[1] not in listed and STAMPS[1] in kedro("list", "score_table", data=data)
    table = data / "08_reporting" / "demo" / "score_table.txt"
    assert "1 versions" in kedro("prune", "--keep", "2", data=data) and (table / STAMPS[0]).exists()  # only listed
    assert "removed" in kedro("prune", "score_table", "--keep", "2", "--yes", data=data)
    assert sorted(p.name for p in table.iterdir()) == list(STAMPS[1:])
    output = kedro("promote", "score_table", STAMPS[1], data=data)
    latest = sorted(table.iterdir())[-1]
    assert latest.name > STAMPS[2] and latest.name in output and (latest / "score_table.txt").read_text() == "table 1"
    assert [p.name for p in table.parent.iterdir()] == ["score_table.txt"]  # no partial copy is left


def test_a_folder_is_promoted_completely_and_the_latest_version_is_never_pruned(data):
    kedro("promote", "teacher", STAMPS[0], data=data)
    versions = sorted((data / "06_models" / "demo" / "teacher").iterdir())
    assert len(versions) == 2 and (versions[1] / "teacher" / "model.json").read_text() == "{}"
    kedro("prune", "--keep", "1", "--yes", data=data)
    assert [p.name for p in (data / "06_models" / "demo" / "teacher").iterdir()] == [versions[1].name]


def test_impossible_requests_are_refused_with_the_reason(data):
    assert "no entry is called 'score_tabel'. Did you mean 'score_table'?" in kedro(
        "list", "score_tabel", data=data, code=1
    )
    assert "image_store has no versions" in kedro("promote", "image_store", "x", data=data, code=1)
    assert "student has no versions yet" in kedro("promote", "student", "x", data=data, code=1)
    assert f"no version 'x'; the latest are: {STAMPS[0]}" in kedro("promote", "score_table", "x", data=data, code=1)
    assert "--keep is 0, expected at least 1" in kedro("prune", "--keep", "0", data=data, code=1)


def test_versions_work_on_other_file_systems(tmp_path):
    """The same calls on the in-memory file system of fsspec, where a folder is only a prefix."""
    import fsspec

    fs = fsspec.filesystem("memory")
    for stamp in STAMPS:
        fs.pipe(f"/versions/calls.csv/{stamp}/calls.csv", stamp.encode())
    entry = Entry("calls", "/versions/calls.csv", STAMPS, fs)
    assert entry.size(STAMPS[0]) == len(STAMPS[0]) and prunable(entry, 1) == STAMPS[:2]
    new = promote(entry, STAMPS[0])
    assert fs.cat(f"/versions/calls.csv/{new}/calls.csv") == STAMPS[0].encode()
    prune(entry, STAMPS[:1])
    assert not fs.exists(f"/versions/calls.csv/{STAMPS[0]}") and fs.exists(f"/versions/calls.csv/{STAMPS[1]}")
    with pytest.raises(InputError, match="no version"):
        promote(entry, "gone")
