from hypothesis import given, settings
from hypothesis import strategies as st
from shard_outputs import fresh_store

from ffr_dist.shards.commit import abandon, publish
from ffr_dist.shards.log import CommitLog


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sets(st.integers(0, 12)), max_size=5))
def test_the_log_is_what_was_committed_in_any_order(batches):
    store = fresh_store()
    log, seen = CommitLog(store), set()
    for batch in batches:
        for interval in batch:
            publish(store, abandon(interval, "a", "x"))
        new = []
        assert log.refresh(lambda commit: new.append(commit.interval)) == len(batch - seen)
        assert new == sorted(batch - seen)
        seen |= batch
        assert [commit.interval for commit in log.commits()] == sorted(seen)
        assert log.first_gap == min(set(range(14)) - seen)
    assert log.refresh() == 0


def test_foreign_objects_decide_nothing(store):
    for key in ("commits/readme.txt", "commits/00000001.json.bak", "commits/1.json", "commits/00000002/x.json"):
        store.put(key, b"hello")
    log = CommitLog(store)
    assert log.refresh() == 0
    assert log.first_gap == 0
