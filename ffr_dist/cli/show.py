"""What a person sees: events as lines and live bars, values as tables. Everything that prints is in this room."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from ffr_dist.launch.events import (
    Abandoned,
    AttemptFailed,
    Began,
    CellEnded,
    Ended,
    Event,
    Generating,
    Training,
    Warned,
    WorkerDown,
)

_PLAIN_EVERY_S = 5.0
_REASONS = 4
"""Reasons of rejection that fit on a line; the most frequent ones."""
_NARROW = 100
_BESIDE_GROUPS = 20
"""Characters that a table of results takes beside the names of its cells and the columns of its groups."""
_WIDE = 130


class Show:
    """Shows events: live bars on a terminal, a line now and then elsewhere (logs, CI)."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16 if console.width < _NARROW else 32),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            TextColumn("[dim]{task.fields[note]}"),
            console=console,
        )
        self._head: Sequence[str] = ()
        self._tasks: dict[str, TaskID] = {}
        self._live = Live(get_renderable=self._render, console=console, transient=True, refresh_per_second=4)
        self._last_plain: float | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def refresh(self) -> None:
        """Draw now."""
        self._live.refresh()

    def __call__(self, event: Event) -> None:
        match event:
            case Began(what, detail):
                self._clear()
                self._line(f"[cyan]…[/] {escape(what)} [dim]{escape(detail)}[/]")
            case Ended(what, detail, reused):
                self._clear()
                mark, note = ("[dim]=[/]", " [dim](done before)[/]") if reused else ("[green]✓[/]", "")
                self._line(f"{mark} {escape(what)}: {escape(detail)}{note}")
            case CellEnded():
                self._cell(event)
            case Warned(message):
                self._warning(message)
            case WorkerDown():
                self._warning(f"worker {event.worker} is gone: {event.why}")
            case AttemptFailed():
                self._warning(f"interval {event.interval} failed on {event.worker} ({event.kind}): {event.why}")
            case Abandoned():
                self._warning(f"interval {event.interval} is given up ({event.why}); later rounds make up its images")
            case Generating():
                self._generating(event)
            case Training():
                self._training(event)

    def _cell(self, event: CellEnded) -> None:
        mark = "[red]✗[/]" if event.failed else "[dim]=[/]" if event.reused else "[green]✓[/]"
        left = [f"{event.failures} failed"] if event.failures else []
        if event.eta_s is not None and event.done < event.total:
            left.append(f"{_duration(event.eta_s)} to go")
        note = f" [dim]({', '.join(left)})[/]" if left else ""
        self._line(f"{mark} {event.done}/{event.total} {escape(event.what)}: {escape(event.detail)}{note}")

    def _generating(self, event: Generating) -> None:
        total = sum(event.quota.values())
        done = min(total, _kept(event) + event.in_flight)
        rate = "rate unknown" if event.images_per_second is None else f"{event.images_per_second:.1f} images/s"
        state = [rate]
        if event.eta_s is not None:
            state.append(f"{_duration(event.eta_s)} to go")
        state += [
            f"round {event.round}",
            f"{event.committed:,}/{event.planned:,} shards",
            _workers(event.workers),
        ]
        money = []
        if event.cost is not None:
            limit = "" if event.max_cost is None else f" of {event.max_cost:g}"
            money.append(f"cost {event.cost:.2f}{limit}")
        if event.idle_share is not None:
            money.append(f"devices idle {event.idle_share:.1%}")
        if event.rejected:
            money.append(f"rejected {_reasons(event.rejected)}")
        if self._plain(f"  generated {done:,} of {total:,} images ({', '.join([*state, *money])})"):
            return
        self._head = [", ".join(line) for line in (state, money) if line]
        self._bar("all groups", done, total, "")
        for name, quota in event.quota.items():
            tried = event.tried.get(name, 0)
            accepted = event.accepted.get(name, 0)
            share = f"{accepted / tried:.1%} accepted" if tried else ""
            self._bar(name, min(accepted, quota), quota, share)

    def _training(self, event: Training) -> None:
        progress = event.progress
        told = [f"loss {progress.loss:.3f}", f"lr {progress.lr:.1e}"]
        if progress.images_per_second is not None:
            told.append(f"{progress.images_per_second:,.0f} images/s")
        if progress.eta_s is not None:
            told.append(f"{_duration(progress.eta_s)} to go")
        if progress.score is not None:
            # With how few images it may rest on: one of ten is ten points.
            of = progress.score.detail.get("val_n_worst")
            told.append(f"val worst group {progress.score.value[0]:.1%}{'' if of is None else f' (n={of})'}")
        note = ", ".join(told)
        if self._plain(f"  {event.stage} {event.cell}: step {progress.step} of {progress.steps} ({note})"):
            return
        self._bar(event.stage, progress.step, progress.steps, note)

    def _render(self) -> RenderableType:
        if not self._tasks:
            return Text()
        return Padding(Group(*(Text(line, style="dim") for line in self._head), self._bars), (0, 0, 0, 2))

    def _bar(self, name: str, done: float, total: float, note: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total, note="")
        self._bars.update(self._tasks[name], completed=done, total=total, note=note)

    def _clear(self) -> None:
        for task in self._tasks.values():
            self._bars.remove_task(task)
        self._tasks.clear()
        self._head = ()
        if self._live.is_started:
            self._live.refresh()

    def _warning(self, text: str) -> None:
        self._line(f"[yellow]![/] {escape(text)}")

    def _line(self, text: str) -> None:
        self._console.print(text, highlight=False)

    def _plain(self, text: str) -> bool:
        """Off a terminal, say it as a line every few seconds; True if bars are not for here."""
        if self._console.is_terminal:
            return False
        now = time.monotonic()
        if self._last_plain is None or now - self._last_plain >= _PLAIN_EVERY_S:
            self._last_plain = now
            self._console.print(text, highlight=False, markup=False)
        return True


def _kept(event: Generating) -> int:
    return sum(min(event.accepted.get(name, 0), quota) for name, quota in event.quota.items())


def _reasons(counts: Mapping[str, int]) -> str:
    """The most frequent reasons, and how many the others are."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{reason} {count:,}" for reason, count in ordered[:_REASONS]]
    rest = sum(count for _, count in ordered[_REASONS:])
    return ", ".join([*shown, *([f"others {rest:,}"] if rest else [])])


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 600:
        return f"{seconds / 60:.1f} min"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 360_000:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86_400:,.0f} days"


def _workers(count: int) -> str:
    return f"{count:,} worker{'' if count == 1 else 's'}"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def _between(estimate: Mapping[str, Any], told: Callable[[float], str]) -> str:
    """An estimate with its interval, as far as it has one."""
    expected, low, high = (estimate[name] for name in ("expected", "low", "high"))
    if low is None and high is None:
        return told(expected)
    if high is None:
        return f"{told(expected)} (at least {told(low)})"
    low_told, high_told = told(low), told(high)
    if low_told == high_told:
        return told(expected)
    number, _, unit = low_told.partition(" ")
    if unit and high_told.endswith(f" {unit}"):
        low_told = number
    return f"{told(expected)} ({low_told} – {high_told})"


def _money(amount: float) -> str:
    return f"{amount:,.2f}" if amount < 1000 else f"{amount:,.0f}"


def _share(value: float) -> str:
    return f"{100 * value:.1f}"


def plan_table(console: Console, plan: Mapping[str, Any]) -> None:
    """``ffr plan`` for people: arms that take the same images share a column, those that take none have none."""
    groups = plan["groups"]
    columns: dict[tuple[int, ...], list[str]] = {}
    for arm in next(iter(groups.values()))["arms"]:
        columns.setdefault(tuple(row["arms"][arm] for row in groups.values()), []).append(arm)
    shown = {counts: arms for counts, arms in columns.items() if any(counts)}
    _say(console, "Images of each group: real, in the pool, and taken by each arm")
    table = Table()
    table.add_column("group", overflow="fold")
    for name in ("real", "pool", *("\n".join(arms) for arms in shown.values())):
        table.add_column(name, justify="right")
    for place, (name, row) in enumerate(groups.items()):
        table.add_row(name, f"{row['real']:,}", f"{row['quota']:,}", *(f"{counts[place]:,}" for counts in shown))
    console.print(table)
    _say(
        console,
        f"{sum(row['quota'] for row in groups.values()):,} images from "
        f"{_between(plan['candidates'], lambda count: f'{count:,.0f}')} candidates in {plan['intervals']:,} intervals, "
        f"batches of {plan['batch']}; about {_bytes(plan['bytes'])}",
    )
    _outlook(console, plan)


def pilot_table(console: Console, plan: Mapping[str, Any], command: str) -> None:
    """What the pilot of a run found, and what the rest will take."""
    _say(console, "The pilot is done. In brackets: 95 % intervals.")
    console.print(_groups_table(plan["groups"]))
    _say(
        console,
        f"{_between(plan['candidates'], lambda count: f'{count:,.0f}')} candidates in {plan['intervals']:,} intervals "
        f"will fill the quotas; about {_bytes(plan['bytes'])}",
    )
    _outlook(console, plan)
    _say(console, f"to go on: {command}")


def _outlook(console: Console, plan: Mapping[str, Any]) -> None:
    """What is to be made, by how many workers, and what that rests on."""
    if plan["unfillable"]:
        _say(console, f"! {plan['unfillable']}")
        return
    if plan["spent"] is not None and plan["spent"]["device_seconds"]:
        spent = plan["spent"]
        cost = "" if spent["cost"] is None else f", cost {_money(spent['cost'])}"
        _say(console, f"so far: {_duration(spent['device_seconds'])} of device time{cost}")
    if not plan["to_go"]["intervals"]:
        _say(console, "nothing is left to generate")
        return
    rate = plan["images_per_second"]
    if rate is None:
        _say(
            console,
            "rate unknown: state generate.images_per_second, or run the pilot (ffr generate … --stop-after pilot)",
        )
        return
    left = plan["to_go"]
    _say(console, f"To make {left['candidates']:,} candidates in {left['intervals']:,} intervals:")
    console.print(_fleets_table(plan))
    measured = plan["measured"]
    per_worker = f"{_between(rate, lambda value: f'{value:.3g}')} images/s a worker"
    told = [f"{per_worker}, {'as measured' if measured['rate'] else 'as the recipe states'}"]
    if not measured["acceptance"]:
        told.append("every candidate taken for accepted")
    if not all(measured.values()):
        told.append("--stop-after pilot measures")
    _say(console, "; ".join(told))


def _fleets_table(plan: Mapping[str, Any]) -> Table:
    table = Table()
    priced = any(fleet["cost"] is not None for fleet in plan["fleets"])
    for name in ("workers", "GPUs", "time", *(["cost"] if priced else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for fleet in plan["fleets"]:
        cost = [_between(fleet["cost"], _money)] if priced else []
        table.add_row(f"{fleet['workers']}", f"{fleet['gpus']:g}", _between(fleet["seconds"], _duration), *cost)
    return table


def _groups_table(groups: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table()
    table.add_column("group", overflow="fold")
    for name in ("quota", "accepted", "acceptance %"):
        table.add_column(name, justify="right")
    table.add_column("rejected")
    for name, row in groups.items():
        share = row.get("acceptance")
        table.add_row(
            name,
            f"{row['quota']:,}",
            f"{row['accepted']:,}",
            "" if share is None else _between(share, _share),
            _reasons(row["rejected"]) or "none",
        )
    return table


def status_view(status: Mapping[str, Any]) -> RenderableType:
    """``ffr status`` for people."""
    parts: list[RenderableType] = [Text(line) for line in _status_lines(status)]
    parts.append(_groups_table(status["groups"]))
    parts += [Text(f"given up: {count} × {why}") for why, count in status["abandoned"].items()]
    parts += [Text(_driver_line(driver)) for driver in status["drivers"] if driver["state"] != "ended"]
    if ended := sum(driver["state"] == "ended" for driver in status["drivers"]):
        parts.append(Text(f"{ended} earlier start{'s' if ended > 1 else ''} ended"))
    parts += [Text(_event_line(event), style="dim") for event in status["events"]]
    return Group(*parts)


def status_line(status: Mapping[str, Any]) -> str:
    """The same on one line, for logs."""
    return "; ".join(_status_lines(status))


def watch(console: Console, statuses: Iterable[Mapping[str, Any]]) -> None:
    """Show each status in place of the one before; off a terminal, a line each."""
    if not console.is_terminal:
        for status in statuses:
            console.print(status_line(status), highlight=False, markup=False)
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        for status in statuses:
            live.update(status_view(status), refresh=True)


def _status_lines(status: Mapping[str, Any]) -> list[str]:
    intervals, to_go, spent = status["intervals"], status["to_go"], status["spent"]
    alive = [driver for driver in status["drivers"] if driver["state"] == "alive"]
    state = "finished" if status["finished"] else "running" if alive else "not running"
    failed = f", {status['failures']:,} failed attempts" if status["failures"] else ""
    kept = sum(min(row["accepted"], row["quota"]) for row in status["groups"].values())
    total = sum(row["quota"] for row in status["groups"].values())
    head = (
        f"{state}: {kept:,} of {total:,} images in round {status['round']}, {intervals['committed']:,} of "
        f"{intervals['planned']:,} intervals committed, {intervals['abandoned']:,} abandoned{failed}"
    )
    pace = []
    if status["images_per_second"] is not None:
        pace.append(f"{status['images_per_second']:.1f} images/s {'now' if alive else 'when it last ran'}")
    if to_go is not None and to_go["seconds"] is not None and to_go["intervals"]:
        of = _workers(to_go["workers"] or 1)
        pace.append(f"to go {_between(to_go['seconds'], _duration)} with {of}")
    pace.append(_bytes(status["bytes"]))
    costs = []
    if spent["device_seconds"]:
        costs.append(f"{_duration(spent['device_seconds'])} of device time")
    if spent["cost"] is not None:
        costs.append(f"cost {_money(spent['cost'])} so far")
    if to_go is not None and to_go["cost"] is not None and to_go["intervals"]:
        costs.append(f"{_between(to_go['cost'], _money)} to go")
    lines = [head, ", ".join(pace), *([", ".join(costs)] if costs else [])]
    if status["study"] is not None:
        lines[:1] = [_study_line(status["study"], alive=bool(alive)), f"pool {head}"]
    return lines


def _study_line(study: Mapping[str, Any], *, alive: bool) -> str:
    state = "finished" if study["ended"] else "running" if alive else "not running"
    if study["total"] is None:
        return f"study {state}: no cell has come to its end yet"
    what = "ways of training have chosen their rates" if study["of"] == "rates" else "cells have come to their end"
    failed = f", {study['failures']:,} of them failed" if study["failures"] else ""
    left = f", {_duration(study['eta_s'])} to go" if alive and study["eta_s"] and not study["ended"] else ""
    return f"study {state}: {study['done']:,} of {study['total']:,} {what}{failed}{left}"


def _driver_line(driver: Mapping[str, Any]) -> str:
    cost = "" if driver["cost"] is None else f", cost {_money(driver['cost'])}"
    return (
        f"driver {driver['driver']} on {driver['host']}: {driver['state']}, {_workers(driver['workers'])}, "
        f"{_duration(driver['device_seconds'])} of device time{cost}"
    )


def _event_line(event: Mapping[str, Any]) -> str:
    if event["event"] == "cell_ended":
        mark = "✗" if event["failed"] else "✓"
        return f"{str(event['at'])[11:19]} {mark} {event['done']}/{event['total']} {event['what']}: {event['detail']}"
    if event["event"] in {"began", "ended"}:
        told = ": ".join(str(part) for part in (event["what"], event.get("detail")) if part)
        return f"{str(event['at'])[11:19]} {event['event']} {told}"
    told = " ".join(
        f"{name}={value}"
        for name, value in event.items()
        if name not in {"at", "driver", "event"} and isinstance(value, str | int | float) and value != ""
    )
    return f"{str(event['at'])[11:19]} {event['event']} {told}"


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False)


def results_table(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Group accuracies of every cell, one line each, averaged over its seeds; the best worst group stands out."""
    cells: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        cells.setdefault(f"{row['arm']} × {row['mitigation']}", []).append(row)
    of = _over_seeds({len(found) for found in cells.values()})
    table = Table(title=f"Accuracy on test, % ({of})", title_justify="left")
    names = list(rows[0]["groups"])
    first = "trained with"
    taken = _BESIDE_GROUPS + max(map(len, (first, *cells)))
    if taken + sum(3 + max(map(len, name.split("_"))) for name in names) > console.width:
        table.caption = f"{len(names)} groups: the report and results.json have each"
        names = []
    table.add_column(first, no_wrap=True)
    for name in ("worst group", "group mean", *(name.replace("_", " ") for name in names)):
        table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
    best = max(_mean(found, "worst_group") for found in cells.values())
    for cell, found in cells.items():
        worst = _mean(found, "worst_group")
        groups = [
            sum(row["groups"][name]["correct"] / row["groups"][name]["count"] for row in found) / len(found)
            for name in names
        ]
        shown = [f"{100 * value:.1f}" for value in (worst, _mean(found, "group_mean"), *groups)]
        shown[0] = f"[bold green]{shown[0]}[/]" if worst == best else shown[0]
        table.add_row(cell, *shown)
    console.print(table)


def study_tables(
    console: Console,
    tables: Sequence[Mapping[str, Any]],
    lead: Any,
    *,
    skipped: Sequence[Mapping[str, Any]],
    failures: Sequence[Mapping[str, Any]],
) -> None:
    """A table for each bias ratio and variant, then what has no place in them."""
    for table in tables:
        console.print(_study_table(table, lead, narrow=console.width < _WIDE))
    for what, cells in (("left out", skipped), ("failed", failures)):
        for cell in cells:
            seed = f", seed {cell['seed']}" if "seed" in cell else ""
            why = cell["why"] if "why" in cell else f"{cell['stage']}: {cell['error']}"
            _say(console, f"{what}: {cell['arm']} × {cell['mitigation']}, {_study_name(cell)}{seed}: {why}")


def _study_table(table: Mapping[str, Any], lead: Any, *, narrow: bool) -> Table:
    """On a ``narrow`` screen each interval stands below its number, in whole points."""
    lines = table["lines"]
    counts = {len(line["seeds"]) for line in lines}
    title = f"{_study_name(table)}: accuracy on test, % ({_over_seeds(counts)}; in brackets 95 %)"
    shown = Table(title=title, title_justify="left")
    shown.add_column("trained with", no_wrap=True)
    against = {"to_baseline": "to none\n× erm", **({} if lead is None else {"to_lead": _lead_column(lead)})}
    told = [name for name in against if any(line[name] is not None for line in lines)]
    for name in ("worst\ngroup", "n", "group\nmean", *(against[name] for name in told)):
        shown.add_column(name, justify="right", no_wrap=True)
    best = max(line["worst_group"]["mean"] for line in lines)
    for line in lines:
        worst = line["worst_group"]
        shown.add_row(
            f"{line['arm']}{_between_parts(narrow=narrow)}× {line['mitigation']}",
            Text(_with_interval(worst, "", narrow=narrow), style="bold green" if worst["mean"] == best else ""),
            f"{line['n_worst']:,}",
            _share(line["group_mean"]),
            *(_difference(line[name], max(counts), narrow=narrow) for name in told),
        )
    return shown


def _lead_column(lead: Any) -> str:
    return f"to {lead.arm}\n× {lead.mitigation}"


def _over_seeds(counts: set[int]) -> str:
    """What the numbers of a table are, by how many seeds its lines have."""
    most = max(counts)
    if most == 1:
        return "one seed: differences of a few points are noise"
    return f"mean of {'' if len(counts) == 1 else 'up to '}{most} seeds"


def _difference(found: Mapping[str, Any] | None, seeds: int, *, narrow: bool) -> str:
    """Marked where it rests on fewer than the ``seeds`` of its table."""
    if found is None:
        return ""
    pairs = found["pairs"]
    mark = f"{_between_parts(narrow=narrow)}over {pairs}" if pairs < seeds else ""
    return _with_interval(found, "+", narrow=narrow) + mark


def _study_name(cell: Mapping[str, Any]) -> str:
    ratio = "bias as in the data" if cell["bias_ratio"] is None else f"r {cell['bias_ratio']}"
    return f"{ratio}, {cell['variant']}" if cell["variant"] else ratio


def _with_interval(found: Mapping[str, Any], sign: str, *, narrow: bool) -> str:
    """A number and its interval, where it has one, in percent."""
    mean = f"{_no_minus_zero(found['mean'], 1):{sign}.1f}"
    if found["low"] is None:
        return mean
    digits = 0 if narrow else 1
    low, high = (f"{_no_minus_zero(found[name], digits):{sign}.{digits}f}" for name in ("low", "high"))
    return f"{mean}{_between_parts(narrow=narrow)}({low}, {high})"


def _between_parts(*, narrow: bool) -> str:
    return "\n" if narrow else " "


def _no_minus_zero(share: float, digits: int) -> float:
    return round(100 * share, digits) + 0.0


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return sum(float(row[name]) for row in rows) / len(rows)
