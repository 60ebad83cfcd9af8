"""Which arms a chart has, what they cost, and that nothing known is done again."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml

from deepnoise.datasets.arms import ArmsDataset
from deepnoise.errors import InputError
from deepnoise.growth_chart import run
from deepnoise.growth_chart.arms import Settings, change, forward_passes, plan_arms
from deepnoise.growth_chart.figures import draw_ladder, draw_scatter
from deepnoise.growth_chart.summary import format_chart, summarize_arms
from deepnoise.ingestion.folds import make_folds
from deepnoise.ingestion.layouts import discover_groups, visible_labels
from deepnoise.parameters import (
    GrowthChartParameters,
    InferenceParameters,
    NormalizationParameters,
)
from deepnoise.screen import Screen
from deepnoise.tables import SCHEMAS, validate_table
from tests.conftest import PROJECT
from tests.plate_balancing.helpers import PARAMETERS as BALANCING
from tests.training.helpers import MEAN_TEACHER, STAGE, parameters

NORMALIZATION = NormalizationParameters(
    strategy="plate", reference="all", scale_floor=1.0, illumination="none", position_correction="none"
)
SETTINGS = Settings(NORMALIZATION, parameters())
TAUGHT = Settings(NORMALIZATION, parameters(mean_teacher=MEAN_TEACHER | {"epochs": 8}))
SHIPPED = yaml.safe_load((PROJECT / "conf/base/parameters_growth_chart.yml").read_text())["growth_chart"]
INFERENCE = InferenceParameters(
    only="", views="dihedral", pooling="logits", ensemble_weights="equal", adabn="none", seen_experiments=0, batch_size=64, device="cpu",
)  # fmt: skip
BALANCING = BALANCING.model_copy(update={"temperature": 1.0})


def chart(**changes) -> GrowthChartParameters:
    return GrowthChartParameters.model_validate(SHIPPED | changes)


def test_the_shipped_chart_switches_on_one_step_after_the_other():
    arms = {arm.name: arm for arm in plan_arms(chart(), SETTINGS)}
    steps = [arm for arm in arms.values() if arm.kind == "step"]
    assert [arm.name for arm in steps][:5] == [
        "per-site normalization", "global normalization", "plate normalization", "experiment normalization", "ArcFace",
    ]  # fmt: skip
    for before, arm in zip(steps, steps[1:], strict=False):
        assert arm.reference == before.name
    full = steps[-1]
    by_experiment = NORMALIZATION.model_copy(update={"strategy": "experiment"})
    assert full.name == "TTA" and full.settings == replace(
        TAUGHT, normalization=by_experiment
    )  # the full model is that of the environment
    left_out = {arm.name.removeprefix("full without ") for arm in arms.values() if arm.kind == "leave_one_out"}
    assert left_out == {
        "experiment normalization",
        "ArcFace",
        "pure batches and AdaBN",
        "mean teacher",
        "all sites",
        "TTA",
    }
    assert arms["full without experiment normalization"].settings.normalization.strategy == "plate"
    assert arms["full without ArcFace"].settings.training.head.name == "softmax"
    assert arms["full without ArcFace"].settings.training.mean_teacher.epochs == 8
    assert [arm.balancing for arm in arms.values() if arm.kind == "design"] == [
        "group_filter",
        "sinkhorn",
        "assignment",
        "matching",
    ]
    assert {arm.reference for arm in arms.values() if arm.kind in ("design", "transductive", "leave_one_out")} == {
        "TTA"
    }


def test_a_step_that_trains_longer_has_a_control_of_equal_compute():
    arms = {arm.name: arm for arm in plan_arms(chart(), SETTINGS)}
    control = arms["pure batches and AdaBN, trained as long"]
    assert arms["mean teacher"].control == control.name and control.settings.training.mean_teacher.epochs == 0
    assert control.compute == pytest.approx(arms["mean teacher"].compute, rel=0.1)
    assert [arm.name for arm in arms.values() if arm.kind == "control"] == [control.name]
    without = arms["full without mean teacher"]
    assert without.compute == pytest.approx(arms["TTA"].compute, rel=0.1) and without.settings.views == "dihedral"


def test_compute_is_counted_in_forward_passes():
    two = parameters().model_dump()
    two["mean_teacher"] |= {"views": "two", "epochs": 1}
    plain = {**two, "mean_teacher": two["mean_teacher"] | {"epochs": 0}}
    shared = {**two, "mean_teacher": two["mean_teacher"] | {"views": "shared"}}
    make = type(parameters()).model_validate
    assert forward_passes(make(plain)) == 2 * 3  # two epochs, forward and backward
    assert forward_passes(make(shared)) - 6 == 3 * 1.5 + 1.5  # half as many unlabelled ones, student and teacher
    assert forward_passes(make(two)) - 6 == 3 + 3 * 1.5 + 1.5


def test_unknown_settings_and_names_are_refused():
    with pytest.raises(InputError, match="changes 'training.hed.name', which is no parameter.*Did you mean 'head'"):
        change(SETTINGS, SETTINGS, {"training.hed.name": "softmax"})
    with pytest.raises(InputError, match="'normalisation.strategy'.*Did you mean 'normalization'"):
        change(SETTINGS, SETTINGS, {"normalisation.strategy": "site"})
    with pytest.raises(InputError, match="sites is 'both'; allowed: one, all"):
        change(SETTINGS, SETTINGS, {"sites": "both"})
    with pytest.raises(InputError, match="cannot set {'normalization.strategy': 'wells'}: strategy"):
        change(SETTINGS, SETTINGS, {"normalization.strategy": "wells"})
    with pytest.raises(InputError, match="'training.seed', which is the same for all arms: give growth_chart.seeds"):
        change(SETTINGS, SETTINGS, {"training.seed": 3})
    with pytest.raises(InputError, match=r"seeds repeats a seed: \[1, 1\]"):
        plan_arms(chart(seeds=[1, 1]), SETTINGS)
    with pytest.raises(InputError, match="two arms called 'ArcFace'"):
        plan_arms(chart(transductive=[{"step": "ArcFace", "set": {}}]), SETTINGS)


@pytest.fixture(scope="module")
def small(screen, wells, design):
    """The small screen, one epoch, four steps."""
    from deepnoise.normalization.statistics import histogram_table, histograms

    store, sites, _ = screen
    folds = make_folds(wells, [], 3, [0], True)
    parts = []
    for (experiment, plate), images in store.images.items():
        key = {"experiment": experiment, "plate": plate, "cell_type": experiment.split("-")[0]}
        kinds = wells.set_index("id_code").loc[
            sites[(sites["experiment"] == experiment) & (sites["plate"] == plate)]["id_code"]
        ]
        total: dict = {}
        from deepnoise.normalization.statistics import add_histograms

        add_histograms(total, histograms(images), kinds["well_type"].to_numpy())
        parts.append(histogram_table(total, key, store.channels))
    truth = design[(design["split"] == "test") & (design["well_type"] == "treatment")]
    labels = pd.DataFrame(
        {
            "id_code": truth["experiment"] + "_" + truth["plate"].astype(str) + "_" + truth["well"],
            "perturbation": truth["sirna"].astype(str),
        }
    )
    layout = discover_groups(visible_labels(wells, folds, "design"))
    screen = Screen(store, sites, wells, folds, SCHEMAS["plate_statistics"].empty())
    seen = run.ChartScreen(screen, pd.concat(parts, ignore_index=True), layout, "none")
    stages = {"pretrain": STAGE | {"epochs": 1}, "mean_teacher": MEAN_TEACHER | {"epochs": 1}}
    own = Settings(NORMALIZATION, parameters(**stages))
    block = chart(
        seeds=[1, 2],
        start=SHIPPED["start"] | {"normalization.strategy": "global"},
        start_name="global",
        steps=[
            {"step": "plate", "set": {"normalization.strategy": "plate"}},
            {"step": "teacher", "set": {"training.mean_teacher.epochs": "own"}},
            {"step": "TTA", "set": {"views": "dihedral"}},
        ],
        transductive=[],
        design=["sinkhorn"],
    )
    return plan_arms(block, own), block, seen, run.Truth(wells, labels, folds)


def drive(arms, block, screen, truth, kept):
    records, last = {}, {}
    for record, complete in run.run_arms(arms, block.seeds, screen, truth, kept, INFERENCE, BALANCING):
        records |= record
        assert complete["complete"] == (not record)  # true with the last message alone
        last = complete
    return records, last


@pytest.mark.slow
def test_arms_are_trained_once_and_kept(small, tmp_path, monkeypatch):
    arms, block, screen, truth = small
    trained = []
    original = run._train
    monkeypatch.setattr(run, "_train", lambda *a: trained.append(a[0]) or original(*a))
    records, complete = drive(arms, block, screen, truth, {})
    assert len(records) == len(arms) * 2 == len(complete["arms"])
    assert (
        len(trained) == 2 * len({run._network_fingerprint(arm.settings) for arm in arms}) < len(records)
    )  # arms that differ in reading share a network
    folder = ArmsDataset(root=str(tmp_path / "arms"))
    assert folder.load() == {}
    folder.save(records)
    assert folder.load() == records
    (tmp_path / "arms" / "torn.json").write_text('{"arm": ')
    assert folder.load() == records

    trained.clear()
    again, complete_again = drive(arms, block, screen, truth, records)
    assert again == {} and trained == [] and complete_again == complete
    lost = {name: record for name, record in records.items() if name != "teacher_seed_2"}
    once, _ = drive(arms, block, screen, truth, lost)
    assert list(once) == ["teacher_seed_2"] and len(trained) == 1
    assert once["teacher_seed_2"]["top1"] == records["teacher_seed_2"]["top1"]  # one seed, one result
    whole = screen.screen
    fewer_sites = replace(whole, sites=whole.sites.iloc[:-1])
    fewer = run.ChartScreen(fewer_sites, screen.histograms, screen.layout, "none")
    other_truth = run.Truth(screen.wells, pd.DataFrame({"id_code": ["x"], "perturbation": ["y"]}), whole.folds)
    adapted = replace(arms[0], settings=replace(arms[0].settings, adabn="plate"))
    asked = [
        (arms[0], 1, screen, truth), (arms[0], 2, screen, truth), (arms[1], 1, screen, truth), (arms[0], 1, fewer, truth),
        (arms[0], 1, screen, other_truth), (adapted, 1, screen, truth),
    ]  # fmt: skip
    assert len({run.arm_fingerprint(*one, BALANCING) for one in asked}) == len(
        asked
    )  # whatever differs makes another arm
    one_group = run.ChartScreen(whole, screen.histograms, screen.layout.assign(group=0), "none")
    filtered = plan_arms(block.model_copy(update={"design": ["group_filter"]}), Settings(NORMALIZATION, parameters()))
    with pytest.raises(InputError, match="'group_filter', but this screen has no plate groups"):
        next(run.run_arms(filtered, [1], one_group, truth, {}, INFERENCE, BALANCING))
    unknown = screen.wells.assign(perturbation=None)
    with pytest.raises(InputError, match="nothing to score"):
        run.Truth(unknown, pd.DataFrame({"id_code": ["x"], "perturbation": ["y"]}), whole.folds)
    assert not hasattr(screen, "labels")  # training sees no withheld label
    table = summarize_arms(arms, block.seeds, records, complete)
    check_summary(table, records, arms, block, complete)


def check_summary(table, records, arms, block, complete):
    validate_table(table, "growth_chart", "x")
    rows = table.set_index("arm")
    own = [records[f"plate_seed_{s}"] for s in (1, 2)]
    reference = [records[f"global_seed_{s}"] for s in (1, 2)]
    assert rows.loc["plate", "top1"] == pytest.approx(np.mean([r["top1"] for r in own]))
    assert rows.loc["plate", "gain"] == pytest.approx(
        np.mean([a["top1"] - b["top1"] for a, b in zip(own, reference, strict=True)])
    )
    assert rows.loc["plate", "gain_p"] >= 1 / 4 and pd.isna(rows.loc["plate", "gain_low"])  # two experiments
    assert (
        rows.loc["global", "tier"] == "T0"
        and rows.loc["plate", "tier"] == "T1, plate design not excluded"  # nothing can be dealt anew here
        and rows.loc["sinkhorn", "tier"] == "T2"
    )
    assert rows.loc["teacher", "control"] == "plate, trained as long"
    assert rows.loc["sinkhorn", "leak_plate"] == rows.loc["TTA", "leak_plate"]
    text = format_chart(table)
    assert "over the control of equal compute" in text and "T2 and T3 rows are not headline figures" in text
    bars = [arm for trace in draw_ladder(table).data if trace.type == "bar" for arm in trace.y]
    assert sorted(bars) == sorted(table.dropna(subset=["top1"])["arm"])
    corrected = rows[rows["kind"] == "correction"]
    assert (
        list(corrected.index) == ["plate centred", "experiment centred", "sphered"] and corrected["top1"].isna().all()
    )
    assert corrected["tier"].tolist() == [
        "T1, plate design not excluded",
        "T1, plate design not excluded",
        "T1c, plate design not excluded",
    ]
    assert corrected["map"].nunique() == 3 and not corrected["map"].isin([rows.loc["TTA", "map"]]).any()
    assert corrected["gain"].isna().all() and f"{'plate centred':42} T1?         -" in text
    dots = [arm for trace in draw_scatter(table).data for arm in trace.text]
    assert sorted(dots) == sorted(table.dropna(subset=["leak_experiment", "top1"])["arm"])
    with pytest.raises(InputError, match="not complete"):
        summarize_arms(arms, block.seeds, records, complete | {"complete": False})
    with pytest.raises(InputError, match="'TTA_seed_1' from another run"):
        summarize_arms(arms, block.seeds, records | {"TTA_seed_1": {"fingerprint": "old"}}, complete)
