"""What a person sees: events as lines and live bars, values as tables. Everything that prints is in this room."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from ffr_dist.launch.events import Began, Ended, Event, Generating, Training, Warned

_PLAIN_EVERY_S = 5.0


class Show:
    """Shows events: live bars on a terminal, a line now and then elsewhere (logs, CI)."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=28),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            TextColumn("[dim]{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._last_plain = 0.0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, event: Event) -> None:
        match event:
            case Began(what, detail):
                self._clear()
                self._line(f"[cyan]…[/] {what} [dim]{detail}[/]")
            case Ended(what, detail, reused):
                self._clear()
                mark, note = ("[dim]=[/]", " [dim](done before)[/]") if reused else ("[green]✓[/]", "")
                self._line(f"{mark} {what}: {detail}{note}")
            case Warned(message):
                self._line(f"[yellow]![/] {message}")
            case Generating():
                self._generating(event)
            case Training():
                self._training(event)

    def _generating(self, event: Generating) -> None:
        total = sum(event.quota.values())
        done = min(total, _kept(event) + event.in_flight)
        rate = "rate unknown" if event.images_per_second is None else f"{event.images_per_second:.1f} images/s"
        left = "" if event.eta_s is None else f", {_duration(event.eta_s)} to go"
        note = f"{rate}{left}, round {event.round}, {event.committed}/{event.planned} shards, {event.workers} workers"
        if self._plain(f"  generated {done:,} of {total:,} images ({note})"):
            return
        self._bar("all groups", done, total, note)
        for name, quota in event.quota.items():
            tried = event.tried.get(name, 0)
            accepted = event.accepted.get(name, 0)
            share = f"{accepted / tried:.1%} accepted" if tried else ""
            self._bar(name, min(accepted, quota), quota, share)

    def _training(self, event: Training) -> None:
        progress = event.progress
        score = "" if progress.score is None else f", val worst group {progress.score.value[0]:.1%}"
        note = f"loss {progress.loss:.3f}, lr {progress.lr:.1e}{score}"
        if self._plain(f"  {event.stage} {event.cell}: step {progress.step} of {progress.steps} ({note})"):
            return
        self._bar(event.stage, progress.step, progress.steps, note)

    def _bar(self, name: str, done: float, total: float, note: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total, note="")
        self._bars.update(self._tasks[name], completed=done, total=total, note=note)

    def _clear(self) -> None:
        for task in self._tasks.values():
            self._bars.remove_task(task)
        self._tasks.clear()

    def _line(self, text: str) -> None:
        self._console.print(text, highlight=False)

    def _plain(self, text: str) -> bool:
        """Off a terminal, say it as a line every few seconds; True if bars are not for here."""
        if self._console.is_terminal:
            return False
        if time.monotonic() - self._last_plain >= _PLAIN_EVERY_S:
            self._last_plain = time.monotonic()
            self._line(text)
        return True


def _kept(event: Generating) -> int:
    return sum(min(event.accepted.get(name, 0), quota) for name, quota in event.quota.items())


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def plan_table(console: Console, plan: Mapping[str, Any]) -> None:
    """``ffr plan`` for people: arms that take the same images share a column, those that take none have none."""
    groups = plan["groups"]
    columns: dict[tuple[int, ...], list[str]] = {}
    for arm in next(iter(groups.values()))["arms"]:
        columns.setdefault(tuple(row["arms"][arm] for row in groups.values()), []).append(arm)
    shown = {counts: arms for counts, arms in columns.items() if any(counts)}
    table = Table(title="Images of each group: real, in the pool, and taken by each arm", title_justify="left")
    table.add_column("group")
    for name in ("real", "pool", *("\n".join(arms) for arms in shown.values())):
        table.add_column(name, justify="right")
    for place, (name, row) in enumerate(groups.items()):
        table.add_row(name, f"{row['real']:,}", f"{row['quota']:,}", *(f"{counts[place]:,}" for counts in shown))
    console.print(table)
    seconds = plan["seconds"]
    time_told = (
        "rate unknown (run it once, or state generate.images_per_second)" if seconds is None else _duration(seconds)
    )
    console.print(
        f"{sum(row['quota'] for row in plan['groups'].values()):,} images in {plan['intervals']:,} intervals, "
        f"batches of {plan['batch']}; about {_bytes(plan['bytes'])}; time: {time_told}",
        highlight=False,
    )


def status_table(console: Console, status: Mapping[str, Any]) -> None:
    """``ffr status`` for people."""
    intervals = status["intervals"]
    state = "finished" if status["finished"] else f"round {status['round']}"
    eta = f", about {_duration(status['eta_s'])} to go" if status["eta_s"] else ""
    console.print(
        f"{state}: {intervals['committed']} of {intervals['planned']} intervals committed, "
        f"{intervals['abandoned']} abandoned{eta}",
        highlight=False,
    )
    table = Table()
    for name, justify in (("group", "left"), ("quota", "right"), ("accepted", "right"), ("rejected", "left")):
        table.add_column(name, justify="left" if justify == "left" else "right")
    for name, row in status["groups"].items():
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in row["rejected"].items())
        table.add_row(name, f"{row['quota']:,}", f"{row['accepted']:,}", reasons or "none")
    console.print(table)


def results_table(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Group accuracies of every cell, one line each, averaged over its seeds; the best worst group stands out."""
    cells: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        cells.setdefault(f"{row['arm']} × {row['mitigation']}", []).append(row)
    seeds = max(len(found) for found in cells.values())
    of = "one seed: differences of a few points are noise" if seeds == 1 else f"mean of {seeds} seeds"
    table = Table(title=f"Accuracy on test, % ({of})", title_justify="left")
    names = list(rows[0]["groups"])
    table.add_column("trained with")
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


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return sum(float(row[name]) for row in rows) / len(rows)
