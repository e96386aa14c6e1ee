"""Drivers in processes of their own, through the real command line: killed, stopped, and several at one output.

Each ends with a check by tarfile and hashlib alone, and with the manifest of a run that nothing disturbed.
"""

import os
import platform
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace

import noisy
import pytest
from noisy import UNHURRIED
from small_run import make_run, recipe_text
from watching import commits, kill_session, same_set, wait_for, workers_of_cluster, workers_of_session

from ffr_dist.launch.fleet.heartbeat import read_drivers
from ffr_dist.launch.pool import make_pool
from ffr_dist.shards.manifest import read_manifest
from ffr_dist.store import open_store

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

FFR = [sys.executable, "-m", "ffr_dist.cli"]


@pytest.fixture
def alone():
    """An environment in which a process starts a Ray of its own, whatever else runs on this machine."""
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as folder:  # sockets: short
        yield {"RAY_TMPDIR": folder, "RAY_ADDRESS": ""}


@pytest.fixture
def start():
    """Starts a process in a session of its own; whatever lives there at the end is ended."""
    made = []

    def starts(argv, environment):
        made.append(noisy.started(argv, environment=environment, start_new_session=True))
        return made[-1]

    yield starts
    for process in made:
        kill_session(process.pid)
        process.wait()
        process.stdout.close()


@pytest.fixture
def recipe(data, tmp_path):
    file = tmp_path / "noisy.yaml"
    file.write_text(noisy.noisy_text(data))
    return file


def joining(cluster):
    return {"RAY_ADDRESS": cluster.address}


def held(folder):
    """Whoever samples one candidate of the first half waits for the gate. First what says that it is, then the gate."""
    signs = folder / "held", folder / "gate"
    return noisy.Fault("hold", "high_temple", 15, once=str(signs[0]), until=str(signs[1])), *signs


def ended(process):
    told, _ = process.communicate(timeout=300)
    return process.returncode, told


def test_the_doctor_tries_ray(cluster):
    told = subprocess.run(
        [*FFR, "doctor"], capture_output=True, text=True, check=False, env=os.environ | joining(cluster)
    )
    assert told.returncode == 0, told
    assert "ray: a task ran" in told.stdout


def test_a_killed_worker_and_a_killed_driver_cost_nothing(data, alone, start, tmp_path):
    """With the shipped generator, and a Ray that the driver started and that is killed with it."""
    recipe, out = tmp_path / "small.yaml", tmp_path / "out"
    recipe.write_text(recipe_text(data, workers=("generate: {batch: 4", "generate: {workers: 1, batch: 4")))
    expected = make_pool(make_run(recipe.read_text(), str(tmp_path / "inline")), inline=True).manifest_sha256
    argv = [*FFR, "generate", str(recipe), "--out", str(out)]

    process = start(argv, alone)
    wait_for(lambda: commits(out), process)
    victim = wait_for(lambda: workers_of_session(process.pid), process)[0]
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: len(commits(out)) >= 3, process)
    kill_session(process.pid)
    committed = {path.name: path.read_bytes() for path in commits(out)}

    code, told = ended(start(argv, alone))
    assert code == 0, told
    assert expected in told
    same_set(out, expected)
    assert committed.items() <= {path.name: path.read_bytes() for path in commits(out)}.items()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_lets_what_is_in_flight_come_back_and_says_how_to_go_on(
    cluster, data, recipe, quiet, start, tmp_path, number
):
    hold, sign, gate = held(tmp_path)
    out = tmp_path / "out"
    patience = replace(UNHURRIED, grace=240.0)
    process = start(noisy.command(recipe, out, faults=[hold], patience=patience), joining(cluster))
    wait_for(sign.exists, process)
    process.send_signal(number)
    before = commits(out)
    gate.touch()
    code, told = ended(process)
    assert code == 3, told
    assert f"stopped by {number.name}" in told
    assert f"To go on: ffr generate {recipe} --out {out}" in told
    assert len(commits(out)) > len(before)
    assert not (out / "manifest.json").exists()
    wait_for(lambda: not workers_of_cluster(cluster))
    make_pool(noisy.noisy_run(data, out), patience=UNHURRIED)  # at once: the first one said that it ended
    same_set(out, quiet)
    assert read_manifest(open_store(str(out))).abandoned == ()


def test_a_second_driver_is_refused_by_name_and_with_join_does_what_the_first_one_lacks(
    cluster, data, quiet, start, tmp_path
):
    recipe, out = tmp_path / "noisy.yaml", tmp_path / "out"
    recipe.write_text(noisy.noisy_text(data, workers=1))  # a slot is left for another
    hold, sign, gate = held(tmp_path)
    first = start(noisy.command(recipe, out, faults=[hold], patience=UNHURRIED), joining(cluster))
    wait_for(sign.exists, first)

    code, told = ended(start(noisy.command(recipe, out), joining(cluster)))
    assert code == 2, told
    assert f"process {first.pid} on {platform.node()}" in told
    assert "--join" in told
    (driver,) = read_drivers(open_store(str(out)))
    assert driver.ended is None

    code, told = ended(start(noisy.command(recipe, out, "--join", patience=UNHURRIED), joining(cluster)))
    assert code == 0, told
    assert quiet in told
    assert first.poll() is None
    gate.touch()
    code, told = ended(first)
    assert code == 0, told
    assert quiet in told
    same_set(out, quiet)
    assert [driver.ended is not None for driver in read_drivers(open_store(str(out)))] == [True, True]


def test_a_label_that_no_node_has_is_named_at_once_where_no_node_can_join(data, alone, start, tmp_path):
    recipe = tmp_path / "noisy.yaml"
    recipe.write_text(noisy.noisy_text(data, extra="place: {room: studio}, "))
    code, told = ended(start(noisy.command(recipe, tmp_path / "out"), alone))
    assert code == 2, told
    assert "no node has the label room: studio of generate.place" in " ".join(told.split())
    assert not commits(tmp_path / "out")
