"""Records of failed attempts in the store, from where they are counted: so the count survives any driver."""

from __future__ import annotations

from ffr_dist.errors import BrokenError, ConflictError, StoreError
from ffr_dist.launch.fleet.orders import Failure
from ffr_dist.shards import documents, layout
from ffr_dist.store import Store


def failed_before(store: Store) -> set[int]:
    """The intervals of which failures are stored."""
    parts = (info.key.split("/") for info in store.list(layout.FAILURES))
    return {int(part[1]) for part in parts if len(part) == 3 and part[1].isascii() and part[1].isdigit()}


def record(store: Store, failure: Failure) -> list[Failure]:
    """Store a failure; all that are stored of its interval, this one last. Where the store fails, this one alone."""
    key = layout.failure_key(failure.interval, failure.attempt)
    found: list[Failure] = []
    try:
        store.put(key, documents.to_bytes(failure))
        for info in list(store.list(key.rpartition("/")[0])):
            if info.key != key:
                found += _read(store, info.key, failure.interval)
    except StoreError:
        pass  # counted again with the next failure
    return [*found, failure]


def _read(store: Store, key: str, interval: int) -> list[Failure]:
    try:
        found = documents.from_bytes(Failure, store.get(key), key)
    except (BrokenError, ConflictError):
        return []
    return [found] if found.interval == interval else []
