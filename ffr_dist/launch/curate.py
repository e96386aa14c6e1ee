"""What an output is to hold, changed after the fact: each wish becomes a revision, and is finished if it can be.

Every function may be killed anywhere and called again: a wish that stands already is not written twice, and what is
finished already comes back. Where something must be generated first, a StoppedError ends with the line that does it.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from ffr_dist.errors import ConflictError, InputError, MissingError, StoppedError
from ffr_dist.launch.context import CheckedRecipe
from ffr_dist.launch.pool import finish_pool, finished_set, recipe_of
from ffr_dist.plan.document import read_pinned, read_rounds
from ffr_dist.plan.interleave import counts_at
from ffr_dist.plan.rounds import Round
from ffr_dist.quota import Quota
from ffr_dist.recipe import KEY, claim_output, pixel_fields
from ffr_dist.records import parse_synthetic_key
from ffr_dist.shards import export as shard_export
from ffr_dist.shards import gc, layout
from ffr_dist.shards.commit import read_commit
from ffr_dist.shards.finish import settle_log
from ffr_dist.shards.log import CommitLog
from ffr_dist.shards.manifest import Manifest, read_manifest
from ffr_dist.shards.selection import THRESHOLDS, Revision, kind_of, refuse_race, required_revision, revise
from ffr_dist.shards.selection import standing as standing_of
from ffr_dist.shards.sidecar import load_sidecar
from ffr_dist.store import ObjectInfo, Store, open_store

NEAR = "near_duplicates"

_NAMED = 5
"""Keys that an error names; the rest is counted."""


def extend(checked: CheckedRecipe, store: Store, go_on: str) -> Manifest:
    """Ask an output for the quota of a recipe, more or less than it was last asked for."""
    if not store.exists(KEY):
        raise InputError(f"{store.url} holds no {KEY}, so there is nothing to extend. To begin it: {go_on}")
    claim_output(store, checked.text, pixel_fields(checked.recipe, checked.method))
    declared = recipe_of(store).groups
    if declared != checked.groups:
        raise ConflictError(
            f"{store.url} was begun with the groups {', '.join(declared.names)}, with their labels and biases; this recipe "
            "declares others. Use another output"
        )
    begun = read_rounds(store)  # a damaged or foreign plan is refused before anything is written
    revise(store, lambda latest: _asking(store, latest, checked.quota()))
    if not begun:
        raise StoppedError(f"{store.url} is asked for that, and holds no image yet. To go on: {go_on}")
    return finish_pool(store, go_on)


def _asking(store: Store, latest: Revision, quota: Quota) -> Revision:
    if latest.kind != kind_of(quota):
        raise ConflictError(
            f"{layout.selection_key(latest.number)} of {store.url} asks for {latest.kind} images, this recipe for "
            f"{kind_of(quota)}; use another output"
        )
    wanted = latest.quota if _asked(latest.quota) == _asked(quota.counts) else dict(quota.counts)
    return dataclasses.replace(latest, quota=wanted, considered=None)


def _asked(quota: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in quota.items() if count}


def tighten(store: Store, values: Mapping[str, float]) -> Manifest:
    """Raise thresholds of the keep rules, by the names of their settings, to these values."""
    pinned = _keep(store)
    for name, value in values.items():
        _refuse_looser(name, value, pinned)

    def change(latest: Revision) -> Revision:
        raised = {name: float(value) for name, value in values.items() if name != NEAR}
        tightened = {name: value for name, value in {**latest.tightened, **raised}.items() if value != pinned.get(name)}
        near = int(values[NEAR]) if NEAR in values else latest.near
        return dataclasses.replace(latest, tightened=tightened, near=near)

    revise(store, change)
    return finish_pool(store, generate_line(store))


def _keep(store: Store) -> Mapping[str, Any]:
    """The thresholds that the plan pins; those of rules that were not applied are None."""
    pinned = read_pinned(store)
    if pinned is None:
        raise InputError(f"{store.url} holds no plan: run 'ffr generate' first")
    agreement = pinned.keep.get("agreement")
    return {**pinned.keep, "agreement": agreement and agreement["least"]}


def _refuse_looser(name: str, value: float, pinned: Mapping[str, Any]) -> None:
    if name != NEAR and name not in THRESHOLDS:
        known = [*THRESHOLDS, NEAR]
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"
        raise InputError(f"there is no threshold {name!r}; {hint}")
    least = pinned.get(name)
    if least is None and name in {NEAR, "agreement"}:
        raise ConflictError(
            f"{name} was not set when this output was generated, so its images carry nothing to judge by; use another output"
        )
    if name == NEAR and value not in range(1, 257):
        raise InputError(f"{name} is {value:g}; write a whole number of bits, 1 to 256")
    if not math.isfinite(value):
        raise InputError(f"{name} is {value}; write a number")
    if value < (least or 0):
        raise ConflictError(
            f"{name} can be raised above the {least:g} that this output was generated with, not lowered to {value:g}: "
            "rejected images are not stored. Use another output"
        )


def exclude(store: Store, keys: Iterable[str]) -> Manifest:
    """Take images out of the set, by key."""
    wanted = dict.fromkeys(keys)
    latest = required_revision(store)
    known = frozenset(latest.excluded)
    _refuse_unknown(store, latest, [key for key in wanted if key not in known])

    def change(latest: Revision) -> Revision:
        if set(wanted) <= set(latest.excluded):
            return latest
        return dataclasses.replace(latest, excluded=tuple(sorted({*latest.excluded, *wanted})))

    revise(store, change)
    return finish_pool(store, generate_line(store))


def _refuse_unknown(store: Store, revision: Revision, keys: Sequence[str]) -> None:
    """InputError, which names them, where some of the keys are not those of accepted images."""
    pinned = read_pinned(store)
    rounds = [planned.round for planned in read_rounds(store)]
    by_interval: dict[int, list[str]] = {}
    unknown = {}
    for key in keys:
        candidate = parse_synthetic_key(key)
        interval = None if candidate is None or pinned is None else _interval(rounds, *candidate, pinned.interval_size)
        if candidate is None:
            unknown[key] = "is not <group>-<8 digits>"
        elif interval is None:
            unknown[key] = "was never planned"
        else:
            by_interval.setdefault(interval, []).append(key)
    of = standing_of(revision)
    for interval, found_here in by_interval.items():
        try:
            commit = read_commit(store, interval)
        except MissingError:
            unknown |= dict.fromkeys(found_here, "is not made yet")
            continue
        rows = load_sidecar(store, of(commit), ("group", "k", "accepted", "reason"))
        for key in found_here:
            group, k = parse_synthetic_key(key) or ("", -1)
            found = [row for row in rows.to_pylist() if (row["group"], row["k"]) == (group, k)]
            if not found:
                unknown[key] = f"was never made: interval {commit.interval} is abandoned"
            elif not found[0]["accepted"]:
                unknown[key] = f"is no image of the output: {found[0]['reason']}"
    if unknown:
        named = "; ".join(f"{key!r} {why}" for key, why in list(unknown.items())[:_NAMED])
        more = f"; and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
        raise InputError(f"nothing was excluded, for {named}{more}. 'ffr verify {store.url}' tells what there is")


def _interval(rounds: Sequence[Round], group: str, k: int, size: int) -> int | None:
    """The interval that holds a candidate; None where no round plans it."""
    for planned in rounds:
        place = k - planned.first_k.get(group, 0)
        if 0 <= place < planned.totals.get(group, 0):
            low, high = 0, planned.size - 1  # the first position that has more than ``place`` of the group behind it
            while low < high:
                middle = (low + high) // 2
                if counts_at(middle + 1, planned.totals)[group] > place:
                    high = middle
                else:
                    low = middle + 1
            return planned.first_interval + low // size
    return None


def finish_now(store: Store) -> Manifest:
    """Finish with what is decided at this moment: the same share of each group's quota, as large as they all have.

    A set that is finished already, or was begun to be finished so and still can be, stays as it is; ``extend`` starts from
    the full quota.
    """
    there = finished_set(store)
    if there is not None:
        return finish_pool(store)
    latest = required_revision(store)
    read_rounds(store)  # a damaged or foreign plan is refused before anything is written
    log = CommitLog(store)
    log.refresh()
    if latest.considered is None or _lacking(latest, _good(store, log, latest)):
        ranges = _ranges(commit.interval for commit in log.commits())
        if not ranges:
            raise StoppedError(f"{store.url} has nothing decided yet. To go on: {generate_line(store)}")
        quota = _share(store, latest, _good(store, log, dataclasses.replace(latest, considered=ranges)))

        def change(standing: Revision) -> Revision:
            if standing.number != latest.number:  # a second one at the same moment: its view is as good as this one
                return standing if standing.considered is not None else refuse_race(standing)
            return dataclasses.replace(standing, quota=quota, considered=ranges)

        revise(store, change)
    return finish_pool(store, generate_line(store))


def _good(store: Store, log: CommitLog, revision: Revision) -> Mapping[str, int]:
    """The images of each group that a revision lets count, beyond its quota too."""
    stop = revision.considered[-1][1] if revision.considered else 0
    settled = settle_log(store, log, stop, revision, recipe_of(store).groups)
    return {name: settled.counts[name] + settled.surplus[name] for name in revision.quota}


def _lacking(revision: Revision, good: Mapping[str, int]) -> bool:
    return revision.kind == "exact" and any(good[name] < count for name, count in revision.quota.items())


def _share(store: Store, latest: Revision, good: Mapping[str, int]) -> Mapping[str, int]:
    """The same share of each quota, min(good / quota), rounded down: exact, in whole numbers."""
    if latest.kind == "survivors":
        return latest.quota
    asked = _asked(latest.quota)
    empty = sorted(name for name in asked if not good[name])
    if empty:
        raise StoppedError(
            f"there is no image of {', '.join(empty)} yet, so no share of every group. To go on: {generate_line(store)}"
        )
    numerator, denominator = 1, 1
    for name, count in asked.items():
        if good[name] * denominator < numerator * count:
            numerator, denominator = good[name], count
    return {name: count * numerator // denominator for name, count in latest.quota.items()}


def _ranges(intervals: Iterable[int]) -> tuple[tuple[int, int], ...]:
    found: list[tuple[int, int]] = []
    for interval in intervals:
        if found and found[-1][1] == interval:
            found[-1] = (found[-1][0], interval + 1)
        else:
            found.append((interval, interval + 1))
    return tuple(found)


def collect_garbage(store: Store, *, older: timedelta, purge: bool, dry_run: bool) -> list[ObjectInfo]:
    """Delete shard objects that nobody names, and with ``purge`` all that the finished set has no use for; or only tell.

    Shards that are deleted stay deleted: whoever wants a larger set afterwards generates anew what was surplus.
    """
    latest = required_revision(store)
    doomed = _purge(store, dry_run=dry_run) if purge else []
    known = {info.key for info in doomed}
    latest = required_revision(store)
    doomed += [info for info in gc.leftovers(store, latest.number, older) if info.key not in known]
    return doomed if dry_run else gc.delete_all(store, doomed)


def _purge(store: Store, *, dry_run: bool) -> list[ObjectInfo]:
    """Make what shall stand stand without its originals; what can then be deleted."""
    there = finished_set(store) if dry_run else finish_pool(store, generate_line(store))
    if there is None:
        raise StoppedError(f"{store.url} is not finished as last asked for, so nothing is superseded: run 'ffr finish'")
    checked = recipe_of(store)

    def finish_again() -> Manifest:
        return finish_pool(store, generate_line(store))

    return gc.purge(store, checked.groups, checked.recipe.codec, there, finish_again, dry_run=dry_run)


def destination(store: Store, to: str) -> Store:
    """Where to export a finished set to; opened once there is something to export, so that nothing is made for nothing."""
    read_manifest(store)
    scheme, separator, rest = to.partition("://")
    if separator and scheme != "file":
        target = open_store(to)  # of a bucket, which is not touched by it
        within = f"{target.url}/".startswith(f"{store.url}/")
    else:
        within = Path(rest or to).expanduser().resolve().is_relative_to(Path(store.url).resolve())
    if within:
        raise InputError(
            f"{to} lies in {store.url} itself, where 'ffr gc' would not look: export to a folder beside it"
        )
    return open_store(to)


def export(store: Store, to: Store, shard_mb: int | None = None) -> shard_export.Exported:
    """Copy the finished set under plain names."""
    return shard_export.export(store, to, shard_mb=shard_mb)


def generate_line(store: Store) -> str:
    """How to make what the latest selection lacks: with the recipe in the output, unless it was extended by another."""
    revision, where = required_revision(store), shlex.quote(store.url)
    recipe = shlex.quote(f"{store.url}/{KEY}")
    if revision.considered is not None:  # its quota is no recipe's
        return f"ffr extend {recipe} --out {where}. Or, of what there is: ffr finish {where} --now"
    if _asked(recipe_of(store).quota().counts) == _asked(revision.quota):
        return f"ffr generate {recipe} --out {where}"
    return f"ffr generate RECIPE --out {where} (RECIPE is the one that it was last extended with)"
