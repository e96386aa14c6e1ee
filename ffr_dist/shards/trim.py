"""A shard without some of its images: the others are copied byte by byte, in their order, into a content-named tar."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import pyarrow as pa

from ffr_dist.errors import BrokenError
from ffr_dist.records import synthetic_key
from ffr_dist.shards import layout
from ffr_dist.shards.codec import CodecConfig
from ffr_dist.shards.manifest import ShardRef
from ffr_dist.shards.pack import Member, pack, unpack
from ffr_dist.shards.refs import ObjectRef, fetch
from ffr_dist.store import Store


def keys_of(rows: pa.Table) -> list[str]:
    """The sample keys of a sidecar's rows."""
    return [synthetic_key(name, k) for name, k in zip(rows["group"].to_pylist(), rows["k"].to_pylist(), strict=True)]


def trim(store: Store, codec: CodecConfig, interval: int, tar: ObjectRef, rows: pa.Table) -> tuple[ShardRef, list[int]]:
    """Store a tar of the images of these sidecar rows alone; where each one begins in it, in the order of rows."""
    names = [f"{key}.{codec.format}" for key in keys_of(rows)]
    images: Mapping[str, bytes] = dict(zip(names, rows["sha256"].to_pylist(), strict=True))
    notes = {f"{image.partition('.')[0]}.json" for image in images}
    kept: list[Member] = []
    for name, body, _ in unpack(fetch(store, tar), tar.key):
        if name in images and hashlib.sha256(body).digest() != images[name]:
            raise BrokenError(f"{tar.key}: {name} is not the image that its sidecar tells of; use another output")
        if name in images or name in notes:
            kept.append(Member(name, body))
    packed = pack(kept)
    offsets = {member.name: offset for member, offset in zip(kept, packed.offsets, strict=True)}
    absent = sorted({*images, *notes} - set(offsets))
    if absent:
        raise BrokenError(f"{tar.key} lacks {absent[0]}, which its sidecar tells of; use another output")
    sha256 = hashlib.sha256(packed.tar).hexdigest()
    key = layout.tar_key(interval, sha256)
    store.put(key, packed.tar)
    return ShardRef(key, sha256, len(packed.tar), len(images)), [offsets[image] for image in names]
