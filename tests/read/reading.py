"""Sets for tests of the reader: small JPEGs, and indexes of any length over a few real images."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from small_sets import GROUPS, picture

from ffr_dist.records import INDEX
from ffr_dist.shards import layout
from ffr_dist.shards.codec import CodecConfig, encode
from ffr_dist.shards.imported import write_imported
from ffr_dist.shards.manifest import Manifest, ShardRef, publish_manifest, read_manifest
from ffr_dist.shards.pack import Member, pack
from ffr_dist.shards.refs import ObjectRef
from ffr_dist.store import Store

JPG = CodecConfig(format="jpg", quality=90)


def jpeg_set(store: Store, count: int = 40, side: int = 16, per_shard: int = 10) -> None:
    """Images of the four groups in turn."""
    write_imported(
        store,
        "train",
        GROUPS,
        (
            (group, encode(picture(group, number, side), JPG), f"{number}.jpg")
            for number in range(count)
            for group in [GROUPS.items[number % 4]]
        ),
        codec=JPG,
        size=side,
        images_per_shard=per_shard,
    )


def wide_set(store: Store, images: int, *, shards: int = 5, side: int = 16, keys: Sequence[str] | None = None) -> None:
    """A finished set of any number of images; those of a shard share twenty files, so that it takes no time to write."""
    per_shard = images // shards
    bodies = [encode(picture(GROUPS.items[number % 4], number, side), JPG) for number in range(20)]
    packed = pack(Member(f"{number}.jpg", body) for number, body in enumerate(bodies))
    refs = []
    for number in range(shards):
        tar = packed.tar + bytes(number)  # else all would have one sha256, and one name
        sha256 = hashlib.sha256(tar).hexdigest()
        store.put(layout.tar_key(number, sha256), tar)
        refs.append(ShardRef(layout.tar_key(number, sha256), sha256, len(tar), per_shard))
    rows = np.arange(per_shard * shards)
    group = rows % 4
    table = pa.table(
        {
            "shard": (rows // per_shard).astype(np.int32),
            "offset": np.array(packed.offsets)[rows % 20],
            "size": np.array([len(body) for body in bodies])[rows % 20],
            "key": keys or [f"train-{row:08d}" for row in rows.tolist()],
            "group": pa.array(GROUPS.names).take(pa.array(group)),
            "label": (group // 2).astype(np.int32),
            "bias": (group % 2).astype(np.int32),
            "source": pa.repeat("real", len(rows)),
            **{name: pa.nulls(len(rows), INDEX.field(name).type) for name in ("source_key", "seed", "prompt", "name")},
        },
    ).cast(INDEX)
    counts = dict(zip(GROUPS.names, np.bincount(group, minlength=4).tolist(), strict=True))
    publish_index(store, table, refs, counts, side)


def publish_index(
    store: Store, table: pa.Table, refs: Sequence[ShardRef], counts: Mapping[str, int], side: int
) -> None:
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd", row_group_size=50_000)
    body = out.getvalue()
    sha256 = hashlib.sha256(body).hexdigest()
    ref = ObjectRef(layout.index_key(0, sha256), sha256, len(body))
    store.put(ref.key, body)
    publish_manifest(
        store,
        Manifest(
            revision=0,
            kind="imported",
            images=len(table),
            groups=counts,
            group_list=GROUPS.items,
            shards=tuple(refs),
            index=ref,
            codec=JPG,
            size=side,
            manifest_sha256="0" * 64,
            environments=(),
            abandoned=(),
            detail={},
        ),
    )


def shard_keys(store: Store) -> list[str]:
    return [shard.key for shard in read_manifest(store).shards]
