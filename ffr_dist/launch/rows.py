"""Rows of results: one for each trained and tested cell, in results.json for other programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ffr_dist.errors import ConflictError, MissingError
from ffr_dist.evaluate.intervals import intervals_of
from ffr_dist.groups import Groups
from ffr_dist.launch.context import Run
from ffr_dist.launch.sets import CellData
from ffr_dist.launch.stages import TrainedStage
from ffr_dist.metrics import Count, bias_metrics, group_metrics
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
    """What is known of a cell whose answers on test were counted; None where a number is not defined."""
    real, test = data.sets["real"], data.test
    train_counts = real.counts()
    return {
        "method": run.method.name,
        "arm": cell.arm,
        "mitigation": cell.mitigation,
        "bias_ratio": getattr(run.recipe.data, "bias_ratio", None),
        "variant": run.variant,
        "seed": seed,
        **asdict(group_metrics(counts, _by_test_group(test.groups, real.groups, train_counts))),
        **asdict(bias_metrics(counts, test.groups, train_counts, real.groups)),
        "intervals": {
            name: None if found is None else list(found)
            for name, found in intervals_of(counts, test.groups, real.groups.classes).items()
        },
        "pool": data.pool_fingerprint,
        "real": data.real_fingerprint,
        "groups": {
            group.name: {"label": group.label, "bias": group.bias, **asdict(counts[group.name])}
            for group in test.groups
        },
        "train_counts": train_counts,
        "stages": [stage.folder for stage in stages],
        "chosen": dict(sorted(stages[-1].chosen.items())),
    }


def _by_test_group(test: Groups, train: Groups, train_counts: Mapping[str, int]) -> dict[str, int]:
    """Training samples of each test group: of the cell that it is, which training may call otherwise."""
    same = {group.name: train.of_cell(group.label, group.bias) for group in test}
    return {name: 0 if group is None else train_counts[group.name] for name, group in same.items()}


def read_rows(store: Store) -> list[Row]:
    """The rows of results.json; none where there is no such object."""
    rows: list[Row] = read_results(store).get("rows", [])
    return rows


def write_rows(store: Store, rows: Sequence[Row], beside: Mapping[str, Any] | None = None) -> None:
    """Write results.json, with what else it tells under other keys. Rows that cannot be compared fairly are refused."""
    refuse_unfair(rows)
    store.put(layout.RESULTS, (json.dumps({"rows": list(rows), **(beside or {})}, indent=1) + "\n").encode())


def add_row(store: Store, row: Row) -> None:
    """Enter one cell's row, in place of an older one of the same cell."""
    found = read_results(store)
    rows = [old for old in found.pop("rows", []) if cell_of(old) != cell_of(row)]
    write_rows(store, [*rows, row], found)


def read_results(store: Store) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(store.get(layout.RESULTS))
    except MissingError:
        return {}
    return found


def refuse_unfair(rows: Sequence[Row]) -> None:
    """Rows of one (method, bias ratio) must share the pool; rows of one (bias ratio, variant, seed) the real data."""
    for what, keys in (("pool", ("method", "bias_ratio")), ("real", ("bias_ratio", "variant", "seed"))):
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
    return (*way_of(row), row["seed"])


def way_of(row: Row) -> tuple[Any, ...]:
    """What the rows of a cell's seeds share: (method, bias ratio, variant, arm, mitigation)."""
    return (row["method"], row["bias_ratio"], row["variant"], row["arm"], row["mitigation"])
