"""A local folder (or a mounted one) as a store, by hand: no library for it fsyncs.

* A body is written to a temporary file, fsynced, and moved into place by one atomic call: ``rename`` for "last writer
  wins", ``link`` for "only the first". Then the folder itself is fsynced. So what a call has returned for survives power
  loss, and a full disk leaves nothing behind.
* The temporary name starts with a dot and ends in ``#1``, a form that no key may have and no listing shows.
* Only regular files are objects: a pipe or a device that somebody left there is not opened.
* A folder that holds no object any more goes away with its last one, as in a bucket.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from ffr_dist.errors import BrokenError, MissingError, StoreError
from ffr_dist.store.parts import ExistsError, ObjectInfo

_HIDDEN = re.compile(r"#\d+\Z")
_FULL = {errno.ENOSPC, errno.EDQUOT}
_NOWHERE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
_TRIES = 20


@dataclass(frozen=True, slots=True)
class Folder:
    """The objects below ``root``. A folder on the way that is a link is followed, once."""

    root: Path

    def put(self, key: str, body: bytes) -> None:
        with self._errors(key):
            self._publish(key, lambda file: _write(file, body), os.replace)

    def create(self, key: str, body: bytes) -> None:
        with self._errors(key):
            self._publish(key, lambda file: _write(file, body), os.link)

    def put_file(self, key: str, path: Path) -> None:
        def copy(file: IO[bytes]) -> None:
            with path.open("rb") as source:
                shutil.copyfileobj(source, file, 1 << 20)

        with self._errors(key):
            self._publish(key, copy, os.replace)

    def get(self, key: str) -> bytes:
        with self._errors(key, reading=True), self._open(key) as file:
            return file.read()

    def get_ranges(self, key: str, starts: Sequence[int], lengths: Sequence[int]) -> list[bytes]:
        with self._errors(key, reading=True), self._open(key) as file:
            parts = [os.pread(file.fileno(), length, start) for start, length in zip(starts, lengths, strict=True)]
            size = os.fstat(file.fileno()).st_size
        for part, start, length in zip(parts, starts, lengths, strict=True):
            if len(part) != length:
                raise _short(self.root / key, size, start, length)
        return parts

    def read_into(self, key: str, starts: Sequence[int], parts: Sequence[memoryview]) -> None:
        with self._errors(key, reading=True), self._open(key) as file:
            for start, part in zip(starts, parts, strict=True):
                if os.preadv(file.fileno(), [part], start) != len(part):
                    size = os.fstat(file.fileno()).st_size
                    raise _short(self.root / key, size, start, len(part))

    def head(self, key: str) -> ObjectInfo:
        with self._errors(key, reading=True):
            found = (self.root / key).stat()
        if not stat.S_ISREG(found.st_mode):
            raise MissingError(f"{self.root}/{key} is not there")
        return _info(key, found)

    def list(self, folder: str, behind: str | None) -> Iterator[ObjectInfo]:
        """Sorted; one folder's names are in memory at a time."""
        with self._errors(folder):
            yield from self._walk(folder, behind, ())

    def delete(self, key: str) -> None:
        path = self.root / key
        with self._errors(key):
            try:
                path.unlink()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return
            _sync_folder(path.parent)
        with suppress(OSError):  # the first that still holds something ends it
            for parent in path.relative_to(self.root).parents[:-1]:
                (self.root / parent).rmdir()

    def copy(self, key: str, to: object, to_key: str) -> bool:
        """Copy to another folder, as durably as a write; False where ``to`` is none."""
        if not isinstance(to, Folder):
            return False
        self.head(key)
        to.put_file(to_key, self.root / key)
        return True

    def _open(self, key: str) -> IO[bytes]:
        # Opening a pipe would wait for its writer.
        descriptor = os.open(self.root / key, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise FileNotFoundError(errno.ENOENT, "not a file", key)
        return os.fdopen(descriptor, "rb")

    def _publish(self, key: str, write: Callable[[IO[bytes]], None], move: Callable[[Path, Path], None]) -> None:
        path = self.root / key
        temporary = path.parent / f".{uuid.uuid4().hex}#1"
        try:
            with self._new_file(temporary) as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            move(temporary, path)
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)

    def _new_file(self, path: Path) -> IO[bytes]:
        for _ in range(_TRIES):
            _make_folder(path.parent)
            with suppress(FileNotFoundError):  # somebody deleted the folder's last object in between
                return path.open("xb")
        raise OSError(errno.EBUSY, "its folder is deleted again and again")

    def _walk(self, folder: str, behind: str | None, above: tuple[tuple[int, int], ...]) -> Iterator[ObjectInfo]:
        try:
            with os.scandir(self.root / folder) as entries:
                # A folder's objects come where its name with the slash stands: "a-b" before "a/b" before "a0".
                names = sorted((f"{entry.name}/" if _is_folder(entry) else entry.name, entry) for entry in entries)
            place = (self.root / folder).stat()
        except (FileNotFoundError, NotADirectoryError):
            return
        here = (place.st_dev, place.st_ino)
        if here in above:
            return
        for name, entry in names:
            key = f"{folder}/{name}" if folder else name
            if name.endswith("/"):
                if behind is None or key > behind or behind.startswith(key):
                    yield from self._walk(key[:-1], behind, (*above, here))
            elif (behind is None or key > behind) and not _HIDDEN.search(name):
                try:
                    found = entry.stat()
                except OSError as error:
                    if error.errno in _NOWHERE:  # deleted since, or a link to nothing
                        continue
                    raise
                if stat.S_ISREG(found.st_mode):
                    yield _info(key, found)

    @contextmanager
    def _errors(self, key: str, *, reading: bool = False) -> Iterator[None]:
        """The only place where an error of the file system becomes one of ours."""
        where = self.root / key
        try:
            yield
        except FileExistsError as error:
            blocked = next((parent for parent in where.parents if parent.is_file()), where if where.is_dir() else None)
            if blocked:
                raise StoreError(f"{where} cannot be written: {blocked} is in the way") from error
            raise ExistsError(f"{where} exists already") from error
        except OSError as error:
            if reading and error.errno in _NOWHERE:
                raise MissingError(f"{where} is not there") from error
            if error.errno in _FULL:
                raise StoreError(
                    f"{where}: the disk is full ({error.strerror}); nothing of it was kept. Free some space there and run "
                    "the same command again"
                ) from error
            raise StoreError(f"{where}: {error.strerror or error}") from error


def _short(path: Path, size: int, start: int, length: int) -> BrokenError:
    return BrokenError(f"{path} has {size} bytes, but bytes {start} to {start + length} are meant")


def _write(file: IO[bytes], body: bytes) -> None:
    file.write(body)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _info(key: str, found: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))


def _make_folder(folder: Path) -> None:
    while not folder.is_dir():
        _make_folder(folder.parent)
        try:
            folder.mkdir(exist_ok=True)
        except FileNotFoundError:
            continue
        except FileExistsError:
            if _blocks(folder):
                raise
            continue  # somebody made it, and deleted its last object
        _sync_folder(folder.parent)


def _blocks(path: Path) -> bool:
    """Whether something stands there that is no folder; a link counts, since it leads to none."""
    try:
        return not stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:  # deleted with its last object: then there is nothing to keep
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
