"""Speed as a ratio against a plainly written reference, both timed in turn in this one run: python benchmarks/run.py

Each pair must agree in its result before it is timed. The figures go into docs/results.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from scipy.special import logsumexp

from deepnoise.normalization.statistics import measure_sites
from deepnoise.plate_balancing.balancing import sinkhorn
from deepnoise.simulation.cells import TRAITS, render_cells
from deepnoise.simulation.noise import NoiseLevels, draw_conditions, expose
from deepnoise.simulation.screen import BLOCK

ROUNDS = 5


def compare(name: str, ours: Callable, reference: Callable, unit: str, count: int) -> None:
    """Print the median time of both, and the ratio pair by pair."""
    times = []
    for _ in range(ROUNDS):
        pair = []
        for function in (ours, reference):
            start = time.perf_counter()
            function()
            pair.append(time.perf_counter() - start)
        times.append(pair)
    mine, plain = np.array(times).T
    ratio = plain / mine
    print(
        f"{name}: {count / np.median(mine):.3g} {unit}/s, reference {count / np.median(plain):.3g} {unit}/s, "
        f"{np.median(ratio):.1f} times as fast ({ratio.min():.1f} to {ratio.max():.1f})"
    )


def simulation() -> None:
    """Six-channel tiles of 64 px on one core, in blocks that fit the cache, against a whole plate at once."""
    tiles = 192
    rng = np.random.default_rng(0)
    traits, density, place = rng.normal(0, 1, (tiles, len(TRAITS))), np.ones(tiles), np.zeros((tiles, 2))
    _, optics = draw_conditions(NoiseLevels(), 1, 64, 6, rng)[0]

    def photograph(block: int) -> list[np.ndarray]:
        parts = np.array_split(np.arange(tiles), tiles // block)
        return [expose(render_cells(traits[p], density[p], 64, rng), optics, place[p], rng) for p in parts]

    compare("simulated tiles", lambda: photograph(BLOCK), lambda: photograph(tiles), "tiles", tiles)


def balancing() -> None:
    """Sinkhorn on a plate of 277 wells and classes, against every round in logs."""
    scores = np.random.default_rng(0).normal(0, 3, (277, 277))
    log_p = scores - logsumexp(scores, axis=1, keepdims=True)

    def in_logs() -> np.ndarray:
        u = np.zeros(277)
        for _ in range(500):
            v = -logsumexp(log_p + u[:, None], axis=0)
            u = -logsumexp(log_p + v[None], axis=1)
        return log_p + u[:, None] + v[None]

    np.testing.assert_allclose(sinkhorn(log_p, 500, 0.0), in_logs(), atol=1e-6)
    compare("Sinkhorn, 500 rounds", lambda: sinkhorn(log_p, 500, 0.0), in_logs, "plates", 1)


def statistics() -> None:
    """Exact sums and intensity features of 512 px pictures, against numpy in float64."""
    pictures = np.random.default_rng(0).integers(0, 256, (8, 6, 512, 512)).astype(np.uint8)

    def plain() -> dict[str, np.ndarray]:
        x = pictures.astype(np.float64)
        q = np.quantile(x, [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99], axis=(2, 3), method="nearest")
        first = [np.diff(x, axis=axis) for axis in (2, 3)]
        second = [np.diff(d, axis=axis) for d, axis in zip(first, (2, 3), strict=True)]
        mean = [sum(np.abs(d).mean(axis=(2, 3)) for d in part) / 2 for part in (first, second)]
        return {
            "mean": x.mean(axis=(2, 3)),
            "std": x.std(axis=(2, 3)),
            "p50": q[3],
            "gradient": mean[0],
            "laplace": mean[1],
        }

    mine, reference = measure_sites(pictures), plain()
    for name, values in reference.items():
        np.testing.assert_allclose(mine[name], values, rtol=1e-9)
    compare("site measurements", lambda: measure_sites(pictures), plain, "six-channel sites", len(pictures))


if __name__ == "__main__":
    simulation()
    balancing()
    statistics()
