"""Real images as a set of the same layout: shards, index, manifest, and neither plan nor commits."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import pyarrow as pa

from ffr_dist.errors import DataError
from ffr_dist.groups import Group, Groups
from ffr_dist.records import imported_key, sample_json
from ffr_dist.shards import layout
from ffr_dist.shards.codec import CodecConfig, codec_environment, format_of
from ffr_dist.shards.index import IndexWriter, index_rows
from ffr_dist.shards.manifest import (
    DIGEST_ROWS,
    Manifest,
    ShardRef,
    copy_manifest,
    latest_manifest,
    manifest_digest,
    publish_manifest,
)
from ffr_dist.shards.pack import Member, pack
from ffr_dist.shards.refs import ObjectRef, confirm
from ffr_dist.store import Store

Imported = tuple[Group, bytes, str]
"""A group, an image file, and what its publisher calls it."""


def write_imported(
    store: Store,
    split_name: str,
    groups: Groups,
    samples: Iterable[Imported],
    *,
    codec: CodecConfig | None,
    size: int | None,
    images_per_shard: int,
    detail: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write image files as a finished set; holds one shard at a time. ``codec`` and ``size`` are None for kept files.

    A set that is finished already is returned untouched, and ``samples`` is not read. A failure of ``samples`` leaves
    nothing that a reader would see.
    """
    standing = latest_manifest(store)
    if standing is not None:
        copy_manifest(store, standing)
        return standing
    out = io.BytesIO()
    digest_rows: list[pa.Table] = []
    shards: list[ShardRef] = []
    counts = dict.fromkeys(groups.names, 0)
    row = 0
    with IndexWriter(out) as index:
        for batch in _batches(samples, images_per_shard):
            keys = [imported_key(split_name, row + place) for place in range(len(batch))]
            names = [group.name for group, _, _ in batch]
            for (group, _, name), key in zip(batch, keys, strict=True):
                if groups.by_name(group.name) != group:
                    raise DataError(
                        f"{name} ({key}) is of a group {group.name} with other labels than the declared one"
                    )
                counts[group.name] += 1
            shard, offsets = _write_shard(store, len(shards), keys, batch)
            rows = index_rows(
                shard=len(shards),
                offsets=offsets,
                sizes=[len(body) for _, body, _ in batch],
                keys=keys,
                group_names=names,
                groups=groups,
                source="real",
                names=[name for _, _, name in batch],
            )
            index.add(rows)
            columns = {"key": keys, "group": names, "sha256": [hashlib.sha256(body).digest() for _, body, _ in batch]}
            digest_rows.append(pa.Table.from_pydict(columns, schema=DIGEST_ROWS))
            shards.append(shard)
            row += len(batch)
    if not shards:
        raise DataError(f"split {split_name} has no sample, so there is nothing to import; check its table and folder")
    body = out.getvalue()
    sha256 = hashlib.sha256(body).hexdigest()
    ref = ObjectRef(layout.index_key(0, sha256), sha256, len(body))
    store.put(ref.key, body)
    confirm(store, ref)
    manifest = Manifest(
        revision=0,
        kind="imported",
        images=row,
        groups=counts,
        group_list=groups.items,
        shards=tuple(shards),
        index=ref,
        codec=codec,
        size=size,
        manifest_sha256=manifest_digest(pa.concat_tables(digest_rows)),
        environments=({"codec": codec_environment()},),
        abandoned=(),
        detail={"split": split_name, **(detail or {})},
    )
    return publish_manifest(store, manifest)


def _batches(samples: Iterable[Imported], size: int) -> Iterator[list[Imported]]:
    iterator = iter(samples)
    while batch := list(islice(iterator, size)):
        yield batch


def _write_shard(store: Store, number: int, keys: list[str], batch: list[Imported]) -> tuple[ShardRef, list[int]]:
    members: list[Member] = []
    for key, (group, body, name) in zip(keys, batch, strict=True):
        try:
            ending = format_of(body)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
        members.append(Member(f"{key}.{ending}", body))
        members.append(Member(f"{key}.json", sample_json(key, group, "real", name=name)))
    packed = pack(members)
    sha256 = hashlib.sha256(packed.tar).hexdigest()
    key = layout.tar_key(number, sha256)
    store.put(key, packed.tar)
    return ShardRef(key, sha256, len(packed.tar), len(batch)), packed.offsets[::2]
