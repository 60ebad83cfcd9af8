"""How far brightness varies between cell types, experiments and plates: the real RxRx1 beside simulated screens.

    python benchmarks/components.py TABLES DATA [DATA ...]   # TABLES has plate_pixel_stats.csv; DATA is a data folder after normalization

For each level: the standard deviation of the log of a plate's channel mean, of its standard deviation, and of their ratio, with the
share of the levels below removed, averaged over channels; and the mean correlation of two channels.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from deepnoise.normalization.statistics import plate_statistics

KEY = ["cell_type", "experiment", "plate"]


def simulated(data: Path) -> pd.DataFrame:
    """Mean and standard deviation of every plate and channel of a simulated screen."""
    entries = {
        name: sorted(data.glob(f"0*/*/{name}.parquet/*/{name}.parquet"))[-1] for name in ("plate_histograms", "wells")
    }
    histograms, wells = (pd.read_parquet(path) for path in entries.values())
    table = plate_statistics(histograms, wells, "plate", "all")
    return with_cell_type(table[["experiment", "plate", "channel", "mean", "std"]])


def with_cell_type(table: pd.DataFrame) -> pd.DataFrame:
    """The cell type stands in the name of the experiment, as in RxRx1."""
    return table.assign(cell_type=table["experiment"].str.rsplit("-", n=1).str[0])


def components(values: pd.DataFrame) -> dict[str, np.ndarray]:
    """Standard deviation between plates, experiments and cell types, each without what the level below adds; (C,) each.

    Args:
        values: One row per plate and one column per channel, with cell type, experiment and plate as index.
    """
    of_experiment = values.groupby(level=["cell_type", "experiment"])
    plates = of_experiment.size().mean()
    plate = of_experiment.var().mean()
    experiment_means = of_experiment.mean()
    of_cell_type = experiment_means.groupby(level="cell_type")
    experiment = of_cell_type.var().mean() - plate / plates
    cell_type_means = of_cell_type.mean()
    cell_type = cell_type_means.var() - of_cell_type.var().mean() / of_cell_type.size().mean()
    return {
        name: np.sqrt(variance.clip(lower=0)).to_numpy()
        for name, variance in (("plate", plate), ("experiment", experiment), ("cell_type", cell_type))
    }


def correlation(residuals: pd.DataFrame) -> float:
    """Mean correlation of two channels."""
    matrix = residuals.corr().to_numpy()
    return float(matrix[np.triu_indices(len(matrix), 1)].mean())


def describe(name: str, table: pd.DataFrame) -> list[str]:
    """One line per level."""
    wide = {
        column: np.log(table.pivot_table(index=KEY, columns="channel", values=column)) for column in ("mean", "std")
    }
    wide["ratio"] = wide["std"] - wide["mean"]
    spread = {column: components(values) for column, values in wide.items()}
    log_mean = wide["mean"]
    of_experiment = log_mean.groupby(level=["cell_type", "experiment"]).mean()
    correlations = {
        "plate": correlation(log_mean - log_mean.groupby(level=["cell_type", "experiment"]).transform("mean")),
        "experiment": correlation(of_experiment - of_experiment.groupby(level="cell_type").transform("mean")),
    }
    return [
        f"| {name} | {level} | {' | '.join(f'{spread[column][level].mean():.2f}' for column in wide)} | "
        f"{f'{correlations[level]:.2f}' if level in correlations else ''} |"
        for level in ("cell_type", "experiment", "plate")
    ]


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path)
    parser.add_argument("data", type=Path, nargs="+")
    args = parser.parse_args()
    print("| | level | mean | std | std / mean | correlation of channels |\n|---|---|---|---|---|---|")
    real = pd.read_csv(args.tables / "plate_pixel_stats.csv", dtype={"plate": str, "channel": str})
    print("\n".join(describe("RxRx1", with_cell_type(real))))
    for data in args.data:
        table = simulated(data)
        print("\n".join(describe(f"simulated, {data.parent.name}", table)))
        print(f"mean grey level: {table['mean'].mean():.1f}")
    print(f"mean grey level of RxRx1: {real['mean'].mean():.1f}")


if __name__ == "__main__":
    main()
