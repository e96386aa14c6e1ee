"""A finished set, opened for reading through its index.

Columns are arrays: no Python object is kept per image. A selection (:meth:`Dataset.lowest`) shares the columns and the
decoded pixels of the set that it selects from. Images are read by joined ranges of the tars, and only those asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ffr_dist.errors import BrokenError, DataError, MissingError
from ffr_dist.groups import Groups
from ffr_dist.shards.codec import decode
from ffr_dist.shards.index import read_index
from ffr_dist.shards.manifest import ShardRef, read_manifest
from ffr_dist.shards.refs import confirm
from ffr_dist.store import Store, open_store

CACHE_BYTES = 512 * 2**20
"""A set whose decoded pixels fit in here keeps them: small images take longer to decode than to learn from."""

SOURCES = ("real", "synthetic")
"""What the ids in ``Dataset.sources`` stand for."""

Rows = Sequence[int] | NDArray[np.int64]

_COLUMNS = ("shard", "offset", "size", "key", "group", "source")


@dataclass(frozen=True, slots=True, eq=False)
class _Pixels:
    """Decoded pixels of a whole set, filled as they are asked for. Two threads may decode the same image: the bytes agree."""

    values: NDArray[np.uint8]
    known: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Index:
    """The columns of a whole set."""

    store: Store
    groups: Groups
    shards: tuple[ShardRef, ...]
    whole: set[int]
    """Shards whose length was found to be right."""
    shard: NDArray[np.int32]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    group: NDArray[np.int32]
    source: NDArray[np.int8]
    keys: pa.ChunkedArray
    side: int | None
    pixels: _Pixels | None


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Images of a finished set, by row: all of them, or a selection."""

    _index: _Index
    _rows: NDArray[np.int64]
    fingerprint: str
    """Equal fingerprints, equal images in equal order: sha256 of the index, and of what is selected from it."""

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def groups(self) -> Groups:
        """The declared groups, empty ones too."""
        return self._index.groups

    @property
    def group_ids(self) -> NDArray[np.int32]:
        """Each row's place in ``groups``."""
        return self._index.group[self._rows]

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
        return self._index.source[self._rows]

    @property
    def keys(self) -> pa.ChunkedArray:
        return self._index.keys.take(pa.array(self._rows))

    @property
    def side(self) -> int | None:
        """Height and width of every image; None where the set does not say."""
        return self._index.side

    @property
    def stored_bytes(self) -> int:
        """Of the image files together."""
        return int(self._index.size[self._rows].sum())

    def counts(self) -> dict[str, int]:
        """Images of each declared group, 0 included."""
        counts = np.bincount(self.group_ids, minlength=len(self.groups)).tolist()
        return dict(zip(self.groups.names, counts, strict=True))

    def lowest(self, counts: Mapping[str, int]) -> Dataset:
        """The given number of each group, lowest k first (of imported sets: first rows first); of groups not named, none."""
        have = self.counts()
        unknown = sorted(set(counts) - set(have))
        if unknown:
            raise DataError(
                f"{self._index.store.url} has no group {', '.join(unknown)}; it declares {', '.join(self.groups.names)}"
            )
        short = [
            f"{name} ({wanted:,} asked, {have[name]:,} there)" for name, wanted in counts.items() if wanted > have[name]
        ]
        if short:
            raise DataError(
                f"{self._index.store.url} holds too few images of group {', '.join(short)}; "
                "raise the quota and generate the rest, or ask for fewer"
            )
        ids, keys = self.group_ids, self.keys
        chosen: list[NDArray[np.int64]] = []
        for number, name in enumerate(self.groups.names):
            here = np.flatnonzero(ids == number)
            # Keys of a group differ in their number alone, which is padded: sorted keys are sorted k.
            by_key = pc.sort_indices(keys.take(pa.array(here))).to_numpy()
            chosen.append(here[by_key[: counts.get(name, 0)]])
        return self.take(np.sort(np.concatenate(chosen)))

    def take(self, rows: Rows) -> Dataset:
        """The given rows, in the given order."""
        rows = np.asarray(rows, np.int64)
        if np.array_equal(rows, np.arange(len(self))):
            return self
        selection = hashlib.sha256(f"{self.fingerprint} rows ".encode() + rows.astype("<i8").tobytes())
        return Dataset(self._index, self._rows[rows], selection.hexdigest())

    def images(self, rows: Rows) -> list[bytes]:
        """The image files of some rows, in their order."""
        return self._read(self._rows[np.asarray(rows, np.int64)])

    def pixels(self, rows: Rows) -> NDArray[np.uint8]:
        """The decoded images of some rows: (rows, height, width, 3)."""
        wanted = self._rows[np.asarray(rows, np.int64)]
        cache = self._index.pixels
        if cache is None:
            return self._decode(wanted)
        missing = np.unique(wanted[~cache.known[wanted]])
        if len(missing):
            cache.values[missing] = self._decode(missing)
            cache.known[missing] = True
        return cache.values[wanted]

    def _read(self, wanted: NDArray[np.int64]) -> list[bytes]:
        index = self._index
        bodies: list[bytes] = [b""] * len(wanted)
        shards = index.shard[wanted]
        for shard in np.unique(shards).tolist():
            places = np.flatnonzero(shards == shard)
            offsets, sizes = index.offset[wanted[places]].tolist(), index.size[wanted[places]].tolist()
            for place, part in zip(places.tolist(), self._ranges(shard, offsets, sizes), strict=True):
                bodies[place] = part
        return bodies

    def _ranges(self, shard: int, offsets: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        index, ref = self._index, self._index.shards[shard]
        try:
            if shard not in index.whole:
                # Before the first read: the storage library has no good answer to a range behind an object's end.
                confirm(index.store, ref.object)
                index.whole.add(shard)
            return index.store.get_ranges(ref.key, offsets, sizes)
        except MissingError as error:
            raise BrokenError(f"{index.store.url}/{ref.key} is missing; restore it") from error

    def _decode(self, wanted: NDArray[np.int64]) -> NDArray[np.uint8]:
        decoded = list(starmap(self._decode_one, zip(wanted.tolist(), self._read(wanted), strict=True)))
        if not decoded:
            side = self.side or 1
            return np.zeros((0, side, side, 3), np.uint8)
        shapes = {image.shape for image in decoded}
        if len(shapes) > 1:
            raise DataError(
                f"{self._index.store.url} holds images of several sizes ({', '.join(map(_by, sorted(shapes)[:3]))}, …), "
                "which do not fit one batch; import them at one size"
            )
        return np.stack(decoded)

    def _decode_one(self, row: int, body: bytes) -> NDArray[np.uint8]:
        index = self._index
        try:
            image = decode(body)
        except DataError as error:
            raise BrokenError(f"{self._name(row)}: {error}; run 'ffr verify'") from error
        if index.side is not None and image.shape != (index.side, index.side, 3):
            raise BrokenError(
                f"{self._name(row)} is {_by(image.shape)} pixels in a set of {index.side}×{index.side}; run 'ffr verify'"
            )
        return image

    def _name(self, row: int) -> str:
        return (
            f"{self._index.store.url}/{self._index.shards[self._index.shard[row]].key}: image {self._index.keys[row]}"
        )


def open_dataset(where: str | Store, *, cache_bytes: int = CACHE_BYTES) -> Dataset:
    """Open a finished set, generated or imported, by its URL or its store.

    Sets whose decoded pixels fit into ``cache_bytes`` keep them once they are decoded.
    """
    store = where if isinstance(where, Store) else open_store(where, create=False)
    manifest = read_manifest(store)
    table = read_index(store, manifest, _COLUMNS)
    groups = manifest.declared
    unknown = ~pc.is_in(table["source"], value_set=pa.array(SOURCES)).to_numpy()
    if unknown.any():
        raise BrokenError(f"{manifest.index.key} names a source other than {' and '.join(SOURCES)}; restore it")
    pixels = None
    if manifest.size is not None and manifest.images * manifest.size**2 * 3 <= cache_bytes:
        # Pages that nobody fills are never touched, so that this costs what is read of it.
        shape = (manifest.images, manifest.size, manifest.size, 3)
        pixels = _Pixels(np.empty(shape, np.uint8), np.zeros(manifest.images, np.bool_))
    index = _Index(
        store=store,
        groups=groups,
        shards=manifest.shards,
        whole=set(),
        shard=table["shard"].to_numpy().astype(np.int32),
        offset=table["offset"].to_numpy(),
        size=table["size"].to_numpy(),
        group=_places(table["group"], groups.names),
        source=_places(table["source"], SOURCES).astype(np.int8),
        keys=table["key"],
        side=manifest.size,
        pixels=pixels,
    )
    return Dataset(index, np.arange(manifest.images), manifest.index.sha256)


def _places(column: pa.ChunkedArray, names: Sequence[str]) -> NDArray[np.int32]:
    """Where each value stands in ``names``, which holds them all."""
    places: NDArray[np.int32] = pc.index_in(column, value_set=pa.array(names)).to_numpy()
    return places.astype(np.int32)


def _by(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}×{shape[0]}"
