import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from shard_outputs import Candidate, write_interval

from ffr_dist.errors import BrokenError, ConflictError
from ffr_dist.shards import documents, layout
from ffr_dist.shards.commit import Commit, GroupTally, ObjectRef, abandon, publish, read_commit


def test_the_first_of_many_attempts_wins_for_all(store):
    offers = [abandon(7, f"attempt-{number}", "three failures") for number in range(24)]
    with ThreadPoolExecutor(12) as pool:
        winners = list(pool.map(lambda commit: publish(store, commit), offers))
    assert len(set(map(documents.to_bytes, winners))) == 1
    assert publish(store, abandon(7, "late", "slow")) == winners[0]
    assert read_commit(store, 7) == winners[0]


def test_offering_the_same_commit_again_is_no_conflict(store):
    commit = abandon(0, "a", "reason")
    assert publish(store, commit) == publish(store, commit) == commit


def test_a_commit_reads_back_as_it_was_written(store):
    commit = write_interval(store, 3, [Candidate("water_bird", 0), Candidate("land_bird", 0, "blank")])
    assert read_commit(store, 3) == commit
    assert commit.groups["land_bird"] == GroupTally(1, 0, {"blank": 1})


REF = {"key": layout.tar_key(1, "a" * 64), "sha256": "a" * 64, "bytes": 5}
SIDE = {"key": layout.sidecar_key(1, "b" * 64), "sha256": "b" * 64, "bytes": 5}
GOOD = {
    "protocol": 1,
    "interval": 1,
    "attempt": "a",
    "tar": REF,
    "sidecar": SIDE,
    "groups": {"g": {"tried": 2, "accepted": 1, "rejected": {"blank": 1}}},
    "environment": {},
    "seconds": 1.0,
    "abandoned": None,
}


def test_the_good_one_below_is_good(store):
    store.put(layout.commit_key(1), json.dumps(GOOD).encode())
    assert read_commit(store, 1).tar == ObjectRef(**REF)


@pytest.mark.parametrize(
    "change",
    [
        {"interval": 2},
        {"tar": None},
        {"sidecar": None},
        {"tar": REF | {"key": "../../etc/passwd"}},
        {"tar": REF | {"key": layout.tar_key(2, "a" * 64)}},
        {"tar": REF | {"sha256": "c" * 64}},
        {"tar": REF | {"bytes": -1}},
        {"tar": REF | {"bytes": 2**63}},
        {"sidecar": REF},
        {"groups": {"g": {"tried": 3, "accepted": 1, "rejected": {}}}},
        {"groups": {"g": {"tried": 0, "accepted": 0, "rejected": {}}}},
        {"abandoned": "why"},
        {"seconds": "soon"},
        {"more": 1},
    ],
)
def test_a_commit_that_contradicts_itself_is_damage(store, change):
    store.put(layout.commit_key(1), json.dumps(GOOD | change).encode())
    with pytest.raises(BrokenError, match=r"commits/00000001\.json"):
        read_commit(store, 1)


def test_a_commit_of_another_protocol_is_refused(store):
    store.put(layout.commit_key(1), json.dumps(GOOD | {"protocol": 2}).encode())
    with pytest.raises(ConflictError, match="protocol 2"):
        read_commit(store, 1)


def test_an_interval_with_nothing_accepted_has_no_tar(store):
    commit = write_interval(store, 0, [Candidate("land_bird", 0, "nan")])
    assert commit.tar is None
    with pytest.raises(ValueError, match="tar"):
        Commit(
            interval=0,
            attempt="a",
            tar=ObjectRef(layout.tar_key(0, "a" * 64), "a" * 64, 1),
            sidecar=commit.sidecar,
            groups=commit.groups,
            environment={},
            seconds=0.0,
        )
