from __future__ import annotations

import itertools
import tracemalloc
from collections import Counter
from fractions import Fraction
from math import ceil, factorial, floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffr_dist.read import order as module
from ffr_dist.read.order import Draws, Order, Shuffle, Stream, permutation, thinned

SEEDS = st.integers(0, 2**63 - 1)
SHUFFLES = st.builds(Shuffle, block=st.integers(1, 50), window=st.integers(1, 9))
COUNTS = st.integers(1, 500)
STREAMS = st.lists(st.builds(Stream, COUNTS, st.fractions(Fraction(1, 50), 20)), min_size=2, max_size=6)


def span(streams: list[Stream], shuffle: Shuffle) -> int:
    return max(shuffle.block * shuffle.window, len(streams) ** 2)


def as_read(draws: Draws) -> Draws:
    turn = np.argsort(draws.places)
    return Draws(draws.streams[turn], draws.entries[turn], draws.places[turn])


@given(st.integers(1, 200), SHUFFLES, SEEDS, st.integers(0, 10**9))
def test_every_epoch_is_every_sample_once(count, shuffle, seed, epoch):
    draws = Order([Stream(count)], shuffle, seed).draws(epoch * count, (epoch + 1) * count)
    assert np.array_equal(np.sort(draws.entries), np.arange(count))
    assert np.array_equal(np.sort(draws.places), np.arange(epoch * count, (epoch + 1) * count))


@settings(max_examples=30)
@given(COUNTS, SHUFFLES, SEEDS)
def test_a_window_is_a_few_stretches_of_the_stream(count, shuffle, seed):
    order = Order([Stream(count)], shuffle, seed)
    for low in range(0, count, span([Stream(count)], shuffle)):
        entries = as_read(order.draws(low, min(low + shuffle.block * shuffle.window, count))).entries
        stretches = 1 + np.count_nonzero((np.diff(entries) - 1) % count)
        small = max(1, count // shuffle.window)
        assert stretches <= ceil(len(entries) / min(shuffle.block, small)) + 2


@settings(max_examples=30)
@given(STREAMS | st.builds(lambda count: [Stream(count)], COUNTS), SHUFFLES, SEEDS, st.data())
def test_any_stretch_is_the_same_as_on_the_way(streams, shuffle, seed, data):
    order = Order(streams, shuffle, seed)
    end = min(900, 12 * span(streams, shuffle))
    whole = order.draws(0, end)
    low = data.draw(st.integers(0, end))
    high = data.draw(st.integers(low, end))
    part = Order(streams, shuffle, seed).draws(low, high)
    assert np.array_equal(part.streams, whole.streams[low:high])
    assert np.array_equal(part.entries, whole.entries[low:high])
    assert np.array_equal(part.places, whole.places[low:high])


@given(STREAMS, SHUFFLES, SEEDS, st.integers(0, 10**6))
def test_every_window_holds_the_shares(streams, shuffle, seed, window):
    size = span(streams, shuffle)
    draws = Order(streams, shuffle, seed).draws(window * size, (window + 1) * size)
    total = sum(stream.weight for stream in streams)
    expected = [size * stream.weight / total for stream in streams]
    counts = np.bincount(draws.streams, minlength=len(streams)).tolist()
    largest = expected.index(max(expected))
    for number, (count, wanted) in enumerate(zip(counts, expected, strict=True)):
        if number != largest:
            assert floor(wanted) <= count <= ceil(wanted)
    assert abs(counts[largest] - expected[largest]) < len(streams)


@given(st.lists(COUNTS, min_size=2, max_size=9), SHUFFLES, SEEDS)
def test_equal_shares_differ_by_one_at_most(counts, shuffle, seed):
    streams = [Stream(count) for count in counts]
    size = span(streams, shuffle)
    order = Order(streams, shuffle, seed)
    for window in range(3):
        drawn = np.bincount(order.draws(window * size, (window + 1) * size).streams, minlength=len(counts))
        assert drawn.max() - drawn.min() <= 1


@settings(max_examples=30)
@given(STREAMS, SHUFFLES, SEEDS)
def test_a_stream_is_used_up_before_it_begins_again(streams, shuffle, seed):
    size = span(streams, shuffle)
    draws = as_read(Order(streams, shuffle, seed).draws(0, min(12, ceil(1500 / size)) * size))
    for number, stream in enumerate(streams):
        entries = draws.entries[draws.streams == number]
        for low in range(0, len(entries), stream.count):
            here = entries[low : low + stream.count]
            assert len(np.unique(here)) == len(here)


def test_streams_of_equal_length_are_read_side_by_side():
    order = Order([Stream(900), Stream(900), Stream(900)], Shuffle(block=10, window=6), seed=5)
    draws = as_read(order.draws(0, 60))
    entries = [draws.entries[draws.streams == number].tolist() for number in range(3)]
    assert entries[0] == entries[1] == entries[2]
    # Any stretch of the order of reading, as a process's part of a batch is one, holds the shares.
    assert draws.streams.reshape(-1, 3).tolist() == [[0, 1, 2]] * 20


def test_the_order_is_fixed_for_all_time():
    # A resumed run must find the order of its start, whatever was updated in between.
    natural = Order([Stream(10)], Shuffle(block=2, window=3), seed=7).draws(0, 20)
    assert natural.entries.tolist() == NATURAL
    assert natural.places.tolist() == PLACES
    mixed = Order([Stream(4), Stream(2, Fraction(2))], Shuffle(block=2, window=3), seed=7).draws(0, 12)
    assert list(zip(mixed.streams.tolist(), mixed.entries.tolist(), strict=True)) == MIXED
    assert permutation(8, 7).tolist() == PERMUTATION
    assert thinned(np.arange(4), 9, 4, 7).tolist() == THINNED


NATURAL = [1, 9, 4, 8, 5, 0, 7, 6, 2, 3, 1, 7, 0, 8, 6, 9, 2, 4, 5, 3]
PLACES = [3, 1, 4, 0, 5, 2, 7, 6, 8, 9, 13, 11, 12, 14, 10, 15, 16, 18, 19, 17]
MIXED = [(1, 1), (0, 2), (0, 0), (1, 1), (1, 0), (1, 0), (0, 3), (1, 1), (0, 1), (1, 0), (1, 1), (1, 0)]
PERMUTATION = [6, 3, 0, 2, 7, 4, 5, 1]
THINNED = [8, 0, 2, 4]


def test_epochs_and_seeds_differ():
    one, other = (Order([Stream(100)], Shuffle(block=4, window=4), seed) for seed in (1, 2))
    first, second = one.draws(0, 100).entries, one.draws(100, 200).entries
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other.draws(0, 100).entries)


def test_storage_order_leaves_no_trace():
    # A set of 60,000 samples stored class by class, in many windows.
    count, classes = 60_000, 10
    order = Order([Stream(count)], Shuffle(block=50, window=64), seed=3)
    entries = order.draws(0, count).entries
    assert abs(np.corrcoef(np.arange(count), entries)[0, 1]) < 0.03  # 1,200 blocks: one standard deviation
    seen = entries * classes // count
    runs = np.diff(np.flatnonzero(np.diff(seen, prepend=-1, append=-1)))
    # Of a perfect shuffle 1.111 on average.
    assert runs.mean() < 1.17
    assert runs.max() < 12
    batches = seen[: count // 256 * 256].reshape(-1, 256)
    of_batch = np.stack([np.bincount(batch, minlength=classes) for batch in batches])
    assert of_batch.min() > 0


def test_blocks_are_not_the_same_in_each_epoch():
    order = Order([Stream(1000)], Shuffle(block=10, window=5), seed=0)
    starts = set()
    for epoch in range(5):
        read = as_read(order.draws(epoch * 1000, epoch * 1000 + 10)).entries
        starts.add(int(read[0]) % 10)
    assert len(starts) > 2


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6])
def test_all_permutations_are_equally_likely(count):
    tries = 200 * factorial(count)
    keys = np.random.default_rng(0).integers(0, 2**63, tries, np.uint64)
    columns = [module._permuted(np.full(tries, value, np.uint64), count, keys).tolist() for value in range(count)]
    found = Counter(zip(*columns, strict=True))
    squares = sum((found[each] - 200) ** 2 / 200 for each in itertools.permutations(range(count)))
    freedom = factorial(count) - 1
    assert abs(squares - freedom) < 5 * (2 * freedom) ** 0.5


@given(st.integers(1, 3000), SEEDS)
def test_a_permutation_holds_each_number_once(count, seed):
    assert np.array_equal(np.sort(permutation(count, seed)), np.arange(count))


@given(st.integers(1, 400), SEEDS, st.data())
def test_what_is_thinned_holds_none_twice_and_is_spread_evenly(count, seed, data):
    wanted = data.draw(st.integers(1, count))
    chosen = thinned(np.arange(wanted), count, wanted, seed)
    assert chosen.min() >= 0
    assert chosen.max() < count
    assert len(np.unique(chosen)) == wanted
    gaps = np.diff(np.sort(chosen))
    assert wanted == 1 or gaps.max() < 2 * ceil(count / wanted)


def test_what_is_thinned_takes_each_equally_often():
    chosen = np.concatenate([thinned(np.arange(3), 7, 3, seed) for seed in range(3000)])
    times = np.bincount(chosen, minlength=7)
    # 9,000 / 7 = 1,286 each; a standard deviation is at most 33.
    assert abs(times - 9000 / 7).max() < 5 * 33


STREAMS_OF_MILLIONS = {
    "natural": [Stream(5_000_000)],
    "balanced": [Stream(4_000_000), Stream(999_990), Stream(10)],
}


@pytest.mark.parametrize("kind", STREAMS_OF_MILLIONS)
def test_no_array_is_as_long_as_the_set(kind):
    shuffle = Shuffle(block=500, window=64)
    tracemalloc.start()
    order = Order(STREAMS_OF_MILLIONS[kind], shuffle, 0)
    for step in (0, 17_000, 19_000):
        order.draws(step * 256, (step + 1) * 256)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # 32,000 samples a window, two windows kept, some columns of 8 bytes; the set's length would be 40 MB a column.
    assert peak < 8 * 2**20


@pytest.mark.parametrize("streams", [[Stream(10**12)], [Stream(10**12), Stream(10**9, Fraction(1, 7))]])
def test_going_on_at_nine_tenths_is_as_much_work_as_starting(streams, monkeypatch):
    drawn = []
    word = module._word
    monkeypatch.setattr(module, "_word", lambda seeds, numbers: drawn.append(np.size(numbers)) or word(seeds, numbers))
    work = []
    for low in (0, 9 * 10**11):
        drawn.clear()
        Order(streams, Shuffle(block=50, window=64), 0).draws(low, low + 256)
        work.append(sum(drawn))
    assert max(work) < 1.2 * min(work)
    assert max(work) < 20 * 3200
