"""What to make next: the brain of a generation, with neither Ray nor a device in it.

A driver holds only what the store says, so any number of them may come and go: each reads rounds and commits, plans
with the same pure function, and whoever is first to put a round or a commit is right for all. A caller (a loop in this
process, or one over actors) asks for work, hands it to workers, and tells what came of it.

Not thread-safe: one thread asks and tells. Beside the log of commits it keeps sums: its memory does not grow with what
is made.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import random
import uuid
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ffr_dist.errors import BrokenError, StoppedError
from ffr_dist.generate.work import Work
from ffr_dist.groups import Groups
from ffr_dist.plan.document import Pinned, Planned, publish_round, read_rounds, refuse_other
from ffr_dist.plan.rounds import Complete, Round, Settle, Tally, Unfillable, Wait, next_round
from ffr_dist.quota import Exact, Quota, Survivors
from ffr_dist.shards import layout
from ffr_dist.shards.commit import Commit, abandon, publish
from ffr_dist.shards.log import CommitLog
from ffr_dist.shards.segment import Segment, Sums, sums_of
from ffr_dist.shards.selection import Revision, required_revision, write_first_revision
from ffr_dist.shards.settle import SETTLE_COLUMNS, Settled, settle
from ffr_dist.shards.sidecar import load_sidecar
from ffr_dist.store import Store

_REMEMBERED = 65_536
"""Intervals that a driver beside others gives out in a row before it forgets which are decided, and goes elsewhere."""


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

    A driver that joins others gives an ``offset``: in each round it passes over so many undecided intervals at first
    (of those there are, so any number will do), that they do not all make the same ones.
    """

    def __init__(
        self,
        store: Store,
        groups: Groups,
        quota: Quota,
        pinned: Pinned,
        *,
        near: int | None = None,
        offset: int = 0,
    ) -> None:
        self._store = store
        self._groups = groups
        self._pinned = pinned
        self._offset = offset
        self._elsewhere = random.Random(offset)
        for name in quota.counts:
            groups.by_name(name)
        there = read_rounds(store)
        if there:  # before anything is written
            refuse_other(there[0].pinned, pinned)
        self._revision = write_first_revision(store, quota, near)
        self._quota = _quota(self._revision)
        self._log = CommitLog(store, keep=True)
        self._rounds: list[Round] = []
        self._undecided: list[int] = []
        self._tallies: list[dict[str, Tally]] = []
        self._rejected: dict[str, Counter[str]] = {name: Counter() for name in groups.names}
        self._abandoned = 0
        self._again: deque[int] = deque()
        self._fresh: Iterator[int] = iter(())
        self._entered = 0
        """Rounds that were begun to be handed out; the last of them by ``_fresh``."""
        self._waiting: Wait | None = None
        """The last answer, until a round is decided."""
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
                return Work(interval, self._rounds[self._round_of(interval)], self._pinned.interval_size)
            step = self._waiting or self._plan()
            if isinstance(step, Wait):
                self._waiting = step
            if not isinstance(step, Round):
                return step
        return self._finished

    def committed(self, commit: Commit) -> None:
        """Count a commit that is known to stand: a receipt's. Twice does no harm."""
        self._need_round_of(commit.interval)
        if commit.interval not in self._log:
            self._log.add(commit)
            self._count_commit(commit)

    def lost(self, interval: int) -> None:
        """The attempt at this interval came to nothing: hand it out again, before any other."""
        self._again.append(interval)

    def abandon(self, interval: int, reason: str) -> Commit:
        """Give an interval up, unless somebody committed it; what stands is counted and comes back."""
        self._need_round_of(interval)
        commit = publish(self._store, abandon(interval, uuid.uuid4().hex, reason))
        self.committed(commit)
        return commit

    def refresh(self) -> None:
        """Take in what others have planned and committed: two listings behind the first gap, and what is new there."""
        self._log.refresh(self._count_segment)
        self._read_rounds()

    @property
    def piloted(self) -> bool:
        """Whether round 0 is decided, by whomever."""
        return not self._undecided[0]

    def progress(self) -> Progress:
        """Counts so far; cheap."""
        return Progress(
            round=len(self._rounds) - 1,
            planned=self._planned,
            decided=self._planned - sum(self._undecided),
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
            rejected=dict(+self._rejected[name]),
        )

    @property
    def _planned(self) -> int:
        """The first interval that no round holds."""
        return self._rounds[-1].end if self._rounds else 0

    def _count_commit(self, commit: Commit) -> None:
        self._need_round_of(commit.interval)
        self._count(self._round_of(commit.interval), 1, sums_of(commit), layout.commit_key(commit.interval))

    def _count_segment(self, segment: Segment) -> None:
        self._need_round_of(int(segment.intervals[-1]))
        for number, planned in enumerate(self._rounds):
            part = segment.between(planned.first_interval, planned.end)
            if len(part):
                first = int(part.intervals[0])
                self._count(
                    number, len(part), part.sums(), f"{layout.commit_key(first)}, or one of {len(part)} from there on,"
                )

    def _count(self, number: int, intervals: int, sums: Sums, source: str) -> None:
        """Count intervals of one round that are newly decided."""
        unknown = sorted(set(sums.tried) - set(self._rejected))
        if unknown:
            raise BrokenError(f"{source} counts {', '.join(unknown)}, which is not declared; use another output")
        self._undecided[number] -= intervals
        if not self._undecided[number]:
            self._waiting = None
        self._abandoned += sums.abandoned
        tallies = self._tallies[number]
        for group, tried in sums.tried.items():
            tallies[group] = tallies.get(group, Tally()) + Tally(tried, sums.accepted[group])
            rejected = self._rejected[group]
            for reason, count in sums.rejected[group].items():  # Counter.update is several times slower for so few
                rejected[reason] += count

    def _need_round_of(self, interval: int) -> None:
        if interval >= self._planned:
            self._read_rounds()  # whatever is committed was planned before
        if interval >= self._planned:
            raise BrokenError(f"{layout.commit_key(interval)} decides an interval that no round plans; remove it")

    def _read_rounds(self) -> None:
        for planned in read_rounds(self._store, len(self._rounds)):
            self._add(planned.round)

    def _take(self) -> int | None:
        """An undecided interval that nobody works on for this driver; None if there is none."""
        while self._again:
            interval = self._again.popleft()
            if interval not in self._log:
                return interval
        while True:
            fresh = next(self._fresh, None)
            if fresh is not None or self._entered == len(self._rounds):
                return fresh
            self._fresh = self._hand_out(self._rounds[self._entered])
            self._entered += 1

    def _hand_out(self, planned: Round) -> Iterator[int]:
        """The undecided intervals of a round, each once.

        Beside others it begins at a place of its own, and goes elsewhere where it meets what one of them has decided: from
        there on the two would make the same ones, side by side.
        """
        first, end = planned.first_interval, planned.end
        if not self._offset:
            yield from self._gaps(first, end)
            return
        given: set[int] = set()
        skipped = self._offset
        while True:
            given = {interval for interval in given if interval not in self._log}
            rest = self._undecided[planned.number] - len(given)
            if not rest:
                return
            free = (gap for gap in self._gaps(first, end) if gap not in given)
            place, most = next(itertools.islice(free, skipped % rest, None)), len(given) + _REMEMBERED
            while place < end and place not in self._log and place not in given and len(given) < most:
                given.add(place)
                yield place
                place += 1
            skipped = self._elsewhere.getrandbits(48)

    def _gaps(self, start: int, stop: int) -> Iterator[int]:
        while (place := self._log.gap(start, stop)) is not None:
            yield place
            start = place + 1

    def _plan(self) -> Round | Wait | Finished | Unfillable:
        """The next round, put into the store, or why there is none."""
        self._follow_selection()
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
                self._finished = Finished(self._planned, settled)
                return self._finished
        if isinstance(step, Round):
            step = publish_round(self._store, Planned(step)).round
            self._add(step)
            return step
        assert isinstance(step, Wait | Unfillable)  # noqa: S101  settling was asked for, and answered
        return step

    def _follow_selection(self) -> None:
        """Take in a selection that was made meanwhile; StoppedError where it asks for another number of images."""
        if not self._store.exists(layout.selection_key(self._revision.number + 1)):
            return
        latest = required_revision(self._store)
        asked = {name: count for name, count in self._quota.counts.items() if count}
        if latest.considered is not None or {name: count for name, count in latest.quota.items() if count} != asked:
            raise StoppedError(
                f"while this ran, {layout.selection_key(latest.number)} was written, which asks for another set; what is "
                "committed is kept. To go on: 'ffr generate' with the recipe that asks for it, or 'ffr extend' with this one"
            )
        self._revision = latest

    def _settle(self) -> Settled:
        load = functools.partial(load_sidecar, self._store, columns=SETTLE_COLUMNS)
        return settle(self._log.commits, load, self._revision, self._groups)

    def _add(self, planned: Round) -> None:
        if planned.number != len(self._rounds) or planned.first_interval != self._planned:
            raise BrokenError(
                f"{layout.round_key(planned.number)} does not go on where round {len(self._rounds) - 1} ends; "
                "restore it or use another output"
            )
        if planned.intervals != -(-planned.size // self._pinned.interval_size):
            raise BrokenError(
                f"{layout.round_key(planned.number)} cuts {planned.size:,} candidates into {planned.intervals:,} intervals, "
                "which does not add up; restore it or use another output"
            )
        self._rounds.append(planned)
        self._undecided.append(planned.intervals)
        self._tallies.append({})
        self._waiting = None

    def _round_of(self, interval: int) -> int:
        """The number of an interval's round."""
        return bisect.bisect_right(self._rounds, interval, key=lambda planned: planned.first_interval) - 1


def _quota(revision: Revision) -> Quota:
    return Exact(revision.quota) if revision.kind == "exact" else Survivors(revision.quota)
