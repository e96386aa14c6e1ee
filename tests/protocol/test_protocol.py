"""A model of the whole protocol: everyone who works on an output, each store call of theirs reordered, lost or fatal.

Real code runs (driver, commit log, publish, settle, finish, revise, gc); only the images are made cheaply. After every step:
whatever was put-if-absent once is unchanged, and the latest manifest names whole objects and exactly its quota. At the end a
last driver without faults completes the output, and the set is the one that a few lines of plain Python say it must be.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import io
import json
import sys
import tarfile
from datetime import timedelta
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from shard_outputs import CODEC, GROUPS, Candidate, fresh_store, independent, pixels_of, write_interval
from stage import CRASH_AFTER, CRASH_BEFORE, DO, FATES, Actor, Crash

from ffr_dist.errors import ConflictError, StoppedError, StoreError
from ffr_dist.generate.driver import Driver, Finished
from ffr_dist.generate.work import Work
from ffr_dist.plan.document import Pinned, read_rounds
from ffr_dist.plan.rounds import Wait
from ffr_dist.quota import Exact
from ffr_dist.records import synthetic_key
from ffr_dist.shards import gc
from ffr_dist.shards.commit import Commit, abandon, publish
from ffr_dist.shards.finish import finish
from ffr_dist.shards.log import decided
from ffr_dist.shards.selection import latest_revision, read_revision, required_revision, revise
from ffr_dist.shards.verify import verify
from ffr_dist.store import retry

QUOTA = {"land_bird": 7, "water_bird": 5, "water_on_land": 0}
PINNED = Pinned(batch=2, images_per_shard=4, threads=1, weights_sha256="", prepared={}, keep={})
SIZE = 8
CUES = st.sampled_from([DO] * 12 + list(FATES))
PLACES = st.integers(0, 11)


@pytest.fixture(autouse=True)
def one_thread_at_a_time(monkeypatch):
    """The order of store calls must be the schedule's alone, and waiting between tries shows nothing."""

    def serial(function, items, ahead):
        return map(function, items)

    for name, module in list(sys.modules.items()):
        if name.startswith("ffr_dist.") and hasattr(module, "in_order"):
            monkeypatch.setattr(module, "in_order", serial)
    monkeypatch.setattr(retry, "time", SimpleNamespace(**vars(retry.time) | {"sleep": lambda _: None}))


def candidate(group, k):
    """What becomes of a candidate: rejected, or a copy of another of its group, or fine."""
    fate = hashlib.sha256(f"{group}/{k}".encode()).digest()
    if fate[0] % 10 < 3:
        return Candidate(group, k, "blank")
    return Candidate(group, k, None, (group, fate[1] % k) if k and fate[0] % 10 < 6 else None)


def expected_keys(store):
    """The set, from the plan, the list of abandoned intervals, the last selection and ``candidate`` alone."""
    given_up = {commit.interval for commit in decided(store) if commit.abandoned is not None}
    selection = latest_revision(store)
    purged = {entry.interval: keys_in(store, entry.tar) for entry in selection.replaced}
    found = collections.Counter()
    seen, keys = set(), []
    for planned in read_rounds(store):
        for interval in range(planned.round.first_interval, planned.round.end):
            if interval in given_up:
                continue
            for group, k in planned.round.candidates(interval, PINNED.interval_size):
                made = candidate(group, k)
                if made.reason is not None:
                    continue
                pixels = pixels_of(*(made.twin or (group, k))).tobytes()
                key = synthetic_key(group, k)
                there = key in purged.get(interval, {key}) and key not in selection.excluded
                if there and pixels not in seen and found[group] < selection.quota[group]:
                    found[group] += 1
                    keys.append(key)
                seen.add(pixels)
    return sorted(keys)


def keys_in(store, tar):
    if tar is None:
        return set()
    with tarfile.open(fileobj=io.BytesIO(store.get(tar.key))) as members:
        return {name.partition(".")[0] for name in members.getnames()}


def asked(store):
    """The quota that stands, or that a first driver brings."""
    latest = latest_revision(store)
    return Exact(latest.quota if latest is not None else QUOTA)


def drive(inbox, handed):
    """A driver's life: hand out, hear what came of it, and finish."""

    def play(store, actor):
        driver = Driver(store, GROUPS, asked(store), PINNED)
        while True:
            step = driver.next()
            if isinstance(step, Work):
                handed.append((actor, step))
            elif isinstance(step, Finished):
                return finish(store, GROUPS, CODEC, SIZE, planned=step.intervals, settled=step.settled)
            else:
                assert isinstance(step, Wait), step
            if actor.wait_for_cue("inbox") in {CRASH_BEFORE, CRASH_AFTER}:
                raise Crash
            while inbox:
                kind, value = inbox.popleft()
                driver.committed(value) if kind == "committed" else driver.lost(value)

    return play


def attempt(work, number):
    def play(store, _):
        return write_interval(store, work.interval, [candidate(*one) for one in work.candidates], f"attempt-{number}")

    return play


def finish_alone(store, _):
    rounds = read_rounds(store)
    return finish(store, GROUPS, CODEC, SIZE, planned=rounds[-1].round.end)


def select(**wish):
    """Another selection: more excluded, another quota."""

    def change(latest):
        excluded = tuple(sorted({*latest.excluded, *wish.get("excluded", ())}))
        return dataclasses.replace(latest, excluded=excluded, quota=latest.quota | wish.get("quota", {}))

    return lambda store, _: revise(store, change)


def collect(store, _):
    log = required_revision(store).number
    gc.delete_all(store, gc.leftovers(store, log, timedelta(0)))
    return log


def purge(store, actor):
    there = finish_alone(store, actor)
    gc.delete_all(store, gc.purge(store, GROUPS, CODEC, there, lambda: finish_alone(store, actor), dry_run=False))
    return there


class Protocol(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.store = fresh_store()
        self.actors = []
        self.inboxes = {}
        self.handed = []
        self.owners = {}
        self.attempts = self.given_up = 0
        self.for_good = {}

    @initialize()
    def begin(self):
        self.start_driver()

    @precondition(lambda self: len(self.inboxes) < 3)
    @rule()
    def start_driver(self):
        inbox = collections.deque()
        driver = self.enter("driver", drive(inbox, self.handed))
        self.inboxes[driver] = inbox
        self.watch(driver)

    @precondition(lambda self: self.handed)
    @rule(place=PLACES)
    def start_attempt(self, place):
        driver, work = self.handed.pop(place % len(self.handed))
        self.attempts += 1
        worker = self.enter(f"attempt {self.attempts} at {work.interval}", attempt(work, self.attempts))
        self.owners[worker] = driver, work.interval
        self.watch(worker)

    @precondition(lambda self: self.handed)
    @rule(place=PLACES)
    def lose_what_was_handed_out(self, place):
        driver, work = self.handed.pop(place % len(self.handed))
        self.tell(driver, "lost", work.interval)

    @precondition(lambda self: self.owners)
    @rule(place=PLACES)
    def hand_out_again(self, place):
        """The worker is taken for dead, and is only slow: its attempt may land long after the interval is decided."""
        driver, interval = self.owners[list(self.owners)[place % len(self.owners)]]
        self.tell(driver, "lost", interval)

    @precondition(lambda self: self.actors)
    @rule(place=PLACES, fate=CUES)
    def cue(self, place, fate):
        actor = self.actors[place % len(self.actors)]
        actor.go(fate)
        self.watch(actor)

    @precondition(lambda self: self.actors)
    @rule(place=PLACES, calls=st.integers(2, 9))
    def let_run(self, place, calls):
        actor = self.actors[place % len(self.actors)]
        for _ in range(calls):
            if not actor.ended:
                actor.go()
        self.watch(actor)

    @rule(turns=st.integers(1, 40))
    def all_goes_well(self, turns):
        """Everyone works on, a call each in turn: schedules get deep enough for rounds to end and sets to be finished."""
        for _ in range(turns):
            if self.handed:
                self.start_attempt(0)
            for actor in list(self.actors):
                actor.go()
                self.watch(actor)

    @precondition(lambda self: self.handed and self.given_up < 3)
    @rule(place=PLACES)
    def give_up_an_interval(self, place):
        _, work = self.handed[place % len(self.handed)]
        self.given_up += 1
        self.attempts += 1
        commit = abandon(work.interval, f"attempt-{self.attempts}", "three failures")
        self.watch(self.enter(f"abandon {work.interval}", lambda store, _: publish(store, commit)))

    @precondition(lambda self: self.store.exists("plan/round-000.json"))
    @rule()
    def start_finisher(self):
        self.watch(self.enter("finisher", finish_alone))

    @precondition(lambda self: self.store.exists("selection/0000.json"))
    @rule(group=st.sampled_from(["land_bird", "water_bird"]), k=st.integers(0, 8))
    def take_down(self, group, k):
        self.watch(self.enter("exclude", select(excluded=[synthetic_key(group, k)])))

    @precondition(lambda self: self.store.exists("selection/0000.json"))
    @rule(count=st.integers(3, 11))
    def ask_for_more_or_less(self, count):
        self.watch(self.enter("extend", select(quota={"land_bird": count})))

    @precondition(lambda self: self.store.exists("selection/0000.json") and self.store.exists("manifest.json"))
    @rule()
    def start_purge(self):
        self.watch(self.enter("purge", purge))

    @precondition(lambda self: self.store.exists("selection/0000.json") and not self.actors)
    @rule(dies_at=st.integers(0, 40))
    def collect_garbage(self, dies_at):
        """Alone, since nothing here is a day old: what an attempt or a finish has yet to name would go."""
        actor = self.enter("collect", collect)
        while not actor.ended:
            actor.go(DO if dies_at else CRASH_BEFORE)
            dies_at -= 1
        self.watch(actor)

    @rule()
    def all_die(self):
        for actor in list(self.actors):
            actor.kill()
            self.watch(actor)

    @invariant()
    def what_was_decided_stays(self):
        there = {
            info.key: self.store.get(info.key)
            for folder in ("selection", "plan", "commits", "manifests")
            for info in self.store.list(folder)
        }
        for key, body in self.for_good.items():
            assert there.get(key, body if key.startswith("manifests/") else None) == body, key  # a purge drops old sets
        new = {key for key in there if key not in self.for_good}
        self.for_good |= {key: there[key] for key in new if key.endswith(".json")}
        if self.store.exists("manifest.json") and any(key.startswith("manifests/") for key in new):
            found = independent(self.store.get)
            revision = read_revision(self.store, json.loads(self.store.get("manifest.json"))["revision"])
            assert len(set(found.keys)) == found.images
            assert found.groups == {name: count for name, count in revision.quota.items() if count}
            assert not {*found.keys} & {*revision.excluded}

    def teardown(self):
        for actor in self.actors:
            actor.kill()
        end = complete(self.store)
        self.what_was_decided_stays()
        found = independent(self.store.get)
        assert sorted(found.keys) == expected_keys(self.store)
        assert end.manifest_sha256 == found.manifest_sha256
        assert verify(self.store).ok

    def enter(self, name, play):
        actor = Actor(name, self.store, play)
        self.actors.append(actor)
        return actor

    def watch(self, actor):
        """Draw the consequences where an actor has come to its end."""
        if not actor.ended:
            return
        self.actors.remove(actor)
        if actor.error is not None and not isinstance(actor.error, StoreError | StoppedError | ConflictError):
            raise actor.error
        if actor in self.inboxes:
            del self.inboxes[actor]
            self.handed[:] = [(driver, work) for driver, work in self.handed if driver is not actor]
        if actor in self.owners:
            driver, interval = self.owners.pop(actor)
            if isinstance(actor.result, Commit):
                self.tell(driver, "committed", actor.result)
            else:
                self.tell(driver, "lost", interval)

    def tell(self, driver, kind, value):
        if driver in self.inboxes:
            self.inboxes[driver].append((kind, value))


def complete(store):
    """One driver and one worker without any fault."""
    driver = Driver(store, GROUPS, asked(store), PINNED)
    while isinstance(step := driver.next(), Work):
        driver.committed(write_interval(store, step.interval, [candidate(*one) for one in step.candidates], "last"))
    assert isinstance(step, Finished)
    return finish(store, GROUPS, CODEC, SIZE, planned=step.intervals)


def test_no_schedule_breaks_the_protocol():
    run_state_machine_as_test(
        Protocol,
        settings=settings(
            max_examples=60, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_long_schedule_does():
    run_state_machine_as_test(
        Protocol,
        settings=settings(
            max_examples=50, stateful_step_count=120, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
