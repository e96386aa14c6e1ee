"""The JSONL log of a driver: what it told, one line an event, under ``events/``.

Object storage knows no appending, so a part of the log is rewritten whole as it grows, and a new one begun at about 1 MB.
A thread of its own writes, so that a slow store never holds up the driver; what it cannot write is kept for the next
time, up to a bound, beyond which lines are dropped and counted. Nothing here ends a run: a store that refuses the log
is told once as a warning. Secrets are struck out of every line.
"""

from __future__ import annotations

import dataclasses
import json
import re
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from ffr_dist.errors import BrokenError, FFRError, MissingError
from ffr_dist.launch.events import Event, Generating, Tell, Training, Warned
from ffr_dist.launch.watch.redact import secrets, strike_out
from ffr_dist.shards import layout
from ffr_dist.store import Store

_PART_BYTES = 1_000_000
_MOST_BYTES = 4_000_000
"""Held while the store takes nothing."""
_WRITE_EVERY_S = 10.0
_STATE_EVERY_S = 10.0
"""Events that tell a state, not a fact, are logged this often: each one stands for all before it."""
_PARTS_READ = 4
_TAIL_BYTES = 8_192
_WORD = re.compile(r"(?<!^)(?=[A-Z])")


class EventLog:
    """Passes events on to ``tell``, and logs them. Used in a ``with`` block; may be told from any thread."""

    def __init__(self, store: Store, driver: str, tell: Tell) -> None:
        self._store = store
        self._driver = driver
        self._tell = tell
        self._lock = threading.Lock()
        self._parts: list[list[bytes]] = [[]]
        """The part that grows, and before it those that are full but not written yet."""
        self._sizes = [0]
        self._first = 0
        """The number of the first of these parts."""
        self._dropped = 0
        self._stale = False
        self._failing = False
        self._last_state: dict[str, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write_now_and_then, name="eventlog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self.write()

    def __call__(self, event: Event) -> None:
        self._tell(event)
        name = _name(event)
        now = time.monotonic()
        if isinstance(event, Generating | Training):
            if now - self._last_state.get(name, -_STATE_EVERY_S) < _STATE_EVERY_S:
                return
            self._last_state[name] = now
        self._add(_line(self._driver, name, _fields(event, secrets())))

    def write(self) -> None:
        """Write what the store does not hold yet. Never raises for the store's sake."""
        try:
            while self._write_first_part():
                pass
        except FFRError as error:
            if not self._failing:
                self._failing = True
                self._tell(
                    Warned(f"the event log cannot be written ({error}); the run goes on, the log is kept for later")
                )
        else:
            self._failing = False

    def _write_first_part(self) -> bool:
        """True where another part waits behind it."""
        with self._lock:
            if not self._stale:
                return False
            body = b"".join(self._parts[0])
            full = len(self._parts) > 1
            self._stale = full
        try:
            self._store.put(layout.events_key(f"{self._driver}-{self._first:04d}"), body)
        except BaseException:
            self._stale = True
            raise
        if full:
            with self._lock:
                del self._parts[0], self._sizes[0]
                self._first += 1
        return full

    def _add(self, line: bytes) -> None:
        with self._lock:
            if sum(self._sizes) + len(line) > _MOST_BYTES:
                self._dropped += 1
                return
            if self._dropped:
                line = _line(self._driver, "dropped", {"lines": self._dropped}) + line
                self._dropped = 0
            if self._sizes[-1] + len(line) > _PART_BYTES and self._parts[-1]:
                self._parts.append([])
                self._sizes.append(0)
            self._parts[-1].append(line)
            self._sizes[-1] += len(line)
            self._stale = True

    def _write_now_and_then(self) -> None:
        while not self._ended.wait(_WRITE_EVERY_S):
            self.write()


def last_lines(store: Store, count: int) -> list[dict[str, Any]]:
    """The latest events of all drivers of an output, oldest first; reads the ends of the newest parts only."""
    parts = sorted(store.list(layout.EVENTS), key=lambda info: (info.modified, info.key))
    found: list[dict[str, Any]] = []
    for info in reversed(parts[-_PARTS_READ:]):
        start = max(0, info.size - _TAIL_BYTES)
        try:
            (tail,) = store.get_ranges(info.key, [start], [info.size - start])
        except (MissingError, BrokenError):  # deleted or cut since it was listed
            continue
        lines = tail.split(b"\n")[1 if start else 0 :]
        found += [event for event in map(_parsed, lines) if event is not None]
    return sorted(found, key=lambda event: str(event["at"]))[-count:]


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and {"at", "driver", "event"} <= event.keys() else None


def _line(driver: str, name: str, fields: Mapping[str, Any]) -> bytes:
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    text = json.dumps({"at": at, "driver": driver, "event": name, **fields}, default=str)
    return f"{text}\n".encode()


def _name(event: Event) -> str:
    return _WORD.sub("_", type(event).__name__).lower()


def _fields(value: Any, known: Sequence[str]) -> Any:
    """A value as JSON, its text without secrets, of which these are known."""
    if dataclasses.is_dataclass(value):
        return {field.name: _fields(getattr(value, field.name), known) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {strike_out(str(name), known): _fields(item, known) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_fields(item, known) for item in value]
    if isinstance(value, float):
        return round(value, 6)
    return strike_out(value, known) if isinstance(value, str) else value
