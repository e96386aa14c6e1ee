"""What passes between the fleet, which decides, and those who carry out: orders, the record of a failure, settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ffr_dist.generate.work import Work
from ffr_dist.launch.events import Event
from ffr_dist.shards.documents import CLOSED, Count

Kind = Literal["exception", "hang", "death"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """What is borne how long; times in seconds."""

    first_batch: float = 1800.0
    """From the start of an actor's process until it is ready, and from its first work until its first batch."""
    hang_medians: float = 5.0
    hang_floor: float = 60.0
    """Without a batch for so many times the median one, and at least so long: hung."""
    upload: float = 900.0
    """From an interval's last batch to its commit."""
    silent: float = 30.0
    """Without an answer: gets no more work, and others get what it had."""
    dropped: float = 600.0
    """Without an answer: given up."""
    verdict: float = 20.0
    """From the death of an actor until its node, if it still stands, is taken to have outlived it. Ray needs up to 15 s."""
    copy_medians: float = 2.0
    copy_floor: float = 20.0
    """At the tail an interval in flight for so many times the median one, and at least so long, is given out again."""
    backoff_first: float = 1.0
    backoff_most: float = 60.0
    store: float = 600.0
    """A store that fails for so long ends the run."""
    nobody: float = 60.0
    """Without any worker: said so often."""
    grace: float = 20.0
    """After SIGTERM or Ctrl-C, for what is in flight. A preempted machine has 30 s."""
    failures: int = 3
    actors: int = 2
    """An interval that failed so often, in so many actors, is given up."""
    systemic: int = 3
    """So many intervals fail, and none is committed between: it is not the intervals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The record of an attempt that failed by its own doing, as it lies under ``failures/``."""

    interval: Count
    attempt: str
    worker: str
    node: str
    kind: Kind
    why: str
    committed: Count
    """Intervals of the output that were committed when it failed."""

    __pydantic_config__ = CLOSED


@dataclass(frozen=True, slots=True)
class Start:
    """Make an actor of this name."""

    actor: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End this actor, whatever it is doing; nothing that it sends is waited for."""

    actor: str


@dataclass(frozen=True, slots=True)
class Make:
    """Give this actor this interval."""

    actor: str
    work: Work


@dataclass(frozen=True, slots=True)
class Record:
    """Store this failure, then tell the fleet of all that are stored of its interval."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Say:
    """Tell this event."""

    event: Event


Order = Start | Stop | Make | Record | Say


@dataclass(frozen=True, slots=True)
class Stopped:
    """The end before the end."""

    why: str
