"""A small real study, as a user runs it."""

import pytest
import yaml

from tests.conftest import kedro

SMALL = "simulation.treatments=8,simulation.labelled_experiments=3,simulation.heldout_experiments=1,simulation.image_size=32,ingestion.folds.n_folds=3"


@pytest.mark.slow
def test_a_study_on_the_smoke_profile_goes_on_and_its_result_is_run(tmp_path):
    roots = f"data_root={tmp_path},raw_root={tmp_path / 'raw'},{SMALL}"
    kedro("run", "--env", "test", "--pipelines", "simulation,ingestion,normalization", "--params", roots)
    short = f"{roots},training.pretrain.epochs=2,training.mean_teacher.epochs=0"
    first = kedro("run", "--env", "test", "--pipelines", "tuning", "--params", f"{short},tuning.trials=2")
    second = kedro("run", "--env", "test", "--pipelines", "tuning", "--params", f"{short},tuning.trials=3")
    assert "0 of 2 trials are finished" in first and "2 of 3 trials are finished" in second
    reports = tmp_path / "08_reporting" / "smoke"
    assert all(
        list((reports / f"tuned_training_{kind}_plot.png").rglob("*.png"))
        for kind in ("history", "importances", "parallel")
    )
    file = reports / "tuned_training_run.yml"
    content = yaml.safe_load(file.read_text())
    best = content["run"]["params"]["training"]["batch_size"]
    content["run"]["params"] |= {"data_root": str(tmp_path), "raw_root": str(tmp_path / "raw")}
    content["run"]["params"]["training"] |= {"mean_teacher": {"epochs": 1}}
    content["run"]["params"]["training"]["pretrain"]["epochs"] = 1
    file.write_text(yaml.safe_dump(content))
    kedro("run", "--env", "test", "--pipelines", "training,inference,plate_balancing", "--config", str(file))
    facts = next((tmp_path / "06_models" / "smoke" / "teacher").rglob("fold_0.json")).read_text()
    assert f'"batch_size": {best}' in facts
    tuned = kedro("run", "--env", "test", "--pipelines", "tuning_balancing", "--params", f"{roots},tuning.trials=4")
    assert "4 of 4 finished" in tuned and "method" in (reports / "tuned_plate_balancing_run.yml").read_text()
