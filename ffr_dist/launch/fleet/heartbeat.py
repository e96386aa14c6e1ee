"""Who works on an output: a record of each start under ``drivers/``, rewritten every few seconds while it lives.

Advisory. Two drivers on one output make the same set and each interval counts once; they only cost twice as much. So a
record that cannot be written ends nothing, one that cannot be read is nobody's, and a driver that was taken for dead may
go on. Wall clocks are written for people and never compared: whether a record changes is watched on one's own clock.
"""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from ffr_dist.errors import BrokenError, ConflictError, MissingError, StoreError
from ffr_dist.shards import documents, layout
from ffr_dist.shards.documents import CLOSED, Count
from ffr_dist.store import Store

_BEAT_S = 4.0
_WATCH_S = 15.0
"""Longer than three beats: one may be late."""
_LOOK_S = 1.0
_COMPANY_S = 30.0
_SPENT_S = 15.0
"""How often it is asked what other drivers at work have spent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverRecord:
    """One start of a generation, as its driver last told of it."""

    driver: str
    host: str
    boot: str
    """The boot of that host and the process namespace; empty where the system tells neither."""
    pid: Count
    pid_started: str
    """In the kernel's clock; two processes of one pid differ in it."""
    started: str
    """UTC, for people."""
    beat: Count
    """Counts up."""
    ended: str | None = None
    """UTC; when it ended or was taken for dead."""
    workers: Count = 0
    device_seconds: float = 0.0
    cost: float | None = None

    __pydantic_config__ = CLOSED


@dataclass(frozen=True, slots=True)
class Spent:
    """What a driver tells of itself."""

    workers: int = 0
    device_seconds: float = 0.0
    cost: float | None = None


def read_drivers(store: Store) -> list[DriverRecord]:
    """The records of all starts, by driver. What is no record is passed over: nothing rests on it."""
    found = []
    for info in list(store.list(layout.DRIVERS)):
        try:
            record = documents.from_bytes(DriverRecord, store.get(info.key), info.key)
        except (BrokenError, ConflictError, MissingError):
            continue
        if info.key == layout.driver_key(record.driver):
            found.append(record)
    return found


class Heartbeat:
    """This process's record. Beats in a thread of its own from ``with`` on, and says at the end that it ended.

    ``spent`` is what it tells; it is set as that becomes known.
    """

    def __init__(self, store: Store, *, every_s: float = _BEAT_S) -> None:
        self.spent: Callable[[], Spent] = Spent
        self._store = store
        self._every_s = every_s
        self._seen: dict[str, datetime] | None = None
        """When the other records were changed, by the store's clock, which is only compared with itself."""
        self._met = -_COMPANY_S
        self._counted = -_SPENT_S
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="heartbeat", daemon=True)
        self._record = DriverRecord(
            driver=uuid.uuid4().hex[:12],
            host=platform.node(),
            boot=_boot(),
            pid=os.getpid(),
            pid_started=process_started(os.getpid()) or "",
            started=_now(),
            beat=0,
        )

    @property
    def driver(self) -> str:
        """The name of this start."""
        return self._record.driver

    def __enter__(self) -> Self:
        self.beat()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self.beat(ended=_now())

    @property
    def company(self) -> bool:
        """Whether another driver gave a sign of life a short while ago."""
        return time.monotonic() - self._met < _COMPANY_S

    def spent_elsewhere(self, price: float | None) -> float:
        """What all other starts have cost; those that knew no price, at ``price`` an hour."""
        others = (record for record in read_drivers(self._store) if record.driver != self.driver)
        return sum(
            record.device_seconds / 3600 * (price or 0.0) if record.cost is None else record.cost for record in others
        )

    def spent_beside(self, price: float | None) -> float | None:
        """The same, as another driver at work changes it; None where none is, or a moment after this was asked."""
        now = time.monotonic()
        if not self.company or now - self._counted < _SPENT_S:
            return None
        self._counted = now
        try:
            return self.spent_elsewhere(price)
        except StoreError:
            return None

    def beat(self, ended: str | None = None) -> None:
        """Rewrite the record now."""
        spent = self.spent()
        self._record = replace(
            self._record,
            beat=self._record.beat + 1,
            ended=ended,
            workers=0 if ended else spent.workers,
            device_seconds=spent.device_seconds,
            cost=spent.cost,
        )
        with contextlib.suppress(StoreError):  # whoever needs the store itself will say what is wrong with it
            self._store.put(layout.driver_key(self.driver), documents.to_bytes(self._record))

    def _beat_on(self) -> None:
        while not self._ended.wait(self._every_s):
            self.beat()
            self._look_around()

    def _look_around(self) -> None:
        with contextlib.suppress(StoreError):
            mine = layout.driver_key(self.driver)
            found = {info.key: info.modified for info in self._store.list(layout.DRIVERS) if info.key != mine}
            if self._seen is not None and found != self._seen:
                self._met = time.monotonic()
            self._seen = found


def claim(store: Store, *, join: bool = False, watch_s: float = _WATCH_S) -> list[DriverRecord]:
    """The drivers that are at work on this output; none of them is a reason to stop with ``join``.

    Without, a driver whose record changes while it is watched is a ConflictError. One whose process is gone from this host,
    or whose record stands still, is marked as ended. Call it before the own record is written.
    """
    doubtful = [record for record in read_drivers(store) if record.ended is None]
    gone = [record for record in doubtful if _is_gone(record)]
    doubtful = [record for record in doubtful if record not in gone]
    alive: dict[str, DriverRecord] = {}
    deadline = time.monotonic() + watch_s
    while len(alive) < len(doubtful) and time.monotonic() < deadline and (join or not alive):
        time.sleep(min(_LOOK_S, watch_s / 4))
        now = {record.driver: record for record in read_drivers(store)}
        for record in doubtful:
            later = now.get(record.driver)
            if later is None or later.ended is not None:
                doubtful = [other for other in doubtful if other is not record]
            elif later.beat != record.beat:
                alive[record.driver] = later
    if alive and not join:
        other = next(iter(alive.values()))
        raise ConflictError(
            f"another driver is at work on {store.url}: process {other.pid} on {other.host}, since {other.started}. "
            "Two are safe, but cost twice as much unless they share the work: let it go on, or stop it, or help it to generate "
            "(ffr generate --join)"
        )
    for record in [*gone, *(record for record in doubtful if record.driver not in alive)]:
        _mark_ended(store, record)
    return list(alive.values())


def _is_gone(record: DriverRecord) -> bool:
    """Whether it ran in this boot and namespace, and its process is no more."""
    return record.boot != "" and record.boot == _boot() and process_started(record.pid) != record.pid_started


def _mark_ended(store: Store, record: DriverRecord) -> None:
    """So that the next start need not watch it again; should it live, its next beat says so."""
    with contextlib.suppress(StoreError):
        store.put(layout.driver_key(record.driver), documents.to_bytes(replace(record, ended=_now(), workers=0)))


def _boot() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 - not the path of a file
    except OSError:
        return ""


def process_started(pid: int) -> str | None:
    """When a process began, None where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # a process may call itself anything, within brackets
    return None if fields[0] in {"Z", "X"} else fields[19]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
