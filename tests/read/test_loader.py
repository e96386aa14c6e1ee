from __future__ import annotations

import gc
import itertools
import multiprocessing
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import JPG, jpeg_set, wide_set
from small_sets import GROUPS, fresh_store, picture, small_set

from ffr_dist.errors import BrokenError, DataError, InputError, StoppedError
from ffr_dist.read import buffers, columns, decoding, loader
from ffr_dist.read.buffers import Buffers
from ffr_dist.read.config import ReadConfig, worker_count
from ffr_dist.read.dataset import Dataset, open_dataset
from ffr_dist.read.loader import Loader
from ffr_dist.shards.codec import CodecConfig, encode
from ffr_dist.shards.imported import write_imported
from ffr_dist.store import Store, open_store

TWO = ReadConfig(workers=2)
PROCESSES = ReadConfig(decode="processes", workers=2)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = open_store(str(tmp_path_factory.mktemp("set")))
    jpeg_set(store, 60)
    return store


@pytest.fixture(scope="module")
def data(store):
    return open_dataset(store, cache_bytes=0)


def of_ours():
    return [thread for thread in threading.enumerate() if thread.name.startswith("ffr-")]


def blocks():
    return {path.name for path in Path("/dev/shm").glob("psm_*")}


@settings(max_examples=25)
@given(st.data())
def test_batches_are_what_the_sets_hold_in_the_order_asked_for(store, data):
    sets = [
        open_dataset(store, cache_bytes=data.draw(st.sampled_from([0, 2**20]))),
        small_set({"land_sea": 9, "sea_land": 8}, side=16, seed=1, split="more"),
        open_dataset(store, cache_bytes=0).take([7, 3, 50]),
    ]
    every = np.concatenate([one.pixels(range(len(one))) for one in sets])
    if data.draw(st.booleans()):
        sets[0] = open_dataset(store)  # with nothing known
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    most = data.draw(st.sampled_from([1, 30]))
    steps = [rng.integers(0, len(every), rng.integers(0, most + 1)) for _ in range(data.draw(st.integers(0, 30)))]
    config = ReadConfig(workers=data.draw(st.integers(1, 3)), read_ahead_mb=data.draw(st.integers(1, 4)))
    for rows, batch in zip(steps, Loader(sets, config).stream(iter(steps)), strict=True):
        assert np.array_equal(batch, every[rows])
        assert batch.shape == (len(rows), 16, 16, 3)
    assert not of_ours()


@pytest.mark.parametrize("config", [TWO, PROCESSES], ids=["threads", "processes"])
def test_an_endless_stream_is_closed_at_any_moment_and_leaves_nothing(store, config):
    before = blocks()
    data = open_dataset(store, cache_bytes=0)
    every = data.pixels(range(60))
    steps = (np.arange(start, start + 20) % 60 for start in itertools.count(0, 7))
    stream = Loader([data], config).stream(steps)
    held = [next(stream) for _ in range(5)]
    some = held[2][4:9]
    assert of_ours()
    stream.close()
    assert not of_ours()
    # What its consumer still looks at stays as it is.
    for number, batch in enumerate(held):
        assert np.array_equal(batch, every[(np.arange(20) + 7 * number) % 60])
    del held, batch
    gc.collect()
    assert np.array_equal(some, every[(np.arange(20) + 14) % 60][4:9])
    del some
    gc.collect()
    assert blocks() <= before


@pytest.mark.parametrize("config", [TWO, PROCESSES], ids=["threads", "processes"])
def test_a_batch_stays_as_it_is_while_anybody_holds_a_view_of_it(data, config):
    every = data.pixels(range(60))
    steps = [np.random.default_rng(step).integers(0, 60, 16) for step in range(40)]
    views = []
    for rows, batch in zip(steps, Loader([data], config).stream(steps), strict=True):
        views.append((rows[3:6], batch[3:6]))
    assert all(np.array_equal(view, every[rows]) for rows, view in views)


def test_memory_that_nobody_holds_is_used_again(data):
    stream = Loader([data], TWO).stream(np.arange(16) for _ in range(40))
    addresses = {batch.ctypes.data for batch in stream}
    assert len(addresses) <= loader._DECODED_STEPS.stop


def test_a_decoding_process_that_dies_ends_the_stream_and_is_told(data, monkeypatch):
    before, made = blocks(), []

    def started(count):
        made.append(decoding.InProcesses(count))
        return made[0]

    monkeypatch.setattr(loader, "InProcesses", started)
    stream = Loader([data], PROCESSES).stream(np.arange(30) for _ in range(2000))
    next(stream)
    processes = [process for process, _ in made[0]._workers]
    assert len(processes) == 2
    processes[0].kill()
    with pytest.raises(StoppedError, match=r"decoding process ended \(exit code -9\).*same command"):
        for _ in stream:
            pass
    assert not of_ours()
    gc.collect()
    assert blocks() <= before
    assert [process.returncode for process in processes] == [-9, 0]


def test_a_decoding_process_keeps_few_blocks_mapped_and_loses_none_that_it_needs(monkeypatch):
    monkeypatch.setattr(decoding, "_MOST_MAPPED", 2)
    mine, theirs = multiprocessing.Pipe()
    thread = threading.Thread(target=decoding.answer_all, args=(theirs,))
    thread.start()
    pool = Buffers(shared=True)
    for number in range(8):
        images = [picture(GROUPS.items[0], number + place, 16) for place in range(5)]
        files = []
        for body in (encode(image, CodecConfig(format="png")) for image in images):
            files.append(pool.take(len(body)))
            files[-1][:] = np.frombuffer(body, np.uint8)
        pixels = pool.take(5, 16, 16, 3)
        places = {place: (*buffers.shared_place(file), len(file)) for place, file in enumerate(files)}
        ends = [len(file) for file in files]
        mine.send((places, range(5), [0] * 5, ends, *buffers.shared_place(pixels), pixels.shape, range(5)))
        assert mine.recv() == []
        assert np.array_equal(pixels, images)
    mine.close()
    thread.join()
    theirs.close()
    pool.close()


def test_shared_memory_that_is_full_is_told_with_the_ways_out(data, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    before = blocks()
    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(InputError, match=r"No space left.*shm-size.*threads"):
        next(Loader([data], PROCESSES).stream([np.arange(30)]))
    assert blocks() <= before


def test_blocks_of_other_sizes_are_let_go():
    pool = Buffers()
    first = pool.take(10, 2**20)
    address = first.ctypes.data
    view = first[3]
    del first
    second = pool.take(10, 2**20)
    assert second.ctypes.data != address
    del view
    third = pool.take(10, 2**20 - 3)
    assert third.ctypes.data == address
    del second, third
    assert len(pool._free) == 2
    small = pool.take(100)
    assert small.shape == (100,)
    assert not pool._free


class Counting:
    """A backend that counts what is read of shards."""

    def __init__(self, backend):
        self.backend, self.calls, self.bytes = backend, 0, 0

    def __getattr__(self, name):
        return getattr(self.backend, name)

    def read_into(self, key, starts, parts):
        self.calls += 1
        self.bytes += sum(map(len, parts))
        self.backend.read_into(key, starts, parts)


def counted(store):
    counting = Counting(store._backend)
    return counting, open_dataset(Store(store.url, counting, counting, store._prefix), cache_bytes=0)


@pytest.mark.parametrize("bucket", [False, True])
def test_windows_are_read_in_few_calls_and_hardly_twice_though_steps_are_scattered(bucket, tmp_path):
    store = fresh_store() if bucket else open_store(str(tmp_path))
    jpeg_set(store, 2000, per_shard=500)
    counting, data = counted(store)
    rng = np.random.default_rng(0)
    order = np.concatenate([start + rng.permutation(400) for start in range(0, 2000, 400)])
    assert sum(map(len, Loader([data], TWO).stream(order.reshape(-1, 20)))) == 2000
    stored = sum(shard.bytes for shard in data.whole.shards)
    assert counting.calls < 60
    assert counting.bytes < 1.5 * stored


def test_the_first_batch_waits_for_its_own_images_only(tmp_path):
    store = fresh_store()
    jpeg_set(store, 2000, per_shard=500)
    counting, data = counted(store)
    steps = np.arange(2000).reshape(-1, 20)
    stream = Loader([data], TWO).stream(steps)
    next(stream)
    stream.close()
    assert counting.bytes < 0.05 * sum(shard.bytes for shard in data.whole.shards)


def test_memory_is_bounded_by_what_is_asked_for_and_not_by_the_set(tmp_path):
    def peak(images):
        store = fresh_store()
        wide_set(store, images, side=64)
        data = open_dataset(store, cache_bytes=0)
        rng = np.random.default_rng(0)
        stream = Loader([data], ReadConfig(workers=2, read_ahead_mb=2)).stream(
            rng.integers(0, images, 256) for _ in range(60)
        )
        tracemalloc.start()
        for _ in stream:
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    batches, files = 10 * 256 * 64 * 64 * 3, 4 * 2 * 2**20
    small, large = peak(2_000), peak(columns.SMALL_ROWS - 6)
    assert large < 1.3 * small + 2**20
    assert large < batches + files


def test_an_error_comes_with_the_step_that_it_is_of_and_the_threads_end(tmp_path):
    store = open_store(str(tmp_path))
    jpeg_set(store, 60)
    data = open_dataset(store, cache_bytes=0)
    key = data.whole.shards[4].key
    store.delete(key)
    stream = Loader([data], TWO).stream(np.arange(start, start + 10) for start in range(0, 60, 10))
    assert [len(next(stream)) for _ in range(4)] == [10] * 4
    with pytest.raises(BrokenError, match=f"{key} is missing; restore it"):
        next(stream)
    assert not of_ours()


def test_kept_files_of_one_size_make_batches_and_those_of_several_do_not():
    def kept(sides):
        store = fresh_store()
        group = GROUPS.items[0]
        bodies = [encode(picture(group, number, side), JPG) for number, side in enumerate(sides)]
        samples = [(group, body, "a.jpg") for body in bodies]
        write_imported(store, "x", GROUPS, samples, codec=None, size=None, images_per_shard=9)
        return open_dataset(store)

    (batch,) = Loader([kept([16, 16, 16])], TWO).stream([np.array([2, 0])])
    assert batch.shape == (2, 16, 16, 3)
    with pytest.raises(DataError, match=r"several sizes \(24×24 is x-00000002, others are 16×16\)"):
        list(Loader([kept([16, 16, 24])], TWO).stream([np.arange(3)]))
    with pytest.raises(DataError, match="sizes 16×16, 24×24"):
        list(Loader([kept([16]), kept([24])], TWO).stream([np.arange(2)]))


def break_image(data: Dataset, row: int) -> None:
    """Overwrite an image's file within its shard."""
    whole = data.whole
    key = whole.shards[whole.columns.shard[row]].key
    body = bytearray(whole.store.get(key))
    start = int(whole.columns.offset[row])
    body[start : start + 200] = bytes(200)
    whole.store.put(key, bytes(body))


@pytest.fixture
def broken():
    """Images 5 and 9, of one group, are broken."""
    store = fresh_store()
    jpeg_set(store, 60)
    good = open_dataset(store).pixels(range(60))
    for row in (5, 9):
        break_image(open_dataset(store), row)
    return open_dataset(store, cache_bytes=0), good


def test_broken_images_are_an_error_unless_they_are_allowed(broken):
    data, _ = broken
    with pytest.raises(BrokenError, match="image train-00000005: not a readable image"):
        list(Loader([data], TWO).stream([np.arange(10)]))


@pytest.mark.parametrize("config", [TWO, PROCESSES], ids=["threads", "processes"])
def test_as_many_broken_images_as_are_allowed_are_counted_and_replaced(broken, config):
    data, good = broken
    loading = Loader([data], config.model_copy(update={"skip_broken": 2}))
    steps = [np.arange(12), np.array([9, 5, 9])]
    with pytest.warns(UserWarning, match="train-0000000[59]: not a readable image.*of 2 allowed"):
        first, second = loading.stream(steps)
    stand_in = good[13]  # of the same group, behind 9, which is broken too
    assert np.array_equal(first[[5, 9]], [stand_in, stand_in])
    others = [row for row in range(12) if row not in (5, 9)]
    assert np.array_equal(first[others], good[others])
    assert np.array_equal(second, [stand_in] * 3)
    assert len(loading.skipped) == 2
    assert "train-00000005" in " ".join(loading.skipped)


def test_a_replacement_is_of_the_selection_and_goes_round(broken):
    data, good = broken
    some = data.take([1, 9, 2])  # 1 and 9 are of one group
    with pytest.warns(UserWarning, match="1 of 1 allowed"):
        (batch,) = Loader([some], ReadConfig(skip_broken=1)).stream([np.array([1, 2])])
    assert np.array_equal(batch, good[[1, 2]])


def test_more_broken_images_than_allowed_are_an_error(broken):
    data, _ = broken
    with (
        pytest.warns(UserWarning, match="1 of 1 allowed"),
        pytest.raises(BrokenError, match=r"not a readable image.*one more broken image than read.skip_broken \(1\)"),
    ):
        list(Loader([data], ReadConfig(skip_broken=1)).stream([np.array([5]), np.array([9])]))
    with (
        pytest.warns(UserWarning, match="allowed"),
        pytest.raises(BrokenError, match="No other image of its group"),
    ):
        list(Loader([data.take([5, 9])], ReadConfig(skip_broken=9)).stream([np.array([0])]))


def test_ranks_share_the_cores_of_their_host(monkeypatch):
    monkeypatch.setattr("ffr_dist.read.config.cores", lambda: 8)
    assert worker_count(ReadConfig()) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert worker_count(ReadConfig()) == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "30")
    assert worker_count(ReadConfig()) == 1
    assert worker_count(ReadConfig(workers=5)) == 5
