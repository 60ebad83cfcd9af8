"""Which real sets repeat the contents of their plates, and what that does to the tier of a z-score.

    python benchmarks/plate_design.py SHARED     # folder with profiles/ and rxrx1_metadata/

For each set of profiles: how well the contents of a plate and of an experiment can be predicted from others (0.5 is chance),
then logistic regression with one experiment left out in turn, on the features as they are and z-scored by experiment, by plate
and on the controls of each plate: tier, top-1 by well, and the share of wrong calls that name a perturbation of the well's own plate.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from deepnoise.evaluation.plate_design import group_share
from deepnoise.ingestion.layouts import repeated_contents
from deepnoise.tables import BASELINES, FEATURE, SCORE
from deepnoise.training.baseline import score_hand_features

SETS = {
    "BBBC021, mechanisms": ("bbbc021_profiles/derived/profiles_moa.parquet", "Metadata_Perturbation", ["DMSO"]),
    "JUMP source 3, positive controls": ("jump_source3_poscon/derived/profiles.parquet", "Metadata_Perturbation", []),
    "VarChAMP alleles": ("varchamp_alleles/derived/profiles_b20_b21.parquet", "Metadata_Perturbation", ["MAPK9", "RHEB", "SLIRP", "PRKACB"]),
    "dyes, six batches": ("dyes_6batches/derived/profiles_all_6_batches.parquet", "Metadata_Perturbation", ["DMSO"]),
}  # fmt: skip
"""Name -> file, column of the perturbation, negative controls."""


def read(path: Path, perturbation: str, controls: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables ``wells`` and ``normalized_features`` of a set of profiles."""
    table = pd.read_parquet(path)
    given = [c for c in table if not c.startswith("Metadata_")]
    values = table[given].to_numpy(np.float64)
    keep = np.isfinite(values).all(axis=0) & (values.std(axis=0) > 0)
    columns = {
        c.removeprefix("Metadata_").lower(): table[c].astype(str)
        for c in ("Metadata_Experiment", "Metadata_Plate", "Metadata_Well")
    }
    features = pd.DataFrame(columns)
    features["id_code"] = features["experiment"] + "_" + features["plate"] + "_" + features["well"]
    features["site"] = features.groupby("id_code").cumcount() + 1
    clipped = pd.DataFrame(values[:, keep], columns=[f"{FEATURE}{given[i]}" for i in np.flatnonzero(keep)])
    wells = (
        features.drop(columns="site").assign(perturbation=table[perturbation].astype(str)).drop_duplicates("id_code")
    )
    is_control = wells["perturbation"].isin(controls)
    wells = wells.assign(target=~is_control, well_type=np.where(is_control, "negative_control", "treatment"))
    return wells.reset_index(drop=True), pd.concat([features, clipped], axis=1)


def leave_one_out(wells: pd.DataFrame) -> pd.DataFrame:
    """The table ``folds`` in which each experiment is left out in turn."""
    plates = wells[["experiment", "plate"]].drop_duplicates()
    left_out = enumerate(sorted(plates["experiment"].unique()))
    folds = [plates.assign(fold=f, role=np.where(plates["experiment"] == e, "heldout", "train")) for f, e in left_out]
    return pd.concat(folds, ignore_index=True)


def rows_of(name: str, wells: pd.DataFrame, features: pd.DataFrame) -> list[str]:
    """One line of the table per baseline."""
    repeated = repeated_contents(wells)
    text = " / ".join("-" if repeated[unit] is None else f"{repeated[unit]:.2f}" for unit in ("plate", "experiment"))
    truth = wells.set_index("id_code")["perturbation"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = score_hand_features(features, wells, leave_one_out(wells), "T0")
    lines = []
    for baseline in BASELINES:
        rows = scores[scores["baseline"] == baseline]
        if rows.empty:
            continue
        columns = [c for c in rows if c.startswith(SCORE)]
        by_well = rows.groupby(["experiment", "plate", "id_code"])[columns].mean()
        calls = by_well.index.to_frame(index=False)
        calls["call"] = by_well.fillna(-np.inf).idxmax(axis=1).str.removeprefix(SCORE).to_numpy()
        calls["perturbation"] = calls["id_code"].map(truth)
        calls = calls[calls["perturbation"].isin([c.removeprefix(SCORE) for c in columns])]
        share = group_share(calls, len(columns))
        inside = (
            "-"
            if share is None
            else f"{share['share']:.1%} ({share['chance']:.1%}){' above chance' if share['above_chance'] else ''}"
        )
        top1 = (calls["call"] == calls["perturbation"]).mean()
        lines.append(
            f"| {name} | {text} | {baseline} | {rows['tier'].iloc[0]} | {top1:.1%} of {len(calls)} | {inside} |"
        )
    return lines


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    shared = parser.parse_args().shared
    print(
        "| set | contents repeat: plate / experiment | features | tier | top-1 | wrong calls inside the plate (chance) |\n|---|---|---|---|---|---|"
    )
    for name, (file, perturbation, controls) in SETS.items():
        print("\n".join(rows_of(name, *read(shared / "profiles" / file, perturbation, controls))), flush=True)
    from deepnoise.datasets.rxrx1 import RxRx1WellsDataset

    wells = RxRx1WellsDataset(root=str(shared / "rxrx1_metadata")).load()
    repeated = repeated_contents(wells.assign(target=wells["well_type"] == "treatment"))
    print(f"RxRx1 (tables alone): plate {repeated['plate']:.3f}, experiment {repeated['experiment']}")


if __name__ == "__main__":
    main()
