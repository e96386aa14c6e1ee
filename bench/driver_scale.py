"""The driver and its log of commits under a million simulated shards and ten thousand simulated workers.

Workers are places in one event loop: each holds two intervals, ends them after random times (one in a thousand takes five
times as long), and now and then dies before or after its commit, or is heard twice. What they do not do is make images:
a commit with made-up counts for eight groups is all there is of an interval. The driver, the log, publishing and the
store are the real ones.

* ``receipts``: the whole loop, the workers' publishing included, on a store in memory; the peer is the rate it must keep.
  Nothing there waits, so CPU seconds are counted, of all threads, and a busy machine does not enter; the same in ``resume``.
* ``receipts_folder``: the same on a folder, where each commit is fsynced; the peer is a bare loop that creates the same
  bytes in one folder with the same two fsyncs each.
* ``resume``: a second driver that starts from what is stored, in intervals a second; the peer is 20 s for a million.
* ``memory``: resident memory of a process of its own whose commits go nowhere (its plan and segments go to a folder), at a
  tenth of the intervals and at all of them. The goal is the larger of 5 % and 20 MB.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from bench import Line
from ffr_dist.generate.driver import Driver
from ffr_dist.generate.work import Work
from ffr_dist.groups import Group, Groups
from ffr_dist.plan.document import Pinned
from ffr_dist.plan.rounds import Wait
from ffr_dist.quota import Exact
from ffr_dist.shards import documents, layout
from ffr_dist.shards.commit import Commit, GroupTally, ObjectRef, publish
from ffr_dist.shards.log import SEGMENT
from ffr_dist.store import Store, open_store

ROOT = Path(__file__).parents[1]
WORKERS = 10_000
IN_FLIGHT = 2
RECEIPTS_PER_S = 1_000
RESUMED_PER_S = 1_000_000 / 20
PAGE = 1_000
"""Keys that one request of a bucket's listing answers."""

GROUPS = Groups.of([Group(f"label_{label}_place_{place}", label, place) for label in (0, 1) for place in range(4)])
QUOTA = Exact(dict.fromkeys(GROUPS.names, 12_000_000))
"""More than is ever reached: the end of a run, with its sidecars, is not measured here."""
PINNED = Pinned(batch=64, images_per_shard=64, threads=1, weights_sha256="", prepared={}, keep={})
ENVIRONMENT = {"gpu": "NVIDIA H100 80GB HBM3", "torch": "2.13.0", "diffusers": "0.42.1", "codec": "jpg 95"}

Publish = Callable[[Commit], Commit]
_numbers = itertools.count()


def run(*, quick: bool) -> Iterable[Line]:
    intervals = 20_000 if quick else 1_000_000
    workers = 200 if quick else WORKERS
    yield from on_memory(intervals, workers)
    yield on_folder(300 if quick else 20_000, workers)
    yield memory(40_000 if quick else intervals, workers)


def on_memory(intervals: int, workers: int) -> Iterator[Line]:
    """Receipts a second, then the resume from what they left."""
    store = open_store(f"memory://driver-scale-{os.getpid()}-{next(_numbers)}")
    driver = _Timed(Driver(store, GROUPS, QUOTA, PINNED))
    began = time.process_time()
    for _ in simulate(driver, lambda commit: publish(store, commit), intervals, workers):
        pass
    seconds = time.process_time() - began
    yield Line(
        name="receipts",
        ours=intervals / seconds,
        peer=RECEIPTS_PER_S,
        goal=1.0,
        unit=f"receipts/s with the workers' publishing; driver and log alone {intervals / driver.seconds:,.0f}/s",
    )
    counted = _CountedLists(store)
    began = time.process_time()
    resumed = Driver(cast(Store, counted), GROUPS, QUOTA, PINNED)
    seconds = time.process_time() - began
    driver.driver.refresh()  # commits whose workers died before they were heard
    if resumed.progress() != driver.driver.progress():
        raise AssertionError("a resumed driver counts otherwise than the one before it")
    yield Line(
        name="resume",
        ours=intervals / seconds,
        peer=RESUMED_PER_S,
        goal=1.0,
        unit=f"intervals/s ({seconds:.1f} s; {counted.calls} lists of {counted.pages} pages, {counted.gets:,} gets)",
    )


def on_folder(intervals: int, workers: int) -> Line:
    """Receipts a second on a folder, and bare fsynced files a second."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"{folder}/out")
        driver = _Timed(Driver(store, GROUPS, QUOTA, PINNED))
        began = time.perf_counter()
        for _ in simulate(driver, lambda commit: publish(store, commit), intervals, workers):
            pass
        ours = intervals / (time.perf_counter() - began)
        bodies = [documents.to_bytes(_commit(interval, "bare")) for interval in range(min(intervals, 2_000))]
        began = time.perf_counter()
        _create_bare(Path(folder, "bare"), bodies)
        bare = len(bodies) / (time.perf_counter() - began)
    return Line(name="receipts_folder", ours=ours, peer=bare, goal=0.5, unit="receipts/s; peer: bare fsynced files/s")


def memory(intervals: int, workers: int) -> Line:
    """Resident megabytes early on, when each part of the program has run, and after all intervals."""
    early = max(intervals // 10, 3 * SEGMENT)
    code = f"from bench.driver_scale import print_memory; print_memory({early}, {intervals}, {workers})"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    before, after = (float(word) for word in told.stdout.split())
    return Line(
        name="memory",
        ours=before,
        peer=after,
        goal=round(before / max(1.05 * before, before + 20), 4),
        unit=f"MB resident after {early:,} and (peer) {intervals:,} intervals",
    )


def print_memory(early: int, intervals: int, workers: int) -> None:
    """For a process of its own: resident megabytes early on and at the end."""
    with tempfile.TemporaryDirectory() as folder:
        driver = _Timed(Driver(open_store(folder), GROUPS, QUOTA, PINNED))
        for received in simulate(driver, lambda commit: commit, intervals, workers):
            if received in (early, intervals):
                print(_resident_mb())


def simulate(driver: _Timed, publish_it: Publish, intervals: int, workers: int) -> Iterator[int]:
    """Run workers until so many intervals are received; yields their number after each."""
    rng = random.Random(0)
    attempts = itertools.count()
    flying: list[tuple[float, int]] = []
    now, received = 0.0, 0
    while received < intervals:
        while len(flying) < workers * IN_FLIGHT:
            step = driver.next()
            if not isinstance(step, Work):
                assert isinstance(step, Wait)
                break
            takes = rng.lognormvariate(0, 0.3) * (5 if rng.random() < 0.001 else 1)
            heapq.heappush(flying, (now + takes, step.interval))
        now, interval = heapq.heappop(flying)
        fate = rng.random()
        if fate < 0.01:  # it died with nothing to show
            driver.lost(interval)
            continue
        commit = publish_it(_commit(interval, f"{next(attempts):032x}"))
        if fate < 0.02:  # it died, and nobody heard of its commit
            driver.lost(interval)
            continue
        driver.committed(commit)
        if fate < 0.03:
            driver.committed(commit)
        received += 1
        yield received


class _Timed:
    """A driver, and the CPU seconds spent in it."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.seconds = 0.0

    def next(self) -> Any:
        return self._timed(self.driver.next)

    def committed(self, commit: Commit) -> None:
        self._timed(self.driver.committed, commit)

    def lost(self, interval: int) -> None:
        self._timed(self.driver.lost, interval)

    def _timed(self, call: Callable[..., Any], *arguments: Any) -> Any:
        began = time.process_time()
        try:
            return call(*arguments)
        finally:
            self.seconds += time.process_time() - began


class _CountedLists:
    """A store that counts what a bucket would charge for reading."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.calls = self.pages = self.gets = 0

    def list(self, prefix: str = "", after: str | None = None) -> Iterator[Any]:
        self.calls += 1
        self.pages += 1
        for number, info in enumerate(self._store.list(prefix, after), 1):
            yield info
            self.pages += number % PAGE == 0

    def get(self, key: str) -> bytes:
        self.gets += 1
        return self._store.get(key)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def _commit(interval: int, attempt: str) -> Commit:
    tar, sidecar = (hashlib.sha256(b"%d %d" % (interval, part)).hexdigest() for part in (0, 1))
    bad = interval % 3
    groups = {
        name: GroupTally(8, 8 - bad - (place == 0), {"blank": bad, "disagrees": int(place == 0)})
        for place, name in enumerate(GROUPS.names)
    }
    return Commit(
        interval=interval,
        attempt=attempt,
        tar=ObjectRef(layout.tar_key(interval, tar), tar, 2_000_000 + interval),
        sidecar=ObjectRef(layout.sidecar_key(interval, sidecar), sidecar, 9_000 + interval % 100),
        groups=groups,
        environment=ENVIRONMENT,
        seconds=4.0 + interval % 7,
    )


def _create_bare(folder: Path, bodies: list[bytes]) -> None:
    folder.mkdir()
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for number, body in enumerate(bodies):
            with (folder / f"{number}").open("xb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _resident_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024
