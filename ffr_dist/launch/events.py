"""What a run tells while it works. ``launch`` tells, the command line shows: nothing below it prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ffr_dist.train.progress import Progress


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
    """The state of the pool, a few times a second while something happens."""

    round: int
    quota: Mapping[str, int]
    accepted: Mapping[str, int]
    tried: Mapping[str, int]
    rejected: Mapping[str, int]
    """Counts by reason, over all groups."""
    in_flight: int
    """Images kept so far of intervals that are not committed yet."""
    planned: int
    """Intervals planned so far."""
    committed: int
    workers: int
    images_per_second: float | None
    """Candidates of all workers together over the last minutes; None before the second batch."""
    idle_share: float | None
    """Of the devices' time since their last batch but a few; None where nobody measured it."""
    eta_s: float | None
    device_seconds: float
    """Of this start: time × workers × their share of a GPU."""
    cost: float | None
    """Of all starts of this output; None without a price."""
    max_cost: float | None


@dataclass(frozen=True, slots=True)
class Training:
    """A log line or a validation of a stage."""

    cell: str
    stage: str
    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class CellEnded:
    """A cell of a study, or the choice of its rates, has come to its end."""

    what: str
    detail: str
    reused: bool
    failed: bool
    done: int
    """Of those that are like it, this one among them."""
    total: int
    failures: int
    eta_s: float | None
    """Until the study is done."""


@dataclass(frozen=True, slots=True)
class Warned:
    """Something the reader of the results must know."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerUp:
    """A worker has loaded its weights and waits for work."""

    worker: str
    node: str
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerDown:
    """A worker is gone."""

    worker: str
    node: str
    why: str
    fault: bool
    """Whether it counts against what it was making: the loss of a node does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """An interval is decided."""

    interval: int
    worker: str
    mine: bool
    """False where another attempt was there first."""
    accepted: int
    rejected: Mapping[str, int]
    """Counts by reason."""
    bytes: int
    seconds: Mapping[str, float]
    """By stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed:
    """An attempt at an interval came to nothing; the record of it lies under ``failures/``."""

    interval: int
    worker: str
    kind: str
    """exception, hang, death, or store."""
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Abandoned:
    """An interval is given up; later rounds make up its images."""

    interval: int
    why: str


Event = (
    Began
    | Ended
    | CellEnded
    | Generating
    | Training
    | Warned
    | WorkerUp
    | WorkerDown
    | Committed
    | AttemptFailed
    | Abandoned
)
Tell = Callable[[Event], None]


def silent(event: Event) -> None:
    """Tells nobody."""
