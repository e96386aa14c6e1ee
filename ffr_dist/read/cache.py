"""A disk cache of image files, for sets that lie in a bucket.

Which images it may hold is a pure function of the index and the limit (smallest groups first), so that nothing is ever thrown
out and nothing is kept account of. The files lie in one sparse file, each where it lies in the set's shards one after the
other; a byte an image says whether it is there. All processes of the machine share both. Whatever is wrong with a cached image
shows when it does not decode: then it is read from the store, and cached anew.
"""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ffr_dist.config import digest
from ffr_dist.read.buffers import reserve
from ffr_dist.read.columns import Columns
from ffr_dist.read.config import ReadConfig, cache_folder
from ffr_dist.read.dataset import OpenSet

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_PAGE = 4096
_LAYOUT = 1
_ROWS_AT_ONCE = 2**20


class DiskCache:
    """The cached image files of one set. Without a folder it holds nothing and takes nothing."""

    def __init__(self, whole: OpenSet, limit: int, folder: Path | None) -> None:
        self._columns = whole.columns
        self._first_byte = np.cumsum([0, *(shard.bytes for shard in whole.shards)])
        self._files: IO[bytes] | None = None
        self._folder = folder
        self._takes = False
        if folder is not None:
            self._admitted = admitted(whole.columns, self._first_byte, limit)
            try:
                self._open(folder)
            except OSError as error:
                self._stop(error)

    def has(self, rows: Ints) -> Bools:
        if self._files is None:
            return np.zeros(len(rows), np.bool_)
        known: Bools = self._known[rows] != 0
        return known

    def read(self, shard: int, offsets: Sequence[int], parts: Sequence[memoryview]) -> None:
        """As from the store. What cannot be read comes as zeros, which are no image."""
        for offset, part in zip(offsets, parts, strict=True):
            try:
                size = os.preadv(self._descriptor(), [part], int(self._first_byte[shard]) + offset)
            except OSError:
                size = 0
            part[size:] = bytes(len(part) - size)

    def keep(self, rows: Ints, body: NDArray[np.uint8], starts: Ints, sizes: Ints) -> None:
        """Take those image files that belong here. ``body`` holds them, from ``starts`` on."""
        if self._files is None or not self._takes:
            return
        columns, view = self._columns, body.data
        new = np.flatnonzero((rows < self._admitted[columns.group[rows]]) & (self._known[rows] == 0))
        places = self._first_byte[columns.shard[rows[new]]] + columns.offset[rows[new]]
        try:
            for start, size, place in zip(starts[new].tolist(), sizes[new].tolist(), places.tolist(), strict=True):
                _write(self._descriptor(), view[start : start + size], place)
        except OSError as error:
            self._stop(error)
        else:
            self._known[rows[new]] = 1

    def forget(self, row: int) -> None:
        if self._files is not None:
            self._known[row] = 0

    def close(self) -> None:
        if self._files is not None:
            self._files.close()

    def _descriptor(self) -> int:
        if self._files is None:
            raise OSError(errno.EBADF, "the cache is not open")
        return self._files.fileno()

    def _open(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        images = len(self._columns.shard)
        with (folder / "known").open("ab") as file:
            reserve(file.fileno(), images)
        self._known = np.asarray(np.memmap(folder / "known", np.uint8, "r+", shape=(images,)))
        files = os.fdopen(os.open(folder / "images", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b", 0)
        try:
            os.ftruncate(files.fileno(), int(self._first_byte[-1]))
        except OSError:
            files.close()
            raise
        self._files, self._takes = files, True

    def _stop(self, error: OSError) -> None:
        self._takes = False
        warnings.warn(
            f"the cache {self._folder} takes no more images ({error.strerror or error}); they are read from the store instead. "
            "Lower read.cache_mb, or name a folder with room in FFR_CACHE or read.cache",
            stacklevel=2,
        )


def _write(descriptor: int, body: memoryview, place: int) -> None:
    if os.pwrite(descriptor, body, place) != len(body):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def admitted(columns: Columns, first_byte: Ints, limit: int) -> Ints:
    """For each group, the row below which its images are cached: all of the smallest groups that fit into ``limit`` bytes
    together, and the first rows of the one that comes next.
    """
    groups, images = len(columns.bounds) - 1, len(columns.shard)
    bytes_of = np.zeros(groups)
    for start in range(0, images, _ROWS_AT_ONCE):
        rows = np.arange(start, min(start + _ROWS_AT_ONCE, images))
        bytes_of += np.bincount(columns.group[rows], _disk_bytes(columns, first_byte, rows), groups)
    below = np.zeros(groups, np.int64)
    for group in np.argsort(bytes_of, kind="stable").tolist():
        if bytes_of[group] > limit:
            rows = np.sort(columns.rows_of(group))
            fitting = int(np.searchsorted(np.cumsum(_disk_bytes(columns, first_byte, rows)), limit, side="right"))
            below[group] = rows[fitting]
            break
        below[group] = images
        limit -= int(bytes_of[group])
    return below


def _disk_bytes(columns: Columns, first_byte: Ints, rows: Ints) -> Ints:
    """What images take of a disk: the pages that they touch, though neighbours may share one."""
    begin = first_byte[columns.shard[rows]] + columns.offset[rows]
    pages: Ints = (begin + columns.size[rows] - 1) // _PAGE - begin // _PAGE + 1
    return pages * _PAGE


@contextmanager
def open_cache(whole: OpenSet, config: ReadConfig) -> Iterator[DiskCache]:
    """The cache of a set, as the configuration allows; a set in a folder has none, since it lies on a disk already."""
    limit = config.cache_mb * 2**20
    folder = None
    if limit and whole.in_bucket:
        folder = cache_folder(config.cache) / "images" / digest([_LAYOUT, whole.fingerprint, limit], 32)
    cache = DiskCache(whole, limit, folder)
    try:
        yield cache
    finally:
        cache.close()
