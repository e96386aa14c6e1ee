"""Who does the jobs of a study: this process, one after another. (``on_ray`` is the other crew.)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, Self

from ffr_dist.launch.study.dag import Job
from ffr_dist.launch.study.work import Answer, Desk, Task, do, forget


class Crew(Protocol):
    """Does jobs, several at a time."""

    def room(self) -> int:
        """How many jobs may be under way now."""

    def start(self, job: Job[Task], desks: Mapping[str, Desk]) -> None:
        """Begin a job at its desk."""

    def wait(self) -> list[tuple[Job[Task], Answer]]:
        """Jobs that have ended since; waits a moment for the next one."""


class Alone:
    """This process."""

    def __init__(self) -> None:
        self._begun: list[tuple[Job[Task], Desk]] = []

    def room(self) -> int:
        return 1

    def start(self, job: Job[Task], desks: Mapping[str, Desk]) -> None:
        self._begun.append((job, desks[job.work.desk]))

    def wait(self) -> list[tuple[Job[Task], Answer]]:
        ended = [(job, do(job.work, desk)) for job, desk in self._begun]
        self._begun.clear()
        return ended

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        forget()
