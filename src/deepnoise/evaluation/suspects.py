"""Wells whose image contradicts the plate map: swapped or mislabelled wells, turned or mirrored plates, empty wells.

Evidence is the log-likelihood ratio of another plate map against the given one, in nats. The likelihood of a label comes from
how alike a well is to the wells of each perturbation in other experiments, calibrated on the labels themselves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import expit, log_softmax

from deepnoise.evaluation.profiles import GROUP, Profiles, centred, unit_length
from deepnoise.normalization.statistics import MAD_TO_STD
from deepnoise.tables import SCHEMAS, SCORE, class_names, matrix
from deepnoise.wells import parse_well, row_name

FALSE_ALARMS = 0.05
"""Wanted chance of a single false alarm on a plate, for each kind of fault."""
FITTED = 4000  # wells at most that the likelihood is fitted to
KEPT = 50  # wells listed beside the flagged ones
EMPTY_SPREADS = 6.0  # robust standard deviations below the plate's median, in log(1 + objects)
LEAST_OBJECTS = 2  # a site, in a channel that tells an empty well
EMPTY_SHARE = 0.3  # and at most this share of the plate's median


def _turned(place: np.ndarray) -> dict[str, np.ndarray]:
    """Where each well would stand if its plate had been turned or mirrored, within the used rows and columns."""
    low, high = place.min(axis=0), place.max(axis=0)
    flipped = low + high - place
    return {
        "plate turned by 180 degrees": flipped,
        "plate mirrored left to right": np.stack([place[:, 0], flipped[:, 1]], axis=1),
        "plate mirrored top to bottom": np.stack([flipped[:, 0], place[:, 1]], axis=1),
    }


def similarity_to_perturbations(profiles: Profiles) -> tuple[np.ndarray, np.ndarray]:
    """Cosine of each well, its plate's mean taken out, with the mean of every perturbation in the other experiments.

    Args:
        profiles: Labelled wells of one fold and cell type.

    Returns:
        (W, K) cosines, nan where a perturbation stands in no other experiment, and the K names.
    """
    rows = profiles.rows
    plate = rows.groupby(["experiment", "plate"]).ngroup().to_numpy()
    values = unit_length(centred(profiles.values.astype(np.float64), plate))
    names, label = np.unique(rows["perturbation"].to_numpy(str), return_inverse=True)
    cosines = np.full((len(rows), len(names)), np.nan)
    for experiment in rows["experiment"].unique():
        here = (rows["experiment"] == experiment).to_numpy()
        member = np.zeros((len(names), (~here).sum()))
        member[label[~here], np.arange((~here).sum())] = 1
        means = member @ values[~here]
        length = np.linalg.norm(means, axis=1, keepdims=True)
        cosines[here] = values[here] @ np.where(length > 1e-12, means / np.maximum(length, 1e-12), np.nan).T
    return cosines, names


def calibrated(evidence: list[np.ndarray], label: np.ndarray) -> np.ndarray:
    """Log probabilities from scores, by the weights and the share of outliers that make the labels most likely.

    p = (1 - e) softmax(sum of w_n * scores_n) + e / K: the outliers bound what one image can say, since some wells look like no other
    of their perturbation and many a wrong label is certain to a network. A few wrong labels hardly move the fit; many make every
    likelihood flat, and nothing is flagged.

    Args:
        evidence: One or more (W, K) scores, each of any scale; nan where a perturbation is not scored.
        label: (W,) columns.

    Returns:
        (W, K); -inf where any score is nan.
    """
    together = np.stack(evidence)
    scored = np.isfinite(together).all(axis=0)
    spread = np.array([e[np.isfinite(e)].std() if np.isfinite(e).any() else 1.0 for e in together])
    spread[spread == 0] = 1.0
    known = np.where(scored, together / spread[:, None, None], 0.0)
    usable = np.flatnonzero(scored[np.arange(len(label)), label])
    usable = usable[:: max(1, len(usable) // FITTED)]

    def log_p(parameters: np.ndarray, rows: np.ndarray) -> np.ndarray:
        outliers = np.clip(expit(parameters[-1]), 1e-6, 1 - 1e-6)
        sharp = np.where(scored[rows], np.tensordot(np.exp(parameters[:-1]), known[:, rows], axes=1), -np.inf)
        classes = scored[rows].sum(axis=1, keepdims=True)
        mixed = np.logaddexp(np.log1p(-outliers) + log_softmax(sharp, axis=1), np.log(outliers) - np.log(classes))
        return np.where(scored[rows], mixed, -np.inf)

    if not len(usable):
        return np.full(scored.shape, -np.inf)

    def loss(parameters: np.ndarray) -> float:
        return -float(log_p(parameters, usable)[np.arange(len(usable)), label[usable]].mean())

    start = np.append(np.zeros(len(evidence)), -2.0)
    best = minimize(loss, start, method="Nelder-Mead", options={"maxiter": 300, "xatol": 0.01, "fatol": 1e-5}).x
    there = scored.any(axis=1)
    result = np.full(scored.shape, -np.inf)
    result[there] = log_p(best, np.flatnonzero(there))
    return result


def _against_own(log_p: np.ndarray, label: np.ndarray) -> np.ndarray:
    """(W, W) log-likelihood ratio of well i carrying the label of well j against its own; nan where one is not scored."""
    own = log_p[np.arange(len(label)), label]
    with np.errstate(invalid="ignore"):
        ratio = log_p[:, label] - own[:, None]
    return np.where(np.isfinite(ratio), ratio, np.nan)


def _swap_gains(likelihoods: list[np.ndarray], label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihood ratios of the wells of one experiment.

    Args:
        likelihoods: (W, K) log probabilities; of two, the first wins where it says something of both labels.
        label: (W,) columns.

    Returns:
        (W, W) ratio of well i carrying the label of well j, nan where none is known, and (W, W) what swapping both gains, -inf
        between wells of one label.
    """
    cross = np.full((len(label), len(label)), np.nan)
    for log_p in likelihoods:
        ratio = _against_own(log_p, label)
        both = np.isnan(cross) & np.isfinite(ratio) & np.isfinite(ratio.T)
        cross[both] = ratio[both]
    gain = np.where(label[:, None] == label[None], -np.inf, np.nan_to_num(cross + cross.T, nan=-np.inf))
    return cross, gain


def _swap_threshold(null: np.ndarray, pairs: float) -> float:
    """Gain from which on a swap is believed, for a plate of so many pairs.

    Wells of different plates are not swapped by hand or robot, so what swapping them would gain is the null; beneath it lies
    the bound of a calibrated likelihood, log(pairs / FALSE_ALARMS).
    """
    theory = float(np.log(pairs / FALSE_ALARMS))
    if not len(null):
        return theory
    return max(theory, float(np.quantile(null, 1 - min(1.0, FALSE_ALARMS / pairs), method="higher")))


def _plate_suspects(
    rows: pd.DataFrame,
    likelihoods: list[np.ndarray],
    label: np.ndarray,
    names: np.ndarray,
    cross: np.ndarray,
    gain: np.ndarray,
    threshold: float,
) -> list[dict[str, Any]]:
    """Faults of one plate: its wells, their (W, K) log probabilities, labels and (W, W) ratios and gains."""
    found: list[dict[str, Any]] = []
    wells = rows["well"].to_numpy(str)
    for first, j in enumerate(gain.argmax(axis=1).tolist()):
        if gain[first, j] > 0:
            found.append(
                {
                    "row": rows.index[first], "kind": "swapped", "partner": wells[j], "evidence": float(gain[first, j]), "needed": threshold,
                    "detail": f"its image looks like {names[label[j]]}, that of {wells[j]} like {names[label[first]]}",
                }
            )  # fmt: skip
    judged = np.zeros(len(rows), bool)
    for log_p in likelihoods:
        own = log_p[np.arange(len(rows)), label]
        for i in np.flatnonzero(np.isfinite(own) & ~judged):
            k = int(log_p[i].argmax())
            judged[i] = True
            if k != label[i]:
                found.append(
                    {
                        "row": rows.index[i], "kind": "mislabelled", "partner": "", "evidence": float(log_p[i, k] - own[i]),
                        "needed": float(np.log(len(rows) * np.isfinite(log_p[i]).sum() / FALSE_ALARMS)),
                        "detail": f"its image looks like {names[k]}, the plate map says {names[label[i]]}",
                    }
                )  # fmt: skip
    place = np.array([parse_well(well) for well in wells])
    at = {tuple(p): i for i, p in enumerate(place)}
    for name, moved in _turned(place).items():
        other = np.array([at.get(tuple(p), -1) for p in moved])
        there = (other >= 0) & np.isfinite(cross[np.arange(len(rows)), other])
        ratio = float(cross[np.arange(len(rows)), other][there].sum())
        if ratio > 0 and there.sum() >= len(rows) / 4:
            found.append(
                {
                    "row": rows.index[0], "kind": name, "partner": "", "evidence": ratio,
                    "needed": float(np.log(3 / FALSE_ALARMS)), "detail": f"{int(there.sum())} wells fit the plate map better so",
                }
            )  # fmt: skip
    return found


def empty_wells(site_features: pd.DataFrame) -> pd.DataFrame:
    """Wells with far fewer objects than their plate, in the channel where objects vary least between the wells of a plate.

    Args:
        site_features: The table ``site_features``.

    Returns:
        id_code, experiment, plate, well, evidence (robust standard deviations below the median), detail.
    """
    key = ["id_code", "experiment", "plate", "well"]
    columns = [*key, "evidence", "detail"]
    if site_features.empty:
        return pd.DataFrame({c: [] for c in columns})
    objects = site_features.groupby([*key, "channel"])["objects"].mean().unstack()
    logs = np.log1p(objects)
    by_plate = logs.groupby(level=["experiment", "plate"])
    middle = by_plate.transform("median")
    spread = MAD_TO_STD * (logs - middle).abs().groupby(level=["experiment", "plate"]).transform("median")
    usable = (middle.mean() > np.log1p(LEAST_OBJECTS)) & (spread.mean() > 0)
    if not usable.any():
        return pd.DataFrame({c: [] for c in columns})
    channel = (spread.mean() / middle.mean())[usable].idxmin()
    below = (middle[channel] - logs[channel]) / spread[channel].clip(lower=0.05)
    empty = (below > EMPTY_SPREADS) & (objects[channel] <= EMPTY_SHARE * np.expm1(middle[channel]))
    found = below[empty].rename("evidence").reset_index()
    number = [f"{n:.1f} objects a site in {channel}, median of the plate {np.expm1(m):.1f}"
              for n, m in zip(objects.loc[empty, channel], middle.loc[empty, channel], strict=True)]  # fmt: skip
    return found.assign(detail=number)[columns]


def find_suspects(profiles: Profiles, scores: pd.DataFrame, site_features: pd.DataFrame, tier: str) -> pd.DataFrame:
    """Rank the wells whose image contradicts the plate map.

    Only plates that the model was not trained on are judged by their labels; a trained network has learned a wrong label too.

    Args:
        profiles: All wells with their labels.
        scores: Pooled wide scores of the same model, or no rows: what they say of treated wells joins the similarity_to_perturbations of embeddings.
        site_features: The table ``site_features``, for empty wells; or no rows.
        tier: Tier of the embeddings.

    Returns:
        The table ``suspect_wells``: what is flagged, and up to KEPT further wells a person may look at, surest first.
    """
    judged = profiles.take((~profiles.rows["plate_seen"] & profiles.rows["perturbation"].notna()).to_numpy(bool))
    groups = judged.rows.groupby(GROUP, sort=True).indices.values() if len(judged.rows) else []
    found = [fault for members in groups for fault in _judge_group(judged.take(members), scores)]
    table = pd.DataFrame(
        found, columns=["id_code", "experiment", "plate", "well", "kind", "partner", "evidence", "needed", "detail"]
    )
    table = pd.concat(
        [table, empty_wells(site_features).assign(kind="empty", partner="", needed=EMPTY_SPREADS)], ignore_index=True
    )
    table = table.assign(flagged=table["evidence"] > table["needed"], tier=tier)
    table = table.assign(excess=table["evidence"] - table["needed"]).sort_values(
        "excess", ascending=False, kind="stable"
    )
    # the surest explanation of a well alone; what a turned plate explains is not told well by well
    whole = table["kind"].str.startswith("plate")
    turned = pd.MultiIndex.from_frame(table.loc[whole & table["flagged"], ["experiment", "plate"]])
    explained = pd.MultiIndex.from_frame(table[["experiment", "plate"]]).isin(turned) & table["kind"].isin(
        ["swapped", "mislabelled"]
    )
    table = table[~explained & (whole | ~table.where(~whole).duplicated("id_code"))]
    table = table[table["flagged"] | ((~table["flagged"]).cumsum() <= KEPT)]
    table = table.assign(rank=np.arange(1, len(table) + 1))
    if table.empty:
        return SCHEMAS["suspect_wells"].empty()
    return table[list(SCHEMAS["suspect_wells"].columns)].reset_index(drop=True)


def _judge_group(group: Profiles, scores: pd.DataFrame) -> list[dict[str, Any]]:
    """Faults of the plate maps of one fold and cell type."""
    cosines, names = similarity_to_perturbations(group)
    label = np.searchsorted(names, group.rows["perturbation"].to_numpy(str))
    likelihoods = [calibrated([cosines], label)]
    if len(scores):
        likelihoods.insert(0, calibrated([cosines, _scores_of(group.rows, names, scores)], label))
    plate = group.rows["plate"].to_numpy(str)
    experiments, null = [], []
    for own in group.rows.groupby("experiment", sort=True).indices.values():
        cross, gain = _swap_gains([log_p[own] for log_p in likelihoods], label[own])
        apart = (plate[own][:, None] != plate[own][None]) & np.isfinite(gain)
        null.append(gain[np.triu(apart)])
        experiments.append((own, cross, gain))
    pooled = np.concatenate(null)
    found = []
    for own, cross, gain in experiments:
        for name in np.unique(plate[own]):
            on = np.flatnonzero(plate[own] == name)
            wells, both = own[on], np.ix_(on, on)
            threshold = _swap_threshold(pooled, max(1.0, len(on) * (len(on) - 1) / 2))
            rows = group.rows.iloc[wells]
            own_p = [log_p[wells] for log_p in likelihoods]
            for fault in _plate_suspects(rows, own_p, label[wells], names, cross[both], gain[both], threshold):
                where = group.rows.loc[fault.pop("row")]
                found.append({c: where[c] for c in ("id_code", "experiment", "plate", "well")} | fault)
    return found


def _scores_of(rows: pd.DataFrame, names: np.ndarray, scores: pd.DataFrame) -> np.ndarray:
    """(W, K) scores of a model, less the mean of each well; nan where it has none."""
    columns = class_names(scores)
    wide = pd.DataFrame(matrix(scores, SCORE), index=scores["id_code"], columns=columns)
    values = wide.reindex(index=rows["id_code"], columns=names).to_numpy(np.float64)
    return values - wide.mean(axis=1).reindex(rows["id_code"]).to_numpy()[:, None]


def turned_wells(wells: pd.Series) -> pd.Series:
    """The same wells with the plate turned by 180 degrees within its used rows and columns; for planting a fault in tests."""
    place = np.array([parse_well(well) for well in wells])
    moved = _turned(place)["plate turned by 180 degrees"]
    return pd.Series([f"{row_name(int(r))}{int(c) + 1:02d}" for r, c in moved], index=wells.index)
