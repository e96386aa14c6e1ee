import hashlib
import io
import json
import re
import shutil

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_outputs import CODEC, GROUPS, fresh_store, independent
from test_finish import QUOTA, done, generate
from test_imported import write

from ffr_dist.errors import ConflictError, InputError
from ffr_dist.records import sample_json
from ffr_dist.shards import documents, layout
from ffr_dist.shards.codec import encode
from ffr_dist.shards.commit import read_commit
from ffr_dist.shards.imported import write_imported
from ffr_dist.shards.index import IndexWriter, read_index
from ffr_dist.shards.manifest import read_manifest
from ffr_dist.shards.pack import Member, pack, unpack
from ffr_dist.shards.verify import verify
from ffr_dist.store import open_store


@pytest.fixture
def output(store):
    done(generate(store))
    return store


def members_of(store, key):
    return {member.name: member.body for member in unpack(store.get(key))}


def replace_tar(store, place, members, *, consistent):
    """Put other members in place of a shard; ``consistent``: by a forger who also rewrites manifest and index."""
    manifest = json.loads(store.get(layout.manifest_key(0)))
    shard = manifest["shards"][place]
    packed = pack([Member(name, body) for name, body in members.items()])
    if not consistent:
        store.put(shard["key"], packed.tar)
        return shard["key"]
    interval = int(shard["key"][7:15])
    sha256 = hashlib.sha256(packed.tar).hexdigest()
    shard.update(key=layout.tar_key(interval, sha256), sha256=sha256, bytes=len(packed.tar))
    store.put(shard["key"], packed.tar)
    index = read_index(store, read_manifest(store)).to_pylist()
    lines = []
    offsets = {member.name: (member.offset, len(member.body)) for member in unpack(packed.tar)}
    for row in index:
        if row["shard"] == place:
            row["offset"], row["size"] = offsets[f"{row['key']}.png"]
            note = json.loads(members[f"{row['key']}.json"])
            row.update({name: note.get(name) for name in ("group", "label", "bias", "seed", "prompt")})
        body = store.get(manifest["shards"][row["shard"]]["key"])[row["offset"] : row["offset"] + row["size"]]
        lines.append((row["key"], f"{row['key']} {row['group']} {hashlib.sha256(body).hexdigest()}\n"))
    out = io.BytesIO()
    schema = read_index(store, read_manifest(store)).schema
    with IndexWriter(out) as writer:
        writer.add(pa.Table.from_pylist(index, schema=schema))
    body = out.getvalue()
    sha256 = hashlib.sha256(body).hexdigest()
    manifest["index"] = {"key": layout.index_key(0, sha256), "sha256": sha256, "bytes": len(body)}
    store.put(manifest["index"]["key"], body)
    manifest["manifest_sha256"] = hashlib.sha256("".join(line for _, line in sorted(lines)).encode()).hexdigest()
    groups = [row["group"] for row in index]
    manifest["groups"] = {name: groups.count(name) for name in manifest["groups"]}
    store.put(layout.manifest_key(0), json.dumps(manifest).encode())
    store.put("manifest.json", documents.to_bytes(read_manifest(store)))
    return shard["key"]


def problems(store):
    found = verify(store)
    assert not found.ok
    assert found.problems
    return "\n".join(found.problems)


def test_a_sound_set_is_ok_and_counted(output):
    manifest = read_manifest(output)
    found = verify(output)
    assert (found.ok, found.problems) == (True, ())
    assert (found.shards, found.images, dict(found.groups)) == (3, 6, QUOTA)
    assert found.manifest_sha256 == manifest.manifest_sha256 == independent(output.get).manifest_sha256


def test_an_unfinished_output_is_an_input_error(store):
    with pytest.raises(InputError, match="not finished"):
        verify(store)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2), st.data())
def test_any_flipped_bit_of_a_tar_is_found_and_named(place, data):
    store = fresh_store()
    done(generate(store))
    shard = read_manifest(store).shards[place]
    body = bytearray(store.get(shard.key))
    body[data.draw(st.integers(0, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    store.put(shard.key, bytes(body))
    assert shard.key in problems(store)


def test_a_flipped_byte_of_an_image_names_its_key(output):
    shard = read_manifest(output).shards[0]
    placed = next(member for member in unpack(output.get(shard.key)) if member.name == "water_bird-00000000.png")
    body = bytearray(output.get(shard.key))
    body[placed.offset + 40] ^= 1
    output.put(shard.key, bytes(body))
    found = problems(output)
    assert "sha256" in found
    assert f"{shard.key}: water_bird-00000000 is not the image that its worker stored" in found
    assert "manifest_sha256" in found


@pytest.mark.parametrize("consistent", [False, True])
def test_two_samples_swapped_between_groups_are_named(output, consistent):
    members = members_of(output, read_manifest(output).shards[0].key)
    one, two = "land_bird-00000000.png", "water_bird-00000000.png"
    members[one], members[two] = members[two], members[one]
    key = replace_tar(output, 0, members, consistent=consistent)
    found = problems(output)
    assert f"{key}: land_bird-00000000 is not" in found
    assert f"{key}: water_bird-00000000 is not" in found


@pytest.mark.parametrize("consistent", [False, True])
def test_a_sample_whose_json_names_another_group_is_named(output, consistent):
    members = members_of(output, read_manifest(output).shards[0].key)
    note = json.loads(members["land_bird-00000000.json"])
    other = sample_json(
        note["key"], GROUPS.by_name("water_bird"), "synthetic", seed=note["seed"], prompt=note["prompt"]
    )
    members["land_bird-00000000.json"] = other
    key = replace_tar(output, 0, members, consistent=consistent)
    found = problems(output)
    assert f"{key}: land_bird-00000000 says that it is of group water_bird" in found
    assert "group land_bird has 1 images" in found


def test_one_tar_in_place_of_another_is_named(output):
    first, second, _ = read_manifest(output).shards
    output.put(first.key, output.get(second.key))
    found = problems(output)
    assert first.key in found
    assert second.key not in found
    assert "is in the set more than once" in found


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2), st.data())
def test_a_tar_cut_short_is_named(place, data):
    store = fresh_store()
    done(generate(store))
    shard = read_manifest(store).shards[place]
    body = store.get(shard.key)
    blocks = data.draw(st.integers(0, len(body) // 512 - 1))
    store.put(shard.key, body[: blocks * 512])
    assert f"{shard.key}: cut short" in problems(store)


def test_missing_objects_are_named(output):
    manifest = read_manifest(output)
    output.delete(manifest.shards[1].key)
    assert f"{manifest.shards[1].key} is missing" in problems(output)
    assert verify(output).shards == 2
    output.delete(manifest.index.key)
    assert f"{manifest.index.key} is missing" in problems(output)


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"prompt": "x"}, {"key": "land_bird-00000009"}, {"offset": 0}, {"size": 1}, {"name": "x"}]
)
def test_index_rows_that_do_not_match_are_named(output, change):
    manifest = read_manifest(output)
    table = read_index(output, manifest)
    rows = table.to_pylist()
    key = rows[4]["key"]
    rows[4].update(change)
    out = io.BytesIO()
    with IndexWriter(out) as writer:
        writer.add(type(table).from_pylist(rows, schema=table.schema))
    body = out.getvalue()
    sha256 = hashlib.sha256(body).hexdigest()
    data = json.loads(output.get(layout.manifest_key(0)))
    data["index"] = {"key": layout.index_key(0, sha256), "sha256": sha256, "bytes": len(body)}
    output.put(data["index"]["key"], body)
    output.put(layout.manifest_key(0), json.dumps(data).encode())
    output.put("manifest.json", documents.to_bytes(read_manifest(output)))
    found = verify(output).problems
    assert len(found) == 1
    assert found[0].startswith(f"{manifest.shards[rows[4]['shard']].key}: {key} ")


def test_an_index_of_other_bytes_is_named(output):
    key = read_manifest(output).index.key
    output.put(key, output.get(key)[:-1])
    assert key in problems(output)


def of_protocol_2(store, key):
    store.put(key, json.dumps(json.loads(store.get(key)) | {"protocol": 2}).encode())


@pytest.mark.parametrize("key", ["manifests/0000.json", "selection/0000.json"])
def test_an_output_of_another_protocol_is_wrong_input(output, key):
    of_protocol_2(output, key)
    with pytest.raises(ConflictError, match=f"{key} was written by protocol 2"):
        verify(output)


def test_a_commit_of_another_protocol_is_named(output):
    of_protocol_2(output, "commits/00000000.json")
    found = problems(output)
    assert "commits/00000000.json was written by protocol 2" in found


def test_a_copy_for_people_that_lies_is_named(output):
    output.put("manifest.json", output.get("manifest.json").replace(b'"revision": 0', b'"revision": 7'))
    assert "manifest.json differs" in problems(output)
    output.delete("manifest.json")
    assert "manifest.json is missing" in problems(output)


def test_a_quota_that_is_not_met_is_named(output):
    data = json.loads(output.get("selection/0000.json"))
    data["quota"]["land_bird"] = 3
    data["excluded"] = ["water_bird-00000001"]
    output.put("selection/0000.json", json.dumps(data).encode())
    found = problems(output)
    assert "group land_bird has 2 images where selection/0000.json asks for 3" in found
    assert "water_bird-00000001 is there against selection/0000.json: excluded" in found


def test_an_image_that_no_worker_accepted_is_named(output):
    """A tar with a smuggled sample, manifest and index made to fit."""
    members = members_of(output, read_manifest(output).shards[1].key)
    key = "water_bird-00000001"
    smuggled = encode(np.zeros((8, 8, 3), np.uint8), CODEC)
    members[f"{key}.png"] = smuggled
    shard = replace_tar(output, 1, members, consistent=True)
    assert verify(output).problems == (f"{shard}: {key} is not the image that its worker stored",)


def test_without_its_commit_or_sidecar_a_shard_is_not_believed(output):
    output.delete(read_commit(output, 0).sidecar.key)
    output.delete("commits/00000001.json")
    found = problems(output)
    assert len(re.findall("its commit or sidecar cannot be read", found)) == 2


def test_many_problems_of_a_shard_are_told_shortly(store):
    manifest = write(store, [0] * 12, 12)
    other = fresh_store()
    write_imported(
        other,
        "x",
        GROUPS,
        [(GROUPS.items[1], b"\x89PNG\r\n\x1a\n" + bytes([n]), "n") for n in range(12)],
        codec=CODEC,
        size=8,
        images_per_shard=12,
    )
    store.put(manifest.shards[0].key, other.get(read_manifest(other).shards[0].key))
    found = verify(store).problems
    assert any(re.fullmatch(r"shards/00000000-\w{12}\.tar: and \d+ more problems", problem) for problem in found)
    assert len(found) < 12


def test_imported_sets_are_checked_too(store):
    manifest = write(store, [0, 1, 2, 0])
    assert verify(store).ok
    members = members_of(store, manifest.shards[0].key)
    note = json.loads(members["train-00000001.json"])
    members["train-00000001.json"] = json.dumps(note | {"source": "synthetic"}).encode()
    key = replace_tar(store, 0, members, consistent=False)
    found = problems(store)
    assert f"{key}: train-00000001 says that it is 'synthetic'" in found


@pytest.mark.parametrize("note", [b"[]", b"{", b'"x"', b'{"group": ["land_bird"]}', b"[" * 100_000, b'{"key": NaN}'])
def test_hostile_json_beside_an_image_is_named(store, note):
    manifest = write(store, [0, 1])
    members = members_of(store, manifest.shards[0].key)
    members["train-00000000.json"] = note
    key = replace_tar(store, 0, members, consistent=False)
    assert f"{key}: " in problems(store)
    assert "train-00000000" in problems(store)


@pytest.mark.parametrize(
    "names", [["a.png"], ["a.json", "a.png"], ["a.png", "b.json"], ["a.png", "b.png"], ["a.png", "a.json", "b.exe"]]
)
def test_members_that_are_not_pairs_are_named(store, names):
    manifest = write(store, [0, 1])
    replace_tar(store, 0, dict.fromkeys(names, b"{}"), consistent=False)
    assert manifest.shards[0].key in problems(store)


def test_a_copied_folder_verifies_elsewhere(tmp_path):
    done(generate(open_store(str(tmp_path / "a"))))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert verify(open_store(str(tmp_path / "b"))) == verify(open_store(str(tmp_path / "a")))
