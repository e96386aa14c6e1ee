"""Faults of workers, nodes and the store, on a real Ray cluster of this machine, with the driver in this process.

Nothing waits for a length of time: a sampler that must be slow is held until the test has seen what it waits for. Each ends
with a check by tarfile and hashlib alone, and with the manifest of a run that nothing disturbed.
"""

from dataclasses import replace

import edit_method
import noisy
import pytest
from noisy import UNHURRIED
from ray import cloudpickle
from test_edit import edit_run
from watching import commits, same_set, wait_for, workers_of_cluster

from ffr_dist.errors import ConfigError, StoppedError
from ffr_dist.launch.events import Abandoned, AttemptFailed, Committed, Warned, WorkerDown, WorkerUp
from ffr_dist.launch.fleet.heartbeat import Heartbeat
from ffr_dist.launch.pool import make_pool
from ffr_dist.plan.document import read_rounds
from ffr_dist.shards import layout
from ffr_dist.shards.commit import abandon, publish
from ffr_dist.shards.log import decided
from ffr_dist.shards.sidecar import load_sidecar

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]


def of_kind(told, kind):
    return [event for event in told if isinstance(event, kind)]


def test_a_method_that_edits_real_images_works_on_actors_too(cluster, data, tmp_path):
    cloudpickle.register_pickle_by_value(edit_method)  # actors cannot import a module of the tests
    inline, on_ray = edit_run(data, tmp_path / "inline"), edit_run(data, tmp_path / "ray")
    expected = make_pool(inline, inline=True).manifest_sha256
    assert make_pool(on_ray).manifest_sha256 == expected
    same_set(tmp_path / "ray", expected)


def test_an_interval_that_always_raises_is_abandoned_and_its_images_are_made_up(cluster, data, tmp_path):
    told = []
    faults = [noisy.Fault("raise", "low_temple", 5)]
    run = noisy.noisy_run(data, tmp_path / "ray", faults=faults, delay_s=0.0, tell=told.append)
    manifest = make_pool(run, patience=UNHURRIED)
    (given_up,) = [event.interval for event in of_kind(told, Abandoned)]
    assert manifest.abandoned == (given_up,)
    assert dict(manifest.groups) == noisy.QUOTA
    records = list((tmp_path / "ray" / "failures" / f"{given_up:08d}").iterdir())
    assert len(records) == 3
    assert all("the device is on fire" in record.read_text() for record in records)
    assert len({event.worker for event in of_kind(told, AttemptFailed)}) == 3  # each in a process of its own

    # The same list of abandoned intervals gives the same set.
    inline = noisy.noisy_run(data, tmp_path / "inline", delay_s=0.0)
    publish(inline.store, abandon(given_up, "test", "as above"))
    same_set(tmp_path / "ray", make_pool(inline, inline=True).manifest_sha256)


def test_a_hung_worker_is_ended_and_a_dead_one_replaced(cluster, data, quiet, tmp_path):
    told = []
    faults = [
        noisy.Fault("hang", "high_temple", 11, once=str(tmp_path / "hung")),
        noisy.Fault("die", "low_flowers", 19, once=str(tmp_path / "died")),
    ]
    out = tmp_path / "out"
    run = noisy.noisy_run(data, out, faults=faults, tell=told.append)
    # Long enough for a batch of a few milliseconds on any machine. No copies: one would commit the interval before.
    assert make_pool(run, patience=replace(UNHURRIED, hang_floor=10.0, first_batch=120.0)).abandoned == ()
    assert (tmp_path / "hung").exists()
    assert (tmp_path / "died").exists()
    same_set(out, quiet)
    assert {event.kind for event in of_kind(told, AttemptFailed)} >= {"hang"}
    assert len(of_kind(told, WorkerUp)) > 2
    wait_for(lambda: not workers_of_cluster(cluster))


def test_a_straggler_is_overtaken_and_not_waited_for(cluster, data, quiet, tmp_path):
    """The first to sample a candidate never comes back from it, and nobody takes that for a fault."""
    told = []
    slow = noisy.Fault("hold", "high_temple", 15, once=str(tmp_path / "held"), until=str(tmp_path / "never"))
    run = noisy.noisy_run(data, tmp_path / "out", faults=[slow], delay_s=0.0, tell=told.append)
    make_pool(run, patience=replace(UNHURRIED, copy_floor=2.0))
    assert (tmp_path / "held").exists()
    assert not of_kind(told, AttemptFailed)
    assert not list(run.store.list(layout.FAILURES))
    same_set(tmp_path / "out", quiet)
    wait_for(lambda: not workers_of_cluster(cluster))


def test_a_store_that_fails_workers_for_a_while_costs_nothing_but_time(cluster, data, quiet, tmp_path):
    told, failed = [], []
    shards, aside = tmp_path / "shards", tmp_path / "aside"

    def tell(event):
        told.append(event)
        if isinstance(event, Committed) and not aside.exists() and not failed:
            shards.rename(aside)  # beside it, not away: what is committed must still be there in the end
            shards.touch()
        if isinstance(event, AttemptFailed):
            failed.append(event)
            if len(failed) == 3:
                shards.unlink()
                aside.rename(shards)

    run = noisy.noisy_run(data, tmp_path, delay_s=0.0, tell=tell)
    assert make_pool(run, patience=UNHURRIED).abandoned == ()
    assert len(failed) >= 3
    assert {event.kind for event in failed} == {"store"}
    assert not of_kind(told, WorkerDown)
    assert not list(run.store.list(layout.FAILURES))
    same_set(tmp_path, quiet)


def test_nan_images_are_rows_with_that_reason_and_later_rounds_make_them_up(cluster, data, tmp_path):
    bad = {"low_flowers": {"nan": 0.3}}
    run = noisy.noisy_run(data, tmp_path / "ray", bad=bad, delay_s=0.0)
    manifest = make_pool(run, patience=UNHURRIED)
    rows = [row for commit in decided(run.store) for row in load_sidecar(run.store, commit).to_pylist()]
    lost = [row for row in rows if row["reason"] is not None]
    assert {(row["group"], row["reason"]) for row in lost} == {("low_flowers", "nan")}
    assert len(lost) > 3
    assert dict(manifest.groups) == noisy.QUOTA
    assert len(read_rounds(run.store)) > 1
    inline = noisy.noisy_run(data, tmp_path / "inline", bad=bad, delay_s=0.0)
    same_set(tmp_path / "ray", make_pool(inline, inline=True).manifest_sha256)


def test_wrong_input_in_a_worker_stops_the_run_at_once_in_its_own_words(cluster, data, tmp_path):
    run = noisy.noisy_run(data, tmp_path, faults=[noisy.Fault("wrong", "low_temple", 0)])
    with pytest.raises(ConfigError, match="no such generator"):
        make_pool(run, patience=UNHURRIED)
    assert not list(run.store.list(layout.FAILURES))


def test_a_fault_of_all_intervals_is_the_systems(cluster, data, tmp_path):
    faults = [noisy.Fault("raise", group, k) for group in noisy.GROUPS for k in range(200)]
    run = noisy.noisy_run(data, tmp_path, faults=faults)
    with pytest.raises(StoppedError, match=r"systemic fault.*on fire.*To go on: ffr run small\.yaml"):
        make_pool(run, patience=replace(UNHURRIED, failures=2, systemic=2))
    assert not list(decided(run.store))


def test_hours_run_out_and_the_same_command_goes_on(cluster, data, quiet, tmp_path):
    held = noisy.Fault("hold", "high_temple", 15, until=str(tmp_path / "never"))  # it cannot end before
    run = noisy.noisy_run(data, tmp_path, extra="max_hours: 0.0025, ", faults=[held])
    with pytest.raises(StoppedError, match=r"max_hours.*To go on: ffr run small\.yaml"):
        make_pool(run, patience=UNHURRIED)
    assert not (tmp_path / "manifest.json").exists()
    before = {path.name: path.read_bytes() for path in commits(tmp_path)}
    make_pool(noisy.noisy_run(data, tmp_path), patience=UNHURRIED)
    same_set(tmp_path, quiet)
    assert before.items() <= {path.name: path.read_bytes() for path in commits(tmp_path)}.items()


def test_what_another_driver_spends_meanwhile_counts_against_max_cost(cluster, data, tmp_path, monkeypatch):
    monkeypatch.setattr(Heartbeat, "spent_beside", lambda self, price: 9.5 * price)
    run = noisy.noisy_run(data, tmp_path, extra="max_cost: 18, price_per_gpu_hour: 2, ")
    with pytest.raises(StoppedError, match=r"max_cost.*19\.00 of 18.*To go on: ffr run small\.yaml"):
        make_pool(run, patience=UNHURRIED)


def test_workers_are_on_the_nodes_with_the_label_and_follow_them_as_they_join_and_leave(cluster, data, quiet, tmp_path):
    """None, then 1 → 3 → 2 raylets with it, beside a head without."""
    told, nodes = [], []
    gate = tmp_path / "gate"

    def join(count):
        nodes.extend(cluster.add_node(num_cpus=1, labels={"room": "studio"}) for _ in range(count))

    def tell(event):
        told.append(event)
        if isinstance(event, Warned) and "no node has the label room: studio" in event.message and not nodes:
            join(1)
        if isinstance(event, Committed) and len(nodes) == 1:
            join(2)
        if len(nodes) == 3 and nodes[0] is not None and len(of_kind(told, WorkerUp)) == 3:
            cluster.remove_node(nodes[0], allow_graceful=False)
            nodes[0] = None
        if of_kind(told, WorkerDown):
            gate.touch()

    held = noisy.Fault("hold", "high_temple", 15, until=str(gate))  # until all of that has happened
    run = noisy.noisy_run(
        data, tmp_path / "out", workers="auto", extra="place: {room: studio}, ", faults=[held], tell=tell
    )
    try:
        make_pool(run, patience=replace(UNHURRIED, verdict=120.0))  # Ray takes its time to miss a node
    finally:
        for node in [node for node in nodes if node is not None]:
            cluster.remove_node(node)
    ups = [event.node for event in of_kind(told, WorkerUp)]
    assert len(ups) == len(set(ups)) == 3, of_kind(told, WorkerUp | WorkerDown | Warned)
    assert cluster.head_node.node_id not in ups
    assert [event.fault for event in of_kind(told, WorkerDown)] == [False]
    assert not list(run.store.list(layout.FAILURES))
    same_set(tmp_path / "out", quiet)
