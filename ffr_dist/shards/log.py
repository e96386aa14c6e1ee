"""The decided intervals of an output, read from the store and never told otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ffr_dist.shards import layout
from ffr_dist.shards.commit import Commit, read_commit
from ffr_dist.shards.refs import in_order
from ffr_dist.store import Store

_READERS = 16


class CommitLog:
    """Which intervals are decided, as of the last refresh."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._decided: dict[int, Commit] = {}
        self._first_gap = 0

    @property
    def first_gap(self) -> int:
        """The lowest interval that is not decided."""
        return self._first_gap

    def __contains__(self, interval: int) -> bool:
        return interval in self._decided

    def refresh(self, each: Callable[[Commit], None] | None = None) -> int:
        """Read what has been committed since; ``each`` gets every new commit once, by interval. Their number."""
        new = [interval for interval in self._listed() if interval not in self._decided]
        for commit in in_order(self._read, new, _READERS):
            self.add(commit)
            if each is not None:
                each(commit)
        return len(new)

    def add(self, commit: Commit) -> None:
        """Take in a commit that is known to stand: a receipt's. Twice does no harm."""
        self._decided.setdefault(commit.interval, commit)
        while self._first_gap in self._decided:
            self._first_gap += 1

    def commits(self) -> Iterator[Commit]:
        """All that is decided, by interval, one at a time."""
        for interval in sorted(self._decided):
            yield self._decided[interval]

    def _listed(self) -> Iterator[int]:
        after = layout.commit_key(self._first_gap - 1) if self._first_gap else None
        for info in self._store.list(layout.COMMITS, after=after):
            interval = layout.interval_of_commit(info.key)
            if interval is not None:  # whatever else lies there is not ours and decides nothing
                yield interval

    def _read(self, interval: int) -> Commit:
        return read_commit(self._store, interval)


def decided(store: Store) -> Iterator[Commit]:
    """The commits of an output as it stands now, by interval."""
    log = CommitLog(store)
    log.refresh()
    return log.commits()
