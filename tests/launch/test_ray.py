"""On a real Ray cluster of this machine, started by the command line as a user starts it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import edit_method
import pytest
from ray import cloudpickle
from small_run import make_run, recipe_text
from test_edit import edit_run

from ffr_dist.launch.pool import make_pool
from ffr_dist.shards.manifest import read_manifest
from ffr_dist.shards.verify import verify
from ffr_dist.store import open_store

pytestmark = [pytest.mark.ray, pytest.mark.timeout(280)]


@pytest.fixture(scope="module")
def recipe(data, tmp_path_factory):
    file = tmp_path_factory.mktemp("recipe") / "small.yaml"
    file.write_text(recipe_text(data, workers=("generate: {batch: 4", "generate: {workers: 2, batch: 4")))
    return file


@pytest.fixture(scope="module")
def undisturbed(recipe, tmp_path_factory):
    """The manifest of the same recipe made in one process, without Ray."""
    run = make_run(recipe.read_text(), str(tmp_path_factory.mktemp("inline")))
    return make_pool(run, inline=True).manifest_sha256


def start(recipe, out):
    return subprocess.Popen(
        [sys.executable, "-m", "ffr_dist.cli", "generate", str(recipe), "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for_commits(out, count, process):
    deadline = time.monotonic() + 200
    while len(list((out / "commits").glob("*.json"))) < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def workers_below(pid):
    """Processes of Ray actors whose driver is ``pid``: they are children of its raylet, in its session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                title = (entry / "cmdline").read_bytes()
                same = os.getsid(int(entry.name)) == pid
            except (OSError, ProcessLookupError):
                continue
            if title.startswith(b"ray::WorkerActor") and same:
                found.append(int(entry.name))
    return found


def test_the_doctor_tries_ray():
    told = subprocess.run([sys.executable, "-m", "ffr_dist.cli", "doctor"], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told
    assert "ray: a task ran" in told.stdout


def test_actors_make_the_same_set_as_one_process(recipe, undisturbed, tmp_path):
    process = start(recipe, tmp_path)
    told, _ = process.communicate(timeout=250)
    assert process.returncode == 0, told
    assert undisturbed in told
    assert verify(open_store(str(tmp_path))).ok


def test_a_killed_worker_and_a_killed_driver_cost_nothing(recipe, undisturbed, tmp_path):
    process = start(recipe, tmp_path)
    wait_for_commits(tmp_path, 1, process)
    victims = workers_below(process.pid)
    assert victims
    for victim in victims[:1]:
        os.kill(victim, signal.SIGKILL)
    wait_for_commits(tmp_path, 3, process)
    os.killpg(process.pid, signal.SIGKILL)  # the driver, Ray and all actors, mid-work
    process.communicate()
    committed = {path.name: path.read_bytes() for path in (tmp_path / "commits").glob("*.json")}

    again = start(recipe, tmp_path)
    told, _ = again.communicate(timeout=250)
    assert again.returncode == 0, told
    assert read_manifest(open_store(str(tmp_path))).manifest_sha256 == undisturbed
    assert all((tmp_path / "commits" / name).read_bytes() == body for name, body in committed.items())


def test_an_interrupt_says_how_to_go_on(recipe, tmp_path):
    process = start(recipe, tmp_path)
    wait_for_commits(tmp_path, 1, process)
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 3, told
    assert f"ffr generate {recipe} --out {tmp_path}" in told
    assert not (tmp_path / "manifest.json").exists()


def test_a_method_that_edits_real_images_works_on_actors_too(data, tmp_path):
    cloudpickle.register_pickle_by_value(edit_method)  # actors cannot import a module of the tests
    inline, on_ray = edit_run(data, tmp_path / "inline"), edit_run(data, tmp_path / "ray")
    assert make_pool(on_ray).manifest_sha256 == make_pool(inline, inline=True).manifest_sha256
