"""Which accepted images make up the set: the decisions that need to see all intervals.

A pure function of the decided intervals, their sidecars and a revision, so everyone who asks gets the same answer. In
the order of (interval, slot) an image whose decoded pixels equal an earlier accepted one's, in any group, is a
duplicate (also where that earlier one is excluded: a copy of a taken-down image must not take its place). Excluded keys
go next. Of what is left an exact quota takes the lowest k of each group.

Holds 30 bytes for each accepted candidate, and less than 60 at its peak.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ffr_dist.errors import BrokenError, ConflictError
from ffr_dist.groups import Groups
from ffr_dist.shards.commit import Commit
from ffr_dist.shards.refs import in_order
from ffr_dist.shards.selection import Revision

SETTLE_COLUMNS = ("slot", "group", "k", "accepted", "pixels_blake2b")
"""What ``settle`` reads of a sidecar."""

DUPLICATE = "duplicate"
EXCLUDED = "excluded"

_READERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The selection of one revision."""

    selected: Mapping[int, NDArray[np.int32]]
    """Slots in rising order by interval, intervals in rising order; those without any are left out."""
    counts: Mapping[str, int]
    """Selected images of each declared group."""
    shortfall: Mapping[str, int]
    """What an exact quota still lacks, of the groups that lack something."""
    surplus: Mapping[str, int]
    """Images of each group that are good and not needed."""
    rejected: Mapping[str, Mapping[str, int]]
    """Counts by group and reason, the workers' reasons included."""


@dataclass(frozen=True, slots=True)
class _Accepted:
    """The accepted candidates in (interval, slot) order, by column."""

    interval: NDArray[np.int32]
    slot: NDArray[np.int32]
    group: NDArray[np.int16]
    k: NDArray[np.int32]
    pixels: NDArray[np.uint64]


def settle(
    decided: Callable[[], Iterable[Commit]], load: Callable[[Commit], pa.Table], revision: Revision, groups: Groups
) -> Settled:
    """Select. ``decided`` gives the commits by interval each time it is called; ``load`` gives a commit's sidecar,
    ``SETTLE_COLUMNS`` at least, and is called from several threads.
    """
    unknown = sorted(set(revision.quota) - set(groups.names))
    if unknown:
        raise ConflictError(f"the selection asks for {', '.join(unknown)}, which the recipe does not declare")
    commits = [commit for commit in decided() if revision.considers(commit.interval)]
    names = groups.names
    rejected: dict[str, Counter[str]] = {name: Counter() for name in names}
    for commit in commits:
        for name, tally in commit.groups.items():
            if name not in rejected:
                raise BrokenError(f"the commit of interval {commit.interval} counts {name!r}, which is not declared")
            rejected[name].update(tally.rejected)
    rows = _accepted(commits, load, groups)
    duplicate = _repeats(rows.pixels)
    excluded = _excluded(rows, revision.excluded, names) & ~duplicate
    keep = ~(duplicate | excluded)
    surplus = {}
    for number, name in enumerate(names):
        here = rows.group == number
        rejected[name].update({DUPLICATE: int((here & duplicate).sum()), EXCLUDED: int((here & excluded).sum())})
        surplus[name] = 0
        if revision.kind == "exact":
            extra = _beyond(rows, np.flatnonzero(here & keep), revision.quota.get(name, 0))
            keep[extra] = False
            surplus[name] = len(extra)
    counts = {name: int((keep & (rows.group == number)).sum()) for number, name in enumerate(names)}
    missing = {name: revision.quota.get(name, 0) - counts[name] for name in names if revision.kind == "exact"}
    return Settled(
        selected=_by_interval(rows.interval[keep], rows.slot[keep]),
        counts=counts,
        shortfall={name: count for name, count in missing.items() if count > 0},
        surplus=surplus,
        rejected={name: dict(sorted((+reasons).items())) for name, reasons in rejected.items()},
    )


def _accepted(commits: list[Commit], load: Callable[[Commit], pa.Table], groups: Groups) -> _Accepted:
    with_tar = [commit for commit in commits if commit.tar is not None]
    total = sum(tally.accepted for commit in with_tar for tally in commit.groups.values())
    rows = _Accepted(
        interval=np.empty(total, np.int32),
        slot=np.empty(total, np.int32),
        group=np.empty(total, np.int16),
        k=np.empty(total, np.int32),
        pixels=np.empty((total, 2), np.uint64),
    )
    ids = {name: number for number, name in enumerate(groups.names)}
    start = 0
    for commit, table in zip(with_tar, in_order(load, with_tar, _READERS), strict=True):
        part = table.select(list(SETTLE_COLUMNS)).filter(table["accepted"])
        _refuse_other_counts(commit, part)
        stop = start + part.num_rows
        rows.interval[start:stop] = commit.interval
        rows.slot[start:stop] = part["slot"].to_numpy()
        names = part["group"].combine_chunks().dictionary_encode()
        rows.group[start:stop] = np.array([ids[name] for name in names.dictionary.to_pylist()])[names.indices]
        rows.k[start:stop] = part["k"].to_numpy()
        pixels = part["pixels_blake2b"].combine_chunks()
        whole = np.frombuffer(pixels.buffers()[1], np.uint64)
        rows.pixels[start:stop] = whole[2 * pixels.offset :][: 2 * len(pixels)].reshape(-1, 2)
        start = stop
    return rows


def _refuse_other_counts(commit: Commit, accepted: pa.Table) -> None:
    there = {entry["values"]: entry["counts"] for entry in pc.value_counts(accepted["group"]).to_pylist()}
    said = {name: tally.accepted for name, tally in commit.groups.items() if tally.accepted}
    if there != said:
        raise BrokenError(
            f"the commit of interval {commit.interval} counts {said} accepted, its sidecar {there}; restore the object"
        )


def _repeats(pixels: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Rows whose hash an earlier row has."""
    order = np.lexsort((pixels[:, 0], pixels[:, 1]))  # stable: equal hashes stay in their order
    again = np.ones(max(len(pixels) - 1, 0), np.bool_)
    for half in (0, 1):  # one after the other: at a million candidates both together would be the peak of memory
        ordered = pixels[order, half]
        again &= ordered[1:] == ordered[:-1]
    repeats = np.zeros(len(pixels), np.bool_)
    repeats[order[1:]] = again
    return repeats


def _excluded(rows: _Accepted, keys: tuple[str, ...], names: tuple[str, ...]) -> NDArray[np.bool_]:
    excluded = np.zeros(len(rows.k), np.bool_)
    wanted: dict[str, list[int]] = {}
    for key in keys:
        name, _, k = key.rpartition("-")
        if k.isascii() and k.isdigit():
            wanted.setdefault(name, []).append(int(k))
    for number, name in enumerate(names):
        if name in wanted:
            excluded |= (rows.group == number) & np.isin(rows.k, wanted[name])
    return excluded


def _beyond(rows: _Accepted, places: NDArray[np.intp], quota: int) -> NDArray[np.intp]:
    """The rows of a group, given by place, that its lowest ``quota`` values of k leave over."""
    ordered = places[np.argsort(rows.k[places], kind="stable")]
    k = rows.k[ordered]
    twice = np.flatnonzero(k[1:] == k[:-1])
    if len(twice):
        first, second = (int(rows.interval[place]) for place in ordered[twice[0] : twice[0] + 2])
        raise BrokenError(f"k {k[twice[0]]} of a group stands in intervals {first} and {second}; use another output")
    return ordered[quota:]


def _by_interval(interval: NDArray[np.int32], slot: NDArray[np.int32]) -> dict[int, NDArray[np.int32]]:
    starts = np.flatnonzero(np.diff(interval, prepend=np.int32(-1)))
    return dict(zip(interval[starts].tolist(), np.split(slot, starts[1:]), strict=True)) if len(starts) else {}
