import pytest

from ffr_dist.launch.watch.ledger import Ledger
from ffr_dist.recipe import GenerateConfig


class Clock:
    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def ledger(clock, spent=0.0, *, gpus=True, **settings):
    return Ledger(GenerateConfig(**settings), spent, clock, gpus=gpus)


def test_device_time_is_workers_times_their_share_of_a_gpu(clock):
    found = ledger(clock, gpus_per_worker=0.5, price_per_gpu_hour=3.0)
    found.tick(8)
    assert found.device_seconds == 0.0
    for _ in range(60):
        clock.now += 60
        found.tick(8)
    assert found.device_seconds == pytest.approx(8 * 0.5 * 3600)
    assert found.cost == pytest.approx(12.0)


def test_who_comes_or_goes_is_charged_for_the_longest_possible_stay(clock):
    found = ledger(clock)
    found.tick(0)
    clock.now += 10
    found.tick(3)  # they may have been there from the first of these seconds on
    clock.now += 10
    found.tick(1)
    clock.now += 10
    found.tick(1)
    assert found.device_seconds == pytest.approx(30 + 30 + 10)


def test_without_gpus_a_worker_is_charged_as_one(clock):
    found = ledger(clock, gpus=False, gpus_per_worker=0.25, price_per_gpu_hour=1.0)
    found.tick(2)
    clock.now += 3600
    found.tick(2)
    assert (found.device_seconds, found.cost) == (7200.0, 2.0)


def test_without_a_price_nothing_has_a_cost(clock):
    found = ledger(clock)
    found.tick(1)
    clock.now += 1e9
    found.tick(1)
    assert found.cost is found.total_cost is found.over() is None


def test_max_cost_counts_all_starts(clock):
    found = ledger(clock, 9.0, price_per_gpu_hour=2.0, max_cost=10.0)
    found.tick(1)
    clock.now += 1790
    found.tick(1)
    assert found.over() is None
    assert found.total_cost == pytest.approx(9.994, abs=1e-3)
    assert "max_cost" in found.over(ahead_s=20)  # what is in flight would cross it
    clock.now += 10
    found.tick(1)
    assert "10.00 of 10" in found.over()
    found.elsewhere = 0.0
    assert found.over() is None
    found.elsewhere = 9.5  # another driver at work has spent more
    assert found.over() is not None


def test_an_output_that_is_over_already_is_so_before_the_first_tick(clock):
    assert "max_cost" in ledger(clock, 11.0, price_per_gpu_hour=1.0, max_cost=10.0).over()


def test_max_hours_counts_this_start(clock):
    found = ledger(clock, 100.0, max_hours=1.5, price_per_gpu_hour=1.0)
    clock.now += 1.5 * 3600 - 1
    assert found.over() is None
    assert "max_hours" in found.over(ahead_s=1)
    clock.now += 1
    assert "1.5 h" in found.over()
