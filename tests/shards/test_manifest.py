import hashlib
import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shard_outputs import CODEC, GROUPS
from test_imported import write

from ffr_dist.errors import BrokenError, ConflictError, InputError
from ffr_dist.shards import documents, layout
from ffr_dist.shards.index import read_index
from ffr_dist.shards.manifest import (
    DIGEST_ROWS,
    Manifest,
    copy_manifest,
    latest_manifest,
    manifest_digest,
    publish_manifest,
    read_manifest,
)
from ffr_dist.shards.refs import ObjectRef

rows = st.lists(
    st.tuples(
        st.from_regex(r"[a-z0-9_]{1,5}-[0-9]{8}", fullmatch=True),
        st.sampled_from(["a", "b"]),
        st.binary(min_size=32, max_size=32),
    ),
    unique_by=lambda row: row[0],
)


@given(rows, st.randoms())
def test_the_digest_is_the_promised_one_in_any_order(given_rows, random):
    expected = hashlib.sha256()
    for key, group, sha256 in sorted(given_rows):
        expected.update(f"{key} {group} {sha256.hex()}\n".encode())
    random.shuffle(given_rows)
    columns = (
        dict(zip(DIGEST_ROWS.names, zip(*given_rows, strict=True), strict=True))
        if given_rows
        else {name: [] for name in DIGEST_ROWS.names}
    )
    table = pa.Table.from_pydict({name: list(values) for name, values in columns.items()}, schema=DIGEST_ROWS)
    assert manifest_digest(table) == expected.hexdigest()
    if len(given_rows) > 2:
        assert manifest_digest(pa.concat_tables([table.slice(1), table.slice(0, 1)])) == expected.hexdigest()


def test_an_unfinished_output_says_so(store):
    store.put("manifests/0000-aaaaaaaaaaaa.index.parquet", b"")
    assert latest_manifest(store) is None
    with pytest.raises(InputError, match="ffr generate"):
        read_manifest(store)


def test_the_first_manifest_of_a_revision_stands(store):
    first = write(store, [0, 1])
    other = Manifest(**{name: getattr(first, name) for name in Manifest.__slots__} | {"detail": {"other": 1}})
    assert publish_manifest(store, other) == first
    assert store.get(layout.MANIFEST_COPY) == documents.to_bytes(first)


def test_the_copy_follows_the_highest_manifest(store):
    first = write(store, [0, 1])
    key = layout.index_key(1, first.index.sha256)
    store.put(key, store.get(first.index.key))
    changes = {"revision": 1, "index": ObjectRef(key, first.index.sha256, first.index.bytes)}
    second = Manifest(**{name: getattr(first, name) for name in Manifest.__slots__} | changes)
    assert publish_manifest(store, second) == second == read_manifest(store)
    copy_manifest(store, first)  # a slow finisher of the older revision
    assert store.get(layout.MANIFEST_COPY) == documents.to_bytes(second)
    store.delete(layout.MANIFEST_COPY)
    copy_manifest(store, second)
    assert store.exists(layout.MANIFEST_COPY)


def test_the_declared_order_of_groups_survives(store):
    write(store, [2, 1, 0])
    assert read_manifest(store).declared == GROUPS
    assert tuple(read_manifest(store).groups) == GROUPS.names
    assert read_manifest(store).codec == CODEC


def changed(store, change):
    key = layout.manifest_key(0)
    data = json.loads(store.get(key))
    change(data)
    store.put(key, json.dumps(data).encode())


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.update(images=9),
        lambda data: data["groups"].update(land_bird=5),
        lambda data: data["groups"].pop("land_bird"),
        lambda data: data["group_list"].pop(),
        lambda data: data["group_list"][0].update(name="../x"),
        lambda data: data["group_list"][0].update(label="0"),
        lambda data: data["shards"][0].update(key="shards/../../etc/passwd"),
        lambda data: data["shards"][0].update(sha256="0" * 64),
        lambda data: data["shards"].append(data["shards"][0]),
        lambda data: data["index"].update(key="recipe.yaml"),
        lambda data: data.update(revision=1),
        lambda data: data.update(manifest_sha256="x"),
        lambda data: data.update(surprise=1),
        lambda data: data["codec"].update(format="gif"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_damage(store, change):
    write(store, [0, 1, 2])
    changed(store, change)
    with pytest.raises(BrokenError, match=r"manifests/0000\.json"):
        read_manifest(store)


def test_a_manifest_of_another_protocol_is_refused(store):
    write(store, [0])
    changed(store, lambda data: data.update(protocol=2))
    with pytest.raises(ConflictError, match="protocol 2"):
        read_manifest(store)


def test_a_changed_index_is_damage(store):
    manifest = write(store, [0, 1])
    body = store.get(manifest.index.key)
    store.put(manifest.index.key, body[:-1])
    with pytest.raises(BrokenError, match="index"):
        read_index(store, manifest)
    store.delete(manifest.index.key)
    with pytest.raises(BrokenError, match="missing"):
        read_index(store, manifest)
