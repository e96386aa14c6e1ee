"""What an output tells of its own making, taken in as it grows.

An observer reads each commit once and keeps sums, so that looking again costs what is new, not what is there. All of it
comes from the store: any machine that can read the output sees the same.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ffr_dist.errors import InputError
from ffr_dist.plan.cost import Done, Estimate, Pace, acceptance_of
from ffr_dist.plan.document import Planned, read_rounds
from ffr_dist.plan.rounds import Tally
from ffr_dist.quota import Exact, Quota, Survivors
from ffr_dist.shards import layout
from ffr_dist.shards.log import CommitLog
from ffr_dist.shards.segment import Segment, Sums
from ffr_dist.shards.selection import Revision, latest_revision
from ffr_dist.store import Store

_WINDOW = 256
"""Latest commits that the present rate is of."""
_SLACK_S = 5.0
"""Between the end of an interval and the store's time of its commit, at most, in ordinary circumstances."""


class Observer:
    """Sums over the commits of an output; ``look`` takes in what is new."""

    def __init__(self, store: Store) -> None:
        revision = latest_revision(store)
        if revision is None:
            raise InputError(f"{store.url} holds no plan; start one with 'ffr generate'")
        self.store = store
        self.revision: Revision = revision
        self.rounds: list[Planned] = []
        self.tallies: list[dict[str, Tally]] = []
        self.decided: list[int] = []
        self.rejected: dict[str, Counter[str]] = {name: Counter() for name in revision.quota}
        self.abandoned: Counter[str] = Counter()
        """Intervals by reason."""
        self.bytes = 0
        """Of tars and sidecars."""
        self.pace = Pace()
        self._log = CommitLog(store)
        self._latest: OrderedDict[int, tuple[int, float]] = OrderedDict()

    def look(self) -> None:
        """Take in what was planned and committed since."""
        self.revision = latest_revision(self.store) or self.revision
        self._read_rounds()
        self._log.refresh(self._take)

    @property
    def quota(self) -> Quota:
        counts = self.revision.quota
        return Exact(counts) if self.revision.kind == "exact" else Survivors(counts)

    @property
    def interval_size(self) -> int | None:
        """As pinned; None before round 0."""
        first = self.rounds[0].pinned if self.rounds else None
        return None if first is None else first.interval_size

    @property
    def planned(self) -> int:
        return self.rounds[-1].round.end if self.rounds else 0

    @property
    def done(self) -> Done:
        return Done(rounds=[planned.round for planned in self.rounds], tallies=self.tallies, decided=self.decided)

    def tally(self, group: str) -> Tally:
        return sum((tallies.get(group, Tally()) for tallies in self.tallies), Tally())

    def acceptance(self) -> dict[str, Estimate]:
        """Of each group that was tried."""
        tallies = {name: self.tally(name) for name in self.revision.quota}
        return {name: acceptance_of(tally) for name, tally in tallies.items() if tally.tried}

    def images_per_second(self) -> float | None:
        """Candidates of all workers together, over the latest commits and without the pauses between starts."""
        first = max(0, self._log.first_gap - _WINDOW)
        after = layout.commit_key(first - 1) if first else None
        arrivals = []
        for info in self.store.list(layout.COMMITS, after=after):
            interval = layout.interval_of_commit(info.key)
            if interval is not None and interval in self._latest:
                arrivals.append((info.modified.timestamp(), *self._latest[interval]))
        return rate_of(sorted(arrivals)[-_WINDOW:])

    def _read_rounds(self) -> None:
        for planned in read_rounds(self.store, len(self.rounds)):
            self.rounds.append(planned)
            self.tallies.append({})
            self.decided.append(0)

    def _take(self, segment: Segment) -> None:
        """Count commits together: none of them is built."""
        if segment.intervals[-1] >= self.planned:
            self._read_rounds()
        # What no round plans is foreign: a plan is there before its commits.
        segment = segment.between(0, self.planned)
        for number, planned in enumerate(self.rounds):
            part = segment.between(planned.round.first_interval, planned.round.end)
            if len(part):
                self._count(number, part.sums(), len(part))
        table = segment.table
        self.abandoned.update(table["abandoned"].drop_null().to_pylist())
        for name in ("tar_bytes", "sidecar_bytes"):
            self.bytes += pc.sum(table[name], min_count=0).as_py()
        rows = zip(segment.intervals.tolist(), _tried(table), table["seconds"].to_pylist(), strict=True)
        for interval, tried, seconds in rows:
            if tried:
                self._took(interval, tried, seconds)

    def _count(self, number: int, sums: Sums, intervals: int) -> None:
        self.decided[number] += intervals
        tallies = self.tallies[number]
        for name, tried in sums.tried.items():
            tallies[name] = tallies.get(name, Tally()) + Tally(tried, sums.accepted[name])
            self.rejected.setdefault(name, Counter()).update(sums.rejected[name])

    def _took(self, interval: int, tried: int, seconds: float) -> None:
        self.pace.add(tried, seconds)
        self._latest[interval] = (tried, seconds)
        if len(self._latest) > 4 * _WINDOW:
            self._latest.popitem(last=False)


def _tried(table: pa.Table) -> list[int]:
    """Candidates of each row of a segment."""
    groups = table["groups"].combine_chunks()
    ends = np.cumsum(pc.list_value_length(groups).to_numpy())
    running = np.concatenate([[0], np.cumsum(pc.list_flatten(groups).field("tried").to_numpy())])
    tried: list[int] = np.diff(running[np.concatenate([[0], ends])]).tolist()
    return tried


def rate_of(arrivals: Iterable[tuple[float, int, float]]) -> float | None:
    """Candidates a second from (store's time, candidates, seconds of its worker) of commits.

    A busy worker is not silent for much longer than it takes to make an interval. So a gap of more than three times what
    the longest of these commits took, and some slack, is a pause, and counts as what the commit behind it took.
    """
    ordered = sorted(arrivals)
    if len(ordered) < 2:
        return None
    longest = 3 * max(seconds for _, _, seconds in ordered) + _SLACK_S
    elapsed = 0.0
    for before, after in pairwise(ordered):
        gap = after[0] - before[0]
        elapsed += gap if gap <= longest else min(gap, after[2])
    candidates = sum(count for _, count, _ in ordered[1:])  # the first one starts the clock
    return candidates / elapsed if elapsed > 0 and candidates else None


def measured_rate(store: Store) -> float | None:
    """Candidates a second of all workers together, over everything that the output holds."""
    times: dict[int, float] = {}
    for info in store.list(layout.COMMITS):
        interval = layout.interval_of_commit(info.key)
        if interval is not None:
            times[interval] = info.modified.timestamp()
    log = CommitLog(store)
    log.refresh()
    return rate_of(
        (times[commit.interval], sum(tally.tried for tally in commit.groups.values()), commit.seconds)
        for commit in log.commits()
        if commit.interval in times and commit.abandoned is None
    )
