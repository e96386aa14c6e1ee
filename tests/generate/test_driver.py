import dataclasses
import random
import tracemalloc
from unittest import mock

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noise import BAD, CODEC, GROUPS, QUOTA, SIZE, NoiseSampler, contents, pinned, requests

from ffr_dist.errors import BrokenError, ConfigError, ConflictError, StoppedError
from ffr_dist.generate.driver import Driver, Finished
from ffr_dist.generate.inline import run_inline
from ffr_dist.generate.keep import KeepConfig
from ffr_dist.generate.work import Work
from ffr_dist.generate.worker import Worker, WorkSpec
from ffr_dist.plan.document import read_rounds
from ffr_dist.plan.rounds import Unfillable, Wait
from ffr_dist.quota import Exact, Survivors
from ffr_dist.shards import layout
from ffr_dist.shards.commit import Commit, GroupTally, ObjectRef, abandon, publish
from ffr_dist.shards.finish import finish
from ffr_dist.shards.log import decided
from ffr_dist.shards.selection import revise
from ffr_dist.shards.verify import verify
from ffr_dist.store import open_store


@pytest.fixture(scope="module")
def undisturbed():
    store = open_store("memory://driver-undisturbed")
    driver = Driver(store, GROUPS, QUOTA, pinned())
    with Worker(SPEC, store, NoiseSampler(bad=BAD), requests) as worker:
        end = run_inline(driver, worker)
    assert isinstance(end, Finished)
    return finish(store, GROUPS, CODEC, SIZE, planned=end.intervals), contents(store)


SPEC = WorkSpec(groups=GROUPS, codec=CODEC, size=SIZE, pinned=pinned())


def test_the_set_has_exactly_its_quota(undisturbed):
    manifest, _ = undisturbed
    store = open_store("memory://driver-undisturbed")
    assert {g: n for g, n in manifest.groups.items() if n} == {g: n for g, n in QUOTA.counts.items() if n}
    checked = verify(store)
    assert checked.ok, checked.problems
    rounds = [planned.round for planned in read_rounds(store)]
    assert len(rounds) > 1
    assert all(commit.abandoned is None for commit in list(decided(store)))


class Chaos:
    """Drivers and workers in one thread, with everything lost and repeated that can be, by a seed."""

    def __init__(self, store, seed, drivers, workers):
        self.store = store
        self.rng = random.Random(seed)
        self.drivers = [self.driver() for _ in range(drivers)]
        self.workers = [Worker(SPEC, store, NoiseSampler(bad=BAD), requests) for _ in range(workers)]
        self.flying = []

    def driver(self):
        return Driver(self.store, GROUPS, QUOTA, pinned(), offset=self.rng.choice([0, 1, 7, 10**9]))

    def run(self):
        for _ in range(5_000):
            number = self.rng.randrange(len(self.drivers))
            if self.rng.random() < 0.05:  # the driver dies with all that it had handed out
                self.flying = [(owner, work) for owner, work in self.flying if owner != number]
                self.drivers[number] = self.driver()
            elif self.rng.random() < 0.05:
                self.drivers[number].refresh()
            step = self.drivers[number].next()
            if isinstance(step, Work):
                self.flying.append((number, step))
            elif isinstance(step, Finished):
                return step
            else:
                assert isinstance(step, Wait)
                assert any(owner == number for owner, _ in self.flying)
            while len(self.flying) > 4 or (self.flying and not isinstance(step, Work)):
                self.land()
        raise AssertionError("no end")

    def land(self):
        owner, work = self.flying.pop(self.rng.randrange(len(self.flying)))
        fate = self.rng.random()
        if fate < 0.15:
            self.drivers[owner].lost(work.interval)  # nothing came of it
            return
        receipt = self.rng.choice(self.workers).make(work)
        if fate < 0.3:
            self.drivers[owner].lost(work.interval)  # it was committed, and the receipt was lost
            return
        self.drivers[owner].committed(receipt.commit)
        if fate < 0.4:
            self.drivers[owner].committed(receipt.commit)

    def close(self):
        for worker in self.workers:
            worker.__exit__(None, None, None)


_stores = iter(range(10**9))


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 3))
def test_however_many_drivers_and_workers_and_whatever_is_lost(undisturbed, seed, drivers, workers):
    manifest, objects = undisturbed
    store = open_store(f"memory://driver-chaos-{next(_stores)}")
    with mock.patch("ffr_dist.shards.log.SEGMENT", 3):
        chaos = Chaos(store, seed, drivers, workers)
        try:
            end = chaos.run()
        finally:
            chaos.close()
        assert list(store.list("log"))
        chaos.drivers[0].refresh()
        assert Driver(store, GROUPS, QUOTA, pinned()).progress() == chaos.drivers[0].progress()
    assert finish(store, GROUPS, CODEC, SIZE, planned=end.intervals) == manifest
    assert contents(store) == objects


def test_two_drivers_share_one_plan(fresh_store, make_worker, undisturbed):
    store = fresh_store()
    one, two = Driver(store, GROUPS, QUOTA, pinned()), Driver(store, GROUPS, QUOTA, pinned())
    worker = make_worker(store, NoiseSampler(bad=BAD))
    first, second = run_inline(one, worker), run_inline(two, worker)
    assert first.intervals == second.intervals
    assert first.settled.counts == second.settled.counts
    assert finish(store, GROUPS, CODEC, SIZE, planned=first.intervals) == undisturbed[0]


def test_a_finished_output_gives_no_work(fresh_store, make_worker):
    store = fresh_store()
    run_inline(Driver(store, GROUPS, QUOTA, pinned()), make_worker(store))
    driver = Driver(store, GROUPS, QUOTA, pinned())
    end = driver.next()
    assert isinstance(end, Finished)
    assert driver.next() is end


def test_lost_work_is_handed_out_again_first(fresh_store, make_worker):
    store = fresh_store()
    driver = Driver(store, GROUPS, QUOTA, pinned())
    first, second = driver.next(), driver.next()
    driver.lost(second.interval)
    driver.lost(first.interval)
    assert driver.next() == second
    worker = make_worker(store)
    driver.committed(worker.make(first).commit)
    assert driver.next().interval == 2  # what was lost came after all


def test_a_hopeless_group_ends_the_run(fresh_store, make_worker):
    store = fresh_store()
    driver = Driver(store, GROUPS, Exact({"red_cat": 3, "red_dog": 3}), pinned(batch=64, images_per_shard=512))
    sampler = NoiseSampler(bad={"red_dog": {"blank": 1.0}})
    end = run_inline(driver, make_worker(store, sampler, pins=pinned(batch=64, images_per_shard=512)))
    assert isinstance(end, Unfillable)
    assert set(end.groups) == {"red_dog"}
    assert "none of" in end.groups["red_dog"]
    assert driver.progress().groups["red_dog"].rejected["blank"] >= 2_000


def test_images_that_are_all_the_same_are_a_shortfall(fresh_store, make_worker):
    """Settling finds what the workers cannot see; the next rounds make it up."""
    store = fresh_store()
    quota = Exact({"red_cat": 40})
    driver = Driver(store, GROUPS, quota, pinned())
    end = run_inline(driver, make_worker(store, NoiseSampler(bad={"red_cat": {"copy": 0.5}})))
    assert isinstance(end, Finished)
    assert end.settled.counts["red_cat"] == 40
    assert end.settled.rejected["red_cat"]["duplicate"] >= 10
    assert len(read_rounds(store)) > 1


def test_a_generator_of_one_image_ends_in_words(fresh_store, make_worker):
    store = fresh_store()
    pins = pinned(batch=64, images_per_shard=512)
    driver = Driver(store, GROUPS, Exact({"red_cat": 40, "red_dog": 40}), pins)
    end = run_inline(driver, make_worker(store, NoiseSampler(bad={"red_dog": {"copy": 1.0}}), pins=pins))
    assert isinstance(end, Unfillable)
    assert end.groups.keys() == {"red_dog"}
    assert "only 1 of" in end.groups["red_dog"]
    assert len(read_rounds(store)) < 20
    assert driver.next() == end


def test_survivors_of_an_abandoned_interval_are_not_made_up(fresh_store, make_worker):
    store = fresh_store()
    driver = Driver(store, GROUPS, Survivors({"red_cat": 50}), pinned())
    driver.abandon(driver.next().interval, "three failures")
    end = run_inline(driver, make_worker(store))
    assert isinstance(end, Finished)
    assert end.settled.counts["red_cat"] == 50 - 16


def test_survivors_are_tried_once_and_kept(fresh_store, make_worker):
    store = fresh_store()
    quota = Survivors({"red_cat": 50, "blue_dog": 20})
    driver = Driver(store, GROUPS, quota, pinned())
    end = run_inline(driver, make_worker(store, NoiseSampler(bad=BAD)))
    tried = {name: group.tried for name, group in driver.progress().groups.items()}
    assert tried == {"red_cat": 50, "red_dog": 0, "blue_cat": 0, "blue_dog": 20}
    manifest = finish(store, GROUPS, CODEC, SIZE, planned=end.intervals)
    assert 0 < manifest.groups["red_cat"] < 50


def test_an_interval_is_abandoned_unless_somebody_made_it(fresh_store, make_worker):
    store = fresh_store()
    driver = Driver(store, GROUPS, QUOTA, pinned())
    first, second = driver.next(), driver.next()
    made = make_worker(store).make(first).commit
    assert driver.abandon(first.interval, "three failures") == made
    given_up = driver.abandon(second.interval, "three failures")
    assert given_up.abandoned == "three failures"
    assert driver.abandon(second.interval, "again") == given_up
    progress = driver.progress()
    assert (progress.decided, progress.abandoned) == (2, 1)
    assert {work.interval for work in iter_work(driver)} == {2, 3, 4}
    with pytest.raises(BrokenError, match="00000099"):
        driver.abandon(99, "no such interval")
    assert not store.exists("commits/00000099.json")


def iter_work(driver):
    while isinstance(step := driver.next(), Work):
        yield step


WIDE = Exact(dict.fromkeys(GROUPS.names, 200))
"""Its first round has 50 intervals."""


@settings(deadline=None, max_examples=60)
@given(st.sets(st.integers(0, 48)), st.integers(0, 10**6))
def test_an_offset_begins_elsewhere_and_leaves_nothing_out(done, offset):
    store = open_store(f"memory://driver-offset-{next(_stores)}")
    for interval in done:
        publish(store, abandon(interval, "a", "x"))
    Driver(store, GROUPS, WIDE, pinned())
    open_ones = [interval for interval in range(50) if interval not in done]
    order = [work.interval for work in iter_work(Driver(store, GROUPS, WIDE, pinned(), offset=offset))]
    assert order[0] == open_ones[offset % len(open_ones)]
    assert sorted(order) == open_ones


@pytest.mark.parametrize("drivers", [2, 4])
def test_drivers_that_meet_do_not_go_on_side_by_side(fresh_store, drivers):
    """Or four of them would make most intervals two or three times."""
    store, rng, made = fresh_store(), random.Random(1), []
    offsets = [0, *(rng.getrandbits(48) for _ in range(drivers - 1))]
    each = [(Driver(store, GROUPS, WIDE, pinned(), offset=offset), []) for offset in offsets]
    while len(list(store.list("commits"))) < 50:
        driver, flying = rng.choice(each)
        if flying:
            made.append(flying.pop(0))
            driver.committed(publish(store, counted(made[-1])))
        driver.refresh()
        while len(flying) < 2 and isinstance(step := driver.next(), Work) and step.interval < 50:
            flying.append(step.interval)
    assert len(made) < 75


def test_drivers_of_different_offsets_make_different_intervals(fresh_store):
    store = fresh_store()
    one, two = (Driver(store, GROUPS, WIDE, pinned(), offset=offset) for offset in (0, 25))
    for _ in range(25):
        for driver in (one, two):
            driver.committed(publish(store, counted(driver.next().interval)))
    assert len(list(store.list("commits"))) == 50
    for driver in (one, two):
        driver.refresh()
        assert driver.progress().decided == 50


def counted(interval, names=GROUPS.names):
    """A commit as of a worker that accepted nearly everything."""
    tar, sidecar = f"{interval:064x}", f"{interval + 10**9:064x}"
    return Commit(
        interval=interval,
        attempt=f"attempt-{interval}",
        tar=ObjectRef(layout.tar_key(interval, tar), tar, 1_000),
        sidecar=ObjectRef(layout.sidecar_key(interval, sidecar), sidecar, 1_000),
        groups={name: GroupTally(4, 3, {"blank": 1}) for name in names},
        environment={"gpu": "none"},
        seconds=1.0,
    )


def test_a_commit_of_an_unknown_group_is_told(fresh_store):
    driver = Driver(fresh_store(), GROUPS, WIDE, pinned())
    with pytest.raises(BrokenError, match="green_cat"):
        driver.committed(counted(0, ("green_cat",)))


def test_memory_does_not_grow_with_what_is_made(tmp_path):
    """What a decided interval leaves behind is a byte, and its share of a segment in the store."""
    rng = random.Random(0)
    held, flying, handed_out = [], [], 0
    with mock.patch("ffr_dist.shards.log.SEGMENT", 64):
        driver = Driver(open_store(str(tmp_path)), GROUPS, Exact(dict.fromkeys(GROUPS.names, 10**6)), pinned())
        tracemalloc.start()
        try:
            for stop in (1_024, 3_072):  # each ends with nothing in flight, and a whole segment
                while handed_out < stop or flying:
                    while handed_out < stop and len(flying) < 200 and isinstance(step := driver.next(), Work):
                        flying.append(step.interval)
                        handed_out += 1
                    driver.committed(counted(flying.pop(rng.randrange(len(flying)))))
                held.append(tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes())
        finally:
            tracemalloc.stop()
    assert driver.progress().decided == stop
    assert held[1] - held[0] < 60_000  # 30 bytes an interval, where a folded commit has 150


def test_an_abandoned_interval_is_made_up(fresh_store, make_worker):
    store = fresh_store()
    publish(store, abandon(1, "attempt", "three failures"))
    driver = Driver(store, GROUPS, QUOTA, pinned())
    end = run_inline(driver, make_worker(store))
    assert driver.progress().abandoned == 1
    manifest = finish(store, GROUPS, CODEC, SIZE, planned=end.intervals)
    assert sum(manifest.groups.values()) == 67


def test_progress_adds_up(fresh_store, make_worker):
    store = fresh_store()
    driver = Driver(store, GROUPS, QUOTA, pinned())
    before = driver.progress()
    assert (before.round, before.planned, before.decided) == (0, 5, 0)
    assert {name: group.planned for name, group in before.groups.items()} == {"blue_cat": 0, **QUOTA.counts}
    receipts = []
    run_inline(driver, make_worker(store, NoiseSampler(bad=BAD)), receipts.append)
    after = driver.progress()
    assert after.planned == after.decided == len(receipts)
    for group in after.groups.values():
        assert group.tried == group.planned == group.accepted + sum(group.rejected.values())
    assert Driver(store, GROUPS, QUOTA, pinned()).progress() == after


def test_every_prefix_is_proportional_where_nothing_is_rejected(fresh_store, make_worker):
    store = fresh_store()
    quota = Exact(dict.fromkeys(GROUPS.names, 40))
    end = run_inline(Driver(store, GROUPS, quota, pinned()), make_worker(store))
    manifest = finish(store, GROUPS, CODEC, SIZE, planned=end.intervals)
    counts = dict.fromkeys(GROUPS.names, 0)
    for commit in list(decided(store)):
        for name, tally in commit.groups.items():
            counts[name] += tally.accepted
        assert max(counts.values()) - min(counts.values()) <= 1
    assert len(manifest.shards) == 10
    assert end.intervals == 10


def test_another_quota_is_refused(fresh_store):
    store = fresh_store()
    Driver(store, GROUPS, QUOTA, pinned())
    with pytest.raises(ConflictError, match="red_dog"):
        Driver(store, GROUPS, Exact({**QUOTA.counts, "red_dog": 13}), pinned())


def test_other_pinned_values_are_refused_before_anything_is_written(fresh_store):
    store = fresh_store()
    Driver(store, GROUPS, QUOTA, pinned())
    before = contents(store)
    with pytest.raises(ConflictError, match=r"keep\.grey_levels"):
        Driver(store, GROUPS, QUOTA, pinned(keep=KeepConfig(grey_levels=5.7)))
    assert contents(store) == before


def test_a_group_that_is_not_declared_is_refused(fresh_store):
    store = fresh_store()
    with pytest.raises(ConfigError, match="green_cat"):
        Driver(store, GROUPS, Exact({"green_cat": 1}), pinned())
    assert contents(store) == {}


def test_a_foreign_commit_is_told(fresh_store, make_worker):
    store = fresh_store()
    driver = Driver(store, GROUPS, QUOTA, pinned())
    publish(store, abandon(99, "attempt", "no such interval"))
    with pytest.raises(BrokenError, match="00000099"):
        driver.refresh()


def test_ctrl_c_leaves_a_store_that_the_next_run_finishes(fresh_store, make_worker, undisturbed):
    store = fresh_store()
    receipts = []

    def interrupt(receipt):
        receipts.append(receipt)
        if len(receipts) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_inline(Driver(store, GROUPS, QUOTA, pinned()), make_worker(store, NoiseSampler(bad=BAD)), interrupt)
    committed = list(decided(store))
    assert 3 <= len(committed) <= 5
    for commit in committed:
        for ref in (commit.tar, commit.sidecar):
            assert len(store.get(ref.key)) == ref.bytes
    assert list(store.list("manifests")) == []
    end = run_inline(Driver(store, GROUPS, QUOTA, pinned()), make_worker(store, NoiseSampler(bad=BAD)))
    assert finish(store, GROUPS, CODEC, SIZE, planned=end.intervals) == undisturbed[0]


def test_a_bug_in_the_sampler_is_raised_and_leaves_the_rest(fresh_store, make_worker, undisturbed):
    store = fresh_store()
    broken = Driver(store, GROUPS, QUOTA, pinned()).next().round.candidates(2, 16)[3]
    with pytest.raises(RuntimeError, match="on fire"):
        run_inline(Driver(store, GROUPS, QUOTA, pinned()), make_worker(store, NoiseSampler(bad=BAD, fail_at=broken)))
    end = run_inline(Driver(store, GROUPS, QUOTA, pinned()), make_worker(store, NoiseSampler(bad=BAD)))
    assert finish(store, GROUPS, CODEC, SIZE, planned=end.intervals) == undisturbed[0]


def test_a_selection_made_meanwhile_is_followed(fresh_store, make_worker):
    store = fresh_store()
    driver = Driver(store, GROUPS, QUOTA, pinned())
    taken = "red_cat-00000001"
    revise(store, lambda latest: dataclasses.replace(latest, excluded=(taken,)))
    end = run_inline(driver, make_worker(store, NoiseSampler(bad=BAD)))
    assert end.settled.revision == 1
    manifest = finish(store, GROUPS, CODEC, SIZE, planned=end.intervals, settled=end.settled)
    assert manifest.revision == 1
    assert verify(store).ok


@pytest.mark.parametrize("change", [{"quota": QUOTA.counts | {"red_dog": 99}}, {"considered": ((0, 1),)}])
def test_a_selection_of_another_number_of_images_stops_whoever_works_for_the_old_one(fresh_store, make_worker, change):
    store = fresh_store()
    driver = Driver(store, GROUPS, QUOTA, pinned())
    revise(store, lambda latest: dataclasses.replace(latest, **change))
    with pytest.raises(StoppedError, match=r"selection/0001\.json"):
        run_inline(driver, make_worker(store, NoiseSampler(bad=BAD)))
