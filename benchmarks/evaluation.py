"""Evaluation at the size of RxRx1, and on planted errors: python benchmarks/evaluation.py [wells | retrieval | suspects DATA | profiles FILE...]

``wells``: 56,000 wells of 1,108 perturbations in 512 dimensions, on 2 cores. Prints seconds and peak memory
of each part.

``retrieval``: replicate retrieval of three experiments of it at all four levels, beside a double loop (one level) and copairs (each
level) in the same run; all give the same average precisions.

``suspects DATA``: plants swaps and turned plates into the plate maps of a finished run of the demo (DATA: its
data folder), with five seeds. Prints recall and false alarms. ``profiles FILE...`` does so with tables of real profiles,
whose columns are those of conf/external_profiles. The figures go into docs/results.md.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score

from deepnoise.datasets.external_profiles import ExternalProfilesDataset, ExternalProfileWellsDataset
from deepnoise.evaluation.metrics import ranked_calls
from deepnoise.evaluation.probe_tasks import probe_leaks
from deepnoise.evaluation.profiles import Profiles, effective_rank, join_profiles, true_labels
from deepnoise.evaluation.retrieval import activity, average_precisions
from deepnoise.evaluation.suspects import find_suspects, turned_wells
from deepnoise.plate_balancing.scores import pool_scores
from deepnoise.simulation.design import design_screen
from deepnoise.tables import LEVELS, SCHEMAS


@contextmanager
def measured(name: str) -> Iterator[None]:
    """Print the seconds, and the peak memory so far."""
    start = time.perf_counter()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{name}: {time.perf_counter() - start:.1f} s, peak so far {peak:.1f} GB", flush=True)


def rxrx1_profiles(dimensions: int) -> Profiles:
    """Random profiles with class and experiment effects, in a design as large as RxRx1 (52 experiments)."""
    design = design_screen(
        treatments=1108, positive_controls=30, negative_wells=1, cell_types=4, labelled_experiments=9, heldout_experiments=4, plates=4,
        missing_wells=0.02, duplicate_layout=False, seed=1,
    )  # fmt: skip
    rng = np.random.default_rng(1)
    rows = design.assign(
        plate=design["plate"].astype(str),
        perturbation=design["sirna"].astype(str),
        fold=0,
        role="heldout",
        plate_seen=False,
    )
    rows["id_code"] = rows["experiment"] + "_" + rows["plate"] + "_" + rows["well"]
    classes = rng.normal(size=(1139, dimensions)).astype(np.float32)
    batches = 0.3 * rng.normal(size=(rows["experiment"].nunique(), dimensions)).astype(np.float32)
    values = rng.normal(size=(len(rows), dimensions)).astype(np.float32) * 2
    values += classes[rows["sirna"]] + batches[pd.factorize(rows["experiment"])[0]]
    return Profiles(rows.reset_index(drop=True), values)


def double_loop(profiles: Profiles) -> float:
    """Mean average precision across experiments, one query at a time."""
    rows, unit = profiles.rows, profiles.values / np.linalg.norm(profiles.values, axis=1, keepdims=True)
    perturbation, experiment, well_type = (rows[c].to_numpy(str) for c in ("perturbation", "experiment", "well_type"))
    precisions = []
    for query in np.flatnonzero(well_type != "negative_control"):
        same_perturbation, same_experiment = perturbation == perturbation[query], experiment == experiment[query]
        positive = np.flatnonzero(same_perturbation & ~same_experiment)
        negative = np.flatnonzero(~same_perturbation & same_experiment)
        if len(positive):
            scores = unit[np.concatenate([positive, negative])] @ unit[query]
            precisions.append(average_precision_score(np.arange(len(scores)) < len(positive), scores))
    return float(np.mean(precisions))


def wells() -> None:
    """Time every part of the evaluation at the size of RxRx1."""
    profiles = rxrx1_profiles(512)
    rows = profiles.rows
    print(
        f"{len(rows):,} wells, {rows['perturbation'].nunique():,} perturbations, {profiles.values.shape[1]} dimensions"
    )
    with measured("replicate retrieval, 20 shuffles"):
        average_precisions(profiles, 20)
    with measured("leak probes, 20 shuffles"):
        stains = pd.DataFrame(np.random.default_rng(2).normal(size=(len(rows), 6)), index=rows["id_code"])
        for leak in probe_leaks(profiles, stains, 20, 1.0):
            print("  ", leak["axis"], leak["verdict"], leak.get("balanced_accuracy"))
    with measured("activity"):
        activity(profiles)
    with measured("suspect wells"):
        find_suspects(profiles, SCHEMAS["well_scores"].empty(), SCHEMAS["site_features"].empty(), "T1")
    with measured("effective rank"):
        effective_rank(profiles.values)
    treated = rows[rows["well_type"] == "treatment"].reset_index(drop=True)
    scores = pd.DataFrame(
        np.random.default_rng(0).normal(size=(len(treated), 1108)).astype(np.float32),
        columns=[f"score_{k}" for k in range(1108)],
    )
    with measured("top-1 and top-5 of every well"):
        ranked_calls(scores, treated["perturbation"])


def retrieval() -> None:
    """Time replicate retrieval beside a double loop and copairs."""
    from copairs.map import average_precision

    profiles = rxrx1_profiles(512)
    subset = profiles.take(profiles.rows["experiment"].isin(["ALPHA-01", "ALPHA-02", "ALPHA-03"]).to_numpy())
    rows = subset.rows[["id_code", "experiment", "plate", "well", "perturbation", "well_type"]]
    rows = rows.assign(unit=rows["experiment"] + "/" + rows["plate"])
    start = time.perf_counter()
    ours, _ = average_precisions(subset, 0)
    seconds = time.perf_counter() - start
    print(f"retrieval of {len(rows):,} wells at four levels: {seconds:.2f} s")
    across = ours[ours["level"] == "not_same_experiment"]["average_precision"].mean()
    start = time.perf_counter()
    np.testing.assert_allclose(across, double_loop(subset), atol=1e-5)
    taken = time.perf_counter() - start
    print(f"double loop, one level: {taken:.2f} s, {taken / seconds:.1f} times as long")
    total = 0.0
    for level, differs in zip(LEVELS, ([], ["unit"], ["experiment"], ["experiment", "well"]), strict=True):
        start = time.perf_counter()
        theirs = average_precision(
            rows, subset.values, pos_sameby=["perturbation"], pos_diffby=differs, neg_sameby=["experiment"],
            neg_diffby=["perturbation"], progress_bar=False,
        ).set_index("id_code")["average_precision"]  # fmt: skip
        total += time.perf_counter() - start
        of_level = ours[ours["level"] == level].set_index("id_code")["average_precision"]
        far = (of_level - theirs.loc[of_level.index]).abs()
        print(f"copairs, {level}: {time.perf_counter() - start:.2f} s; {len(far):,} average precisions differ by at most {far.max():.1e}", flush=True)  # fmt: skip
    print(f"copairs, all levels: {total:.2f} s, {total / seconds:.1f} times as long")


def suspects(data: Path) -> None:
    """Swap two wells on eight of nine unseen plates, turn the ninth, and count what is flagged."""

    def table(name: str) -> pd.DataFrame:
        return pd.read_parquet(sorted(data.glob(f"0*/demo/{name}.parquet/*/{name}.parquet"))[-1])

    screen, logits, features = table("wells"), table("well_logits"), table("site_features")
    truth = pd.read_csv(data / "01_raw/demo/test_labels.csv", dtype=str).rename(columns={"sirna": "perturbation"})
    profiles = join_profiles(table("well_embeddings"), screen, true_labels(screen, truth))
    plant(profiles.take(~profiles.rows["plate_seen"].to_numpy(bool)), pool_scores(logits, screen), features)


def real_profiles(paths: list[Path]) -> None:
    """The same with real profiles, whose own plate maps are taken as right."""
    names = ("Experiment", "Plate", "Well", "Perturbation")
    columns = {name.lower(): f"{{Metadata_{name}}}" for name in names}
    no_scores, no_features = SCHEMAS["well_scores"].empty(), SCHEMAS["site_features"].empty()
    for path in paths:
        screen = ExternalProfileWellsDataset(filepath=str(path), columns=columns).load()
        embeddings = ExternalProfilesDataset(filepath=str(path), columns=columns).load()
        no_labels = SCHEMAS["heldout_labels"].empty()
        profiles = join_profiles(embeddings, screen, true_labels(screen, no_labels))
        print(path.stem)
        plant(profiles.take(profiles.rows["perturbation"].notna().to_numpy(bool)), no_scores, no_features)


def plant(profiles: Profiles, scores: pd.DataFrame, features: pd.DataFrame) -> None:
    """Swap two wells on each plate, but turn every ninth, five times; print what is flagged."""
    clean = find_suspects(profiles, scores, features, "T1")
    print(f"clean: {clean['flagged'].sum()} flagged ({clean.loc[clean['flagged'], 'kind'].value_counts().to_dict()})")
    totals = np.zeros(7)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        rows = profiles.rows.copy()
        swapped: set[str] = set()
        turned: set[tuple[str, str]] = set()
        plates_of_screen = rows.groupby(["experiment", "plate"]).groups
        first_turned = (4 + seed) % min(9, len(plates_of_screen))
        for number, (plate, plate_rows) in enumerate(plates_of_screen.items()):
            if number % 9 == first_turned:
                layout = dict(zip(rows.loc[plate_rows, "well"], rows.loc[plate_rows, "perturbation"], strict=True))
                rows.loc[plate_rows, "perturbation"] = [
                    layout.get(well) for well in turned_wells(rows.loc[plate_rows, "well"])
                ]
                turned.add(plate)
                continue
            treated = plate_rows[rows.loc[plate_rows, "well_type"] == "treatment"]
            if len(treated) < 2:
                continue
            pair = rng.choice(treated, 2, replace=False)
            rows.loc[pair, "perturbation"] = rows.loc[pair[::-1], "perturbation"].to_numpy()
            swapped |= set(rows.loc[pair, "id_code"])
        suspect_wells = find_suspects(Profiles(rows, profiles.values), scores, features, "T1")
        flagged = suspect_wells[suspect_wells["flagged"]]
        flagged_swaps = set(flagged.loc[flagged["kind"] == "swapped", "id_code"])
        top_swaps = set(suspect_wells[suspect_wells["kind"] == "swapped"].head(len(swapped))["id_code"])
        plates = flagged[flagged["kind"].str.startswith("plate")]
        right = {
            (r.experiment, r.plate) for r in plates.itertuples() if r.kind == "plate turned by 180 degrees"
        } & turned
        row = np.array([
            len(flagged_swaps & swapped), len(swapped), len(flagged_swaps - swapped), len(top_swaps & swapped),
            len(right), len(turned), len(plates) - len(right),
        ])  # fmt: skip
        totals += row
        print(
            f"seed {seed}: {row[0]} of {row[1]} swapped wells flagged, {row[2]} false alarms; {row[3]} among the first "
            f"{row[1]}; {row[4]} of {row[5]} turned plates, {row[6]} false alarms"
        )
    print(
        f"all: recall flagged {totals[0] / totals[1]:.0%}, false alarms {totals[2]:.0f} wells in {5 * len(profiles.rows):,}; recall among the "
        f"first {totals[3] / totals[1]:.0%}; turned plates {totals[4]:.0f} of {totals[5]:.0f}, {totals[6]:.0f} false alarms"
    )


if __name__ == "__main__":
    benchmarks: dict[str, Callable[..., None]] = {
        "wells": wells,
        "retrieval": retrieval,
        "suspects": lambda: suspects(Path(sys.argv[2])),
        "profiles": lambda: real_profiles([Path(path) for path in sys.argv[2:]]),
    }
    needs_files = sys.argv[1:2] in (["suspects"], ["profiles"])
    if len(sys.argv) < 2 + needs_files or sys.argv[1] not in benchmarks:
        sys.exit(__doc__)
    benchmarks[sys.argv[1]]()
