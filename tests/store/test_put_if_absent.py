"""At most one body a key, whoever races and whatever the storage answers."""

import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ffr_dist.errors import MissingError, StoreError
from ffr_dist.store import Mine, Store, StoreConfig, Theirs, open_store, retry


@pytest.fixture(params=["folder", "memory"])
def url(request, tmp_path):
    return str(tmp_path) if request.param == "folder" else f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def no_waiting(monkeypatch):
    monkeypatch.setattr(retry, "_FIRST_S", 0.0)


def test_of_many_threads_one_wins_and_all_agree(url):
    store, keys, racers = open_store(url), [f"commits/{n:08d}.json" for n in range(10)], 12
    barrier = Barrier(racers)

    def race(racer: int) -> list[Mine | Theirs]:
        mine = store if racer % 2 else open_store(url)  # clients of their own, too
        results = []
        for key in keys:
            barrier.wait()
            results.append(mine.put_if_absent(key, b"%d" % racer))
        return results

    with ThreadPoolExecutor(racers) as pool:
        by_racer = list(pool.map(race, range(racers)))
    for place, key in enumerate(keys):
        winners = [racer for racer in range(racers) if isinstance(by_racer[racer][place], Mine)]
        assert len(winners) == 1
        body = store.get(key)
        assert body == b"%d" % winners[0]
        assert {result.body for result in (r[place] for r in by_racer) if isinstance(result, Theirs)} == {body}


RACER = """
import sys, time
from pathlib import Path
from ffr_dist.store import Mine, open_store
store, racer, start = open_store(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
print("ready", flush=True)
while not start.exists():
    time.sleep(0.001)
print("".join("1" if isinstance(store.put_if_absent(f"c/{n}", racer.encode()), Mine) else "0" for n in range(50)))
"""


def test_of_many_processes_one_wins(tmp_path):
    start, command = tmp_path / "start", [sys.executable, "-c", RACER, str(tmp_path / "out")]
    racers = [
        subprocess.Popen([*command, str(racer), str(start)], stdout=subprocess.PIPE, text=True) for racer in range(4)
    ]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    start.touch()
    won = [racer.communicate(timeout=60)[0].strip() for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 4
    store = open_store(str(tmp_path / "out"))
    for key in range(50):
        winners = [racer for racer in range(4) if won[racer][key] == "1"]
        assert len(winners) == 1
        assert store.get(f"c/{key}") == b"%d" % winners[0]


class Unreliable:
    """A writer whose answers are lost, or whose writes do not happen, as a script says; then it works."""

    def __init__(self, writer, script):
        self.writer, self.script = writer, list(script)

    def put(self, key, body):
        self.writer.put(key, body)

    def create(self, key, body):
        step = self.script.pop(0) if self.script else "works"
        if step == "refused before":
            raise OSError("connection reset")
        self.writer.create(key, body)
        if step == "reply lost":
            raise OSError("timed out")


STEPS = st.sampled_from(["works", "refused before", "reply lost"])


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.binary(max_size=2), st.lists(STEPS, max_size=4)), min_size=1, max_size=4))
def test_lost_replies_never_make_a_second_body(no_waiting, offers):
    clean = open_store(f"memory://{uuid.uuid4().hex}")
    for body, script in offers:
        store = Store(clean.url, clean._backend, Unreliable(clean._writer, script))
        result = store.put_if_absent("commits/1.json", body)
        there = clean.get("commits/1.json")
        assert there == offers[0][0]
        assert result == (Mine() if there == body else Theirs(there))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STEPS, max_size=5))
def test_in_a_folder_too(no_waiting, tmp_path_factory, script):
    clean = open_store(str(tmp_path_factory.mktemp("store")))
    store = Store(clean.url, clean._backend, Unreliable(clean._writer, script))
    assert store.put_if_absent("a/b", b"mine") == Mine()
    assert clean.get("a/b") == b"mine"
    assert clean.put_if_absent("a/b", b"late") == Theirs(b"mine")


def test_a_store_that_stays_away_is_an_error_in_the_end_and_nothing_is_written(url):
    clean = open_store(url)
    broken = Unreliable(clean._writer, ["refused before"] * 1_000_000)
    store = Store(clean.url, clean._backend, broken, config=StoreConfig(retry_s=0.3))
    with pytest.raises(StoreError, match=r"k could not be written.*connection reset"):
        store.put_if_absent("k", b"mine")
    assert 1 < 1_000_000 - len(broken.script) < 1_000
    with pytest.raises(MissingError):
        clean.get("k")


def test_racing_clients_with_lost_replies_agree(url, no_waiting):
    clean = open_store(url)

    def offer(racer: int) -> Mine | Theirs:
        script = [("reply lost", "refused before", "works")[(racer + n) % 3] for n in range(4)]
        return Store(clean.url, clean._backend, Unreliable(clean._writer, script)).put_if_absent("k", b"%d" % racer)

    with ThreadPoolExecutor(9) as pool:
        results = list(pool.map(offer, range(27)))
    assert sum(isinstance(result, Mine) for result in results) == 1
    assert {result.body for result in results if isinstance(result, Theirs)} == {clean.get("k")}


def test_offering_equal_bytes_again_is_mine(url):
    store = open_store(url)
    assert store.put_if_absent("k", b"x") == Mine()
    assert store.put_if_absent("k", b"x") == Mine()
    assert store.put_if_absent("k", b"y") == Theirs(b"x")
