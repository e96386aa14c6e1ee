"""The whole engine on Ray against Ray Data: ``map_batches`` on actors, then ``write_webdataset``.

Both sides run the same sampler on two actors, whose devices are busy for a fixed time per batch and leave the CPU free (32
images a second each), encode alike, and write tars of 128 images to one file system in memory. The peer does no more than
that: no quotas, no decisions, no checksums, no sync. It is used as its documentation allows: a source that its checkpoints can
filter, a block for each tar, two calls at once in each actor so that one encodes while the other samples, as many blocks in
flight as ours has intervals, and its job-level ``CheckpointConfig``.

``ray_data_rate``: images a second, from half of the images on (ours has its pilot behind it then) to each device's last batch;
the devices allow 64.
``ray_data_rate_whole``: the same from the start of the command to the finished set, Ray's and the actors' start included.
``ray_data_cpu``: images for each CPU second, from half of the images on to the finished set; ``_whole`` from the start on.
Counted is user and system time of every process of the command, Ray's own daemons included, read from /proc ten times a second.
``_stages`` in a name: the peer encodes in tasks of a stage of their own, as pipelines of a GPU and a CPU stage usually are
written; then pixels cross its object store.

``faults``: at a third one worker process is killed, at two thirds the command with all its processes; then the same command is
run again. A duplicate is a key that a reader of the set meets twice, a loss one that it never meets; made twice is an image
that a device made more than once. Ours may make twice what was in flight: two intervals of each killed worker.

Trials of both sides alternate; a rate is the median. The quick run takes its rate from the time before the first kill, and is
too short to count CPU seconds.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Self

from bench import Line, Row
from bench._ray_sides import IN_FLIGHT, Plan
from bench.pack import scratch

CPU_GOAL = 1 / 0.7
_ROOT = Path(__file__).parent.parent
_TICK = os.sysconf("SC_CLK_TCK")
_POLL_S = 0.1
_PATIENCE_S = 240.0


def run(*, quick: bool) -> Iterator[Line | Row]:
    """The ratios, then what the faults cost."""
    with scratch() as folder, tempfile.TemporaryDirectory(prefix="rays") as rays:
        plan = Plan(
            folder=folder, ray_folder=rays, images=1280, size=256, batch=32, per_shard=128, workers=2, rate=32.0
        )
        if quick:
            plan = replace(plan, images=640, batch=16, per_shard=64)
            mine, theirs = faulted("ours", plan), faulted("peer", plan)
            yield from compare("ray_data", [mine.before], [theirs.before])
            yield mine.row("ours")
            yield theirs.row("peer")
            return
        stages = replace(plan, encode_stage=True)
        sides = (("ours", plan), ("peer", plan), ("peer", stages))
        ours, peer, staged = zip(*[[undisturbed(*side) for side in sides] for _ in range(2)], strict=True)
        yield from compare("ray_data", ours, peer)
        yield from compare("ray_data_stages", ours, staged)
        yield faulted("ours", plan).row("ours")
        yield faulted("peer", plan).row("peer")
        yield faulted("peer", replace(plan, checkpoint=False)).row("peer, no CheckpointConfig")


class Cost(NamedTuple):
    """What a run took: images a second, and images for each CPU second; in the steady state, and from the start on."""

    rate: float
    cpu: float | None = None
    rate_whole: float | None = None
    cpu_whole: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What two kills cost a side."""

    before: Cost
    """Up to the first kill."""
    figures: dict[str, float]

    def row(self, side: str) -> Row:
        return Row(name="faults", side=side, figures=self.figures)


def compare(name: str, ours: Sequence[Cost], peer: Sequence[Cost]) -> Iterator[Line]:
    for figure, goal, unit in (("rate", 1.0, "images/s"), ("cpu", CPU_GOAL, "images/CPU s")):
        for field in (figure, f"{figure}_whole"):
            mine, theirs = ([getattr(cost, field) for cost in costs] for costs in (ours, peer))
            if None not in mine:
                medians = {"ours": statistics.median(mine), "peer": statistics.median(theirs)}
                yield Line(name=f"{name}_{field}", **medians, goal=goal, unit=unit)


def undisturbed(side: str, whole: Plan) -> Cost:
    with trial(whole) as plan, Command(side, plan) as command:
        command.watch(lambda: len(read_log(plan)) >= plan.images / 2)  # by then every process has started and imported
        before, first = read_log(plan), command.cpu
        command.watch(plan.finished.exists)
        last = command.cpu
        command.watch_to_the_end()
        found = count_set(side, plan)
        if found != Found(images=plan.images, keys=plan.images, broken=0):
            raise RuntimeError(f"the set of {side} is not what was asked for: {found}")
        return Cost(
            rate=steady_rate(read_log(plan), before[-1].at),
            cpu=(plan.images - len(before)) / (last - first),
            rate_whole=plan.images / (float(plan.finished.read_text()) - command.began),
            cpu_whole=plan.images / last,
        )


def faulted(side: str, whole: Plan) -> Faults:
    with trial(whole) as plan:
        with Command(side, plan) as command:
            command.watch(lambda: len(read_log(plan)) >= plan.images / 3)
            before = read_log(plan)
            command.kill(before[-1].worker)
            command.watch(lambda: len(read_log(plan)) >= plan.images * 2 / 3)
            command.kill_all()
        made = read_log(plan)
        with Command(side, plan) as again:
            again.watch(lambda: len(read_log(plan)) > len(made))
            restart = read_log(plan)[len(made)].at - again.began
            again.watch_to_the_end()
        found = count_set(side, plan)
        twice = Counter(Counter(line.key for line in read_log(plan)).values())
        figures = {
            "duplicates": found.images - found.keys,
            "losses": plan.images - found.keys,
            "broken tars": found.broken,
            "made twice": sum((times - 1) * keys for times, keys in twice.items()),
            "in flight": plan.per_shard * IN_FLIGHT * (1 + plan.workers),
            "restart s": round(restart, 1),
        }
        return Faults(before=Cost(rate=steady_rate(before)), figures=figures)


@contextmanager
def trial(plan: Plan) -> Iterator[Plan]:
    """The plan in a folder of its own."""
    with tempfile.TemporaryDirectory(dir=plan.folder) as folder:
        yield replace(plan, folder=folder)


class Command:
    """A side's command and all its processes; none of them outlives the ``with`` block."""

    def __init__(self, side: str, plan: Plan) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        plan.finished.unlink(missing_ok=True)
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        self.began = time.time()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench._ray_sides", side, str(plan.save())],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"},
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._ticks: dict[tuple[int, int], int] = {}
        """By process id and start time, so that a process that ended keeps what it took."""
        self._deadline = time.monotonic() + _PATIENCE_S

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_all()
        self._said.close()

    @property
    def cpu(self) -> float:
        """CPU seconds of all processes up to now."""
        self.processes()
        return sum(self._ticks.values()) / _TICK

    def watch(self, seen: Callable[[], bool]) -> None:
        """Until ``seen``, which must come before the command's end."""
        while not seen():
            if self._ended():
                raise RuntimeError(f"the command ended too soon:\n{self._last_words()}")

    def watch_to_the_end(self) -> None:
        while not self._ended():
            pass

    def _ended(self) -> bool:
        """After a moment: whether the command is over, well."""
        time.sleep(_POLL_S)
        self.processes()
        code = self._process.poll()
        if code or time.monotonic() > self._deadline:
            state = "takes too long" if code is None else f"ended with {code}"
            raise RuntimeError(f"the command {state}:\n{self._last_words()}")
        return code == 0

    def _last_words(self) -> str:
        self._said.seek(0)
        return self._said.read().decode(errors="replace")[-4000:]

    def kill(self, pid: int) -> None:
        assert pid in self.processes(), "not a process of this command"
        os.kill(pid, signal.SIGKILL)

    def kill_all(self) -> None:
        """The command, Ray and all workers, at once."""
        while alive := self.processes():
            for pid in alive:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            self._process.poll()
            time.sleep(_POLL_S)
        self._process.wait()

    def processes(self) -> set[int]:
        """The processes of the command that live now: those of its session, and the children of any seen before."""
        found: dict[int, Stat] = {stat.pid: stat for stat in stats()}
        mine = {pid for pid, stat in found.items() if self._is_mine(stat)}
        grown = True
        while grown:
            more = {pid for pid, stat in found.items() if stat.parent in mine} - mine
            mine |= more
            grown = bool(more)
        for pid in mine:
            self._ticks[pid, found[pid].started] = found[pid].ticks
        return {pid for pid in mine if not found[pid].zombie}

    def _is_mine(self, stat: Stat) -> bool:
        return stat.session == self._process.pid or (stat.pid, stat.started) in self._ticks


class Stat(NamedTuple):
    """A line of /proc."""

    pid: int
    parent: int
    session: int
    started: int
    ticks: int
    zombie: bool


def stats() -> Iterator[Stat]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            state, parent, _, session, *rest = fields
            yield Stat(
                int(folder.name), int(parent), int(session), int(rest[15]), int(rest[7]) + int(rest[8]), state == "Z"
            )


class MadeImage(NamedTuple):
    """A line of the devices' log."""

    at: float
    worker: int
    key: str


def read_log(plan: Plan) -> list[MadeImage]:
    rows = (line.split() for line in plan.made.read_text().splitlines()) if plan.made.exists() else ()
    return [MadeImage(float(at), int(worker), key) for at, worker, key in rows]


def steady_rate(made: Sequence[MadeImage], since: float = 0.0) -> float:
    """Images a second: of each device from its first batch after ``since`` to its last one, summed."""
    rate = 0.0
    for worker in {line.worker for line in made}:
        at = [line.at for line in made if line.worker == worker and line.at >= since]
        rate += sum(time > at[0] for time in at) / (at[-1] - at[0])
    return rate


class Found(NamedTuple):
    """What a reader of a set meets."""

    images: int
    keys: int
    broken: int
    """Tars that cannot be read to their end."""


def count_set(side: str, plan: Plan) -> Found:
    """Read with tarfile alone: ours as the manifest says, the peer's as the folder says."""
    if side == "ours":
        shards = json.loads((plan.set / "manifest.json").read_text())["shards"]
        files = [plan.set / shard["key"] for shard in shards]
    else:
        files = sorted(plan.set.glob("*.tar"))
    keys: Counter[str] = Counter()
    broken = 0
    for file in files:
        try:
            with tarfile.open(file) as tar:
                for member in tar:
                    body = tar.extractfile(member)
                    if body is not None and body.read() and member.name.endswith(".jpg"):
                        keys[Path(member.name).stem] += 1
        except tarfile.ReadError:
            broken += 1
    return Found(keys.total(), len(keys), broken)
