"""A set's index as columns: where each image lies, and what it is.

The columns of a large set are files below the machine's cache folder, mapped into memory and shared by all processes there:
27 bytes an image, of which only what is looked at takes memory. They are made once, from the parquet index a few rows at a
time, and appear whole or not at all. A small set's are in memory. Keys stay in the parquet file.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ffr_dist.config import digest
from ffr_dist.errors import BrokenError, DataError, InputError
from ffr_dist.read.buffers import reserve
from ffr_dist.shards.index import index_batches
from ffr_dist.shards.manifest import Manifest
from ffr_dist.shards.refs import confirm, fetch, in_order
from ffr_dist.store import Store

SOURCES = ("real", "synthetic")
"""What the ids in ``Columns.source`` stand for."""

SMALL_ROWS = 65_536
"""A set of no more images keeps its columns in memory."""

_LAYOUT = 1
_LARGEST_IMAGE = 2**31 - 1
_INDEX = "index.parquet"
_CHUNK = 4 * 2**20
_DTYPES: Mapping[str, type[np.generic]] = {
    "shard": np.int32,
    "offset": np.int64,
    "size": np.int32,
    "group": np.int16,
    "source": np.int8,
    "by_group": np.int64,
}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Columns:
    """The columns of a whole set, a value for each row."""

    shard: NDArray[np.int32]
    """Place in the manifest's list of shards."""
    offset: NDArray[np.int64]
    """Of the image file in its shard."""
    size: NDArray[np.int32]
    group: NDArray[np.int16]
    """Place in the manifest's list of groups."""
    source: NDArray[np.int8]
    """Place in ``SOURCES``."""
    by_group: NDArray[np.int64]
    """The rows again, group by group, lowest key first."""
    bounds: NDArray[np.int64]
    """Group g has the places ``bounds[g]`` to ``bounds[g + 1]`` of ``by_group``."""
    index: Path | pa.ChunkedArray
    """Where the keys are: in the parquet index, or here."""

    def rows_of(self, group: int) -> NDArray[np.int64]:
        """The rows of a group, lowest key first: a view."""
        return self.by_group[self.bounds[group] : self.bounds[group + 1]]

    def keys(self, rows: NDArray[np.int64]) -> pa.ChunkedArray:
        """Reads all that stands near them in the index: not for every batch."""
        if not isinstance(self.index, Path):
            return self.index.take(pa.array(rows))
        with _explained(self.index), pq.ParquetFile(self.index) as file:
            rows_before = np.cumsum([0, *(file.metadata.row_group(at).num_rows for at in range(file.num_row_groups))])
            parts = np.searchsorted(rows_before, rows, side="right") - 1
            some = np.unique(parts)
            # Where each row group that is read begins in the table of those.
            shift = np.zeros(file.num_row_groups, np.int64)
            lengths = np.diff(rows_before)[some]
            shift[some] = np.cumsum(lengths) - lengths
            keys = file.read_row_groups(some.tolist(), columns=["key"])["key"]
            return keys.take(pa.array(shift[parts] + rows - rows_before[parts]))

    def __reduce__(self) -> tuple[Any, ...]:
        # Files are mapped anew where this is unpickled, not copied.
        if isinstance(self.index, Path):
            return _mapped, (self.index.parent, self.bounds)
        return _columns, ({field.name: getattr(self, field.name) for field in fields(self)},)


def open_columns(store: Store, manifest: Manifest, cache: Path) -> Columns:
    """The columns of a finished set, checked against its manifest; large ones are made below ``cache`` if they are not there."""
    if manifest.images <= SMALL_ROWS:
        body = pa.BufferReader(fetch(store, manifest.index))
        arrays = {name: np.empty(manifest.images, dtype) for name, dtype in _DTYPES.items()}
        bounds, keys = _fill(arrays, body, manifest)
        return Columns(**arrays, bounds=bounds, index=keys)
    place = cache / "columns" / digest([_LAYOUT, manifest.index.sha256, _checked_with(manifest)], 32)
    found = _whole(place, manifest)
    if found is not None:
        return found
    with _explained(place), _alone(place):
        found = _whole(place, manifest)
        if found is not None:  # another process was first
            return found
        part = place.with_name(f".{place.name}.{uuid.uuid4().hex}")
        part.mkdir()
        try:
            _make(store, manifest, part)
            shutil.rmtree(place, ignore_errors=True)  # what is damaged
            part.rename(place)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return _mapped(place, _bounds(manifest))


def _checked_with(manifest: Manifest) -> Any:
    """All of a manifest that an index is checked against."""
    groups = [[group.name, group.label, group.bias, manifest.groups[group.name]] for group in manifest.group_list]
    return [groups, [[shard.bytes, shard.images] for shard in manifest.shards]]


def _bounds(manifest: Manifest) -> NDArray[np.int64]:
    return np.cumsum([0, *(manifest.groups[group.name] for group in manifest.group_list)])


def _make(store: Store, manifest: Manifest, folder: Path) -> None:
    path = folder / _INDEX
    _download(store, manifest, path)
    arrays = {}
    for name, dtype in _DTYPES.items():
        with (folder / name).open("xb") as file:
            reserve(file.fileno(), manifest.images * np.dtype(dtype).itemsize)
        arrays[name] = np.memmap(folder / name, dtype, "r+")
    with pa.memory_map(str(path)) as source:
        _fill(arrays, source, manifest)
    for array in arrays.values():
        array.flush()


def _download(store: Store, manifest: Manifest, path: Path) -> None:
    ref = manifest.index
    confirm(store, ref)
    sha256 = hashlib.sha256()

    def part(start: int) -> bytes:
        return store.get_ranges(ref.key, [start], [min(_CHUNK, ref.bytes - start)])[0]

    with path.open("xb") as file, contextlib.closing(in_order(part, range(0, ref.bytes, _CHUNK), 2)) as parts:
        for body in parts:
            sha256.update(body)
            file.write(body)
        file.flush()
        os.fsync(file.fileno())
    if sha256.hexdigest() != ref.sha256:
        raise BrokenError(f"{ref.key} does not have the sha256 it was stored with; restore it")


def _fill(
    arrays: Mapping[str, NDArray[Any]], source: Any, manifest: Manifest
) -> tuple[NDArray[np.int64], pa.ChunkedArray]:
    """Write the columns; the groups' bounds and, of a small set, the keys."""
    names = [group.name for group in manifest.group_list]
    bounds = _bounds(manifest)
    ends, last = bounds[:-1].copy(), dict.fromkeys(range(len(names)), "")
    small, keys = manifest.images <= SMALL_ROWS, []
    row, rising = 0, True
    for batch in index_batches(source, manifest, ["shard", "offset", "size", "key", "group", "source"]):
        rows = slice(row, row + batch.num_rows)
        if (batch["size"].to_numpy() > _LARGEST_IMAGE).any():
            raise DataError(f"{manifest.index.key} names an image file of more than 2 GiB; leave it out")
        for name in ("shard", "offset", "size"):
            arrays[name][rows] = batch[name].to_numpy()
        group = pc.index_in(batch["group"], value_set=pa.array(names)).to_numpy()
        arrays["group"][rows] = group
        arrays["source"][rows] = _sources(batch["source"], manifest.index.key)
        for number in np.unique(group).tolist():
            here = np.flatnonzero(group == number)
            arrays["by_group"][ends[number] : ends[number] + len(here)] = row + here
            ends[number] += len(here)
            some = batch["key"].take(pa.array(here))
            rising = rising and last[number] <= some[0].as_py() and _rise(some)
            last[number] = some[-1].as_py()
        if small:
            keys.append(batch["key"])
        row += batch.num_rows
    known = pa.chunked_array(keys, pa.string())
    if not rising:
        # Of a set that others wrote. All keys are in memory this once.
        _sort_by_key(arrays["by_group"], bounds, known if small else pq.read_table(source, columns=["key"])["key"])
    return bounds, known


def _rise(keys: pa.Array) -> bool:
    return bool(pc.all(pc.less_equal(keys[:-1], keys[1:])).as_py() in {True, None})


def _sort_by_key(by_group: NDArray[np.int64], bounds: NDArray[np.int64], keys: pa.ChunkedArray) -> None:
    for low, high in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        rows = by_group[low:high].copy()
        by_group[low:high] = rows[pc.sort_indices(keys.take(pa.array(rows))).to_numpy()]


def _sources(column: pa.Array, key: str) -> NDArray[np.int8]:
    places = pc.index_in(column, value_set=pa.array(SOURCES))
    if places.null_count:
        raise BrokenError(f"{key} names a source other than {' and '.join(SOURCES)}; restore it")
    found: NDArray[np.int8] = places.to_numpy().astype(np.int8)
    return found


def _whole(place: Path, manifest: Manifest) -> Columns | None:
    """The columns that lie there; None where a file is missing or short."""
    sizes = {name: manifest.images * np.dtype(dtype).itemsize for name, dtype in _DTYPES.items()}
    sizes[_INDEX] = manifest.index.bytes
    try:
        if any((place / name).stat().st_size != size for name, size in sizes.items()):
            return None
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _mapped(place, _bounds(manifest))


def _mapped(place: Path, bounds: NDArray[np.int64]) -> Columns:
    # As plain arrays: slices of numpy's own class for maps take ten times as long to make.
    arrays: dict[str, Any] = {name: np.asarray(np.memmap(place / name, dtype, "r")) for name, dtype in _DTYPES.items()}
    return Columns(**arrays, bounds=bounds, index=place / _INDEX)


def _columns(values: Mapping[str, Any]) -> Columns:
    return Columns(**values)


@contextlib.contextmanager
def _alone(place: Path) -> Iterator[None]:
    """One process of this machine at a time: the others wait, and find what it made."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_name(f"{place.name}.lock").open("wb") as file:
        with contextlib.suppress(OSError):  # some shared file systems know no locks: then each makes its own
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _explained(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{place}: {error.strerror or error}. The columns of a large index are kept there; name a folder with room in "
            "FFR_CACHE"
        ) from error
