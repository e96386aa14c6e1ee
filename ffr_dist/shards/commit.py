"""Which work counts: at most one commit an interval.

Invariants:

* ``publish`` is the only writer of ``commits/``, by put-if-absent; what stands there first stands for good. A commit
  is written last, after the objects it names are whole in the store.
* A commit carries its attempt's id, so that two attempts never write equal bytes and each learns whether it won.
* Nobody deletes a commit, and nobody deletes an object because its attempt lost: it may be the winner's too.
* An interval is decided by a commit, or by one that abandons it. Nothing else decides it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ffr_dist.errors import BrokenError
from ffr_dist.shards import documents, layout
from ffr_dist.shards.documents import CLOSED, Count
from ffr_dist.shards.refs import ObjectRef
from ffr_dist.store import Store, Theirs

__all__ = ["Commit", "GroupTally", "ObjectRef", "abandon", "parse_commit", "publish", "read_commit"]


@dataclass(frozen=True, slots=True)
class GroupTally:
    """What became of a group's candidates in one interval, before anything global is decided."""

    tried: Count
    accepted: Count
    rejected: Mapping[str, Count]
    """Counts by reason."""

    def __post_init__(self) -> None:
        if self.tried != self.accepted + sum(self.rejected.values()):
            raise ValueError("tried is not the sum of accepted and rejected")


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What one interval came to: its objects and counts, or why it was given up."""

    interval: Count
    attempt: str
    tar: ObjectRef | None
    """None where no candidate was accepted."""
    sidecar: ObjectRef | None
    """None only where the interval is abandoned."""
    groups: Mapping[str, GroupTally]
    environment: Mapping[str, str]
    seconds: float
    """How long its worker's device was at it, from the first batch to the last."""
    abandoned: str | None = None
    """Why, where the interval is given up."""

    __pydantic_config__ = CLOSED

    def __post_init__(self) -> None:
        accepted = sum(tally.accepted for tally in self.groups.values())
        if self.abandoned is not None:
            if self.tar or self.sidecar or self.groups:
                raise ValueError("an abandoned interval names no object and counts nothing")
            return
        if self.sidecar is None or (self.tar is None) != (accepted == 0):
            raise ValueError("a commit names its sidecar, and a tar exactly if something was accepted")
        for ref, ending in ((self.tar, "tar"), (self.sidecar, "parquet")):
            if ref is not None and layout.interval_of_shard(ref.key, ref.sha256, ending) != self.interval:
                raise ValueError(f"{ref.key} is not the name of this interval's object of that hash")


def abandon(interval: int, attempt: str, reason: str) -> Commit:
    """The commit that gives an interval up."""
    return Commit(
        interval=interval,
        attempt=attempt,
        tar=None,
        sidecar=None,
        groups={},
        environment={},
        seconds=0.0,
        abandoned=reason,
    )


def publish(store: Store, commit: Commit) -> Commit:
    """Offer a commit; the one that counts comes back: this, or the one that was there before."""
    key = layout.commit_key(commit.interval)
    result = store.put_if_absent(key, documents.to_bytes(commit))
    return parse_commit(commit.interval, result.body) if isinstance(result, Theirs) else commit


def read_commit(store: Store, interval: int) -> Commit:
    """The commit of an interval that is known to be decided."""
    return parse_commit(interval, store.get(layout.commit_key(interval)))


def parse_commit(interval: int, body: bytes) -> Commit:
    """The commit of an interval, from what its key holds."""
    key = layout.commit_key(interval)
    commit = documents.from_bytes(Commit, body, key)
    if commit.interval != interval:
        raise BrokenError(f"{key} speaks of interval {commit.interval}; restore it or use another output")
    return commit
