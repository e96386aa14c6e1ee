"""From decided intervals to a finished set.

Everything it writes is named by content or put-if-absent, and depends on the commits, the selection and the
arguments alone. So it may be killed anywhere and run again, or twice at once: the manifest is the same, and it is
written last, when all that it names is known to be there.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ffr_dist.config import digest
from ffr_dist.errors import BrokenError, InputError, StoppedError
from ffr_dist.groups import Groups
from ffr_dist.records import synthetic_key
from ffr_dist.shards import layout
from ffr_dist.shards.codec import CodecConfig
from ffr_dist.shards.commit import Commit
from ffr_dist.shards.index import IndexWriter, index_rows
from ffr_dist.shards.log import CommitLog
from ffr_dist.shards.manifest import (
    DIGEST_ROWS,
    Manifest,
    ShardRef,
    copy_manifest,
    latest_manifest,
    manifest_digest,
    publish_manifest,
)
from ffr_dist.shards.pack import Member, pack, unpack
from ffr_dist.shards.refs import ObjectRef, confirm, fetch, in_order
from ffr_dist.shards.selection import latest_revision
from ffr_dist.shards.settle import SETTLE_COLUMNS, Settled, settle
from ffr_dist.shards.sidecar import load_sidecar
from ffr_dist.store import Store

_AT_ONCE = 4
_HEADS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class _Part:
    """What one interval gives to the set."""

    shard: ShardRef
    keys: list[str]
    offsets: list[int]
    rows: pa.Table


def finish(
    store: Store,
    groups: Groups,
    codec: CodecConfig,
    size: int,
    *,
    planned: int,
    detail: Mapping[str, Any] | None = None,
) -> Manifest:
    """Make the set of the latest selection visible; ``planned`` intervals must be decided.

    Returns the manifest that stands, also where it stood before. StoppedError where intervals are undecided or an exact
    quota is not met, BrokenError where a committed object is gone or damaged.
    """
    revision = latest_revision(store)
    if revision is None:
        raise InputError(f"{store.url} holds nothing to finish: run 'ffr generate' first")
    standing = latest_manifest(store)
    if standing is not None and standing.revision == revision.number:
        copy_manifest(store, standing)
        return standing
    log = CommitLog(store)
    log.refresh()
    if log.first_gap < planned:
        raise StoppedError(f"interval {log.first_gap} of {planned} is not decided yet: run 'ffr generate' to go on")
    decided = {commit.interval: commit for commit in log.commits() if commit.interval < planned}
    load = functools.partial(load_sidecar, store, columns=SETTLE_COLUMNS)
    settled = settle(decided.values, load, revision, groups)
    _refuse_shortfall(settled)
    draft = _write_shards(store, groups, codec, decided, settled)
    for _ in in_order(functools.partial(confirm, store), [shard.object for shard in draft.shards], _HEADS_AT_ONCE):
        pass
    sha256 = hashlib.sha256(draft.index).hexdigest()
    index = ObjectRef(layout.index_key(revision.number, sha256), sha256, len(draft.index))
    store.put(index.key, draft.index)
    confirm(store, index)
    manifest = Manifest(
        revision=revision.number,
        kind="generated",
        images=sum(settled.counts.values()),
        groups=settled.counts,
        group_list=groups.items,
        shards=draft.shards,
        index=index,
        codec=codec,
        size=size,
        manifest_sha256=draft.manifest_sha256,
        environments=_environments(decided),
        abandoned=tuple(interval for interval, commit in decided.items() if commit.abandoned is not None),
        detail=dict(detail or {}),
    )
    return publish_manifest(store, manifest)


@dataclass(frozen=True, slots=True)
class _Draft:
    shards: tuple[ShardRef, ...]
    index: bytes
    manifest_sha256: str


def _write_shards(
    store: Store, groups: Groups, codec: CodecConfig, decided: Mapping[int, Commit], settled: Settled
) -> _Draft:
    index = IndexWriter()
    digest_rows: list[pa.Table] = []
    shards: list[ShardRef] = []
    chosen = [(decided[interval], slots) for interval, slots in settled.selected.items()]
    for part in in_order(lambda choice: _part(store, codec, *choice), chosen, _AT_ONCE):
        names = part.rows["group"].to_pylist()
        rows = index_rows(
            shard=len(shards),
            offsets=part.offsets,
            sizes=part.rows["size"].to_pylist(),
            keys=part.keys,
            group_names=names,
            groups=groups,
            source="synthetic",
            source_keys=part.rows["source_key"],
            seeds=part.rows["seed"],
            prompts=part.rows["prompt"],
        )
        index.add(rows)
        columns = {"key": part.keys, "group": names, "sha256": part.rows["sha256"]}
        digest_rows.append(pa.Table.from_pydict(columns, schema=DIGEST_ROWS))
        shards.append(part.shard)
    table = pa.concat_tables(digest_rows) if digest_rows else DIGEST_ROWS.empty_table()
    return _Draft(tuple(shards), index.close(), manifest_digest(table))


def _part(store: Store, codec: CodecConfig, commit: Commit, slots: NDArray[np.int32]) -> _Part:
    if commit.tar is None:
        raise BrokenError(f"interval {commit.interval} has accepted rows and no tar; use another output")
    rows = load_sidecar(store, commit).take(pa.array(slots))
    keys = [synthetic_key(name, k) for name, k in zip(rows["group"].to_pylist(), rows["k"].to_pylist(), strict=True)]
    accepted = sum(tally.accepted for tally in commit.groups.values())
    if len(keys) == accepted:
        ref = commit.tar
        return _Part(ShardRef(ref.key, ref.sha256, ref.bytes, accepted), keys, rows["offset"].to_pylist(), rows)
    images = dict(zip((f"{key}.{codec.format}" for key in keys), rows["sha256"].to_pylist(), strict=True))
    shard, offsets = _trim(store, commit.interval, commit.tar, images)
    return _Part(shard, keys, offsets, rows)


def _trim(store: Store, interval: int, tar: ObjectRef, images: Mapping[str, bytes]) -> tuple[ShardRef, list[int]]:
    """Copy the images of those names and hashes, with their JSON, byte by byte into a shard of their own."""
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
    return ShardRef(key, sha256, len(packed.tar), len(images)), [offsets[image] for image in images]


def _refuse_shortfall(settled: Settled) -> None:
    if settled.shortfall:
        missing = ", ".join(f"{name} lacks {count}" for name, count in sorted(settled.shortfall.items()))
        raise StoppedError(f"not every group has its quota: {missing}; run 'ffr generate' to make them")
    if not any(settled.counts.values()):
        raise StoppedError("no image is left after filters and exclusions, so there is no set to finish")


def _environments(decided: Mapping[int, Commit]) -> tuple[dict[str, str], ...]:
    distinct = {digest(dict(commit.environment)): dict(commit.environment) for commit in decided.values()}
    return tuple(distinct[key] for key in sorted(distinct) if distinct[key])
