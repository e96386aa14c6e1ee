"""A study from its file to its table: import, pool, audit, tuning, cells, results.

Each part finds what is done and goes on from there, so the same command continues a study that was killed, and leaves the
same results.json, byte for byte, as one that was not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from ffr_dist.errors import ConflictError, MissingError, StoppedError
from ffr_dist.launch.audit import check_pool
from ffr_dist.launch.context import Run, import_real, open_begun, start_run
from ffr_dist.launch.curate import extend
from ffr_dist.launch.events import CellEnded, Ended, Event, Tell, silent
from ffr_dist.launch.fleet.heartbeat import Heartbeat, claim
from ffr_dist.launch.fleet.signals import StopSignals
from ffr_dist.launch.pool import make_pool
from ffr_dist.launch.publish import write_report
from ffr_dist.launch.rows import Row, write_rows
from ffr_dist.launch.sets import open_cell_data
from ffr_dist.launch.study.check import CheckedStudy
from ffr_dist.launch.study.crew import Alone, Crew
from ffr_dist.launch.study.dag import Job
from ffr_dist.launch.study.execute import Clock, Failure, execute
from ffr_dist.launch.study.plan import Ground, Jobs, Planner, union
from ffr_dist.launch.study.tune import Choice, Tuned, choose, try_cells, tuned_of
from ffr_dist.launch.study.work import Answer, Task
from ffr_dist.launch.watch.eventlog import EventLog
from ffr_dist.shards import layout
from ffr_dist.shards.selection import latest_revision
from ffr_dist.store import Store
from ffr_dist.study import Cell, Way


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResult:
    """What a study has come to."""

    output: str
    rows: Sequence[Row]
    """Of the cells that were trained and tested, in the order of the study."""
    tuning: Sequence[Mapping[str, Any]]
    skipped: Sequence[Mapping[str, Any]]
    failures: Sequence[Mapping[str, Any]]
    """Cells without a row, and why; the same command tries them again."""
    report: str


def run_study(
    checked: CheckedStudy, *, out: str | None = None, command: str, tell: Tell = silent, inline: bool = False
) -> StudyResult:
    """Train and test all cells of a study. With ``inline`` in this process, else on Ray."""
    run = _start(checked, out, command, tell)
    with Heartbeat(run.store) as heart, EventLog(run.store, heart.driver, tell) as logged, StopSignals() as signals:
        try:
            return _run(checked, replace(run, tell=logged), heart, signals, inline=inline)
        except KeyboardInterrupt as error:
            raise StoppedError(f"stopped; what is done is kept. To go on: {command}") from error


def _run(checked: CheckedStudy, run: Run, heart: Heartbeat, signals: StopSignals, *, inline: bool) -> StudyResult:
    _ask(run)
    run.store.put(layout.STUDY, checked.text.encode())
    stores = _import(checked, run)
    make_pool(run, inline=inline, heart=heart)
    check_pool(run, next(iter(stores.values())))
    planner = Planner(
        store=run.store,
        recipes={key: setting.recipe for key, setting in checked.settings.items()},
        grounds={key: _ground(run, splits) for key, splits in stores.items()},
        groups=run.checked.groups,
        threads=checked.study.threads,
    )
    results = _Results(checked)
    try:
        with _crew(run.store, checked, signals, inline=inline) as crew:
            _carry_out(checked, planner, crew, run, results)
    except StoppedError as error:
        raise StoppedError(f"{error}; what is done is kept. To go on: {run.command}") from error
    write_rows(run.store, results.rows, results.beside())
    report = write_report(run)
    run.tell(Ended("report", report))
    return StudyResult(
        output=run.store.url,
        rows=results.rows,
        tuning=results.tuning,
        skipped=results.skipped,
        failures=results.failures,
        report=report,
    )


def _start(checked: CheckedStudy, out: str | None, command: str, tell: Tell) -> Run:
    """The output, with a pool for what all cells need; and for what it was asked for before, if that is more.

    Refused before anything is written there where it is another study's, or another driver is at work on it.
    """
    quota = checked.demand()
    begun = open_begun(checked.base(quota), out)
    if begun is not None:
        _refuse_other_study(begun, checked.study.name)
        claim(begun)
        latest = latest_revision(begun)
        if latest is not None:
            quota = {name: max(count, latest.quota.get(name, 0)) for name, count in quota.items()}
    return start_run(checked.base(quota), out=out, command=command, tell=tell)


def _refuse_other_study(store: Store, name: str) -> None:
    try:
        found = yaml.safe_load(store.get(layout.STUDY))
    except (MissingError, yaml.YAMLError):  # a damaged copy is nobody's, and is written anew
        return
    theirs = found.get("name", name) if isinstance(found, dict) else name
    if theirs != name:
        raise ConflictError(
            f"{store.url} holds the study {theirs}, whose results {name} would replace; write to another folder (--out). If it "
            f"is the same study, name it {theirs} again"
        )


def _ask(run: Run) -> None:
    """Ask a pool that was begun with less for what this study needs."""
    latest = latest_revision(run.store)
    quota = run.checked.quota().counts
    if latest is not None and any(count != latest.quota.get(name, 0) for name, count in quota.items()):
        with contextlib.suppress(StoppedError):  # there is more to generate, which comes next
            extend(run.checked, run.store, run.command)


Stores = dict[tuple[tuple[str, float | None], int], dict[str, Store]]


def _import(checked: CheckedStudy, run: Run) -> Stores:
    """The splits of every setting and seed, by both, in the order of the study."""

    def tell(event: Event) -> None:
        if not (isinstance(event, Ended) and event.reused):  # one test set is that of all
            run.tell(event)

    stores: Stores = {}
    for cell in [*checked.cells, *checked.tuning]:
        key = (cell.way.variant, cell.way.bias_ratio), cell.seed
        if key not in stores:
            setting = Run(checked=checked.settings[key[0]], store=run.store, command=run.command, tell=tell)
            stores[key] = import_real(setting, cell.seed)
    return stores


def _ground(run: Run, splits: Mapping[str, Store]) -> Ground:
    data = open_cell_data(run, splits)
    return Ground(
        folders={name: store.url.removeprefix(f"{run.store.url}/") for name, store in splits.items()},
        counts=data.sets["real"].counts(),
        fingerprints={**{name: one.fingerprint for name, one in data.sets.items()}, "val": data.val.fingerprint},
    )


@contextlib.contextmanager
def _crew(store: Store, checked: CheckedStudy, signals: StopSignals, *, inline: bool) -> Iterator[Crew]:
    if inline:
        with Alone() as alone:
            yield alone
        return
    from ffr_dist.launch.study.on_ray import Workers  # noqa: PLC0415 - Ray takes seconds to import

    with Workers(store, checked.study.workers, checked.study.threads, signals) as workers:
        yield workers


@dataclass(slots=True)
class _Results:
    """What becomes of the cells, in the order of the study."""

    checked: CheckedStudy
    rows: list[Row] = field(default_factory=list)
    tuning: list[Mapping[str, Any]] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)

    @property
    def skipped(self) -> list[dict[str, Any]]:
        return [{**_named(way), "why": why} for way, why in self.checked.skipped.items()]

    def beside(self) -> dict[str, Any]:
        """What results.json holds beside rows."""
        study = self.checked.study
        lead = None if study.lead is None else study.lead.model_dump()
        return {
            "study": {"name": study.name, "recipe": study.recipe, "cells": len(self.checked.cells), "lead": lead},
            "tuning": self.tuning,
            "skipped": self.skipped,
            "failures": self.failures,
        }


def _named(way: Way) -> dict[str, Any]:
    return {
        "bias_ratio": way.bias_ratio,
        "variant": way.variant,
        "arm": way.arm,
        "mitigation": way.mitigation,
    }


def _carry_out(checked: CheckedStudy, planner: Planner, crew: Crew, run: Run, results: _Results) -> None:
    tries = _tries(checked, planner)
    first = union(one for of_way in tries.values() for one in of_way)
    rest = planner.jobs(checked.cells, lambda _: 0 if checked.tuning else None, test=True)
    clock = Clock()
    clock.expect(first, rest)  # any alternative takes as long as the first
    choices: dict[Tuned, Choice | Failure] = {}
    if tries:
        choices = _tune(tries, first, crew, run, clock)
    results.tuning += [choice.report for choice in choices.values() if isinstance(choice, Choice)]
    untuned = {key: choice for key, choice in choices.items() if isinstance(choice, Failure)}
    places = {key: choice.place for key, choice in choices.items() if isinstance(choice, Choice)}
    trained = [cell for cell in checked.cells if tuned_of(cell.way) not in untuned]
    jobs = planner.jobs(trained, lambda way: places.get(tuned_of(way)), test=True)
    clock.expect(jobs)
    of_cell = {job: cell for cell, job in jobs.last.items()}
    counted = _Counter(len(of_cell), clock, run.tell)

    def ended(job: Job[Task], answer: Answer | Failure) -> None:
        if job.id in of_cell:
            counted(str(of_cell[job.id]), answer, _told)

    outcome = execute(jobs, crew, run, clock, ended)
    for cell in checked.cells:
        failure = untuned.get(tuned_of(cell.way)) or outcome.failures.get(jobs.last[cell])
        if failure is not None:
            results.failures.append(
                {**_named(cell.way), "seed": cell.seed, "stage": _of(failure, str(cell)), "error": failure.error}
            )
        else:
            row = outcome.answers[jobs.last[cell]].row
            assert row is not None  # noqa: S101 - a test gives one
            results.rows.append(row)


def _tries(checked: CheckedStudy, planner: Planner) -> dict[Way, list[Jobs]]:
    """For each way that is to choose, the jobs of each alternative."""

    def jobs(cells: Sequence[Cell], place: int) -> Jobs:
        return planner.jobs(cells, lambda _: place, test=False)

    return {
        way: [jobs(cells, place) for place in range(checked.settings[way.variant, way.bias_ratio].recipe.train.choices)]
        for way, cells in try_cells(checked.tuning).items()
    }


def _tune(
    tries: Mapping[Way, Sequence[Jobs]], jobs: Jobs, crew: Crew, run: Run, clock: Clock
) -> dict[Tuned, Choice | Failure]:
    """What each way of training chooses; or why it could not."""
    waiting = {way: {job for one in of_way for job in one.last.values()} for way, of_way in tries.items()}
    ways_of: dict[str, list[Way]] = {}
    for way, ids in waiting.items():
        for job in ids:
            ways_of.setdefault(job, []).append(way)
    answers: dict[str, Answer | Failure] = {}
    choices: dict[Way, Choice | Failure] = {}
    counted = _Counter(len(tries), clock, run.tell)

    def ended(job: Job[Task], answer: Answer | Failure) -> None:
        answers[job.id] = answer
        for way in ways_of.get(job.id, ()):
            waiting[way].discard(job.id)
            if not waiting[way]:
                choices[way] = _chosen(way, tries[way], answers)
                reused = all(
                    isinstance(one, Answer) and one.reused
                    for one in (answers[last] for of_place in tries[way] for last in of_place.last.values())
                )
                counted(f"rates of {way}", choices[way], _told_choice, reused=reused)

    execute(jobs, crew, run, clock, ended)
    return {tuned_of(way): choices[way] for way in tries}


def _chosen(way: Way, tries: Sequence[Jobs], answers: Mapping[str, Answer | Failure]) -> Choice | Failure:
    found: list[list[Mapping[str, Any]]] = []
    for of_place in tries:
        found.append([])
        for job in of_place.last.values():
            answer = answers[job]
            if isinstance(answer, Failure):
                return answer
            assert answer.chosen is not None  # noqa: S101 - a stage was trained
            found[-1].append(answer.chosen)
    return choose(way, [cell.seed for cell in tries[0].last], found)


class _Counter:
    """Tells of each thing that has come to its end, and how many are left."""

    def __init__(self, total: int, clock: Clock, tell: Tell) -> None:
        self._total, self._clock, self._tell = total, clock, tell
        self._done = self._failures = 0

    def __call__(self, what: str, came: Any, told: Callable[[Any], str], *, reused: bool | None = None) -> None:
        failed = isinstance(came, Failure)
        self._done += 1
        self._failures += failed
        self._tell(
            CellEnded(
                what=what,
                detail=f"{_of(came, what)} failed: {came.error}" if failed else told(came),
                reused=not failed and (came.reused if reused is None else reused),
                failed=failed,
                done=self._done,
                total=self._total,
                failures=self._failures,
                eta_s=self._clock.eta_s(),
            )
        )


def _of(failure: Failure, cell: str) -> str:
    """What failed; of which cell, where that is another one."""
    return failure.what.removesuffix(f": {cell}")


def _told(answer: Answer) -> str:
    row = answer.row or {}
    return f"worst group {row['worst_group']:.1%} (n={row['n_worst']}), group mean {row['group_mean']:.1%}"


def _told_choice(choice: Choice) -> str:
    scores = ", ".join(f"{one['val_worst_group']:.1%}" for one in choice.report["tries"])
    return f"alternative {choice.place + 1} of {len(choice.report['tries'])} (val worst group {scores})"
