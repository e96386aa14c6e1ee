import hashlib
import io
import json
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from shard_outputs import Killed, dying, fresh_store, independent
from test_finish import QUOTA, done, generate

from ffr_dist.errors import BrokenError, ConflictError, InputError
from ffr_dist.records import INDEX
from ffr_dist.shards.export import export
from ffr_dist.shards.index import read_index
from ffr_dist.shards.manifest import read_manifest
from ffr_dist.store import open_store


@pytest.fixture
def output(store):
    done(generate(store))
    return store


def contents(store):
    return {info.key: hashlib.sha256(store.get(info.key)).hexdigest() for info in store.list()}


def read(store):
    """An export as anyone can read it: the images by key, with tarfile and hashlib."""
    found = {}
    for info in store.list():
        if info.key.endswith(".tar"):
            with tarfile.open(fileobj=io.BytesIO(store.get(info.key))) as tar:
                found |= {member.name: tar.extractfile(member).read() for member in tar.getmembers()}
    return found


def digest(store):
    members = read(store)
    lines = []
    for name, body in members.items():
        key, _, kind = name.partition(".")
        if kind != "json":
            lines.append(f"{key} {json.loads(members[f'{key}.json'])['group']} {hashlib.sha256(body).hexdigest()}\n")
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


@pytest.mark.parametrize("shard_mb", [None, 1])
def test_the_same_images_under_plain_names(output, shard_mb):
    to = fresh_store()
    found = export(output, to, shard_mb=shard_mb)
    manifest = read_manifest(output)
    shards = 1 if shard_mb else 3
    assert (found.copied, found.export.shards, found.export.images) == (shards, shards, 6)
    assert set(contents(to)) == {"export.json", "index.parquet", *(f"{n:08d}.tar" for n in range(shards))}
    assert digest(to) == manifest.manifest_sha256 == independent(output.get).manifest_sha256
    index = pq.read_table(io.BytesIO(to.get("index.parquet")))
    assert index.schema.equals(INDEX)
    assert index["key"].to_pylist() == read_index(output, manifest)["key"].to_pylist()
    members = read(to)
    for row in index.to_pylist():
        [body] = to.get_ranges(f"{row['shard']:08d}.tar", [row["offset"]], [row["size"]])
        assert body == members[f"{row['key']}.png"]
    assert export(output, to, shard_mb=shard_mb).copied == 0


@pytest.mark.parametrize("shard_mb", [None, 1])
@pytest.mark.parametrize("writes", range(5))
def test_an_export_that_dies_goes_on(output, tmp_path, writes, shard_mb):
    undisturbed = open_store(str(tmp_path / "a"))
    export(output, undisturbed, shard_mb=shard_mb)
    to = open_store(str(tmp_path / "b"))
    try:
        with dying(output, to, writes=writes):
            export(output, to, shard_mb=shard_mb)
    except Killed:
        assert not to.exists("index.parquet")
    export(output, to, shard_mb=shard_mb)
    assert contents(to) == contents(undisturbed)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("shard_mb", [None, 1])
def test_a_second_run_repairs(output, finished, shard_mb):
    to = fresh_store()
    export(output, to, shard_mb=shard_mb)
    whole = contents(to)
    body = to.get("00000000.tar")
    if finished:
        to.put("00000000.tar", body[:-512])
    else:
        to.delete("index.parquet")
        to.put("00000000.tar", bytes([body[0] ^ 1]) + body[1:])
    assert export(output, to, shard_mb=shard_mb).copied == 1
    assert contents(to) == whole


def test_a_destination_with_other_things_is_left_alone(output):
    to = fresh_store()
    to.put("notes.txt", b"mine")
    with pytest.raises(ConflictError, match=r"notes\.txt"):
        export(output, to)
    assert set(contents(to)) == {"notes.txt"}
    other = fresh_store()
    other.put("00000000.tar", b"somebody's")
    with pytest.raises(ConflictError, match=r"00000000\.tar"):
        export(output, other)
    third = fresh_store()
    export(output, third, shard_mb=1)
    before = contents(third)
    with pytest.raises(ConflictError, match="empty folder"):
        export(output, third)
    assert contents(third) == before
    with pytest.raises(ConflictError, match="not this export's"):
        export(output, output)


def test_what_is_not_finished_is_not_exported(store):
    with pytest.raises(InputError, match="not finished"):
        export(store, fresh_store())


def test_a_cut_source_is_told(output):
    key = read_manifest(output).shards[0].key
    output.put(key, output.get(key)[:-512])
    for shard_mb in (None, 1):
        to = fresh_store()
        with pytest.raises(BrokenError, match=key):
            export(output, to, shard_mb=shard_mb)
        assert not to.exists("index.parquet")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("shard_mb", [None, 1])
def test_other_readers_open_it(output, tmp_path, shard_mb):
    import webdataset
    from datasets import load_dataset

    folder = tmp_path / "export"
    export(output, open_store(str(folder)), shard_mb=shard_mb)
    tars = sorted(str(file) for file in folder.glob("*.tar"))
    last = len(tars) - 1
    samples = list(webdataset.WebDataset(f"{folder}/{{00000000..{last:08d}}}.tar", shardshuffle=False).decode("rgb8"))
    groups = [sample["json"]["group"] for sample in samples]
    assert {name: groups.count(name) for name in QUOTA} == QUOTA
    found = load_dataset("webdataset", data_files={"train": tars}, split="train", cache_dir=str(tmp_path / "cache"))
    assert found["__key__"] == [sample["__key__"] for sample in samples]
    for sample, row in zip(samples, found, strict=True):
        assert np.array_equal(np.asarray(row["png"].convert("RGB")), sample["png"])
