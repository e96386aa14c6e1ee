"""Rows of a study as its table: for each bias ratio and variant a line for each way of training, over its seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ffr_dist.evaluate.intervals import paired_difference, seed_interval, wilson
from ffr_dist.launch.rows import Row, way_of
from ffr_dist.recipe import CellConfig
from ffr_dist.report.content import BASELINE

Json = dict[str, Any]


def tables_of(rows: Sequence[Row], lead: CellConfig | None) -> list[Json]:
    """One table for each (bias ratio, variant), in the order of the rows; numbers are fractions, intervals of 95 %.

    Differences are of worst groups, paired by seed: to none × erm, and to ``lead``.
    """
    ways: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        ways.setdefault(way_of(row), []).append(row)
    tables: dict[tuple[Any, ...], Json] = {}
    for (method, ratio, variant, arm, mitigation), found in ways.items():
        table = tables.setdefault((ratio, variant), {"bias_ratio": ratio, "variant": variant, "lines": []})

        def others(pair: tuple[str, str], key: tuple[Any, ...] = (method, ratio, variant)) -> list[Row]:
            return ways.get((*key, *pair), [])

        table["lines"].append(
            {
                "arm": arm,
                "mitigation": mitigation,
                "seeds": [row["seed"] for row in found],
                "worst_group": _estimate(found),
                "n_worst": min(row["n_worst"] for row in found),
                "group_mean": statistics.fmean(row["group_mean"] for row in found),
                "to_baseline": _difference(found, others(BASELINE)) if (arm, mitigation) != BASELINE else None,
                "to_lead": None
                if lead is None or (arm, mitigation) == (lead.arm, lead.mitigation)
                else _difference(found, others((lead.arm, lead.mitigation))),
            }
        )
    return list(tables.values())


def _estimate(rows: Sequence[Row]) -> Json:
    """The mean worst group with its interval over seeds; of one seed, over the samples of that group."""
    values = [row["worst_group"] for row in rows]
    if len(rows) > 1:
        interval = seed_interval(values)
    else:
        worst = rows[0]["groups"][rows[0]["worst_name"]]
        interval = wilson(worst["correct"], worst["count"])
    return {"mean": statistics.fmean(values), "low": interval.low, "high": interval.high}


def _difference(rows: Sequence[Row], others: Sequence[Row]) -> Json | None:
    """Of the seeds that both have; without an interval where that is one."""
    theirs: Mapping[int, float] = {row["seed"]: row["worst_group"] for row in others}
    pairs = [(row["worst_group"], theirs[row["seed"]]) for row in rows if row["seed"] in theirs]
    if not pairs:
        return None
    if len(pairs) == 1:
        return {"mean": pairs[0][0] - pairs[0][1], "low": None, "high": None, "p": None, "pairs": 1}
    found = paired_difference([mine for mine, _ in pairs], [other for _, other in pairs])
    return {"mean": found.mean, "low": found.low, "high": found.high, "p": found.p, "pairs": found.pairs}
