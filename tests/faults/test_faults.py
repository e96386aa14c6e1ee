"""Writers before a real service that fails them in every way: each create has one owner, nothing is lost."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from faults.proxy import FaultProxy, at_rates

from ffr_dist.errors import InputError, StoreError
from ffr_dist.store import Mine, StoreConfig, open_store, probe

pytestmark = pytest.mark.store
PATIENT = {"timeout_s": 1.0, "connect_timeout_s": 1.0, "retry_s": 60.0}
WRITERS = 4


def through(proxy):
    return StoreConfig(endpoint=proxy.endpoint, **PATIENT)


@pytest.mark.parametrize("fault", ["500", "503", "409", "reset before", "reset after", "stall", "truncate"])
def test_many_writers_end_right_whatever_fails(s3, fault):
    keys = [f"commits/{number:04d}" for number in range(25)]
    rate = 0.03 if fault == "stall" else 0.2
    with FaultProxy(s3.server.endpoint, at_rates({fault: rate}, seed=3), stall_s=1.5) as proxy:
        store = open_store(s3.url, config=through(proxy))

        def write(writer):
            outcomes = []
            for number, key in enumerate(keys):
                store.put(f"shards/{writer}-{number}", b"%d" % number * 5_000)
                outcomes.append(store.put_if_absent(key, b"%d of %d" % (writer, number) * 200))
                assert store.get(f"shards/{writer}-{number}") == b"%d" % number * 5_000
            return outcomes

        with ThreadPoolExecutor(WRITERS) as pool:
            by_writer = list(pool.map(write, range(WRITERS)))
        listed = [info.key for info in store.list("shards")]
        assert proxy.counts[fault] > 3, proxy.counts
    clean = open_store(s3.url)
    for number, key in enumerate(keys):
        outcomes = [outcomes[number] for outcomes in by_writer]
        owners = [writer for writer, outcome in enumerate(outcomes) if isinstance(outcome, Mine)]
        assert len(owners) == 1
        body = clean.get(key)
        assert body == b"%d of %d" % (owners[0], number) * 200
        assert all(outcome.body == body for outcome in outcomes if not isinstance(outcome, Mine))
    expected = sorted(f"shards/{writer}-{number}" for writer in range(WRITERS) for number in range(25))
    assert listed == expected == [info.key for info in clean.list("shards")]


def test_all_faults_at_once_on_large_objects_too(s3, tmp_path):
    rates = {"500": 0.05, "503": 0.05, "reset before": 0.05, "reset after": 0.05, "truncate": 0.1}
    big = bytes(range(256)) * (20 << 12)  # 20 MiB: three parts
    (tmp_path / "big").write_bytes(big)
    with FaultProxy(s3.server.endpoint, at_rates(rates, seed=5)) as proxy:
        store = open_store(s3.url, config=StoreConfig(endpoint=proxy.endpoint, retry_s=60))
        for number in range(4):
            store.put(f"big/{number}", big)
            store.put_file(f"file/{number}", tmp_path / "big")
            assert store.get(f"big/{number}") == big
            assert store.get_ranges(f"file/{number}", [3, 9 << 20], [5, 1000]) == [big[3:8], big[9 << 20 :][:1000]]
            store.copy(f"big/{number}", store, f"copy/{number}")
            store.delete(f"big/{number}")
        assert all(proxy.counts[fault] for fault in ("500", "503", "reset before", "reset after")), proxy.counts
    clean = open_store(s3.url)
    assert [info.key for info in clean.list()] == [f"{kind}/{n}" for kind in ("copy", "file") for n in range(4)]
    assert all(clean.get(f"copy/{number}") == big for number in range(4))


def test_what_takes_effect_after_its_writer_has_given_up_makes_no_second_owner(s3):
    first = []

    def plan(request):  # the first create stalls past the client's patience, and then arrives
        if request.creates and not first:
            first.append(request)
            return "stall"
        return None

    with FaultProxy(s3.server.endpoint, plan, stall_s=1.5) as proxy:
        store = open_store(s3.url, config=StoreConfig(endpoint=proxy.endpoint, timeout_s=0.5, retry_s=30))
        assert store.put_if_absent("k", b"same") == Mine()
        assert proxy.counts["stall"] == 1
        time.sleep(2)  # the late one has arrived
        assert store.put_if_absent("k", b"other").body == b"same" == store.get("k")


def test_a_service_that_stays_away_is_an_error_within_the_time_given(s3):
    with FaultProxy(s3.server.endpoint, lambda request: "503") as proxy:
        store = open_store(s3.url, config=StoreConfig(endpoint=proxy.endpoint, retry_s=1))
        for call in (store.get, store.head, store.delete, lambda key: store.put(key, b""), store.list):
            with pytest.raises(StoreError, match="503"):
                list(call("k") or ())
        with pytest.raises(StoreError, match="503"):
            store.put_if_absent("k", b"")


def test_a_gateway_that_is_restarted_costs_time_and_nothing_else(s3):
    store = open_store(s3.url, config=StoreConfig(retry_s=60))
    with ThreadPoolExecutor(2) as pool:
        store.put("warm", b"")
        s3.server.stop_gateway()
        try:
            outcome = pool.submit(store.put_if_absent, "k", b"mine")
            body = pool.submit(store.get, "warm")
        finally:
            s3.server.start_gateway()
        assert outcome.result(60) == Mine()
        assert body.result(60) == b""
    assert store.get("k") == b"mine"


def test_a_service_that_ignores_the_condition_is_refused(s3):
    with FaultProxy(s3.server.endpoint, lambda request: "strip", s3.server.keys) as proxy:
        store = open_store(s3.url, config=StoreConfig(endpoint=proxy.endpoint))
        with pytest.raises(InputError, match="does not honour put-if-absent"):
            probe(store)
        assert proxy.counts["strip"] > 300
    assert list(open_store(s3.url).list()) == []


def test_a_versioned_bucket_is_refused(s3):
    store = open_store(f"s3://{s3.server.new_bucket(versioned=True)}")
    with pytest.raises(InputError, match="turn versioning off"):
        probe(store)
    assert list(store.list()) == []
