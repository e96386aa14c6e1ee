"""Which byte ranges to read for images that lie scattered over shards: few calls, and little that nobody wants."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]

OFFSET_BITS = 40
"""A place is ``number << OFFSET_BITS | offset``: one integer that sorts images as they lie, shard by shard."""
LARGEST_SHARD = 1 << (OFFSET_BITS - 1)


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """Ranges of one shard that are read by one call, and the images in what comes back."""

    number: int
    """The shard's."""
    offsets: list[int]
    lengths: list[int]
    wanted: Ints
    """Which of the images that were asked for are in it."""
    starts: Ints
    """Where each of them begins in the bytes that :meth:`run` gives."""
    sizes: Ints
    found: Ints | None
    """Where each begins in the ranges, one behind the other; None: as in ``starts``."""

    def run(self, call: Callable[[Sequence[int], Sequence[memoryview]], None], room: Callable[[int], Bytes]) -> Bytes:
        """The bytes to hold in memory, in ``room``: the ranges, or where they are mostly gaps, the images alone.

        ``call`` reads ranges of the shard, from offsets on, into the memory given.
        """
        body = room(sum(self.lengths))
        view = body.data
        ends = itertools.accumulate(self.lengths)
        call(self.offsets, [view[end - length : end] for end, length in zip(ends, self.lengths, strict=True)])
        if self.found is None:
            return body
        kept = room(int(self.sizes.sum()))
        for start, found, size in zip(self.starts.tolist(), self.found.tolist(), self.sizes.tolist(), strict=True):
            kept[start : start + size] = body[found : found + size]
        return kept


def plan_reads(places: Ints, sizes: Ints, needed: Bools, near: Ints, alone: Bools, most: int) -> list[Read]:
    """Reads that bring every ``needed`` image, and those others that lie within the same ranges.

    Images of a shard are in one range where at most ``near`` bytes lie between two of them; a range ends behind about ``most``
    bytes. A call takes one range where ``alone``, else about ``most`` bytes of ranges.
    """
    if not len(places):
        return []
    order = np.argsort(places, kind="stable")
    begin, size = places[order], sizes[order]
    end = begin + size
    cut = np.ones(len(begin), np.bool_)
    cut[1:] = begin[1:] > np.maximum.accumulate(end)[:-1] + near[order][1:]
    cut |= _changes((begin - _first_of_run(begin, cut)) // most)
    firsts = np.flatnonzero(cut)
    kept = np.logical_or.reduceat(needed[order], firsts)
    inside = np.repeat(kept, np.diff(firsts, append=len(begin)))
    start = begin[firsts][kept]
    length = np.maximum.reduceat(end, firsts)[kept] - start
    return _calls(
        start, length, cut[inside], order[inside], begin[inside], size[inside], alone[order][firsts][kept], most
    )


def _calls(
    start: Ints, length: Ints, opens: Bools, wanted: Ints, begin: Ints, size: Ints, alone: Bools, most: int
) -> list[Read]:
    """Calls of ranges (``start``, ``length``), from the images in them: ``opens`` marks the first image of each range."""
    if not len(start):
        return []
    number = start >> OFFSET_BITS
    before = np.cumsum(length) - length
    shard = _changes(number)
    call = shard | alone | _changes((before - _first_of_run(before, shard)) // most)
    base = before - _first_of_run(before, call)
    of_image = np.cumsum(opens) - 1
    found = begin - start[of_image] + base[of_image]
    ranges = np.append(np.flatnonzero(call), len(start)).tolist()
    images = np.append(np.flatnonzero(opens)[call], len(begin)).tolist()
    offset = start & ((1 << OFFSET_BITS) - 1)
    reads = []
    for at, (low, high) in enumerate(itertools.pairwise(ranges)):
        some = slice(images[at], images[at + 1])
        sparse = 2 * int(size[some].sum()) < int(length[low:high].sum())
        reads.append(
            Read(
                number=int(number[low]),
                offsets=offset[low:high].tolist(),
                lengths=length[low:high].tolist(),
                wanted=wanted[some],
                starts=np.cumsum(size[some]) - size[some] if sparse else found[some],
                sizes=size[some],
                found=found[some] if sparse else None,
            )
        )
    return reads


def _changes(values: Ints) -> Bools:
    """Where a value differs from the one before it; true of the first."""
    return np.append(True, values[1:] != values[:-1])


def _first_of_run(values: Ints, opens: Bools) -> Ints:
    """For each place, the value where its run began."""
    firsts: Ints = values[opens][np.cumsum(opens) - 1]
    return firsts
