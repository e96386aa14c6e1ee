"""The decided intervals of an output, read from the store and never told otherwise.

``commits/`` is the truth. ``log/`` holds the commits of whole segments, ``SEGMENT`` intervals each, and only saves
requests: without it everything here gives the same answers.

* A segment is written once all its intervals are decided, as a pure function of their commits. Several drivers may
  write the same one, with the same bytes, in any order; a write that fails is forgotten, for the next start makes it up.
* A segment is believed if its seal holds, it has exactly its intervals in order, each row could be a commit, and its last
  row is the commit that stands in the store. The seal tells damage. The commit tells a segment of another output, or one
  that outlived its commits: attempts never repeat, so one differing row gives the whole away. Who can write a false
  segment that passes all this can as well write false commits. Whatever is not believed is as if it were not there.
* Only a driver keeps segments (``keep``): a reader may have no right to write, and looking must change nothing.
* In memory are one byte an interval and, folded, the commits of segments that are decided in part. Those of whole
  segments are read back when they are asked for.
"""

from __future__ import annotations

import contextlib
import itertools
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence

import pyarrow as pa

from ffr_dist.errors import MissingError, StoreError
from ffr_dist.shards import layout
from ffr_dist.shards.commit import Commit, parse_commit, read_commit
from ffr_dist.shards.refs import in_order
from ffr_dist.shards.segment import Segment, segment_of, unfold, unpack
from ffr_dist.store import Store

SEGMENT = 4096
"""Intervals of a segment."""

_READERS = 16
_READ_TOGETHER = 32
_LOOSE = 64
"""Commits of a segment that are kept as they are before they are folded."""
_FOLDED = 1024
"""Commits that are folded at once where there are many: the work is mostly per fold."""


class CommitLog:
    """Which intervals are decided, and how, as of the last refresh and the receipts since."""

    def __init__(self, store: Store, *, keep: bool = False) -> None:
        self._store = store
        self._keep = keep
        self._decided = bytearray()
        self._open: dict[int, _Open] = {}
        self._first_gap = 0

    @property
    def first_gap(self) -> int:
        """The lowest interval that is not decided."""
        return self._first_gap

    def __contains__(self, interval: int) -> bool:
        return interval < len(self._decided) and self._decided[interval] == 1

    def gap(self, start: int, stop: int) -> int | None:
        """The lowest interval from ``start`` on and below ``stop`` that is not decided."""
        place = self._decided.find(0, start, stop)
        if place < 0:
            place = max(start, len(self._decided))
        return place if place < stop else None

    def refresh(self, take: Callable[[Segment], None] | None = None) -> int:
        """Read what has been committed since; ``take`` gets every new commit once, some at a time. Their number."""
        new = sum(self._take(number, take) for number in self._stored())
        unknown = array("i", (interval for interval in self._listed() if interval not in self))
        for number, commits in itertools.groupby(self._read_all(unknown), lambda commit: commit.interval // SEGMENT):
            while some := list(itertools.islice(commits, _FOLDED)):
                new += self._enter(number, some, take)
        return new

    def add(self, commit: Commit) -> None:
        """Take in a commit that is known to stand: a receipt's. Twice does no harm."""
        if commit.interval not in self:
            self._add(commit.interval // SEGMENT, [commit])

    def commits(self) -> Iterator[Commit]:
        """All that is decided, by interval, one at a time."""
        for number in range(-(-len(self._decided) // SEGMENT)):
            first = number * SEGMENT
            if number in self._open:
                yield from self._open[number].segment().commits()
            elif first in self:
                yield from self._segment_commits(number)

    def _segment_commits(self, number: int) -> Iterable[Commit]:
        segment = self._load(number)
        if segment is not None:
            return segment.commits()
        return self._read_all(range(number * SEGMENT, (number + 1) * SEGMENT))

    def _enter(self, number: int, commits: Sequence[Commit], take: Callable[[Segment], None] | None) -> int:
        """Take in commits of one segment, by interval; how many were new."""
        fresh = [commit for commit in commits if commit.interval not in self]
        if not fresh:
            return 0
        segment = segment_of(fresh)
        self._add(number, fresh, segment)
        if take is not None:
            take(segment)
        return len(fresh)

    def _add(self, number: int, commits: Sequence[Commit], segment: Segment | None = None) -> None:
        there = self._open.setdefault(number, _Open())
        there.add(commits, segment)
        for commit in commits:
            self._mark(commit.interval, commit.interval + 1)
        if there.count == SEGMENT:
            del self._open[number]
            if self._keep:
                with contextlib.suppress(StoreError):
                    self._store.put(layout.log_key(number), there.segment().pack())
                pa.default_memory_pool().release_unused()  # else it keeps what each segment took for a while

    def _take(self, number: int, take: Callable[[Segment], None] | None) -> int:
        """Take in a stored segment; how many of its intervals were new."""
        segment = self._load(number)
        if segment is None:
            return 0
        if number in self._open:
            return self._enter(number, list(segment.commits()), take)
        self._mark(number * SEGMENT, (number + 1) * SEGMENT)
        if take is not None:
            take(segment)
        return SEGMENT

    def _mark(self, start: int, stop: int) -> None:
        self._decided.extend(bytes(max(0, stop - len(self._decided))))
        self._decided[start:stop] = b"\1" * (stop - start)
        if start <= self._first_gap < stop:
            gap = self.gap(stop, len(self._decided))
            self._first_gap = len(self._decided) if gap is None else gap

    def _stored(self) -> Iterator[int]:
        """Segments in the store that are not known whole."""
        below = self._first_gap // SEGMENT
        for info in self._store.list(layout.LOG, after=layout.log_key(below - 1) if below else None):
            number = layout.number_of_log(info.key)
            if number is not None and (number in self._open or number * SEGMENT not in self):
                yield number

    def _load(self, number: int) -> Segment | None:
        """A stored segment, if it can be believed."""
        try:
            body = self._store.get(layout.log_key(number))
            segment = unpack(body, number * SEGMENT, SEGMENT)
            if segment is None:
                return None
            end = (number + 1) * SEGMENT
            (last,) = segment.between(end - 1, end).commits()
            return segment if read_commit(self._store, last.interval) == last else None
        except MissingError:
            return None

    def _listed(self) -> Iterator[int]:
        after = layout.commit_key(self._first_gap - 1) if self._first_gap else None
        for info in self._store.list(layout.COMMITS, after=after):
            interval = layout.interval_of_commit(info.key)
            if interval is not None:  # whatever else lies there is not ours and decides nothing
                yield interval

    def _read_all(self, intervals: Sequence[int]) -> Iterator[Commit]:
        # Some at a time where there are many: to pass one body between threads takes as long as to get it. Threads only
        # wait for the store; parsing in them, they would wait for each other.
        size = max(1, min(_READ_TOGETHER, len(intervals) // _READERS))
        parts = (intervals[start : start + size] for start in range(0, len(intervals), size))
        for part in in_order(
            lambda part: [(one, self._store.get(layout.commit_key(one))) for one in part], parts, _READERS
        ):
            for interval, body in part:
                yield parse_commit(interval, body)


class _Open:
    """The commits of a segment that is decided in part."""

    def __init__(self) -> None:
        self.count = 0
        self._folded: list[bytes] = []
        self._loose: list[Commit] = []

    def add(self, commits: Sequence[Commit], segment: Segment | None) -> None:
        """``segment`` is the same commits, where it is there already."""
        self.count += len(commits)
        if segment is not None and len(commits) >= _LOOSE:
            self._folded.append(segment.fold())
            return
        self._loose += commits
        if len(self._loose) >= _LOOSE:
            self._folded.append(segment_of(self._loose).fold())
            self._loose.clear()

    def segment(self) -> Segment:
        return unfold([*self._folded, segment_of(self._loose).fold()])


def decided(store: Store) -> Iterator[Commit]:
    """The commits of an output as it stands now, by interval."""
    log = CommitLog(store)
    log.refresh()
    return log.commits()
