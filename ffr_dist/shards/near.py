"""Which images look nearly like an earlier one: perceptual hashes that differ in a few of their 256 bits.

Every pair is covered, not only likely ones. Two hashes that differ in at most ``t`` bits, cut into ``m`` bands alike, differ
in at most ``t // m`` bits in one band at least; so it suffices to compare those that (nearly) share a band. The bands are
cut so that few do.

Holds 8 bytes an image beside the hashes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

LOOK_BYTES = 32
_BITS = 8 * LOOK_BYTES
_BLOCK = 16_384
_ROW = np.uint64(0xFFFF_FFFF)
_KEY = np.uint64(32)
_FEWEST_BANDS = 8
"""So that a band and an image's number fit into one 64-bit word."""
_MOST_BANDS = 64


def near_earlier(looks: NDArray[np.uint64], most: int) -> NDArray[np.bool_]:
    """For each of (n, 4) hashes, whether one before it differs in at most ``most`` bits."""
    near = np.zeros(len(looks), np.bool_)
    if most >= _BITS:
        near[1:] = True
        return near
    bands = _bands(len(looks), most)
    for band in range(bands):
        start, stop = _BITS * band // bands, _BITS * (band + 1) // bands
        entries = _entries(looks, start, stop - start)
        starts = _starts(entries, stop - start)
        for flipped in _ball(stop - start, most // bands):
            for first in range(0, len(entries), _BLOCK):
                _compare(looks, entries, starts, entries[first : first + _BLOCK], flipped, most, near)
    return near


def _bands(count: int, most: int) -> int:
    """Into how many bands to cut: as few comparisons as can be expected of hashes that are all alike likely."""

    def work(bands: int) -> float:
        width = _BITS // bands
        return bands * _size_of_ball(width, most // bands) * (4.0 + count / (1 << width))

    return min(range(_FEWEST_BANDS, _MOST_BANDS + 1), key=work)


def _size_of_ball(width: int, radius: int) -> int:
    return sum(math.comb(width, flips) for flips in range(radius + 1))


def _ball(width: int, radius: int) -> Iterator[int]:
    """All ways to flip at most ``radius`` of ``width`` bits."""
    for flips in range(radius + 1):
        for bits in itertools.combinations(range(width), flips):
            yield sum(1 << bit for bit in bits)


def _entries(looks: NDArray[np.uint64], start: int, width: int) -> NDArray[np.uint64]:
    """One word an image, its band above its number, sorted: those who share a band lie together, in their order."""
    entries = np.empty(len(looks), np.uint64)
    word, shift = divmod(start, 64)
    mask = np.uint64((1 << width) - 1)
    for first in range(0, len(looks), _BLOCK):
        part = looks[first : first + _BLOCK]
        bits = part[:, word] >> np.uint64(shift)
        if shift + width > 64:
            bits |= part[:, word + 1] << np.uint64(64 - shift)
        entries[first : first + _BLOCK] = (bits & mask) << _KEY
        entries[first : first + _BLOCK] |= np.arange(first, first + len(part), dtype=np.uint64)
    entries.sort()
    return entries


def _starts(entries: NDArray[np.uint64], width: int) -> NDArray[np.int32] | None:
    """Where each band's entries begin, if that table is no larger than the entries; else they are searched for."""
    if 1 << width > len(entries):
        return None
    starts = np.zeros((1 << width) + 1, np.int32)
    for first in range(0, len(entries), _BLOCK):
        np.add.at(starts, (entries[first : first + _BLOCK] >> _KEY) + np.uint64(1), 1)
    return np.cumsum(starts, dtype=np.int32)


def _compare(
    looks: NDArray[np.uint64],
    entries: NDArray[np.uint64],
    starts: NDArray[np.int32] | None,
    block: NDArray[np.uint64],
    flipped: int,
    most: int,
    near: NDArray[np.bool_],
) -> None:
    """Hold each image of ``block`` against the earlier ones whose band is its own with those bits flipped."""
    block = block[~near[block & _ROW]]
    rows = block & _ROW
    wanted = (block >> _KEY) ^ np.uint64(flipped)
    low, high = _found(entries, starts, wanted)
    while True:
        # The first of a band first: where many look alike, it settles nearly all of them at once.
        left = np.flatnonzero(low < high)
        rows, low, high = rows[left], low[left], high[left]
        other = entries[low] & _ROW
        left = np.flatnonzero(other < rows)
        if not len(left):
            return
        rows, low, high, other = rows[left], low[left], high[left], other[left]
        found = np.bitwise_count(looks[rows, 0] ^ looks[other, 0]) <= most
        close = np.flatnonzero(found)
        apart = np.bitwise_count(looks[rows[close]] ^ looks[other[close]]).sum(axis=1, dtype=np.int64)
        found[close] = apart <= most
        near[rows[found]] = True
        rows, low, high = rows[~found], low[~found] + 1, high[~found]


def _found(
    entries: NDArray[np.uint64], starts: NDArray[np.int32] | None, bands: NDArray[np.uint64]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Where the entries of each of ``bands`` begin and end."""
    if starts is None:
        return np.searchsorted(entries, bands << _KEY), np.searchsorted(entries, (bands + np.uint64(1)) << _KEY)
    return starts[bands].astype(np.intp), starts[bands + np.uint64(1)].astype(np.intp)
