"""The worked example of docs/plate_balancing.md: its scores, the result of each step, and the figure six_wells.png.

Run it from the project's folder: ``.venv/bin/python docs/images/draw_six_wells.py``. tests/test_docs.py recomputes the page's numbers with it.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from deepnoise.plate_balancing.methods import METHODS

WELLS = ["B02", "B03", "B04", "B05", "B06", "B07"]
PERTURBATIONS = ["A", "B", "C", "D", "E", "F", "G", "H"]
ON_PLATE = 6  # A to F are on this plate, each in one well; G and H are on another plate of the experiment
PROBABILITIES = np.array(
    [
        [0.62, 0.06, 0.06, 0.05, 0.05, 0.06, 0.05, 0.05],
        [0.44, 0.36, 0.04, 0.04, 0.03, 0.03, 0.03, 0.03],
        [0.05, 0.05, 0.55, 0.10, 0.05, 0.10, 0.05, 0.05],
        [0.04, 0.08, 0.06, 0.58, 0.06, 0.06, 0.06, 0.06],
        [0.04, 0.05, 0.05, 0.06, 0.33, 0.05, 0.38, 0.04],
        [0.06, 0.10, 0.12, 0.06, 0.10, 0.40, 0.08, 0.08],
    ]
)
"""(6, 8) a model's probabilities for each well: the softmax of its scores."""


def worked_example() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Step -> (6, 8) probabilities and (6,) calls, for ``plain``, ``group_filter`` and ``matching``.

    The group filter keeps the perturbations that are on the plate and rescales each row to 1; ``none`` and
    ``matching`` are the project's own methods.
    """
    log_p = np.log(PROBABILITIES)
    once = np.ones(ON_PLATE, int)  # capacities: each perturbation in one well
    filtered = PROBABILITIES[:, :ON_PLATE] / PROBABILITIES[:, :ON_PLATE].sum(axis=1, keepdims=True)
    steps = {"plain": METHODS["none"](log_p, np.ones(len(PERTURBATIONS), int))}
    for step, method in (("group_filter", "none"), ("matching", "matching")):
        steps[step] = METHODS[method](np.log(filtered), once)
    absent = len(PERTURBATIONS) - ON_PLATE
    return {
        step: (np.pad(np.exp(log_q), ((0, 0), (0, absent if step != "plain" else 0))), calls)
        for step, (log_q, calls) in steps.items()
    }


def draw(path: Path) -> None:
    """Two heat maps, before and after: the probabilities of each well, with the calls outlined (red where they cannot all be right)."""
    steps = worked_example()
    figure, panels = plt.subplots(1, 2, figsize=(9.2, 3.9), layout="constrained", sharey=True)
    titles = {"plain": "Before: the model's probabilities", "matching": "After: group filter and matching"}
    for panel, (step, title) in zip(panels, titles.items(), strict=True):
        probability, calls = steps[step]
        panel.imshow(probability, cmap="Blues", vmin=0, vmax=1)
        for (well, column), p in np.ndenumerate(probability):
            colour = "white" if p > 0.55 else "0.25"
            panel.text(column, well, f"{p:.2f}", ha="center", va="center", fontsize=9, color=colour)
        for well, column in enumerate(calls):
            repeated = (calls == column).sum() > 1 or column >= ON_PLATE
            edge = "tab:red" if repeated else "tab:green"
            panel.add_patch(plt.Rectangle((column - 0.46, well - 0.46), 0.92, 0.92, fill=False, ec=edge, lw=2.2))
        panel.axvline(ON_PLATE - 0.5, color="0.3", lw=1, ls="--")
        panel.set_xticks(range(len(PERTURBATIONS)), PERTURBATIONS)
        panel.set_yticks(range(len(WELLS)), WELLS)
        panel.set_title(title, fontsize=11)
        panel.set_xlabel("perturbation (G and H are not on this plate)")
        panel.tick_params(length=0)
    panels[0].set_ylabel("well")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    draw(Path(__file__).with_name("six_wells.png"))
    for step, (probability, calls) in worked_example().items():
        called = zip(WELLS, calls, probability, strict=True)
        print(f"{step:13}", *(f"{well} {PERTURBATIONS[call]} {p[call]:.2f} " for well, call, p in called))
