"""In which order samples are seen: pure functions of a seed and a few numbers, the same work at any position.

Samples are entries of streams. A stream is run through in passes, and a pass sees each of its entries once: blocks of
consecutive entries in random order, so that they can be read together, and then the samples of some blocks shuffled with
each other, within a window. Only a window is ever held, never an order of all.

The random numbers are those of SplitMix64, by number: integer arithmetic, which no version of numpy changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import floor, isqrt

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
_Words = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Shuffle:
    """How far from storage order an order strays: a trade of randomness against the size of reads."""

    block: int
    """Consecutive samples that stay near each other, so that they can be read together. A stream of fewer than ``window``
    such blocks is cut into as many smaller ones."""
    window: int
    """Blocks whose samples are shuffled with each other."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Samples that are drawn in passes, ``weight`` of all that is drawn (in any unit)."""

    count: int
    weight: Fraction = Fraction(1)


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """A stretch of an order, in the order in which it is seen."""

    streams: Rows
    entries: Rows
    """Places in their streams."""
    places: Rows
    """Where each stands in the order of reading, which goes through one block after the other."""


class Order:
    """An endless order of the entries of some streams.

    With one stream it goes in epochs, each of which holds every entry once. With several, each window of positions holds
    their shares of it to within one, and the largest takes what the others leave; a stream that is used up begins again.

    Streams of equal length run through their blocks in step: what was stored in turn is read together.
    """

    def __init__(self, streams: Sequence[Stream], shuffle: Shuffle, seed: int) -> None:
        total = sum((stream.weight for stream in streams), Fraction())
        self._counts = [stream.count for stream in streams]
        self._shares = [stream.weight / total for stream in streams]
        self._largest = self._shares.index(max(self._shares))
        self._shuffle = shuffle
        self._seeds = [_word(_words([seed]), _words([place])) for place in range(3)]
        # So many that what the others leave to the largest is never less than nothing.
        self._span = max(shuffle.block * shuffle.window, len(streams) ** 2)
        self._window = lru_cache(maxsize=2)(self._drawn)

    @property
    def epoch(self) -> int | None:
        """Samples of an epoch; None where there is none, as streams end at different positions."""
        return self._counts[0] if len(self._counts) == 1 else None

    def draws(self, low: int, high: int) -> Draws:
        """What is seen at positions ``low`` … ``high - 1``."""
        parts: list[Draws] = []
        while low < high:
            start, stop = self._borders(low)
            read, turn = self._window(start, stop)
            here = turn[low - start : high - start]
            parts.append(Draws(read.streams[here], read.entries[here], read.places[here]))
            low = stop
        return _joined(parts)

    def _borders(self, position: int) -> tuple[int, int]:
        """The window of a position. None reaches over the end of an epoch."""
        if self.epoch is None:
            start = position - position % self._span
            return start, start + self._span
        first = position - position % self.epoch
        start = first + (position - first) // self._span * self._span
        return start, min(start + self._span, first + self.epoch)

    def _drawn(self, start: int, stop: int) -> tuple[Draws, Rows]:
        """A window in the order of reading, and which of it is seen first, second, …"""
        parts = [
            self._turns(number, first, last)
            for number, (first, last) in enumerate(zip(self._taken(start), self._taken(stop), strict=True))
        ]
        streams, entries, when = (np.concatenate(column) for column in zip(*parts, strict=True))
        # The streams side by side: any stretch of the order of reading holds about their shares.
        merged = np.argsort(when, kind="stable")
        read = Draws(streams[merged], entries[merged], np.arange(start, stop))
        seed, number = _word(self._seeds[0], _words([start])), np.arange(stop - start, dtype=np.uint64)
        return read, np.argsort(_word(seed, number), kind="stable")

    def _taken(self, position: int) -> list[int]:
        """How many of each stream are drawn before a position where a window begins."""
        # The different starts spread the rounding: equal shares stay within one of each other.
        taken = [
            floor(position * share + Fraction(number, len(self._shares))) for number, share in enumerate(self._shares)
        ]
        taken[self._largest] += position - sum(taken)
        return taken

    def _turns(self, stream: int, first: int, last: int) -> tuple[Rows, Rows, NDArray[np.float64]]:
        """Some turns of a stream: its number, its entries, and when in the window they are read (0 … 1)."""
        when = (np.arange(last - first) + 0.5) / max(1, last - first)
        return np.full(last - first, stream), self._entries(self._counts[stream], first, last), when

    def _entries(self, count: int, first: int, last: int) -> Rows:
        if first == last:
            return np.zeros(0, np.int64)
        block = min(self._shuffle.block, max(1, count // self._shuffle.window))
        passes, places = np.divmod(np.arange(first, last, dtype=np.uint64), count)
        slots = passes * np.uint64(-(-count // block)) + places // block
        starts = self._starts(count, block, np.arange(slots[0], slots[-1] + np.uint64(1), dtype=np.uint64))
        entries: Rows = ((starts[slots - slots[0]] + places % block) % count).astype(np.int64)
        return entries

    def _starts(self, count: int, block: int, slots: _Words) -> _Words:
        """The first entries of the blocks of some slots; each pass has a slot for each block, the short one last."""
        passes, blocks = np.divmod(slots, -(-count // block))
        whole = blocks < count // block
        blocks[whole] = _permuted(blocks[whole], count // block, _word(self._seeds[1], passes[whole]))
        # The entries lie on a circle that each pass enters elsewhere, so that the short block is not always the same.
        starts: _Words = blocks * np.uint64(block) + _word(self._seeds[2], passes) % count
        return starts


def permutation(count: int, seed: int) -> Rows:
    """0 … ``count - 1``, in random order."""
    return _permuted(np.arange(count, dtype=np.uint64), count, np.full(count, seed, np.uint64)).astype(np.int64)


def thinned(entries: Rows, count: int, wanted: int, seed: int) -> Rows:
    """Some of the ``wanted`` entries that stand for a stream of ``count``: one of each of as many equal stretches.

    Each entry of the stream is equally likely to be among them, and none is twice; they rise, but for one turn.
    """
    low, high = entries * count // wanted, (entries + 1) * count // wanted
    key = _words([seed])
    inside = _word(key, entries.astype(np.uint64)) % (high - low).astype(np.uint64)
    turned = int(_word(key, _words([wanted]))[0] % count)
    return (low + inside.astype(np.int64) + turned) % count


def _permuted(values: _Words, count: int, keys: _Words) -> _Words:
    """Where a random permutation of 0 … ``count - 1``, one for each key, puts each value.

    A Feistel network on a grid with little more than ``count`` places; what ends beyond them goes on until it does not.
    """
    width = isqrt(max(0, count - 1)) + 1
    height = -(-count // width)
    left, right = np.divmod(values, height)
    for turn in range(0, 2 * _ROUNDS, 2):
        left = (left + _word(_word(keys, _words([turn])), right) % width) % width
        right = (right + _word(_word(keys, _words([turn + 1])), left) % height) % height
    found: _Words = left * np.uint64(height) + right
    beyond = found >= count
    if beyond.any():
        found[beyond] = _permuted(found[beyond], count, keys[beyond])
    return found


_ROUNDS = 8


def _word(seeds: _Words, numbers: _Words) -> _Words:
    """The random 64 bits of some numbers: the outputs of SplitMix64 from some seeds."""
    word = seeds + _STEP * (numbers + np.uint64(1))
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: _Words = word ^ (word >> np.uint64(31))
    return mixed


_STEP = np.uint64(0x9E3779B97F4A7C15)


def _words(numbers: Sequence[int]) -> _Words:
    return np.array(numbers, np.uint64)


def _joined(parts: Sequence[Draws]) -> Draws:
    if len(parts) == 1:
        return parts[0]
    columns = [[part.streams for part in parts], [part.entries for part in parts], [part.places for part in parts]]
    return Draws(*(np.concatenate([np.zeros(0, np.int64), *column]) for column in columns))
