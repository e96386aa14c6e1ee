"""The jobs of a study, carried out by a crew: what fails takes only those with it that need it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ffr_dist.launch.context import Run
from ffr_dist.launch.events import Warned
from ffr_dist.launch.study.crew import Crew
from ffr_dist.launch.study.dag import Job, Schedule
from ffr_dist.launch.study.plan import Jobs
from ffr_dist.launch.study.work import Answer, Task
from ffr_dist.shards import layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a job has no result: itself, or one that it needs."""

    what: str
    """The job that failed."""
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of all jobs, by id: each is in one of the two."""

    answers: Mapping[str, Answer]
    failures: Mapping[str, Failure]


class Clock:
    """How long the rest takes: as long for its weight as what was done in this start."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._left: dict[str, float] = {}
        self._ended: set[str] = set()
        self._done = 0.0

    def expect(self, *parts: Jobs) -> None:
        """What there is to do from now on."""
        self._left = {job.id: job.weight for part in parts for job in part.jobs if job.id not in self._ended}

    def ended(self, job: Job[Task], *, worked: bool) -> None:
        """A job has come to its end, and took its time if ``worked``."""
        self._ended.add(job.id)
        self._left.pop(job.id, None)
        if worked:
            self._done += job.weight
        elif not self._done:
            self._began = time.monotonic()  # finding what is done has no part in the pace

    def eta_s(self) -> float | None:
        if not self._done:
            return None
        return sum(self._left.values()) * (time.monotonic() - self._began) / self._done


Ended = Callable[[Job[Task], Answer | Failure], None]


def execute(jobs: Jobs, crew: Crew, run: Run, clock: Clock, ended: Ended) -> Outcome:
    """Do all jobs that can be done. ``ended`` is told of each, those that will never start included.

    Why a job failed is stored under ``study-failures/``, until it succeeds.
    """
    store = run.store
    schedule = Schedule(jobs.jobs)
    answers: dict[str, Answer] = {}
    failures: dict[str, Failure] = {}
    failed_before = {info.key for info in store.list(layout.STUDY_FAILURES)}
    while not schedule.over:
        room = crew.room()
        while schedule.running < room and (job := schedule.take()) is not None:
            crew.start(job, jobs.desks)
        for job, answer in crew.wait():
            clock.ended(job, worked=not answer.reused)
            for message in answer.warned:
                run.tell(Warned(message))
            key = layout.study_failure_key(job.id)
            if answer.error is None:
                schedule.done(job)
                answers[job.id] = answer
                if key in failed_before:
                    store.delete(key)
                ended(job, answer)
                continue
            failure = Failure(what=job.work.what, error=answer.error)
            body = {"what": failure.what, "error": failure.error, "trace": answer.trace}
            store.put(key, json.dumps(body, indent=1).encode())
            failures[job.id] = failure
            ended(job, failure)
            for lost in schedule.failed(job):
                clock.ended(lost, worked=False)
                failures[lost.id] = failure
                ended(lost, failure)
    return Outcome(answers=answers, failures=failures)
