"""The fleet's decisions, on a clock and a cluster of the test's own."""

import random

import pytest
from fake_fleet import BATCHES, World, commit_of
from hypothesis import given, settings
from hypothesis import strategies as st

from ffr_dist.errors import MissingError, StoreError
from ffr_dist.generate.driver import Finished
from ffr_dist.generate.work import Receipt
from ffr_dist.launch.events import Abandoned, AttemptFailed, Warned, WorkerDown, WorkerUp
from ffr_dist.launch.fleet.orders import Make, Patience, Start, Stop, Stopped
from ffr_dist.launch.fleet.policy import Fleet


def test_everything_is_made_once_where_nothing_happens():
    world = World(40)
    assert isinstance(world.run(), Finished)
    assert sorted(interval for interval, _ in world.attempts) == list(range(40))
    assert world.most == 2
    assert len(world.told(WorkerUp)) == 4
    assert not world.told(AttemptFailed)


def test_nobody_is_started_where_nothing_is_to_be_made():
    world = World(0)
    assert world.fleet.end == Finished(0, None)
    assert not world.fleet.decide(0.0)


def test_an_actor_gets_work_only_when_it_is_ready():
    world = World(4, load_s=50.0)
    for _ in range(90):
        world.step()
    assert world.fleet.running == 4
    assert not world.attempts
    assert isinstance(world.run(), Finished)


def test_each_gets_one_before_anybody_gets_two():
    world = World(5)
    while not world.attempts:
        world.step()
    assert len({name for _, name in world.attempts[:4]}) == 4


@pytest.mark.parametrize(("fate", "kind"), [("raise", "exception"), ("hang", "hang"), ("die", "death")])
def test_an_interval_that_always_fails_is_abandoned_and_the_rest_is_made(fate, kind):
    world = World(30, fate=lambda interval, actor: fate if interval == 7 else None)
    assert isinstance(world.run(), Finished)
    assert world.abandoned == {7}
    records = [one for one in world.failures[7] if one.kind == kind]
    assert len(records) >= 3
    assert len({one.worker for one in records}) >= 2
    assert [event.interval for event in world.told(Abandoned)] == [7]
    assert all(event.interval == 7 for event in world.told(AttemptFailed) if event.kind == kind and fate != "die")


def test_a_single_actor_abandons_the_culprit_alone():
    world = World(12, nodes=1, slots=1, fate=lambda interval, actor: "die" if interval == 0 else None)
    assert isinstance(world.run(), Finished)
    assert world.abandoned == {0}


def test_an_interval_that_fails_twice_is_kept():
    tries = []

    def fate(interval, actor):
        if interval == 3 and actor not in tries:
            tries.append(actor)
        return "raise" if interval == 3 and len(tries) <= 2 else None

    world = World(20, fate=fate)
    assert isinstance(world.run(), Finished)
    assert not world.abandoned
    assert len(world.failures[3]) == 2


def test_the_actor_of_a_failed_attempt_is_replaced_and_what_else_it_made_goes_to_others():
    world = World(20, fate=lambda interval, actor: "raise" if interval == 2 and len(world.failures) == 0 else None)
    assert isinstance(world.run(), Finished)
    culprit = world.failures[2][0].worker
    assert culprit not in world.processes
    had = [interval for interval, name in world.attempts if name == culprit]
    assert len(had) == 2  # of the first hand-out
    assert all([one for one, _ in world.attempts].count(interval) == 2 for interval in had)
    assert list(world.failures) == [2]


def test_where_all_fail_the_fault_is_the_systems():
    world = World(1000, fate=lambda interval, actor: "raise")
    end = world.run()
    assert isinstance(end, Stopped)
    assert "systemic fault" in end.why
    assert "the device is on fire" in end.why
    assert not world.abandoned
    assert len(world.attempts) < 40


def test_a_fault_that_comes_later_abandons_nothing_either():
    world = World(200, fate=lambda interval, actor: "raise" if world.clock > 60 else None)
    end = world.run()
    assert isinstance(end, Stopped)
    assert len(world.abandoned) <= 3
    assert 10 < len(world.driver.decided) < 200


def test_the_last_interval_may_be_abandoned_and_a_run_of_nothing_but_it_not():
    world = World(10, fate=lambda interval, actor: "raise" if interval == 9 else None)
    assert isinstance(world.run(), Finished)
    assert world.abandoned == {9}

    alone = World(10, fate=lambda interval, actor: "raise", before={9}, committed=9)
    for interval in range(9):
        alone.driver.committed(commit_of(interval))
    end = alone.run()
    assert isinstance(end, Stopped)
    assert "one interval failed" in end.why


def test_what_failed_in_earlier_starts_is_counted():
    world = World(10, fate=lambda interval, actor: "raise" if interval == 4 else None, before={4}, committed=5)
    world.failures[4] = [_failure(4, f"old-{number}", committed=3) for number in range(2)]
    assert isinstance(world.run(), Finished)
    assert world.abandoned == {4}
    assert len(world.failures[4]) == 3


def _failure(interval, worker, committed):
    from ffr_dist.launch.fleet.orders import Failure

    return Failure(
        interval=interval,
        attempt=f"{worker}-x",
        worker=worker,
        node="n0",
        kind="exception",
        why="boom",
        committed=committed,
    )


def test_the_loss_of_a_node_counts_against_nobody():
    def each(world):
        if world.clock in {20.0, 40.0, 60.0, 80.0}:
            world.leave(next(iter(world.nodes)))
            world.nodes[f"new-{world.clock}"] = 2

    world = World(80)
    assert isinstance(world.run(each=each), Finished)
    assert not world.failures
    assert not world.abandoned
    downs = world.told(WorkerDown)
    assert downs
    assert not any(down.fault for down in downs)


def test_a_node_that_is_found_gone_later_counts_against_nobody_either():
    """Ray tells of the process first, and of the node up to 15 s later."""
    world = World(40)

    def each(world):
        if world.clock == 20.0:
            for name, process in list(world.processes.items()):
                if process.node == "n0":
                    world.die(name, "connection lost")
            world.cut.add("n0")
        if world.clock == 34.0:
            del world.nodes["n0"]

    assert isinstance(world.run(each=each), Finished)
    assert not world.failures


def test_a_silent_host_loses_its_work_at_once_and_its_actors_much_later():
    world = World(200)

    def each(world):
        if world.clock == 20.0:
            world.cut.add("n0")

    while not world.told(Warned):
        each(world)
        world.step()
    assert 50 < world.clock < 53
    silent = {name for name, process in world.processes.items() if process.node == "n0"}
    lost = {interval for interval, name in world.attempts if name in silent and interval not in world.driver.decided}
    assert len(lost) == 4
    for _ in range(2 * 30):
        world.step()
    assert lost <= set(world.driver.decided)
    assert len(world.told(Warned)) == 2
    assert isinstance(world.run(), Finished)
    assert not world.abandoned


def test_a_host_that_comes_back_is_as_good_as_before():
    world = World(100)

    def each(world):
        if world.clock == 20.0:
            world.cut.add("n0")
        if world.clock == 100.0:
            world.cut.clear()

    silent = []
    assert isinstance(world.run(each=each), Finished)
    silent = [name for name, process in world.processes.items() if process.node == "n0"]
    assert silent
    assert not world.told(WorkerDown)
    assert not world.failures
    assert world.fleet.up == 4


def test_a_host_that_never_comes_back_is_dropped():
    world = World(2000)
    world.step()

    def each(world):
        if world.clock == 20.0:
            world.cut.add("n0")

    assert isinstance(world.run(each=each), Finished)
    dropped = [event for event in world.told(WorkerDown) if "no answer" in event.why]
    assert len(dropped) >= 2


def test_a_driver_that_did_not_listen_blames_nobody():
    world = World(60)
    for _ in range(40):
        world.step()
    world.clock += 5_000.0  # suspended, or busy with settling
    assert isinstance(world.run(until=20_000.0), Finished)
    assert not world.failures
    assert not world.told(Warned)


def test_a_clock_that_stands_still_or_goes_back_changes_nothing():
    world = World(30)
    for _ in range(40):
        world.step()
    world.clock -= 15.0
    for process in world.processes.values():
        process.next_at -= 15.0
    assert isinstance(world.run(), Finished)
    assert not world.failures


def test_the_tail_is_copied_and_whoever_is_first_counts():
    world = World(24, batch_s=2.0)
    world.slow.add("n1")

    def each(world):
        if world.clock == 30.0:
            world.slow.add("n1")

    assert isinstance(world.run(each=each), Finished)
    attempts = [interval for interval, _ in world.attempts]
    copied = {interval for interval in attempts if attempts.count(interval) > 1}
    assert copied
    assert all(attempts.count(interval) == 2 for interval in copied)
    assert world.clock < 20 * 2.0 * BATCHES * 3
    assert not world.failures


def test_a_hung_first_batch_is_given_half_an_hour_and_a_later_one_a_minute():
    times = {}

    def fate(interval, actor):
        return "hang" if interval == 0 and not world.failures else None

    world = World(40, fate=fate)
    while not world.failures:
        world.step()
        times["first"] = world.clock
    assert 60 < times["first"] < 80  # it had made a batch before it hung
    assert isinstance(world.run(), Finished)
    early = World(1, nodes=1, slots=1, batch_s=10_000.0)
    while not early.failures:
        early.step()
    assert 1800 < early.clock < 1820


def test_store_errors_count_against_nobody_and_pass():
    world = World(40, fate=lambda interval, actor: "store" if 20 < world.clock < 80 else None)
    assert isinstance(world.run(), Finished)
    assert not world.failures
    assert not world.abandoned
    assert {event.kind for event in world.told(AttemptFailed)} == {"store"}
    assert not world.told(WorkerDown)


def test_a_store_that_fails_for_long_ends_the_run():
    world = World(4000, fate=lambda interval, actor: "store" if world.clock > 20 else None)
    end = world.run()
    assert isinstance(end, Stopped)
    assert "503 SlowDown" in end.why
    assert 600 < world.clock < 800
    assert len(world.attempts) < 200  # nothing is burnt on images that cannot be kept


def test_a_store_that_fails_the_driver_is_waited_for_too_but_not_what_is_gone():
    world = World(40)
    for _ in range(20):
        world.step()
    world.driver.broken = StoreError("connection reset")
    for _ in range(40):
        world.step()
    world.driver.broken = None
    assert isinstance(world.run(), Finished)
    gone = World(40)
    gone.driver.broken = MissingError("plan/round-000.json is not there")
    with pytest.raises(MissingError):
        gone.run()


def test_it_grows_and_shrinks_while_it_runs():
    sizes = []

    def each(world):
        if world.clock == 20.0:
            world.nodes |= {"n1": 1, "n2": 1}
        if world.clock == 60.0:
            world.leave("n1")
        if world.clock in {19.0, 50.0, 80.0}:
            sizes.append(world.fleet.up)

    world = World(120, nodes=1, slots=1)
    assert isinstance(world.run(each=each), Finished)
    assert sizes == [1, 3, 2]
    assert not world.failures


def test_a_fixed_number_waits_for_places_and_goes_on_with_those_that_are_up():
    world = World(30, nodes=1, slots=2)
    assert isinstance(world.run(wanted=6), Finished)
    assert len(world.waiting) == 4
    assert not world.told(Warned)


def test_actors_may_come_and_go_while_another_thread_counts_them():
    """The heartbeat's thread does; an error there would end it, and with it the sign of life."""
    world = World(1)

    class Joining:
        @property
        def born(self):
            world.fleet._actors[f"another {len(world.fleet._actors)}"] = Joining()
            return 0.0

    world.fleet._actors["w"] = Joining()
    assert world.fleet.running == 1


def test_without_any_worker_it_says_so_each_minute_and_waits():
    world = World(10, nodes=0)
    world.fleet.shortage = "no node has a GPU"
    for _ in range(2 * 200):
        world.step()
    assert world.fleet.end is None
    messages = [event.message for event in world.told(Warned)]
    assert len(messages) == 3
    assert all("no node has a GPU" in message for message in messages)
    world.nodes["late"] = 2
    assert isinstance(world.run(), Finished)


def test_workers_that_cannot_start_end_the_run():
    fleet = Fleet(World(5).driver, Patience(), chance=random.Random(0))
    now = 0.0
    fleet.resize(1, now)
    for _ in range(1000):
        now += 1.0
        for order in fleet.decide(now):
            if isinstance(order, Start):
                fleet.born(order.actor, "n0", now)
                fleet.failed_to_load(order.actor, "no such file: weights", now)
        if fleet.end is not None:
            break
    assert isinstance(fleet.end, Stopped)
    assert "no such file: weights" in fleet.end.why


def test_drained_it_hands_out_no_more_and_lets_what_is_in_flight_come_back():
    world = World(100)
    for _ in range(30):
        world.step()
    before = len(world.attempts)
    world.fleet.drain("max_hours is reached", 60.0, world.clock)
    end = world.run()
    assert end == Stopped("max_hours is reached")
    assert len(world.attempts) == before
    assert {interval for interval, _ in world.attempts} == set(world.driver.decided)


def test_drained_it_does_not_wait_longer_than_its_grace():
    world = World(100, batch_s=500.0)
    for _ in range(30):
        world.step()
    world.fleet.drain("stopped by SIGTERM", 20.0, world.clock)
    began = world.clock
    assert isinstance(world.run(), Stopped)
    assert world.clock - began <= 21


def test_a_drain_that_brings_the_last_one_back_is_no_stop():
    world = World(8)
    while len(world.attempts) < 8:
        world.step()
    world.fleet.drain("max_cost is reached", 60.0, world.clock)
    assert isinstance(world.run(), Finished)


def test_a_receipt_of_an_actor_long_given_up_counts():
    world = World(3, nodes=1, slots=1)
    while not world.attempts:
        world.step()
    interval, name = world.attempts[0]
    world.fleet.died(name, "gone", world.clock)
    del world.processes[name]
    world.fleet.received(name, Receipt(commit_of(interval), True, {}), world.clock)
    assert interval in world.driver.decided
    assert isinstance(world.run(), Finished)


def test_an_actor_that_seems_dead_is_ended_all_the_same():
    world = World(3, nodes=1, slots=1)
    while not world.attempts:
        world.step()
    name = world.attempts[0][1]
    world.fleet.died(name, "unavailable", world.clock)
    assert Stop(name) in world.fleet.decide(world.clock)


FATES = st.sampled_from(["raise", "hang", "die", "store"])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    intervals=st.integers(1, 40),
    nodes=st.integers(1, 4),
    slots=st.integers(1, 3),
    poison=st.dictionaries(st.integers(0, 39), st.sampled_from(["raise", "hang", "die"]), max_size=2),
    flaky=st.dictionaries(st.integers(0, 39), FATES, max_size=4),
    quakes=st.lists(
        st.tuples(st.integers(5, 200), st.sampled_from(["leave", "cut", "kill", "join", "sleep"])), max_size=6
    ),
)
def test_whatever_happens_all_is_decided_once_and_only_poison_is_given_up(
    seed, intervals, nodes, slots, poison, flaky, quakes
):
    seen = set()

    def fate(interval, actor):
        if interval in poison:
            return poison[interval]
        if flaky.get(interval) == "store":  # once, at the end of an attempt
            if interval in seen or world.processes[actor].batch < BATCHES:
                return None
            seen.add(interval)
            return "store"
        if interval in flaky and (interval not in seen or (interval, actor) in seen):
            seen.update({interval, (interval, actor)})  # its first actor only
            return flaky[interval]
        return None

    def each(world):
        for at, what in quakes:
            if world.clock != float(at):
                continue
            # One that can be reached is always left: without any, giving up in the end is right.
            reached = sorted(world.nodes.keys() - world.cut)
            if what == "leave" and (len(reached) > 1 or world.nodes.keys() & world.cut):
                world.leave(world.chance.choice(sorted(world.nodes) if len(reached) > 1 else sorted(world.cut)))
            elif what == "cut" and len(reached) > 1:
                world.cut.add(world.chance.choice(reached))
            elif what == "kill" and world.processes:
                world.die(world.chance.choice(sorted(world.processes)), "killed")
            elif what == "join":
                world.nodes[f"new-{at}"] = 1
            elif what == "sleep":
                world.clock += 400.0

    world = World(intervals, nodes=nodes, slots=slots, seed=seed, fate=fate)
    end = world.run(until=60_000.0, each=each)
    decided = world.driver.decided
    if isinstance(end, Stopped):  # nothing else was left to commit, or too much failed before anything did
        assert "systemic" in end.why
        assert set(poison) & set(range(intervals))
    else:
        assert len(decided) == intervals
    assert world.abandoned <= set(poison)
    for interval in world.abandoned:
        assert len(world.failures[interval]) >= 3
        assert len({one.worker for one in world.failures[interval]}) >= 2
    assert not [order for order in world.fleet.decide(world.clock) if isinstance(order, Make | Start)]
