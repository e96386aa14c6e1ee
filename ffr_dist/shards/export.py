"""A finished set under plain names, for other readers: ``00000000.tar`` …, and nothing of ours is needed to read it.

``export.json`` is written first and says what is being copied: a folder with other contents is refused, and an
interrupted export goes on. ``index.parquet`` is written last: without it the export is not finished.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ffr_dist.errors import BrokenError, ConflictError, InputError
from ffr_dist.shards import documents
from ffr_dist.shards.documents import CLOSED, Count, Sha256
from ffr_dist.shards.index import IndexWriter, read_index
from ffr_dist.shards.manifest import Manifest, ShardRef, read_manifest
from ffr_dist.shards.pack import BLOCK
from ffr_dist.shards.refs import fetch, in_order
from ffr_dist.shards.scratch import scratch_folder
from ffr_dist.store import ObjectInfo, Store, Theirs

NOTE = "export.json"
INDEX = "index.parquet"

_END = bytes(2 * BLOCK)
_ELSEWHERE = "export to an empty folder"
_AT_ONCE = 4
_MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What an export holds."""

    manifest_sha256: Sha256
    index_sha256: Sha256
    """Of the index of the set that is copied: which tars, in which order."""
    images: Count
    shards: Count
    shard_mb: Count | None
    """Tars were joined up to this size; None: copied as they are."""

    __pydantic_config__ = CLOSED


@dataclass(frozen=True, slots=True)
class Exported:
    """What came of it."""

    export: Export
    copied: int
    """Tars that this run copied; the others were there."""


@dataclass(frozen=True, slots=True)
class _Target:
    key: str
    parts: Sequence[ShardRef]

    @property
    def bytes(self) -> int:
        """Each tar gives up its end, and the last one's closes the whole."""
        return sum(part.bytes - len(_END) for part in self.parts) + len(_END)


def export(store: Store, to: Store, *, shard_mb: int | None = None) -> Exported:
    """Copy the finished set of ``store``; tars go from server to server where both lie on the same one.

    With ``shard_mb``, neighbouring tars are joined while they fit into so many megabytes. Run again, it copies what is
    missing or damaged. ConflictError where ``to`` holds something else.
    """
    manifest = read_manifest(store)
    if manifest.base is not None:
        raise InputError(
            f"{store.url} is an index of tars in {manifest.base}, which are plain already; copy them from there"
        )
    targets = _targets(manifest.shards, shard_mb)
    note = Export(
        manifest_sha256=manifest.manifest_sha256,
        index_sha256=manifest.index.sha256,
        images=manifest.images,
        shards=len(targets),
        shard_mb=shard_mb,
    )
    there = _claim(to, note, {target.key for target in targets})
    missing = [target for target in targets if target.key not in there or there[target.key].size != target.bytes]
    if INDEX in there and missing:
        to.delete(INDEX)  # it is not whole any more
    elif INDEX not in there:  # an interrupted run: what it left is looked into
        left = [target for target in targets if target not in missing]
        sound = in_order(functools.partial(_sound, store, to), left, _AT_ONCE)
        missing += [target for target, ok in zip(left, sound, strict=True) if not ok]
    for _ in in_order(functools.partial(_copy, store, to), missing, _AT_ONCE):
        pass
    if missing or INDEX not in there:
        _write_index(store, to, manifest, targets)
    return Exported(note, len(missing))


def _targets(shards: Sequence[ShardRef], shard_mb: int | None) -> list[_Target]:
    joined: list[list[ShardRef]] = []
    room = 0
    for shard in shards:
        grown = shard.bytes - len(_END)
        if shard_mb is None or grown > room:
            joined.append([])
            room = (shard_mb or 0) * _MEGABYTE - len(_END)
        joined[-1].append(shard)
        room -= grown
    return [_Target(f"{number:08d}.tar", parts) for number, parts in enumerate(joined)]


def _claim(to: Store, note: Export, names: set[str]) -> dict[str, ObjectInfo]:
    """What lies at the destination, once it is known to be this export's."""
    there = {info.key: info for info in to.list()}
    foreign = sorted(key for key in there if key not in {NOTE, INDEX, *names})
    if foreign or (there and NOTE not in there):
        raise ConflictError(f"{to.url} holds {(foreign or sorted(there))[0]}, which is not this export's: {_ELSEWHERE}")
    result = to.put_if_absent(NOTE, documents.to_bytes(note))
    if isinstance(result, Theirs) and documents.from_bytes(Export, result.body, f"{to.url}/{NOTE}") != note:
        raise ConflictError(f"{to.url} holds the export of another set, or in tars of another size: {_ELSEWHERE}")
    return there


def _sound(store: Store, to: Store, target: _Target) -> bool:
    found = hashlib.sha256(to.get(target.key)).hexdigest()
    if len(target.parts) == 1:
        return found == target.parts[0].sha256
    return found == hashlib.sha256(_joined(store, target)).hexdigest()


def _copy(store: Store, to: Store, target: _Target) -> None:
    if len(target.parts) == 1:
        store.copy(target.parts[0].key, to, target.key)
    else:
        to.put(target.key, _joined(store, target))
    size = to.head(target.key).size
    if size != target.bytes:
        source = ", ".join(part.key for part in target.parts)
        raise BrokenError(
            f"{to.url}/{target.key} has {size} bytes instead of {target.bytes}; run 'ffr verify' ({source})"
        )


def _joined(store: Store, target: _Target) -> bytes:
    """Tars one behind the other: a tar is its members and an end."""
    bodies = []
    for part in target.parts:
        body = fetch(store, part.object)
        if not body.endswith(_END):
            raise BrokenError(f"{part.key} does not end as a tar of ours does; run 'ffr verify'")
        bodies.append(body[: -len(_END)])
    return b"".join([*bodies, _END])


def _write_index(store: Store, to: Store, manifest: Manifest, targets: Sequence[_Target]) -> None:
    number, shift = _moved(targets)
    table = read_index(store, manifest)
    shard = table["shard"].to_numpy()
    moved = {"shard": number[shard], "offset": table["offset"].to_numpy() + shift[shard]}
    for name, values in moved.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    with scratch_folder("export") as scratch:
        file = scratch / INDEX
        with file.open("wb") as out, IndexWriter(out) as index:
            index.add(table)
        to.put_file(INDEX, file)


def _moved(targets: Sequence[_Target]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each shard of the manifest, which tar it went into and how far its members moved."""
    number, shift = [], []
    for place, target in enumerate(targets):
        start = 0
        for part in target.parts:
            number.append(place)
            shift.append(start)
            start += part.bytes - len(_END)
    return np.array(number, np.int64), np.array(shift, np.int64)
