"""One small interface over a local folder, memory, and (with the same calls) buckets.

Invariants that the rest of the system builds on:

* An object is there whole or not at all; nobody ever reads half of one.
* ``put_if_absent`` gives each key at most one body, whoever races for it and however often. A caller learns which
  body won, and never concludes "not written" from an error: it reads back and compares.
* On a local folder, what a call has returned for survives power loss (``local.py``).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import LocalStore, MemoryStore

from ffr_dist.errors import InputError, MissingError, StoreError
from ffr_dist.store.local import create_file, replace_file

_TRIES = 5
_FIRST_WAIT_S = 0.05


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


class Writer(Protocol):
    """The two primitive writes, which differ between a folder and the rest."""

    def put(self, key: str, body: bytes) -> None:
        """Write the whole object, over an older one if there is one."""

    def create(self, key: str, body: bytes) -> None:
        """Write the whole object if there is none; else raise. Any error leaves the outcome open."""


@dataclass(frozen=True, slots=True)
class _FolderWriter:
    root: Path

    def put(self, key: str, body: bytes) -> None:
        replace_file(self.root / key, body)

    def create(self, key: str, body: bytes) -> None:
        create_file(self.root / key, body)


@dataclass(frozen=True, slots=True)
class _ObjectWriter:
    backend: MemoryStore

    def put(self, key: str, body: bytes) -> None:
        obstore.put(self.backend, key, body, use_multipart=False)

    def create(self, key: str, body: bytes) -> None:
        obstore.put(self.backend, key, body, mode="create", use_multipart=False)


class Store:
    """Objects below one URL. Keys are relative, with ``/`` between their parts."""

    def __init__(self, url: str, backend: LocalStore | MemoryStore, writer: Writer, prefix: str = "") -> None:
        self.url = url
        self._backend = backend
        self._writer = writer
        self._prefix = prefix

    def _full(self, key: str) -> str:
        """The backend's name of ``key``."""
        _check_key(key)
        return f"{self._prefix}/{key}" if self._prefix else key

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def below(self, folder: str) -> Store:
        """The store of what lies under ``folder``: a dataset inside an output is opened like one of its own."""
        return Store(f"{self.url}/{folder}", self._backend, self._writer, self._full(folder))

    def put(self, key: str, body: bytes) -> None:
        """Write an object whose name says its content, or one whose last writer may win."""
        full = self._full(key)
        with _Translated(self.url, key):
            self._writer.put(full, body)

    def put_if_absent(self, key: str, body: bytes) -> Mine | Theirs:
        """Write ``body`` under ``key`` unless something is there; say whose bytes the key holds afterwards.

        An error of the write proves nothing: the answer may have been lost after the write took effect, or a retry
        below may have met its own first try. So every failure is followed by a read, and only bytes decide.
        """
        full = self._full(key)
        last: Exception | None = None
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_FIRST_WAIT_S * 2**attempt)
            try:
                self._writer.create(full, body)
            except (OSError, BaseError) as error:
                last = error
            else:
                return Mine()
            try:
                there = self.get(key)
            except MissingError:
                continue
            return Mine() if there == body else Theirs(there)
        raise StoreError(f"{self.url}/{key} could not be written: {last}") from last

    def get(self, key: str) -> bytes:
        full = self._full(key)
        with _Translated(self.url, key):
            return bytes(obstore.get(self._backend, full).bytes())

    def get_ranges(self, key: str, starts: Sequence[int], lengths: Sequence[int]) -> list[bytes]:
        """Several byte ranges of one object, near ones joined into one read."""
        full = self._full(key)
        if not starts:
            return []
        with _Translated(self.url, key):
            return [bytes(part) for part in obstore.get_ranges(self._backend, full, starts=starts, lengths=lengths)]

    def head(self, key: str) -> ObjectInfo:
        full = self._full(key)
        with _Translated(self.url, key):
            meta = obstore.head(self._backend, full)
        return ObjectInfo(key=key, size=meta["size"], modified=meta["last_modified"])

    def exists(self, key: str) -> bool:
        try:
            self.head(key)
        except MissingError:
            return False
        return True

    def list(self, prefix: str = "", after: str | None = None) -> Iterator[ObjectInfo]:
        """Objects whose key starts with the folder ``prefix``; with ``after``, only keys behind it. Sorted by key."""
        folder = self._full(prefix.rstrip("/")) if prefix else self._prefix
        behind = self._full(after) if after else None
        cut = len(self._prefix) + 1 if self._prefix else 0
        found: list[ObjectInfo] = []
        with _Translated(self.url, prefix):
            for page in obstore.list(self._backend, folder or None, offset=behind):
                found += [ObjectInfo(meta["path"][cut:], meta["size"], meta["last_modified"]) for meta in page]
        return iter(sorted(found, key=lambda info: info.key))

    def delete(self, key: str) -> None:
        full = self._full(key)
        with _Translated(self.url, key):
            obstore.delete(self._backend, full)


_memory: dict[str, MemoryStore] = {}


def open_store(url: str, *, create: bool = True) -> Store:
    """The store at a folder path, ``file://…`` or ``memory://name`` (shared by name within this process).

    With ``create=False`` a folder that is not there is an error, for those who only read.
    """
    if url.startswith("memory://"):
        name, _, folder = url.removeprefix("memory://").partition("/")
        objects = _memory.setdefault(name, MemoryStore())
        return Store(url, objects, _ObjectWriter(objects), folder)
    scheme, separator, rest = url.partition("://")
    if separator and scheme != "file":
        raise InputError(f"{url}: stores of kind {scheme}:// are not built in; use a local folder or memory://name")
    root = Path(rest if separator else url).expanduser().absolute()
    if not create and not root.is_dir():
        raise InputError(f"there is no output at {root}; check the path")
    try:
        root.mkdir(parents=True, exist_ok=True)
        backend = LocalStore(root)
    except (OSError, BaseError) as error:
        raise InputError(f"the output {root} is not writable: {error}; choose another folder") from error
    return Store(str(root), backend, _FolderWriter(root))


def _check_key(key: str) -> None:
    parts = key.split("/")
    # A folder would take control characters and a "#1" at the end, and then could not be listed or read any more.
    unsafe = not key.isprintable() or "\\" in key or re.search(r"#\d+(/|\Z)", key) is not None
    if unsafe or any(part in {"", ".", ".."} for part in parts):
        raise InputError(f"{key!r} is not a key: it must stay inside its store and be printable")


class _Translated:
    """Turns the library's errors into ours, in this one place."""

    def __init__(self, url: str, key: str) -> None:
        self._where = f"{url}/{key}"

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, NotFoundError | FileNotFoundError):
            raise MissingError(f"{self._where} is not there") from error
        if isinstance(error, AlreadyExistsError):
            raise StoreError(f"{self._where} exists already") from error
        if isinstance(error, BaseError | OSError):
            raise StoreError(f"{self._where}: {error}") from error
