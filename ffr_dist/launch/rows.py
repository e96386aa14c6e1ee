"""Rows of results: one for each trained and tested cell, in results.json for other programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from ffr_dist.errors import BrokenError, ConflictError, MissingError
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


class _Read(BaseModel):
    """What readers of results.json rest on; there may be more."""

    model_config = ConfigDict(strict=True)


class _Answers(_Read):
    correct: int
    count: PositiveInt


class _Way(_Read):
    bias_ratio: float | None
    variant: str
    arm: str
    mitigation: str


class _Row(_Way):
    method: str
    seed: int
    pool: str
    real: str
    worst_group: float
    group_mean: float
    micro: float
    n_worst: int
    intervals: dict[str, tuple[float, float] | None]
    groups: dict[str, _Answers]
    stages: list[str]


class _Skipped(_Way):
    why: str


class _Failure(_Way):
    seed: int
    stage: str
    error: str


class _Results(_Read):
    rows: list[_Row] = []
    skipped: list[_Skipped] = []
    failures: list[_Failure] = []


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
    """All of results.json; nothing where there is no such object, BrokenError where it does not hold results."""
    try:
        body = store.get(layout.RESULTS)
    except MissingError:
        return {}
    try:
        _Results.model_validate_json(body)
        found: dict[str, Any] = json.loads(body)
    except ValueError as error:
        raise BrokenError(
            f"{store.url}/{layout.RESULTS} does not hold results ({_first(error)}); delete it and run the command that wrote "
            "it again: what is trained and tested is kept"
        ) from error
    return found


def _first(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False, include_input=False)[0]
    return ": ".join(part for part in (".".join(map(str, first["loc"])), first["msg"]) if part)


def refuse_unfair(rows: Sequence[Row]) -> None:
    """Rows of one (method, bias ratio) must share the pool; rows of one (bias ratio, variant, seed) the real data.

    No two may be of one cell: they would count as two seeds.
    """
    cells = set()
    for row in rows:
        if cell_of(row) in cells:
            raise ConflictError(
                f"two results of one cell (bias ratio {row['bias_ratio']}, {row['arm']} × {row['mitigation']}, seed "
                f"{row['seed']}) cannot stand in one table; delete {layout.RESULTS} and run the same command again"
            )
        cells.add(cell_of(row))
    for what, called, keys in (
        ("pool", "pools", ("method", "bias_ratio")),
        ("real", "sets of real images", ("bias_ratio", "variant", "seed")),
    ):
        seen: dict[tuple[Any, ...], str] = {}
        for row in rows:
            key = tuple(row[name] for name in keys)
            if seen.setdefault(key, row[what]) != row[what]:
                raise ConflictError(
                    f"results of two different {called} cannot stand in one table (cell {row['arm']} × "
                    f"{row['mitigation']}, seed {row['seed']}); delete {layout.RESULTS} or write to another output"
                )


def cell_of(row: Row) -> tuple[Any, ...]:
    """What tells a row's cell from every other; the seed is last."""
    return (*way_of(row), row["seed"])


def way_of(row: Row) -> tuple[Any, ...]:
    """What the rows of a cell's seeds share: (method, bias ratio, variant, arm, mitigation)."""
    return (row["method"], row["bias_ratio"], row["variant"], row["arm"], row["mitigation"])
