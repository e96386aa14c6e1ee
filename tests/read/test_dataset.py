from __future__ import annotations

import pickle

import numpy as np
import pytest
from small_sets import GROUPS, PNG, fresh_store, picture, small_set, write_set

from ffr_dist.errors import BrokenError, DataError, InputError
from ffr_dist.groups import Group, Groups
from ffr_dist.read.dataset import open_dataset
from ffr_dist.shards.codec import decode, encode
from ffr_dist.shards.imported import write_imported
from ffr_dist.shards.manifest import read_manifest
from ffr_dist.store import open_store

COUNTS = {"land_land": 23, "land_sea": 4, "sea_land": 0, "sea_sea": 11}


def test_columns_and_counts():
    data = small_set(COUNTS)
    assert len(data) == 38
    assert data.counts() == COUNTS
    assert data.groups == GROUPS
    assert set(zip(data.labels.tolist(), data.biases.tolist(), strict=True)) == {(0, 0), (0, 1), (1, 1)}
    assert data.keys.to_pylist()[:2] == ["train-00000000", "train-00000001"]
    assert set(data.sources.tolist()) == {0}


@pytest.mark.parametrize("cache_bytes", [0, 2**20])
def test_images_come_in_the_order_asked_for_across_shards(cache_bytes):
    store = fresh_store()
    write_set(store, COUNTS)
    data = open_dataset(store, cache_bytes=cache_bytes)
    numbers = dict.fromkeys(GROUPS.names, 0)
    expected = []
    for place in data.group_ids.tolist():
        group = GROUPS.items[place]
        expected.append(picture(group, numbers[group.name]))
        numbers[group.name] += 1
    rows = np.random.default_rng(0).integers(0, len(data), 60)
    for _ in range(2):
        assert np.array_equal(data.pixels(rows), np.stack([expected[row] for row in rows]))
    assert np.array_equal(decode(data.images(rows)[7]), expected[rows[7]])
    assert data.pixels([]).shape == (0, 8, 8, 3)


def test_pixels_that_were_handed_out_can_be_changed_without_harm():
    data = small_set(COUNTS)
    first = data.pixels([0])
    first[:] = 0
    assert data.pixels([0]).any()


def test_lowest_takes_the_first_of_each_group():
    data = small_set(COUNTS)
    some = data.lowest({"land_land": 5, "sea_sea": 2})
    assert some.counts() == {"land_land": 5, "land_sea": 0, "sea_land": 0, "sea_sea": 2}
    for name, number in (("land_land", 5), ("sea_sea", 2)):
        place = GROUPS.names.index(name)
        all_keys = [key for key, at in zip(data.keys.to_pylist(), data.group_ids, strict=True) if at == place]
        keys = [key for key, at in zip(some.keys.to_pylist(), some.group_ids, strict=True) if at == place]
        assert keys == sorted(all_keys)[:number]
    assert np.array_equal(some.pixels([0]), data.pixels([data.keys.to_pylist().index(some.keys[0].as_py())]))


def test_fingerprints_tell_selections_apart():
    data = small_set(COUNTS)
    assert data.lowest(COUNTS).fingerprint == data.fingerprint
    assert data.lowest({"sea_sea": 3}).fingerprint == data.lowest({"sea_sea": 3}).fingerprint
    fingerprints = {data.fingerprint, *(data.lowest({"sea_sea": number}).fingerprint for number in range(5))}
    assert len(fingerprints) == 6
    assert small_set(COUNTS).fingerprint == data.fingerprint
    assert small_set(COUNTS, split="other").fingerprint != data.fingerprint


def test_a_pool_that_is_too_small_is_refused_by_group_and_number():
    with pytest.raises(DataError, match=r"land_sea \(5 asked, 4 there\)"):
        small_set(COUNTS).lowest({"land_land": 1, "land_sea": 5})
    with pytest.raises(DataError, match="no group lake"):
        small_set(COUNTS).lowest({"lake": 0})


def test_an_unfinished_set_cannot_be_opened(tmp_path):
    with pytest.raises(InputError, match="not finished"):
        open_dataset(str(tmp_path))
    with pytest.raises(InputError, match="no output"):
        open_dataset(str(tmp_path / "nowhere"))


def test_by_path(tmp_path):
    write_set(open_store(str(tmp_path)), COUNTS)
    assert open_dataset(str(tmp_path)).counts() == COUNTS


@pytest.fixture(params=["folder", "memory"])
def damaged(request, tmp_path):
    store = open_store(str(tmp_path)) if request.param == "folder" else fresh_store()
    write_set(store, COUNTS, images_per_shard=100)
    return store, read_manifest(store).shards[0].key


def test_a_missing_shard_is_named(damaged):
    store, key = damaged
    data = open_dataset(store)
    store.delete(key)
    with pytest.raises(BrokenError, match=f"{key} is missing"):
        data.pixels([0])


@pytest.mark.parametrize("cut", [10, 4000])
def test_a_truncated_shard_is_named(damaged, cut):
    store, key = damaged
    data = open_dataset(store)
    store.put(key, store.get(key)[:cut])
    with pytest.raises(BrokenError, match=f"{key} has {cut} bytes instead of"):
        data.pixels(range(len(data)))


def test_damaged_pixels_name_shard_and_image(damaged):
    store, key = damaged
    data = open_dataset(store)
    body = store.get(key)
    store.put(key, body.replace(b"\x89PNG", b"\x00PNG"))
    with pytest.raises(BrokenError, match=rf"{key}: image train-00000003: not a readable image"):
        data.pixels([3])


def test_an_image_of_another_size_is_named():
    store = fresh_store()
    group = GROUPS.items[0]
    bodies = [encode(picture(group, number, side), PNG) for number, side in enumerate((8, 8, 12))]
    write_imported(
        store, "x", GROUPS, [(group, body, "a.png") for body in bodies], codec=PNG, size=8, images_per_shard=9
    )
    with pytest.raises(BrokenError, match="image x-00000002 is 12×12 pixels in a set of 8×8"):
        open_dataset(store).pixels([2])


def test_kept_files_of_several_sizes_do_not_make_a_batch():
    store = fresh_store()
    group = GROUPS.items[0]
    bodies = [encode(picture(group, number, side), PNG) for number, side in enumerate((8, 8, 12))]
    samples = [(group, body, "a.png") for body in bodies]
    write_imported(store, "x", GROUPS, samples, codec=None, size=None, images_per_shard=9)
    data = open_dataset(store)
    assert data.side is None
    assert data.pixels([0, 1]).shape == (2, 8, 8, 3)
    with pytest.raises(DataError, match="several sizes"):
        data.pixels([0, 2])


def test_rows_of_a_group_come_lowest_key_first_and_of_a_whole_set_as_a_view():
    data = small_set(COUNTS)
    keys = data.keys.to_pylist()
    for place, name in enumerate(GROUPS.names):
        rows = data.rows_of(place)
        assert len(rows) == COUNTS[name]
        assert [keys[row] for row in rows] == sorted(keys[row] for row in rows)
        assert set(data.group_ids[rows].tolist()) <= {place}
    assert np.shares_memory(data.rows_of(0), data.whole.columns.by_group)
    turned = data.take(np.arange(len(data))[::-1])
    assert np.array_equal(turned.rows_of(3), len(data) - 1 - data.rows_of(3))
    twice = data.take([0, 0, 1])
    assert sum(len(twice.rows_of(place)) for place in range(4)) == 3


@pytest.mark.parametrize("cache_bytes", [0, 2**20])
def test_a_pickled_set_is_opened_anew(tmp_path, cache_bytes):
    write_set(open_store(str(tmp_path)), COUNTS)
    data = open_dataset(str(tmp_path), cache_bytes=cache_bytes).lowest({"land_land": 5, "sea_sea": 2})
    again = pickle.loads(pickle.dumps(data))
    assert again.fingerprint == data.fingerprint
    assert again.keys.equals(data.keys)
    assert np.array_equal(again.pixels(range(7)), data.pixels(range(7)))
    assert (again.whole.pixels is None) == (cache_bytes == 0)


def test_unknown_bias():
    groups = Groups.of([Group("cat", 0, -1), Group("dog", 1, -1)])
    assert set(small_set({"cat": 2, "dog": 2}, groups=groups).biases.tolist()) == {-1}
