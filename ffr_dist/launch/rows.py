"""Rows of results: one for each trained and tested cell, in results.json for other programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ffr_dist.errors import ConflictError, MissingError
from ffr_dist.launch.context import Run
from ffr_dist.launch.sets import CellData
from ffr_dist.launch.stages import TrainedStage
from ffr_dist.metrics import Count, group_metrics
from ffr_dist.recipe import CellConfig
from ffr_dist.shards import layout
from ffr_dist.store import Store

Row = dict[str, Any]


def row_of(
    run: Run,
    cell: CellConfig,
    seed: int,
    data: CellData,
    stages: Sequence[TrainedStage],
    counts: Mapping[str, Count],
) -> Row:
    """What is known of a cell whose answers on test were counted."""
    metrics = group_metrics(counts, data.sets["real"].counts())
    return {
        "method": run.method.name,
        "arm": cell.arm,
        "mitigation": cell.mitigation,
        "bias_ratio": getattr(run.recipe.data, "bias_ratio", None),
        "seed": seed,
        "worst_group": metrics.worst_group,
        "group_mean": metrics.group_mean,
        "train_weighted_mean": metrics.train_weighted_mean,
        "micro": metrics.micro,
        "n_worst": metrics.n_worst,
        "pool": data.pool_fingerprint,
        "real": data.real_fingerprint,
        "groups": {name: {"correct": count.correct, "count": count.count} for name, count in counts.items()},
        "stages": [stage.folder for stage in stages],
        "chosen": dict(stages[-1].chosen),
    }


def read_rows(store: Store) -> list[Row]:
    """The rows of results.json; none where there is no such object."""
    try:
        rows: list[Row] = json.loads(store.get(layout.RESULTS))["rows"]
    except MissingError:
        return []
    return rows


def write_rows(store: Store, rows: Sequence[Row]) -> None:
    """Write results.json. Rows that cannot be compared fairly are refused."""
    refuse_unfair(rows)
    store.put(layout.RESULTS, (json.dumps({"rows": list(rows)}, indent=1) + "\n").encode())


def add_row(store: Store, row: Row) -> None:
    """Enter one cell's row, in place of an older one of the same cell."""
    rows = [old for old in read_rows(store) if cell_of(old) != cell_of(row)]
    write_rows(store, [*rows, row])


def refuse_unfair(rows: Sequence[Row]) -> None:
    """Rows of one (method, bias ratio) must share the pool; rows of one (bias ratio, seed) the real data."""
    for what, keys in (("pool", ("method", "bias_ratio")), ("real", ("bias_ratio", "seed"))):
        seen: dict[tuple[Any, ...], str] = {}
        for row in rows:
            key = tuple(row[name] for name in keys)
            if seen.setdefault(key, row[what]) != row[what]:
                raise ConflictError(
                    f"results of two different {what} sets cannot stand in one table (cell {row['arm']} × "
                    f"{row['mitigation']}, seed {row['seed']}); delete {layout.RESULTS} or write to another output"
                )


def cell_of(row: Row) -> tuple[Any, ...]:
    """What tells a row's cell from every other; the seed is last."""
    return (row["method"], row["bias_ratio"], row["arm"], row["mitigation"], row["seed"])
