"""From decided intervals to a finished set.

Everything it writes is named by content or put-if-absent, and depends on the commits, the selection and the
arguments alone. So it may be killed anywhere and run again, or twice at once: the manifest is the same, and it is
written last, when all that it names is known to be there.

Holds the slots of the selected images and what a manifest says of each shard; index and digest grow on scratch disk.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from ffr_dist.config import digest
from ffr_dist.errors import BrokenError, InputError, StoppedError
from ffr_dist.groups import Groups
from ffr_dist.shards import layout
from ffr_dist.shards.codec import CodecConfig
from ffr_dist.shards.commit import Commit
from ffr_dist.shards.index import IndexWriter, index_rows
from ffr_dist.shards.log import CommitLog
from ffr_dist.shards.manifest import (
    DigestSpool,
    Manifest,
    ShardRef,
    copy_manifest,
    latest_manifest,
    publish_manifest,
)
from ffr_dist.shards.refs import ObjectRef, confirm, in_order
from ffr_dist.shards.scratch import scratch_folder
from ffr_dist.shards.selection import Revision, latest_revision, standing
from ffr_dist.shards.settle import SETTLE_COLUMNS, Settled, settle
from ffr_dist.shards.sidecar import load_sidecar
from ffr_dist.shards.trim import keys_of, trim
from ffr_dist.store import Store

_AT_ONCE = 4
_HEADS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class _Part:
    """What one interval gives to the set."""

    shard: ShardRef
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
    settled: Settled | None = None,
    go_on: str = "ffr generate",
) -> Manifest:
    """Make the set of the latest selection visible; what it considers of ``planned`` intervals must be decided.

    ``settled`` spares settling again where it is of that selection. Returns the manifest that stands, also where it
    stood before. StoppedError, which names ``go_on``, where intervals are undecided or an exact quota is not met;
    BrokenError where a committed object is gone or damaged.
    """
    revision = latest_revision(store)
    if revision is None:
        raise InputError(f"{store.url} holds nothing to finish: run 'ffr generate' first")
    there = latest_manifest(store)
    if there is not None and there.revision == revision.number:
        copy_manifest(store, there)
        return there
    log = CommitLog(store)
    log.refresh()
    _refuse_undecided(log, revision, planned, go_on)
    if settled is None or settled.revision != revision.number:
        settled = settle_log(store, log, planned, revision, groups)
    _refuse_shortfall(settled, go_on)
    with scratch_folder("finish") as scratch:
        draft = _write_shards(store, groups, codec, _chosen(log, revision, settled), scratch)
        for _ in in_order(functools.partial(confirm, store), (shard.object for shard in draft.shards), _HEADS_AT_ONCE):
            pass
        index = _put_index(store, revision.number, draft.index)
    environments, abandoned = _provenance(log, revision, planned)
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
        environments=environments,
        abandoned=abandoned,
        detail=dict(detail or {}),
        intervals=planned,
    )
    return publish_manifest(store, manifest)


def settle_log(store: Store, log: CommitLog, planned: int, revision: Revision, groups: Groups) -> Settled:
    """Settle what a log holds of the first ``planned`` intervals."""
    load = functools.partial(load_sidecar, store, columns=SETTLE_COLUMNS)
    return settle(lambda: (commit for commit in log.commits() if commit.interval < planned), load, revision, groups)


@dataclass(frozen=True, slots=True)
class _Draft:
    shards: tuple[ShardRef, ...]
    index: Path
    manifest_sha256: str


def _chosen(log: CommitLog, revision: Revision, settled: Settled) -> Iterator[tuple[Commit, NDArray[Any]]]:
    of = standing(revision)
    for commit in log.commits():
        slots = settled.selected.get(commit.interval)
        if slots is not None:
            yield of(commit), slots


def _write_shards(
    store: Store,
    groups: Groups,
    codec: CodecConfig,
    chosen: Iterator[tuple[Commit, NDArray[Any]]],
    scratch: Path,
) -> _Draft:
    lines = DigestSpool(scratch)
    shards: list[ShardRef] = []
    with (scratch / "index.parquet").open("wb") as out, IndexWriter(out) as index:
        for part in in_order(lambda choice: _part(store, codec, *choice), chosen, _AT_ONCE):
            names = part.rows["group"].to_pylist()
            index.add(
                index_rows(
                    shard=len(shards),
                    offsets=part.offsets,
                    sizes=part.rows["size"].to_pylist(),
                    keys=keys_of(part.rows),
                    group_names=names,
                    groups=groups,
                    source="synthetic",
                    source_keys=part.rows["source_key"],
                    seeds=part.rows["seed"],
                    prompts=part.rows["prompt"],
                )
            )
            lines.add(names, part.rows["k"].to_pylist(), part.rows["sha256"].to_pylist())
            shards.append(part.shard)
    return _Draft(tuple(shards), scratch / "index.parquet", lines.hexdigest())


def _part(store: Store, codec: CodecConfig, commit: Commit, slots: NDArray[Any]) -> _Part:
    if commit.tar is None:
        raise BrokenError(f"interval {commit.interval} has accepted rows and no tar; use another output")
    rows = load_sidecar(store, commit).take(pa.array(slots))
    accepted = sum(tally.accepted for tally in commit.groups.values())
    if rows.num_rows == accepted:
        ref = commit.tar
        return _Part(ShardRef(ref.key, ref.sha256, ref.bytes, accepted), rows["offset"].to_pylist(), rows)
    shard, offsets = trim(store, codec, commit.interval, commit.tar, rows)
    return _Part(shard, offsets, rows)


def _put_index(store: Store, revision: int, file: Path) -> ObjectRef:
    with file.open("rb") as handle:
        sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
    ref = ObjectRef(layout.index_key(revision, sha256), sha256, file.stat().st_size)
    store.put_file(ref.key, file)
    confirm(store, ref)
    return ref


def _refuse_undecided(log: CommitLog, revision: Revision, planned: int, go_on: str) -> None:
    for start, stop in revision.considered or ((0, planned),):
        gap = log.gap(start, min(stop, planned))
        if gap is not None:
            raise StoppedError(f"interval {gap} of {planned} is not decided yet; to go on: {go_on}")


def _refuse_shortfall(settled: Settled, go_on: str) -> None:
    if settled.shortfall:
        missing = ", ".join(f"{name} lacks {count:,}" for name, count in sorted(settled.shortfall.items()))
        raise StoppedError(f"not every group has its quota: {missing}. To make them: {go_on}")
    if not any(settled.counts.values()):
        raise StoppedError("no image is left after filters and exclusions, so there is no set to finish")


def _provenance(log: CommitLog, revision: Revision, planned: int) -> tuple[tuple[dict[str, str], ...], tuple[int, ...]]:
    """The distinct environments and the abandoned intervals of what the revision considers."""
    distinct: dict[str, dict[str, str]] = {}
    abandoned = []
    for commit in log.commits():
        if commit.interval < planned and revision.considers(commit.interval):
            if commit.environment:
                distinct.setdefault(digest(dict(commit.environment)), dict(commit.environment))
            if commit.abandoned is not None:
                abandoned.append(commit.interval)
    return tuple(distinct[key] for key in sorted(distinct)), tuple(abandoned)
