"""One job of a study, done in this process: train a cell up to a stage, or test it.

A job is told by plain values, so that any process can do it. Nothing is raised: what goes wrong is the job's answer, and no
other job need know of it.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from ffr_dist.errors import FFRError
from ffr_dist.groups import Groups
from ffr_dist.launch.cells import counts_key, score_cell, train_stages
from ffr_dist.launch.context import CheckedRecipe, Run
from ffr_dist.launch.events import Began, Event, Warned
from ffr_dist.launch.rows import Row
from ffr_dist.launch.sets import CellData, open_cell_data
from ffr_dist.launch.watch.redact import redact
from ffr_dist.methods import build
from ffr_dist.read.dataset import Dataset, open_dataset
from ffr_dist.recipe import CellConfig, Recipe
from ffr_dist.store import Store, StoreConfig, open_store

_OPEN = 10
"""So many sets stay open in a process, with what was decoded of them: those of two seeds, and more where seeds share some."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What the jobs of one recipe and seed have in common."""

    output: str
    storage: StoreConfig
    recipe: Recipe
    """With the rates that are to be tried."""
    groups: Groups
    variant: str
    seed: int
    real: Mapping[str, str]
    """Folder of each imported split."""
    pool: str
    """Fingerprint of the finished pool."""
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a job is to do."""

    desk: str
    """Whose, by key."""
    cell: CellConfig
    until: str | None
    """The stage to train up to; None: test the cell."""
    what: str
    """In words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of a job."""

    reused: bool = False
    """It was done before."""
    chosen: Mapping[str, Any] | None = None
    """Of the stage that was trained."""
    row: Row | None = None
    warned: tuple[str, ...] = ()
    """What the reader of the results must know."""
    error: str | None = None
    """Why nothing came of it; with ``trace`` where that may be a bug."""
    trace: str | None = None


def do(task: Task, desk: Desk) -> Answer:
    """Do a job, with the desk's number of threads."""
    try:
        with _threads(desk.threads):
            return _do(task, desk)
    except FFRError as error:
        return Answer(error=redact(str(error)))
    except Exception as error:  # noqa: BLE001 - whatever one cell has met, the others go on
        return Answer(error=redact(f"{type(error).__name__}: {error}"), trace=redact(traceback.format_exc()))


def _do(task: Task, desk: Desk) -> Answer:
    began: list[str] = []
    warned: list[str] = []

    def tell(event: Event) -> None:
        if isinstance(event, Began):
            began.append(event.what)
        elif isinstance(event, Warned):
            warned.append(event.message)

    recipe = desk.recipe
    method = build(recipe.method, groups=desk.groups, seed=recipe.seed, size=recipe.size, training=recipe.train)
    run = Run(
        checked=CheckedRecipe(recipe=recipe, text="", method=method, groups=desk.groups),
        store=open_store(desk.output, create=False, config=desk.storage),
        command="ffr study",
        tell=tell,
        variant=desk.variant,
    )
    data = _data(run, desk)
    trained = train_stages(run, task.cell, desk.seed, data, until=task.until)
    if task.until is not None:
        chosen = dict(sorted(trained[-1].chosen.items()))
        return Answer(reused=not began, chosen=chosen, warned=tuple(warned))
    reused = not began and run.store.exists(counts_key(trained[-1], data))
    return Answer(reused=reused, row=score_cell(run, task.cell, desk.seed, data, trained))


_opened: dict[tuple[str, str], Dataset] = {}


def _data(run: Run, desk: Desk) -> CellData:
    """The sets of a desk, opened; the last ones that were asked for stay open."""

    def open_set(store: Store) -> Dataset:
        key = (store.url, desk.pool)  # a pool may grow under its name
        found = _opened.pop(key) if key in _opened else open_dataset(store)
        _opened[key] = found  # the last to be closed
        return found

    data = open_cell_data(run, {name: run.store.below(folder) for name, folder in desk.real.items()}, open_set)
    while len(_opened) > _OPEN:
        del _opened[next(iter(_opened))]
    return data


def forget() -> None:
    """Close what stands open in this process."""
    _opened.clear()


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """The number of threads shows in low bits, so it must not depend on where a job is done."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)
