import itertools

import pytest
from noise import CODEC, GROUPS, SIZE, NoiseSampler, pinned, requests

from ffr_dist.generate.driver import Driver
from ffr_dist.generate.inline import run_inline
from ffr_dist.generate.worker import Worker, WorkSpec
from ffr_dist.shards.finish import finish
from ffr_dist.store import open_store

_numbers = itertools.count()


@pytest.fixture
def fresh_store():
    """Makes stores that nobody else has."""
    return lambda: open_store(f"memory://generate-{next(_numbers)}")


@pytest.fixture
def make_worker():
    """Makes workers, and ends them."""
    made = []

    def make(store, sampler=None, *, pins=None, encoders=2, on_batch=None):
        spec = WorkSpec(groups=GROUPS, codec=CODEC, size=SIZE, pinned=pins or pinned(), encoders=encoders)
        made.append(Worker(spec, store, sampler or NoiseSampler(), requests, on_batch))
        return made[-1]

    yield make
    for worker in made:
        worker.__exit__(None, None, None)


@pytest.fixture
def generated(make_worker):
    """Generates a whole set in this process and finishes it."""

    def generate(store, quota, *, bad=None, pins=None):
        driver = Driver(store, GROUPS, quota, pins or pinned())
        end = run_inline(driver, make_worker(store, NoiseSampler(bad=bad), pins=pins))
        return finish(store, GROUPS, CODEC, SIZE, planned=end.intervals)

    return generate
