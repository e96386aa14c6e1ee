"""What a store is made of: what its callers get, and what a place that holds objects must be able to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from ffr_dist.errors import StoreError


@dataclass(frozen=True, slots=True)
class Mine:
    """The key now holds the bytes that this caller offered."""


@dataclass(frozen=True, slots=True)
class Theirs:
    """The key held other bytes already: these."""

    body: bytes


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a listing tells of an object."""

    key: str
    size: int
    modified: datetime
    """By the store's clock. An object that nobody touches always has the same, however it is asked for."""


class ExistsError(StoreError):
    """A create met an object, or a conflict with another create that may have come to nothing. Look what is there."""


class Unavailable(StoreError):  # noqa: N818 - a state of the storage
    """The storage was busy, unreachable or silent: the same call may succeed later, and may have had its effect."""


class Writer(Protocol):
    """The two primitive writes."""

    def put(self, key: str, body: bytes) -> None:
        """Write the whole object, over an older one if there is one."""

    def create(self, key: str, body: bytes) -> None:
        """Write the whole object if there is none; else raise. Any error leaves the outcome open."""


class Backend(Writer, Protocol):
    """A place that holds objects, by their full names. It raises errors of ours only (``ffr_dist.errors``)."""

    def put_file(self, key: str, path: Path) -> None: ...

    def get(self, key: str) -> bytes: ...

    def get_ranges(self, key: str, starts: Sequence[int], lengths: Sequence[int]) -> list[bytes]:
        """BrokenError where the object ends before a range does."""

    def read_into(self, key: str, starts: Sequence[int], parts: Sequence[memoryview]) -> None:
        """As :meth:`get_ranges`, of ranges that are not empty, into memory that is there."""

    def head(self, key: str) -> ObjectInfo: ...

    def list(self, folder: str, behind: str | None) -> Iterator[ObjectInfo]:
        """Sorted by key."""

    def delete(self, key: str) -> None:
        """No error where nothing is there."""

    def copy(self, key: str, to: object, to_key: str) -> bool:
        """Copy without the bytes passing through this process; False where ``to`` is not within reach."""
