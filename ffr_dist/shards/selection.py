"""What the finished set shall hold: numbered revisions of quota, thresholds, exclusions and what was purged.

Invariants:

* Revision 0 is written before anything is generated. Each is put-if-absent, so that all who work on an output work for
  the same set; a later one takes over what the one before it says, but for what it was written to change.
* A revision never changes what was generated, only which of it counts. So no threshold falls below what the plan pins:
  what a worker rejected was never stored.
* Where a purge has replaced an interval's objects, the replacement stands for its commit's in that revision and in
  every later one.
"""

from __future__ import annotations

import dataclasses
import itertools
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from ffr_dist.errors import BrokenError, ConflictError, InputError
from ffr_dist.quota import Exact, Quota
from ffr_dist.shards import documents, layout
from ffr_dist.shards.commit import Commit, GroupTally
from ffr_dist.shards.documents import CLOSED, Count
from ffr_dist.shards.refs import ObjectRef
from ffr_dist.store import Store, Theirs

Kind = Literal["exact", "survivors"]

MOST_REVISIONS = 9999


class Threshold(NamedTuple):
    """A least value of a score that each sidecar row states."""

    score: str
    reason: str
    """Why a candidate below it is not in the set."""


THRESHOLDS: Mapping[str, Threshold] = {
    "blank_std": Threshold("std", "blank"),
    "grey_levels": Threshold("grey", "grey"),
    "agreement": Threshold("agreement", "disagrees"),
}
"""The keep rules that can be tightened after the fact, by the names of their settings."""


@dataclass(frozen=True, slots=True)
class Replaced:
    """What a purge has put in place of an interval's objects and counts."""

    interval: Count
    tar: ObjectRef | None
    sidecar: ObjectRef
    groups: Mapping[str, GroupTally]


@dataclass(frozen=True, slots=True)
class Revision:
    """One selection."""

    number: Annotated[int, Field(ge=0, le=MOST_REVISIONS)]
    kind: Kind
    quota: Mapping[str, Count]
    """Images of each group; for ``survivors`` the tries of each group."""
    excluded: tuple[str, ...] = ()
    """Keys that must not be in the set."""
    considered: tuple[tuple[Count, Count], ...] | None = None
    """The intervals [start, stop) that count, rising and apart; None: all."""
    tightened: Mapping[str, float] = field(default_factory=dict)
    """Least scores above those that the plan pins, by the names of ``THRESHOLDS``."""
    near: Annotated[int, Field(ge=1, le=256)] | None = None
    """Images of a group whose perceptual hashes differ in at most so many bits are near-duplicates; None: not asked."""
    replaced: tuple[Replaced, ...] = ()
    """By interval."""

    __pydantic_config__ = CLOSED

    def __post_init__(self) -> None:
        unknown = sorted(set(self.tightened) - set(THRESHOLDS))
        if unknown:
            raise ValueError(f"there is no threshold {unknown[0]}")
        bounds = [bound for part in self.considered or () for bound in part]
        if any(low >= high for low, high in itertools.pairwise(bounds)):
            raise ValueError("the ranges of considered intervals do not rise")
        intervals = [replaced.interval for replaced in self.replaced]
        if intervals != sorted(set(intervals)):
            raise ValueError("the replaced intervals do not rise")

    def considers(self, interval: int) -> bool:
        if self.considered is None:
            return True
        place = bisect_right(self.considered, interval, key=lambda part: part[0])
        return place > 0 and interval < self.considered[place - 1][1]


def standing(revision: Revision) -> Callable[[Commit], Commit]:
    """Gives for a commit what stands in its place: itself, unless its interval was purged."""
    replaced = {entry.interval: entry for entry in revision.replaced}

    def of(commit: Commit) -> Commit:
        entry = replaced.get(commit.interval)
        if entry is None:
            return commit
        try:
            return dataclasses.replace(commit, tar=entry.tar, sidecar=entry.sidecar, groups=entry.groups)
        except ValueError as error:
            key = layout.selection_key(revision.number)
            raise BrokenError(f"{key}: what replaces interval {commit.interval} is damaged: {error}") from error

    return of


def write_first_revision(store: Store, quota: Quota, near: int | None = None) -> Revision:
    """Revision 0 for ``quota``, or the latest one that stands where it asks for the same.

    ConflictError, which names the groups that differ, where the output's latest selection has another quota.
    """
    kind = kind_of(quota)
    wanted = Revision(0, kind, dict(quota.counts), near=near)
    latest = latest_revision(store)
    if latest is None:
        key = layout.selection_key(0)
        result = store.put_if_absent(key, documents.to_bytes(wanted))
        latest = _parse(key, 0, result.body) if isinstance(result, Theirs) else wanted
    _refuse_other(store, latest, wanted)
    return latest


def revise(store: Store, change: Callable[[Revision], Revision]) -> Revision:
    """The next revision, made by ``change`` from the latest one; the latest itself where that changes nothing.

    Whoever loses a race for the number gets the winner's if that holds the change already, else a ConflictError: run
    again, it starts from the winner's.
    """
    latest = required_revision(store)
    wanted = change(latest)
    if wanted == latest:
        return latest
    if latest.number == MOST_REVISIONS:
        raise ConflictError(f"{store.url} has {MOST_REVISIONS + 1} selections, which is the most; use another output")
    wanted = dataclasses.replace(wanted, number=latest.number + 1)
    key = layout.selection_key(wanted.number)
    result = store.put_if_absent(key, documents.to_bytes(wanted))
    if not isinstance(result, Theirs):
        return wanted
    winner = required_revision(store)
    return winner if change(winner) == winner else refuse_race(winner)


def refuse_race(winner: Revision) -> Revision:
    """Raises, for who finds that another revision has come between."""
    key = layout.selection_key(winner.number)
    raise ConflictError(f"somebody else changed the selection at this moment ({key}): look at it, and run again")


def latest_revision(store: Store) -> Revision | None:
    """The highest revision; None where nothing was ever asked of this output."""
    numbers = [layout.revision_of_selection(info.key) for info in store.list(layout.SELECTION)]
    known = [number for number in numbers if number is not None]
    return read_revision(store, max(known)) if known else None


def required_revision(store: Store) -> Revision:
    """As :func:`latest_revision`, where there must be one."""
    revision = latest_revision(store)
    if revision is None:
        raise InputError(f"{store.url} holds nothing to select from: run 'ffr generate' first")
    return revision


def read_revision(store: Store, number: int) -> Revision:
    key = layout.selection_key(number)
    return _parse(key, number, store.get(key))


def kind_of(quota: Quota) -> Kind:
    return "exact" if isinstance(quota, Exact) else "survivors"


def _parse(key: str, number: int, body: bytes) -> Revision:
    revision = documents.from_bytes(Revision, body, key)
    if revision.number != number:
        raise BrokenError(f"{key} calls itself revision {revision.number}; restore it or use another output")
    return revision


def _refuse_other(store: Store, latest: Revision, wanted: Revision) -> None:
    there = layout.selection_key(latest.number)
    if latest.kind != wanted.kind:
        raise ConflictError(f"{there} asks for {latest.kind} images, this run for {wanted.kind}; use another output")
    differing = [
        f"{name} ({latest.quota.get(name, 0)} there, {wanted.quota.get(name, 0)} now)"
        for name in sorted({*latest.quota, *wanted.quota})
        if latest.quota.get(name, 0) != wanted.quota.get(name, 0)
    ]
    if differing:
        raise ConflictError(
            f"{there} has another quota for {', '.join(differing)}; to change what this output is to hold: "
            f"ffr extend RECIPE --out {store.url}"
        )
    if latest.considered is not None:
        raise ConflictError(
            f"{there} takes only what was decided when the set was finished early; to go on with all of it: "
            f"ffr extend RECIPE --out {store.url}"
        )
