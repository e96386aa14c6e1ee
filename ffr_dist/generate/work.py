"""What passes between driver and worker: an interval to make, and the receipt for it. Small, picklable, no pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ffr_dist.plan.interleave import Candidate
from ffr_dist.plan.rounds import Round
from ffr_dist.shards.commit import Commit


@dataclass(frozen=True, slots=True)
class Work:
    """One interval of a round."""

    interval: int
    round: Round
    interval_size: int

    @property
    def candidates(self) -> list[Candidate]:
        """(group, k) of each slot; worked out where they are wanted, so that they need not travel."""
        return self.round.candidates(self.interval, self.interval_size)


@dataclass(frozen=True, slots=True)
class Receipt:
    """That an interval is decided."""

    commit: Commit
    """The one that counts, which may be another attempt's."""
    mine: bool
    seconds: Mapping[str, float]
    """By stage: ``fetch sample encode pack upload commit``. Stages overlap; encode is summed over its threads."""


@dataclass(frozen=True, slots=True)
class BatchDone:
    """Told after every batch: the sign that a worker is alive, and how fast."""

    interval: int
    candidates: int
    accepted: int
    rejected: Mapping[str, int]
    """Counts by reason."""
    sample_s: float
    """How long the device was busy with it."""
    idle_s: float = 0.0
    """How long the device had nothing to do before it, since the batch before."""
