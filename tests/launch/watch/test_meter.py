"""Rate and progress of a start, on a clock of the test's."""

import pytest

from ffr_dist.generate.driver import GroupProgress, Progress
from ffr_dist.generate.work import BatchDone, Receipt
from ffr_dist.launch.watch.ledger import Ledger
from ffr_dist.launch.watch.meter import Meter
from ffr_dist.recipe import GenerateConfig
from ffr_dist.shards.commit import abandon


class Clock:
    now = 50.0

    def __call__(self):
        return self.now


class Driver:
    """Knows counts, as the real one tells them."""

    def __init__(self, tried=0, accepted=0):
        self.tried, self.accepted = tried, accepted

    def progress(self):
        rejected = {"blank": self.tried - self.accepted}
        group = GroupProgress(quota=1_000, planned=2_000, tried=self.tried, accepted=self.accepted, rejected=rejected)
        return Progress(round=0, planned=20, decided=3, abandoned=0, groups={"a": group, "b": group})


@pytest.fixture
def clock():
    return Clock()


def make(clock, driver=None, **settings):
    told = []
    ledger = Ledger(GenerateConfig(**settings), 1.0, clock)
    return Meter(driver or Driver(), told.append, workers=4, ledger=ledger, clock=clock), ledger, told


def batches(meter, clock, count, every, interval=0, size=8):
    for _ in range(count):
        clock.now += every
        meter.batch(BatchDone(interval, size, size - 1, {"blank": 1}, sample_s=0.9, idle_s=0.1))


def test_what_warms_up_is_not_the_rate(clock):
    meter, _, told = make(clock)
    batches(meter, clock, 1, 60.0)
    assert told[-1].images_per_second is None
    batches(meter, clock, 10, 1.0)
    assert told[-1].images_per_second == pytest.approx(8.0)
    assert told[-1].idle_share == pytest.approx(0.1)


def test_the_rate_is_of_the_last_minutes(clock):
    meter, _, told = make(clock)
    batches(meter, clock, 600, 1.0)
    batches(meter, clock, 600, 0.5)  # twice as fast now
    assert told[-1].images_per_second == pytest.approx(16.0, rel=0.1)
    clock.now += 60  # nothing comes any more
    meter.show()
    assert told[-1].images_per_second < 12
    assert len(meter._slots) <= 24


def test_a_thousand_batches_a_second_are_told_a_few_times(clock):
    meter, _, told = make(clock)
    batches(meter, clock, 5_000, 0.001)
    assert len(told) <= 26


def test_what_is_to_go_follows_acceptance(clock):
    meter, _, told = make(clock, Driver(tried=500, accepted=250))
    batches(meter, clock, 11, 1.0)
    left = 2 * 750 * 502 / 251 - 11 * 8  # what is in flight is tried already
    assert told[-1].eta_s == pytest.approx(left / 8.0)
    assert told[-1].rejected == {"blank": 500}
    assert told[-1].in_flight == 11 * 7
    meter.receipt(Receipt(abandon(0, "a", "x"), mine=True, seconds={}))
    meter.show()
    assert told[-1].in_flight == 0


def test_news_behind_the_receipt_is_not_counted_again(clock):
    meter, _, told = make(clock)
    batches(meter, clock, 2, 1.0, interval=7)
    meter.receipt(Receipt(abandon(7, "a", "x"), mine=True, seconds={}))
    batches(meter, clock, 2, 1.0, interval=7)
    meter.show()
    assert told[-1].in_flight == 0
    assert told[-1].images_per_second == pytest.approx(8.0)


def test_an_attempt_that_came_to_nothing_leaves_nothing(clock):
    meter, _, told = make(clock)
    batches(meter, clock, 3, 1.0, interval=5)
    meter.dropped(5)
    meter.show()
    assert told[-1].in_flight == 0


def test_money_is_told_for_all_starts(clock):
    meter, ledger, told = make(clock, price_per_gpu_hour=3.6, max_cost=9.0)
    ledger.tick(4)
    clock.now += 500
    ledger.tick(4)
    meter.show()
    assert told[-1].device_seconds == 2_000.0
    assert told[-1].cost == pytest.approx(1.0 + 2.0)
    assert told[-1].max_cost == 9.0
