"""Rows of a study as its table, for other programs and the terminal: a line for each way of training, over its seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ffr_dist.launch.outcomes import results_content
from ffr_dist.launch.rows import Row
from ffr_dist.recipe import CellConfig
from ffr_dist.report.content import Cell, Estimate, Gain

Json = dict[str, Any]


def tables_of(rows: Sequence[Row], lead: CellConfig | None) -> list[Json]:
    """One table for each (bias ratio, variant), in the order of the rows; numbers are fractions, intervals of 95 %.

    Differences are of worst groups, paired by seed: to none × erm, and to ``lead``.
    """
    tables: dict[tuple[Any, ...], Json] = {}
    for cell in results_content(rows, lead).cells:
        table: Json = {"bias_ratio": cell.bias_ratio, "variant": cell.variant, "lines": []}
        tables.setdefault(cell.setting, table)["lines"].append(_line(cell))
    return list(tables.values())


def _line(cell: Cell) -> Json:
    return {
        "arm": cell.arm,
        "mitigation": cell.mitigation,
        "seeds": list(cell.seeds),
        "worst_group": _estimate(cell.worst_group),
        "n_worst": cell.n_worst,
        "group_mean": cell.group_mean.value,
        "to_baseline": _gain(cell.gain),
        "to_lead": _gain(cell.lead_gain),
    }


def _estimate(found: Estimate) -> Json:
    return {"mean": found.value, "low": found.low, "high": found.high}


def _gain(found: Gain | None) -> Json | None:
    return None if found is None else {**_estimate(found), "p": found.p, "test": found.test, "pairs": found.pairs}
