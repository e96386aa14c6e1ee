"""Nodes that come and go, and several drivers at one output, on one Ray cluster of several raylets."""

import os
import random
import signal
import time

import harness
import pytest
from ray.cluster_utils import Cluster
from recorded import Noise

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def cluster():
    """Makes a head with so many CPU slots."""
    made = []

    def make(slots):
        made.append(Cluster(initialize_head=True, head_node_args={"num_cpus": slots, "include_dashboard": False}))
        return made[-1]

    yield make
    for one in made:
        one.shutdown()


def test_one_worker_then_eight_then_three(cluster, scenario):
    nodes = cluster(1)
    one = scenario(Noise(each=250, delay_s=0.3), workers="auto")
    one.environment["RAY_ADDRESS"] = nodes.address
    start = one.start()
    assert one.wait_for_commits(3, start)
    two, five = (nodes.add_node(num_cpus=slots) for slots in (2, 5))
    one.counts["nodes joined"] += 2
    assert one.wait_for(lambda: one.workers() == 8, start)
    assert one.wait_for_commits(one.commits() + 12, start)
    nodes.remove_node(five, allow_graceful=False)
    one.counts["nodes lost"] += 1
    assert one.wait_for(lambda: one.workers() == 3, start)
    assert one.end(start) == 0
    nodes.remove_node(two)
    assert not list(one.store.list("failures"))
    assert one.done(workers="1 8 3")["abandoned"] == 0


@pytest.mark.parametrize("drivers", [2, 4])
def test_drivers_that_race(cluster, scenario, drivers):
    """All join; one is killed, one is told to stop, and one comes later."""
    nodes = cluster(2 * drivers)
    one = scenario(Noise(each=180, delay_s=0.2))
    one.environment["RAY_ADDRESS"] = nodes.address
    rng = random.Random(one.seed)
    racing = [one.start("--join") for _ in range(drivers)]
    one.counts["drivers"] = drivers
    assert one.wait_for_commits(5 * drivers, *racing)
    killed = racing.pop(rng.randrange(len(racing)))
    harness.kill_driver(killed)
    one.end(killed, expect=(-signal.SIGKILL,))
    one.counts["killed"] += 1
    if drivers > 2:
        stopped = racing.pop(rng.randrange(len(racing)))
        os.kill(stopped.pid, signal.SIGTERM)
        one.counts["SIGTERM"] += 1
        assert one.end(stopped) == 3
    racing.append(one.start("--join"))
    one.counts["drivers"] += 1
    assert [one.end(start) for start in racing] == [0] * len(racing)
    one.done()


def test_nodes_that_leave_again_and_again(cluster, scenario):
    nodes = cluster(1)
    one = scenario(Noise(each=180, delay_s=0.2), workers="auto")
    one.environment["RAY_ADDRESS"] = nodes.address
    rng = random.Random(one.seed)
    start = one.start()
    for _ in range(4):
        more = nodes.add_node(num_cpus=2)
        if not one.wait_for(lambda: one.workers() >= 3, start):
            break
        time.sleep(rng.uniform(0, 2))
        nodes.remove_node(more, allow_graceful=False)
        one.counts["nodes lost"] += 1
        if not one.wait_for(lambda: one.workers() == 1, start):
            break
    assert one.end(start) == 0
    assert not list(one.store.list("failures"))
    assert one.done()["abandoned"] == 0
