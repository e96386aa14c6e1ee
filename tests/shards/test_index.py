import contextlib
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_outputs import GROUPS, fresh_store
from test_imported import write

from ffr_dist.errors import BrokenError
from ffr_dist.records import INDEX
from ffr_dist.shards.index import IndexWriter, index_rows, parse_index, read_index


def parquet(rows, schema=INDEX):
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), out)
    return out.getvalue()


@pytest.mark.parametrize(
    "change",
    [
        {"shard": 1},
        {"shard": -1},
        {"offset": -1},
        {"size": 1 << 40},
        {"offset": (1 << 63) - 1},
        {"size": -5},
        {"label": 1},
        {"bias": 1},
        {"group": "water_bird"},
        {"group": "fish"},
    ],
)
def test_rows_that_do_not_fit_the_manifest_are_damage(store, change):
    manifest = write(store, [0, 0, 1])
    rows = read_index(store, manifest).to_pylist()
    rows[0].update(change)
    with pytest.raises(BrokenError, match=r"index\.parquet"):
        parse_index(parquet(rows), manifest)


def test_too_few_rows_or_other_columns_are_damage(store):
    manifest = write(store, [0, 0, 1])
    rows = read_index(store, manifest).to_pylist()
    with pytest.raises(BrokenError, match="2 rows for 3"):
        parse_index(parquet(rows[:2]), manifest)
    with pytest.raises(BrokenError, match="columns"):
        parse_index(parquet([{"a": 1}], pa.schema([("a", pa.int32())])), manifest)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_flipped_bytes_are_read_or_refused(data):
    store = fresh_store()
    manifest = write(store, [0, 0, 1])
    body = bytearray(store.get(manifest.index.key))
    for place in data.draw(st.lists(st.integers(0, len(body) - 1), min_size=1, max_size=3, unique=True)):
        body[place] ^= data.draw(st.integers(1, 255))
    store.put(manifest.index.key, bytes(body))
    with pytest.raises(BrokenError):
        read_index(store, manifest)
    with contextlib.suppress(BrokenError):
        assert parse_index(bytes(body), manifest).num_rows == 3


def test_rows_in_any_portions_come_out_in_order(monkeypatch):
    monkeypatch.setattr("ffr_dist.shards.index._ROW_GROUP", 3)
    out, keys = io.BytesIO(), []
    with IndexWriter(out) as writer:
        for shard, count in enumerate((2, 2, 1, 4)):
            part = [f"train-{len(keys) + place:08d}" for place in range(count)]
            writer.add(
                index_rows(
                    shard=shard,
                    offsets=range(count),
                    sizes=[1] * count,
                    keys=part,
                    group_names=["land_bird"] * count,
                    groups=GROUPS,
                    source="real",
                )
            )
            keys += part
    table = pq.read_table(io.BytesIO(out.getvalue()))
    assert table.schema.equals(INDEX)
    assert table["key"].to_pylist() == keys
