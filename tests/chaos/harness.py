"""What every scenario needs: start ``ffr generate``, watch its commits, hurt it, start the same command again until it
ends well, then hold the set against that of an undisturbed run.

What is checked at the end is the same for all: an outsider with tarfile and hashlib finds the set that the manifest names,
byte for byte the manifest of a run that nothing disturbed (with the same intervals given up); ``verify`` agrees; no
commit that was ever seen has changed; no set was visible before its end; nothing but what the design names lies in the
output; and every start that did not finish said in its last words how to go on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import independent
from noisy import noisy_text
from recorded import Noise
from small_run import make_run

from ffr_dist.config import parse
from ffr_dist.launch.fleet.heartbeat import process_started, read_drivers
from ffr_dist.launch.pool import make_pool
from ffr_dist.recipe import Recipe
from ffr_dist.shards import layout
from ffr_dist.shards.commit import abandon, publish
from ffr_dist.shards.manifest import read_manifest
from ffr_dist.shards.verify import verify
from ffr_dist.store import open_store

HERE = Path(__file__).parent
_PATH = [str(HERE), str(HERE.parent), str(HERE.parent / "launch"), str(HERE.parent / "generate")]
_SEED = int(os.environ.get("CHAOS_SEED", "0"))
_GO_ON = "To go on: ffr generate"
_KNOWN = re.compile(
    r"recipe\.yaml|manifest\.json|README\.md|croissant\.json"
    r"|(selection/\d{4}|plan/round-\d{3}|commits/\d{8}|failures/\d{8}/[\w.-]+|drivers/[0-9a-f]{12}|manifests/\d{4})\.json"
    r"|shards/\d{8}-[0-9a-f]{12}\.(tar|parquet)|manifests/\d{4}-[0-9a-f]{12}\.index\.parquet"
    r"|events/[\w.-]+\.jsonl|log/\d{8}\.parquet|\.probe/[0-9a-f]{32}/\d\d"
)
"""All that may lie in an output of this method: ``.probe/`` where a probe was killed, or a stalled write of it came late."""


@dataclass(frozen=True, slots=True)
class Lab:
    """Real data, and the sets of undisturbed runs, each made once."""

    data: Path
    folder: Path
    made: dict[tuple[int, tuple[int, ...]], bytes] = field(default_factory=dict)

    def undisturbed(self, each: int, abandoned: tuple[int, ...] = ()) -> bytes:
        """The manifest of a run in one process that nothing disturbed."""
        key = (each, abandoned)
        if key not in self.made:
            out = self.folder / f"undisturbed-{len(self.made)}"
            run = self.run(str(out), Noise(each=each))
            for interval in abandoned:
                publish(run.store, abandon(interval, "as-there", "as there"))
            make_pool(run, inline=True)
            independent.check(independent.Folder(out))
            self.made[key] = (out / "manifests/0000.json").read_bytes()
        return self.made[key]

    def run(self, out: str, noise: Noise, extra: str = "", tell=None):
        """A run in this process."""
        text = text_of(self.data, extra=extra)
        recipe = parse(Recipe, text, "noisy")
        return make_run(text, out, method=noise.method(recipe.seed, recipe.train), tell=tell)


def text_of(data: Path, *, workers: int | str = 2, extra: str = "") -> str:
    """A recipe; ``extra`` stands before its end."""
    return noisy_text(data, workers) + extra


@dataclass(slots=True)
class Start:
    """One start of the command."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def told(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def over(self) -> bool:
        return self.process.poll() is not None


class Scenario:
    """One output and what is done to it. ``seed`` decides all that is random; it stands in the summary."""

    def __init__(self, name: str, lab: Lab, folder: Path, noise: Noise, *, out: str | None = None, **text) -> None:
        self.name, self.lab, self.folder = name, lab, folder
        self.seed = _SEED
        self.out = out or str(folder / "out")
        self.recipe = folder / "noisy.yaml"
        self.recipe.write_text(text_of(lab.data, **text))
        self.noise = noise
        self.record = folder / "record"
        self.record.touch()
        self.counts: Counter[str] = Counter()
        """What was done to it, by name."""
        self.exits: Counter[int] = Counter()
        self.ray = Path(tempfile.mkdtemp(prefix="ray"))  # a short path: Ray puts sockets there
        self.environment = {"RAY_TMPDIR": str(self.ray)}
        """For every start. Ray keeps to itself: it would join a cluster that somebody has started on this machine."""
        self.before_path = ""
        """A folder that Python looks into first."""
        self.seen: dict[str, str] = {}
        self.store = open_store(self.out)
        self.store.exists("manifest.json")  # its client keeps to the endpoint of now
        self.began = time.monotonic()
        self._running: list[Start] = []

    # Starting and ending.

    def start(self, *flags: str, environment: Mapping[str, str] | None = None) -> Start:
        """``ffr generate``, in a session of its own: whatever it starts is found below it."""
        log = self.folder / f"told-{len(self._running):03d}"
        noise = replace(self.noise, record=str(self.record))
        path = os.pathsep.join([*filter(None, [self.before_path]), *_PATH])
        given = {"CHAOS_NOISE": noise.dumps(), "PYTHONPATH": path}
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, str(HERE / "noise_ffr.py"), "generate", str(self.recipe), "--out", self.out, *flags],
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=os.environ | given | self.environment | (dict(environment or {})),
                start_new_session=True,
            )
        self._running.append(Start(process, log))
        return self._running[-1]

    def inline(self, extra: str = "", tell=None):
        """The run, for ``make_pool`` in this process."""
        return self.lab.run(self.out, replace(self.noise, record=str(self.record)), extra, tell)

    def stop(self) -> None:
        """End whatever still lives below any start."""
        for start in self._running:
            kill_session(start)
        shutil.rmtree(self.ray, ignore_errors=True)

    def end(self, start: Start, *, expect: Sequence[int] = (0, 3), within_s: float = 240) -> int:
        """Wait for a start to end, and judge how."""
        try:
            code = start.process.wait(within_s)
        except subprocess.TimeoutExpired:
            kill_session(start)
            raise AssertionError(f"{self.name}: no end within {within_s} s; last words: {start.told[-2000:]}") from None
        self.exits[code] += 1
        self.look()
        told = start.told
        assert code in expect, f"{self.name}: exit {code}; {told[-3000:]}"
        if code >= 0:
            assert "Traceback" not in told, told[-3000:]
            deadline = time.monotonic() + 60
            while left := list(session_of(start)):
                assert time.monotonic() < deadline, f"{self.name}: still there after its end: {left}"
                time.sleep(0.1)
        if code == 3:
            assert _GO_ON in told, told[-3000:]
        return code

    def until_done(self, *flags: str, most: int = 12, within_s: float = 240) -> None:
        """The same command until it ends well."""
        for _ in range(most):
            if self.end(self.start(*flags), within_s=within_s) == 0:
                return
        raise AssertionError(f"{self.name}: not done after {most} more starts")

    # Watching.

    def commits(self) -> int:
        return sum(1 for _ in self.store.list(layout.COMMITS))

    def wait_for(self, what: Callable[[], bool], *starts: Start, within_s: float = 200, every_s: float = 0.05) -> bool:
        """Until ``what`` holds; False where all of ``starts`` ended before."""
        deadline = time.monotonic() + within_s
        while not what():
            if starts and all(start.over for start in starts):
                return False
            assert time.monotonic() < deadline, f"{self.name}: waited too long; {[s.told[-1500:] for s in starts]}"
            time.sleep(every_s)
        return True

    def wait_for_commits(self, count: int, *starts: Start, **rest) -> bool:
        return self.wait_for(lambda: self.commits() >= count, *starts, **rest)

    def workers(self) -> int:
        """As the drivers at work last told."""
        return sum(record.workers for record in read_drivers(self.store) if record.ended is None)

    def look(self) -> None:
        """What an outsider sees now: commits that never change, and no set or a whole one."""
        for info in list(self.store.list(layout.COMMITS)):
            if info.key not in self.seen:
                self.seen[info.key] = hashlib.sha256(self.store.get(info.key)).hexdigest()
        if self.store.exists("manifest.json"):
            independent.check(self.store)

    # Judging.

    def done(self, *, foreign: bool = False, **more) -> dict:
        """Check the end, and tell it in one line."""
        manifest = read_manifest(self.store)
        sha256, counts = independent.check(self.store)
        assert counts == dict.fromkeys(counts, self.noise.each), counts
        assert len(counts) == 4
        assert self.store.get("manifests/0000.json") == self.lab.undisturbed(self.noise.each, manifest.abandoned)
        found = verify(self.store)
        assert found.ok, found.problems
        for key, before in self.seen.items():
            assert hashlib.sha256(self.store.get(key)).hexdigest() == before, f"{key} was written again"
        commits = self.commits()
        unknown = [info.key for info in self.store.list() if not _KNOWN.fullmatch(info.key)]
        assert foreign or not unknown, unknown
        sampled = Counter(self.record.read_text().splitlines())
        line = {
            "scenario": self.name,
            "seed": self.seed,
            "seconds": round(time.monotonic() - self.began),
            "starts": len(self._running),
            "exits": {str(code): count for code, count in sorted(self.exits.items())},
            "done to it": dict(sorted(self.counts.items())),
            "intervals": commits,
            "abandoned": len(manifest.abandoned),
            "images": manifest.images,
            "sampled": sampled.total(),
            "sampled twice": sampled.total() - len(sampled),
            "manifest": sha256[:12],
            "same set": True,
            **more,
        }
        LINES.append(line)
        if where := os.environ.get("CHAOS_LOG"):
            with Path(where).open("a") as file:
                file.write(json.dumps(line) + "\n")
        return line


LINES: list[dict] = []
"""The summaries of this session."""


# Processes. Only those in the session of a start are ever touched.


def session_of(start: Start) -> Iterator[tuple[int, bytes]]:
    """Pids and titles of what lives in a start's session."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if os.getsid(int(entry.name)) == start.pid and process_started(int(entry.name)):
                    yield int(entry.name), (entry / "cmdline").read_bytes()


def actors_of(start: Start) -> list[int]:
    return sorted(pid for pid, title in session_of(start) if title.startswith(b"ray::WorkerActor"))


def kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def kill_driver(start: Start) -> None:
    """The driver alone; what it started is left to find out by itself."""
    kill(start.pid)
    start.process.wait(60)


def kill_session(start: Start) -> None:
    """The driver, Ray and all actors at once: the machine is gone."""
    for _ in range(50):
        alive = [pid for pid, _ in session_of(start)]
        for pid in alive:
            kill(pid)
        if not alive:
            break
        time.sleep(0.02)
    start.process.wait(60)
