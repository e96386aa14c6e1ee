"""Deleting what no set needs any more. Each step may be killed anywhere and run again.

Invariants:

* An undecided interval's objects are never touched: a worker may be about to name them.
* A leftover goes only when it is old by the store's own clock: a finish that is under way has yet to name its shards.
* A purge writes what shall stand first, then the revision that says so, then that revision's manifest. Only then are the
  originals deleted, and last of all the superseded manifests, which tell a second run what is left to delete.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from hashlib import sha256

import pyarrow as pa

from ffr_dist.errors import MissingError
from ffr_dist.groups import Groups
from ffr_dist.shards import layout
from ffr_dist.shards.codec import CodecConfig
from ffr_dist.shards.commit import Commit, GroupTally
from ffr_dist.shards.finish import settle_log
from ffr_dist.shards.log import CommitLog
from ffr_dist.shards.manifest import Manifest, manifest_numbers, manifest_of
from ffr_dist.shards.refs import ObjectRef, in_order
from ffr_dist.shards.selection import (
    Replaced,
    Revision,
    read_revision,
    refuse_race,
    required_revision,
    revise,
    standing,
)
from ffr_dist.shards.settle import REASONS, Settled
from ffr_dist.shards.sidecar import load_sidecar, purged_sidecar
from ffr_dist.shards.trim import trim
from ffr_dist.store import ObjectInfo, Store
from ffr_dist.store.objects import PROBE

_AT_ONCE = 4
_DELETES_AT_ONCE = 16


def leftovers(store: Store, latest: int, older: timedelta) -> list[ObjectInfo]:
    """Shard objects, of decided intervals and of at least that age, which neither a commit nor a manifest nor a selection
    that is in use (the latest finished one, up to number ``latest``) names; and what a probe left that was killed.
    """
    before = store.now() - older
    probes = [info for info in store.list(PROBE) if info.modified <= before]
    old = [info for info in store.list(layout.SHARDS) if info.modified <= before]
    # Names are read after the listing, so that what was named meanwhile stays.
    numbers = manifest_numbers(store)
    named = {shard.key for number in numbers for shard in manifest_of(store, number).shards}
    for number in range(numbers[-1] if numbers else 0, latest + 1):
        named |= {ref.key for entry in read_revision(store, number).replaced for ref in _refs(entry)}
    nameless: dict[int, list[ObjectInfo]] = {}
    for info in old:
        interval = layout.interval_of_object(info.key)
        if interval is not None and info.key not in named:
            nameless.setdefault(interval, []).append(info)
    log = CommitLog(store)
    log.refresh()
    found = probes
    for commit in log.commits():
        own = {ref.key for ref in _refs(commit)}
        found += [info for info in nameless.get(commit.interval, ()) if info.key not in own]
    return found


def purge(
    store: Store,
    groups: Groups,
    codec: CodecConfig,
    there: Manifest,
    finish: Callable[[], Manifest],
    *,
    dry_run: bool,
) -> list[ObjectInfo]:
    """Make the latest finished set, ``there``, stand without what is not in it; what can then be deleted."""
    revision = required_revision(store)
    log = CommitLog(store)
    log.refresh()
    settled = settle_log(store, log, there.intervals, revision, groups)
    if settled.dropped and dry_run:
        current = {layout.manifest_key(there.revision), there.index.key}
        manifests = [info for info in store.list(layout.MANIFESTS) if info.key in current]
        return [*superseded(store, revision, there), *_originals(store, log, revision, settled), *manifests]
    if settled.dropped:
        replaced = replacements(store, codec, log, revision, settled)

        def change(latest: Revision) -> Revision:
            if latest.number != revision.number and latest.replaced != replaced:
                return refuse_race(latest)
            return dataclasses.replace(latest, replaced=replaced)

        revision = revise(store, change)
        there = finish()
    return superseded(store, revision, there)


def replacements(
    store: Store, codec: CodecConfig, log: CommitLog, revision: Revision, settled: Settled
) -> tuple[Replaced, ...]:
    """Store, for each interval that holds an accepted image which is not selected, a tar and a sidecar without it. All that
    then stands in place of commits, earlier replacements included.
    """
    of = standing(revision)
    touched = (of(commit) for commit in log.commits() if commit.interval in settled.dropped)
    made = {
        entry.interval: entry
        for entry in in_order(functools.partial(_replace, store, codec, settled), touched, _AT_ONCE)
    }
    entries = {entry.interval: entry for entry in revision.replaced} | made
    return tuple(entries[interval] for interval in sorted(entries))


def _replace(store: Store, codec: CodecConfig, settled: Settled, commit: Commit) -> Replaced:
    table = load_sidecar(store, commit)
    slots, fates = settled.dropped[commit.interval]
    reasons = {slot: str(REASONS[fate]) for slot, fate in zip(slots.tolist(), fates.tolist(), strict=True)}
    kept = settled.selected.get(commit.interval)
    tar, offsets = None, {}
    if kept is not None and commit.tar is not None:
        shard, places = trim(store, codec, commit.interval, commit.tar, table.take(pa.array(kept)))
        tar, offsets = shard.object, dict(zip(kept.tolist(), places, strict=True))
    body = purged_sidecar(table, reasons, offsets)
    digest = sha256(body).hexdigest()
    sidecar = ObjectRef(layout.sidecar_key(commit.interval, digest), digest, len(body))
    store.put(sidecar.key, body)
    groups = table["group"].to_pylist()
    gone = Counter((groups[slot], reason) for slot, reason in reasons.items())
    return Replaced(commit.interval, tar, sidecar, _without(commit.groups, gone))


def _without(tallies: Mapping[str, GroupTally], gone: Counter[tuple[str, str]]) -> dict[str, GroupTally]:
    left = {}
    for name, tally in tallies.items():
        mine = Counter({reason: count for (group, reason), count in gone.items() if group == name})
        rejected = Counter(tally.rejected) + mine
        left[name] = GroupTally(tally.tried, tally.accepted - mine.total(), dict(sorted(rejected.items())))
    return left


def superseded(store: Store, revision: Revision, manifest: Manifest) -> list[ObjectInfo]:
    """What the finished set of ``revision`` has no use for, in the order in which it may go: shard objects that stand for
    nothing any more, then older manifests and indexes.
    """
    if manifest.revision != revision.number:
        refuse_race(revision)
    kept = {shard.key for shard in manifest.shards}
    once = _named_before(store, revision.number)
    of = standing(revision)
    log = CommitLog(store)
    log.refresh()
    gone: set[str] = set()
    for commit in log.commits():
        stands = {ref.key for ref in _refs(of(commit))}
        gone |= ({ref.key for ref in _refs(commit)} | once.get(commit.interval, set())) - stands - kept
    shards = [info for info in store.list(layout.SHARDS) if info.key in gone]
    older, indexes = [], []
    for info in store.list(layout.MANIFESTS):
        index, finished = layout.revision_of_some_index(info.key), layout.revision_of_manifest(info.key)
        if index is not None and index <= revision.number and info.key != manifest.index.key:
            indexes.append(info)
        if finished is not None and finished < revision.number:
            older.append(info)
    # After the listings: what a later finish puts is newer than what was listed, and so is not deleted.
    latest = required_revision(store)
    if latest.number != revision.number:
        refuse_race(latest)
    return [*shards, *indexes, *older]


def _named_before(store: Store, revision: int) -> dict[int, set[str]]:
    """The shard objects that earlier manifests and selections name, by interval."""
    named: dict[int, set[str]] = {}
    for number in manifest_numbers(store):
        if number < revision:
            for shard in manifest_of(store, number).shards:
                named.setdefault(layout.interval_of_object(shard.key) or 0, set()).add(shard.key)
    for number in range(revision):
        for entry in read_revision(store, number).replaced:
            named.setdefault(entry.interval, set()).update(ref.key for ref in _refs(entry))
    return named


def _originals(store: Store, log: CommitLog, revision: Revision, settled: Settled) -> list[ObjectInfo]:
    """What a purge of this selection would replace, and then delete."""
    of = standing(revision)
    gone = {ref.key for commit in log.commits() if commit.interval in settled.dropped for ref in _refs(of(commit))}
    return [info for info in store.list(layout.SHARDS) if info.key in gone]


def delete_all(store: Store, doomed: Iterable[ObjectInfo]) -> list[ObjectInfo]:
    """Delete in order, so far as an object is still the one that was listed; those that are gone by this."""
    waiting = list(doomed)
    shards = [info for info in waiting if layout.interval_of_object(info.key) is not None]
    gone = list(zip(shards, in_order(functools.partial(_delete, store), shards, _DELETES_AT_ONCE), strict=True))
    others = [info for info in waiting if layout.interval_of_object(info.key) is None]
    gone += [(info, _delete(store, info)) for info in others]
    return [info for info, deleted in gone if deleted]


def _delete(store: Store, info: ObjectInfo) -> bool:
    try:
        if store.head(info.key) != info:
            return False  # somebody has just written it again
    except MissingError:
        return False
    store.delete(info.key)
    return True


def _refs(of: Commit | Replaced) -> list[ObjectRef]:
    return [ref for ref in (of.tar, of.sidecar) if ref is not None]
