import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noise import BAD, CODEC, GROUPS, QUOTA, SIZE, NoiseSampler, contents, pinned, requests

from ffr_dist.errors import BrokenError, ConfigError, ConflictError
from ffr_dist.generate.driver import Driver, Finished
from ffr_dist.generate.inline import run_inline
from ffr_dist.generate.keep import KeepConfig
from ffr_dist.generate.work import Work
from ffr_dist.generate.worker import Worker, WorkSpec
from ffr_dist.plan.document import read_rounds
from ffr_dist.plan.rounds import Unfillable, Wait
from ffr_dist.quota import Exact, Survivors
from ffr_dist.shards.commit import abandon, publish
from ffr_dist.shards.finish import finish
from ffr_dist.shards.log import decided
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
        return Driver(self.store, GROUPS, QUOTA, pinned())

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
    chaos = Chaos(store, seed, drivers, workers)
    try:
        end = chaos.run()
    finally:
        chaos.close()
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


def test_survivors_are_tried_once_and_kept(fresh_store, make_worker):
    store = fresh_store()
    quota = Survivors({"red_cat": 50, "blue_dog": 20})
    driver = Driver(store, GROUPS, quota, pinned())
    end = run_inline(driver, make_worker(store, NoiseSampler(bad=BAD)))
    tried = {name: group.tried for name, group in driver.progress().groups.items()}
    assert tried == {"red_cat": 50, "red_dog": 0, "blue_cat": 0, "blue_dog": 20}
    manifest = finish(store, GROUPS, CODEC, SIZE, planned=end.intervals)
    assert 0 < manifest.groups["red_cat"] < 50


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
