"""Which units repeat their contents: plates of groups do, plates dealt at random and complete experiments do not."""

import numpy as np
import pandas as pd
import pytest

from deepnoise.datasets.rxrx1 import RxRx1WellsDataset
from deepnoise.ingestion.audit import audit_design
from deepnoise.ingestion.layouts import REPEATED, repeated_contents, repeated_units


def screen_of(contents):
    """Labelled wells of {(experiment, plate): perturbations}."""
    rows = [(e, p, f"{e}_{p}_{i}", name) for (e, p), names in contents.items() for i, name in enumerate(names)]
    table = pd.DataFrame(rows, columns=["experiment", "plate", "id_code", "perturbation"])
    return table.assign(target=True, perturbation=table["perturbation"].astype(str))


def dealt(experiments=6, plates=4, size=6, kept_together=True, seed=0):
    rng = np.random.default_rng(seed)
    contents = {}
    for e in range(experiments):
        names = np.arange(plates * size)
        if not kept_together:
            names = rng.permutation(names)
        for p, part in enumerate(np.array_split(names, plates)):
            contents[f"E-{e}", str(p)] = part
    return screen_of(contents)


def test_plate_groups_repeat_and_complete_experiments_say_nothing():
    assert repeated_contents(dealt()) == {"plate": 1.0, "experiment": None}
    assert repeated_units(dealt()) == {"plate"}


def test_contents_dealt_at_random_do_not_repeat():
    for experiments, size in ((6, 6), (12, 12)):
        screens = [dealt(experiments, size=size, kept_together=False, seed=s) for s in range(20)]
        values = [repeated_contents(screen)["plate"] for screen in screens]
        assert np.mean(values) == pytest.approx(0.5, abs=0.05)  # also where a plate holds few wells
    assert max(values) < REPEATED and repeated_units(screens[0]) == frozenset()


def test_plates_that_repeat_in_part_lie_between():
    """Half of each group travels together, the other half is dealt anew."""
    rng = np.random.default_rng(0)
    contents = {}
    for e in range(8):
        loose = rng.permutation(np.arange(100, 116)).reshape(4, 4)
        for p in range(4):
            contents[f"E-{e}", str(p)] = [*range(4 * p, 4 * p + 4), *loose[p]]
    value = repeated_contents(screen_of(contents))["plate"]
    assert 0.65 < value < 0.95 and repeated_units(screen_of(contents)) == {"plate"}


def test_experiments_that_hold_parts_of_the_library_repeat():
    """Two sub-libraries, each screened in three experiments: an experiment tells which perturbations it can hold."""
    contents = {(f"E-{e}", "1"): range(10 * (e % 2), 10 * (e % 2) + 10) for e in range(6)}
    assert repeated_units(screen_of(contents)) == {"plate", "experiment"}


def test_replicate_plates_of_one_experiment_repeat():
    contents = {("E-0", str(p)): range(8 * (p % 2), 8 * (p % 2) + 8) for p in range(6)}
    assert repeated_contents(screen_of(contents))["plate"] == 1.0


def test_nothing_can_be_said_where_nothing_is_repeated_or_labelled():
    once = screen_of({("E-0", str(p)): range(8 * p, 8 * p + 8) for p in range(3)})
    assert repeated_contents(once) == {"plate": None, "experiment": None}
    assert repeated_units(once.assign(perturbation=None)) == frozenset()
    whole = screen_of({(f"E-{e}", "1"): range(8) for e in range(3)})
    assert repeated_units(whole) == frozenset()


def test_missing_wells_and_controls_change_nothing_of_substance():
    table = dealt(experiments=8)
    table = table[np.random.default_rng(1).random(len(table)) > 0.1]
    controls = table.head(40).assign(target=False, perturbation="control")
    value = repeated_contents(pd.concat([table, controls]))["plate"]
    assert value == repeated_contents(table)["plate"] > 0.95


def test_the_audit_reports_it(wells):
    assert audit_design(wells)["repeated_contents"]["plate"] == 1.0


def test_the_plates_of_rxrx1_repeat_and_its_experiments_are_complete(shared):
    wells = RxRx1WellsDataset(root=str(shared / "rxrx1_metadata")).load()
    values = repeated_contents(wells.assign(target=wells["well_type"] == "treatment"))
    assert values["plate"] > 0.95 and values["experiment"] is None
