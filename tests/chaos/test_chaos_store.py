"""A real S3 service that fails in every way while a run writes: through a proxy of faults, and stopped for a while."""

import random
import threading
import time

import pytest
from faults.proxy import FaultProxy, at_rates, healthy
from recorded import Noise
from test_chaos_kills import strike

from ffr_dist.launch.pool import make_pool

pytestmark = [pytest.mark.store, pytest.mark.slow]
RATES = {
    "500": 0.04,
    "503": 0.04,
    "409": 0.2,
    "reset before": 0.04,
    "reset after": 0.08,
    "truncate": 0.04,
    "stall": 0.01,
}
PATIENT = "storage: {timeout_s: 1.5, connect_timeout_s: 2.0, retry_s: 60}\n"


def check_all_struck(one, proxy, kinds):
    one.counts.update({fault: proxy.counts[fault] for fault in kinds})
    assert all(proxy.counts[fault] for fault in kinds), proxy.counts


def test_a_bucket_that_fails_in_every_way_holds_the_same_set(s3, scenario, monkeypatch):
    one = scenario(Noise(each=24), out=f"{s3.url}/pool")
    with FaultProxy(s3.server.endpoint, at_rates(RATES, seed=4), stall_s=2.5) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        make_pool(one.inline(PATIENT), inline=True)
        check_all_struck(one, proxy, RATES)
    one.done()


def test_a_service_that_is_stopped_while_a_run_writes_costs_time_only(s3, scenario):
    one = scenario(Noise(each=48, delay_s=0.1), out=f"{s3.url}/pool")
    run = one.inline(PATIENT)
    failed = []

    def make():
        try:
            make_pool(run, inline=True)
        except BaseException as error:  # noqa: BLE001 - told by the test's thread
            failed.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    one.wait_for_commits(2)
    s3.server.stop_gateway()
    time.sleep(1)
    s3.server.start_gateway()
    one.counts["restart of the service"] += 1
    thread.join(120)
    assert not thread.is_alive()
    assert not failed, failed
    one.done()


@pytest.mark.chaos
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_every_fault_at_once_and_kills(s3, scenario):
    one = scenario(Noise(each=48, delay_s=0.1), out=f"{s3.url}/pool", extra=PATIENT)
    rng = random.Random(one.seed)
    with FaultProxy(s3.server.endpoint, at_rates(RATES, one.seed), stall_s=2.5) as proxy:
        one.environment["AWS_ENDPOINT_URL"] = proxy.endpoint
        start = one.start()
        for count in sorted(rng.sample(range(1, 22), 6)):
            while not one.wait_for_commits(count, start):
                one.end(start)
                start = one.start()
            if strike(one, rng, start):
                start = one.start()
        if one.end(start):
            one.until_done()
        check_all_struck(one, proxy, RATES)
    one.done()


@pytest.mark.chaos
@pytest.mark.parametrize("fault", ["500", "503", "409", "reset before", "reset after", "truncate"])
def test_one_fault_in_three_requests(s3, scenario, fault, monkeypatch):
    one = scenario(Noise(each=48), out=f"{s3.url}/pool")
    with FaultProxy(s3.server.endpoint, at_rates({fault: 0.33}, one.seed)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        make_pool(one.inline(PATIENT), inline=True)
        check_all_struck(one, proxy, [fault])
    one.done()


@pytest.mark.chaos
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_stalls_of_thirty_seconds_longer_than_the_client_waits(s3, scenario):
    """What stalled arrives after it was given up and done again: late creates find their own, or another's, commit."""
    patient = "storage: {timeout_s: 5, retry_s: 120}\n"
    one = scenario(Noise(each=48), out=f"{s3.url}/pool", extra=patient)
    with FaultProxy(s3.server.endpoint, at_rates({"stall": 0.02}, one.seed), stall_s=30.0) as proxy:
        one.environment["AWS_ENDPOINT_URL"] = proxy.endpoint
        one.until_done(most=3)
        check_all_struck(one, proxy, ["stall"])
        proxy.plan = healthy
        time.sleep(31)  # the last of them has arrived
    one.done()


@pytest.mark.chaos
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_the_service_is_restarted_five_times(s3, scenario):
    one = scenario(Noise(each=90, delay_s=0.1), out=f"{s3.url}/pool", extra=PATIENT)
    rng = random.Random(one.seed)
    start = one.start()
    for _ in range(5):
        if not one.wait_for_commits(one.commits() + 2, start):
            break
        s3.server.stop_gateway()
        time.sleep(rng.uniform(0, 10))
        s3.server.start_gateway()
        one.counts["restart of the service"] += 1
    if one.end(start):
        one.until_done()
    one.done()


@pytest.mark.chaos
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_service_that_stays_away_ends_the_run_with_its_command(s3, scenario):
    impatient = "storage: {timeout_s: 2, connect_timeout_s: 1, retry_s: 4}\n"
    one = scenario(Noise(each=24, delay_s=0.1, quick=True), out=f"{s3.url}/pool", extra=impatient)
    with FaultProxy(s3.server.endpoint) as proxy:
        one.environment["AWS_ENDPOINT_URL"] = proxy.endpoint
        start = one.start()
        assert one.wait_for_commits(2, start)
        proxy.plan = lambda _: "503"
        one.counts["503 for good"] += 1
        assert one.end(start, expect=(3,)) == 3
        assert "503" in start.told
        proxy.plan = healthy
        one.until_done(most=2)
    one.done()
