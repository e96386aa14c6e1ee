"""One small interface over a local folder, buckets, and memory.

Invariants that the rest of the system builds on:

* An object is there whole or not at all; nobody ever reads half of one.
* ``put_if_absent`` gives each key at most one body, whoever races for it and however often. A caller learns which
  body won, and never concludes "not written" from an error: it reads back and compares.
* On a local folder, what a call has returned for survives power loss (``folder.py``).
* A call that fails for a reason that may pass is repeated for as long as ``config.retry_s`` says.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from ffr_dist.errors import InputError, MissingError, StoreError
from ffr_dist.store.config import StoreConfig
from ffr_dist.store.parts import Backend, ExistsError, Mine, ObjectInfo, Theirs, Unavailable, Writer
from ffr_dist.store.retry import Patience

PROBE = ".probe"
"""The folder of what is written only to be looked at, and deleted at once."""

_LONGEST_PART, _LONGEST_KEY = 255, 900


class Store:
    """Objects below one URL. Keys are relative, with ``/`` between their parts."""

    def __init__(
        self, url: str, backend: Backend, writer: Writer, prefix: str = "", config: StoreConfig | None = None
    ) -> None:
        self.url = url
        self.config = config or StoreConfig()
        self._backend = backend
        self._writer = writer
        self._prefix = prefix

    def _full(self, key: str) -> str:
        """The backend's name of ``key``."""
        _check_key(key)
        full = f"{self._prefix}/{key}" if self._prefix else key
        if len(full.encode()) > _LONGEST_KEY:
            raise InputError(f"{key[:60]!r}… is not a key: with its folder it is longer than {_LONGEST_KEY} bytes")
        return full

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def below(self, folder: str) -> Store:
        """The store of what lies under ``folder``: a dataset inside an output is opened like one of its own."""
        return Store(f"{self.url}/{folder}", self._backend, self._writer, self._full(folder), self.config)

    def put(self, key: str, body: bytes) -> None:
        """Write an object whose name says its content, or one whose last writer may win."""
        full = self._full(key)
        with _translated(f"{self.url}/{key}"):
            self._writer.put(full, body)

    def put_file(self, key: str, path: Path) -> None:
        """As :meth:`put`, from a file that nobody changes meanwhile; its size does not matter to memory."""
        self._backend.put_file(self._full(key), path)

    def put_if_absent(self, key: str, body: bytes) -> Mine | Theirs:
        """Write ``body`` under ``key`` unless something is there; say whose bytes the key holds afterwards.

        An error of the write proves nothing: the answer may have been lost after the write took effect, or a retry
        below may have met its own first try. So every failure is followed by a read, and only bytes decide.
        """
        full = self._full(key)
        patience = Patience(self.config.retry_s)
        while True:
            try:
                with _translated(f"{self.url}/{key}"):
                    self._writer.create(full, body)
            except StoreError as error:
                failure = error
            else:
                return Mine()
            try:
                there = self.get(key)
            except MissingError:
                if not isinstance(failure, Unavailable | ExistsError) or not patience.wait():
                    raise StoreError(f"{self.url}/{key} could not be written: {failure}") from failure
            else:
                return Mine() if there == body else Theirs(there)

    def get(self, key: str) -> bytes:
        return self._backend.get(self._full(key))

    def get_ranges(self, key: str, starts: Sequence[int], lengths: Sequence[int]) -> list[bytes]:
        """Several byte ranges of one object, near ones joined into one read. BrokenError where it ends before one."""
        full = self._full(key)
        return self._backend.get_ranges(full, starts, lengths) if starts else []

    def read_into(self, key: str, starts: Sequence[int], parts: Sequence[memoryview]) -> None:
        """As :meth:`get_ranges`, each range into memory that is there already: fresh memory costs more than the copy."""
        full = self._full(key)
        some = [(start, part) for start, part in zip(starts, parts, strict=True) if len(part)]
        if some:
            self._backend.read_into(full, *zip(*some, strict=True))

    def head(self, key: str) -> ObjectInfo:
        found = self._backend.head(self._full(key))
        return ObjectInfo(key, found.size, found.modified)

    def exists(self, key: str) -> bool:
        try:
            self.head(key)
        except MissingError:
            return False
        return True

    def list(self, prefix: str = "", after: str | None = None) -> Iterator[ObjectInfo]:
        """Objects whose key starts with the folder ``prefix``; with ``after``, only keys behind it. Sorted by key.

        They come as they are read, so that a million need no memory; what changes meanwhile may be seen or not.
        """
        folder = self._full(prefix.rstrip("/")) if prefix else self._prefix
        behind = self._full(after) if after else None
        return self._listed(folder, behind)

    def _listed(self, folder: str, behind: str | None) -> Iterator[ObjectInfo]:
        cut = len(self._prefix) + 1 if self._prefix else 0
        for info in self._backend.list(folder, behind):
            yield ObjectInfo(info.key[cut:], info.size, info.modified)

    def delete(self, key: str) -> None:
        """Delete an object; no error where there is none."""
        self._backend.delete(self._full(key))

    def copy(self, key: str, to: Store, to_key: str) -> None:
        """Copy an object, over an older one: on the server within a bucket, else through this process."""
        full, target = self._full(key), to._full(to_key)
        if not self._backend.copy(full, to._backend, target):
            to.put(to_key, self.get(key))

    def now(self) -> datetime:
        """The store's own clock, in whole seconds on most services: what ``modified`` of an object is compared with."""
        key = f"{PROBE}/{uuid.uuid4().hex}"
        self.put(key, b"")
        try:
            return self.head(key).modified
        finally:
            self.delete(key)


def _check_key(key: str) -> None:
    parts = key.split("/")
    # A folder would take control characters and a "#1" at the end, and then could not be listed or read any more.
    unsafe = not key.isprintable() or "\\" in key or re.search(r"#\d+(/|\Z)", key) is not None
    if unsafe or any(part in {"", ".", ".."} or len(part.encode()) > _LONGEST_PART for part in parts):
        raise InputError(f"{key[:300]!r} is not a key: it must stay inside its store, be printable and not too long")


@contextmanager
def _translated(where: str) -> Iterator[None]:
    """A bare error of the system, which no backend lets out, may still come from what stands before one."""
    try:
        yield
    except OSError as error:
        raise Unavailable(f"{where}: {error}") from error
