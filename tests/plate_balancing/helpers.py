"""A small screen with plate groups, as scores."""

import numpy as np
import pandas as pd

from deepnoise.parameters import PlateBalancingParameters
from deepnoise.tables import SCORE

PARAMETERS = PlateBalancingParameters(
    pooling="logits", temperature="auto", unlisted=2.0, group_inference="infer", group_statistic="auto", group_posterior=0.95,
    method="auto", compare=[], precision=0.95,
)  # fmt: skip


def screen_scores(signal, rng, plates=4, size=6, experiments=2):
    """Scores of a screen with plate groups: (pooled table, layout, id_code -> true perturbation)."""
    classes = plates * size
    rows, truth, values = [], {}, []
    for e in range(experiments):
        groups = rng.permutation(plates)
        for p in range(plates):
            members = groups[p] * size + rng.permutation(size)
            for w, c in enumerate(members):
                code = f"E{e}_{p}_A{w + 1:02d}"
                rows.append((code, f"E{e}", str(p), f"A{w + 1:02d}", "heldout", "T1"))
                truth[code] = str(c)
                score = rng.normal(0, 1, classes)
                score[c] += signal
                values.append(score)
    table = pd.DataFrame(rows, columns=["id_code", "experiment", "plate", "well", "role", "tier"])
    names = [f"{SCORE}{c}" for c in range(classes)]
    table = pd.concat([table, pd.DataFrame(np.array(values), columns=names)], axis=1)
    layout = pd.DataFrame(
        {"perturbation": [str(c) for c in range(classes)], "group": np.arange(classes) // size, "per_plate": 1}
    )
    return table, layout, truth
