from __future__ import annotations

from functools import partial

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ffr_dist.read.ranges import OFFSET_BITS, plan_reads

NOTHING = np.zeros(0, np.int64)


def copy(shard, offsets, parts):
    for offset, part in zip(offsets, parts, strict=True):
        part[:] = shard[offset : offset + len(part)]


@given(st.data())
def test_every_needed_image_comes_once_and_whole(data):
    lengths = data.draw(st.lists(st.integers(200, 3000), min_size=1, max_size=4))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    shards = [rng.bytes(length) for length in lengths]
    count = data.draw(st.integers(0, 40))
    number = rng.integers(0, len(shards), count)
    size = rng.integers(0, 60, count)
    offset = (rng.random(count) * (np.array(lengths)[number] - size + 1)).astype(np.int64)
    needed = rng.random(count) < data.draw(st.sampled_from([0.0, 0.3, 1.0]))
    alone = rng.random(len(shards)) < 0.5
    near = rng.integers(0, data.draw(st.sampled_from([1, 50, 1000])), len(shards))
    most = data.draw(st.integers(50, 2000))
    reads = plan_reads(number << OFFSET_BITS | offset, size, needed, near[number], alone[number], most)
    seen = []
    for read in reads:
        shard = shards[read.number]
        ranges = list(zip(read.offsets, read.lengths, strict=True))
        assert all(length <= most + 60 for length in read.lengths)
        assert sum(read.lengths) <= 2 * most + 60
        assert len(ranges) == 1 or not alone[read.number]
        body = bytes(read.run(partial(copy, shard), partial(np.empty, dtype=np.uint8)))
        for image, start, length in zip(read.wanted, read.starts, read.sizes, strict=True):
            assert body[start : start + length] == shard[offset[image] :][: size[image]]
        assert len(body) <= 2 * sum(read.sizes)
        seen += read.wanted.tolist()
        assert needed[read.wanted].any()
    assert len(seen) == len(set(seen))
    assert set(np.flatnonzero(needed)) <= set(seen)


def test_neighbours_are_read_together_and_gaps_are_left_out():
    places = np.array([0, 100, 250, 5000, (1 << OFFSET_BITS) + 40])
    sizes = np.full(5, 100)

    def ranges(near, *, alone):
        reads = plan_reads(places, sizes, np.ones(5, bool), np.full(5, near), np.full(5, alone), 10**6)
        return [list(zip(read.offsets, read.lengths, strict=True)) for read in reads]

    assert ranges(50, alone=True) == [[(0, 350)], [(5000, 100)], [(40, 100)]]
    assert ranges(50, alone=False) == [[(0, 350), (5000, 100)], [(40, 100)]]
    assert ranges(49, alone=False) == [[(0, 200), (250, 100), (5000, 100)], [(40, 100)]]


def test_gaps_do_not_stay_in_memory():
    places, sizes = np.array([0, 100_000]), np.array([10, 10])
    (read,) = plan_reads(places, sizes, np.ones(2, bool), np.full(2, 10**6), np.full(2, True), 10**7)
    assert read.lengths == [100_010]
    shard = bytes(range(10)) + bytes(99_990) + b"0123456789"
    kept = read.run(partial(copy, shard), partial(np.empty, dtype=np.uint8))
    assert bytes(kept) == bytes(range(10)) + b"0123456789"


def test_nothing_is_read_for_nobody():
    assert plan_reads(NOTHING, NOTHING, NOTHING.astype(bool), NOTHING, NOTHING.astype(bool), 1) == []
    one = np.ones(1, np.int64)
    assert plan_reads(one, one, np.zeros(1, bool), one, np.zeros(1, bool), 1) == []
