"""How far an output is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from ffr_dist.cli.show.plans import groups_table
from ffr_dist.cli.show.words import between, duration, money, size, workers


def status_view(status: Mapping[str, Any]) -> RenderableType:
    """``ffr status`` for people."""
    parts: list[RenderableType] = [Text(line) for line in _status_lines(status)]
    parts.append(groups_table(status["groups"]))
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
        of = workers(to_go["workers"] or 1)
        pace.append(f"to go {between(to_go['seconds'], duration)} with {of}")
    pace.append(size(status["bytes"]))
    costs = []
    if spent["device_seconds"]:
        costs.append(f"{duration(spent['device_seconds'])} of device time")
    if spent["cost"] is not None:
        costs.append(f"cost {money(spent['cost'])} so far")
    if to_go is not None and to_go["cost"] is not None and to_go["intervals"]:
        costs.append(f"{between(to_go['cost'], money)} to go")
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
    left = f", {duration(study['eta_s'])} to go" if alive and study["eta_s"] and not study["ended"] else ""
    return f"study {state}: {study['done']:,} of {study['total']:,} {what}{failed}{left}"


def _driver_line(driver: Mapping[str, Any]) -> str:
    cost = "" if driver["cost"] is None else f", cost {money(driver['cost'])}"
    return (
        f"driver {driver['driver']} on {driver['host']}: {driver['state']}, {workers(driver['workers'])}, "
        f"{duration(driver['device_seconds'])} of device time{cost}"
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
