"""Is a finished set what its manifest says? Everything is recomputed from the tars; nothing is believed.

Each problem names the shard, and the key where one image is concerned. Tars that others wrote are held against their index and
sha256, which say what they were when they were indexed. For a generated set each image is also held
against its worker's sidecar (or what a purge has put in its place), which was written before anyone could know what the
manifest would say; and the selection is made again, so that an image which is there against it is told with the reason.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ffr_dist.errors import BrokenError, FFRError, MissingError
from ffr_dist.records import INDEX
from ffr_dist.shards import documents, layout
from ffr_dist.shards.commit import Commit, read_commit
from ffr_dist.shards.finish import settle_log
from ffr_dist.shards.foreign import Fields, Scan
from ffr_dist.shards.index import parse_index
from ffr_dist.shards.log import CommitLog
from ffr_dist.shards.manifest import DIGEST_ROWS, Manifest, ShardRef, manifest_digest, read_manifest, shards_of
from ffr_dist.shards.pack import Placed, unpack
from ffr_dist.shards.refs import fetch, in_order
from ffr_dist.shards.selection import Revision, read_revision, standing
from ffr_dist.shards.settle import REASONS, Settled
from ffr_dist.shards.sidecar import PURGED, load_sidecar
from ffr_dist.shards.trim import keys_of
from ffr_dist.store import Store

_ENDINGS = ("jpg", "png", "webp")
_NOTE_FIELDS = tuple(name for name in INDEX.names if name not in {"shard", "offset", "size"})
_SHOWN = 5
_AT_ONCE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was found."""

    ok: bool
    shards: int
    images: int
    groups: Mapping[str, int]
    """Images by the group that lies beside each, counted in the tars."""
    manifest_sha256: str
    """Of the images found."""
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Image:
    key: str
    sha256: bytes
    offset: int
    size: int
    note: Mapping[str, Any]
    """Its JSON."""


@dataclass(frozen=True, slots=True)
class _Shard:
    ref: ShardRef
    found: bool
    images: list[_Image]
    problems: list[str]


@dataclass(frozen=True, slots=True)
class _Chosen:
    revision: Revision
    settled: Settled | None
    """None where it could not be made again."""
    stands: Callable[[Commit], Commit]


def verify(store: Store) -> Verification:
    """Check the finished set in ``store``; InputError where there is none, or one of another protocol."""
    try:
        manifest = read_manifest(store)
    except BrokenError as error:
        empty = manifest_digest(DIGEST_ROWS.empty_table())
        return Verification(ok=False, shards=0, images=0, groups={}, manifest_sha256=empty, problems=(str(error),))
    problems = _check_copy(store, manifest)
    index, more = _read_index(store, manifest)
    problems += more
    counts = Counter(dict.fromkeys(manifest.groups, 0))
    digest_rows = [DIGEST_ROWS.empty_table()]
    chosen, more = _choose(store, manifest)
    problems += more
    shards = first = 0

    def read(ref: ShardRef) -> _Shard:
        return (
            _read_foreign(store, manifest, ref)
            if manifest.kind == "foreign"
            else _read_shard(store, manifest, chosen, ref)
        )

    for shard in in_order(read, manifest.shards, _AT_ONCE):
        shards += shard.found
        rows = index.slice(first, shard.ref.images).to_pylist() if index is not None else None
        first += shard.ref.images
        found = shard.problems + (list(_against_index(shard, rows)) if rows is not None and shard.found else [])
        problems += found[:_SHOWN]
        if len(found) > _SHOWN:
            problems.append(f"{shard.ref.key}: and {len(found) - _SHOWN} more problems")
        counts.update(str(image.note.get("group")) for image in shard.images)
        digest_rows.append(_digest_rows(shard.images))
    table = pa.concat_tables(digest_rows)
    sha256 = manifest_digest(table)
    problems += _check_totals(manifest, counts, table, sha256)
    return Verification(
        ok=not problems,
        shards=shards,
        images=table.num_rows,
        groups=dict(counts),
        manifest_sha256=sha256,
        problems=tuple(problems),
    )


def _check_copy(store: Store, manifest: Manifest) -> list[str]:
    try:
        copy = store.get(layout.MANIFEST_COPY)
    except MissingError:
        return [f"{layout.MANIFEST_COPY} is missing; run 'ffr finish' to write it"]
    if copy != documents.to_bytes(manifest):
        return [f"{layout.MANIFEST_COPY} differs from {layout.manifest_key(manifest.revision)}; run 'ffr finish'"]
    return []


def _read_index(store: Store, manifest: Manifest) -> tuple[pa.Table | None, list[str]]:
    try:
        return parse_index(fetch(store, manifest.index), manifest), []
    except BrokenError as error:
        return None, [str(error)]


def _choose(store: Store, manifest: Manifest) -> tuple[_Chosen | None, list[str]]:
    """The selection made again, and where the manifest's counts are not what it asks for."""
    if manifest.kind != "generated":
        return None, []
    key = layout.selection_key(manifest.revision)
    try:
        revision = read_revision(store, manifest.revision)
    except MissingError:
        return None, [f"{key} is missing, so the quota cannot be checked; restore it"]
    except BrokenError as error:
        return None, [str(error)]
    problems = _against_quota(key, revision, manifest)
    settled = None
    try:
        log = CommitLog(store)
        log.refresh()
        settled = settle_log(store, log, manifest.intervals, revision, manifest.declared)
    except FFRError as error:
        problems.append(f"the selection cannot be made again: {error}")
    return _Chosen(revision, settled, standing(revision)), problems


def _against_quota(key: str, revision: Revision, manifest: Manifest) -> list[str]:
    problems = []
    for name in sorted({*revision.quota, *manifest.groups}):
        asked, there = revision.quota.get(name, 0), manifest.groups.get(name, 0)
        if there > asked or (revision.kind == "exact" and there < asked):
            problems.append(f"group {name} has {there} images where {key} asks for {asked}")
    return problems


def _read_shard(store: Store, manifest: Manifest, chosen: _Chosen | None, ref: ShardRef) -> _Shard:
    try:
        tar = store.get(ref.key)
    except MissingError:
        return _Shard(ref, found=False, images=[], problems=[f"{ref.key} is missing; restore it"])
    problems = []
    if len(tar) != ref.bytes:
        problems.append(f"{ref.key} has {len(tar)} bytes where the manifest has {ref.bytes}")
    elif hashlib.sha256(tar).hexdigest() != ref.sha256:
        problems.append(f"{ref.key} does not have the sha256 that the manifest has for it")
    images: list[_Image] = []
    try:
        images.extend(_images(ref, tar))  # those before the damage are kept
    except BrokenError as error:
        problems.append(str(error))
    if len(images) != ref.images:
        problems.append(f"{ref.key} holds {len(images)} images where the manifest has {ref.images}")
    for image in images:
        problems += _check_note(manifest, ref, image)
    if chosen is not None:
        problems += _against_sidecar(store, chosen, ref, images)
    return _Shard(ref, found=True, images=images, problems=problems)


def _read_foreign(store: Store, manifest: Manifest, ref: ShardRef) -> _Shard:
    """A tar that others wrote, read as it was when it was indexed; it holds nothing of ours to be checked against."""
    fields = Fields(label=manifest.detail.get("label"), bias=manifest.detail.get("bias"))
    problems = []
    scan = None
    try:
        scan = Scan(shards_of(store, manifest), ref.key, fields)
        sha256, size = scan.read()
        if (sha256, size) != (ref.sha256, ref.bytes):
            problems.append(f"{scan.where} is not the tar that was indexed; index it anew, into another folder")
    except FFRError as error:
        problems.append(str(error))
    if scan is None:
        return _Shard(ref, found=False, images=[], problems=problems)
    if len(scan.images) != ref.images:
        problems.append(f"{scan.where} holds {len(scan.images)} images where the manifest has {ref.images}")
    images = []
    for found in scan.images:
        group = manifest.declared.of_cell(found.label, found.bias)
        name = group.name if group else None
        note = {"key": found.key, "group": name, "label": found.label, "bias": found.bias, "source": "real"}
        images.append(_Image(found.key, found.sha256, found.offset, found.size, note))
    return _Shard(ref, found=True, images=images, problems=problems)


def _images(ref: ShardRef, tar: bytes) -> Iterator[_Image]:
    """The samples of a tar: each an image and, right behind it, its JSON."""
    image: Placed | None = None
    for member in unpack(tar, ref.key):
        if image is None:
            if member.name.partition(".")[2] not in _ENDINGS:
                raise BrokenError(f"{ref.key}: {member.name} stands where an image should")
            image = member
            continue
        key = image.name.partition(".")[0]
        if member.name != f"{key}.json":
            raise BrokenError(f"{ref.key}: {key} has no JSON behind it but {member.name}")
        yield _Image(key, hashlib.sha256(image.body).digest(), image.offset, len(image.body), _note(ref, key, member))
        image = None
    if image is not None:
        raise BrokenError(f"{ref.key}: {image.name} has no JSON behind it")


def _note(ref: ShardRef, key: str, member: Placed) -> Mapping[str, Any]:
    try:
        note = json.loads(member.body)
    except (ValueError, RecursionError) as error:
        raise BrokenError(f"{ref.key}: the JSON of {key} cannot be read ({error})") from error
    if not isinstance(note, dict):
        raise BrokenError(f"{ref.key}: the JSON of {key} is not an object")
    return note


def _check_note(manifest: Manifest, ref: ShardRef, image: _Image) -> Iterator[str]:
    note, where = image.note, f"{ref.key}: {image.key}"
    source = "synthetic" if manifest.kind == "generated" else "real"
    cells = {group.name: group for group in manifest.group_list}
    group = cells.get(note["group"]) if isinstance(note.get("group"), str) else None
    if note.get("key") != image.key:
        yield f"{where} lies beside the JSON of {note.get('key')}"
    if group is None:
        yield f"{where} is of group {note.get('group')!r}, which is not declared"
    elif (note.get("label"), note.get("bias")) != (group.label, group.bias):
        yield f"{where} is of group {group.name} but has another label or bias than it"
    elif manifest.kind == "generated" and image.key.rpartition("-")[0] != group.name:
        yield f"{where} says that it is of group {group.name}"
    if note.get("source") != source:
        yield f"{where} says that it is {note.get('source')!r}, in a set that is {source}"


def _against_sidecar(store: Store, chosen: _Chosen, ref: ShardRef, images: list[_Image]) -> list[str]:
    """Where a shard's images are not those that the worker of its interval wrote down, or not those to be selected."""
    interval = layout.interval_of_shard(ref.key, ref.sha256, "tar")
    try:
        written = {} if interval is None else _written(store, chosen.stands(read_commit(store, interval)))
    except FFRError as error:
        return [f"{ref.key}: its commit or sidecar cannot be read: {error}"]
    fates = _fates(chosen.settled, interval)
    problems = []
    for image in images:
        if image.key not in written:
            problems.append(f"{ref.key}: {image.key} is not among the accepted images of its interval's sidecar")
            continue
        slot, sha256 = written[image.key]
        if sha256 != image.sha256:
            problems.append(f"{ref.key}: {image.key} is not the image that its worker stored")
        if fates.get(slot) is not None:
            selection = layout.selection_key(chosen.revision.number)
            problems.append(f"{ref.key}: {image.key} is there against {selection}: {fates[slot]}")
    there = {image.key for image in images}
    absent = [key for key, (slot, _) in written.items() if slot in fates and fates[slot] is None and key not in there]
    return problems + [f"{ref.key} lacks {key}, which is selected" for key in absent]


def _fates(settled: Settled | None, interval: int | None) -> dict[int, str | None]:
    """Why a slot's image is not selected, None where it is; nothing where that is not known."""
    if settled is None or interval is None:
        return {}
    fates: dict[int, str | None] = dict.fromkeys(settled.selected.get(interval, np.empty(0, np.int32)).tolist())
    slots, reasons = settled.dropped.get(interval, (np.empty(0, np.int32), np.empty(0, np.uint8)))
    return fates | {
        slot: "surplus" if REASONS[fate] == PURGED else REASONS[fate]
        for slot, fate in zip(slots.tolist(), reasons.tolist(), strict=True)
    }


def _written(store: Store, commit: Commit) -> dict[str, tuple[int, bytes]]:
    rows = load_sidecar(store, commit, ("slot", "group", "k", "sha256", "accepted"))
    rows = rows.filter(rows["accepted"])
    return dict(zip(keys_of(rows), zip(rows["slot"].to_pylist(), rows["sha256"].to_pylist(), strict=True), strict=True))


def _against_index(shard: _Shard, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Where the index tells something else of a shard than the shard itself."""
    for image, row in zip(shard.images, rows, strict=False):
        where = f"{shard.ref.key}: {image.key}"
        if row["key"] != image.key:
            yield f"{where} stands where the index has {row['key']}"
            continue
        if (row["offset"], row["size"]) != (image.offset, image.size):
            yield f"{where} lies at byte {image.offset} ({image.size}), in the index at {row['offset']} ({row['size']})"
        differing = [name for name in _NOTE_FIELDS if row[name] != image.note.get(name)]
        if differing:
            yield f"{where} has another {', '.join(differing)} in its JSON than in the index"


def _digest_rows(images: list[_Image]) -> pa.Table:
    columns = {
        "key": [image.key for image in images],
        "group": [str(image.note.get("group")) for image in images],
        "sha256": [image.sha256 for image in images],
    }
    return pa.Table.from_pydict(columns, schema=DIGEST_ROWS)


def _check_totals(manifest: Manifest, counts: Mapping[str, int], rows: pa.Table, sha256: str) -> Iterator[str]:
    key = layout.manifest_key(manifest.revision)
    for name in sorted(counts):
        if counts[name] != manifest.groups.get(name, 0):
            yield f"group {name} has {counts[name]} images in the shards and {manifest.groups.get(name, 0)} in {key}"
    tally = rows["key"].value_counts()
    repeated = tally.filter(pc.greater(tally.field("counts"), 1)).field("values")
    for name in sorted(repeated.to_pylist())[:_SHOWN]:
        yield f"{name} is in the set more than once"
    if sha256 != manifest.manifest_sha256:
        yield f"{key}: manifest_sha256 is {manifest.manifest_sha256}, the images give {sha256}"
