"""A cluster in a few lines: nodes, processes that load, make, hang and die, and a clock that only the test moves."""

import random
from dataclasses import dataclass, field

from ffr_dist.generate.driver import Finished
from ffr_dist.generate.work import BatchDone, Receipt, Work
from ffr_dist.launch.events import Abandoned, AttemptFailed, Warned, WorkerDown, WorkerUp
from ffr_dist.launch.fleet.orders import Make, Patience, Record, Say, Start, Stop, Stopped
from ffr_dist.launch.fleet.policy import IN_FLIGHT, Fleet
from ffr_dist.plan.rounds import Round, Wait
from ffr_dist.shards import layout
from ffr_dist.shards.commit import Commit, GroupTally, ObjectRef, abandon

BATCHES = 4
BATCH = 8
SIZE = BATCHES * BATCH
STEP_S = 0.5


def commit_of(interval, attempt="a"):
    sha256 = "0" * 64
    sidecar = ObjectRef(layout.sidecar_key(interval, sha256), sha256, 1)
    groups = {"g": GroupTally(tried=SIZE, accepted=0, rejected={"blank": SIZE})}
    return Commit(
        interval=interval, attempt=attempt, tar=None, sidecar=sidecar, groups=groups, environment={}, seconds=0.0
    )


class FakeDriver:
    """So many intervals, and the contract of the real one."""

    def __init__(self, count):
        self.count = count
        self.round = Round(0, 0, count, {"g": count * SIZE}, {"g": 0})
        self.decided = {}
        self.fresh = 0
        self.again = []
        self.broken = None

    def next(self):
        if self.broken is not None:
            raise self.broken
        while self.again:
            interval = self.again.pop(0)
            if interval not in self.decided:
                return Work(interval, self.round, SIZE)
        while self.fresh < self.count:
            self.fresh += 1
            if self.fresh - 1 not in self.decided:
                return Work(self.fresh - 1, self.round, SIZE)
        return Finished(self.count, None) if len(self.decided) == self.count else Wait(0)

    def lost(self, interval):
        self.again.append(interval)

    def committed(self, commit):
        self.decided.setdefault(commit.interval, commit)

    def abandon(self, interval, reason):
        return self.decided.setdefault(interval, abandon(interval, "driver", reason))


@dataclass
class Process:
    """An actor's process."""

    node: str
    ready_at: float
    work: list = field(default_factory=list)
    batch: int = 0
    next_at: float = 0.0
    ready: bool = False
    stuck: bool = False
    told: list = field(default_factory=list)


class World:
    """``fate(interval, actor)`` is what an attempt comes to: None for a commit, else raise, hang, die, store, input."""

    def __init__(
        self, intervals, *, nodes=2, slots=2, patience=None, fate=None, seed=0, batch_s=1.0, load_s=2.0, **fleet
    ):
        self.clock = 0.0
        self.chance = random.Random(seed)
        self.driver = FakeDriver(intervals)
        self.fleet = Fleet(self.driver, patience or Patience(), now=self.clock, chance=random.Random(seed), **fleet)
        self.nodes = {f"n{number}": slots for number in range(nodes)}
        self.cut = set()
        """Nodes that nothing reaches, and that still seem to stand."""
        self.slow = set()
        """Nodes that take twenty times as long."""
        self.fate = fate or (lambda interval, actor: None)
        self.batch_s, self.load_s = batch_s, load_s
        self.processes = {}
        self.waiting = []
        self.failures = {}
        self.events = []
        self.attempts = []
        self.most = 0

    def run(self, until=20_000.0, wanted=None, each=None):
        """Step until the fleet's end."""
        while self.fleet.end is None:
            assert self.clock < until, "no end"
            if each is not None:
                each(self)
            self.step(wanted)
        return self.fleet.end

    def step(self, wanted=None):
        self.fleet.nodes(set(self.nodes), self.clock)
        self.fleet.resize(sum(self.nodes.values()) if wanted is None else wanted, self.clock)
        self.place()
        for name, process in list(self.processes.items()):
            if process.node not in self.cut:
                self.live(name, process)
        for order in self.fleet.decide(self.clock):
            self.carry_out(order)
        self.clock += STEP_S

    def place(self):
        for name in list(self.waiting):
            free = [n for n, slots in self.nodes.items() if sum(p.node == n for p in self.processes.values()) < slots]
            if free:
                node = self.chance.choice(free)
                self.waiting.remove(name)
                self.processes[name] = Process(node, self.clock + self.load_s)
                self.fleet.born(name, node, self.clock)

    def live(self, name, process):
        fleet, now = self.fleet, self.clock
        if not process.ready and now >= process.ready_at:
            process.ready = True
            fleet.ready(name, "cpu", now)
        if process.work and not process.stuck and now >= process.next_at:
            self.advance(name, process)
        if name in self.processes:
            told, process.told = process.told, []
            fleet.answered(name, told, now)

    def advance(self, name, process):
        work = process.work[0]
        fate = self.fate(work.interval, name)
        process.batch += 1
        slow = 20 if process.node in self.slow else 1
        process.next_at = self.clock + self.batch_s * slow
        if process.batch == 2 and fate == "hang":
            process.stuck = True
        elif process.batch == 2 and fate == "die":
            self.die(name, "killed")
        elif process.batch == 2 and fate == "raise":
            self.done(process)
            self.fleet.raised(name, work.interval, "RuntimeError: the device is on fire", self.clock)
        elif process.batch <= BATCHES:
            process.told.append(BatchDone(work.interval, BATCH, 0, {"blank": BATCH}, self.batch_s * slow))
        elif fate == "store":
            self.done(process)
            self.fleet.store_failed(name, work.interval, "503 SlowDown", self.clock)
        else:
            self.done(process)
            there = self.driver.decided.get(work.interval)
            commit = there or commit_of(work.interval, name)
            self.fleet.received(name, Receipt(commit, there is None, {}), self.clock)

    def done(self, process):
        process.work.pop(0)
        process.batch = 0

    def die(self, name, why):
        del self.processes[name]
        self.fleet.died(name, why, self.clock)

    def leave(self, node):
        """A node goes, and its processes a moment before Ray knows."""
        for name, process in list(self.processes.items()):
            if process.node == node:
                self.die(name, "connection lost")
        del self.nodes[node]
        self.cut.discard(node)

    def carry_out(self, order):
        match order:
            case Start(name):
                self.waiting.append(name)
            case Stop(name):
                self.processes.pop(name, None)
                self.waiting = [other for other in self.waiting if other != name]
            case Make(name, work):
                process = self.processes.get(name)
                self.attempts.append((work.interval, name))
                if process is not None:
                    assert process.ready
                    process.next_at = process.next_at if process.work else self.clock + self.batch_s
                    process.work.append(work)
                    self.most = max(self.most, len(process.work))
                    assert len(process.work) <= IN_FLIGHT
                    assert len({one.interval for one in process.work}) == len(process.work)
                    accused = [one.interval for one in process.work if one.interval in self.failures]
                    assert not accused or len(process.work) == 1, "what failed before is made alone"
            case Record(failure):
                known = self.failures.setdefault(failure.interval, [])
                known.append(failure)
                self.fleet.recorded(list(known), self.clock)
            case Say(event):
                self.events.append(event)

    def told(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def abandoned(self):
        return {interval for interval, commit in self.driver.decided.items() if commit.abandoned is not None}


__all__ = ["Abandoned", "AttemptFailed", "Finished", "Patience", "Stopped", "Warned", "WorkerDown", "WorkerUp", "World"]
