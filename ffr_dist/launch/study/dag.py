"""Which job comes next: jobs that need others, in a fixed order. Pure; knows neither training nor Ray."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

W = TypeVar("W")


@dataclass(frozen=True, slots=True)
class Job(Generic[W]):
    """Something to do once."""

    id: str
    work: W
    needs: str | None = None
    """The job that must be done before it."""
    weight: float = 0.0
    """How long it takes, in any unit."""


class Schedule(Generic[W]):
    """Jobs, of which each is handed out once, after the one that it needs, and earlier ones first.

    A job that fails takes those with it that need it, however far down. ``jobs`` stand behind what they need.
    """

    def __init__(self, jobs: Sequence[Job[W]]) -> None:
        self._jobs = jobs
        self._place = {job.id: place for place, job in enumerate(jobs)}
        self._below: dict[str, list[int]] = {}
        self._startable: list[int] = []
        for place, job in enumerate(jobs):
            if job.needs is None:
                self._startable.append(place)
            elif self._place[job.needs] >= place:
                raise ValueError(f"job {job.id} stands before what it needs")
            else:
                self._below.setdefault(job.needs, []).append(place)
        self._left = len(jobs)
        self.running = 0

    @property
    def over(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self._left

    def take(self) -> Job[W] | None:
        """The next job that may start; None where all of them wait or run."""
        if not self._startable:
            return None
        self.running += 1
        return self._jobs[heapq.heappop(self._startable)]

    def done(self, job: Job[W]) -> None:
        """A job that was taken has come to its end."""
        self.running -= 1
        self._left -= 1
        for place in self._below.get(job.id, ()):
            heapq.heappush(self._startable, place)

    def failed(self, job: Job[W]) -> list[Job[W]]:
        """A job that was taken has failed: those that will never start for it, in order."""
        self.running -= 1
        lost: list[int] = []
        ended = [job.id]
        while ended:
            below = self._below.get(ended.pop(), ())
            lost += below
            ended += [self._jobs[place].id for place in below]
        self._left -= 1 + len(lost)
        return [self._jobs[place] for place in sorted(lost)]
