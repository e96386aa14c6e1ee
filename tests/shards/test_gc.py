"""What is deleted, and what a purge leaves: a set that is the same, and sidecars that still keep copies out."""

import dataclasses
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_outputs import CODEC, GROUPS, Candidate, Killed, dying, fresh_store, independent, pixels_of, write_interval

from ffr_dist.errors import ConflictError, StoppedError
from ffr_dist.quota import Exact
from ffr_dist.shards import documents, gc, layout
from ffr_dist.shards.commit import abandon, publish, read_commit
from ffr_dist.shards.finish import finish
from ffr_dist.shards.manifest import latest_manifest, manifest_numbers
from ffr_dist.shards.pack import unpack
from ffr_dist.shards.selection import latest_revision, revise, standing, write_first_revision
from ffr_dist.shards.sidecar import load_sidecar
from ffr_dist.shards.verify import verify
from ffr_dist.store import open_store

AGE = timedelta(0)
OLD = timedelta(hours=24)
INTERVALS = (
    [Candidate("land_bird", 0), Candidate("water_bird", 0), Candidate("water_bird", 1)],
    [Candidate("land_bird", 1, "blank"), Candidate("water_bird", 2), Candidate("land_bird", 2)],
    [Candidate("land_bird", 3, twin=("land_bird", 0)), Candidate("water_bird", 3)],
    [Candidate("land_bird", 4), Candidate("water_bird", 4), Candidate("land_bird", 5)],
)
QUOTA = {"land_bird": 2, "water_bird": 2}


@pytest.fixture
def output(store):
    return made(store)


def made(store):
    write_first_revision(store, Exact(QUOTA))
    for interval, candidates in enumerate(INTERVALS):
        write_interval(store, interval, candidates)
    done(store)
    return store


def done(store, planned=4):
    return finish(store, GROUPS, CODEC, 8, planned=planned)


def change(store, **values):
    return revise(store, lambda latest: dataclasses.replace(latest, **values))


def purge(store, planned=4, *, dry_run=False):
    there = done(store, planned)
    doomed = gc.purge(store, GROUPS, CODEC, there, lambda: done(store, planned), dry_run=dry_run)
    if not dry_run:
        gc.delete_all(store, doomed)
    return [info.key for info in doomed]


def keys(store, prefix="shards"):
    return {info.key for info in store.list(prefix)}


def images(store):
    """Every image in every tar of the output, by key."""
    return {
        member.name.removesuffix(".png"): member.body
        for key in keys(store)
        if key.endswith(".tar")
        for member in unpack(store.get(key))
        if member.name.endswith(".png")
    }


def left(store, older=AGE):
    return {info.key for info in gc.leftovers(store, latest_revision(store).number, older)}


def test_only_what_nobody_names_is_a_leftover(output):
    named = keys(output)
    assert left(output) == set()
    loser = layout.tar_key(1, "ab" * 32)
    trimmed_once = layout.sidecar_key(2, "cd" * 32)
    for key in (loser, trimmed_once):
        output.put(key, b"x")
    output.put(layout.tar_key(9, "ab" * 32), b"an attempt that is under way")
    output.put("shards/notes.txt", b"somebody's")
    output.put("shards/00000001-abcdefabcdef.tar.part", b"somebody's")
    assert left(output) == {loser, trimmed_once}
    assert left(output, OLD) == set()
    gc.delete_all(output, gc.leftovers(output, 0, AGE))
    assert named <= keys(output)
    assert layout.tar_key(9, "ab" * 32) in keys(output)
    assert "shards/notes.txt" in keys(output)
    assert verify(output).ok


def test_what_a_killed_probe_left_is_a_leftover(output):
    output.put(".probe/0a1b", b"")
    assert left(output, OLD) == set()
    assert left(output) == {".probe/0a1b"}
    gc.delete_all(output, gc.leftovers(output, 0, AGE))
    assert not output.exists(".probe/0a1b")


def test_an_abandoned_intervals_objects_are_leftovers(output):
    publish(output, abandon(4, "a", "three failures"))
    output.put(layout.tar_key(4, "ab" * 32), b"x")
    assert left(output) == {layout.tar_key(4, "ab" * 32)}


def test_earlier_manifests_hold_their_shards(output):
    before = keys(output)
    change(output, excluded=("land_bird-00000000",))
    done(output)
    assert left(output) == set()
    assert before < keys(output)


def test_what_was_written_again_since_the_listing_stays(output, monkeypatch):
    key = layout.tar_key(1, "ab" * 32)
    output.put(key, b"x")
    doomed = gc.leftovers(output, 0, AGE)
    output.put(key, b"a finish that is under way puts it again")
    assert gc.delete_all(output, doomed) == []
    assert key in keys(output)


def test_what_is_told_as_deleted_is_what_was(output):
    mine, gone = layout.tar_key(1, "ab" * 32), layout.tar_key(1, "cd" * 32)
    for key in (mine, gone):
        output.put(key, b"x")
    doomed = gc.leftovers(output, 0, AGE)
    output.delete(gone)  # by another one
    assert {info.key for info in doomed} == {mine, gone}
    assert [info.key for info in gc.delete_all(output, doomed)] == [mine]


def test_a_purge_leaves_the_set_and_takes_the_rest(output):
    change(output, excluded=("land_bird-00000000",))
    before = done(output)
    selected = set(independent(output.get).keys)
    assert "land_bird-00000000" in images(output)
    would = purge(output, dry_run=True)
    objects = keys(output, "")
    assert set(would) <= objects
    gone = purge(output)
    assert set(would) == set(gone)
    assert set(images(output)) == selected
    taken = CODEC and pixels_of("land_bird", 0).tobytes()
    assert all(taken not in body for body in images(output).values())
    after = latest_manifest(output)
    assert (after.revision, after.manifest_sha256, after.groups) == (2, before.manifest_sha256, before.groups)
    assert [shard.key for shard in after.shards] == [shard.key for shard in before.shards]
    assert manifest_numbers(output) == [2]
    assert len(keys(output, "manifests")) == 2
    assert verify(output).ok
    assert purge(output) == []
    assert left(output) == set()


def test_purged_rows_say_why_and_keep_what_keeps_copies_out(output):
    change(output, excluded=("land_bird-00000000",))
    purge(output)
    of = standing(latest_revision(output))
    rows = [row for n in range(4) for row in load_sidecar(output, of(read_commit(output, n))).to_pylist()]
    reasons = {(row["group"], row["k"]): row["reason"] for row in rows}
    assert reasons["land_bird", 0] == "excluded"
    assert reasons["land_bird", 3] == "duplicate"
    assert reasons["land_bird", 5] == reasons["water_bird", 2] == "purged"
    assert all(row["sha256"] is None and row["thumbnail"] is None for row in rows if row["reason"])


def test_after_a_purge_a_larger_quota_counts_what_is_left(output):
    change(output, excluded=("land_bird-00000000",))
    purge(output)
    change(output, quota={"land_bird": 3, "water_bird": 3})
    with pytest.raises(StoppedError, match="land_bird lacks 1, water_bird lacks 1"):
        done(output)
    # A copy of the image that was taken down, one of a surplus image that is gone, and two new ones.
    late = [
        Candidate("land_bird", 6, twin=("land_bird", 0)),
        Candidate("water_bird", 5, twin=("water_bird", 4)),
        Candidate("land_bird", 7),
        Candidate("water_bird", 6),
    ]
    write_interval(output, 4, late)
    manifest = done(output, 5)
    assert dict(manifest.groups) == {"land_bird": 3, "water_bird": 3, "water_on_land": 0}
    assert {"land_bird-00000007", "water_bird-00000006"} <= set(independent(output.get).keys)
    assert verify(output).ok
    purge(output, 5)
    assert verify(output).ok
    assert set(images(output)) == set(independent(output.get).keys)


def test_two_purges_and_a_change_at_once(output):
    there = done(output)
    revision = latest_revision(output)

    def meanwhile():
        change(output, excluded=("water_bird-00000000",))
        raise AssertionError

    store = output
    original = gc.replacements

    def slow(*arguments):
        change(store, excluded=("water_bird-00000000",))
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "replacements", slow)
        with pytest.raises(ConflictError, match="selection/0001"):
            gc.purge(store, GROUPS, CODEC, there, meanwhile, dry_run=False)
    assert latest_revision(store).number == revision.number + 1
    assert verify(store).ok
    purge(store)
    assert verify(store).ok


def test_a_set_that_is_finished_while_a_purge_looks_around_loses_nothing(store, monkeypatch):
    """The new set names a trimmed shard again, which to the purge is only an older set's."""
    write_first_revision(store, Exact(QUOTA))
    for interval, candidates in enumerate(INTERVALS[:2]):
        write_interval(store, interval, candidates)
    done(store, 2)
    change(store, quota={"land_bird": 2, "water_bird": 3})  # all that there is, so that nothing need be replaced
    settle_log = gc.settle_log

    def meanwhile(*arguments):
        settled = settle_log(*arguments)
        change(store, quota=QUOTA)
        done(store, 2)
        return settled

    monkeypatch.setattr(gc, "settle_log", meanwhile)
    with pytest.raises(ConflictError, match="run again"):
        purge(store, 2)
    assert latest_manifest(store).revision == 2
    assert verify(store).ok
    monkeypatch.undo()
    purge(store, 2)
    assert verify(store).ok


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 24), st.booleans())
def test_a_purge_that_dies_anywhere_goes_on(writes, tighten):
    wish = {"tightened": {"blank_std": 0.5}} if tighten else {"excluded": ("land_bird-00000000",)}
    undisturbed = made(fresh_store())
    change(undisturbed, **wish)
    purge(undisturbed)
    store = made(fresh_store())
    change(store, **wish)
    done(store)
    try:
        with dying(store, writes=writes):
            purge(store)
    except Killed:
        # The copy for people may lag behind; what programs read never does.
        assert not [problem for problem in verify(store).problems if "manifest.json differs" not in problem]
    purge(store)
    assert keys(store, "") == keys(undisturbed, "")
    assert store.get("manifest.json") == undisturbed.get("manifest.json")
    assert verify(store).ok


def test_nobody_asked_nothing_to_purge(tmp_path):
    store = made(open_store(str(tmp_path)))
    assert purge(store, dry_run=True)  # surplus and a duplicate lie there
    assert purge(store)
    assert verify(store).ok


@pytest.mark.parametrize(
    ("wish", "key", "reason"),
    [
        ({"tightened": {"blank_std": 0.9}}, "land_bird-00000000", "blank"),
        ({"near": 3}, "water_bird-00000001", "near_duplicate"),
        ({"excluded": ("water_bird-00000000",)}, "water_bird-00000000", "excluded"),
        ({"quota": {"land_bird": 2, "water_bird": 1}}, "water_bird-00000001", "surplus"),
    ],
)
def test_verify_names_what_is_there_against_the_selection(store, wish, key, reason):
    """A set of one selection under the manifest of another, as a forger or a mistake would leave it."""
    looks = [bytes(32), b"\x07" + bytes(31), b"\xff" * 32]
    candidates = [
        Candidate("land_bird", 0, std=0.5, look=looks[0]),
        Candidate("water_bird", 0, look=looks[0]),
        Candidate("land_bird", 1, look=looks[2]),
        Candidate("water_bird", 1, look=looks[1]),
    ]
    write_first_revision(store, Exact(QUOTA))
    write_interval(store, 0, candidates)
    done(store, 1)
    assert verify(store).ok
    first = latest_revision(store)
    store.put(layout.selection_key(0), documents.to_bytes(dataclasses.replace(first, **wish)))
    problems = verify(store).problems
    tar = latest_manifest(store).shards[0].key
    assert f"{tar}: {key} is there against selection/0000.json: {reason}" in problems
