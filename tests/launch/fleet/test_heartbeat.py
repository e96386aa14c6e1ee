import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from ffr_dist.errors import ConflictError, StoreError
from ffr_dist.launch.fleet.heartbeat import Heartbeat, Spent, claim, process_started, read_drivers
from ffr_dist.shards import documents, layout
from ffr_dist.store import open_store


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path))


def foreign(store, **changes):
    """The record of a driver elsewhere, as it would stand in the store."""
    name = _mine(store)
    (mine,) = [record for record in read_drivers(store) if record.driver == name]
    other = replace(mine, driver="other", host="elsewhere", boot="another boot", pid=1, ended=None, **changes)
    store.put(layout.driver_key("other"), documents.to_bytes(other))
    return other


def _mine(store):
    with Heartbeat(store) as heart:
        return heart.driver


def test_it_beats_and_says_what_it_spends_and_when_it_ended(store):
    with Heartbeat(store, every_s=0.02) as heart:
        heart.spent = lambda: Spent(workers=3, device_seconds=12.0, cost=0.5)
        first = read_drivers(store)[0]
        deadline = time.monotonic() + 20
        while (later := read_drivers(store)[0]).beat < first.beat + 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert (later.workers, later.device_seconds, later.cost) == (3, 12.0, 0.5)
        assert later.pid == os.getpid()
        assert later.ended is None
    (last,) = read_drivers(store)
    assert last.ended is not None
    assert (last.workers, last.cost) == (0, 0.5)


def test_a_run_that_raises_ends_its_record_too(store):
    with pytest.raises(RuntimeError), Heartbeat(store):
        raise RuntimeError
    assert read_drivers(store)[0].ended is not None


def test_an_ended_driver_is_not_waited_for(store):
    _mine(store)
    assert claim(store, watch_s=1000.0) == []


def test_one_that_stands_still_is_taken_over_and_not_watched_again(store):
    foreign(store)
    assert claim(store, watch_s=0.2) == []
    assert all(record.ended is not None for record in read_drivers(store))
    assert claim(store, watch_s=1000.0) == []


def test_one_that_beats_is_refused_by_name(store):
    other = foreign(store)
    with beating(store, other), pytest.raises(ConflictError, match=r"process 1 on elsewhere.*--join"):
        claim(store, watch_s=30.0)


def test_with_join_one_that_beats_is_company(store):
    other = foreign(store)
    with beating(store, other):
        assert [record.driver for record in claim(store, join=True, watch_s=30.0)] == ["other"]


def test_one_that_ends_while_it_is_watched_is_gone(store):
    other = foreign(store)
    timer = threading.Timer(
        0.2, lambda: store.put(layout.driver_key("other"), documents.to_bytes(replace(other, ended="now")))
    )
    timer.start()
    assert claim(store, watch_s=1000.0) == []
    timer.join()


def test_a_dead_process_of_this_host_is_taken_over_at_once(store):
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    started = process_started(process.pid)
    mine = _mine(store)
    (record,) = [one for one in read_drivers(store) if one.driver == mine]
    other = replace(record, driver="other", pid=process.pid, pid_started=started, ended=None)
    store.put(layout.driver_key("other"), documents.to_bytes(other))
    assert process_started(process.pid) == other.pid_started
    process.communicate()
    assert process_started(process.pid) is None
    assert claim(store, watch_s=1000.0) == []


def test_another_process_under_the_same_number_is_not_it(store):
    mine = _mine(store)
    (record,) = [one for one in read_drivers(store) if one.driver == mine]
    other = replace(record, driver="other", pid=os.getpid(), pid_started="1", ended=None)
    store.put(layout.driver_key("other"), documents.to_bytes(other))
    assert claim(store, watch_s=1000.0) == []


def test_foreign_objects_are_nobody(store):
    store.put("drivers/x.json", b"\x80\x04pickle")
    store.put("drivers/readme.txt", b"hello")
    store.put("drivers/y.json", documents.to_bytes(foreign(store)))  # under a name that is not its own
    store.delete(layout.driver_key("other"))
    assert claim(store, watch_s=1000.0) == []


def test_it_notices_company(store):
    with Heartbeat(store, every_s=0.05) as heart:
        assert not heart.company
        with Heartbeat(store, every_s=0.05):
            deadline = time.monotonic() + 20
            while not heart.company:
                assert time.monotonic() < deadline
                time.sleep(0.01)


def test_a_store_that_fails_ends_nothing(store, monkeypatch):
    def put(key, body):
        raise StoreError("503")

    monkeypatch.setattr(store, "put", put)
    with Heartbeat(store, every_s=0.01):
        time.sleep(0.05)


def test_what_others_spent_is_summed(store):
    with Heartbeat(store, every_s=60) as first:
        first.spent = lambda: Spent(device_seconds=7200.0)
    with Heartbeat(store, every_s=60) as second:
        second.spent = lambda: Spent(device_seconds=60.0, cost=3.0)
    with Heartbeat(store) as heart:
        assert heart.spent_elsewhere(2.0) == 2 * 2.0 + 3.0
        assert heart.spent_elsewhere(None) == 3.0


def test_what_others_spend_is_counted_again_only_while_they_are_at_work_and_now_and_then(store, monkeypatch):
    foreign(store, cost=3.0)
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    heart = Heartbeat(store)
    heart._look_around()
    assert heart.spent_beside(2.0) is None  # it may be long dead
    foreign(store, device_seconds=1800.0)
    heart._look_around()
    assert heart.spent_beside(2.0) == 1.0
    foreign(store, device_seconds=3600.0)
    heart._look_around()
    assert heart.spent_beside(2.0) is None  # asked a moment ago
    now[0] += 15
    assert heart.spent_beside(2.0) == 2.0
    now[0] += 15
    assert heart.spent_beside(2.0) is None  # gone
    foreign(store, cost=4.0)
    heart._look_around()
    monkeypatch.setattr(store, "list", _down)
    assert heart.spent_beside(2.0) is None


def _down(folder):
    raise StoreError("503")
    yield


class beating:
    """Somebody who rewrites a record."""

    def __init__(self, store, record):
        self._store, self._record = store, record
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat)

    def __enter__(self):
        self._thread.start()

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _beat(self):
        while not self._stop.wait(0.05):
            self._record = replace(self._record, beat=self._record.beat + 1)
            self._store.put(layout.driver_key(self._record.driver), documents.to_bytes(self._record))
