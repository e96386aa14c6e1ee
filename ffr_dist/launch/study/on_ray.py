"""The jobs of a study as Ray tasks.

Nothing is held here that the store does not hold: a lost task is begun again, and goes on from its last checkpoint.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal, Self

import ray
from ray.exceptions import NodeDiedError, RayError, RayTaskError

from ffr_dist.errors import InputError, StoppedError
from ffr_dist.launch.cluster import Session, reason
from ffr_dist.launch.fleet.signals import StopSignals
from ffr_dist.launch.study.dag import Job
from ffr_dist.launch.study.work import Answer, Desk, Task, do
from ffr_dist.launch.watch.redact import redact
from ffr_dist.store import Store

_POLL_S = 0.5
_DEATHS = 3
"""So many times a job may lose its process before it counts as failed: a job that kills its process does so each time."""
_NODES = 20
"""So many times its whole node: nodes are taken away as they please, but not for ever from the same job."""


class Workers:
    """Processes of a Ray cluster, or of one that is begun here for as long as this lasts."""

    def __init__(self, store: Store, workers: int | Literal["auto"], threads: int, signals: StopSignals) -> None:
        if store.url.startswith("memory://"):
            raise InputError("a memory:// store lives in one process and cannot be shared with tasks; use a folder")
        self._wanted = None if workers == "auto" else workers
        self._threads = threads
        self._signals = signals
        self._calls: dict[Any, Job[Task]] = {}
        self._desks: dict[str, Any] = {}
        self._deaths: Counter[tuple[str, str]] = Counter()
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._open.enter_context(Session())
        self._open.enter_context(self._signals.patient())
        self._gpu = ray.cluster_resources().get("GPU", 0) >= 1
        nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
        if not self._gpu and max(nodes, default=0) < self._threads:
            self._open.close()
            raise InputError(f"no node has the {self._threads} CPU cores of the study's 'threads'; lower it")
        self._remote = ray.remote(do).options(
            num_cpus=0 if self._gpu else self._threads,
            num_gpus=1 if self._gpu else 0,
            max_retries=0,  # counted here, or one that has no memory would be begun for ever
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(self._threads), "OMP_WAIT_POLICY": "PASSIVE"}},
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def room(self) -> int:
        if self._wanted is not None:
            return self._wanted
        there = ray.cluster_resources()
        return int(there.get("GPU", 0) if self._gpu else there.get("CPU", 0) // self._threads)

    def start(self, job: Job[Task], desks: Mapping[str, Desk]) -> None:
        key = job.work.desk
        if key not in self._desks:
            self._desks[key] = ray.put(desks[key])
        self._begin(job)

    def _begin(self, job: Job[Task]) -> None:
        self._calls[self._remote.remote(job.work, self._desks[job.work.desk])] = job

    def wait(self) -> list[tuple[Job[Task], Answer]]:
        calls = list(self._calls)
        ready = []
        if not calls:
            time.sleep(_POLL_S)  # no node is left, or none has joined yet
        elif ray.wait(calls, num_returns=1, timeout=_POLL_S)[0]:
            ready = ray.wait(calls, num_returns=len(calls), timeout=0)[0]
        if self._signals.asked:
            raise StoppedError(f"stopped by {self._signals.asked}")
        ended = []
        for call in ready:
            job = self._calls.pop(call)
            answer = self._answer(call, job)
            if answer is None:
                self._begin(job)
            else:
                ended.append((job, answer))
        return ended

    def _answer(self, call: Any, job: Job[Task]) -> Answer | None:
        """What came of a call; None where it shall be begun again."""
        try:
            answer: Answer = ray.get(call)
        except RayTaskError as error:  # a process that could not even read the job
            return Answer(error=redact(f"{type(error.cause).__name__}: {error.cause}"))
        except RayError as error:
            what, limit = ("node", _NODES) if isinstance(error, NodeDiedError) else ("process", _DEATHS)
            self._deaths[job.id, what] += 1
            if self._deaths[job.id, what] < limit:
                return None
            return Answer(error=f"its {what} died {limit} times: {reason(error)}")
        return answer
