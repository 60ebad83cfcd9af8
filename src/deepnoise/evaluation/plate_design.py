"""Does a score owe anything to the plate design? Three controls; the second and third need no re-dealt plates.

- Re-dealt: held-out plates photographed again with their treatments dealt anew over the plates. What is lost there was
  knowledge of the plate's contents.
- Plate group: a model that knows which perturbations stand on a plate mistakes them for one another. The share of wrong calls
  inside the plate's own contents is compared with chance.
- Redrawn statistics: do the calls of a plate stand together in training more often under its own BatchNorm statistics than
  under those of a random part of the experiment? It needs no labels of the plates that are asked about.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from deepnoise.evaluation.intervals import summarize
from deepnoise.evaluation.score_types import Excess, Gain, GroupShare, RedealtScore, RedrawnCalls
from deepnoise.tiers import LARGEST_LOSS, loses_nothing


def redealt_score(name: str, designed: pd.DataFrame, redealt: pd.DataFrame) -> RedealtScore | None:
    """Top-1 as designed and dealt anew, paired by experiment and perturbation.

    Args:
        name: Whose calls they are.
        designed: ``experiment``, ``perturbation`` (the true one) and ``right`` of each held-out row.
        redealt: The same of the re-dealt rows.

    Returns:
        None if the two have no perturbation of an experiment in common.
    """
    key = ["experiment", "perturbation"]
    pairs = [table.groupby(key)["right"].mean() for table in (designed, redealt)]
    both = pd.concat(pairs, axis=1, keys=["designed", "redealt"], join="inner").reset_index()
    if both.empty:
        return None
    summary = summarize((both["redealt"] - both["designed"]).to_numpy(float), both["experiment"].to_numpy(str))
    gain: Gain = {
        "gain": summary["mean"],
        "gain_interval": summary["interval"],
        "gain_sign_flip_p": summary["sign_flip_p"],
    }
    return {
        "of": name,
        "designed": float(both["designed"].mean()),
        "redealt": float(both["redealt"].mean()),
        "n": len(both),
        "experiments": summary["experiments"],
        **gain,
        "loses_nothing": loses_nothing(gain),
    }


def group_share(calls: pd.DataFrame, classes: int) -> GroupShare | None:
    """Share of the wrong calls that name another perturbation of the same plate, against chance.

    Chance is that of a wrong call which names each other perturbation equally often: (contents - 1) / (classes - 1).

    Args:
        calls: One row per well: experiment, plate, perturbation (the true one) and call.
        classes: Number of perturbations that can be called.

    Returns:
        None without a wrong call on a plate that holds a part of the perturbations.
    """
    contents = calls.groupby(["experiment", "plate"])["perturbation"].agg(frozenset).rename("contents")
    rows = calls.merge(contents.reset_index(), on=["experiment", "plate"])
    size = rows["contents"].map(len)
    rows = rows[(rows["call"] != rows["perturbation"]) & (size < classes)]
    if rows.empty or classes < 2:
        return None
    inside = np.array([call in held for call, held in zip(rows["call"], rows["contents"], strict=True)], float)
    chance = (rows["contents"].map(len).to_numpy() - 1) / (classes - 1)
    excess = _excess(inside - chance, rows["experiment"])
    return {"share": float(inside.mean()), "chance": float(chance.mean()), **excess}


def redrawn_calls(table: pd.DataFrame, layout: pd.DataFrame) -> dict[str, RedrawnCalls]:
    """How calls change under the statistics of random parts of the experiment, by role.

    A model that reads the contents of a plate from its statistics calls perturbations of one plate group there, and no longer
    does so under the statistics of a part that is mixed from all plates. Plates that differ technically make a smaller
    difference in the same direction, because a mixed part corrects them less well; so an excess of up to LARGEST_LOSS is
    none.

    Args:
        table: The table ``redrawn_statistics``.
        layout: The table ``plate_layout``.

    Returns:
        Role -> shares of calls and of pairs of calls. No role without plate groups: then no perturbations stand together.
    """
    result: dict[str, RedrawnCalls] = {}
    if layout["group"].nunique() < 2:
        return result
    group = layout.set_index("perturbation")["group"]
    for role, rows in table.groupby("role"):
        changed = rows["call"] != rows["call_first"]
        own, first, second = (_together(rows, rows[name].map(group)) for name in ("call", "call_first", "call_second"))
        redrawn = (first + second) / 2
        result[str(role)] = {
            "changed": float(changed.mean()),
            "together": float(own.mean()),
            "redrawn": float(redrawn.mean()),
            **_excess(own - redrawn, rows["experiment"], LARGEST_LOSS),
        }
    return result


def _together(rows: pd.DataFrame, group: pd.Series) -> np.ndarray:
    """(W,) share of the other calls on a well's plate that are of the same plate group."""
    plate = [rows["fold"], rows["experiment"], rows["plate"]]
    same = group.groupby([*plate, group]).transform("size") - 1
    others = group.groupby(plate).transform("size") - 1
    return (same / others.clip(lower=1)).to_numpy(float)


def _excess(difference: np.ndarray, experiment: pd.Series, tolerated: float = 0.0) -> Excess:
    """The mean of a difference from chance, and whether it is above what is tolerated.

    With six experiments it is if its interval is. With two to five no p over experiments can be small: then each of them
    must be above 0, and the mean over wells by more than 1.645 standard errors (one-sided 5 %) above what is tolerated,
    as if wells were independent.

    Args:
        difference: (W,) share less chance of each well.
        experiment: (W,) names.
        tolerated: Excess that counts as none.
    """
    summary = summarize(difference, experiment.to_numpy(str))
    if summary["interval"] is not None:
        above = summary["interval"][0] > tolerated
    else:
        all_above = summary["experiments"] > 1 and summary["sign_flip_p"] <= 0.5 ** summary["experiments"]
        error = difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else np.inf
        above = all_above and summary["mean"] > tolerated + 1.645 * error
    return {
        "excess": summary["mean"],
        "excess_interval": summary["interval"],
        "excess_sign_flip_p": summary["sign_flip_p"],
        "n": summary["n"],
        "experiments": summary["experiments"],
        "above_chance": bool(above),
    }
