"""What the finished set shall hold: numbered revisions of quota and exclusions.

Revision 0 is written before anything is generated. A later one never changes what was generated, only which of it
counts. Each is put-if-absent, so that all who work on an output work for the same set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from ffr_dist.errors import BrokenError, ConflictError
from ffr_dist.quota import Exact, Quota
from ffr_dist.shards import documents, layout
from ffr_dist.shards.documents import CLOSED, Count
from ffr_dist.store import Store, Theirs

Kind = Literal["exact", "survivors"]


@dataclass(frozen=True, slots=True)
class Revision:
    """One selection."""

    number: Annotated[int, Field(ge=0, le=9999)]
    kind: Kind
    quota: Mapping[str, Count]
    """Images of each group; for ``survivors`` the tries of each group."""
    excluded: tuple[str, ...] = ()
    """Keys that must not be in the set."""
    considered: tuple[tuple[Count, Count], ...] | None = None
    """The intervals [start, stop) that count; None: all."""

    __pydantic_config__ = CLOSED

    def considers(self, interval: int) -> bool:
        return self.considered is None or any(start <= interval < stop for start, stop in self.considered)


def write_first_revision(store: Store, quota: Quota) -> Revision:
    """Revision 0 for ``quota``, or the latest one that stands where it asks for the same.

    ConflictError, which names the groups that differ, where the output was begun with another quota.
    """
    kind: Kind = "exact" if isinstance(quota, Exact) else "survivors"
    wanted = Revision(0, kind, dict(quota.counts))
    latest = latest_revision(store)
    if latest is None:
        key = layout.selection_key(0)
        result = store.put_if_absent(key, documents.to_bytes(wanted))
        latest = _parse(key, 0, result.body) if isinstance(result, Theirs) else wanted
    _refuse_other(latest, wanted)
    return latest


def latest_revision(store: Store) -> Revision | None:
    """The highest revision; None where nothing was ever asked of this output."""
    numbers = [layout.revision_of_selection(info.key) for info in store.list(layout.SELECTION)]
    known = [number for number in numbers if number is not None]
    return read_revision(store, max(known)) if known else None


def read_revision(store: Store, number: int) -> Revision:
    key = layout.selection_key(number)
    return _parse(key, number, store.get(key))


def _parse(key: str, number: int, body: bytes) -> Revision:
    revision = documents.from_bytes(Revision, body, key)
    if revision.number != number:
        raise BrokenError(f"{key} calls itself revision {revision.number}; restore it or use another output")
    return revision


def _refuse_other(latest: Revision, wanted: Revision) -> None:
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
            f"{there} has another quota for {', '.join(differing)}; restore the settings or use another output"
        )
