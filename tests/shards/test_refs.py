import hashlib
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffr_dist.errors import BrokenError
from ffr_dist.shards.refs import ObjectRef, confirm, fetch, in_order


@given(st.lists(st.integers()), st.integers(1, 5))
def test_results_come_in_order(items, ahead):
    assert list(in_order(lambda item: item * 2, items, ahead)) == [item * 2 for item in items]


def test_no_more_than_so_many_results_wait_for_their_reader():
    started, lock = [], threading.Lock()

    def work(item):
        with lock:
            started.append(item)
        return item

    for taken, _ in enumerate(in_order(work, range(50), 3)):
        assert max(started) <= taken + 3


def test_an_error_reaches_the_reader():
    def work(item):
        if item == 2:
            raise BrokenError("two")
        return item

    with pytest.raises(BrokenError, match="two"):
        list(in_order(work, range(9), 2))


def test_an_object_is_held_against_its_length_and_hash(store):
    body = b"hello"
    ref = ObjectRef("a/b", hashlib.sha256(body).hexdigest(), len(body))
    for check in (fetch, confirm):
        with pytest.raises(BrokenError, match="a/b is missing"):
            check(store, ref)
    store.put("a/b", body)
    assert fetch(store, ref) == body
    confirm(store, ref)
    store.put("a/b", b"hellO")
    with pytest.raises(BrokenError, match="a/b does not have the sha256"):
        fetch(store, ref)
    store.put("a/b", b"hell")
    for check in (fetch, confirm):
        with pytest.raises(BrokenError, match="4 bytes instead of 5"):
            check(store, ref)
