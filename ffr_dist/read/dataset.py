"""A finished set, opened for reading through its index.

Columns are arrays, those of a large set mapped files: no Python object is kept per image. A selection (:meth:`Dataset.lowest`)
shares the columns and the decoded pixels of the set that it selects from. Images are read by joined ranges of the tars, and
only those asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ffr_dist.errors import BrokenError, DataError, InputError, MissingError
from ffr_dist.groups import Groups
from ffr_dist.read.columns import SOURCES, Columns, open_columns
from ffr_dist.read.config import cache_folder
from ffr_dist.read.ranges import LARGEST_SHARD, OFFSET_BITS, plan_reads
from ffr_dist.shards.codec import decode_into, size_of
from ffr_dist.shards.manifest import ShardRef, read_manifest, shards_of
from ffr_dist.store import Store, StoreConfig, open_store

__all__ = ["CACHE_BYTES", "SOURCES", "Dataset", "OpenSet", "Rows", "UnreadableError", "open_dataset"]

CACHE_BYTES = 512 * 2**20
"""A set whose decoded pixels fit in here keeps them: small images take longer to decode than to learn from."""

MOST_BYTES = 7 * 2**18
"""Of one read, about."""

Rows = Sequence[int] | NDArray[np.int64]

_NEAR_IN_FOLDER = 4 * 2**10
"""Two reads take less time than one that is longer by more than this."""
_NEAR_IN_BUCKET = 128 * 2**10


class UnreadableError(BrokenError):
    """An image that is where it should be and cannot be decoded."""


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """Decoded pixels of a whole set, filled as they are asked for. Two threads may decode the same image: the bytes agree."""

    values: NDArray[np.uint8]
    known: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class OpenSet:
    """A whole set: what its selections share. Rows are those of its index."""

    store: Store
    """Where its shards lie."""
    groups: Groups
    shards: tuple[ShardRef, ...]
    columns: Columns
    side: int | None
    fingerprint: str
    pixels: Pixels | None
    _seen: dict[int, datetime] = field(default_factory=dict)
    """When the shards that were looked at were last changed."""

    def __reduce__(self) -> tuple[Any, ...]:
        if self.store.url.startswith("memory://"):
            raise InputError(
                f"{self.store.url} lives in the memory of this process, where no other one can read it; use a folder"
            )
        place = (self.store.url, self.store.config)
        return _reopened, (
            *place,
            self.groups,
            self.shards,
            self.columns,
            self.side,
            self.fingerprint,
            self.pixels is not None,
        )

    @property
    def in_bucket(self) -> bool:
        return "://" in self.store.url

    @property
    def near(self) -> int:
        """Bytes between two images that are rather read than left out."""
        return _NEAR_IN_BUCKET if self.in_bucket else _NEAR_IN_FOLDER

    def places(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the images lie, as one number each: they sort as they are stored."""
        places: NDArray[np.int64] = self.columns.shard[rows].astype(np.int64) << OFFSET_BITS
        return places | self.columns.offset[rows]

    def read(self, shard: int, offsets: Sequence[int], parts: Sequence[memoryview]) -> None:
        """Ranges of a shard, into ``parts``. BrokenError where it is gone, or has another length than the manifest says."""
        ref = self.shards[shard]
        try:
            if shard not in self._seen:
                # Before the first read: the storage library has no good answer to a range behind an object's end.
                self._seen[shard] = self._look(shard)
            self.store.read_into(ref.key, offsets, parts)
        except MissingError as error:
            raise BrokenError(f"{self.store.url}/{ref.key} is missing; restore it") from error
        except BrokenError:
            self._look(shard)  # which says what is wrong with the shard as a whole
            raise

    def bodies(self, rows: NDArray[np.int64]) -> list[bytes]:
        """The image files of some rows, in their order."""
        bodies = [b""] * len(rows)
        sizes = self.columns.size[rows].astype(np.int64)
        near = np.full(len(rows), self.near)
        alone = np.full(len(rows), self.in_bucket)
        for read in plan_reads(self.places(rows), sizes, np.ones(len(rows), np.bool_), near, alone, MOST_BYTES):
            view = read.run(partial(self.read, read.number), _room).data
            ends = (read.starts + read.sizes).tolist()
            for place, start, end in zip(read.wanted.tolist(), read.starts.tolist(), ends, strict=True):
                bodies[place] = bytes(view[start:end])
        return bodies

    def decode(self, row: int, body: bytes | memoryview, pixels: NDArray[np.uint8]) -> None:
        """The pixels of an image file of (height, width, 3); UnreadableError, which names it, where it does not give them."""
        try:
            decode_into(body, pixels)
        except DataError as error:
            self._refuse(row, bytes(body), pixels, error)

    def decode_again(self, row: int, pixels: NDArray[np.uint8]) -> None:
        """As :meth:`decode`, from the store: where what was read before could not be decoded."""
        self.decode(row, self.bodies(np.array([row]))[0], pixels)

    def _refuse(self, row: int, body: bytes, pixels: NDArray[np.uint8], error: DataError) -> NoReturn:
        shard = int(self.columns.shard[row])
        ref = self.shards[shard]
        name = f"{self.store.url}/{ref.key}: image {self.key(row)}"
        if self._look(shard) != self._seen.get(shard):
            raise BrokenError(f"{name} cannot be read: the shard was replaced meanwhile; restore it, or start again")
        try:
            width, height = size_of(body)
        except DataError:
            raise UnreadableError(f"{name}: {error}; run 'ffr verify'") from error
        if (height, width) == pixels.shape[:2]:
            raise UnreadableError(f"{name}: {error}; run 'ffr verify'") from error
        if self.side is None:
            raise DataError(
                f"{self.store.url} holds images of several sizes ({width}×{height} is {self.key(row)}, others are "
                f"{pixels.shape[1]}×{pixels.shape[0]}), which do not fit one batch; import them at one size"
            ) from error
        raise UnreadableError(
            f"{name} is {width}×{height} pixels in a set of {self.side}×{self.side}; run 'ffr verify'"
        ) from error

    def key(self, row: int) -> str:
        """For messages: it reads a part of the index."""
        try:
            return str(self.columns.keys(np.array([row]))[0])
        except InputError:  # whoever deleted the cache folder is not to hide what the message is about
            return f"of row {row}"

    def shape(self, row: int) -> tuple[int, int, int]:
        """(height, width, 3) of the set's images, or, where it does not say, of this one."""
        if self.side is not None:
            return self.side, self.side, 3
        try:
            width, height = size_of(self.bodies(np.array([row]))[0])
        except DataError as error:
            ref = self.shards[int(self.columns.shard[row])]
            raise UnreadableError(f"{self.store.url}/{ref.key}: image {self.key(row)}: {error}") from error
        return height, width, 3

    def _look(self, shard: int) -> datetime:
        """When a shard was last changed; BrokenError where it cannot be the one that the manifest means."""
        ref = self.shards[shard]
        where = f"{self.store.url}/{ref.key}"
        try:
            found = self.store.head(ref.key)
        except MissingError as error:
            raise BrokenError(f"{where} is missing; restore it") from error
        if found.size != ref.bytes:
            raise BrokenError(f"{where} has {found.size} bytes instead of {ref.bytes}; restore it")
        return found.modified


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Images of a finished set, by row: all of them, or a selection.

    Pickled, it is a few names: another process opens the store and the columns for itself.
    """

    whole: OpenSet
    chosen: NDArray[np.int64] | None
    """Rows of the whole set; None: all."""
    fingerprint: str
    """Equal fingerprints, equal images in equal order: sha256 of the index, and of what is selected from it."""

    def __len__(self) -> int:
        return len(self.whole.columns.shard if self.chosen is None else self.chosen)

    @property
    def groups(self) -> Groups:
        """The declared groups, empty ones too."""
        return self.whole.groups

    @property
    def group_ids(self) -> NDArray[np.int16]:
        """Each row's place in ``groups``."""
        return self._column(self.whole.columns.group)

    @property
    def labels(self) -> NDArray[np.int64]:
        return np.array([group.label for group in self.groups], np.int64)[self.group_ids]

    @property
    def biases(self) -> NDArray[np.int64]:
        """-1 where nobody knows."""
        return np.array([group.bias for group in self.groups], np.int64)[self.group_ids]

    @property
    def sources(self) -> NDArray[np.int8]:
        """Each row's place in ``SOURCES``."""
        return self._column(self.whole.columns.source)

    @property
    def keys(self) -> pa.ChunkedArray:
        """All in memory: read from the index at each call."""
        return self.whole.columns.keys(self.absolute(np.arange(len(self))))

    @property
    def side(self) -> int | None:
        """Height and width of every image; None where the set does not say."""
        return self.whole.side

    @property
    def stored_bytes(self) -> int:
        """Of the image files together."""
        return int(self._column(self.whole.columns.size).sum(dtype=np.int64))

    def counts(self) -> dict[str, int]:
        """Images of each declared group, 0 included."""
        if self.chosen is None:
            counts = np.diff(self.whole.columns.bounds).tolist()
        else:
            counts = np.bincount(self.group_ids, minlength=len(self.groups)).tolist()
        return dict(zip(self.groups.names, counts, strict=True))

    def rows_of(self, group: int) -> NDArray[np.int64]:
        """The rows of a group (by its place), lowest key first; of a whole set a view."""
        every = self.whole.columns.rows_of(group)
        if self.chosen is None:
            return every
        here = np.flatnonzero(self.group_ids == group)
        order = np.argsort(every)
        rank = order[np.searchsorted(every, self.chosen[here], sorter=order)]
        return here[np.argsort(rank, kind="stable")]

    def lowest(self, counts: Mapping[str, int]) -> Dataset:
        """The given number of each group, lowest k first (of imported sets: first rows first); of groups not named, none."""
        have = self.counts()
        unknown = sorted(set(counts) - set(have))
        if unknown:
            raise DataError(
                f"{self.whole.store.url} has no group {', '.join(unknown)}; it declares {', '.join(self.groups.names)}"
            )
        short = [
            f"{name} ({wanted:,} asked, {have[name]:,} there)" for name, wanted in counts.items() if wanted > have[name]
        ]
        if short:
            raise DataError(
                f"{self.whole.store.url} holds too few images of group {', '.join(short)}; "
                "raise the quota and generate the rest, or ask for fewer"
            )
        if counts == have or sum(counts.values()) == len(self):
            return self
        chosen = [self.rows_of(place)[: counts.get(name, 0)] for place, name in enumerate(self.groups.names)]
        return self.take(np.sort(np.concatenate(chosen)))

    def take(self, rows: Rows) -> Dataset:
        """The given rows, in the given order."""
        rows = np.ascontiguousarray(rows, "<i8")
        if len(rows) == len(self) and np.array_equal(rows, np.arange(len(self))):
            return self
        selection = hashlib.sha256(f"{self.fingerprint} rows ".encode())
        selection.update(rows.data)
        return Dataset(self.whole, self.absolute(rows), selection.hexdigest())

    def images(self, rows: Rows) -> list[bytes]:
        """The image files of some rows, in their order."""
        return self.whole.bodies(self.absolute(rows))

    def pixels(self, rows: Rows) -> NDArray[np.uint8]:
        """The decoded images of some rows: (rows, height, width, 3)."""
        wanted, cache = self.absolute(rows), self.whole.pixels
        if cache is None:
            return self._decoded(wanted)
        missing = np.unique(wanted[~cache.known[wanted]])
        if len(missing):
            cache.values[missing] = self._decoded(missing)
            cache.known[missing] = True
        return cache.values[wanted]

    def absolute(self, rows: Rows) -> NDArray[np.int64]:
        """Rows of the whole set."""
        rows = np.asarray(rows, np.int64)
        return rows if self.chosen is None else self.chosen[rows]

    def _column(self, column: NDArray[Any]) -> NDArray[Any]:
        return column if self.chosen is None else column[self.chosen]

    def _decoded(self, wanted: NDArray[np.int64]) -> NDArray[np.uint8]:
        if not len(wanted):
            side = self.side or 1
            return np.zeros((0, side, side, 3), np.uint8)
        pixels = np.empty((len(wanted), *self.whole.shape(int(wanted[0]))), np.uint8)
        for place, (row, body) in enumerate(zip(wanted.tolist(), self.whole.bodies(wanted), strict=True)):
            self.whole.decode(row, body, pixels[place])
        return pixels


def _room(size: int) -> NDArray[np.uint8]:
    return np.empty(size, np.uint8)


def open_dataset(where: str | Store, *, cache_bytes: int = CACHE_BYTES) -> Dataset:
    """Open a finished set, generated, imported or indexed, by its URL or its store.

    Sets whose decoded pixels fit into ``cache_bytes`` keep them once they are decoded. The columns of a large set are kept below
    FFR_CACHE, or else in the user's cache folder.
    """
    store = where if isinstance(where, Store) else open_store(where, create=False)
    manifest = read_manifest(store)
    columns = open_columns(store, manifest, cache_folder())
    large = next((shard for shard in manifest.shards if shard.bytes >= LARGEST_SHARD), None)
    if large is not None:
        raise DataError(f"{store.url}/{large.key} has {large.bytes:,} bytes; cut it into several tars")
    keeps = manifest.size is not None and manifest.images * manifest.size**2 * 3 <= cache_bytes
    whole = _opened(
        shards_of(store, manifest),
        manifest.declared,
        manifest.shards,
        columns,
        manifest.size,
        manifest.index.sha256,
        keeps,
    )
    return Dataset(whole, None, whole.fingerprint)


def _opened(
    store: Store,
    groups: Groups,
    shards: tuple[ShardRef, ...],
    columns: Columns,
    side: int | None,
    fingerprint: str,
    keeps: bool,
) -> OpenSet:
    pixels = None
    if keeps and side is not None:
        # Pages that nobody fills are never touched, so that this costs what is read of it.
        images = len(columns.shard)
        pixels = Pixels(np.empty((images, side, side, 3), np.uint8), np.zeros(images, np.bool_))
    return OpenSet(
        store=store,
        groups=groups,
        shards=shards,
        columns=columns,
        side=side,
        fingerprint=fingerprint,
        pixels=pixels,
    )


def _reopened(url: str, config: StoreConfig, *parts: Any) -> OpenSet:
    """An unpickled set: its store is opened in the process that reads."""
    return _opened(open_store(url, create=False, config=config), *parts)
