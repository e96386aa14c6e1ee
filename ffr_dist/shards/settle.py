"""Which accepted images make up the set: the decisions that need to see all intervals.

A pure function of the decided intervals, their sidecars and a revision, so everyone who asks gets the same answer.
Along (interval, slot) each image that its worker accepted meets, and the first that applies is its fate:

1. a threshold that the revision tightened: as if its worker had rejected it;
2. duplicate: an earlier accepted image, of any group, has the same decoded pixels;
3. near-duplicate, where asked: an earlier accepted image of its group looks nearly the same;
4. excluded by key;
5. surplus: an exact quota takes the first of each group, which are those of lowest k.

An earlier image counts for 2 and 3 whatever became of it after it was accepted: a copy of a taken-down image must not
take its place. That holds through a purge too, which leaves the hashes of what it takes away.

Holds 24 bytes for each accepted candidate, and less than 60 at its peak; looks wait on scratch disk and are read group
by group.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ffr_dist.errors import BrokenError, ConflictError
from ffr_dist.groups import Groups
from ffr_dist.records import parse_synthetic_key
from ffr_dist.shards import layout
from ffr_dist.shards.commit import Commit
from ffr_dist.shards.near import LOOK_BYTES, near_earlier
from ffr_dist.shards.refs import in_order
from ffr_dist.shards.scratch import scratch_folder
from ffr_dist.shards.selection import THRESHOLDS, Revision, standing
from ffr_dist.shards.sidecar import DUPLICATE, EXCLUDED, NEAR_DUPLICATE, PURGED

SETTLE_COLUMNS = ("slot", "group", "k", "accepted", "scores", "pixels_blake2b", "look")
"""What ``settle`` reads of a sidecar: ``scores`` and ``look`` only for revisions that ask about them."""

REASONS = (None, PURGED, EXCLUDED, NEAR_DUPLICATE, DUPLICATE, *(threshold.reason for threshold in THRESHOLDS.values()))
"""Why an accepted image is not selected, by its number in ``Settled.dropped``. PURGED's is that of the surplus."""

_SELECTED, _SURPLUS, _EXCLUDED, _NEAR, _DUPLICATE, _TIGHTENED = range(6)
_GONE = 255
"""Purged before: it only takes part as an earlier image."""
_READERS = 8
_BLOCK = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The selection of one revision."""

    revision: int
    selected: Mapping[int, NDArray[np.int32]]
    """Slots in rising order by interval, intervals in rising order; those without any are left out."""
    dropped: Mapping[int, tuple[NDArray[np.int32], NDArray[np.uint8]]]
    """Slots of accepted images that are not selected, with the place of each one's reason in ``REASONS``."""
    counts: Mapping[str, int]
    """Selected images of each declared group."""
    shortfall: Mapping[str, int]
    """What an exact quota still lacks, of the groups that lack something."""
    surplus: Mapping[str, int]
    """Images of each group that are good and not needed."""
    rejected: Mapping[str, Mapping[str, int]]
    """Counts by group and reason, the workers' reasons included."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """The accepted candidates in (interval, slot) order, by column."""

    slot: NDArray[np.int32]
    group: NDArray[np.int16]
    fate: NDArray[np.uint8]
    intervals: array[int]
    """Those that have rows."""
    starts: array[int]
    """The first row of each of them, and at last the number of rows."""


def settle(
    decided: Callable[[], Iterable[Commit]], load: Callable[[Commit], pa.Table], revision: Revision, groups: Groups
) -> Settled:
    """Select. ``decided`` gives the commits by interval each time it is called (twice); ``load`` gives a commit's
    sidecar, ``SETTLE_COLUMNS`` at least, and is called from several threads.
    """
    names = groups.names
    unknown = sorted(set(revision.quota) - set(names))
    if unknown:
        raise ConflictError(f"the selection asks for {', '.join(unknown)}, which the recipe does not declare")
    rejected: dict[str, Counter[str]] = {name: Counter() for name in names}
    of = standing(revision)

    def considered() -> Iterator[Commit]:
        return (commit for commit in decided() if revision.considers(commit.interval))

    most = 0
    for commit in considered():
        most += sum(tally.accepted for tally in commit.groups.values())
        for name, tally in of(commit).groups.items():
            if name not in rejected:
                raise BrokenError(f"the commit of interval {commit.interval} counts {name!r}, which is not declared")
            rejected[name].update(tally.rejected)
    rows = _judge((of(commit) for commit in considered()), most, load, revision, names)
    counts, surplus = {}, {}
    for number, name in enumerate(names):
        here = rows.fate[rows.group == number]
        fates = np.bincount(here, minlength=_GONE + 1).tolist()
        counts[name], surplus[name] = fates[_SELECTED], fates[_SURPLUS]
        for fate in range(_EXCLUDED, len(REASONS)):
            rejected[name][str(REASONS[fate])] += fates[fate]
    missing = {name: revision.quota.get(name, 0) - counts[name] for name in names if revision.kind == "exact"}
    selected, dropped = _by_interval(rows)
    return Settled(
        revision=revision.number,
        selected=selected,
        dropped=dropped,
        counts=counts,
        shortfall={name: count for name, count in missing.items() if count > 0},
        surplus=surplus,
        rejected={name: dict(sorted((+reasons).items())) for name, reasons in rejected.items()},
    )


def _judge(
    commits: Iterable[Commit],
    most: int,
    load: Callable[[Commit], pa.Table],
    revision: Revision,
    names: tuple[str, ...],
) -> _Rows:
    with ExitStack() as open_files:
        looks: list[BinaryIO] = []
        if revision.near is not None:
            scratch = open_files.enter_context(scratch_folder("settle"))
            looks = [open_files.enter_context((scratch / name).open("w+b")) for name in names]
        rows, pixels = _read(commits, most, load, revision, names, looks)
        repeats = _repeats(pixels, rows.fate >= _TIGHTENED if revision.tightened else None, rows.fate)
        del pixels
        rows.fate[repeats & (rows.fate <= _EXCLUDED)] = _DUPLICATE
        for number, file in enumerate(looks):
            _mark_near(rows, number, file, revision.near or 0)
    if revision.kind == "exact":
        for number, name in enumerate(names):
            good = np.flatnonzero((rows.group == number) & (rows.fate == _SELECTED))
            rows.fate[good[revision.quota.get(name, 0) :]] = _SURPLUS
    return rows


def _read(
    commits: Iterable[Commit],
    most: int,
    load: Callable[[Commit], pa.Table],
    revision: Revision,
    names: tuple[str, ...],
    looks: list[BinaryIO],
) -> tuple[_Rows, tuple[NDArray[np.uint64], NDArray[np.uint64]]]:
    """Every candidate that was accepted once, with what its own row says of it; and the halves of its hash."""
    slot, group, fate = np.empty(most, np.int32), np.empty(most, np.int16), np.empty(most, np.uint8)
    low, high = np.empty(most, np.uint64), np.empty(most, np.uint64)
    intervals, starts = array("i"), array("q")
    excluded = _keys_by_group(revision.excluded, names)
    ids = {name: number for number, name in enumerate(names)}
    last: dict[int, tuple[int, int]] = {}
    start = 0
    with_tar = (commit for commit in commits if commit.sidecar is not None)
    for commit, table in in_order(lambda commit: (commit, load(commit)), with_tar, _READERS):
        _refuse_other_counts(commit, table)
        part = table.filter(table["pixels_blake2b"].is_valid())
        if not part.num_rows:
            continue
        stop = start + part.num_rows
        if stop > most:
            raise BrokenError(f"{_side(commit)} has more accepted rows than its commit counts; restore it")
        coded = part["group"].combine_chunks().dictionary_encode()
        numbers = np.array([ids.get(name, -1) for name in coded.dictionary.to_pylist()], np.int16)[coded.indices]
        if (numbers < 0).any():
            raise BrokenError(f"{_side(commit)} has a row of a group that is not declared; restore it")
        k = part["k"].to_numpy()
        _refuse_falling(commit, numbers, k, last)
        mine = np.zeros(part.num_rows, np.uint8)
        for number, wanted in excluded.items():
            mine[(numbers == number) & np.isin(k, wanted)] = _EXCLUDED
        _mark_tightened(commit, part, revision, mine)
        mine[~part["accepted"].to_numpy(zero_copy_only=False)] = _GONE
        slot[start:stop], group[start:stop], fate[start:stop] = part["slot"].to_numpy(), numbers, mine
        pixels = np.frombuffer(b"".join(part["pixels_blake2b"].to_pylist()), np.uint64).reshape(-1, 2)
        low[start:stop], high[start:stop] = pixels[:, 0], pixels[:, 1]
        if looks:
            _spool_looks(commit, part, numbers, mine, looks)
        intervals.append(commit.interval)
        starts.append(start)
        start = stop
    starts.append(start)
    return _Rows(slot[:start], group[:start], fate[:start], intervals, starts), (low[:start], high[:start])


def _refuse_other_counts(commit: Commit, table: pa.Table) -> None:
    accepted = table.filter(table["accepted"])
    there = {entry["values"]: entry["counts"] for entry in pc.value_counts(accepted["group"]).to_pylist()}
    said = {name: tally.accepted for name, tally in commit.groups.items() if tally.accepted}
    if there != said:
        raise BrokenError(
            f"the commit of interval {commit.interval} counts {said} accepted, its sidecar {there}; restore the object"
        )


def _refuse_falling(
    commit: Commit, numbers: NDArray[np.int16], k: NDArray[np.int64], last: dict[int, tuple[int, int]]
) -> None:
    """Within a group k rises along (interval, slot): what comes first is then what has the lowest k."""
    for number in np.unique(numbers).tolist():
        mine = k[numbers == number]
        before, interval = last.get(number, (-1, commit.interval))
        if mine[0] <= before or (mine[1:] <= mine[:-1]).any():
            raise BrokenError(
                f"k of a group does not rise through intervals {interval} and {commit.interval}: some candidate stands "
                "in both or out of order; use another output"
            )
        last[number] = int(mine[-1]), commit.interval


def _keys_by_group(keys: tuple[str, ...], names: tuple[str, ...]) -> dict[int, NDArray[np.int64]]:
    wanted: dict[int, list[int]] = {}
    for key in keys:
        group, k = parse_synthetic_key(key) or ("", -1)
        if group in names:
            wanted.setdefault(names.index(group), []).append(k)
    return {number: np.array(found, np.int64) for number, found in wanted.items()}


def _mark_tightened(commit: Commit, part: pa.Table, revision: Revision, fate: NDArray[np.uint8]) -> None:
    for place, (name, (score, _)) in enumerate(THRESHOLDS.items()):
        if name in revision.tightened:
            # As the worker compares: the float32 as it is stored, and NaN reaches nothing.
            enough = scores_of(part, score, _side(commit)).astype(np.float64) >= revision.tightened[name]
            fate[~enough & (fate < _TIGHTENED)] = _TIGHTENED + place


def scores_of(rows: pa.Table, name: str, source: str) -> NDArray[np.float32]:
    """One score of each row of a sidecar; BrokenError where a row does not state it."""
    column = rows["scores"].combine_chunks()
    offsets = column.offsets.to_numpy()
    of_row = np.repeat(np.arange(len(column)), np.diff(offsets))
    inside = slice(offsets[0], offsets[-1])
    here = pc.equal(column.keys[inside], name).to_numpy(zero_copy_only=False)
    if not np.array_equal(of_row[here], np.arange(len(column))):
        raise BrokenError(f"{source} has a row without the score {name!r}; restore it, or do not tighten by it")
    values: NDArray[np.float32] = column.items[inside].to_numpy(zero_copy_only=False)[here]
    return values


def _spool_looks(
    commit: Commit, part: pa.Table, numbers: NDArray[np.int16], fate: NDArray[np.uint8], files: list[BinaryIO]
) -> None:
    looks = part["look"].to_pylist()
    for number, own, look in zip(numbers.tolist(), fate.tolist(), looks, strict=True):
        if own < _TIGHTENED or own == _GONE:
            if look is None:
                raise BrokenError(f"{_side(commit)} has no perceptual hash of an accepted image; restore it")
            files[number].write(look)


def _repeats(
    pixels: tuple[NDArray[np.uint64], NDArray[np.uint64]], tightened: NDArray[np.bool_] | None, fate: NDArray[np.uint8]
) -> NDArray[np.bool_]:
    """Rows whose hash an earlier row has; tightened ones count as never accepted."""
    low, high = pixels
    repeats = np.zeros(len(low), np.bool_)
    if tightened is None:
        order = np.lexsort((high, low))  # stable: equal hashes stay in their order
    else:
        tightened &= fate != _GONE
        order = np.lexsort((tightened, high, low))  # behind the others of their hash, where they hide nobody
    for start in range(1, len(order), _BLOCK):  # not at once: that would be the peak of memory
        here, before = order[start : start + _BLOCK], order[start - 1 : start - 1 + _BLOCK][: len(order) - start]
        again = here[(low[here] == low[before]) & (high[here] == high[before])]
        repeats[again] = True
    return repeats


def _mark_near(rows: _Rows, number: int, file: BinaryIO, most: int) -> None:
    here = (rows.group == number) & ((rows.fate < _TIGHTENED) | (rows.fate == _GONE))
    file.seek(0)
    looks = np.fromfile(file, np.uint64).reshape(-1, LOOK_BYTES // 8)
    near = near_earlier(looks, most)
    fate = rows.fate[here]
    fate[near & (fate <= _EXCLUDED)] = _NEAR
    rows.fate[here] = fate


def _by_interval(
    rows: _Rows,
) -> tuple[dict[int, NDArray[np.int32]], dict[int, tuple[NDArray[np.int32], NDArray[np.uint8]]]]:
    selected, dropped = {}, {}
    for place, interval in enumerate(rows.intervals):
        part = slice(rows.starts[place], rows.starts[place + 1])
        slot, fate = rows.slot[part], rows.fate[part]
        if (fate == _SELECTED).any():
            selected[interval] = slot[fate == _SELECTED]
        out = (fate != _SELECTED) & (fate != _GONE)
        if out.any():
            dropped[interval] = slot[out], fate[out]
    return selected, dropped


def _side(commit: Commit) -> str:
    return commit.sidecar.key if commit.sidecar is not None else layout.commit_key(commit.interval)
