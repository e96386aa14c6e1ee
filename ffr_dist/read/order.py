"""In which order samples are seen: pure functions of a seed, an epoch and the counts.

The random numbers are the raw stream of a counter-based generator, which no version of numpy changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Shuffle:
    """How far from storage order an epoch strays: a trade of randomness against the size of reads."""

    block: int
    """Consecutive samples that stay near each other, so that they can be read together."""
    window: int
    """Blocks whose samples are shuffled with each other."""


def natural_order(count: int, shuffle: Shuffle, seed: int) -> Rows:
    """Every sample once: blocks in random order, then samples shuffled within windows of blocks."""
    blocks = -(-count // shuffle.block)
    rank = np.empty(blocks, np.int64)
    rank[np.argsort(_raw(seed, "blocks", blocks), kind="stable")] = np.arange(blocks)
    window = (rank // shuffle.window)[np.arange(count) // shuffle.block]
    order: Rows = np.lexsort((_raw(seed, "samples", count), window))
    return order


def balanced_order(group_ids: NDArray[np.int64], seed: int) -> Rows:
    """As many draws as samples, with replacement: each group that has samples equally likely, then each of its samples."""
    order = np.argsort(group_ids, kind="stable")
    _, starts, sizes = np.unique(group_ids[order], return_index=True, return_counts=True)
    count = len(group_ids)
    # The remainder of 64 random bits is uniform to one part in 2**40 for any set that fits on this planet.
    group = (_raw(seed, "groups", count) % np.uint64(len(sizes))).astype(np.int64)
    member = (_raw(seed, "members", count) % sizes[group].astype(np.uint64)).astype(np.int64)
    drawn: Rows = order[starts[group] + member]
    return drawn


def steps_per_epoch(count: int, batch: int) -> int:
    """Batches of an epoch; the last one may be short, and the next epoch begins with a new one."""
    return -(-count // batch)


def batch_slice(count: int, batch: int, step: int, rank: int = 0, world: int = 1) -> range:
    """A rank's places in global batch ``step`` of an epoch. Which samples the batch holds does not depend on ``world``."""
    low, high = step * batch, min((step + 1) * batch, count)
    return range(low + (high - low) * rank // world, low + (high - low) * (rank + 1) // world)


_STREAMS = ("blocks", "samples", "groups", "members")


def _raw(seed: int, stream: str, count: int) -> NDArray[np.uint64]:
    return np.random.Philox(key=np.array([seed, _STREAMS.index(stream)], np.uint64)).random_raw(count)
