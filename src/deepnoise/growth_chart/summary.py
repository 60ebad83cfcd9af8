"""The arms of a growth chart side by side: means over seeds and paired gains."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from deepnoise.errors import InputError
from deepnoise.evaluation.intervals import summarize_sums, uncertainty
from deepnoise.growth_chart.arms import Arm
from deepnoise.growth_chart.run import record_name
from deepnoise.tables import SCHEMAS


def summarize_arms(
    arms: list[Arm], seeds: list[int], records: dict[str, dict[str, Any]], complete: dict[str, Any]
) -> pd.DataFrame:
    """The table ``growth_chart``, a row an arm.

    Gains are paired: the same wells, the same seeds; the experiment is the unit of the interval or of the sign-flip p.

    Args:
        arms: In the order of the chart.
        seeds: Of the chart.
        records: Partition -> record.
        complete: The entry ``growth_chart_complete``.

    Raises:
        InputError: The chart is not complete, or its records are of another run.
    """
    names = {record_name(arm, seed) for arm in arms for seed in seeds}
    missing = sorted(names - complete["arms"].keys())
    if not complete["complete"] or missing:
        raise InputError(f"the growth chart is not complete ({len(missing)} arms are missing{f', such as {missing[0]}' if missing else ''}); run it again, finished arms are kept")  # fmt: skip
    for name in sorted(names):
        if records.get(name, {}).get("fingerprint") != complete["arms"][name]:
            raise InputError(
                f"growth_arms holds {name!r} of another run than growth_chart_complete says; run the growth chart again"
            )
    own = {arm.name: [records[record_name(arm, seed)] for seed in seeds] for arm in arms}
    rows = []
    for arm in arms:
        mine = own[arm.name]
        top1 = np.array([record["top1"] for record in mine])
        row: dict[str, Any] = {
            "arm": arm.name, "kind": arm.kind, "tier": mine[0]["tier"], "seeds": len(seeds), "wells": mine[0]["n"],
            "experiments": len(mine[0]["wells_by_experiment"]), "scored": mine[0]["scored"], "compute": mine[0]["compute"],
            "top1": float(top1.mean()), "top1_low": float(top1.min()), "top1_high": float(top1.max()), "chance": mine[0]["chance"],
            "map": _mean(mine, lambda r: r["map"]), "map_chance": _mean(mine, lambda r: r["map_chance"]),
            "reference": arm.reference, "control": arm.control,
        }  # fmt: skip
        for axis in ("plate", "experiment", "well_edge"):
            row[f"leak_{axis}"] = _mean(mine, lambda r, a=axis: r["leaks"].get(a, {}).get("balanced_accuracy"))
            row[f"leak_{axis}_chance"] = _mean(mine, lambda r, a=axis: r["leaks"].get(a, {}).get("chance"))
        row |= _gain("gain", mine, own.get(arm.reference)) | _gain("control_gain", mine, own.get(arm.control))
        rows.append(row)
    return pd.DataFrame(rows)[list(SCHEMAS["growth_chart"].columns)]


def _mean(records: list[dict[str, Any]], of: Any) -> float | None:
    values = [value for record in records if (value := of(record)) is not None]
    return float(np.mean(values)) if values else None


def _gain(name: str, mine: list[dict[str, Any]], other: list[dict[str, Any]] | None) -> dict[str, Any]:
    """Gain in top-1 over another arm, averaged over seeds, with its interval or p over experiments."""
    if not other:
        return {name: None, f"{name}_low": None, f"{name}_high": None, f"{name}_p": None}
    experiments = sorted(mine[0]["wells_by_experiment"])
    difference = np.array(
        [
            [m["right_by_experiment"][e] - o["right_by_experiment"][e] for e in experiments]
            for m, o in zip(mine, other, strict=True)
        ]
    ).mean(axis=0)
    counts = np.array([mine[0]["wells_by_experiment"][e] for e in experiments], float)
    found = summarize_sums(difference, counts)
    low, high = found["interval"] or (None, None)
    return {name: found["mean"], f"{name}_low": low, f"{name}_high": high, f"{name}_p": found["sign_flip_p"]}


def format_chart(table: pd.DataFrame) -> str:
    """The chart as text."""
    first = table.iloc[0]
    lines = [
        f"Growth chart: top-1 by well on {first['scored']} plates ({first['wells']} wells, {first['experiments']} experiments, "
        f"{first['seeds']} seeds); compute in forward passes a labelled site",
        "",
        f"{'':42} {'tier':6} {'top-1':>6} {'seeds':>14} {'chance':>6} {'gain over reference':>34} {'mAP':>6} {'leak exp.':>9} {'plate':>6} {'compute':>8}",
    ]
    previous = ""
    for row in table.itertuples():
        if row.kind != previous and row.kind != "control" and previous not in ("", "control"):
            lines.append("")
        previous = row.kind
        mark = "  " if row.kind == "control" else ""
        gain = "" if pd.isna(row.gain) else f"{row.gain:+.1%} ({_sure(row, 'gain')})"
        figures = [f"{v:6.3f}" if pd.notna(v) else f"{'-':>6}" for v in (row.map, row.leak_experiment, row.leak_plate)]
        lines.append(
            f"{mark + row.arm:42} {row.tier:6} {row.top1:6.1%} {f'{row.top1_low:.1%}-{row.top1_high:.1%}':>14} {row.chance:6.1%} {gain:>34} "
            f"{figures[0]} {figures[1]:>9} {figures[2]} {row.compute:8.0f}"
        )
        if row.control and pd.notna(row.control_gain):
            over = f"{row.control_gain:+.1%} ({_sure(row, 'control_gain')})"
            lines.append(f"{'  over the control of equal compute':42} {'':36} {over:>34}")
    lines += [
        "",
        f"mAP: replicates across experiments, chance {first['map_chance']:.3f}; leak: probe of the experiment (chance "
        f"{first['leak_experiment_chance']:.3f}) and of the plate (chance {first['leak_plate_chance']:.3f})"
        if pd.notna(first[["map_chance", "leak_plate_chance", "leak_experiment_chance"]]).all()
        else "",
        "gain: paired by wells and seeds; 95 % interval over experiments, or under six of them the exact one-sided sign-flip p of a gain",
        "T2 and T3 rows are no headline: they know the plate design, or held-out images",
    ]
    return "\n".join(lines) + "\n"


def _sure(row: Any, name: str) -> str:
    low, p = getattr(row, f"{name}_low"), getattr(row, f"{name}_p")
    if pd.notna(low):
        return f"{low:+.1%} to {getattr(row, f'{name}_high'):+.1%}"
    return uncertainty({"sign_flip_p": p, "experiments": row.experiments}) if pd.notna(p) else "-"
