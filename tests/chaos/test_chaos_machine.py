"""What the machine itself does: a disk that is full, a clock that jumps; and samplers that misbehave in every way."""

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import harness
import pytest
from recorded import Noise

pytestmark = pytest.mark.slow
CLOCK = str(harness.HERE / "clock")


@pytest.fixture
def disk(tmp_path):
    """Makes a small file system; it can grow."""
    made = []

    def mounted(*options):
        return subprocess.run(["mount", *options, str(where)], capture_output=True, check=False).returncode == 0

    where = tmp_path / "disk"

    def make(size):
        where.mkdir()
        if os.geteuid() != 0 or not mounted("-t", "tmpfs", "-o", f"size={size}", "tmpfs"):
            pytest.skip("only root can mount a small file system")
        made.append(where)
        return where, lambda more: mounted("-o", f"remount,size={more}")

    yield make
    for one in made:
        subprocess.run(["umount", "-l", str(one)], check=True)


def test_a_full_disk_stops_the_run_and_space_lets_it_go_on(disk, scenario):
    where, grow = disk("200k")
    one = scenario(Noise(each=48), out=str(where))
    start = one.start("--inline")
    assert one.end(start) == 3
    one.counts["disk full"] += 1
    assert "the disk is full" in start.told
    assert 0 < one.commits() < 20
    assert not [path for path in where.rglob("*") if path.name.startswith(".")]
    assert grow("20m")
    one.until_done("--inline", most=1)
    one.done()


def test_a_full_scratch_disk_stops_the_finish_and_space_lets_it_go_on(disk, scenario):
    where, grow = disk("8k")
    one = scenario(Noise(each=48))
    one.environment["TMPDIR"] = str(where)
    start = one.start("--inline")
    assert one.end(start) == 3
    one.counts["scratch disk full"] += 1
    assert str(where) in start.told
    assert not one.store.exists("manifest.json")
    assert not list(where.iterdir())
    assert grow("20m")
    one.until_done("--inline", most=1)
    assert one.done()["sampled twice"] == 0


def test_a_clock_that_jumps_by_days_changes_nothing(scenario, tmp_path):
    one = scenario(Noise(each=48, delay_s=0.1))
    (tmp_path / "jump").touch()
    one.environment["CLOCK_JUMPS"], one.before_path = str(tmp_path / "jump"), CLOCK
    start = one.start("--inline")
    assert one.wait_for_commits(5, start)
    harness.kill_driver(start)
    one.end(start, expect=(-9,))
    one.until_done("--inline", most=1)
    days = {line[16:18] for path in (tmp_path / "out/events").iterdir() for line in path.read_text().splitlines()}
    one.counts["days that the clock told of"] = len(days)
    assert days - {f"{datetime.now(UTC):%d}"}
    one.done()


@pytest.mark.chaos
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_clock_that_jumps_under_ray(scenario, tmp_path):
    one = scenario(Noise(each=90, delay_s=0.2))
    one.environment["CLOCK_JUMPS"], one.before_path = str(tmp_path / "jump"), CLOCK
    start = one.start()
    assert one.wait_for_commits(1, start)
    (tmp_path / "jump").touch()  # Ray's own start measures its patience on the wall clock
    one.counts["jumping clock"] += 1
    for pid in harness.actors_of(start)[:1]:
        harness.kill(pid)
        one.counts["worker"] += 1
    if one.end(start):
        one.until_done()
    one.done()


@pytest.mark.chaos
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_full_disk_under_ray_is_waited_for(disk, scenario):
    where, grow = disk("200k")
    one = scenario(Noise(each=48, delay_s=0.1), out=str(where))
    start = one.start()
    assert one.wait_for(lambda: "disk is full" in start.told, start)
    one.counts["disk full"] += 1
    assert grow("20m")
    assert one.end(start) == 0
    one.done()


@pytest.mark.chaos
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_samplers_that_raise_hang_and_die(scenario, tmp_path):
    """Some once, one always; and NaN, blank and copied images all along."""
    once = [("raise", "low_temple", 11), ("raise", "high_flowers", 40), ("hang", "low_flowers", 30)]
    once += [("die", "high_temple", 50), ("die", "low_temple", 70)]
    faults = [(*fault, str(tmp_path / f"once-{number}")) for number, fault in enumerate(once)]
    one = scenario(Noise(each=90, delay_s=0.1, quick=True, faults=(*faults, ("raise", "high_temple", 20, ""))))
    one.until_done(most=3, within_s=800)
    one.counts.update(fault[0] for fault in faults if Path(fault[3]).exists())
    one.counts["raise always"] += 1
    assert sum(one.counts.values()) == len(faults) + 1
    assert one.done()["abandoned"] == 1
