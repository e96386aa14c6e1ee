"""The pool in one process: what comes before and after the intervals."""

from dataclasses import replace

import noisy
import pytest
from independent import Folder, check

from ffr_dist.errors import ConflictError, StoppedError
from ffr_dist.launch.fleet.heartbeat import Heartbeat, read_drivers
from ffr_dist.launch.pool import make_pool
from ffr_dist.shards.log import decided
from ffr_dist.shards.manifest import read_manifest
from ffr_dist.shards.selection import revise


def test_a_pilot_stops_after_round_0_and_the_whole_goes_on_from_there(data, tmp_path):
    run = noisy.noisy_run(data, tmp_path, delay_s=0.0)
    progress = make_pool(run, inline=True, stop_after_pilot=True)
    assert sum(group.tried for group in progress.groups.values()) == sum(noisy.QUOTA.values())
    assert progress.groups["low_flowers"].accepted == 24
    assert progress.groups["low_temple"].rejected["blank"] > 0
    assert not (tmp_path / "manifest.json").exists()
    piloted = {commit.interval: commit.attempt for commit in decided(run.store)}
    assert dict(make_pool(run, inline=True).groups) == noisy.QUOTA
    assert piloted.items() <= {commit.interval: commit.attempt for commit in decided(run.store)}.items()


def test_a_later_selection_is_gone_on_with(data, tmp_path):
    run = noisy.noisy_run(data, tmp_path, delay_s=0.0)
    make_pool(run, inline=True)
    revise(run.store, lambda latest: replace(latest, excluded=("low_temple-00000001",)))
    manifest = make_pool(run, inline=True)
    assert manifest.revision == 1
    assert dict(manifest.groups) == noisy.QUOTA
    assert read_manifest(run.store) == manifest
    check(Folder(tmp_path))
    assert make_pool(run, inline=True) == manifest


def test_groups_that_cannot_be_filled_are_told_with_their_reasons_and_the_way_out(data, tmp_path):
    run = noisy.noisy_run(data, tmp_path, delay_s=0.0, bad={"low_temple": {"blank": 0.6, "nan": 0.41}})
    with pytest.raises(StoppedError) as stopped:
        make_pool(run, inline=True)
    message = str(stopped.value)
    assert stopped.value.exit_code == 3
    assert "low_temple: none of" in message
    assert message.index("blank") < message.index("nan")
    assert f"ffr finish {run.store.url} --now" in message
    assert "high_temple" not in message


def test_hours_run_out_in_one_process_too(data, tmp_path):
    run = noisy.noisy_run(data, tmp_path, extra="max_hours: 0.000001, ")
    with pytest.raises(StoppedError, match=r"max_hours.*To go on: ffr run small\.yaml"):
        make_pool(run, inline=True)
    assert [record.ended is not None for record in read_drivers(run.store)] == [True]


def test_what_another_driver_spends_meanwhile_counts_against_max_cost(data, tmp_path, monkeypatch):
    monkeypatch.setattr(Heartbeat, "spent_beside", lambda self, price: 9.5 * price)
    run = noisy.noisy_run(data, tmp_path, extra="max_cost: 18, price_per_gpu_hour: 2, ", delay_s=0.0)
    with pytest.raises(StoppedError, match=r"max_cost.*19\.00 of 18.*To go on: ffr run small\.yaml"):
        make_pool(run, inline=True)
    assert 0 < len(list(decided(run.store))) < 4


def test_a_second_driver_is_refused_before_it_does_anything(data, tmp_path):
    run = noisy.noisy_run(data, tmp_path)
    with Heartbeat(run.store, every_s=0.2), pytest.raises(ConflictError, match="another driver is at work"):
        make_pool(run, inline=True)
    assert not list(run.store.list("plan"))
    assert not list(run.store.list(".probe"))
