"""Faults of the plate map: swapped, mislabelled or empty wells, turned or mirrored plates.

Evidence is the log-likelihood ratio of an alternative plate map against the given one, in nats. The
likelihood of a label comes from the similarity of a well to the wells of each perturbation in other
experiments, calibrated on the labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import expit, log_softmax

from deepnoise.evaluation.profiles import FOLD_AND_CELL_TYPE, Profiles, centred, unit_length
from deepnoise.normalization.statistics import MAD_TO_STD
from deepnoise.tables import SCHEMAS, SCORE, class_names, matrix
from deepnoise.wells import parse_well, row_name

FALSE_ALARMS = 0.5
"""False alarms expected in the whole screen, for each type of fault: one in two screens."""
LEFT_OUT = 0.1
"""Share of the wells of a plate, the most favourable ones, without which a turned plate must still be evident."""
STARTS = tuple(range(-1, 10))  # log weights of the scores from which a likelihood may be fitted
MAX_FIT_WELLS = 4000  # at most so many wells calibrate a likelihood
LISTED_UNFLAGGED = 50  # wells listed after the flagged ones
EMPTY_SPREADS = 6.0  # robust standard deviations below the plate's median, in log(1 + objects)
MIN_OBJECTS = 2  # per site, in a channel that can identify an empty well
EMPTY_SHARE = 0.3  # an empty well has at most this share of the plate's median
WELL_COLUMNS = ["id_code", "experiment", "plate", "well"]


def find_suspects(profiles: Profiles, scores: pd.DataFrame, site_features: pd.DataFrame, tier: str) -> pd.DataFrame:
    """Rank the wells whose image contradicts the plate map.

    Labels are judged only on plates that the model was not trained on: a network learns wrong labels too.

    Args:
        profiles: All wells with their labels.
        scores: Pooled score table of the same model, or no rows; it adds to the evidence from the embeddings.
        site_features: The table ``site_features``, for empty wells; or no rows.
        tier: Tier of the embeddings.

    Returns:
        The table ``suspect_wells``: the flagged wells and up to LISTED_UNFLAGGED more to look at, the most
        certain first.
    """
    judged = profiles.take((~profiles.rows["plate_seen"] & profiles.rows["perturbation"].notna()).to_numpy(bool))
    groups = judged.rows.groupby(FOLD_AND_CELL_TYPE, sort=True).indices.values() if len(judged.rows) else []
    plates = judged.rows.groupby(["fold", "experiment", "plate"]).ngroups
    faults = pd.DataFrame(
        [fault for members in groups for fault in _plate_map_faults(judged.take(members), scores, plates)],
        columns=[*WELL_COLUMNS, "kind", "partner", "evidence", "needed", "detail"],
    )
    empty = empty_wells(site_features).assign(kind="empty", partner="", needed=EMPTY_SPREADS)
    faults = pd.concat([faults, empty], ignore_index=True)
    faults = faults.assign(flagged=faults["evidence"] > faults["needed"], tier=tier)
    faults = _explain_once(_most_certain_first(faults))
    faults = faults[faults["flagged"] | ((~faults["flagged"]).cumsum() <= LISTED_UNFLAGGED)]
    faults = faults.assign(rank=np.arange(1, len(faults) + 1))
    if faults.empty:
        return SCHEMAS["suspect_wells"].empty()
    return faults[list(SCHEMAS["suspect_wells"].columns)].reset_index(drop=True)


def _most_certain_first(faults: pd.DataFrame) -> pd.DataFrame:
    """Sort by how far the evidence exceeds what is needed."""
    return faults.assign(excess=faults["evidence"] - faults["needed"]).sort_values(
        "excess", ascending=False, kind="stable"
    )


def _explain_once(faults: pd.DataFrame) -> pd.DataFrame:
    """Keep the most certain fault of each well; drop well faults that a turned plate explains."""
    of_plate = faults["kind"].str.startswith("plate")
    turned = pd.MultiIndex.from_frame(faults.loc[of_plate & faults["flagged"], ["experiment", "plate"]])
    on_turned = pd.MultiIndex.from_frame(faults[["experiment", "plate"]]).isin(turned)
    explained = on_turned & faults["kind"].isin(["swapped", "mislabelled"])
    return faults[~explained & (of_plate | ~faults.where(~of_plate).duplicated("id_code"))]


def empty_wells(site_features: pd.DataFrame) -> pd.DataFrame:
    """Wells with far fewer objects than the rest of their plate.

    Objects are counted in the channel in which their number varies least between the wells of a plate.

    Args:
        site_features: The table ``site_features``.

    Returns:
        id_code, experiment, plate, well, evidence (robust standard deviations below the median), detail.
    """
    columns = [*WELL_COLUMNS, "evidence", "detail"]
    if site_features.empty:
        return pd.DataFrame({c: [] for c in columns})
    objects = site_features.groupby([*WELL_COLUMNS, "channel"])["objects"].mean().unstack()
    logs = np.log1p(objects)
    median = logs.groupby(level=["experiment", "plate"]).transform("median")
    spread = MAD_TO_STD * (logs - median).abs().groupby(level=["experiment", "plate"]).transform("median")
    usable = (median.mean() > np.log1p(MIN_OBJECTS)) & (spread.mean() > 0)
    if not usable.any():
        return pd.DataFrame({c: [] for c in columns})
    channel = (spread.mean() / median.mean())[usable].idxmin()
    below = (median[channel] - logs[channel]) / spread[channel].clip(lower=0.05)
    empty = (below > EMPTY_SPREADS) & (objects[channel] <= EMPTY_SHARE * np.expm1(median[channel]))
    details = [
        f"{count:.1f} objects per site in {channel}, median of the plate {np.expm1(log_median):.1f}"
        for count, log_median in zip(objects.loc[empty, channel], median.loc[empty, channel], strict=True)
    ]
    return below[empty].rename("evidence").reset_index().assign(detail=details)[columns]


def similarity_to_perturbations(profiles: Profiles) -> tuple[np.ndarray, np.ndarray]:
    """Cosine of each plate-centred well with the mean of every perturbation in the other experiments.

    Args:
        profiles: Labelled wells of one fold and cell type.

    Returns:
        (W, K) cosines, nan where a perturbation is in no other experiment, and the K names.
    """
    rows = profiles.rows
    plate = rows.groupby(["experiment", "plate"]).ngroup().to_numpy()
    values = unit_length(centred(profiles.values.astype(np.float64), plate))
    names, label = np.unique(rows["perturbation"].to_numpy(str), return_inverse=True)
    cosines = np.full((len(rows), len(names)), np.nan)
    for experiment in rows["experiment"].unique():
        inside = (rows["experiment"] == experiment).to_numpy()
        member = np.zeros((len(names), (~inside).sum()))  # (K, wells of the other experiments)
        member[label[~inside], np.arange((~inside).sum())] = 1
        sums = member @ values[~inside]
        length = np.linalg.norm(sums, axis=1, keepdims=True)
        cosines[inside] = values[inside] @ np.where(length > 1e-12, sums / np.maximum(length, 1e-12), np.nan).T
    return cosines, names


def calibrated(evidence: list[np.ndarray], label: np.ndarray) -> np.ndarray:
    """Turn scores into log probabilities that maximize the likelihood of the labels.

    p = (1 - e) softmax(sum of w_n * scores_n) + e / K, with fitted weights w_n and outlier share e. The
    outlier share bounds the evidence of one image: some wells look like no other well of their perturbation,
    and a network can be certain of a wrong label. A few wrong labels hardly change the fit. Many of them
    flatten every likelihood, and nothing is flagged.

    Args:
        evidence: One or more (W, K) scores, each on any scale; nan where a perturbation is not scored.
        label: (W,) columns.

    Returns:
        (W, K); -inf where any score is nan.
    """
    stacked = np.stack(evidence)  # (N, W, K)
    scored = np.isfinite(stacked).all(axis=0)
    spread = np.array([e[np.isfinite(e)].std() if np.isfinite(e).any() else 1.0 for e in stacked])
    spread[spread == 0] = 1.0
    scaled = np.where(scored, stacked / spread[:, None, None], 0.0)
    usable = np.flatnonzero(scored[np.arange(len(label)), label])
    usable = usable[:: max(1, len(usable) // MAX_FIT_WELLS)]

    def log_p(parameters: np.ndarray, rows: np.ndarray) -> np.ndarray:
        outliers = np.clip(expit(parameters[-1]), 1e-6, 1 - 1e-6)
        weighted = np.where(scored[rows], np.tensordot(np.exp(parameters[:-1]), scaled[:, rows], axes=1), -np.inf)
        classes = scored[rows].sum(axis=1, keepdims=True)
        mixture = np.logaddexp(np.log1p(-outliers) + log_softmax(weighted, axis=1), np.log(outliers) - np.log(classes))
        return np.where(scored[rows], mixture, -np.inf)

    if not len(usable):
        return np.full(scored.shape, -np.inf)

    def loss(parameters: np.ndarray) -> float:
        return -float(log_p(parameters, usable)[np.arange(len(usable)), label[usable]].mean())

    # from a weight that is far too small the search ends where there are no outliers and every likelihood is certain
    starts = [np.append(np.full(len(evidence), weight), -2.0) for weight in STARTS]
    best_starts = sorted(starts, key=loss)[:2]
    options = {"maxiter": 300, "xatol": 0.01, "fatol": 1e-5}
    fits = [minimize(loss, start, method="Nelder-Mead", options=options) for start in best_starts]
    best = min(fits, key=lambda fit: fit.fun).x
    has_scores = scored.any(axis=1)
    result = np.full(scored.shape, -np.inf)
    result[has_scores] = log_p(best, np.flatnonzero(has_scores))
    return result


@dataclass(frozen=True)
class _PlateEvidence:
    """Evidence about the W wells of one plate, whose labels are among K perturbations."""

    rows: pd.DataFrame
    names: np.ndarray  # (K,) perturbations
    label: np.ndarray  # (W,) column of each well's label
    likelihoods: list[np.ndarray]  # each (W, K) log probabilities; the first that covers a label is used
    label_ratio: np.ndarray  # (W, W) log-likelihood ratio of well i having well j's label; nan where unknown
    swap_gain: np.ndarray  # (W, W) what swapping the labels of two wells gains
    swap_threshold: float  # gain above which a swap is flagged
    plates: int  # judged plates of the screen


def _plate_map_faults(group: Profiles, scores: pd.DataFrame, plates: int) -> list[dict[str, Any]]:
    """Faults of the plate maps of one fold and cell type, on a screen of so many judged plates."""
    faults = []
    for plate in _evidence_by_plate(group, scores, plates):
        for fault in _swapped_wells(plate) + _mislabelled_wells(plate) + _turned_plate(plate):
            well = group.rows.loc[fault.pop("row")]
            faults.append({column: well[column] for column in WELL_COLUMNS} | fault)
    return faults


def _evidence_by_plate(group: Profiles, scores: pd.DataFrame, plates_of_screen: int) -> list[_PlateEvidence]:
    """Evidence about each plate of one fold and cell type; swap thresholds come from all its experiments."""
    names, label, likelihoods = _label_likelihoods(group, scores)
    plate = group.rows["plate"].to_numpy(str)
    experiments, gains_between_plates, compared = [], [], 0
    for experiment_wells in group.rows.groupby("experiment", sort=True).indices.values():
        ratio, gain = _swap_gains([log_p[experiment_wells] for log_p in likelihoods], label[experiment_wells])
        plates = plate[experiment_wells]
        between_plates = np.triu((plates[:, None] != plates[None]) & np.isfinite(gain))
        compared += int(between_plates.sum())
        gains_between_plates.append(gain[between_plates & _both_ways(ratio)])
        experiments.append((experiment_wells, ratio, gain))
    null = np.sort(np.concatenate(gains_between_plates))
    evidence = []
    for experiment_wells, ratio, gain in experiments:
        for name in np.unique(plate[experiment_wells]):
            on_plate = np.flatnonzero(plate[experiment_wells] == name)
            wells, block = experiment_wells[on_plate], np.ix_(on_plate, on_plate)
            evidence.append(
                _PlateEvidence(
                    rows=group.rows.iloc[wells],
                    names=names,
                    label=label[wells],
                    likelihoods=[log_p[wells] for log_p in likelihoods],
                    label_ratio=ratio[block],
                    swap_gain=gain[block],
                    swap_threshold=_swap_threshold(
                        null, compared, plates_of_screen * max(1.0, len(on_plate) * (len(on_plate) - 1) / 2)
                    ),
                    plates=plates_of_screen,
                )
            )
    return evidence


def _label_likelihoods(group: Profiles, scores: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Perturbations, labels and log probabilities of a group.

    Returns:
        (K,) names, (W,) column of each well's label, and one or two (W, K) log probabilities; those that use
        the model's scores come first.
    """
    cosines, names = similarity_to_perturbations(group)
    label = np.searchsorted(names, group.rows["perturbation"].to_numpy(str))
    likelihoods = [calibrated([cosines], label)]
    if len(scores):
        likelihoods.insert(0, calibrated([cosines, _centred_scores(group.rows, names, scores)], label))
    return names, label, likelihoods


def _centred_scores(rows: pd.DataFrame, names: np.ndarray, scores: pd.DataFrame) -> np.ndarray:
    """(W, K) scores of a model, less the mean of each well; nan where it has none."""
    wide = pd.DataFrame(matrix(scores, SCORE), index=scores["id_code"], columns=class_names(scores))
    values = wide.reindex(index=rows["id_code"], columns=names).to_numpy(np.float64)
    return values - wide.mean(axis=1).reindex(rows["id_code"]).to_numpy()[:, None]


def _swap_gains(likelihoods: list[np.ndarray], label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihood ratios between the wells of one experiment.

    Args:
        likelihoods: Each (W, K) log probabilities; of two, the first is used where it scores both labels.
        label: (W,) columns.

    Returns:
        (W, W) ratio of well i having the label of well j, nan where unknown; and (W, W) gain of swapping the
        labels of both wells, -inf between wells of one label.
    """
    label_ratio = np.full((len(label), len(label)), np.nan)
    for log_p in likelihoods:
        ratio = _label_ratio(log_p, label)
        new = np.isnan(label_ratio) & np.isfinite(ratio) & np.isfinite(ratio.T)
        label_ratio[new] = ratio[new]
    same_label = label[:, None] == label[None]
    gain = np.where(same_label, -np.inf, np.nan_to_num(label_ratio + label_ratio.T, nan=-np.inf))
    return label_ratio, gain


def _both_ways(label_ratio: np.ndarray) -> np.ndarray:
    """(W, W) whether each of two wells looks more like the label of the other than like its own."""
    with np.errstate(invalid="ignore"):
        return (label_ratio > 0) & (label_ratio.T > 0)


def _label_ratio(log_p: np.ndarray, label: np.ndarray) -> np.ndarray:
    """(W, W) log-likelihood ratio of well i having well j's label, not its own, nan where unknown."""
    given = log_p[np.arange(len(label)), label]
    with np.errstate(invalid="ignore"):
        ratio = log_p[:, label] - given[:, None]
    return np.where(np.isfinite(ratio), ratio, np.nan)


def _swap_threshold(null: np.ndarray, compared: int, pairs: float) -> float:
    """Gain above which a swap is flagged, on a screen with so many pairs of wells of one plate.

    Wells of different plates are not swapped by hand or robot, so the gains of such swaps show how often chance gives
    one. Among the pairs of one plate FALSE_ALARMS are expected to exceed the threshold. It is never below the bound of a
    calibrated likelihood, log(pairs / FALSE_ALARMS).

    Args:
        null: Ascending gains between wells of different plates of which each looks like the other's label.
        compared: Number of pairs of wells of different plates.
        pairs: Number of pairs of wells of one plate, in the whole screen.
    """
    theory = float(np.log(pairs / FALSE_ALARMS))
    allowed = int(FALSE_ALARMS * compared / pairs)  # gains of the null above the threshold
    return max(theory, float(null[-allowed - 1])) if len(null) > allowed else theory


def _swapped_wells(plate: _PlateEvidence) -> list[dict[str, Any]]:
    """Swaps with the largest gains, each well in one of them at most.

    Both wells must look like the label of the other: a swap that rests on one well alone is no evidence of a swap.
    """
    wells = plate.rows["well"].to_numpy(str)
    gain = np.triu(np.where(_both_ways(plate.label_ratio), plate.swap_gain, -np.inf), k=1)
    first, second = np.nonzero(gain > 0)
    order = np.argsort(-gain[first, second], kind="stable")
    taken: set[int] = set()
    faults = []
    for i, j in zip(first[order].tolist(), second[order].tolist(), strict=True):
        if taken & {i, j}:
            continue
        taken |= {i, j}
        for one, other in ((i, j), (j, i)):
            looks_like, labelled_as = plate.names[plate.label[other]], plate.names[plate.label[one]]
            faults.append(
                {
                    "row": plate.rows.index[one],
                    "kind": "swapped",
                    "partner": wells[other],
                    "evidence": float(gain[i, j]),
                    "needed": plate.swap_threshold,
                    "detail": f"its image looks like {looks_like}, that of {wells[other]} like {labelled_as} (2 wells)",
                }
            )
    return faults


def _mislabelled_wells(plate: _PlateEvidence) -> list[dict[str, Any]]:
    """Wells for which another perturbation is more likely than the label."""
    wells = len(plate.rows)
    faults = []
    judged = np.zeros(wells, bool)
    for log_p in plate.likelihoods:
        given = log_p[np.arange(wells), plate.label]
        for i in np.flatnonzero(np.isfinite(given) & ~judged):
            best = int(log_p[i].argmax())
            judged[i] = True
            if best != plate.label[i]:
                looks_like, labelled_as = plate.names[best], plate.names[plate.label[i]]
                faults.append(
                    {
                        "row": plate.rows.index[i],
                        "kind": "mislabelled",
                        "partner": "",
                        "evidence": float(log_p[i, best] - given[i]),
                        "needed": float(np.log(plate.plates * wells * np.isfinite(log_p[i]).sum() / FALSE_ALARMS)),
                        "detail": f"its image looks like {looks_like}, the plate map says {labelled_as} (1 well)",
                    }
                )
    return faults


def _turned_plate(plate: _PlateEvidence) -> list[dict[str, Any]]:
    """Orientations of the plate that fit its images better than the plate map.

    The evidence is what is left without the LEFT_OUT most favourable wells (two at least): a plate that was turned shows
    it nearly everywhere, while chance and wells that look like no other favour a turned map in few. At least a quarter
    of the wells must be comparable.
    """
    wells = len(plate.rows)
    position = np.array([parse_well(well) for well in plate.rows["well"].to_numpy(str)])
    well_at = {tuple(p): i for i, p in enumerate(position)}
    faults = []
    for orientation, moved in _reoriented(position).items():
        target = np.array([well_at.get(tuple(p), -1) for p in moved])
        ratio = plate.label_ratio[np.arange(wells), target]
        comparable = (target >= 0) & np.isfinite(ratio)
        left_out = max(2, int(np.ceil(LEFT_OUT * comparable.sum())))
        evidence = float(np.sort(ratio[comparable])[: max(0, int(comparable.sum()) - left_out)].sum())
        if evidence > 0 and comparable.sum() >= wells / 4:
            faults.append(
                {
                    "row": plate.rows.index[0],
                    "kind": orientation,
                    "partner": "",
                    "evidence": evidence,
                    "needed": float(np.log(3 * plate.plates / FALSE_ALARMS)),
                    "detail": f"{int(comparable.sum())} wells fit the plate map better in this orientation, also without "
                    f"the {left_out} that fit it best",
                }
            )
    return faults


def _reoriented(position: np.ndarray) -> dict[str, np.ndarray]:
    """Where each well would be if its plate had been turned or mirrored, within the used rows and columns.

    Args:
        position: (W, 2) row and column of each well.
    """
    low, high = position.min(axis=0), position.max(axis=0)
    flipped = low + high - position
    return {
        "plate turned by 180 degrees": flipped,
        "plate mirrored left to right": np.stack([position[:, 0], flipped[:, 1]], axis=1),
        "plate mirrored top to bottom": np.stack([flipped[:, 0], position[:, 1]], axis=1),
    }


def turned_wells(wells: pd.Series) -> pd.Series:
    """Well names after turning the plate by 180 degrees within its used rows and columns; plants a fault."""
    position = np.array([parse_well(well) for well in wells])
    turned = _reoriented(position)["plate turned by 180 degrees"]
    return pd.Series([f"{row_name(int(row))}{int(column) + 1:02d}" for row, column in turned], index=wells.index)
