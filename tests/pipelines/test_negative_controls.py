"""Negative controls of the whole path, on the smoke profile: without an effect, none is reported.

The negative control of the mean teacher is in tests/training: scrambled labels of held-out plates give the same weights.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from kedro.config import OmegaConfigLoader

from deepnoise.evaluation.probe_tasks import probe_leaks, well_features
from deepnoise.evaluation.profiles import Profiles, true_labels
from deepnoise.growth_chart.arms import Arm, Settings, change
from deepnoise.growth_chart.run import ChartScreen, Redealt, Truth, run_arms
from deepnoise.ingestion.folds import make_folds
from deepnoise.ingestion.layouts import discover_groups, visible_labels
from deepnoise.ingestion.validation import validate_wells
from deepnoise.normalization.features import measure_sites, normalize_features, site_table
from deepnoise.normalization.measure import measure_screen
from deepnoise.normalization.statistics import add_histograms, histogram_table, histograms, plate_statistics
from deepnoise.parameters import replace_values, validate_parameters
from deepnoise.pipelines.simulation.nodes import design_plates
from deepnoise.plate_balancing.balancing import DesignKnowledge, balance
from deepnoise.plate_balancing.scores import META
from deepnoise.screen import Screen
from deepnoise.simulation.cells import CHANNELS
from deepnoise.simulation.redealt import deal_heldout, rendering_of
from deepnoise.simulation.screen import render_screen
from deepnoise.training.baseline import score_hand_features
from tests.conftest import PROJECT, MemoryStore
from tests.plate_balancing.helpers import PARAMETERS


class Smoke:
    """The smoke profile in memory: tables, images and measurements."""

    def __init__(self, seed: int | None = None, changes: dict[str, Any] | None = None, **noise: float) -> None:
        settings = OmegaConfigLoader(
            str(PROJECT / "conf"), env="test", base_env="base", runtime_params={}, merge_strategy={"parameters": "soft"}
        )["parameters"]
        self.parameters = validate_parameters(settings)
        simulation = replace_values(
            self.parameters.simulation,
            "simulation",
            {f"simulation.{k}": v for k, v in (changes or {}).items()},
            "the test",
        )
        design, _ = design_plates(simulation)
        hidden = (design["split"] == "test") & (design["well_type"] == "treatment")
        raw = design.assign(
            plate=design["plate"].astype(str), source="design", split=design["split"].map({"train": "labelled", "test": "heldout"}),
            perturbation=design["sirna"].astype(str).where(~hidden),
        )  # fmt: skip
        self.wells = validate_wells(raw, ["treatment"])[0]
        code = design["experiment"] + "_" + design["plate"].astype(str) + "_" + design["well"]
        self.labels = pd.DataFrame({"id_code": code, "perturbation": design["sirna"].astype(str)})[hidden].reset_index(
            drop=True
        )
        well_rows = self.wells.set_index("id_code")
        images, sites, measured, levels = {}, [], [], []
        rendering = rendering_of(simulation)
        plates = render_screen(
            design, **{**rendering.options, "noise": replace(rendering.noise, **noise), "seed": simulation.seed if seed is None else seed}
        )  # fmt: skip
        for plate in plates:
            key = (plate.experiment, str(plate.plate))
            images[key] = plate.tiles.reshape(-1, *plate.tiles.shape[2:])
            wells = np.repeat(plate.wells, plate.tiles.shape[1])
            table = pd.DataFrame({"experiment": key[0], "plate": key[1], "well": wells})
            table["site"] = np.tile(np.arange(1, simulation.sites + 1), len(plate.wells))
            table["id_code"] = key[0] + "_" + key[1] + "_" + table["well"]
            table["store_row"] = np.arange(len(table))
            counts = histograms(images[key])
            measured.append(site_table(table, list(CHANNELS), measure_sites(images[key], counts)))
            total: dict[str, np.ndarray] = {}
            add_histograms(total, counts, well_rows.loc[table["id_code"], "well_type"].to_numpy())
            plate_key = {"experiment": key[0], "plate": key[1], "cell_type": key[0].split("-")[0]}
            levels.append(histogram_table(total, plate_key, list(CHANNELS)))
            sites.append(table)
        self.store = MemoryStore(images, list(CHANNELS))
        self.sites = pd.concat(sites, ignore_index=True)
        self.features = pd.concat(measured, ignore_index=True)
        self.histograms = pd.concat(levels, ignore_index=True)
        self.folds = make_folds(self.wells, [], self.parameters.ingestion.folds.n_folds, [0], True)
        self.redealt_images = deal_heldout(design, rendering)

    def redealt(self) -> Redealt:
        """The held-out plates with their treatments dealt anew."""
        sites = self.redealt_images.sites(self.sites)
        _, levels = measure_screen(self.redealt_images, sites, self.wells)
        plates = ["experiment", "plate"]
        others = (
            self.histograms.merge(levels[plates].drop_duplicates(), how="left", indicator=True)["_merge"] == "left_only"
        )
        return Redealt(
            Screen(self.redealt_images, sites, self.wells, self.folds, pd.DataFrame()),
            pd.concat([self.histograms[others.to_numpy()], levels], ignore_index=True),
            self.redealt_images.labels().set_index("id_code")["perturbation"],
        )

    def accuracy(self, statistics: pd.DataFrame) -> float:
        """Top-1 of hand features by well on held-out plates."""
        scores = score_hand_features(normalize_features(self.features, statistics), self.wells, self.folds, "T1")
        heldout = scores[(scores["role"] == "heldout") & (scores["baseline"] == "hand features")]
        columns = [c for c in heldout.columns if c.startswith("score_")]
        pooled = heldout.groupby("id_code")[columns].mean()
        called = pooled.idxmax(axis=1).str.removeprefix("score_")
        return float((called == self.labels.set_index("id_code")["perturbation"].reindex(called.index)).mean())

    def leaks(self, permutations: int = 60) -> dict[str, dict]:
        """Leak probes of raw brightness and contrast."""
        features = well_features(self.features)
        rows = self.wells[self.wells["id_code"].isin(features.index)].assign(fold=0, role="", plate_seen=False)
        rows = rows.assign(perturbation=rows["id_code"].map(true_labels(self.wells, self.labels))).reset_index(
            drop=True
        )
        profiles = Profiles(rows, features.loc[rows["id_code"]].to_numpy(np.float32))
        return {a["axis"]: a for a in probe_leaks(profiles, pd.DataFrame(), permutations, 1.0)}


@pytest.fixture(scope="module")
def smoke() -> Smoke:
    return Smoke()


def test_shuffled_plate_labels_cancel_the_gain_of_plate_normalization(smoke):
    """With wells assigned to random plates, plate statistics equal those of the whole screen, and so does the accuracy."""
    accuracy = {
        name: smoke.accuracy(plate_statistics(smoke.histograms, smoke.wells, name, "all"))
        for name in ("plate", "global")
    }
    assert accuracy["plate"] > accuracy["global"] + 0.15
    rng = np.random.default_rng(0)
    plates = smoke.sites[["experiment", "plate"]].drop_duplicates()
    mixed = []
    for (experiment, plate), shift in zip(plates.itertuples(index=False), rng.permutation(len(plates)), strict=True):
        # each plate gets one well from every plate
        images = np.concatenate(
            [
                plate_images[[(shift + i) % len(plate_images)]]
                for i, plate_images in enumerate(smoke.store.images.values())
            ]
        )
        total: dict[str, np.ndarray] = {}
        add_histograms(total, histograms(images), np.full(len(images), "treatment"))
        mixed.append(
            histogram_table(
                total, {"experiment": experiment, "plate": plate, "cell_type": experiment.split("-")[0]}, list(CHANNELS)
            )
        )
    shuffled = smoke.accuracy(plate_statistics(pd.concat(mixed, ignore_index=True), smoke.wells, "plate", "all"))
    assert shuffled < accuracy["global"] + 0.1 < accuracy["plate"]


@pytest.mark.slow
def test_the_leak_rises_with_the_simulated_noise():
    """With gain as the only difference between experiments, the probe rises from chance to near certainty."""
    other_noise_off = dict(experiment_offset=0.0, plate_gain=0.0, plate_offset=0.0, blur=0.0, illumination=0.0, density=0.0, experiment_trait_shift=0.0, plate_trait_shift=0.0, edge=0.0, position_gain=0.0, bleed_through=0.0)  # fmt: skip
    accuracy = [
        Smoke(1, experiment_gain=gain, **other_noise_off).leaks(40)["experiment"]["balanced_accuracy"]
        for gain in (0.04, 0.12, 0.45)
    ]
    # three screens without gain: with 40 permutations, one probe in about forty is a false alarm
    without_gain = [Smoke(seed, experiment_gain=0.0, **other_noise_off).leaks(40)["experiment"] for seed in (1, 2, 3)]
    mean_without_gain = float(np.mean([probe["balanced_accuracy"] for probe in without_gain]))
    assert [mean_without_gain, *accuracy] == sorted([mean_without_gain, *accuracy]) and accuracy[-1] > 0.9
    assert sum(probe["verdict"] == "leak" for probe in without_gain) <= 1 and abs(mean_without_gain - 1 / 6) < 0.04


@pytest.mark.slow
def test_only_a_planted_position_effect_is_reported():
    without_effect = Smoke(edge=0.0, position_gain=0.0).leaks()
    assert {without_effect[axis]["verdict"] for axis in ("well_row", "well_column", "well_edge")} == {"none seen"}
    planted = Smoke(edge=2.0, position_gain=0.0).leaks()
    assert planted["well_edge"]["verdict"] == "leak" and planted["well_edge"]["p"] == planted["well_edge"]["smallest_p"]


def random_scores(smoke: Smoke, seed: int, known_group: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores that are independent of the perturbation; with ``known_group`` they depend on the plate's group alone."""
    layout = discover_groups(visible_labels(smoke.wells, smoke.folds, "design"))
    heldout = smoke.wells[smoke.wells["target"] & (smoke.wells["split"] == "heldout")].reset_index(drop=True)
    names = list(layout["perturbation"])
    values = np.random.default_rng(seed).normal(size=(len(heldout), len(names)))
    if known_group:
        group = layout.set_index("perturbation")["group"]
        true_group = heldout["id_code"].map(smoke.labels.set_index("id_code")["perturbation"]).map(group)
        values += 20 * (true_group.to_numpy()[:, None] == layout["group"].to_numpy()[None])
    wide = pd.DataFrame(values, columns=[f"score_{n}" for n in names])
    return pd.concat([heldout.assign(role="heldout", tier="T1")[META], wide], axis=1), layout


def test_balanced_random_scores_stay_at_chance(smoke):
    truth = smoke.labels.set_index("id_code")["perturbation"]
    accuracy: dict[tuple[bool, str], list[float]] = {}
    decided = []
    for seed in range(20):
        for known_group in (True, False):
            table, layout = random_scores(smoke, seed, known_group)
            balanced = balance(
                table, DesignKnowledge(layout), PARAMETERS.model_copy(update={"compare": ["sinkhorn", "assignment"]})
            )
            steps = balanced.steps
            if not known_group:
                decided.append(balanced.groups.drop_duplicates("experiment")["decided"].astype(bool).mean())
            for step, rows in steps.groupby("step"):
                accuracy.setdefault((known_group, step), []).append(
                    float((rows["call"] == rows["id_code"].map(truth)).mean())
                )
    size, classes = 4, 16
    for step in ("group_filter", "sinkhorn", "assignment", "matching"):
        assert np.mean(accuracy[True, step]) == pytest.approx(1 / size, abs=0.04)
        assert np.mean(accuracy[False, step]) == pytest.approx(1 / classes, abs=0.02)
    assert np.mean(decided) < 0.05


@pytest.mark.slow
def test_labels_shuffled_within_experiments_leave_nothing_to_learn(smoke):
    """A network trained on shuffled labels is at chance on held-out experiments; test_run is far above with true labels."""
    rng = np.random.default_rng(0)
    shuffled = smoke.wells.copy()
    labelled = shuffled["target"] & shuffled["perturbation"].notna()
    for experiment_wells in shuffled[labelled].groupby("experiment").groups.values():
        shuffled.loc[experiment_wells, "perturbation"] = rng.permutation(shuffled.loc[experiment_wells, "perturbation"])
    parameters = smoke.parameters
    arm = Arm("full", "step", Settings(parameters.normalization, parameters.training), "")
    layout = discover_groups(visible_labels(shuffled, smoke.folds, "design"))
    screen = Screen(smoke.store, smoke.sites, shuffled, smoke.folds, pd.DataFrame())
    chart_screen = ChartScreen(screen, smoke.histograms, layout, "none")
    truth = Truth(shuffled, smoke.labels, smoke.folds)
    records = [
        r
        for r, _ in run_arms([arm], [1], chart_screen, truth, {}, parameters.inference, parameters.plate_balancing)
        if r
    ]
    assert records[0]["full_seed_1"]["top1"] < 1 / 16 + 3 * np.sqrt(1 / 16 * 15 / 16 / 61)


@pytest.mark.slow
def test_a_model_of_plate_batches_owes_calls_to_the_plate_design_and_the_default_does_not():
    """BatchNorm by plate subtracts what the treatments of a plate have in common, and so learns which they are."""
    changes = {
        "profile": "additive", "treatments": 48, "positive_controls": 2, "cell_types": 3, "labelled_experiments": 5,
        "heldout_experiments": 2, "effect_strength": 1.4,
    }  # fmt: skip
    smoke = Smoke(changes=changes)
    parameters = smoke.parameters
    environment = Settings(parameters.normalization, parameters.training)
    epochs = {"training.pretrain.epochs": 30, "training.mean_teacher.epochs": 0}
    by_plate = {"normalization.strategy": "plate", "training.batches": "plate"}
    arms = [
        Arm("default", "step", change(environment, environment, epochs), ""),
        Arm("by plate", "step", change(environment, environment, epochs | by_plate), ""),
    ]
    screen = Screen(smoke.store, smoke.sites, smoke.wells, smoke.folds, pd.DataFrame())
    layout = discover_groups(visible_labels(smoke.wells, smoke.folds, "design"))
    chart_screen = ChartScreen(screen, smoke.histograms, layout, "none", smoke.redealt())
    truth = Truth(smoke.wells, smoke.labels, smoke.folds)
    records = {}
    for done, _ in run_arms(arms, [1], chart_screen, truth, {}, parameters.inference, parameters.plate_balancing):
        records |= done
    default, plate = records["default_seed_1"], records["by_plate_seed_1"]
    assert default["redealt"]["loses_nothing"] is True and default["tier"] == "T1"
    assert not default["group_share"]["above_chance"] and not default["redrawn"]["above_chance"]
    assert plate["redealt"]["loses_nothing"] is False and plate["redealt"]["gain"] < -0.2 and plate["tier"] == "T2"
    assert plate["group_share"]["above_chance"] and plate["group_share"]["excess"] > 0.3
    assert plate["redrawn"]["above_chance"] and plate["redrawn"]["excess"] > 0.3
