"""Workers and drivers that are killed or told to stop, at random moments of one run."""

import os
import random
import signal
import time

import harness
import pytest
from recorded import Noise

pytestmark = [pytest.mark.ray, pytest.mark.slow]
KILLS = 100
SHARES = {"worker": 0.8, "driver": 0.08, "all at once": 0.12}


def strike(scenario, rng, start, kinds=SHARES):
    """One kill of a random kind; whether the driver was hit."""
    kind = rng.choices([*kinds], [*kinds.values()])[0]
    if kind == "worker":
        if not scenario.wait_for(lambda: bool(harness.actors_of(start)), start):
            return True  # it ended by itself
        actors = harness.actors_of(start)
        scenario.counts["worker"] += bool(actors) and harness.kill(rng.choice(actors))
        return False
    scenario.counts[kind] += 1
    (harness.kill_driver if kind == "driver" else harness.kill_session)(start)
    scenario.end(start, expect=(-signal.SIGKILL,))
    return True


def kills(scenario, rng, due):
    """A kill each time so many commits are there; a driver that was hit is started again, at times to be hit at once."""
    start = scenario.start()
    for count in due:
        while not scenario.wait_for_commits(count, start):
            scenario.end(start)
            start = scenario.start()
        time.sleep(rng.uniform(0, 0.4))
        while strike(scenario, rng, start):
            start = scenario.start()
            if rng.random() < 0.8:
                break
            time.sleep(rng.uniform(0, 8))  # while it claims, loads, lists, starts actors
    if scenario.end(start):
        scenario.until_done()


@pytest.mark.chaos
@pytest.mark.timeout(1200)
def test_a_hundred_random_kills_of_workers_and_drivers(scenario):
    one = scenario(Noise(each=180, delay_s=0.1))
    rng = random.Random(one.seed)
    kills(one, rng, sorted(rng.sample(range(1, 85), KILLS // 2) + rng.choices(range(1, 85), k=KILLS // 2)))
    assert one.done()["done to it"]


def test_a_bucket_outlives_its_workers_and_drivers(s3, scenario):
    """Seeded: a worker, then everything, while the run writes to a real service."""
    one = scenario(Noise(each=24, delay_s=0.1), out=f"{s3.url}/pools/one")
    start = one.start()
    assert one.wait_for_commits(1, start)
    strike(one, random.Random(1), start, {"worker": 1})
    assert one.wait_for_commits(4, start)
    assert strike(one, random.Random(2), start, {"all at once": 1})
    one.until_done(most=2)
    assert one.done()["done to it"] == {"all at once": 1, "worker": 1}


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_sigterm_again_and_again_makes_nothing_twice(scenario):
    one = scenario(Noise(each=90, delay_s=0.1))
    rng = random.Random(one.seed)
    for _ in range(6):
        start = one.start()
        if rng.random() < 0.7:
            one.wait_for_commits(one.commits() + 1, start)
        time.sleep(rng.uniform(0, 3))
        if start.over:
            break
        os.kill(start.pid, signal.SIGTERM)
        one.counts["SIGTERM"] += 1
        if one.end(start, expect=(0, 3, -signal.SIGTERM)) == 0:
            break
    else:
        one.until_done()
    assert one.done()["sampled twice"] == 0
