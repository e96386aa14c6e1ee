import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_outputs import CODEC, GROUPS, fresh_store, independent

from ffr_dist.errors import DataError, InputError
from ffr_dist.groups import Group
from ffr_dist.shards.codec import CodecConfig, encode
from ffr_dist.shards.imported import write_imported
from ffr_dist.shards.index import read_index
from ffr_dist.shards.manifest import read_manifest
from ffr_dist.shards.verify import verify


def samples(rows, codec=CODEC):
    for row, number in enumerate(rows):
        pixels = np.random.default_rng(row).integers(0, 256, (8, 8, 3), np.uint8)
        yield GROUPS.items[number], encode(pixels, codec), f"folder/{row}.png"


def write(store, rows, per_shard=4, **options):
    arguments = {"codec": CODEC, "size": 8, "images_per_shard": per_shard} | options
    return write_imported(store, "train", GROUPS, samples(rows), **arguments)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=20), st.integers(1, 7))
def test_every_sample_comes_out_once_and_in_order(rows, per_shard):
    store = fresh_store()
    manifest = write(store, rows, per_shard, detail={"from": "test"})
    assert manifest == read_manifest(store)
    found = independent(store.get)
    assert found.keys == [f"train-{row:08d}" for row in range(len(rows))]
    assert found.groups == {name: count for name, count in manifest.groups.items() if count}
    assert [shard.images for shard in manifest.shards[:-1]] == [per_shard] * (len(manifest.shards) - 1)
    index = read_index(store, manifest)
    assert index["name"].to_pylist() == [f"folder/{row}.png" for row in range(len(rows))]
    assert set(index["source"].to_pylist()) == {"real"}
    assert index["seed"].null_count == len(rows)
    assert manifest.detail == {"split": "train", "from": "test"}
    assert verify(store).ok
    again = fresh_store()
    assert write(again, rows, per_shard, detail={"from": "test"}) == manifest


def test_a_finished_import_is_left_as_it_is(store):
    first = write(store, [0, 1])
    before = {info.key: info.modified for info in store.list("shards")}

    def never():
        raise AssertionError
        yield

    assert write_imported(store, "train", GROUPS, never(), codec=CODEC, size=8, images_per_shard=4) == first
    assert {info.key: info.modified for info in store.list("shards")} == before


def test_a_failure_in_the_middle_shows_nothing(store):
    def failing():
        yield from samples([0, 1, 2, 0, 1])
        raise DataError("folder/5.png is not a readable image")

    with pytest.raises(DataError, match=r"folder/5\.png"):
        write_imported(store, "train", GROUPS, failing(), codec=CODEC, size=8, images_per_shard=2)
    with pytest.raises(InputError, match="not finished"):
        read_manifest(store)
    assert write(store, [0, 1, 2, 0, 1], 2).images == 5
    assert verify(store).ok


def test_kept_files_keep_their_own_formats(store):
    kinds = ("jpg", "png", "webp")
    kept = [next(iter(samples([0], CodecConfig(format=kind)))) for kind in kinds]
    manifest = write_imported(store, "val", GROUPS, kept, codec=None, size=None, images_per_shard=9)
    assert (manifest.codec, manifest.size, manifest.images) == (None, None, 3)
    assert verify(store).ok


def test_what_cannot_be_stored_is_refused_by_name(store):
    options = {"codec": CODEC, "size": 8, "images_per_shard": 4}
    with pytest.raises(DataError, match="no sample"):
        write_imported(store, "train", GROUPS, [], **options)
    with pytest.raises(DataError, match=r"a\.gif"):
        write_imported(store, "train", GROUPS, [(GROUPS.items[0], b"GIF89a", "a.gif")], **options)
    with pytest.raises(DataError, match="other labels"):
        write_imported(store, "train", GROUPS, [(Group("land_bird", 1, 1), b"", "a.png")], **options)
    assert list(store.list("manifests")) == []
