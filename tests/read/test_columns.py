from __future__ import annotations

import io
import pickle
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import jpeg_set, publish_index, shard_keys, wide_set
from small_sets import GROUPS, fresh_store

from ffr_dist.errors import BrokenError, InputError
from ffr_dist.read import columns as room
from ffr_dist.read.columns import open_columns
from ffr_dist.read.dataset import open_dataset
from ffr_dist.shards.manifest import read_manifest
from ffr_dist.store import open_store


@pytest.fixture
def mapped(monkeypatch, tmp_path):
    """Every set counts as large, and this machine's cache is a folder of the test's."""
    monkeypatch.setattr(room, "SMALL_ROWS", 0)
    monkeypatch.setenv("FFR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "columns"


def opened(store, cache):
    return open_columns(store, read_manifest(store), cache)


def equal(one, other):
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in (*room._DTYPES, "bounds"))


def test_mapped_columns_equal_those_in_memory(tmp_path, monkeypatch):
    store = fresh_store()
    jpeg_set(store, 50)
    small = opened(store, tmp_path)
    monkeypatch.setattr(room, "SMALL_ROWS", 0)
    large = opened(store, tmp_path)
    assert not isinstance(large.index, type(small.index))
    assert equal(small, large)
    assert small.rows_of(1).tolist() == list(range(1, 50, 4))
    rows = np.random.default_rng(0).integers(0, 50, 90)
    assert small.keys(rows).to_pylist() == large.keys(rows).to_pylist() == [f"train-{row:08d}" for row in rows]


def test_keys_are_found_in_any_row_group(mapped):
    store = fresh_store()
    wide_set(store, 120_000)
    rows = np.array([119_999, 3, 50_000, 49_999, 3, 100_001])
    assert open_dataset(store).take(rows).keys.to_pylist() == [f"train-{row:08d}" for row in rows]


@pytest.mark.parametrize("large", [False, True])
def test_groups_are_sorted_by_key_where_the_index_is_not(large, tmp_path, monkeypatch):
    monkeypatch.setenv("FFR_CACHE", str(tmp_path))
    monkeypatch.setattr(room, "SMALL_ROWS", 0 if large else 10**6)
    store = fresh_store()
    numbers = np.random.default_rng(0).permutation(1000)
    wide_set(store, 1000, keys=[f"k/{number}" for number in numbers])
    data = open_dataset(store)
    keys = np.array(data.keys.to_pylist())
    for group in range(4):
        rows = data.rows_of(group)
        assert sorted(rows.tolist()) == list(range(group, 1000, 4))
        assert keys[rows].tolist() == sorted(keys[rows])
    some = data.take(numbers[:500])
    for group in range(4):
        rows = some.rows_of(group)
        assert keys[numbers[rows]].tolist() == sorted(keys[numbers[rows]])
        assert set(some.group_ids[rows]) <= {group}
    assert sorted(np.concatenate([some.rows_of(group) for group in range(4)])) == list(range(500))


def test_columns_are_made_once_however_many_ask(mapped, monkeypatch):
    store = fresh_store()
    wide_set(store, 1000)
    made, start, real = [], threading.Barrier(4), room._make
    monkeypatch.setattr(room, "_make", lambda *given: (made.append(1), real(*given)))

    def ask(_):
        start.wait()
        return open_dataset(store)

    with ThreadPoolExecutor(4) as pool:
        sets = list(pool.map(ask, range(4)))
    assert len(made) == 1
    assert all(equal(data.whole.columns, sets[0].whole.columns) for data in sets)
    assert sorted(path.suffix for path in mapped.iterdir()) == ["", ".lock"]


def test_less_than_forty_bytes_an_image(mapped):
    store = fresh_store()
    wide_set(store, 200_000)
    open_dataset(store)
    (folder,) = (path for path in mapped.iterdir() if path.is_dir())
    columns = sum((folder / name).stat().st_size for name in room._DTYPES)
    of_a_selection = 8
    assert columns / 200_000 + of_a_selection <= 40


def test_a_selection_is_pickled_as_a_few_names_and_its_rows(mapped, tmp_path):
    store = open_store(str(tmp_path / "set"))
    wide_set(store, 70_000)
    data = open_dataset(store)
    body = pickle.dumps(data)
    assert len(body) < 3000
    again = pickle.loads(body)
    assert again.fingerprint == data.fingerprint
    assert again.counts() == data.counts()
    rows = np.array([5, 69_999])
    assert np.array_equal(again.take(rows).pixels([0, 1]), data.pixels(rows))
    assert equal(again.whole.columns, data.whole.columns)
    with pytest.raises(InputError, match="memory of this process"):
        pickle.dumps(open_dataset(fresh_store_with(100)))


def fresh_store_with(images):
    store = fresh_store()
    wide_set(store, images)
    return store


@pytest.mark.parametrize("damage", ["short", "gone", "index"])
def test_damaged_columns_are_made_again(mapped, damage):
    store = fresh_store()
    wide_set(store, 1000)
    before = open_dataset(store).whole.columns.offset.copy()
    (folder,) = (path for path in mapped.iterdir() if path.is_dir())
    if damage == "gone":
        (folder / "offset").unlink()
    else:
        with (folder / ("offset" if damage == "short" else "index.parquet")).open("r+b") as file:
            file.truncate(100)
    (mapped / f".{folder.name}.killed").mkdir()  # what a killed process leaves
    again = open_dataset(store)
    assert np.array_equal(again.whole.columns.offset, before)
    assert again.keys[-1].as_py() == "train-00000999"


def test_a_cache_folder_that_cannot_be_is_told_with_the_way_out(mapped, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FFR_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"file/columns.*FFR_CACHE"):
        open_dataset(fresh_store_with(100))


def test_a_full_disk_is_told_with_the_way_out(mapped, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(InputError, match=r"No space left.*FFR_CACHE"):
        open_dataset(fresh_store_with(100))
    assert [path.suffix for path in mapped.iterdir()] == [".lock"]


def test_a_message_does_not_need_the_cache(mapped):
    store = fresh_store_with(100)
    data = open_dataset(store)
    for path in mapped.glob("*/index.parquet"):
        path.unlink()
    store.put(shard_keys(store)[0], bytes(store.head(shard_keys(store)[0]).size))
    with pytest.raises(BrokenError, match="image of row 3: not a readable image"):
        data.pixels([3])


CHANGES = {
    "a row outside its shard": ("offset", 10**9, "outside its shard"),
    "a size beyond it": ("size", 10**9, "outside its shard"),
    "a negative offset": ("offset", -1, "outside its shard"),
    "another shard": ("shard", 3, "do not follow the manifest's shards"),
    "a label outside the classes": ("label", 7, "group land_land has 25 rows, some perhaps of another label"),
    "a group that nobody declared": ("group", "lake", "group land_land has 24 rows"),
    "another source": ("source", "drawn", "a source other than real and synthetic"),
}


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("change", sorted(CHANGES))
def test_an_index_that_does_not_match_is_refused(change, large, tmp_path, monkeypatch):
    monkeypatch.setenv("FFR_CACHE", str(tmp_path))
    monkeypatch.setattr(room, "SMALL_ROWS", 0 if large else 10**6)
    good, bad = fresh_store(), fresh_store()
    wide_set(good, 100)
    manifest = read_manifest(good)
    name, value, message = CHANGES[change]
    table = pq.read_table(io.BytesIO(good.get(manifest.index.key)))
    values = table[name].to_pylist()
    values[8] = value
    at = table.schema.get_field_index(name)
    changed = table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))
    publish_index(bad, changed, manifest.shards, manifest.groups, 16)
    with pytest.raises(BrokenError, match=rf"{read_manifest(bad).index.key}.*{message}"):
        open_dataset(bad)
    assert not [path for path in tmp_path.glob("columns/*") if path.suffix != ".lock"]


@pytest.mark.parametrize("large", [False, True])
def test_an_index_of_other_bytes_is_refused(large, tmp_path, monkeypatch):
    monkeypatch.setenv("FFR_CACHE", str(tmp_path))
    monkeypatch.setattr(room, "SMALL_ROWS", 0 if large else 10**6)
    store = fresh_store_with(100)
    key = read_manifest(store).index.key
    body = store.get(key)
    for changed, message in (
        (body[:50] + bytes([body[50] ^ 1]) + body[51:], "sha256"),
        (body[:-1], "bytes instead of"),
        (None, "missing"),
    ):
        store.delete(key)
        if changed is not None:
            store.put(key, changed)
        with pytest.raises(BrokenError, match=rf"{key}.*{message}"):
            open_dataset(store)


def test_a_large_index_is_made_and_used_in_little_memory(mapped, tmp_path):
    store = open_store(str(tmp_path / "set"))
    wide_set(store, 1_000_000)
    tracemalloc.start()
    data = open_dataset(store)
    _, made = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    assert data.counts() == dict.fromkeys(GROUPS.names, 250_000)
    data.pixels(data.rows_of(2)[-50:])
    _, used = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert made < 20 * 2**20
    assert used < 2 * 2**20
