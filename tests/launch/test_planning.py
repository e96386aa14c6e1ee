"""What is planned and how far an output is, from stores that hold what a run leaves and nothing else."""

import dataclasses
import json
from collections import Counter

import pytest
from small_run import recipe_text

from ffr_dist.config import parse
from ffr_dist.errors import InputError
from ffr_dist.launch import planning
from ffr_dist.launch.context import check_recipe
from ffr_dist.launch.fleet import heartbeat
from ffr_dist.launch.fleet.heartbeat import DriverRecord
from ffr_dist.launch.planning import FLEETS, Status, read_status, summarise
from ffr_dist.launch.watch.observe import Observer, measured_rate, rate_of
from ffr_dist.plan.cost import play
from ffr_dist.plan.document import Pinned, Planned, publish_round
from ffr_dist.plan.rounds import Tally, next_round
from ffr_dist.quota import Exact
from ffr_dist.recipe import KEY, Recipe
from ffr_dist.shards import documents, layout, log
from ffr_dist.shards.commit import Commit, GroupTally, ObjectRef, abandon, publish
from ffr_dist.shards.log import CommitLog
from ffr_dist.shards.selection import write_first_revision
from ffr_dist.store import Store, open_store

GROUPS = ("low_temple", "low_flowers", "high_temple", "high_flowers")
QUOTA = Exact(dict.fromkeys(GROUPS, 1_000))
PINNED = Pinned(batch=50, images_per_shard=100, threads=1, weights_sha256="", prepared={}, keep={})
RATES = dict(zip(GROUPS, (0.5, 0.75, 1.0, 0.9), strict=True))


@pytest.fixture
def text(data):
    return recipe_text(
        data,
        generate=(
            "generate: {batch: 4, images_per_shard: 8}",
            "generate: {batch: 50, images_per_shard: 100, price_per_gpu_hour: 3.6, gpus_per_worker: 0.5}",
        ),
        quota=(
            "  prompts:",
            "  quota: {low_temple: 1000, low_flowers: 1000, high_temple: 1000, high_flowers: 1000}\n  prompts:",
        ),
    )


def recipe_of(text):
    return check_recipe(parse(Recipe, text, "small"), text)


def commit_of(planned, interval, seconds=20.0):
    """As a worker that accepts just its rates would write it, without the objects."""
    tried = Counter(group for group, _ in planned.candidates(interval, PINNED.interval_size))
    groups = {}
    for name, count in tried.items():
        accepted = round(count * RATES[name])
        groups[name] = GroupTally(count, accepted, {"blank": count - accepted} if count > accepted else {})
    sha = f"{interval:064x}"
    return Commit(
        interval=interval,
        attempt=f"a{interval}",
        tar=ObjectRef(layout.tar_key(interval, sha), sha, 90_000),
        sidecar=ObjectRef(layout.sidecar_key(interval, sha), sha, 10_000),
        groups=groups,
        environment={},
        seconds=seconds,
    )


def make_rounds(store, rounds, *, leave=0, abandoned=()):
    """Plan so many rounds and commit all of their intervals but the last ``leave`` ones."""
    write_first_revision(store, QUOTA)
    planned, tallies = [], []
    for number in range(rounds):
        step = next_round(QUOTA, planned, tallies, PINNED.interval_size)
        publish_round(store, Planned(step, PINNED if number == 0 else None))
        planned.append(step)
        tally = {}
        stop = step.end - (leave if number == rounds - 1 else 0)
        for interval in range(step.first_interval, stop):
            if interval in abandoned:
                publish(store, abandon(interval, f"a{interval}", "hang"))
                continue
            commit = commit_of(step, interval, seconds=20.0 + interval % 5)
            publish(store, commit)
            for name, found in commit.groups.items():
                tally[name] = tally.get(name, Tally()) + Tally(found.tried, found.accepted)
        tallies.append(tally)
    return planned


@pytest.fixture
def store(tmp_path, text):
    store = open_store(str(tmp_path / "out"))
    store.put(KEY, text.encode())
    return store


def test_an_output_without_a_plan_has_no_status(tmp_path):
    with pytest.raises(InputError, match="holds no plan"):
        Status(open_store(str(tmp_path)))


def test_a_plan_without_measurements_gives_no_interval_and_no_rate(text):
    found = summarise(recipe_of(text))
    assert found["images_per_second"] is None
    assert found["fleets"] == []
    assert found["spent"] is None
    assert found["measured"] == {"acceptance": False, "rate": False}
    assert found["candidates"] == {"expected": pytest.approx(4_000, rel=0.01), "low": None, "high": None}
    assert found["to_go"]["candidates"] == found["candidates"]["expected"]
    assert found["bytes"] > 0


def test_a_stated_rate_gives_time_and_cost_for_1_8_and_64_workers(text):
    found = summarise(recipe_of(text.replace("batch: 50,", "batch: 50, images_per_second: 2, workers: 3,")))
    assert [fleet["workers"] for fleet in found["fleets"]] == sorted({*FLEETS, 3})
    one = found["fleets"][0]
    assert one["seconds"] == {"expected": pytest.approx(2_000, rel=0.01), "low": None, "high": None}
    assert one["gpus"] == 0.5
    assert one["cost"]["expected"] == pytest.approx(one["seconds"]["expected"] / 3600 * 0.5 * 3.6)
    assert found["fleets"][-1]["seconds"]["expected"] >= 100.0  # the pilot, and then the rest: 50 s an interval


def test_a_plan_after_the_pilot_rests_on_it(text, store):
    make_rounds(store, 1)
    found = summarise(recipe_of(text), store)
    assert found["measured"] == {"acceptance": True, "rate": True}
    group = found["groups"]["low_temple"]
    assert (group["tried"], group["accepted"]) == (200, pytest.approx(100, abs=4))
    assert group["acceptance"]["low"] < 0.5 < group["acceptance"]["high"]
    assert group["rejected"] == {"blank": group["tried"] - group["accepted"]}
    seen = Observer(store)
    seen.look()
    comes = play(QUOTA, interval_size=PINNED.interval_size, acceptance=RATES, done=seen.done).candidates
    assert found["candidates"]["low"] <= comes < found["candidates"]["high"]
    assert found["to_go"]["candidates"] == found["candidates"]["expected"] - 800
    assert found["images_per_second"]["expected"] == pytest.approx(100 / 21.9, rel=0.05)
    for fleet in found["fleets"]:
        assert fleet["seconds"]["low"] < fleet["seconds"]["expected"] < fleet["seconds"]["high"]
        cost = fleet["seconds"]["expected"] / 3600 * fleet["gpus"] * 3.6
        assert fleet["cost"]["expected"] == pytest.approx(cost)
    assert found["bytes"] == pytest.approx(100_000 / 79 * 4_050, rel=0.05)


def test_a_pilot_that_leaves_no_hope_for_a_group_says_so_and_shows_what_it_found(text, store, monkeypatch):
    monkeypatch.setitem(RATES, "high_temple", 0.0)
    make_rounds(store, 1)
    found = summarise(recipe_of(text), store)
    assert "high_temple" in found["unfillable"]
    assert found["fleets"] == []
    assert found["groups"]["high_temple"]["accepted"] == 0


def record(driver, **changed):
    values = {
        "driver": driver, "host": "h", "boot": "", "pid": 1, "pid_started": "", "started": f"2026-01-0{driver[-1]}", "beat": 3,
        "workers": 4, "device_seconds": 1_800.0, "cost": 1.8,
    }  # fmt: skip
    return DriverRecord(**{**values, **changed})


def write_driver(store, found):
    store.put(layout.driver_key(found.driver), documents.to_bytes(found))


def test_a_status_tells_what_the_store_holds(store):
    planned = make_rounds(store, 2, leave=5, abandoned={9})
    write_driver(store, record("d1", ended="2026-01-02", workers=0))
    write_driver(store, record("d2"))
    for number in range(3):
        store.put(layout.failure_key(9, f"f{number}"), b"{}")
    store.put("events/d2-0000.jsonl", b'{"at": "2026", "driver": "d2", "event": "began", "what": "generate"}\n')
    found = read_status(store)
    assert found.keys() == {
        "output", "finished", "revision", "round", "intervals", "abandoned", "failures", "groups", "bytes",
        "images_per_second", "drivers", "spent", "to_go", "events", "study",
    }  # fmt: skip
    end = planned[-1].end
    assert found["intervals"] == {"planned": end, "committed": end - 6, "abandoned": 1}
    assert found["abandoned"] == {"hang": 1}
    assert found["failures"] == 3
    assert found["round"] == 1
    assert found["finished"] is False
    assert [(driver["driver"], driver["state"]) for driver in found["drivers"]] == [("d1", "ended"), ("d2", "alive")]
    assert found["spent"] == {"device_seconds": 3_600.0, "cost": 3.6}
    assert found["to_go"]["workers"] == 4
    assert found["to_go"]["intervals"] >= 5
    seconds = found["to_go"]["seconds"]
    assert seconds["low"] < seconds["expected"] < seconds["high"]
    assert found["to_go"]["cost"]["expected"] == pytest.approx(seconds["expected"] / 3600 * 2 * 3.6)
    assert found["events"][-1]["what"] == "generate"
    assert found["bytes"] == 100_000 * (end - 6)
    assert found["study"] is None
    store.put(layout.STUDY, b"name: tiny\n")
    assert read_status(store)["study"]["total"] is None
    told = {"at": "2027", "driver": "d2", "event": "cell_ended", "what": "none × erm, seed 0", "failed": False}
    told |= {"done": 2, "total": 9, "failures": 1, "eta_s": 5.0, "detail": "x"}
    store.put("events/d2-0001.jsonl", json.dumps(told).encode() + b"\n")
    assert read_status(store)["study"] == {
        "of": "cells", "done": 2, "total": 9, "failures": 1, "eta_s": 5.0, "ended": False,
    }  # fmt: skip


def test_a_driver_is_alive_while_its_beat_changes(store, monkeypatch):
    make_rounds(store, 1)
    write_driver(store, record("d1"))
    now = 1_000.0
    monkeypatch.setattr(planning.time, "monotonic", lambda: now)
    status = Status(store)
    states = []
    for beat in (3, 3, 4, 4, 4):
        write_driver(store, record("d1", beat=beat))
        states.append(status.read()["drivers"][0]["state"])
        now += 15
    assert states == ["alive", "alive", "alive", "alive", "silent"]


def test_an_old_record_is_silent_at_first_sight(store):
    import os
    import time

    make_rounds(store, 1)
    write_driver(store, record("d1"))
    old = time.time() - 3_600
    os.utime(f"{store.url}/drivers/d1.json", (old, old))
    assert read_status(store)["drivers"][0]["state"] == "silent"


def test_a_start_without_a_price_leaves_the_cost_unknown(store):
    make_rounds(store, 1)
    write_driver(store, record("d1"))
    write_driver(store, record("d2", cost=None))
    assert read_status(store)["spent"] == {"device_seconds": 3_600.0, "cost": None}
    write_driver(store, record("d2", cost=None, device_seconds=0.0))  # has only just begun
    assert read_status(store)["spent"] == {"device_seconds": 1_800.0, "cost": 1.8}


class Counted(Store):
    """Counts what is read of it."""

    def __init__(self, store):
        self.__dict__.update(store.__dict__)
        self.gets = Counter()

    def get(self, key):
        self.gets[key] += 1
        return super().get(key)


def test_looking_again_reads_only_what_is_new(store):
    planned = make_rounds(store, 1, leave=3)
    counted = Counted(store)
    status = Status(counted)
    assert status.read()["intervals"]["committed"] == 5
    for interval in range(5, 8):
        publish(store, commit_of(planned[0], interval))
    counted.gets.clear()
    assert status.read()["intervals"]["committed"] == 8
    assert [key for key in counted.gets if key.startswith("commits/")] == [layout.commit_key(n) for n in range(5, 8)]
    counted.gets.clear()
    assert status.read()["intervals"]["committed"] == 8
    assert not [key for key in counted.gets if key.startswith(("commits/", "shards/"))]


def test_whole_segments_tell_the_same_as_their_commits(store, monkeypatch):
    monkeypatch.setattr(log, "SEGMENT", 8)
    make_rounds(store, 3, leave=2, abandoned={1, 9})
    one_by_one = Observer(store)
    one_by_one.look()
    CommitLog(store, keep=True).refresh()
    assert list(store.list("log"))
    counted = Counted(store)
    at_once = Observer(counted)
    at_once.look()
    for name in ("tallies", "decided", "rejected", "abandoned", "bytes"):
        assert getattr(at_once, name) == getattr(one_by_one, name), name
    assert at_once.pace.estimate() == one_by_one.pace.estimate()
    assert at_once.images_per_second() == pytest.approx(one_by_one.images_per_second())
    read = [key for key in counted.gets if key.startswith("commits/")]
    assert len(read) < sum(at_once.decided) / 2  # one of each segment, and the loose ones


def test_a_foreign_commit_counts_nothing(store):
    planned = make_rounds(store, 1)
    before = Observer(store)
    before.look()
    stray = dataclasses.replace(
        commit_of(planned[0], 0), interval=4_000, tar=None, sidecar=None, groups={}, abandoned="x"
    )
    publish(store, stray)
    after = Observer(store)
    after.look()
    assert (after.decided, after.abandoned) == (before.decided, before.abandoned)


def test_watching_ends_when_it_is_finished(store, monkeypatch):
    make_rounds(store, 1)
    naps = []

    def nap(seconds):
        naps.append(seconds)
        if len(naps) == 2:
            store.put(layout.manifest_key(0), b"{}")

    monkeypatch.setattr(planning.time, "sleep", nap)
    assert [found["finished"] for found in Status(store).watch()] == [False, False, True]


def arrivals(*times, seconds=10.0):
    return [(float(time), 100, seconds) for time in times]


def test_a_rate_is_of_what_came_between_the_first_and_the_last_commit():
    assert rate_of([]) is None
    assert rate_of(arrivals(5)) is None
    assert rate_of(arrivals(0, 10, 20, 30)) == pytest.approx(10.0)
    assert rate_of(arrivals(0, 2.5, 5, 7.5, 10)) == pytest.approx(40.0)  # four workers
    assert rate_of(arrivals(30, 0, 20, 10)) == pytest.approx(10.0)


def test_a_pause_between_two_starts_does_not_lower_the_rate():
    assert rate_of(arrivals(0, 10, 20, 86_420, 86_430)) == pytest.approx(10.0)
    assert rate_of(arrivals(0, 86_400)) == pytest.approx(10.0)  # none but the pause: what the commit itself took


def test_a_rate_survives_times_of_whole_seconds():
    assert rate_of(arrivals(0, 0, 0, 0, 1, 1, 1, 1, 2, seconds=0.25)) == pytest.approx(400.0)
    assert rate_of(arrivals(7, 7, 7)) is None  # too fast to tell


def test_the_measured_rate_counts_everything(store):
    make_rounds(store, 1)
    assert measured_rate(store) == pytest.approx(Status(store).read()["images_per_second"])


def test_a_beat_is_due_well_before_a_driver_is_called_silent():
    assert planning._SILENT_S > 3 * heartbeat._BEAT_S
