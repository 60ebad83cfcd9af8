"""Locks: one writer at a time, and each run reads its own versions, whatever other runs write meanwhile."""

import pytest
from kedro.io import DataCatalog
from kedro.pipeline import Node, Pipeline
from kedro.runner import SequentialRunner

from deepnoise.datasets.atomic import AtomicJSONDataset
from deepnoise.datasets.locks import Lock, locked
from deepnoise.datasets.model import TrainingState
from deepnoise.errors import InputError
from deepnoise.hooks import LockHooks, OwnVersionHooks


def test_the_second_writer_is_told_who_holds_the_lock(tmp_path):
    path = tmp_path / "new" / "store"
    first = Lock(path)
    first.acquire("the entry store")
    with pytest.raises(InputError, match="the entry store .*new/store. is being written by process .* since"), locked(path, "the entry store"):  # fmt: skip
        pass
    first.release()
    with locked(path, "the entry store"):
        pass
    assert list(tmp_path.iterdir()) == []  # neither locks nor folders that were made for them


def test_two_runs_do_not_train_the_same_model_in_one_folder(tmp_path):
    one, other = TrainingState(tmp_path), TrainingState(tmp_path)
    with one.lock("fold_0"), other.lock("fold_1"):
        message = "the model fold_0 in training_state .* is being written by process"
        pytest.raises(InputError, other.lock("fold_0").__enter__).match(message)
    with other.lock("fold_0"):
        pass


def catalog(root, save_version, load_versions=None):
    entry = {"type": "deepnoise.datasets.atomic.AtomicJSONDataset", "versioned": True}
    config = {name: {**entry, "filepath": str(root / f"{name}.json")} for name in ("made", "read")}
    config["{any}_chapter"] = {**entry, "filepath": str(root / "{any}_chapter.json")}
    config["plain"] = {"type": "deepnoise.datasets.atomic.AtomicJSONDataset", "filepath": str(root / "plain.json")}
    return DataCatalog.from_config(config, save_version=save_version, load_versions=load_versions)


def run(root, meanwhile, save_version, load_versions=None):
    def make():
        return 1, 1, 1

    pipeline = Pipeline(
        [
            Node(make, None, ["made", "x_chapter", "plain"], name="make"),
            Node(lambda plain: meanwhile() or plain, "plain", "waited", name="wait"),
            Node(lambda waited, made, chapter: (made, chapter), ["waited", "made", "x_chapter"], "result", name="use"),
        ]
    )
    entries = catalog(root, save_version, load_versions)
    OwnVersionHooks().before_pipeline_run({"run_id": save_version}, pipeline, entries)
    return SequentialRunner().run(pipeline, entries)["result"].load()


def test_a_run_reads_what_it_made_itself(tmp_path, caplog):
    def another_run():
        for name in ("made", "x_chapter"):
            catalog(tmp_path, "2026-01-02T00.00.00.000Z").save(name, "of another run")

    assert run(tmp_path, another_run, "2026-01-01T00.00.00.000Z") == (1, 1)
    assert "future" not in caplog.text
    pinned = run(tmp_path, lambda: None, "2026-01-03T00.00.00.000Z", {"made": "2026-01-02T00.00.00.000Z"})
    assert pinned == ("of another run", 1)  # asked for on the command line


def test_a_version_of_the_future_is_named(tmp_path, caplog):
    catalog(tmp_path, "2099-01-02T00.00.00.000Z").save("made", "of the future")
    assert run(tmp_path, lambda: None, "2026-01-01T00.00.00.000Z") == (1, 1)
    assert "made has the version 2099-01-02T00.00.00.000Z, which is dated in the future" in caplog.text


def test_only_entries_without_versions_are_locked_and_tuning_workers_share_theirs(tmp_path):
    def writes(*names):
        return Pipeline([Node(lambda: None, None, name, name=name) for name in names])

    first, second = LockHooks(), LockHooks()
    first.before_pipeline_run(writes("made", "plain", "tuned_training_run"), catalog(tmp_path, "1"))
    second.before_pipeline_run(writes("made", "tuned_training_run"), catalog(tmp_path, "2"))
    other = catalog(tmp_path, "2")
    other["a_first"] = AtomicJSONDataset(filepath=str(tmp_path / "a_first.json"))
    other["elsewhere"] = AtomicJSONDataset(filepath="memory://bucket/elsewhere.json")
    with pytest.raises(InputError, match="the entry plain .*plain.json. is being written"):
        second.before_pipeline_run(writes("a_first", "elsewhere", "plain"), other)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plain.json.holder", "plain.json.lock"]
    first.on_pipeline_error()
    second.before_pipeline_run(writes("plain"), catalog(tmp_path, "2"))
    second.after_pipeline_run()


def test_only_missing_outputs_finds_what_is_there(tmp_path):
    catalog(tmp_path, "2026-01-01T00.00.00.000Z").save("made", 1)
    pipeline = Pipeline([Node(lambda: (2, 2), None, ["made", "x_chapter"], name="make")])
    entries = catalog(tmp_path, "2026-01-02T00.00.00.000Z")
    run_params = {"run_id": "2026-01-02T00.00.00.000Z", "only_missing_outputs": True}
    OwnVersionHooks().before_pipeline_run(run_params, pipeline, entries)
    assert entries.exists("made") and not entries.exists("x_chapter")
    OwnVersionHooks().before_pipeline_run(
        run_params | {"only_missing_outputs": False}, pipeline, catalog(tmp_path, "3")
    )
