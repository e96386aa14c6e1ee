"""On real Ray clusters of this machine: started by the command line as a user starts it, and one of several raylets.

Each ends with a check by tarfile and hashlib alone, and with the manifest of a run that nothing disturbed.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import edit_method
import noisy
import pytest
import ray
from independent import Folder, check
from ray import cloudpickle
from ray.cluster_utils import Cluster
from small_run import make_run, recipe_text
from test_edit import edit_run

from ffr_dist.errors import ConfigError, StoppedError
from ffr_dist.launch.events import Abandoned, AttemptFailed, Generating, Warned, WorkerDown, WorkerUp
from ffr_dist.launch.fleet.heartbeat import process_started
from ffr_dist.launch.pool import make_pool
from ffr_dist.shards.commit import abandon, publish
from ffr_dist.shards.log import decided
from ffr_dist.shards.manifest import read_manifest
from ffr_dist.shards.verify import verify
from ffr_dist.store import open_store

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(280)]


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


@pytest.fixture(scope="module")
def quiet(data, tmp_path_factory):
    """The manifest of the noisy method, made in one process."""
    return make_pool(noisy.noisy_run(data, tmp_path_factory.mktemp("quiet"), delay_s=0.0), inline=True).manifest_sha256


@pytest.fixture(scope="module")
def cluster():
    """A head with two CPU slots; this process is connected to it, and so is what it starts with ``joined``."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()


def start(recipe, out):
    return subprocess.Popen(
        [sys.executable, "-m", "ffr_dist.cli", "generate", str(recipe), "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def joined(cluster, data, out, *rest, delay_s=0.1):
    """A driver in a process of its own, on the cluster of the tests."""
    return subprocess.Popen(
        [sys.executable, noisy.__file__, str(data), str(out), str(delay_s), *rest],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"RAY_ADDRESS": cluster.address, "PYTHONPATH": os.pathsep.join(sys.path)},
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


def same_set(out, sha256):
    """An outsider finds the set that nothing disturbed, and so does ``verify``."""
    found, counts = check(Folder(out))
    assert found == sha256
    assert verify(open_store(str(out))).ok
    return counts


def test_the_doctor_tries_ray():
    told = subprocess.run([sys.executable, "-m", "ffr_dist.cli", "doctor"], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told
    assert "ray: a task ran" in told.stdout


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
    assert undisturbed in told
    same_set(tmp_path, undisturbed)
    assert all((tmp_path / "commits" / name).read_bytes() == body for name, body in committed.items())


def test_an_interrupt_says_how_to_go_on(recipe, tmp_path):
    process = start(recipe, tmp_path)
    wait_for_commits(tmp_path, 1, process)
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 3, told
    assert f"ffr generate {recipe} --out {tmp_path}" in told
    assert not (tmp_path / "manifest.json").exists()


def test_a_method_that_edits_real_images_works_on_actors_too(cluster, data, tmp_path):
    cloudpickle.register_pickle_by_value(edit_method)  # actors cannot import a module of the tests
    inline, on_ray = edit_run(data, tmp_path / "inline"), edit_run(data, tmp_path / "ray")
    expected = make_pool(inline, inline=True).manifest_sha256
    assert make_pool(on_ray).manifest_sha256 == expected
    same_set(tmp_path / "ray", expected)


def test_an_interval_that_always_raises_is_abandoned_and_its_images_are_made_up(cluster, data, tmp_path):
    told = []
    run = noisy.noisy_run(
        data, tmp_path / "ray", faults=[noisy.Fault("raise", "low_temple", 5)], delay_s=0.0, tell=told.append
    )
    manifest = make_pool(run, patience=noisy.QUICK)
    (given_up,) = [event.interval for event in told if isinstance(event, Abandoned)]
    assert manifest.abandoned == (given_up,)
    assert dict(manifest.groups) == noisy.QUOTA
    records = list((tmp_path / "ray" / "failures" / f"{given_up:08d}").iterdir())
    assert len(records) == 3
    assert all("the device is on fire" in record.read_text() for record in records)
    failed = [event.worker for event in told if isinstance(event, AttemptFailed)]
    assert len(set(failed)) == 3  # each in a process of its own

    # The same list of abandoned intervals gives the same set.
    inline = noisy.noisy_run(data, tmp_path / "inline", delay_s=0.0)
    publish(inline.store, abandon(given_up, "test", "as above"))
    same_set(tmp_path / "ray", make_pool(inline, inline=True).manifest_sha256)


def test_a_hung_actor_is_ended_and_a_dead_one_replaced(cluster, data, quiet, tmp_path):
    told = []
    faults = [
        noisy.Fault("hang", "high_temple", 3, once=str(tmp_path / "hung")),
        noisy.Fault("die", "low_flowers", 9, once=str(tmp_path / "died")),
    ]
    out = tmp_path / "out"
    run = noisy.noisy_run(data, out, faults=faults, tell=told.append)
    # No copies: one would commit the interval before its first holder is found to hang.
    patience = replace(noisy.QUICK, hang_floor=4.0, first_batch=30.0, copy_floor=1000.0)
    assert make_pool(run, patience=patience).abandoned == ()
    assert (tmp_path / "hung").exists()
    assert (tmp_path / "died").exists()
    same_set(out, quiet)
    kinds = {event.kind for event in told if isinstance(event, AttemptFailed)}
    assert "hang" in kinds
    assert len([event for event in told if isinstance(event, WorkerUp)]) > 2
    assert not actors_of(cluster)


def actors_of(cluster):
    """Processes of workers below the cluster's raylets."""
    sessions = {info.process.pid for node in cluster.list_all_nodes() for info in node.all_processes["raylet"]}
    found = []
    for entry in Path("/proc").iterdir():
        try:
            title, parent = (
                (entry / "cmdline").read_bytes(),
                int((entry / "stat").read_text().rpartition(")")[2].split()[1]),
            )
        except (OSError, ValueError, IndexError):
            continue
        if title.startswith(b"ray::WorkerActor") and parent in sessions and process_started(int(entry.name)):
            found.append(int(entry.name))
    return found


def test_wrong_input_in_an_actor_stops_the_run_at_once_in_its_own_words(cluster, data, tmp_path):
    run = noisy.noisy_run(data, tmp_path, faults=[noisy.Fault("wrong", "low_temple", 0)])
    with pytest.raises(ConfigError, match="no such generator"):
        make_pool(run, patience=noisy.QUICK)
    assert not list(run.store.list("failures"))


def test_a_fault_of_all_intervals_is_the_systems(cluster, data, tmp_path):
    faults = [noisy.Fault("raise", group, k) for group in noisy.GROUPS for k in range(200)]
    run = noisy.noisy_run(data, tmp_path, faults=faults)
    with pytest.raises(StoppedError, match=r"systemic fault.*on fire.*To go on: ffr run small\.yaml"):
        make_pool(run, patience=replace(noisy.QUICK, failures=2, systemic=2))
    assert not list(decided(run.store))


def test_hours_run_out_and_the_same_command_goes_on(cluster, data, quiet, tmp_path):
    run = noisy.noisy_run(data, tmp_path, extra="max_hours: 0.0025, ", delay_s=0.5)
    with pytest.raises(StoppedError, match=r"max_hours.*To go on: ffr run small\.yaml"):
        make_pool(run, patience=noisy.QUICK)
    assert not (tmp_path / "manifest.json").exists()
    committed = {commit.interval: commit.attempt for commit in decided(run.store)}
    assert make_pool(noisy.noisy_run(data, tmp_path), patience=noisy.QUICK).manifest_sha256 == quiet
    same_set(tmp_path, quiet)
    assert committed.items() <= {commit.interval: commit.attempt for commit in decided(run.store)}.items()


def test_nodes_with_the_label_join_and_leave(cluster, data, quiet, tmp_path):
    """None, then 1 → 3 → 2 raylets."""
    labels = {"room": "studio"}
    told, sizes, nodes = [], [], []

    def tell(event):
        told.append(event)
        if isinstance(event, Warned) and "room: studio" in event.message and not nodes:
            nodes.append(cluster.add_node(num_cpus=1, labels=labels))
        if isinstance(event, Generating):
            sizes.append(event.workers)
            if event.workers == 1 and event.committed and len(nodes) == 1:
                nodes.extend(cluster.add_node(num_cpus=1, labels=labels) for _ in range(2))
            if event.workers == 3 and len(nodes) == 3:
                cluster.remove_node(nodes[0], allow_graceful=False)
                nodes.append(None)

    run = noisy.noisy_run(data, tmp_path, workers="auto", extra="place: {room: studio}, ", delay_s=0.7, tell=tell)
    try:
        make_pool(run, patience=replace(noisy.QUICK, verdict=20.0))  # Ray needs up to 15 s to miss a node
    finally:
        for node in [node for node in nodes[1:] if node is not None]:
            cluster.remove_node(node)
    assert 1 in sizes[: sizes.index(3)]
    assert 2 in sizes[sizes.index(3) :]
    ups = [event.node for event in told if isinstance(event, WorkerUp)]
    assert len(ups) == len(set(ups)) == 3, [
        event for event in told if isinstance(event, WorkerUp | WorkerDown | Warned)
    ]
    assert not [event for event in told if isinstance(event, WorkerDown) and event.fault]
    assert not list(run.store.list("failures"))
    same_set(tmp_path, quiet)


def test_two_drivers_share_the_work_with_join_and_without_the_second_is_refused(cluster, data, quiet, tmp_path):
    first = joined(cluster, data, tmp_path, delay_s=0.7)
    wait_for_commits(tmp_path, 1, first)
    third = joined(cluster, data, tmp_path)
    second = joined(cluster, data, tmp_path, "join")
    told = [process.communicate(timeout=250)[0] for process in (first, second, third)]
    assert first.returncode == 0, told
    assert second.returncode == 0, told
    assert third.returncode == 2, told
    assert f"process {first.pid} on" in told[2]
    assert "--join" in told[2]
    assert quiet in told[0]
    assert quiet in told[1]
    same_set(tmp_path, quiet)
    assert all(b'"ended": null' not in path.read_bytes() for path in (tmp_path / "drivers").iterdir())


def test_sigterm_lets_what_is_in_flight_come_back_and_says_how_to_go_on(cluster, data, quiet, tmp_path):
    process = joined(cluster, data, tmp_path, delay_s=0.5)
    wait_for_commits(tmp_path, 1, process)
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 3, told
    assert "stopped by SIGTERM" in told
    assert "To go on: ffr run small.yaml" in told
    assert not (tmp_path / "manifest.json").exists()
    assert not actors_of(cluster)
    make_pool(noisy.noisy_run(data, tmp_path), patience=noisy.QUICK)  # at once: the first one said that it ended
    same_set(tmp_path, quiet)
    assert read_manifest(open_store(str(tmp_path))).abandoned == ()
