"""The pool on Ray: what the fleet decides, carried out, and what Ray tells, passed on to it. The only import of ``ray``
beside ``metrics`` and ``study.on_ray``.

Nothing here is trusted with results: a receipt says that a commit stands in the store, and an actor that is lost takes
nothing with it but what it was making. Receipts are waited for; what actors tell beside them is only looked at, so that
no receipt stands behind news of batches.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
import signal
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ffr_dist.errors import BrokenError, InputError, StoppedError, StoreError
from ffr_dist.generate.driver import Driver
from ffr_dist.generate.work import BatchDone, Receipt, Work
from ffr_dist.generate.worker import Worker, WorkSpec
from ffr_dist.launch.context import Run
from ffr_dist.launch.events import Tell, Warned
from ffr_dist.launch.fleet.failures import failed_before, record
from ffr_dist.launch.fleet.heartbeat import Heartbeat, Spent, process_started
from ffr_dist.launch.fleet.orders import Make, Order, Patience, Record, Say, Start, Stop, Stopped
from ffr_dist.launch.fleet.policy import IN_FLIGHT, Fleet
from ffr_dist.launch.fleet.room import Need, need_of
from ffr_dist.launch.fleet.signals import StopSignals
from ffr_dist.launch.fleet.supply import End, Supply
from ffr_dist.launch.watch.ledger import Ledger
from ffr_dist.launch.watch.meter import Meter
from ffr_dist.launch.watch.metrics import DriverMetrics, WorkerMetrics
from ffr_dist.launch.watch.redact import redact
from ffr_dist.methods import Inputs, Method
from ffr_dist.store import Store, StoreConfig, open_store

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_POLL_S = 0.5
_ASK_S = 1.0
_ROOM_S = 3.0
"""How often the cluster is looked at for nodes that came and went."""
_GONE_S = 3.0
"""From asking an actor to end until its process is killed, if it is still there."""


@dataclass(frozen=True, slots=True)
class Address:
    """A store that another process opens for itself, with the credentials that it finds there."""

    url: str
    config: StoreConfig

    @classmethod
    def of(cls, store: Store) -> Address:
        return cls(store.url, store.config)

    def open(self) -> Store:
        return open_store(self.url, config=self.config)


Addresses = Mapping[str, Address]


class WorkerActor:
    """A worker in a process of its own. Built from picklable values; opens its store and loads its weights itself."""

    def __init__(self, spec: WorkSpec, output: Address, method: Method, real: Addresses, prepared: Addresses) -> None:
        self._spec, self._method = spec, method
        self._output, self._real, self._prepared = output, real, prepared
        self._told: deque[BatchDone] = deque()

    def born(self) -> tuple[str, int, str]:
        """Where it is: its node, process, and when that began."""
        pid = os.getpid()
        return ray.get_runtime_context().get_node_id(), pid, process_started(pid) or ""

    def load(self) -> str:
        """Get ready; the device."""
        from ffr_dist.launch.device import local_device  # noqa: PLC0415 - torch loads in the actor only

        device = local_device()
        inputs = Inputs(
            real={name: there.open() for name, there in self._real.items()},
            prepared={name: there.open() for name, there in self._prepared.items()},
        )
        self._metrics = WorkerMetrics(self._output.url)
        self._worker = Worker(
            self._spec,
            self._output.open(),
            self._method.sampler(inputs, device),
            functools.partial(self._method.requests, inputs),
            on_batch=self._on_batch,
        )
        return device

    def make(self, work: Work) -> Receipt:
        receipt = self._worker.make(work)
        self._metrics.receipt(receipt)
        return receipt

    def told(self) -> list[BatchDone]:
        """Batches made since the last call."""
        return [self._told.popleft() for _ in range(len(self._told))]  # others append meanwhile

    def _on_batch(self, done: BatchDone) -> None:
        self._told.append(done)
        self._metrics.batch(done)


def run_on_ray(
    run: Run,
    driver: Driver,
    supply: Supply,
    spec: WorkSpec,
    inputs: Inputs,
    *,
    signals: StopSignals,
    heart: Heartbeat,
    spent_before: float,
    patience: Patience,
) -> End:
    """Hand the driver's intervals to actors until nothing is missing; StoppedError where it ends before."""
    if run.store.url.startswith("memory://"):
        raise InputError("a memory:// store lives in one process and cannot be shared with actors; use a folder")
    with Session() as session, signals.patient():
        need = need_of(run.recipe.generate, spec.pinned.threads, ray.cluster_resources())
        tell = DriverMetrics(run.store.url, run.tell)
        ledger = Ledger(run.recipe.generate, spent_before, gpus=need.gpus > 0)
        progress = driver.progress()
        fleet = Fleet(
            supply,
            patience,
            prefix=heart.driver,
            before=failed_before(run.store),
            committed=progress.decided - progress.abandoned,
            now=time.monotonic(),
        )
        heart.spent = lambda: Spent(fleet.running, ledger.device_seconds, ledger.cost)
        meter = Meter(driver, tell, workers=0, ledger=ledger)
        crew = _Crew(fleet, meter, _actor_maker(run, spec, inputs, need))
        office = _Office(run, fleet, need, ledger, heart, signals, patience, alone=session.mine)
        try:
            while fleet.end is None:
                office.look(time.monotonic())
                for order in fleet.decide(time.monotonic()):
                    _carry_out(order, run, fleet, crew, tell)
                ledger.tick(fleet.running)
                meter.workers = fleet.up
                if fleet.end is None:
                    crew.listen(_POLL_S)
        finally:
            ledger.tick(fleet.running)
            crew.close()
        if signals.asked:  # whoever wants it to stop does not want to wait for the finish either
            raise StoppedError(f"stopped by {signals.asked}; what is committed is kept. To go on: {run.command}")
        if isinstance(fleet.end, Stopped):
            raise StoppedError(f"{redact(fleet.end.why)}; what is committed is kept. To go on: {run.command}")
        meter.show()
        return fleet.end


def try_ray() -> str:
    """Start Ray (or join the cluster that RAY_ADDRESS names), run one task, and tell what is there."""
    with Session():
        answer = ray.get(ray.remote(_process).remote(), timeout=60)
        resources = ray.cluster_resources()
        nodes = sum(node["Alive"] for node in ray.nodes())
        shown = f"{resources.get('CPU', 0):.0f} CPUs, {resources.get('GPU', 0):.0f} GPUs on {nodes} node(s)"
        return f"a task ran (process {answer}); {shown}"


def _process() -> int:
    return os.getpid()


class Session:
    """A connection to Ray, ended only if it was begun here."""

    def __init__(self) -> None:
        self._began = not ray.is_initialized()
        # As Ray looks for one; asked here, so that what is known of the cluster is what is done.
        named = os.environ.get("RAY_ADDRESS", "")
        started = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir()), "ray", "ray_current_cluster")
        joins = named != "local" if named else started.exists()
        if self._began:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
            address = None if joins else "local"
            ray.init(address=address, include_dashboard=None, log_to_driver=False, logging_level="ERROR")
        self.mine = self._began and not joins
        """Whether the cluster is this process's own, so that nothing will ever join it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._began and ray.is_initialized():
            ray.shutdown()


def _actor_maker(run: Run, spec: WorkSpec, inputs: Inputs, need: Need) -> Callable[[], Any]:
    try:
        remote = ray.remote(WorkerActor).options(
            num_cpus=need.cpus,
            num_gpus=need.gpus,
            label_selector=dict(need.place),
            scheduling_strategy="SPREAD",  # an uplink for each, while there are more nodes than actors
            max_restarts=0,  # actors are made, replaced and counted by the fleet, on one path
            max_task_retries=0,
            max_concurrency=IN_FLIGHT + 2,  # and told(), and one to spare
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(spec.pinned.threads), "OMP_WAIT_POLICY": "PASSIVE"}},
        )
    except ValueError as error:
        raise InputError(
            f"generate.place, or another setting of the workers, is not as Ray takes it: {error}"
        ) from error
    real = {name: Address.of(store) for name, store in inputs.real.items()}
    prepared = {name: Address.of(store) for name, store in inputs.prepared.items()}
    return functools.partial(remote.remote, spec, Address.of(run.store), run.method, real, prepared)


class _Office:
    """What bears on the fleet from outside: the cluster's nodes, the budget, signals."""

    def __init__(
        self,
        run: Run,
        fleet: Fleet,
        need: Need,
        ledger: Ledger,
        heart: Heartbeat,
        signals: StopSignals,
        patience: Patience,
        *,
        alone: bool,
    ) -> None:
        self._run = run
        self._fleet = fleet
        self._need = need
        self._ledger = ledger
        self._heart = heart
        self._signals = signals
        self._patience = patience
        self._alone = alone
        self._due = 0.0

    def look(self, now: float) -> None:
        if (spent := self._heart.spent_beside(self._run.recipe.generate.price_per_gpu_hour)) is not None:
            self._ledger.elsewhere = spent
        if self._signals.asked:
            self._fleet.drain(f"stopped by {self._signals.asked}", self._patience.grace, now)
        if why := self._ledger.over(self._fleet.rest_s):
            self._fleet.drain(why, math.inf, now)
        if why := self._ledger.over():
            self._fleet.drain(why, 0.0, now)
        if now >= self._due:
            self._due = now + _ROOM_S
            self._count(now)

    def _count(self, now: float) -> None:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        need, fleet = self._need, self._fleet
        room = sum(need.room(node) for node in nodes if need.admits(node))
        fleet.nodes({node["NodeID"] for node in nodes}, now)
        fleet.resize(room if need.wanted is None else need.wanted, now)
        before, fleet.shortage = fleet.shortage, need.shortage(nodes)
        if self._alone and not nodes:
            raise StoppedError(f"this run's own Ray has died; what is committed is kept. To go on: {self._run.command}")
        if fleet.shortage and self._alone:
            raise InputError(f"{fleet.shortage}, and no other node can join this cluster of one machine")
        if fleet.shortage and not before:
            self._run.tell(Warned(f"{fleet.shortage}; the run goes on when one joins"))


@dataclass(slots=True)
class _Hand:
    """An actor as Ray knows it."""

    actor: Any
    node: str = ""
    pid: int = 0
    started: str = ""
    asked: Any = None
    """The call of ``told`` that is under way."""
    asked_at: float = -math.inf


class _Crew:
    """The actors: makes and ends them, hands over, and tells the fleet what comes back."""

    def __init__(self, fleet: Fleet, meter: Meter, make: Callable[[], Any]) -> None:
        self._fleet = fleet
        self._meter = meter
        self._make = make
        self._node = ray.get_runtime_context().get_node_id()
        self._hands: dict[str, _Hand] = {}
        self._calls: dict[Any, tuple[str, str, int]] = {}
        """Calls under way: whose, what, and of which interval."""
        self._ending: list[tuple[float, _Hand]] = []

    def start(self, name: str) -> None:
        hand = self._hands[name] = _Hand(self._make())
        self._calls[hand.actor.born.remote()] = (name, "born", -1)

    def make(self, name: str, work: Work) -> None:
        if hand := self._hands.get(name):
            self._meter.dropped(work.interval)  # what an earlier attempt told of it
            self._calls[hand.actor.make.remote(work)] = (name, "make", work.interval)

    def stop(self, name: str) -> None:
        """End an actor, and see to it that its process is gone: one that is stuck in a driver does not end by itself."""
        if hand := self._hands.pop(name, None):
            self._calls = {call: known for call, known in self._calls.items() if known[0] != name}
            with contextlib.suppress(RayError):
                ray.kill(hand.actor)
            if hand.pid:
                self._ending.append((time.monotonic() + _GONE_S, hand))

    def close(self) -> None:
        """End all. Returns when none of this node's is left."""
        for name in list(self._hands):
            self.stop(name)
        deadline = time.monotonic() + _GONE_S
        while time.monotonic() < deadline and any(
            _is_there(hand) for _, hand in self._ending if hand.node == self._node
        ):
            time.sleep(0.05)
        self._see_off(math.inf)

    def listen(self, patience: float) -> None:
        """Wait for something to come back, and tell the fleet of all that has."""
        calls = list(self._calls)
        if not calls:
            time.sleep(patience)
        elif ray.wait(calls, num_returns=1, timeout=patience)[0]:
            for call in ray.wait(calls, num_returns=len(calls), timeout=0)[0]:
                self._take(call)
        self._hear()
        self._see_off(time.monotonic())

    def _take(self, call: Any) -> None:
        name, what, interval = self._calls.pop(call, ("", "", -1))
        hand = self._hands.get(name)
        if hand is None:
            return
        fleet, now = self._fleet, time.monotonic()
        try:
            answer = ray.get(call)
        except RayTaskError as error:
            self._raised(name, interval, error.cause, now)
        except RayError as error:
            fleet.died(name, reason(error), now)
        else:
            if what == "born":
                hand.node, hand.pid, hand.started = answer
                fleet.born(name, hand.node, now)
                self._calls[hand.actor.load.remote()] = (name, "load", -1)
            elif what == "load":
                fleet.ready(name, answer, now)
            else:
                fleet.received(name, answer, now)
                self._meter.receipt(answer)

    def _raised(self, name: str, interval: int, cause: BaseException, now: float) -> None:
        if isinstance(cause, InputError | BrokenError):
            raise cause  # would be the same anywhere
        why = redact(f"{type(cause).__name__}: {cause}")
        if interval < 0:
            self._fleet.failed_to_load(name, why, now)
        elif isinstance(cause, StoreError):
            self._fleet.store_failed(name, interval, why, now)
        else:
            self._fleet.raised(name, interval, why, now)

    def _hear(self) -> None:
        """Take what actors have told, and ask again. Never waits."""
        asked = {hand.asked: name for name, hand in self._hands.items() if hand.asked is not None}
        now = time.monotonic()
        for call in ray.wait(list(asked), num_returns=len(asked), timeout=0)[0] if asked else ():
            name = asked[call]
            self._hands[name].asked = None
            try:
                told: list[BatchDone] = ray.get(call)
            except RayError as error:
                self._fleet.died(name, reason(error), now)
            else:
                for done in told:
                    self._meter.batch(done)
                self._fleet.answered(name, told, now)
        for hand in self._hands.values():
            if hand.pid and hand.asked is None and now - hand.asked_at >= _ASK_S:
                hand.asked, hand.asked_at = hand.actor.told.remote(), now

    def _see_off(self, now: float) -> None:
        for due, hand in self._ending:
            if due > now:
                continue
            if hand.node == self._node:
                _end_process(hand.pid, hand.started)
            else:
                there = NodeAffinitySchedulingStrategy(hand.node, soft=False)
                end = ray.remote(_end_process).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
                end.remote(hand.pid, hand.started)  # not waited for: its node may be out of reach
        self._ending = [(due, hand) for due, hand in self._ending if due > now]


def _is_there(hand: _Hand) -> bool:
    return process_started(hand.pid) == hand.started


def _end_process(pid: int, started: str) -> None:
    """End a process of this node, if it is still the one that is meant."""
    if process_started(pid) == started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _carry_out(order: Order, run: Run, fleet: Fleet, crew: _Crew, tell: Tell) -> None:
    match order:
        case Start(name):
            crew.start(name)
        case Stop(name):
            crew.stop(name)
        case Make(name, work):
            crew.make(name, work)
        case Record(failure):
            fleet.recorded(record(run.store, failure), time.monotonic())
        case Say(event):
            tell(event)


def reason(error: Exception) -> str:
    """Ray tells a death over many lines, in colour; the last one names the cause, and then guesses at length."""
    lines = [line for line in _COLOUR.sub("", str(error)).splitlines() if line.strip()]
    return redact(lines[-1].strip().partition(". ")[0] if lines else repr(error))
