import dataclasses
import io
import json
import tarfile

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_outputs import CODEC, GROUPS, Candidate, Killed, dying, fresh_store, independent, write_interval

from ffr_dist.errors import BrokenError, InputError, StoppedError
from ffr_dist.quota import Exact, Survivors
from ffr_dist.shards import documents, layout
from ffr_dist.shards.codec import decode
from ffr_dist.shards.commit import abandon, publish
from ffr_dist.shards.finish import finish, settle_log
from ffr_dist.shards.index import read_index
from ffr_dist.shards.log import CommitLog
from ffr_dist.shards.manifest import read_manifest
from ffr_dist.shards.selection import Revision, latest_revision, revise, write_first_revision
from ffr_dist.shards.verify import verify
from ffr_dist.store import open_store

INTERVALS = (
    [Candidate("land_bird", 0), Candidate("water_bird", 0), Candidate("water_on_land", 0)],
    [Candidate("land_bird", 1, "blank"), Candidate("water_bird", 1), Candidate("water_on_land", 1)],
    [Candidate("land_bird", 2, "nan"), Candidate("water_bird", 2, "nan")],
    [Candidate("land_bird", 3), Candidate("water_bird", 3, twin=("land_bird", 0)), Candidate("water_on_land", 2)],
    [Candidate("land_bird", 4), Candidate("water_bird", 4), Candidate("water_on_land", 3)],
)
QUOTA = {"land_bird": 2, "water_bird": 2, "water_on_land": 2}
EXACT = Exact(QUOTA)


def generate(store, quota=EXACT, order=range(5)):
    write_first_revision(store, quota)
    for interval in order:
        write_interval(store, interval, INTERVALS[interval])
    return store


def done(store, **options):
    return finish(store, GROUPS, CODEC, 8, **({"planned": 5} | options))


def contents(store, prefix="manifests"):
    return {info.key: store.get(info.key) for info in store.list(prefix)} | {"copy": store.get("manifest.json")}


def test_exactly_the_quota_comes_out(store):
    manifest = done(generate(store), detail={"recipe": "test"})
    assert manifest.images == 6
    assert dict(manifest.groups) == QUOTA
    assert manifest.environments == ({"gpu": "test"},)
    assert manifest.detail == {"recipe": "test"}
    assert manifest.declared == GROUPS
    assert read_manifest(store) == manifest
    found = independent(store.get)
    assert (found.images, found.groups, found.manifest_sha256) == (6, QUOTA, manifest.manifest_sha256)
    assert sorted(found.keys) == [
        "land_bird-00000000",
        "land_bird-00000003",
        "water_bird-00000000",
        "water_bird-00000001",
        "water_on_land-00000000",
        "water_on_land-00000001",
    ]
    assert verify(store).ok


def test_trimming_copies_members_byte_by_byte(store):
    generate(store)
    commit_tar = next(
        info.key
        for info in store.list("shards")
        if info.key.startswith("shards/00000003-") and info.key.endswith("tar")
    )
    manifest = done(store)
    assert [layout.interval_of_shard(shard.key, shard.sha256, "tar") for shard in manifest.shards] == [0, 1, 3]
    trimmed = manifest.shards[2]
    assert trimmed.key != commit_tar
    assert store.exists(commit_tar)

    def members(key):
        with tarfile.open(fileobj=io.BytesIO(store.get(key))) as tar:
            return {member.name: tar.extractfile(member).read() for member in tar.getmembers()}

    kept = members(trimmed.key)
    assert set(kept) == {"land_bird-00000003.png", "land_bird-00000003.json"}
    assert kept.items() <= members(commit_tar).items()


def test_the_index_points_at_the_images(store):
    manifest = done(generate(store))
    rows = read_index(store, manifest).to_pylist()
    assert [row["key"] for row in rows] == independent(store.get).keys
    for row in rows:
        [body] = store.get_ranges(manifest.shards[row["shard"]].key, [row["offset"]], [row["size"]])
        assert decode(body).shape == (8, 8, 3)
        assert (row["source"], row["source_key"], row["name"]) == ("synthetic", None, None)
        assert row["prompt"] == f"a photo of {row['group']}"
        group = GROUPS.by_name(row["group"])
        assert (row["label"], row["bias"]) == (group.label, group.bias)
    assert read_index(store, manifest, ["key", "seed"]).column_names == ["key", "seed"]


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(5)), st.integers(0, 8))
def test_any_order_and_any_crash_end_with_the_same_bytes(order, writes):
    undisturbed = generate(fresh_store())
    done(undisturbed)
    store = generate(fresh_store(), order=order)
    try:
        with dying(store, writes=writes):
            done(store)
    except Killed:
        assert writes < 6
    first = done(store)
    assert contents(store) == contents(undisturbed)
    assert done(store) == first
    assert contents(store) == contents(undisturbed)
    assert {info.key for info in store.list()} == {info.key for info in undisturbed.list()}


@pytest.mark.parametrize("before", ["shards/", "manifests/0000-", "manifests/0000.json"])
def test_nothing_shows_before_the_manifest(store, before):
    generate(store)
    writes = {"shards/": 0, "manifests/0000-": 1, "manifests/0000.json": 2}[before]
    with dying(store, writes=writes), pytest.raises(Killed):
        done(store)
    with pytest.raises(InputError, match="not finished"):
        read_manifest(store)


def test_a_folder_gives_the_same_set_as_memory(store, tmp_path):
    folder = generate(open_store(str(tmp_path)))
    assert done(folder) == done(generate(store))
    assert independent(lambda key: (tmp_path / key).read_bytes()).groups == QUOTA


def test_survivors_keep_all_but_duplicates(store):
    manifest = done(generate(store, Survivors({"land_bird": 5, "water_bird": 5, "water_on_land": 4})))
    assert dict(manifest.groups) == {"land_bird": 3, "water_bird": 3, "water_on_land": 4}
    assert verify(store).ok


def test_untouched_shards_are_named_as_they_are(store):
    generate(store, Exact({"land_bird": 3, "water_bird": 3, "water_on_land": 4}))
    before = {info.key for info in store.list("shards")}
    manifest = done(store)
    trimmed = [shard.key for shard in manifest.shards if shard.key not in before]
    assert [key[:15] for key in trimmed] == ["shards/00000003"]  # it holds the duplicate
    assert verify(store).ok


def test_a_shortfall_stops_and_names_the_groups(store):
    generate(store, Exact(QUOTA | {"water_bird": 9}))
    with pytest.raises(StoppedError, match="water_bird lacks 6"):
        done(store)
    assert not store.exists("manifest.json")


def test_an_undecided_interval_stops(store):
    generate(store, order=(0, 1, 3, 4))
    with pytest.raises(StoppedError, match="interval 2 of 5"):
        done(store)


def test_abandoned_intervals_are_listed(store):
    generate(store, order=(0, 1, 3, 4))
    publish(store, abandon(2, "a", "three failures"))
    assert done(store).abandoned == (2,)
    assert verify(store).ok


def settled_of(store):
    log = CommitLog(store)
    log.refresh()
    return settle_log(store, log, 5, latest_revision(store), GROUPS)


def test_what_was_settled_before_is_not_settled_again(store, monkeypatch):
    settled = settled_of(generate(store))
    undisturbed = done(generate(fresh_store()))
    monkeypatch.setattr("ffr_dist.shards.finish.settle", None)
    assert done(store, settled=settled) == undisturbed


def test_what_was_settled_for_an_earlier_selection_is_not_used(store):
    settled = settled_of(generate(store))
    revise(store, lambda latest: dataclasses.replace(latest, excluded=("land_bird-00000000",)))
    done(store, settled=settled)
    assert "land_bird-00000000" not in independent(store.get).keys
    assert verify(store).ok


def test_the_way_to_go_on_is_told(store):
    generate(store, Exact(QUOTA | {"water_bird": 9}))
    with pytest.raises(StoppedError, match="ffr generate my --out here"):
        done(store, go_on="ffr generate my --out here")


def test_only_what_is_considered_must_be_decided(store):
    generate(store, order=(0, 1, 3))
    publish(store, abandon(4, "a", "three failures"))
    revise(store, lambda latest: dataclasses.replace(latest, considered=((0, 2), (3, 4))))
    manifest = done(store)
    assert (manifest.images, manifest.abandoned, manifest.intervals) == (6, (), 5)
    assert verify(store).ok
    write_interval(store, 2, INTERVALS[2])  # later work changes nothing of it
    assert done(store) == manifest
    assert verify(store).ok


def test_nothing_asked_is_an_input_error(store):
    with pytest.raises(InputError, match="generate"):
        done(store)


def test_a_missing_or_cut_tar_is_damage(store):
    generate(store)
    key = next(
        info.key
        for info in store.list("shards")
        if info.key.startswith("shards/00000000-") and info.key.endswith("tar")
    )
    body = store.get(key)
    store.put(key, body[:-512])
    with pytest.raises(BrokenError, match=key):
        done(store)
    store.delete(key)
    with pytest.raises(BrokenError, match="missing"):
        done(store)


def test_a_changed_tar_is_not_trimmed(store):
    generate(store)
    key = next(
        info.key
        for info in store.list("shards")
        if info.key.startswith("shards/00000003-") and info.key.endswith("tar")
    )
    body = bytearray(store.get(key))
    body[600] ^= 1
    store.put(key, bytes(body))
    with pytest.raises(BrokenError, match=key):
        done(store)


def test_a_new_revision_gives_a_new_manifest_and_keeps_the_old(store):
    first = done(generate(store))
    revision = Revision(1, "exact", QUOTA, excluded=("land_bird-00000000",))
    store.put_if_absent(layout.selection_key(1), documents.to_bytes(revision))
    second = done(store)
    assert (second.revision, second.images) == (1, 6)
    keys = independent(store.get).keys
    assert "land_bird-00000000" not in keys
    assert "land_bird-00000004" in keys
    assert "water_bird-00000003" not in keys  # the copy of the excluded image does not take its place
    assert read_manifest(store) == second
    assert json.loads(store.get(layout.manifest_key(0)))["manifest_sha256"] == first.manifest_sha256
    assert verify(store).ok


# The library leaves its files to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_plain_webdataset_reader_sees_exactly_the_quota(tmp_path):
    store = generate(open_store(str(tmp_path)))
    manifest = done(store)
    urls = [str(tmp_path / shard.key) for shard in manifest.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == independent(store.get).keys
    groups = [sample["json"]["group"] for sample in samples]
    assert {name: groups.count(name) for name in QUOTA} == QUOTA
    assert all({"png", "json"} <= set(sample) for sample in samples)
