from concurrent.futures import ThreadPoolExecutor

import pytest

from ffr_dist.errors import BrokenError, ConflictError
from ffr_dist.quota import Exact, Survivors
from ffr_dist.shards import documents, layout
from ffr_dist.shards.selection import Revision, latest_revision, read_revision, write_first_revision


def test_nothing_stands_in_an_empty_output(store):
    assert latest_revision(store) is None


def test_the_same_quota_finds_the_same_revision(store):
    first = write_first_revision(store, Exact({"b": 2, "a": 1}))
    assert write_first_revision(store, Exact({"a": 1, "b": 2, "c": 0})) == first == latest_revision(store)
    assert first == Revision(0, "exact", {"a": 1, "b": 2})


def test_another_quota_is_refused_and_names_the_groups(store):
    write_first_revision(store, Exact({"a": 1, "b": 2}))
    with pytest.raises(ConflictError, match=r"a \(1 there, 5 now\), c \(0 there, 1 now\)"):
        write_first_revision(store, Exact({"a": 5, "b": 2, "c": 1}))
    with pytest.raises(ConflictError, match="survivors"):
        write_first_revision(store, Survivors({"a": 1, "b": 2}))


def test_the_latest_revision_is_the_one_to_agree_with(store):
    write_first_revision(store, Exact({"a": 1}))
    later = Revision(1, "exact", {"a": 2}, excluded=("a-00000000",), considered=((0, 3), (5, 9)))
    store.put_if_absent(layout.selection_key(1), documents.to_bytes(later))
    store.put("selection/notes.txt", b"")
    assert write_first_revision(store, Exact({"a": 2})) == later == read_revision(store, 1)
    assert [later.considers(interval) for interval in (0, 2, 3, 4, 5, 8, 9)] == [
        True,
        True,
        False,
        False,
        True,
        True,
        False,
    ]
    with pytest.raises(ConflictError, match="another quota"):
        write_first_revision(store, Exact({"a": 1}))


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
