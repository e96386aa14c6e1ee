"""What a run tells while it works. ``launch`` tells, the command line shows: nothing below it prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ffr_dist.train.fit import Progress


@dataclass(frozen=True, slots=True)
class Began:
    """A part of the way begins."""

    what: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """A part of the way is done."""

    what: str
    detail: str
    reused: bool = False
    """It was done before: found in the store, nothing made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generating:
    """The state of the pool, after each commit and each second."""

    round: int
    quota: Mapping[str, int]
    accepted: Mapping[str, int]
    tried: Mapping[str, int]
    in_flight: int
    """Images kept so far of intervals that are not committed yet."""
    planned: int
    """Intervals planned so far."""
    committed: int
    workers: int
    images_per_second: float | None
    """Accepted images of this start, since the first commit; None before the second."""
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class Training:
    """A log line or a validation of a stage."""

    cell: str
    stage: str
    progress: Progress


@dataclass(frozen=True, slots=True)
class Warned:
    """Something the reader of the results must know."""

    message: str


Event = Began | Ended | Generating | Training | Warned
Tell = Callable[[Event], None]


def silent(event: Event) -> None:
    """Tells nobody."""
