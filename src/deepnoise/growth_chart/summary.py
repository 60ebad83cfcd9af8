"""The table of a growth chart: means over seeds and paired gains of its arms."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from deepnoise.errors import InputError
from deepnoise.evaluation.intervals import summarize_sums, uncertainty
from deepnoise.growth_chart.arms import Arm
from deepnoise.growth_chart.run import record_name
from deepnoise.tables import SCHEMAS
from deepnoise.tiers import short_tier


def summarize_arms(
    arms: list[Arm], seeds: list[int], records: dict[str, dict[str, Any]], complete: dict[str, Any]
) -> pd.DataFrame:
    """The table ``growth_chart``, one row per arm.

    Gains are paired by wells and seeds. Their interval, or sign-flip p, is over experiments.

    Args:
        arms: Arms in the order of the chart.
        seeds: Training seeds of the chart.
        records: Partition -> record.
        complete: The entry ``growth_chart_complete``.

    Raises:
        InputError: The chart is incomplete, or its records are from another run.
    """
    _check_records(arms, seeds, records, complete)
    records_of_arm = {arm.name: [records[record_name(arm, seed)] for seed in seeds] for arm in arms}
    rows = []
    for arm in arms:
        arm_records = records_of_arm[arm.name]
        first = arm_records[0]
        top1 = [record["top1"] for record in arm_records if record["top1"] is not None]
        row: dict[str, Any] = {
            "arm": arm.name, "kind": arm.kind, "tier": first["tier"], "seeds": len(seeds), "wells": first["n"],
            "experiments": len(first["wells_by_experiment"]), "scored": first["scored"], "compute": first["compute"],
            "top1": _mean(top1), "top1_low": min(top1, default=None), "top1_high": max(top1, default=None),
            "chance": first["chance"],
            "map": _mean(r["map"] for r in arm_records), "map_chance": _mean(r["map_chance"] for r in arm_records),
            "reference": arm.reference, "control": arm.control,
        }  # fmt: skip
        for column, control, key in (
            ("redealt_top1", "redealt", "redealt"), ("same_plate", "group_share", "share"),
            ("same_plate_chance", "group_share", "chance"), ("together", "redrawn", "together"),
            ("together_redrawn", "redrawn", "redrawn"),
        ):  # fmt: skip
            row[column] = _mean((record.get(control) or {}).get(key) for record in arm_records)
        for axis in ("plate", "experiment", "well_edge"):
            leaks = [record["leaks"].get(axis, {}) for record in arm_records]
            row[f"leak_{axis}"] = _mean(leak.get("balanced_accuracy") for leak in leaks)
            row[f"leak_{axis}_chance"] = _mean(leak.get("chance") for leak in leaks)
        row |= _gain("gain", arm_records, records_of_arm.get(arm.reference))
        row |= _gain("control_gain", arm_records, records_of_arm.get(arm.control))
        rows.append(row)
    return pd.DataFrame(rows)[list(SCHEMAS["growth_chart"].columns)]


def _check_records(
    arms: list[Arm], seeds: list[int], records: dict[str, dict[str, Any]], complete: dict[str, Any]
) -> None:
    """Refuse an incomplete chart, and records from another run."""
    names = {record_name(arm, seed) for arm in arms for seed in seeds}
    missing = sorted(names - complete["arms"].keys())
    if not complete["complete"] or missing:
        example = f", such as {missing[0]}" if missing else ""
        raise InputError(
            f"the growth chart is not complete ({len(missing)} arms are missing{example}); run it again, finished arms are kept"
        )
    for name in sorted(names):
        if records.get(name, {}).get("fingerprint") != complete["arms"][name]:
            raise InputError(
                f"growth_arms has a record {name!r} from another run than growth_chart_complete; run the growth chart again"
            )


def _mean(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are not None; None if there are none."""
    given = [value for value in values if value is not None]
    return float(np.mean(given)) if given else None


def _gain(name: str, records: list[dict[str, Any]], reference: list[dict[str, Any]] | None) -> dict[str, Any]:
    """Gain in top-1 over a reference arm, averaged over seeds, with its interval or p over experiments.

    Args:
        name: Column of the gain; its interval and p are in ``<name>_low``, ``<name>_high`` and ``<name>_p``.
        records: Records of the arm, one per seed.
        reference: Records of the reference arm, in the same order; None: there is no such arm.
    """
    if not reference or records[0]["top1"] is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None, f"{name}_p": None}
    experiments = sorted(records[0]["wells_by_experiment"])
    difference = np.array(
        [
            [r["right_by_experiment"][e] - ref["right_by_experiment"][e] for e in experiments]
            for r, ref in zip(records, reference, strict=True)
        ]
    ).mean(axis=0)
    well_counts = np.array([records[0]["wells_by_experiment"][e] for e in experiments], float)
    gain = summarize_sums(difference, well_counts)
    low, high = gain["interval"] or (None, None)
    return {name: gain["mean"], f"{name}_low": low, f"{name}_high": high, f"{name}_p": gain["sign_flip_p"]}


def format_chart(table: pd.DataFrame) -> str:
    """The chart as text."""
    first = table.iloc[0]
    lines = [
        f"Growth chart: top-1 by well on {first['scored']} plates ({first['wells']} wells, {first['experiments']} experiments, "
        f"{first['seeds']} seeds); compute in forward passes per labelled site",
        "",
        f"{'':42} {'tier':6} {'top-1':>6} {'seeds':>14} {'chance':>6} {'gain over reference':>34} {'mAP':>6} {'leak exp.':>9} {'plate':>6} {'compute':>8} "
        f"{'dealt anew':>10} {'same plate':>10} {'one group':>13}",
    ]
    previous_type = ""
    for row in table.itertuples():
        if row.kind != previous_type and row.kind != "control" and previous_type not in ("", "control"):
            lines.append("")
        previous_type = row.kind
        indent = "  " if row.kind == "control" else ""
        gain = "" if pd.isna(row.gain) else f"{row.gain:+.1%} ({_format_uncertainty(row, 'gain')})"
        seeds = "" if pd.isna(row.top1) else f"{row.top1_low:.1%}-{row.top1_high:.1%}"
        figures = [f"{v:6.3f}" if pd.notna(v) else f"{'-':>6}" for v in (row.map, row.leak_experiment, row.leak_plate)]
        lines.append(
            f"{indent + row.arm:42} {short_tier(row.tier):6} {_share(row.top1):>6} {seeds:>14} {_share(row.chance):>6} {gain:>34} "
            f"{figures[0]} {figures[1]:>9} {figures[2]} {row.compute:8.0f} "
            f"{_share(row.redealt_top1):>10} {_share(row.same_plate):>10} {f'{_share(row.together)}/{_share(row.together_redrawn)}':>13}"
        )
        if row.control and pd.notna(row.control_gain):
            over = f"{row.control_gain:+.1%} ({_format_uncertainty(row, 'control_gain')})"
            lines.append(f"{'  over the control of equal compute':42} {'':36} {over:>34}")
    lines += [
        "",
        f"mAP: replicate retrieval across experiments, chance {first['map_chance']:.3f}; leak: probe of the experiment (chance "
        f"{first['leak_experiment_chance']:.3f}) and of the plate (chance {first['leak_plate_chance']:.3f})"
        if pd.notna(first[["map_chance", "leak_plate_chance", "leak_experiment_chance"]]).all()
        else "",
        "gain: paired by wells and seeds; 95 % interval over experiments, or with fewer than six the exact one-sided sign-flip p of a gain",
        "dealt anew: top-1 on the held-out plates once their treatments are dealt anew; same plate: wrong calls that name a perturbation of the "
        f"well's own plate (chance {_share(first['same_plate_chance'])}); one group: pairs of calls on a plate that are of one plate group, and those "
        "under BatchNorm statistics of random parts of the experiment; ?: plate design not excluded",
        "T2 and T3 rows are not headline figures: they know the plate design, or held-out images",
    ]
    return "\n".join(lines) + "\n"


def _share(value: Any) -> str:
    return "-" if pd.isna(value) else f"{value:.1%}"


def _format_uncertainty(row: Any, name: str) -> str:
    """The interval of a gain, else its p, else a dash."""
    low, p = getattr(row, f"{name}_low"), getattr(row, f"{name}_p")
    if pd.notna(low):
        return f"{low:+.1%} to {getattr(row, f'{name}_high'):+.1%}"
    return uncertainty({"sign_flip_p": p, "experiments": row.experiments}) if pd.notna(p) else "-"
