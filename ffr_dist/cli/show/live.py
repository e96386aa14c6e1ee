"""Events as lines and live bars."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from ffr_dist.cli.show.words import duration, reasons, workers
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
_NARROW = 100


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
            left.append(f"{duration(event.eta_s)} to go")
        note = f" [dim]({', '.join(left)})[/]" if left else ""
        self._line(f"{mark} {event.done}/{event.total} {escape(event.what)}: {escape(event.detail)}{note}")

    def _generating(self, event: Generating) -> None:
        total = sum(event.quota.values())
        done = min(total, _kept(event) + event.in_flight)
        rate = "rate unknown" if event.images_per_second is None else f"{event.images_per_second:.1f} images/s"
        state = [rate]
        if event.eta_s is not None:
            state.append(f"{duration(event.eta_s)} to go")
        state += [
            f"round {event.round}",
            f"{event.committed:,}/{event.planned:,} shards",
            workers(event.workers),
        ]
        money = []
        if event.cost is not None:
            limit = "" if event.max_cost is None else f" of {event.max_cost:g}"
            money.append(f"cost {event.cost:.2f}{limit}")
        if event.idle_share is not None:
            money.append(f"devices idle {event.idle_share:.1%}")
        if event.rejected:
            money.append(f"rejected {reasons(event.rejected)}")
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
            told.append(f"{duration(progress.eta_s)} to go")
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
