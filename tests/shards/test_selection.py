import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from shard_outputs import Candidate, write_interval

from ffr_dist.errors import BrokenError, ConflictError, InputError
from ffr_dist.quota import Exact, Survivors
from ffr_dist.shards import documents, layout
from ffr_dist.shards.commit import GroupTally
from ffr_dist.shards.selection import (
    Replaced,
    Revision,
    latest_revision,
    read_revision,
    revise,
    standing,
    write_first_revision,
)


def test_nothing_stands_in_an_empty_output(store):
    assert latest_revision(store) is None


def test_the_same_quota_finds_the_same_revision(store):
    first = write_first_revision(store, Exact({"b": 2, "a": 1}))
    assert write_first_revision(store, Exact({"a": 1, "b": 2, "c": 0})) == first == latest_revision(store)
    assert first == Revision(0, "exact", {"a": 1, "b": 2})


def test_another_quota_is_refused_and_names_the_groups(store):
    write_first_revision(store, Exact({"a": 1, "b": 2}))
    with pytest.raises(
        ConflictError, match=r"a \(1 there, 5 now\), c \(0 there, 1 now\).*ffr extend RECIPE --out memory"
    ):
        write_first_revision(store, Exact({"a": 5, "b": 2, "c": 1}))
    with pytest.raises(ConflictError, match="survivors"):
        write_first_revision(store, Survivors({"a": 1, "b": 2}))


def test_the_latest_revision_is_the_one_to_agree_with(store):
    write_first_revision(store, Exact({"a": 1}))
    later = Revision(1, "exact", {"a": 2}, excluded=("a-00000000",))
    store.put_if_absent(layout.selection_key(1), documents.to_bytes(later))
    store.put("selection/notes.txt", b"")
    assert write_first_revision(store, Exact({"a": 2})) == later == read_revision(store, 1)
    with pytest.raises(ConflictError, match="another quota"):
        write_first_revision(store, Exact({"a": 1}))


def test_a_selection_may_consider_some_intervals_only():
    some = Revision(1, "exact", {"a": 2}, considered=((0, 3), (5, 9)))
    assert [interval for interval in range(12) if some.considers(interval)] == [0, 1, 2, 5, 6, 7, 8]


def test_racing_writers_agree_on_one(store):
    def offer(count: int) -> Revision | None:
        try:
            return write_first_revision(store, Exact({"a": 1 + count % 2}))
        except ConflictError:
            return None

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(offer, range(16)))
    assert {str(result) for result in results if result} == {str(latest_revision(store))}
    assert sum(result is not None for result in results) == 8


def test_a_revision_under_anothers_name_is_damage(store):
    store.put(layout.selection_key(3), documents.to_bytes(Revision(1, "exact", {"a": 2})))
    with pytest.raises(BrokenError, match="revision 1"):
        latest_revision(store)


def excluding(*keys):
    return lambda latest: dataclasses.replace(latest, excluded=tuple(sorted({*latest.excluded, *keys})))


def test_revisions_follow_each_other_and_a_wish_that_stands_is_not_written_twice(store):
    with pytest.raises(InputError, match="ffr generate"):
        revise(store, excluding("a-00000000"))
    write_first_revision(store, Exact({"a": 2}), near=6)
    first = revise(store, excluding("a-00000000"))
    assert (first.number, first.excluded, first.near) == (1, ("a-00000000",), 6)
    assert revise(store, excluding("a-00000000")) == first
    second = revise(store, lambda latest: dataclasses.replace(latest, tightened={"blank_std": 3.5}))
    assert (second.number, second.excluded) == (2, ("a-00000000",))
    assert latest_revision(store) == second


def test_of_racing_wishes_one_is_written_and_the_others_are_told(store):
    write_first_revision(store, Exact({"a": 2}))
    start = Barrier(8)

    def wish(number):
        key = f"a-0000000{number % 2}"

        def change(latest):
            if latest.number == 0:
                start.wait(20)  # all have read the same revision
            return excluding(key)(latest)

        try:
            return key in revise(store, change).excluded
        except ConflictError as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        ends = list(pool.map(wish, range(8)))
    assert latest_revision(store).number == 1
    assert ends.count(True) == 4  # who wished for the same finds it fulfilled
    assert sum("selection/0001.json" in str(end) for end in ends) == 4


@pytest.mark.parametrize(
    "change",
    [
        {"tightened": {"sharpness": 2.0}},
        {"tightened": {"blank_std": "4"}},
        {"tightened": {"blank_std": None}},
        {"near": 0},
        {"near": 257},
        {"considered": [[3, 2]]},
        {"considered": [[0, 2], [1, 4]]},
        {"excluded": "a-00000000"},
        {"replaced": [{"interval": 0}]},
        {"surprise": 1},
    ],
)
def test_a_revision_that_makes_no_sense_is_damage(store, change):
    write_first_revision(store, Exact({"a": 2}))
    key = layout.selection_key(0)
    store.put(key, json.dumps(json.loads(store.get(key)) | change).encode())
    with pytest.raises(BrokenError, match=r"selection/0000\.json is damaged"):
        latest_revision(store)


def test_what_replaces_an_interval_is_held_against_what_a_commit_must_be(store):
    commit = write_interval(store, 0, [Candidate("land_bird", 0), Candidate("land_bird", 1)])
    counts = {"land_bird": GroupTally(2, 0, {"purged": 2})}
    gone = Replaced(0, None, commit.sidecar, counts)
    stands = standing(Revision(1, "exact", {}, replaced=(gone,)))(commit)
    assert (stands.tar, stands.groups, stands.attempt) == (None, counts, commit.attempt)
    lying = dataclasses.replace(gone, tar=commit.tar)
    with pytest.raises(BrokenError, match="replaces interval 0"):
        standing(Revision(1, "exact", {}, replaced=(lying,)))(commit)
    assert standing(Revision(0, "exact", {}))(commit) is commit


def test_a_set_that_was_finished_early_is_not_taken_for_the_whole(store):
    quota = Survivors({"land_bird": 4})
    write_first_revision(store, quota)
    revise(store, lambda latest: dataclasses.replace(latest, considered=((0, 1),)))
    with pytest.raises(ConflictError, match="ffr extend"):
        write_first_revision(store, quota)
