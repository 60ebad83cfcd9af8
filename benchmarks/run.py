"""Speed relative to a plainly written reference, timed in alternation: python benchmarks/run.py

Both must give the same result before they are timed. The figures go into docs/results.md.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.special import logsumexp

from deepnoise.datasets.files import SiteFiles
from deepnoise.datasets.folder import Folder
from deepnoise.datasets.image_store import ImageStoreDataset
from deepnoise.ingestion.packing import plan_packing
from deepnoise.normalization.features import measure_sites
from deepnoise.normalization.statistics import histograms, moments, quantiles
from deepnoise.plate_balancing.methods import sinkhorn
from deepnoise.simulation.cells import TRAITS, render_cells
from deepnoise.simulation.noise import NoiseLevels, draw_conditions, expose
from deepnoise.simulation.screen import BLOCK

ROUNDS = 5


def compare(name: str, ours: Callable, reference: Callable, unit: str, count: int) -> None:
    """Print the rates of both by their median times, and the ratio over pairs of runs."""
    times = []
    for _ in range(ROUNDS):
        pair = []
        for function in (ours, reference):
            start = time.perf_counter()
            function()
            pair.append(time.perf_counter() - start)
        times.append(pair)
    our_times, reference_times = np.array(times).T
    ratio = reference_times / our_times
    print(
        f"{name}: {count / np.median(our_times):.3g} {unit}/s, reference {count / np.median(reference_times):.3g} {unit}/s, "
        f"{np.median(ratio):.1f} times as fast ({ratio.min():.1f} to {ratio.max():.1f})"
    )


def simulation() -> None:
    """Time six-channel tiles of 64 px on one core: in blocks that fit the cache, against a whole plate at once."""
    tiles = 192
    rng = np.random.default_rng(0)
    traits, density, offset = rng.normal(0, 1, (tiles, len(TRAITS))), np.ones(tiles), np.zeros((tiles, 2))
    _, optics = draw_conditions(NoiseLevels(), 1, 64, 6, rng)[0]

    def render(block_size: int) -> list[np.ndarray]:
        blocks = np.array_split(np.arange(tiles), tiles // block_size)
        return [
            expose(render_cells(traits[b], density[b], 64, rng), optics, offset[b], offset[b, 0], rng, rng)
            for b in blocks
        ]

    compare("simulated tiles", lambda: render(BLOCK), lambda: render(tiles), "tiles", tiles)


def balancing() -> None:
    """Time Sinkhorn on a plate of 277 wells and classes, against computing every round in logs."""
    scores = np.random.default_rng(0).normal(0, 3, (277, 277))
    log_p = scores - logsumexp(scores, axis=1, keepdims=True)

    def in_logs() -> np.ndarray:
        u = np.zeros(277)
        for _ in range(500):
            v = -logsumexp(log_p + u[:, None], axis=0)
            u = -logsumexp(log_p + v[None], axis=1)
        return log_p + u[:, None] + v[None]

    once = np.ones(log_p.shape[1], int)
    logging.getLogger("deepnoise").setLevel(logging.ERROR)  # tolerance 0 runs every round and warns each time
    np.testing.assert_allclose(sinkhorn(log_p, once, 500, 0.0), in_logs(), atol=1e-6)
    compare("Sinkhorn, 500 rounds", lambda: sinkhorn(log_p, once, 500, 0.0), in_logs, "plates", 1)


def statistics() -> None:
    """Time a plate's mean, std and percentiles from exact histograms, against numpy over the plate in float64."""
    images = real_or_simulated(16)
    shares = np.array([0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99])

    def ours() -> tuple[np.ndarray, ...]:
        counts = histograms(images).sum(axis=0)
        return (*moments(counts), quantiles(counts, shares))

    def plain() -> tuple[np.ndarray, ...]:
        x = images.astype(np.float64)
        return x.mean(axis=(0, 2, 3)), x.std(axis=(0, 2, 3)), np.quantile(x, shares, axis=(0, 2, 3), method="nearest").T

    for our_value, reference in zip(ours(), plain(), strict=True):
        np.testing.assert_allclose(our_value, reference, rtol=1e-9)
    compare("plate statistics", ours, plain, "six-channel sites", len(images))


def measurements() -> None:
    """Time all measurements of a site (intensity, texture, focus and objects), without a reference."""
    images = real_or_simulated(16)
    start = time.perf_counter()
    measure_sites(images, histograms(images))
    print(f"all measurements: {len(images) / (time.perf_counter() - start):.3g} six-channel sites/s")


def packing() -> None:
    """Time reading six-channel sites of 512 px in random order from the image store, against decoding their PNG files.

    Both use a warm page cache and one core. Then time packing with one and two threads, against decoding
    alone.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        images = real_or_simulated(16)
        sites = pd.DataFrame(
            {"id_code": [f"E_1_{i}" for i in range(16)], "experiment": "E", "plate": "1", "well": "B02"}
        )
        sites["site"] = range(1, 17)
        sites["files"] = [tuple(f"{i}_w{c}.png" for c in range(6)) for i in range(16)]
        for files, site in zip(sites["files"], images, strict=True):
            for name, plane in zip(files, site, strict=True):
                Image.fromarray(plane).save(root / name)
        raw = SiteFiles(Folder(root), list("abcdef"), sites)
        dataset = ImageStoreDataset(root=str(root / "store"))
        dataset.save(plan_packing(sites, raw, checksum=False))
        store = dataset.load()
        order = np.random.default_rng(0).permutation(16)

        def ours() -> list[np.ndarray]:
            return [store.read("E", "1", np.array([row]))[0] for row in order]

        def plain() -> list[np.ndarray]:
            return [
                np.stack([np.asarray(Image.open(root / name)) for name in sites["files"].iloc[row]]) for row in order
            ]

        np.testing.assert_array_equal(ours(), plain())
        compare("packed read, random sites", ours, plain, "six-channel sites", 16)
        for workers in (1, 2):

            def pack(workers: int = workers) -> None:
                shutil.rmtree(root / "store")
                site_files = SiteFiles(Folder(root), list("abcdef"), sites)
                ImageStoreDataset(root=str(root / "store"), workers=workers).save(
                    plan_packing(sites, site_files, checksum=False)
                )

            compare(f"packing with {workers} threads, reference: decoding alone", pack, plain, "six-channel sites", 16)


def real_or_simulated(count: int) -> np.ndarray:
    """(count, 6, 512, 512) uint8: real RxRx1 sites if they are available, else noise-like simulated cells."""
    shared = (
        Path(os.environ.get("DEEPNOISE_SHARED", Path(__file__).parents[2] / "shared" / "data"))
        / "rxrx1_images"
        / "train"
    )
    folders = sorted(shared.glob("*/Plate*"))
    if folders:
        print(f"  ({count} real RxRx1 sites)")
        return np.stack(
            [
                np.stack([np.asarray(Image.open(folders[i % len(folders)] / f"B02_s1_w{c}.png")) for c in range(1, 7)])
                for i in range(count)
            ]
        )
    print(f"  ({count} simulated sites: no real ones at {shared})")
    rng = np.random.default_rng(0)
    _, optics = draw_conditions(NoiseLevels(), 1, 512, 6, rng)[0]
    cells = render_cells(rng.normal(0, 1, (count, len(TRAITS))), np.full(count, 1.0), 512, rng)
    return expose(cells, optics, np.zeros((count, 2)), np.zeros(count), rng, rng)


if __name__ == "__main__":
    simulation()
    balancing()
    statistics()
    measurements()
    packing()
