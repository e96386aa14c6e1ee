"""The small parts between a driver and its fleet: supply, records of failures, room in a cluster, signals."""

import os
import signal

import pytest

from ffr_dist.generate.driver import Finished
from ffr_dist.generate.work import Work
from ffr_dist.launch.fleet.failures import failed_before, record
from ffr_dist.launch.fleet.orders import Failure
from ffr_dist.launch.fleet.room import need_of
from ffr_dist.launch.fleet.signals import StopSignals
from ffr_dist.launch.fleet.supply import Piloted, Supply
from ffr_dist.plan.rounds import Round, Wait
from ffr_dist.recipe import GenerateConfig
from ffr_dist.shards.commit import abandon
from ffr_dist.store import open_store

PILOT, REST = Round(0, 0, 2, {"g": 8}, {"g": 0}), Round(1, 2, 1, {"g": 4}, {"g": 8})


class Three:
    """Two intervals of a pilot and one behind it, planned ahead as for survivors."""

    def __init__(self):
        self.queue = [0, 1, 2]
        self.decided = set()
        self.refreshed = 0

    def next(self):
        if self.queue:
            interval = self.queue.pop(0)
            return Work(interval, PILOT if interval < 2 else REST, 4)
        return Finished(3, None) if len(self.decided) == 3 else Wait(0)

    def lost(self, interval):
        self.queue.insert(0, interval)

    def committed(self, commit):
        self.decided.add(commit.interval)

    def abandon(self, interval, reason):
        commit = abandon(interval, "test", reason)
        self.committed(commit)
        return commit

    def refresh(self):
        self.refreshed += 1

    @property
    def piloted(self):
        return {0, 1} <= self.decided


def test_a_pilot_ends_also_when_another_driver_decided_it():
    driver = Three()
    supply = Supply(driver, pilot=True)
    supply.next()
    supply.next()
    driver.decided |= {0, 1}  # heard of by listing the store, not by a receipt
    assert isinstance(supply.next(), Piloted)


def test_a_pilot_ends_when_its_round_is_decided_and_hands_out_no_other():
    supply = Supply(Three(), pilot=True)
    assert [supply.next().interval, supply.next().interval] == [0, 1]
    assert isinstance(supply.next(), Wait)
    supply.committed(abandon(0, "test", "x"))
    assert isinstance(supply.next(), Wait)
    supply.abandon(1, "x")
    assert isinstance(supply.next(), Piloted)


def test_the_whole_goes_on_behind_the_pilot():
    supply = Supply(Three())
    assert [supply.next().interval for _ in range(3)] == [0, 1, 2]


def test_beside_others_the_store_is_listed_again_every_other_second_at_most():
    now, beside = [0.0], [False]
    driver = Three()
    supply = Supply(driver, joined=lambda: beside[0], clock=lambda: now[0])
    now[0] = 10.0
    supply.next()
    assert driver.refreshed == 0
    beside[0] = True
    for _ in range(5):
        supply.next()
    assert driver.refreshed == 1
    now[0] = 12.5
    supply.next()
    assert driver.refreshed == 2


def failure(attempt, interval=7):
    return Failure(
        interval=interval, attempt=attempt, worker=attempt, node="n", kind="hang", why="no batch", committed=3
    )


def test_failures_are_counted_from_the_store(tmp_path):
    store = open_store(str(tmp_path))
    assert record(store, failure("a")) == [failure("a")]
    store.put("failures/00000007/noise.json", b"not ours")
    store.put("failures/readme", b"not ours")
    assert record(open_store(str(tmp_path)), failure("b")) == [failure("a"), failure("b")]
    record(store, failure("c", interval=12))
    assert failed_before(store) == {7, 12}


NODE = {"NodeID": "a", "Alive": True, "Labels": {"zone": "b", "kind": "H100"}}


@pytest.mark.parametrize(
    ("generate", "resources", "room"),
    [
        ({}, {"GPU": 4.0, "CPU": 64.0}, 4),
        ({"gpus_per_worker": 0.5}, {"GPU": 2.0}, 4),
        ({"gpus_per_worker": 0.1}, {"GPU": 1.0}, 10),
        ({"gpus_per_worker": 2.0}, {"GPU": 5.0}, 2),
        ({}, {"CPU": 7.0}, 3),
        ({"gpus_per_worker": 1.0}, {"CPU": 7.0}, 0),  # whoever names GPUs waits for them
    ],
)
def test_room_of_a_node(generate, resources, room):
    need = need_of(GenerateConfig(**generate), 2, resources)
    assert need.room(NODE | {"Resources": resources}) == room


@pytest.mark.parametrize(
    ("place", "admitted"),
    [
        ({}, True),
        ({"kind": "H100"}, True),
        ({"kind": "A100"}, False),
        ({"kind": "!A100"}, True),
        ({"kind": "in(A100, H100)", "zone": "b"}, True),
        ({"kind": "!in(A100, H100)"}, False),
        ({"rack": "1"}, False),
        ({"rack": "!1"}, True),
    ],
)
def test_labels_as_ray_reads_them(place, admitted):
    need = need_of(GenerateConfig(place=place), 1, {"CPU": 1.0})
    assert need.admits(NODE | {"Resources": {"CPU": 1.0}}) == admitted


def test_a_shortage_says_what_is_missing():
    node = NODE | {"Resources": {"CPU": 1.0}}
    assert need_of(GenerateConfig(), 1, {}).shortage([node]) == ""
    assert "no node left" in need_of(GenerateConfig(), 1, {}).shortage([])
    unknown = need_of(GenerateConfig(place={"kind": "A100"}), 1, {}).shortage([node])
    assert "kind: A100" in unknown
    assert "kind: H100" in unknown
    assert "4 CPU cores" in need_of(GenerateConfig(), 4, {}).shortage([node])


def test_the_first_signal_is_noted_by_who_looks_and_any_other_interrupts():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        with signals.patient():
            os.kill(os.getpid(), signal.SIGTERM)
            assert signals.asked == "SIGTERM"
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before
