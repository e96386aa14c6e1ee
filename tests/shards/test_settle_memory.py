"""The promise of at most 64 bytes a candidate, counted."""

import tracemalloc

import numpy as np
import pyarrow as pa
from shard_outputs import GROUPS

from ffr_dist.shards import layout
from ffr_dist.shards.commit import Commit, GroupTally, ObjectRef
from ffr_dist.shards.selection import Revision
from ffr_dist.shards.settle import settle

NAMES = GROUPS.names[:2]
PER_INTERVAL = 20_000


def commit(interval):
    tar, side = layout.tar_key(interval, "0" * 64), layout.sidecar_key(interval, "0" * 64)
    return Commit(
        interval=interval,
        attempt="a",
        tar=ObjectRef(tar, "0" * 64, 1),
        sidecar=ObjectRef(side, "0" * 64, 1),
        groups={name: GroupTally(PER_INTERVAL // 2, PER_INTERVAL // 2, {}) for name in NAMES},
        environment={},
        seconds=1.0,
    )


def rows(committed):
    random = np.random.default_rng(committed.interval)
    k = np.repeat(np.arange(PER_INTERVAL // 2, dtype=np.int64), 2) + committed.interval * PER_INTERVAL // 2
    pixels = pa.py_buffer(random.bytes(16 * PER_INTERVAL))
    return pa.table(
        {
            "slot": np.arange(PER_INTERVAL, dtype=np.int32),
            "group": list(NAMES) * (PER_INTERVAL // 2),
            "k": k,
            "accepted": pa.repeat(True, PER_INTERVAL),
            "pixels_blake2b": pa.Array.from_buffers(pa.binary(16), PER_INTERVAL, [None, pixels]),
        }
    )


def peak_of(intervals):
    decided = {interval: commit(interval) for interval in range(intervals)}
    quota = dict.fromkeys(NAMES, intervals * PER_INTERVAL // 2 - 7)
    tracemalloc.start()
    settled = settle(decided.values, rows, Revision(0, "exact", quota), GROUPS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert settled.shortfall == {}
    return peak


def test_settle_holds_at_most_64_bytes_a_candidate():
    few, many = peak_of(4), peak_of(24)
    assert (many - few) / (20 * PER_INTERVAL) <= 64
