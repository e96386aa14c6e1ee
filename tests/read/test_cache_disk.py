from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import JPG
from small_sets import GROUPS, fresh_store, picture

from ffr_dist.errors import BrokenError
from ffr_dist.read import cache as room
from ffr_dist.read.cache import admitted
from ffr_dist.read.config import ReadConfig
from ffr_dist.read.dataset import open_dataset
from ffr_dist.read.loader import Loader
from ffr_dist.shards.codec import encode
from ffr_dist.shards.imported import write_imported
from ffr_dist.store import open_store

COUNTS = (60, 4, 9, 60)
ROWS = np.arange(sum(COUNTS))


def write(store):
    numbers = [(number, place) for place, count in enumerate(COUNTS) for number in range(count)]
    samples = (
        (GROUPS.items[place], encode(picture(GROUPS.items[place], number, 16), JPG), "x.jpg")
        for number, place in sorted(numbers)
    )
    write_imported(store, "train", GROUPS, samples, codec=JPG, size=16, images_per_shard=50)


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A store in memory, which the reader takes for a bucket, its images, and the cache folder."""
    monkeypatch.setenv("FFR_CACHE", str(tmp_path))
    store = fresh_store()
    write(store)
    return store, open_dataset(store).pixels(ROWS), tmp_path / "images"


def epoch(store, config, rows=ROWS):
    data = open_dataset(store, cache_bytes=0)
    return np.concatenate(list(Loader([data], config).stream(rows.reshape(-1, 7))))


def lose(store):
    for shard in open_dataset(store).whole.shards:
        store.delete(shard.key)


WHOLE = ReadConfig(workers=2, cache_mb=10)


@given(st.data())
def test_smallest_groups_are_held_as_far_as_the_limit_goes_and_no_further(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    count, groups = data.draw(st.integers(1, 200)), 5
    group = rng.integers(0, data.draw(st.integers(1, groups)), count)
    sizes = rng.integers(1, 9000, count)
    columns = SimpleNamespace(
        group=group,
        shard=np.zeros(count, np.int64),
        offset=np.cumsum(sizes) - sizes,
        size=sizes,
        bounds=np.searchsorted(np.sort(group), np.arange(groups + 1)),
        rows_of=lambda which: np.flatnonzero(group == which),
    )
    limit = data.draw(st.integers(0, 3_000_000))
    held = np.arange(count) < admitted(columns, np.zeros(2, np.int64), limit)[group]
    pages = {
        page
        for row in np.flatnonzero(held)
        for page in range(columns.offset[row] // 4096, (columns.offset[row] + sizes[row] - 1) // 4096 + 1)
    }
    assert len(pages) * 4096 <= limit
    shares = [held[group == which].mean() for which in range(groups) if (group == which).any()]
    assert sum(0 < share < 1 for share in shares) <= 1
    whole_set = int(((columns.offset + sizes - 1) // 4096 - columns.offset // 4096 + 1).sum()) * 4096
    assert held.all() == (whole_set <= limit)


def test_what_was_read_once_is_read_from_the_disk_afterwards_by_any_process(stored):
    store, good, folder = stored
    assert np.array_equal(epoch(store, WHOLE), good)
    data = open_dataset(store, cache_bytes=0)
    keys = [shard.key for shard in data.whole.shards]
    bodies = [store.get(key) for key in keys]
    for key in keys:
        store.delete(key)
    again = Loader([data], WHOLE).stream(ROWS[::-1].reshape(-1, 7))
    assert np.array_equal(np.concatenate(list(again)), good[::-1])
    for key, body in zip(keys, bodies, strict=True):
        store.put(key, body)
    (cache,) = folder.iterdir()
    assert (cache / "images").stat().st_size == sum(map(len, bodies))


def test_small_groups_come_from_the_disk_where_not_all_fit(stored, monkeypatch):
    store, good, _ = stored
    monkeypatch.setattr(room, "_PAGE", 2**14)  # so that the images take 2 MiB and more
    config = ReadConfig(workers=2, cache_mb=1)
    assert np.array_equal(epoch(store, config), good)
    data = open_dataset(store, cache_bytes=0)
    lose(store)
    small = np.flatnonzero(np.isin(data.group_ids, [1, 2]))
    (batch,) = Loader([data], config).stream([small])
    assert np.array_equal(batch, good[small])
    with pytest.raises(BrokenError, match="is missing"):
        list(Loader([data], config).stream([np.flatnonzero(data.group_ids == 3)]))


@pytest.mark.parametrize("damage", ["zeros", "short", "noise", "known"])
def test_a_damaged_cache_is_not_noticed(stored, damage):
    store, good, folder = stored
    epoch(store, WHOLE)
    (cache,) = folder.iterdir()
    size = (cache / "images").stat().st_size
    with (cache / ("known" if damage == "known" else "images")).open("r+b") as file:
        if damage in {"short", "known"}:
            file.truncate(size // 2 if damage == "short" else 3)
        else:
            file.write(bytes(size) if damage == "zeros" else np.random.default_rng(0).bytes(size))
    assert np.array_equal(epoch(store, WHOLE), good)
    assert np.array_equal(epoch(store, WHOLE), good)
    lose(store)
    assert np.array_equal(epoch(store, WHOLE), good)  # and it is whole again


def test_a_full_disk_is_told_once_and_reading_goes_on(stored, monkeypatch):
    store, good, _ = stored
    real, room_for = room.os.pwrite, iter(range(20))

    def pwrite(descriptor, body, place):
        if next(room_for, None) is None:
            raise OSError(28, "No space left on device")
        return real(descriptor, body, place)

    monkeypatch.setattr(room.os, "pwrite", pwrite)
    with pytest.warns(UserWarning, match=r"takes no more images \(No space left on device\).*read.cache_mb") as told:
        assert np.array_equal(epoch(store, WHOLE), good)
    assert len(told) == 1
    with warnings.catch_warnings(record=True):
        assert np.array_equal(epoch(store, WHOLE), good)


def test_a_folder_that_cannot_be_is_told_and_reading_goes_on(stored, tmp_path):
    store, good, _ = stored
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="takes no more images"):
        assert np.array_equal(epoch(store, WHOLE.model_copy(update={"cache": str(tmp_path / "file")})), good)


def test_a_set_in_a_folder_needs_no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FFR_CACHE", str(tmp_path / "cache"))
    store = open_store(str(tmp_path / "set"))
    write(store)
    epoch(store, WHOLE)
    assert not (tmp_path / "cache").exists()
