"""What to make next: the brain of a generation, with neither Ray nor a device in it.

A driver holds only what the store says, so any number of them may come and go: each reads rounds and commits, plans
with the same pure function, and whoever is first to put a round or a commit is right for all. A caller (a loop in this
process, or one over actors) asks for work, hands it to workers, and tells what came of it.

Not thread-safe: one thread asks and tells. Beside the log of commits it keeps one byte an interval.
"""

from __future__ import annotations

import functools
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass

from ffr_dist.errors import BrokenError
from ffr_dist.generate.work import Work
from ffr_dist.groups import Groups
from ffr_dist.plan.document import Pinned, Planned, publish_round, read_rounds, refuse_other
from ffr_dist.plan.rounds import Complete, Round, Settle, Tally, Unfillable, Wait, next_round
from ffr_dist.quota import Exact, Quota, Survivors
from ffr_dist.shards import layout
from ffr_dist.shards.commit import Commit
from ffr_dist.shards.log import CommitLog
from ffr_dist.shards.selection import Revision, write_first_revision
from ffr_dist.shards.settle import SETTLE_COLUMNS, Settled, settle
from ffr_dist.shards.sidecar import load_sidecar
from ffr_dist.store import Store


@dataclass(frozen=True, slots=True)
class Finished:
    """Everything is decided and nothing is missing: ``finish`` can make the set visible."""

    intervals: int
    """How many were planned, which is what ``finish`` wants to know."""
    settled: Settled


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupProgress:
    """A group so far, before duplicates are known."""

    quota: int
    planned: int
    tried: int
    accepted: int
    rejected: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The whole so far."""

    round: int
    """Of the latest."""
    planned: int
    decided: int
    abandoned: int
    """Intervals; decided ones include abandoned ones."""
    groups: Mapping[str, GroupProgress]


Step = Work | Wait | Finished | Unfillable


class Driver:
    """Plans one output and hands out its intervals.

    Building one plans round 0, or refuses where the output has other values pinned or another quota.
    """

    def __init__(self, store: Store, groups: Groups, quota: Quota, pinned: Pinned) -> None:
        self._store = store
        self._groups = groups
        self._pinned = pinned
        for name in quota.counts:
            groups.by_name(name)
        there = read_rounds(store)
        if there:  # before anything is written
            refuse_other(there[0].pinned, pinned)
        self._revision = write_first_revision(store, quota)
        self._quota = _quota(self._revision)
        self._log = CommitLog(store)
        self._rounds: list[Round] = []
        self._undecided: list[int] = []
        self._tallies: list[dict[str, Tally]] = []
        self._rejected: dict[str, Counter[str]] = {name: Counter() for name in groups.names}
        self._is_decided = bytearray()
        self._abandoned = 0
        self._cursor = 0
        self._again: deque[int] = deque()
        self._finished: Finished | None = None
        if not there:
            first = next_round(self._quota, [], [], pinned.interval_size)
            assert isinstance(first, Round)  # noqa: S101  a quota asks for something
            there = [publish_round(store, Planned(first, pinned))]
            refuse_other(there[0].pinned, pinned)
        for planned in there:
            self._add(planned.round)
        self.refresh()

    def next(self) -> Step:
        """An interval to make; or that all are handed out and something must come back first; or how it ended."""
        while self._finished is None:
            interval = self._take()
            if interval is not None:
                return Work(interval, self._round_of(interval), self._pinned.interval_size)
            step = self._plan()
            if not isinstance(step, Round):
                return step
        return self._finished

    def committed(self, commit: Commit) -> None:
        """Count a commit that is known to stand: a receipt's. Twice does no harm."""
        interval = commit.interval
        if interval >= len(self._is_decided):
            raise BrokenError(f"{layout.commit_key(interval)} decides an interval that no round plans; remove it")
        if self._is_decided[interval]:
            return
        self._is_decided[interval] = True
        self._log.add(commit)
        number = self._round_of(interval).number
        self._undecided[number] -= 1
        self._abandoned += commit.abandoned is not None
        tallies = self._tallies[number]
        for group, found in commit.groups.items():
            if group not in self._rejected:
                raise BrokenError(f"{layout.commit_key(interval)} counts {group!r}, which is not declared; remove it")
            tallies[group] = tallies.get(group, Tally()) + Tally(found.tried, found.accepted)
            self._rejected[group].update(found.rejected)

    def lost(self, interval: int) -> None:
        """The attempt at this interval came to nothing: hand it out again, before any other."""
        self._again.append(interval)

    def refresh(self) -> None:
        """Take in what others have planned and committed."""
        new: list[Commit] = []
        self._log.refresh(new.append)
        # Rounds after commits: whatever is committed was planned before.
        for planned in read_rounds(self._store, len(self._rounds)):
            self._add(planned.round)
        for commit in new:
            self.committed(commit)

    def progress(self) -> Progress:
        """Counts so far; cheap."""
        return Progress(
            round=len(self._rounds) - 1,
            planned=len(self._is_decided),
            decided=len(self._is_decided) - sum(self._undecided),
            abandoned=self._abandoned,
            groups={name: self._group(name) for name in self._groups.names},
        )

    def _group(self, name: str) -> GroupProgress:
        tally = sum((tallies[name] for tallies in self._tallies if name in tallies), Tally())
        return GroupProgress(
            quota=self._quota.counts.get(name, 0),
            planned=sum(planned.totals.get(name, 0) for planned in self._rounds),
            tried=tally.tried,
            accepted=tally.accepted,
            rejected=dict(self._rejected[name]),
        )

    def _take(self) -> int | None:
        """An undecided interval that nobody works on for this driver; None if there is none."""
        while self._again:
            interval = self._again.popleft()
            if not self._is_decided[interval]:
                return interval
        place = self._is_decided.find(0, self._cursor)
        self._cursor = len(self._is_decided) if place < 0 else place + 1
        return place if place >= 0 else None

    def _plan(self) -> Round | Wait | Finished | Unfillable:
        """The next round, put into the store, or why there is none."""
        tallies = [None if self._undecided[n] else tally for n, tally in enumerate(self._tallies)]
        size = self._pinned.interval_size
        step = next_round(self._quota, self._rounds, tallies, size)
        if isinstance(step, Settle):
            self.refresh()
            if len(self._rounds) > len(tallies):  # somebody has settled, and planned what was missing
                return self._rounds[-1]
            settled = self._settle()
            step = next_round(self._quota, self._rounds, tallies, size, settled.shortfall)
            if isinstance(step, Complete):
                self._finished = Finished(len(self._is_decided), settled)
                return self._finished
        if isinstance(step, Round):
            step = publish_round(self._store, Planned(step)).round
            self._add(step)
            return step
        assert isinstance(step, Wait | Unfillable)  # noqa: S101  settling was asked for, and answered
        return step

    def _settle(self) -> Settled:
        if self._log.first_gap < len(self._is_decided):
            raise BrokenError(f"{self._store.url} has lost commits that were there; restore {layout.COMMITS}/")
        load = functools.partial(load_sidecar, self._store, columns=SETTLE_COLUMNS)
        return settle(self._log.commits, load, self._revision, self._groups)

    def _add(self, planned: Round) -> None:
        if planned.number != len(self._rounds) or planned.first_interval != len(self._is_decided):
            raise BrokenError(
                f"{layout.round_key(planned.number)} does not go on where round {len(self._rounds) - 1} ends; "
                "restore it or use another output"
            )
        self._rounds.append(planned)
        self._undecided.append(planned.intervals)
        self._tallies.append({})
        self._is_decided.extend(bytes(planned.intervals))

    def _round_of(self, interval: int) -> Round:
        return next(planned for planned in reversed(self._rounds) if planned.first_interval <= interval)


def _quota(revision: Revision) -> Quota:
    return Exact(revision.quota) if revision.kind == "exact" else Survivors(revision.quota)
