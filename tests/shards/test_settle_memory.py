"""The promise of at most 64 bytes a candidate, counted."""

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from shard_outputs import GROUPS

from ffr_dist.shards import layout
from ffr_dist.shards.commit import Commit, GroupTally, ObjectRef
from ffr_dist.shards.selection import Revision
from ffr_dist.shards.settle import settle

PER_INTERVAL = 2_000
SCORES = pa.array([[("std", 3.0)]] * PER_INTERVAL, pa.map_(pa.string(), pa.float32()))


def commit(interval, names):
    tar, side = layout.tar_key(interval, "0" * 64), layout.sidecar_key(interval, "0" * 64)
    share = PER_INTERVAL // len(names)
    return Commit(
        interval=interval,
        attempt="a",
        tar=ObjectRef(tar, "0" * 64, 1),
        sidecar=ObjectRef(side, "0" * 64, 1),
        groups={name: GroupTally(share, share, {}) for name in names},
        environment={},
        seconds=1.0,
    )


def rows(committed):
    names = list(committed.groups)
    random = np.random.default_rng(committed.interval)
    pixels, looks = (pa.py_buffer(random.bytes(size * PER_INTERVAL)) for size in (16, 32))
    return pa.table(
        {
            "slot": np.arange(PER_INTERVAL, dtype=np.int32),
            "group": names * (PER_INTERVAL // len(names)),
            "k": np.arange(PER_INTERVAL) + committed.interval * PER_INTERVAL,
            "accepted": pa.repeat(True, PER_INTERVAL),
            "scores": SCORES,
            "pixels_blake2b": pa.Array.from_buffers(pa.binary(16), PER_INTERVAL, [None, pixels]),
            "look": pa.Array.from_buffers(pa.binary(32), PER_INTERVAL, [None, looks]),
        }
    )


def peak_of(intervals, names, asked):
    decided = {interval: commit(interval, names) for interval in range(intervals)}
    quota = dict.fromkeys(names, intervals * PER_INTERVAL // len(names) - 7)
    tracemalloc.start()
    settled = settle(decided.values, rows, Revision(0, "exact", quota, **asked), GROUPS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert settled.shortfall == {}
    return peak


@pytest.mark.parametrize("asked", [{}, {"near": 8, "tightened": {"blank_std": 2.5}}])
@pytest.mark.parametrize("names", [GROUPS.names[:2], GROUPS.names[:1]])
def test_settle_holds_at_most_64_bytes_a_candidate(asked, names):
    """Also where all are of one group, whose looks are then held at once."""
    few, many = peak_of(60, names, asked), peak_of(180, names, asked)
    assert (many - few) / (120 * PER_INTERVAL) <= 64
