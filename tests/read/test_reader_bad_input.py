"""Real sets, damaged in every way that happens: each is told by shard, key or file, from a folder and from a bucket."""

from __future__ import annotations

import time

import numpy as np
import pytest
from faults.proxy import FaultProxy, at_rates
from reading import JPG, jpeg_set
from small_sets import GROUPS, picture

from ffr_dist.errors import BrokenError, StoreError
from ffr_dist.read.config import ReadConfig
from ffr_dist.read.dataset import open_dataset
from ffr_dist.read.loader import Loader
from ffr_dist.shards.codec import encode
from ffr_dist.shards.imported import write_imported
from ffr_dist.shards.manifest import read_manifest
from ffr_dist.store import StoreConfig, open_store

ROWS = np.arange(40)


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.store)])
def store(request, tmp_path):
    if request.param == "folder":
        return open_store(str(tmp_path))
    return open_store(request.getfixturevalue("s3").url)


@pytest.fixture(params=["batches", "pixels"])
def read(request):
    """All pixels of a set, through the loader or at once."""

    def through_batches(data):
        return np.concatenate(list(Loader([data], ReadConfig(workers=2)).stream(ROWS.reshape(-1, 8))))

    return through_batches if request.param == "batches" else lambda data: data.pixels(ROWS)


@pytest.fixture
def key(store):
    """Of the second shard of a set of four."""
    jpeg_set(store)
    return read_manifest(store).shards[1].key


def start_of(data, row):
    return int(data.whole.columns.offset[row])


@pytest.mark.parametrize("cut", [-1, 700, 0])
def test_a_truncated_shard(store, key, read, cut):
    body = store.get(key)
    store.put(key, body[:cut])
    with pytest.raises(BrokenError, match=f"{key} has {len(body[:cut])} bytes instead of {len(body)}; restore it"):
        read(open_dataset(store, cache_bytes=0))


def test_a_missing_shard(store, key, read):
    data = open_dataset(store, cache_bytes=0)
    store.delete(key)
    with pytest.raises(BrokenError, match=f"{key} is missing; restore it"):
        read(data)


@pytest.mark.parametrize("at", [0, 5, 160])
def test_a_flipped_bit_that_breaks_an_image(store, key, read, at):
    data = open_dataset(store, cache_bytes=0)
    body = bytearray(store.get(key))
    body[start_of(data, 13) + at] ^= 4
    store.put(key, bytes(body))
    with pytest.raises(BrokenError, match=rf"{key}: image train-00000013: .*; run 'ffr verify'"):
        read(data)


def test_every_flipped_bit_of_a_file_ends_in_pixels_or_in_a_message(tmp_path):
    store = open_store(str(tmp_path))
    jpeg_set(store)
    data = open_dataset(store, cache_bytes=0)
    key = read_manifest(store).shards[1].key
    body, start, size = store.get(key), start_of(data, 13), int(data.whole.columns.size[13])
    good, told = data.pixels([13]), []
    (tmp_path / key).chmod(0o644)
    for bit in np.random.default_rng(0).integers(0, 8 * size, 120).tolist():
        changed = bytearray(body)
        changed[start + bit // 8] ^= 1 << bit % 8
        (tmp_path / key).write_bytes(changed)
        try:
            assert open_dataset(store, cache_bytes=0).pixels([13]).shape == good.shape
        except BrokenError as error:
            told.append(str(error))
    assert len(told) > 12
    assert all(f"{key}: image train-00000013" in message for message in told)


def bomb(width, height):
    """A JPEG whose header promises more than there is."""
    body = bytearray(encode(picture(GROUPS.items[0], 0, 16), JPG))
    frame = body.index(b"\xff\xc0")
    body[frame + 5 : frame + 9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(body)


# Of 53418×53602 and 37694×37981 the bytes, counted in 32 bits, fit into an image of 16×16.
@pytest.mark.parametrize(
    ("width", "height"),
    [(60_000, 60_000), (65_500, 65_500), (53_418, 53_602), (37_694, 37_981), (24, 16), (16, 8), (8, 32)],
)
def test_an_image_of_another_size_is_refused_by_its_header(store, read, width, height):
    bodies = [encode(picture(GROUPS.items[0], number, 16), JPG) for number in range(40)]
    bodies[13] = bomb(width, height)
    samples = [(GROUPS.items[0], body, "a.jpg") for body in bodies]
    write_imported(store, "train", GROUPS, samples, codec=JPG, size=16, images_per_shard=10)
    key = read_manifest(store).shards[1].key
    data = open_dataset(store, cache_bytes=0)
    began = time.process_time()
    told = f" is {width}×{height} pixels in a set of 16×16" if width < 100 else ": .* could be decompression bomb"
    with pytest.raises(BrokenError, match=f"{key}: image train-00000013{told}"):
        read(data)
    assert time.process_time() - began < 5  # no pixel of a bomb was decoded


def test_a_shard_that_is_replaced_while_it_is_read(store, key, read):
    data = open_dataset(store, cache_bytes=0)
    read(data)
    body = store.get(key)
    other = body[: start_of(data, 13)] + bytes(300) + body[start_of(data, 13) + 300 :]
    time.sleep(1.1)  # buckets tell whole seconds
    store.put(key, other)
    with pytest.raises(BrokenError, match=f"{key}: image train-00000013 cannot be read: the shard was replaced"):
        read(data)
    store.put(key, other[:-512])
    with pytest.raises(BrokenError, match=f"{key} has {len(body) - 512} bytes instead of {len(body)}; restore it"):
        read(data)


@pytest.mark.store
@pytest.mark.parametrize("fault", ["500", "503", "reset before", "reset after", "stall", "truncate"])
def test_errors_and_stalls_of_the_storage_cost_time_and_nothing_else(s3, read, fault):
    jpeg_set(open_store(s3.url))
    good = open_dataset(open_store(s3.url)).pixels(ROWS)
    config = StoreConfig(timeout_s=1.0, connect_timeout_s=1.0, retry_s=60.0)
    with FaultProxy(s3.server.endpoint, at_rates({fault: 0.3}, seed=3), stall_s=1.5) as proxy:
        store = open_store(s3.url, config=config.model_copy(update={"endpoint": proxy.endpoint}))
        data = open_dataset(store, cache_bytes=0)
        for _ in range(2):
            assert np.array_equal(read(data), good)
        assert proxy.counts[fault], proxy.counts


@pytest.mark.store
@pytest.mark.parametrize("fault", ["503", "reset before", "stall"])
def test_storage_that_stays_away_is_told_within_the_time_given(s3, read, fault):
    jpeg_set(open_store(s3.url))
    config = StoreConfig(timeout_s=0.5, connect_timeout_s=0.5, retry_s=1.0)
    with FaultProxy(s3.server.endpoint, stall_s=30) as proxy:
        store = open_store(s3.url, config=config.model_copy(update={"endpoint": proxy.endpoint}))
        data = open_dataset(store, cache_bytes=0)
        proxy.plan = lambda request: fault
        began = time.monotonic()
        with pytest.raises(StoreError, match=r"shards/0000000\d-[0-9a-f]{12}\.tar"):
            read(data)
        assert time.monotonic() - began < 30
