"""The pool on Ray: actors that each own a device, and a loop that hands out intervals. The only import of ``ray``.

Nothing here is trusted with results. An actor's receipt says that a commit stands in the store; an actor that dies takes
nothing with it but the interval it was making, which is handed out again.
"""

from __future__ import annotations

import functools
import json
import os
import re
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import ray
from ray.exceptions import RayActorError, RayTaskError

from ffr_dist.errors import InputError, StoppedError
from ffr_dist.generate.driver import Driver, Finished
from ffr_dist.generate.work import BatchDone, Receipt, Work
from ffr_dist.generate.worker import Worker, WorkSpec
from ffr_dist.launch.context import Run
from ffr_dist.launch.events import Warned
from ffr_dist.launch.meter import Meter
from ffr_dist.methods import Inputs, Method
from ffr_dist.plan.rounds import Unfillable
from ffr_dist.shards import layout
from ffr_dist.store import open_store

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_IN_FLIGHT = 2
"""Intervals of an actor: one on its device, one on its way to the store."""
_POLL_S = 0.5
_DEATHS = 3
"""An actor's place that was filled so often in a row without one commit is a fault of the system, not of a machine."""


class WorkerActor:
    """A worker in a process of its own. Built from picklable values; opens its store and loads its weights itself."""

    def __init__(
        self, spec: WorkSpec, url: str, method: Method, real: Mapping[str, str], prepared: Mapping[str, str]
    ) -> None:
        from ffr_dist.launch.device import local_device  # noqa: PLC0415 - in the actor only

        inputs = Inputs(
            real={name: open_store(where) for name, where in real.items()},
            prepared={name: open_store(where) for name, where in prepared.items()},
        )
        self._told: list[BatchDone] = []
        self._worker = Worker(
            spec,
            open_store(url),
            method.sampler(inputs, local_device()),
            functools.partial(method.requests, inputs),
            on_batch=self._told.append,
        )

    def make(self, work: Work) -> Receipt:
        return self._worker.make(work)

    def told(self) -> list[BatchDone]:
        """Batches made since the last call."""
        told, self._told[:] = list(self._told), []
        return told


@dataclass(slots=True)
class _Seat:
    """A place for an actor, and what its present one is doing."""

    actor: Any
    making: dict[Any, Work]
    asked: Any = None
    """The call of ``told`` that is under way."""
    deaths: int = 0


def run_on_ray(run: Run, driver: Driver, spec: WorkSpec, inputs: Inputs) -> Finished | Unfillable:
    """Hand the driver's intervals to actors until nothing is missing."""
    if run.store.url.startswith("memory://"):
        raise InputError("a memory:// store lives in one process and cannot be shared with actors; use a folder")
    with _Session() as session:
        count = _worker_count(run, spec)
        make = _actor_factory(run, spec, inputs)
        seats = [_Seat(make(), {}) for _ in range(count)]
        meter = Meter(driver, run.tell, workers=count)
        try:
            return _hand_out(run, driver, seats, make, meter)
        finally:
            for seat in seats:
                ray.kill(seat.actor)
            session.close()


def try_ray() -> str:
    """Start Ray (or join the cluster that RAY_ADDRESS names), run one task, and tell what is there."""
    with _Session():
        answer = ray.get(ray.remote(_process).remote(), timeout=60)
        resources = ray.cluster_resources()
        nodes = sum(node["Alive"] for node in ray.nodes())
        shown = f"{resources.get('CPU', 0):.0f} CPUs, {resources.get('GPU', 0):.0f} GPUs on {nodes} node(s)"
        return f"a task ran (process {answer}); {shown}"


def _process() -> int:
    return os.getpid()


class _Session:
    """A connection to Ray, ended only if it was begun here."""

    def __init__(self) -> None:
        self._mine = not ray.is_initialized()
        if self._mine:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
            ray.init(include_dashboard=None, log_to_driver=False, logging_level="ERROR")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._mine and ray.is_initialized():
            ray.shutdown()


def _worker_count(run: Run, spec: WorkSpec) -> int:
    resources = ray.cluster_resources()
    slots = int(resources.get("GPU", 0)) or int(resources.get("CPU", 1)) // spec.pinned.threads
    wanted = run.recipe.generate.workers
    return max(1, slots) if wanted == "auto" else wanted


def _actor_factory(run: Run, spec: WorkSpec, inputs: Inputs) -> Any:
    gpus = 1 if ray.cluster_resources().get("GPU", 0) else 0
    remote = ray.remote(WorkerActor).options(
        num_cpus=0 if gpus else spec.pinned.threads,
        num_gpus=gpus,
        max_restarts=0,  # actors are made, replaced and counted here, on one path
        max_task_retries=0,
        max_concurrency=_IN_FLIGHT + 1,  # and one for told()
        runtime_env={"env_vars": {"OMP_NUM_THREADS": str(spec.pinned.threads), "OMP_WAIT_POLICY": "PASSIVE"}},
    )
    real = {name: store.url for name, store in inputs.real.items()}
    prepared = {name: store.url for name, store in inputs.prepared.items()}
    return functools.partial(remote.remote, spec, run.store.url, run.method, real, prepared)


def _hand_out(run: Run, driver: Driver, seats: list[_Seat], make: Any, meter: Meter) -> Finished | Unfillable:
    failures: Counter[int] = Counter()
    while True:
        end = _fill(driver, seats)
        running = [ref for seat in seats for ref in seat.making]
        if not running:
            if isinstance(end, Finished | Unfillable):
                return end
            raise StoppedError(f"no work is left to hand out, yet the plan is not complete; to go on: {run.command}")
        ready, _ = ray.wait(running, num_returns=1, timeout=_POLL_S)
        for ref in ready:
            seat = next(seat for seat in seats if ref in seat.making)
            _take_receipt(run, driver, seat, ref, make, meter, failures)
        for seat in seats:
            _take_told(seat, meter)


def _fill(driver: Driver, seats: list[_Seat]) -> Any:
    """Give every seat work; what the driver said last."""
    step: Any = None
    for _ in range(_IN_FLIGHT):
        for seat in seats:
            if len(seat.making) >= _IN_FLIGHT:
                continue
            step = driver.next()
            if not isinstance(step, Work):
                return step
            seat.making[seat.actor.make.remote(step)] = step
    return step


def _take_told(seat: _Seat, meter: Meter) -> None:
    """Pass on what an actor has told, and ask again. Never waits: a receipt must not stand behind news of batches."""
    if seat.asked is not None:
        if not ray.wait([seat.asked], timeout=0)[0]:
            return
        try:
            for done in ray.get(seat.asked):
                meter.batch(done)
        except (RayActorError, RayTaskError):
            seat.asked = None  # its work tells the same, with the consequences
            return
    seat.asked = seat.actor.told.remote()


def _take_receipt(
    run: Run, driver: Driver, seat: _Seat, ref: Any, make: Any, meter: Meter, failures: Counter[int]
) -> None:
    work = seat.making.pop(ref)
    try:
        receipt: Receipt = ray.get(ref)
    except RayActorError as error:
        if getattr(error, "actor_init_failed", False):  # nor would another one start
            raise StoppedError(f"a worker cannot start: {_reason(error)}; to go on: {run.command}") from error
        _replace(run, driver, seat, work, make, error)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, InputError):  # would fail the same anywhere
            raise cause from None
        failures[work.interval] += 1
        why = {"interval": work.interval, "error": repr(cause)}
        run.store.put(layout.failure_key(work.interval, uuid.uuid4().hex), json.dumps(why).encode())
        if failures[work.interval] >= _DEATHS:
            raise StoppedError(
                f"interval {work.interval} failed {_DEATHS} times, the last time with {cause!r}; to go on: {run.command}"
            ) from error
        run.tell(Warned(f"interval {work.interval} failed ({cause!r}) and is made again"))
        driver.lost(work.interval)
    else:
        seat.deaths = 0
        driver.committed(receipt.commit)
        meter.receipt(receipt)


def _replace(run: Run, driver: Driver, seat: _Seat, work: Work, make: Any, error: RayActorError) -> None:
    """A dead actor: all it was making goes back, and a new one takes its seat."""
    for lost in (work, *seat.making.values()):
        driver.lost(lost.interval)
    seat.making.clear()
    seat.deaths += 1
    if seat.deaths >= _DEATHS:
        raise StoppedError(
            f"a worker died {_DEATHS} times in a row without finishing an interval: {_reason(error)}; "
            f"to go on: {run.command}"
        ) from error
    run.tell(Warned(f"a worker died ({_reason(error)}); another takes its place"))
    seat.actor, seat.asked = make(), None


def _reason(error: Exception) -> str:
    """Ray tells a death over many lines, in colour; the last one names the cause."""
    lines = [line for line in _COLOUR.sub("", str(error)).splitlines() if line.strip()]
    return lines[-1].strip() if lines else repr(error)
